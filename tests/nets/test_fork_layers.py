"""Tests of `fishing.nets.fork_layers`: layers of forks in the words of Caffe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from fishing.nets import read_net


def _read(folder: Path, text: str) -> Any:
    path = folder / "net.prototxt"
    path.write_text(text)
    net = read_net(path)
    text_format.Parse(str(net), caffe_pb2.NetParameter())  # Caffe knows all fields
    return net


@pytest.mark.parametrize(
    "kind",
    [
        *("ConvolutionDepthwise", "ConvolutionDepthWise", "DepthwiseConvolution"),
        *("DepthwiseConv", "DepthWiseConvolution", "ConvolutionDW", "ConvDW"),
        *("DWConvolution", "Depthwise_Convolution", "DepthwiseConvolutionLayer"),
        *("CuDNNDepthwiseConvolution", "convolutiondepthwise"),
    ],
)
@pytest.mark.parametrize(("words", "group"), [("", 6), ("group: 3", 3)])
def test_depthwise_convolutions(
    tmp_path: Path, kind: str, words: str, group: int
) -> None:
    settings = f"num_output: 6 kernel_size: 3 {words} engine: CAFFE"
    text = f'layer {{ type: "{kind}" convolution_param {{ {settings} }} }}'
    (layer,) = _read(tmp_path, text).layer
    assert layer.type == "Convolution"
    assert layer.convolution_param.group == group
    assert list(layer.convolution_param.kernel_size) == [3]


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "Depth", "Dense"])
def test_other_layers_are_left_as_they_are(tmp_path: Path, kind: str) -> None:
    text = f'layer {{ type: "{kind}" convolution_param {{ num_output: 6 }} }}'
    (layer,) = _read(tmp_path, text).layer
    assert (layer.type, layer.convolution_param.group) == (kind, 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", None),
        ("ceil_mode: true", "CEIL"),
        ("ceil_mode: false", "FLOOR"),
        ("round_mode: FLOOR", "FLOOR"),
    ],
)
@pytest.mark.parametrize(
    "layer", ['layer {{ type: "Pooling" {} }}', "layers {{ type: POOLING {} }}"]
)
def test_how_poolings_round(
    tmp_path: Path, layer: str, words: str, expected: str | None
) -> None:
    text = layer.format(f"pooling_param {{ kernel_size: 3 {words} }}")
    p = _read(tmp_path, text).layer[0].pooling_param
    assert p.HasField("round_mode") is (expected is not None)
    assert p.RoundMode.Name(p.round_mode) == (expected or "CEIL")
    assert not p.HasField("ceil_mode")


def test_engines_and_fillers_are_left_out(tmp_path: Path) -> None:
    text = """layer { type: "Convolution" convolution_param { engine: CUDNN
        num_output: 2 weight_filler { type: "of_a_fork" } bias_filler { value: 1 } } }
        layer { type: "PReLU" prelu_param { channel_shared: true filler { value: 1 } } }
        layer { type: "ReLU" relu_param { engine: CUDNN negative_slope: 0.5 } }"""
    net = _read(tmp_path, text)
    assert str(net.layer[0].convolution_param) == "num_output: 2\n"
    assert str(net.layer[1].prelu_param) == "channel_shared: true\n"
    assert str(net.layer[2].relu_param) == "negative_slope: 0.5\n"
