"""Tests of `fishing.nets.shapes` against Caffe, and of what it refuses.

The random nets of `tests/backends/test_onnx_graph.py` compare further shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caffe
import pytest

from fishing.errors import NetError
from fishing.nets import (
    ancestors,
    blob_shapes,
    check_layers,
    parameter_shapes,
    read_net,
)

INPUT = (
    'layer { name: "x" type: "Input" top: "x" '
    "input_param { shape { dim: [2, 4, 9, 7] } } }\n"
)


def _layers(folder: Path, text: str) -> Any:
    path = folder / "net.prototxt"
    path.write_text(INPUT + text)
    return read_net(path).layer


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("AbsVal", ""),
        ("BNLL", ""),
        ("Bias", "bias_param { axis: 1 num_axes: 2 }"),
        ("Clip", "clip_param { min: 0 max: 6 }"),
        (
            "Convolution",
            "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 pad: 1 "
            "stride: 2 dilation: 2 group: 2 bias_term: false }",
        ),
        (
            "Deconvolution",
            "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 pad: 1 "
            "stride: 2 dilation: 2 group: 2 }",
        ),
        ("Deconvolution", "convolution_param { num_output: 3 kernel_size: 4 }"),
        ("Exp", ""),
        ("InnerProduct", "inner_product_param { num_output: 5 axis: 2 }"),
        ("InnerProduct", "inner_product_param { num_output: 5 transpose: true }"),
        ("Log", ""),
        ("MVN", ""),
        ("PReLU", ""),
        ("PReLU", "prelu_param { channel_shared: true }"),
        ("Pooling", "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }"),
        ("Reduction", "reduction_param { axis: 1 }"),
        ("Reduction", "reduction_param { axis: -1 operation: MEAN }"),
        ("SPP", "spp_param { pyramid_height: 3 }"),
        ("Scale", "scale_param { axis: 2 num_axes: -1 bias_term: true }"),
        ("Swish", ""),
        ("Threshold", ""),
        ("Tile", "tile_param { axis: 1 tiles: 3 }"),
        ("Tile", "tile_param { axis: -1 tiles: 2 }"),
    ],
)
def test_shapes_and_parameters(tmp_path: Path, kind: str, settings: str) -> None:
    text = f'layer {{ name: "y" type: "{kind}" bottom: "x" top: "y" {settings} }}'
    layers = _layers(tmp_path, text)
    reference = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    shapes = blob_shapes(layers, (4, 9, 7))
    assert shapes["y"] == tuple(reference.blobs["y"].shape)[1:]
    params = [tuple(p.shape) for p in reference.params.get("y", ())]
    assert parameter_shapes(layers[1], [shapes["x"]]) == params
    check_layers(layers, (4, 9, 7))


def test_another_input_size(tmp_path: Path) -> None:
    pool = 'layer { name: "y" type: "Pooling" bottom: "x" top: "y" '
    layers = _layers(tmp_path, pool + "pooling_param { kernel_size: 2 stride: 2 } }")
    assert blob_shapes(layers, (3, 5, 4)) == {"x": (3, 5, 4), "y": (3, 3, 2)}
    with pytest.raises(NetError, match=r"expected one input of shape \(N, 3, 5, 4\)"):
        check_layers(layers, (3, 5, 4))


def test_blobs_without_a_shape_are_missing(tmp_path: Path) -> None:
    layers = _layers(
        tmp_path,
        'layer { name: "odd" type: "Odd" bottom: "x" top: "odd" }'
        'layer { name: "a" type: "ReLU" bottom: "odd" top: "a" }'
        'layer { name: "b" type: "ReLU" bottom: "x" top: "b" }'
        'layer { name: "c" type: "LRN" bottom: "b" top: "c" '
        "lrn_param { local_size: 2 } }"
        'layer { name: "d" type: "Eltwise" bottom: "b" bottom: "x" top: "d" }',
    )
    assert list(blob_shapes(layers, (4, 9, 7))) == ["x", "b", "d"]
    check_layers(ancestors(layers, ["d"]), (4, 9, 7))
    with pytest.raises(NetError, match=r"layer 'odd' \(Odd\): expected a type of: Abs"):
        check_layers(layers, (4, 9, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'layer { name: "y" type: "ReLU" bottom: "x" top: "y" }'
            'layer { name: "z" type: "TanH" bottom: "x" top: "y" }',
            "layer 'z' .*expected a top of its own, found 'y' of another layer",
        ),
        (
            'layer { name: "y" type: "Pooling" bottom: "x" top: "x" }',
            "layer 'y' .*expected a top of its own, found 'x' in place",
        ),
        (
            'layer { name: "y" type: "ReLU" bottom: "x" top: "x" }'
            'layer { name: "y" type: "ReLU" bottom: "x" top: "x" }',
            "layer 'y' .*expected names of its own, found 'y' once more",
        ),
        (
            'layer { name: "y" type: "PReLU" bottom: "x" top: "y" param { name: "w" } }'
            'layer { name: "z" type: "PReLU" bottom: "y" top: "z" '
            'param { name: "w" } }',
            "layer 'z' .*expected names of its own, found 'w' once more",
        ),
        (
            'layer { name: "y" type: "Reduction" bottom: "x" top: "y" }',
            "layer 'y' .*expected an axis from 1 to 3, which leaves images apart",
        ),
        (
            'layer { name: "y" type: "BatchNorm" bottom: "x" top: "x" '
            "batch_norm_param { use_global_stats: false } }",
            "layer 'y' .*expected stored statistics",
        ),
        (
            'layer { name: "y" type: "Slice" bottom: "x" top: "a" top: "b" top: "c" }',
            r"layer 'y' .*expected parts of 4 along axis 1, found .* \[\] for 3 tops",
        ),
        (
            'layer { name: "y" type: "Slice" bottom: "x" top: "a" top: "b" '
            "slice_param { slice_point: 4 } }",
            "layer 'y' .*expected parts of 4 along axis 1",
        ),
        (
            'layer { name: "y" type: "Concat" bottom: "x" top: "a" '
            "concat_param { axis: 1 concat_dim: 1 } }",
            "layer 'y' .*expected axis or concat_dim, found both",
        ),
        (
            'layer { name: "p" type: "ReLU" bottom: "x" top: "p" }'
            'layer { name: "y" type: "Crop" bottom: "x" bottom: "p" top: "y" '
            "crop_param { offset: 1 } }",
            r"layer 'y' .*expected a cut within \(4, 9, 7\)",
        ),
        (
            'layer { name: "y" type: "ShuffleChannel" bottom: "x" top: "y" '
            "shuffle_channel_param { group: 3 } }",
            "layer 'y' .*expected channels in 3 groups, found 4",
        ),
        (
            'layer { name: "y" type: "Axpy" bottom: "x" bottom: "x" bottom: "x" '
            'top: "y" }',
            "layer 'y' .*expected a factor for each channel of two equal shapes",
        ),
        (
            'layer { name: "y" type: "Axpy" bottom: "x" top: "y" }',
            "layer 'y' .*expected 3 bottoms and 1 top, found 1 and 1",
        ),
        (
            'layer { name: "y" type: "Concat" top: "y" }',
            "layer 'y' .*expected 1 bottom or more and 1 top, found 0 and 1",
        ),
        (
            'layer { name: "y" type: "Input" top: "y" '
            "input_param { shape { dim: 1 } } }",
            r"expected one input of shape \(N, 4, 9, 7\), found {'x': \[2, 4, 9, 7\], ",
        ),
        (
            'layer { name: "y" type: "Convolution" bottom: "x" top: "y" '
            "convolution_param { num_output: 100000000 kernel_size: 1 } }",
            "expected blobs of at most 67108864 values an image, found 'y' of shape",
        ),
    ],
)
def test_what_no_backend_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NetError, match=message) as caught:
        check_layers(_layers(tmp_path, text), (4, 9, 7))
    assert "--backend" not in str(caught.value)
