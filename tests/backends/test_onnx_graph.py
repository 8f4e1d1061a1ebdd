"""Tests of the ONNX graph against Caffe (random nets) and formulas (single layers)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from random_layers import RandomNet

from fishing.backends.onnx import export
from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.builder import Graph
from fishing.backends.onnx.graph import build_graph, gradient_graph
from fishing.errors import BackendError, NetError
from fishing.nets import BLOBS, load_net, read_net, read_weights
from fishing.nets.head import find_head
from fishing.nets.layers import separate_in_place

Array = NDArray[Any]
CPU = ["CPUExecutionProvider"]
N_SEEDS = int(os.environ.get("FISHING_RANDOM_NETS", "60"))
# Seeds that once failed: parameters without axes, blobs of zeros, rounding at worst.
FAILED = [1, 4, 210, 1071, 1580, 3085, 3769]


def _caffe_net(prototxt: Path, rng: np.random.Generator) -> Any:
    """Load a net and give it random parameters that keep its blobs alive."""
    net = caffe.Net(str(prototxt), caffe.TEST)
    kinds = dict(
        zip(net._layer_names, (layer.type for layer in net.layers), strict=True)
    )
    for name, params in net.params.items():
        for i, param in enumerate(params):
            shape = param.data.shape
            if kinds[name] in ("Convolution", "InnerProduct") and i == 0:
                fan_in = np.prod(shape) / max(shape[0], 1)
                value = rng.normal(0, 1 / np.sqrt(fan_in), shape)
            elif kinds[name] == "BatchNorm":
                value = rng.uniform(0.5, 2, shape)
            else:
                value = rng.normal(0, 0.3, shape)
            param.data[...] = value
    return net


def _graph(prototxt: Path, weights: Path, net: RandomNet) -> Graph:
    message = read_net(prototxt)
    separate_in_place(message.layer, net.inputs[0])
    names = [f"x{i}" for i in range(len(net.inputs))]
    blobs = dict(zip(names, net.inputs, strict=True))
    return build_graph(
        message.layer,
        read_weights(weights),
        weights,
        outputs={blob: blob for blob in net.shapes if blob != "in"},
        head=find_head(message.layer, blobs, names),
        gradients=[f"d{blob}" for blob in net.products],
    )


@pytest.mark.parametrize("seed", [*FAILED, *range(100, 100 + N_SEEDS)])
def test_random_nets(tmp_path: Path, seed: int) -> None:
    """All blobs and all gradients of random nets agree with Caffe's."""
    net = RandomNet(seed)
    prototxt, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(f"force_backward: true\n{net.text}")
    reference = _caffe_net(prototxt, net.rng)
    reference.save(str(weights))
    data = net.rng.normal(0, 1, (3, *net.shapes["in"])).astype(np.float32)
    reference.blobs["in"].data[...] = data
    reference.forward()
    reference.backward()

    graph = _graph(prototxt, weights, net)
    onnx.checker.check_model(_model(graph), full_check=True)
    session = open_session(graph, CPU)
    feed = {"data": data, "tau": np.array(net.tau, np.float32)}
    found = dict(zip(graph.widths, session.run(list(graph.widths), feed), strict=True))
    top = reference.blobs[net.products[-1]].diff
    # softmax - 1/P loses digits where the logits are nearly equal.
    ulps = 4e-7 * np.sqrt(top.size) / top.shape[1] / net.tau
    rounding = ulps / max(np.linalg.norm(top), ulps)
    for name, values in found.items():
        is_gradient = name.startswith("d")
        blob = reference.blobs[name.removeprefix("d")]
        assert blob.data.shape[1:] == net.shapes[name.removeprefix("d")]
        expected = (blob.diff if is_gradient else blob.data).reshape(3, -1)
        assert values.shape == expected.shape
        assert np.isfinite(expected).all()
        scale = np.linalg.norm(expected)
        tolerance = 1e-4 + (rounding if is_gradient else 0)
        assert np.linalg.norm(values - expected) <= tolerance * scale, name


def _model(graph: Graph) -> onnx.ModelProto:
    return graph.model(
        [onnx.numpy_helper.from_array(a, n) for n, a in graph.initializers.items()]
    )


# --- layers one by one, against sums written out --------------------------------------

INPUT = (
    'layer {{ name: "in" type: "Input" top: "in" '
    "input_param {{ shape {{ dim: 1 dim: {} dim: {} dim: {} }} }} }}\n"
)


def _one(folder: Path, layers: str, top: str, shape: tuple[int, ...]) -> Graph:
    prototxt = folder / "one.prototxt"
    prototxt.write_text(INPUT.format(*shape) + layers)
    net = read_net(prototxt)
    return build_graph(net.layer, {}, prototxt, outputs={"top": top})


def _run(graph: Graph, data: Array) -> Array:
    (found,) = open_session(graph, CPU).run(None, {"data": data})
    return found


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_lrn_by_its_definition(tmp_path: Path, region: str) -> None:
    """alpha is divided by the size of the window; within a channel k is 1."""
    layer = (
        'layer { name: "l" type: "LRN" bottom: "in" top: "out" lrn_param { '
        f"local_size: 3 alpha: 0.6 beta: 0.5 k: 2 norm_region: {region} }} }}"
    )
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32)
    found = _run(_one(tmp_path, layer, "out", (5, 4, 6)), x).reshape(x.shape)
    across = region == "ACROSS_CHANNELS"
    widths = [(0, 0), (1, 1), (0, 0), (0, 0)] if across else [(0, 0)] * 2 + [(1, 1)] * 2
    square = np.pad(x.astype(np.float64) ** 2, widths)
    if across:
        total = sum(square[:, i : i + 5] for i in range(3))
        expected = x / np.sqrt(2 + 0.6 / 3 * total)
    else:
        total = sum(
            square[:, :, i : i + 4, j : j + 6] for i in range(3) for j in range(3)
        )
        expected = x / np.sqrt(1 + 0.6 / 9 * total)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("k", [1, 2])
def test_lrn_by_pooling(tmp_path: Path, size: int, k: float) -> None:
    """With beta 0.75, AlexNet's, pooling over channels takes the place of LRN."""
    layer = (
        'layer { name: "l" type: "LRN" bottom: "in" top: "out" lrn_param { '
        f"local_size: {size} alpha: 0.9 beta: 0.75 k: {k} }} }}"
    )
    x = np.random.default_rng(0).normal(size=(2, 7, 4, 6)).astype(np.float32)
    graph = _one(tmp_path, layer, "out", (7, 4, 6))
    assert "LRN" not in {node.op_type for node in graph.nodes}
    found = _run(graph, x).reshape(x.shape)
    square = np.pad(
        x.astype(np.float64) ** 2, [(0, 0), (size // 2,) * 2, *[(0, 0)] * 2]
    )
    total = sum(square[:, i : i + 7] for i in range(size))
    expected = x / (k + 0.9 / size * total) ** 0.75
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_average_over_the_clipped_edge(tmp_path: Path) -> None:
    """With 6 pixels and 2 of padding, the last window, from 4 to 9, is clipped at 8."""
    layer = (
        'layer { name: "p" type: "Pooling" bottom: "in" top: "out" '
        "pooling_param { pool: AVE kernel_size: 5 stride: 3 pad: 2 } }"
    )
    graph = _one(tmp_path, layer, "out", (1, 6, 6))
    found = _run(graph, np.ones((1, 1, 6, 6), np.float32)).reshape(3, 3)
    # Along one side: 3 of 5 pixels in the image, 5 of 5, and 2 of 4 (one clipped off).
    side = np.array([3 / 5, 5 / 5, 2 / 4])
    np.testing.assert_allclose(found, np.outer(side, side), rtol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            'layer { name: "d" type: "Deconvolution" bottom: "in" top: "out" }',
            r"layer 'd' \(Deconvolution\): expected a type of: BatchNorm .*found",
        ),
        (
            'layers { name: "p" type: POWER bottom: "in" top: "out" }',
            r"expected a deploy net, found both 'layer' and 'layers'",
        ),
        (
            'layer { name: "c" type: "Convolution" bottom: "in" top: "out" '
            "convolution_param { num_output: 2 kernel_size: 1 gruop: 2 } }",
            "layer 'c' .*found in line 2: .*ConvolutionParameter.* named .gruop.",
        ),
        (
            'layer { name: "c" type: "ReLU" bottom: "in" top: "out" quantum_param {} }',
            "layer 'c' .*found in line 2: .*LayerParameter.* named .quantum_param.",
        ),
        (
            'layer { name: "c" type: "Convolution" bottom: "in" top: "out" '
            "convolution_param { num_output: 3 kernel_size: 1 group: 2 } }",
            r"layer 'c' .*expected channels in 2 groups",
        ),
        (
            'layer { name: "c" type: "Convolution" bottom: "in" top: "out" '
            "convolution_param { num_output: 2 kernel_size: 1 } }",
            r"one.prototxt: expected parameters of shapes \[\[2, 4, 1, 1\], \[2\]\] "
            "for layer 'c', found none",
        ),
        (
            'layer { name: "c" type: "Convolution" bottom: "in" top: "out" '
            "convolution_param { num_output: 2 kernel_size: 9 } }",
            "layer 'c' .*expected an output, found",
        ),
        (
            'layer { name: "p" type: "Pooling" bottom: "in" top: "out" '
            "pooling_param { kernel_size: 1 stride: 4 } }",
            "layer 'p' .*expected windows that all hold pixels",
        ),
        (
            'layer { name: "p" type: "Pooling" bottom: "in" top: "out" '
            "pooling_param { pool: STOCHASTIC kernel_size: 2 } }",
            "layer 'p' .*expected pool MAX or AVE, found STOCHASTIC",
        ),
        (
            'layer { name: "n" type: "LRN" bottom: "in" top: "out" '
            "lrn_param { local_size: 4 } }",
            "layer 'n' .*expected an odd local_size, found 4",
        ),
        (
            'layer { name: "f" type: "Flatten" bottom: "in" top: "out" '
            "flatten_param { axis: 0 } }",
            "layer 'f' .*expected an axis from 1 to 3, which leaves images apart",
        ),
        (
            'layer { name: "r" type: "Reshape" bottom: "in" top: "out" '
            "reshape_param { shape { dim: 1 dim: -1 } } }",
            "layer 'r' .*expected 144 values an image and a batch axis",
        ),
        (
            'layer { name: "b" type: "BatchNorm" bottom: "in" top: "out" '
            "batch_norm_param { use_global_stats: false } }",
            "layer 'b' .*expected stored statistics",
        ),
        (
            'layer { name: "d" type: "Dropout" bottom: "in" top: "out" phase: TRAIN }',
            "layer 'd' .*expected a layer of the TEST phase",
        ),
        (
            'layer { name: "r" type: "ReLU" bottom: "nowhere" top: "out" }',
            "layer 'r' .*expected a layer before it to write 'nowhere'",
        ),
        (
            'layer { name: "r" type: "ReLU" bottom: "in" top: "a" }'
            'layer { name: "r" type: "ReLU" bottom: "a" top: "out" }',
            "layer 'r' .*expected names of its own, found 'r' once more",
        ),
        (
            'layer { name: "e" type: "Eltwise" bottom: "in" bottom: "in" top: "out" '
            "eltwise_param { operation: MAX coeff: 1 coeff: 2 } }",
            "layer 'e' .*expected one coeff for each bottom of a SUM",
        ),
        (
            'layer { name: "s" type: "Scale" bottom: "in" bottom: "in" top: "out" }',
            "layer 's' .*expected one bottom and one top, found 2 and 1",
        ),
    ],
)
def test_what_cannot_be_converted(tmp_path: Path, layers: str, message: str) -> None:
    with pytest.raises(NetError, match=message) as caught:
        _one(tmp_path, layers, "out", (4, 6, 6))
    assert "\n" not in str(caught.value)


def test_layers_that_are_not_used_do_not_matter(tmp_path: Path) -> None:
    layers = (
        'layer { name: "l" type: "Python" bottom: "in" top: "no" odd_param { a: 1 } }'
        'layer { name: "t" type: "Data" top: "in" include { phase: TRAIN } }'
        'layer { name: "r" type: "ReLU" bottom: "in" top: "out" }'
    )
    x = np.array([[[[-1.0, 2.0]]]], np.float32)
    found = _run(_one(tmp_path, layers, "out", (1, 1, 2)), x)
    np.testing.assert_array_equal(found, [[0, 2]])


# --- the whole net, as a file --------------------------------------------------------


def _inline(path: Path) -> dict[str, Array]:
    """Run an exported file with ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(path), providers=CPU)
    x = np.random.default_rng(1).normal(0, 50, (3, 3, 64, 64)).astype(np.float32)
    feed = {"data": x, "tau": np.array(2, np.float32)}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def test_export(tmp_path: Path) -> None:
    spec = load_net("tinyalexnet")
    whole, split = tmp_path / "a.onnx", tmp_path / "b.onnx"
    export(spec, whole)
    export(spec, split, most_bytes=1000)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.onnx", "b.onnx", "b.onnx.data"}
    assert split.stat().st_size < 50_000 < whole.stat().st_size
    for path in (whole, split):
        onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(whole))
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["net"] == "tinyalexnet"
    assert found["net_sha256"] == spec.net_sha256
    assert found["weights_sha256"] == spec.weights.sha256
    assert json.loads(found["preprocess"])["mean"] == list(spec.preprocess.mean)
    assert json.loads(found["outputs"]) == list(BLOBS)
    values = [*model.graph.input, *model.graph.output]
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    shapes = {k: [d.dim_param or d.dim_value for d in v] for k, v in dims.items()}
    assert shapes["data"] == ["n", 3, 64, 64]
    assert shapes["tau"] == []
    assert shapes["backward/y8"] == ["n", 200]
    a, b = _inline(whole), _inline(split)
    assert list(a) == list(BLOBS)
    for name in BLOBS:
        np.testing.assert_array_equal(a[name], b[name])


def test_weights_are_stored_once(tmp_path: Path) -> None:
    spec = load_net("tinyalexnet")
    graph = gradient_graph(spec)
    weights = spec.folder / spec.weights.file
    stored = sum(array.nbytes for array in graph.initializers.values())
    assert stored < 1.01 * weights.stat().st_size  # plus a few constants
    readers = [node.name for node in graph.nodes if "fc7/weights" in node.input]
    assert len(readers) == 2
    assert {node.op_type for node in graph.nodes if node.name in readers} == {"Gemm"}


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"expected to write .*No such file"):
        export(load_net("tinyalexnet"), tmp_path / "missing" / "a.onnx")
    path = tmp_path / "folder.onnx"
    path.mkdir()
    with pytest.raises(BackendError, match=re.escape(f"expected to write {path}")):
        export(load_net("tinyalexnet"), path)
    assert list(tmp_path.iterdir()) == [path]
