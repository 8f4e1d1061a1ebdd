"""Tests of `fishing.nets.caffe_messages` against Caffe's own messages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import descriptor_pb2, text_format

from conftest import ROOT
from fishing.nets.caffe_messages import (
    LayerParameter,
    NetParameter,
    garbled,
    not_finite,
    strangers,
)

NETS = ROOT / "fishing" / "nets"


def _described(descriptor: Any) -> dict[str, Any]:
    """Describe the messages below one: its fields, their numbers, types, defaults."""
    found: dict[str, Any] = {}
    todo = [descriptor]
    while todo:
        message = todo.pop()
        if message.name in found:
            continue
        found[message.name] = {
            field.name: (
                field.number,
                field.type,
                field.has_default_value,
                list(field.default_value) if field.is_repeated else field.default_value,
                field.is_repeated,
                field.is_packed,
                field.message_type and field.message_type.name,
                field.enum_type
                and {value.name: value.number for value in field.enum_type.values},
            )
            for field in message.fields
        }
        todo += [field.message_type for field in message.fields if field.message_type]
    return found


def test_fields_are_those_of_caffe() -> None:
    ours = _described(NetParameter.DESCRIPTOR)
    theirs = _described(caffe_pb2.NetParameter.DESCRIPTOR)
    del ours["ShuffleChannelParameter"]
    for fields in ours.values():
        for name in [name for name, field in fields.items() if field[0] >= 2100]:
            del fields[name]  # of forks, and `stranger`
    assert ours == theirs


def test_the_compiled_form_is_that_of_the_source(tmp_path: Path) -> None:
    protoc = shutil.which("protoc")
    if protoc is None:
        pytest.skip("protoc, which compiles caffe.proto, is not installed")
    command = [protoc, f"--descriptor_set_out={tmp_path / 'out'}", "caffe.proto"]
    subprocess.run(command, cwd=NETS, check=True)
    found, kept = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (tmp_path / "out", NETS / "caffe.desc")
    )
    assert kept == found


@pytest.mark.parametrize("first", ["caffe", "fishing"])
def test_caffe_and_fishing_in_one_process(first: str) -> None:
    imports = ["from caffe.proto import caffe_pb2", "from fishing.nets import read_net"]
    code = "\n".join(
        [
            *(imports if first == "caffe" else reversed(imports)),
            "import caffe, sys, pathlib",
            "net = read_net(pathlib.Path(sys.argv[1]))",
            "theirs = caffe_pb2.NetParameter.FromString(net.SerializeToString())",
            "assert str(theirs) == str(net)",
            "assert caffe.Net(sys.argv[1], caffe.TEST).blobs",
        ]
    )
    path = ROOT / "models" / "tinyalexnet" / "deploy.prototxt"
    subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_named(value: str) -> None:
    text = f"""relu_param {{ negative_slope: {value} }} loss_weight: [1, {value}]
        blobs {{ data: 1 }} blobs {{ double_data: {value} }} elu_param {{ alpha: 1 }}
        convolution_param {{ weight_filler {{ std: {value} }} }}"""
    layer = text_format.Parse(text, LayerParameter())
    assert sorted(not_finite(layer)) == [
        "blobs.double_data",
        "convolution_param.weight_filler.std",
        "loss_weight",
        "relu_param.negative_slope",
    ]


def test_unknown_fields_and_garbled_texts_are_named() -> None:
    # Field 126 is a string; 121 is pooling_param, whose field 1 is an enum up to 2.
    layer = LayerParameter.FromString(
        b"\xf0\x7d\x05" + b"\xca\x07\x02\x08\x09" + b"\x1a\x02ok" + b"\x1a\x02\xff\xfe"
    )
    assert list(strangers(layer)) == ["#2014", "pooling_param.#1"]
    assert list(garbled(layer)) == ["bottom"]
