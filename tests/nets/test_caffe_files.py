"""Tests of `fishing.nets.caffe_files`: nets that are read, and errors for others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import caffe
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from conftest import ROOT
from fishing.errors import NetError
from fishing.nets import read_net

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } }\n'


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "tinyalexnet"])
def test_nets_of_the_project(tmp_path: Path, name: str) -> None:
    path = ROOT / "models" / name / "deploy.prototxt"
    theirs = text_format.Parse(path.read_text(), caffe_pb2.NetParameter())
    binary = _write(tmp_path / "net.prototxt", theirs.SerializeToString())
    assert read_net(path).SerializeToString() == theirs.SerializeToString()
    assert read_net(binary) == read_net(path)


def test_ways_to_write_the_same(tmp_path: Path) -> None:
    text = """
    # a comment { with brackets "
    name: 'o' "n\\x65" 'N\\145t';  input_shape < dim: [ 1, 0x10 , 010 ] > input: "in"
    layer { name: "a", relu_param: { negative_slope: .5f } }, layer: {
      convolution_param { pad: 1 pad: 2 bias_term: 0 }
      pooling_param { pool: 1 } lrn_param { alpha: -1.e-3F beta: -inf } }
    layer [ { name: "x" }, { name: "y" } ]
    """
    net = read_net(_write(tmp_path / "net", text))
    assert net.name == "oneNet"
    assert [layer.name for layer in net.layer] == ["in", "a", "", "x", "y"]
    assert net.layer[0].input_param.shape[0].dim == [1, 16, 8]
    assert net.layer[2].pooling_param.pool == net.layer[2].pooling_param.AVE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 1", "in line 1: "),
        ("\n\nlayer {", "in line 3: "),
        ('name: "a" name: "b"', 'multiple "name" fields'),
        ("layer { phase: LUNCH }", "has no value named LUNCH"),
        ("\ninput_dim: 1.5", "in line 2: .* 1.5"),
        ("input_dim 1", "Expected ':'|Expected \":\""),
        ("layer: 7", "in line 1: "),
        ("layer { ( }", "in line 1: "),
        ('name: "a', "in line 1: "),
        ("layer { relu_param { negative_slope: x } }", "in line 1: .* x"),
        ("}", "in line 1: "),
        ("input_dim: 4294967296", "in line 1: "),
        ("input_shape { dim: 9223372036854775808 }", "in line 1: "),
        ("layer { lrn_param { alpha: 0x" + "f" * 300, "in line 1: "),
        ("input_dim: " + "1" * 100_000, "in line 1: "),
        ("a {" * 30_000, "messages within messages without end"),
        ("odd: 1", "in line 1: .*NetParameter.* no field named .odd."),
        ("\nodd { layer {} }", "in line 2: .*NetParameter.* no field named .odd."),
        ("layer { odd: 1 }\nlayer { name: ", "in line 2: "),
        ('layer { odd: 1 } } # "', "in line 1: "),
        ("name: '\udcff'", "codec can't decode"),
        ("\n\x01", "expected a deploy net, found"),
        (INPUT + 'input: "a"', "1 inputs with 0 shapes"),
        ('layers { name: "a" } layer { name: "b" }', "both 'layer' and 'layers'"),
        ('layers { layer { type: "padding" } }', "padding layer without one bottom"),
    ],
)
def test_texts_that_are_no_net(tmp_path: Path, text: str, message: str) -> None:
    content = text.encode(errors="surrogateescape")
    with pytest.raises(NetError, match=message) as caught:
        read_net(_write(tmp_path / "net", content))
    assert "expected a deploy net, found " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r"expected a deploy net, found .*No such file"):
        read_net(tmp_path / "missing")


def test_unknown_fields_are_noted_where_they_stand(tmp_path: Path) -> None:
    text = r"""name: "}" # }
      layer { name: "a" }  # a bracket: {
      layer { name: "b{\"" odd { b: "}" c < d: 'x' > } type: "Pooling" },
      layer [
        { name: "c" }
      ];
      layer { name: "d"
        pooling_param <
          odd_size: -3e4 kernel_size: 2 > data_param { source: '}"' } }
      layers_ok: 1 layer { name: "e" }"""
    with pytest.raises(NetError, match=r"in line 10: .* no field named .layers_ok"):
        read_net(_write(tmp_path / "net", text.rpartition(" layer")[0]))
    net = read_net(_write(tmp_path / "net", text))
    found = {
        layer.name: re.sub(": .* named ", " ", layer.stranger) for layer in net.layer
    }
    assert found == {
        "a": "",
        'b{"': 'in line 3 "odd".',
        "c": "",
        "d": 'in line 9 "odd_size".',
        "e": 'in line 10 "layers_ok".',
    }
    assert net.layer[3].pooling_param.kernel_size == 2


def test_unknown_fields_of_the_binary_format(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter()
    net.layer.add(name="a")
    # Field 121 is pooling_param, and 14 in it is no field.
    net.layer.add(name="b").MergeFromString(b"\xca\x07\x02\x70\x01")
    path = _write(tmp_path / "net", net.SerializeToString())
    assert [layer.stranger for layer in read_net(path).layer] == [
        "",
        "the unknown field 'pooling_param.#14'",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x00\x01\x02",
        b"\xa2\x06\x02\x0a\x05",
        b"\x03" * 99,
        b"\xa2\x06\x04\x0a\x02\xff\xfe",
    ],
)
def test_bytes_that_are_no_net(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NetError, match="expected a deploy net, found"):
        read_net(_write(tmp_path / "net", content))


def test_blobs_in_a_net_are_left_out(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter()
    net.layer.add(name="a").blobs.add(data=range(9))
    path = _write(tmp_path / "net", net.SerializeToString())
    assert not read_net(path).layer[0].blobs


@pytest.mark.parametrize(
    ("rules", "included"),
    [
        ("", True),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("include { min_level: 1 }", False),
        ("include { min_level: 0 max_level: 0 }", True),
        ("include { max_level: -1 }", False),
        ('include { stage: "deploy" }', False),
        ('exclude { not_stage: "deploy" }', False),
        ("include {}", True),
    ],
)
def test_layers_of_the_test_phase(tmp_path: Path, rules: str, included: bool) -> None:
    layers = f'layer {{ name: "a" {rules} }}'
    net = read_net(_write(tmp_path / "net", layers))
    assert bool(net.layer) is included
    text = f'{INPUT}layer {{ name: "a" type: "ReLU" bottom: "x" top: "y" {rules} }}'
    theirs: Any = caffe.Net(str(_write(tmp_path / "net.prototxt", text)), caffe.TEST)
    assert ("a" in theirs._layer_names) is included
