"""Tests of `fishing.nets.training_layers`: what is left of a net for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fishing.errors import NetError
from fishing.nets import blob_shapes, check_layers, read_net

TRAIN_VAL = """
name: "LeNet"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { crop_size: 9 } data_param { source: "a" batch_size: 64 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { crop_size: 12 mirror: true } data_param { batch_size: 9 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "odd1" type: "OddNormalizationLoss" bottom: "conv1" top: "odd1" }
layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc"
        inner_product_param { num_output: 5 } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "quiet" type: "Silence" bottom: "label" }
"""


def _read(folder: Path, text: str) -> Any:
    path = folder / "net.prototxt"
    path.write_text(text)
    return read_net(path)


def test_a_net_for_training(tmp_path: Path) -> None:
    net = _read(tmp_path, TRAIN_VAL)
    found = [(layer.name, layer.type, list(layer.top)) for layer in net.layer]
    assert found == [
        ("data", "Input", ["data"]),
        ("conv1", "Convolution", ["conv1"]),
        ("fc", "InnerProduct", ["fc"]),
    ]
    assert list(net.layer[0].input_param.shape[0].dim) == [1, 3, 12, 12]
    check_layers(net.layer, (3, 12, 12))
    assert blob_shapes(net.layer, (3, 12, 12))["conv1"] == (2, 10, 10)


def test_data_beside_an_input(tmp_path: Path) -> None:
    data = 'layer { name: "l" type: "Data" top: "label" data_param { crop_size: 3 } }'
    first = 'layer { type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    assert [layer.type for layer in _read(tmp_path, first + data).layer] == [
        "Input",
        "Data",
    ]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ('layer { type: "Data" top: "x" transform_param { crop_size: 7 } }', [3, 7, 7]),
        ('layer { type: "Data" top: "x" data_param { crop_size: 7 } }', [3, 7, 7]),
        (
            'layer { type: "Data" top: "x" '
            "transform_param { crop_size: 7 force_gray: true } }",
            [1, 7, 7],
        ),
        ('layers { type: DATA top: "x" data_param { crop_size: 7 } }', [3, 7, 7]),
        ('layers { layer { type: "data" cropsize: 7 } top: "x" }', [3, 7, 7]),
        (
            'layers { layer { type: "images" new_height: 5 new_width: 6 } top: "x" }',
            [3, 5, 6],
        ),
        (
            'layer { type: "ImageData" top: "x" '
            "image_data_param { new_height: 5 new_width: 6 is_color: false } }",
            [1, 5, 6],
        ),
        (
            'layer { type: "ImageData" top: "x" transform_param { crop_size: 4 } '
            "image_data_param { new_height: 5 new_width: 6 } }",
            [3, 4, 4],
        ),
        (
            'layer { type: "WindowData" top: "x" window_data_param { crop_size: 8 } }',
            [3, 8, 8],
        ),
        (
            'layer { type: "MemoryData" top: "x" '
            "memory_data_param { channels: 2 height: 5 width: 6 } }",
            [2, 5, 6],
        ),
        (
            'layer { type: "DummyData" top: "x" '
            "dummy_data_param { num: 9 channels: 2 height: 5 width: 6 } }",
            [2, 5, 6],
        ),
        (
            'layer { type: "DummyData" top: "x" top: "y" '
            "dummy_data_param { shape { dim: [9, 2, 5] } shape { dim: 9 } } }",
            [2, 5],
        ),
    ],
)
def test_images_that_come_in(tmp_path: Path, layer: str, shape: list[int]) -> None:
    (found,) = _read(tmp_path, layer).layer
    assert (found.type, list(found.top)) == ("Input", ["x"])
    assert list(found.input_param.shape[0].dim) == [1, *shape]


@pytest.mark.parametrize(
    "layer",
    [
        'name: "d" type: "Data" top: "x" data_param { source: "lmdb" }',
        'name: "d" type: "HDF5Data" top: "x"',
        'name: "d" type: "MemoryData" top: "x" memory_data_param { height: 5 }',
        'name: "d" type: "DummyData" top: "x" dummy_data_param { num: 5 }',
        'name: "d" type: "ImageData" top: "x" image_data_param { new_width: 5 }',
    ],
)
def test_images_of_unknown_size(tmp_path: Path, layer: str) -> None:
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
    net = _read(tmp_path, f"layer {{ {layer} }} {relu}")
    with pytest.raises(NetError, match=r"layer 'd' .*expected an Input layer, or a "):
        check_layers(net.layer, (3, 7, 7))
