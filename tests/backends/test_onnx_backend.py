"""Tests of the ONNX graph's blobs against Caffe's and against float64 algebra."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from numpy.typing import NDArray
from same_blobs import assert_same_blobs, smooth_images

from conftest import skip_without_bfloat16
from fishing.backends import Backend, choose_backend, open_backend
from fishing.backends.caffe import CaffeBackend
from fishing.backends.onnx import OnnxBackend
from fishing.backends.openvino import OpenvinoBackend, _check_bfloat16
from fishing.errors import BackendError, DependencyError, NetError
from fishing.images import Preprocess, read_splits
from fishing.nets import BLOBS, NetSpec, load_net

Array = NDArray[Any]
TAU = 2.0


def _open(
    spec: NetSpec, maker: Callable[..., Backend] = OnnxBackend, **changes: Any
) -> Backend:
    settings = {"temperature": TAU, "batch_size": 8, "device": "cpu", **changes}
    return maker(spec, **settings)


def _all(spec: NetSpec, data: Array, tau: float) -> list[dict[str, Array]]:
    """Run a batch in Caffe, ONNX Runtime and OpenVINO."""
    found = []
    for maker in (CaffeBackend, OnnxBackend, OpenvinoBackend):
        backend = maker(spec, temperature=tau, batch_size=len(data), device="cpu")
        try:
            found.append(backend.run(data))
            assert {k: v.shape[1] for k, v in found[-1].items()} == backend.widths
        finally:
            backend.close()
    return found


# --- the same numbers as Caffe --------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 2.0, 10.0])
def test_photographs_by_all_backends(shared: Path, tau: float) -> None:
    spec = load_net("tinyalexnet")
    (images,) = read_splits(shared / "data" / "caltech20", ["test"])
    preprocess = spec.preprocess
    data = np.stack([preprocess(path) for path in images.path[::20]])
    expected, *others = _all(spec, data, tau)
    for found in others:
        assert_same_blobs(found, expected)


def test_bfloat16_where_the_processor_has_it() -> None:
    """bfloat16 keeps 8 bits of a number: blobs agree within a few per cent."""
    skip_without_bfloat16()
    spec = load_net("tinyalexnet")
    settings = {"temperature": TAU, "batch_size": 8, "device": "cpu"}
    data = smooth_images(np.random.default_rng(2), 8, 64)
    exact, rounded = (
        open_backend(name, spec, **settings).run(data)
        for name in ("openvino", "openvino-bfloat16")
    )
    for name in BLOBS:
        error = np.linalg.norm(rounded[name] - exact[name])
        error /= np.linalg.norm(exact[name])
        assert 1e-4 < error < 0.1, name


# --- equations ------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [OnnxBackend, OpenvinoBackend])
@pytest.mark.parametrize("tau", [1.0, 2.0, 10.0])
def test_eq_10_in_float64(tau: float, maker: Callable[..., Backend]) -> None:
    spec = load_net("tinyalexnet")
    content = (spec.folder / spec.weights.file).read_bytes()
    model = caffe_pb2.NetParameter.FromString(content)
    W = {
        p.name: np.array(p.blobs[0].data).reshape(p.blobs[0].shape.dim)
        for p in model.layer
        if p.name in ("fc7", "fc8")
    }
    backend = _open(spec, maker, temperature=tau)
    blobs = backend.run(smooth_images(np.random.default_rng(1), 4, 64))
    y8 = blobs["forward/y8"].astype(np.float64)
    e = np.exp(y8 / tau)
    g8 = (e / e.sum(axis=1, keepdims=True) - 1 / y8.shape[1]) / tau
    g7 = (g8 @ W["fc8"]) * (blobs["forward/x7"] > 0)
    g6 = (g7 @ W["fc7"]) * (blobs["forward/x6"] > 0)
    for layer, g in (("fc8", g8), ("fc7", g7), ("fc6", g6)):
        found = blobs[f"backward/y{layer[-1]}"]
        np.testing.assert_allclose(found, g, atol=1e-5 * np.abs(g).max())


@pytest.mark.parametrize("maker", [OnnxBackend, OpenvinoBackend])
def test_an_image_does_not_depend_on_its_batch(maker: Callable[..., Backend]) -> None:
    data = smooth_images(np.random.default_rng(4), 11, 64)
    backend = _open(load_net("tinyalexnet"), maker, batch_size=1)
    whole = backend.run(data)
    for i in (0, 5, 10):
        alone = backend.run(data[i : i + 1])
        for name in BLOBS:
            scale = np.abs(whole[name][i]).max()
            np.testing.assert_allclose(
                alone[name][0], whole[name][i], atol=1e-5 * scale
            )


@pytest.mark.parametrize("maker", [OnnxBackend, OpenvinoBackend])
def test_blobs_outlive_the_next_batch_and_the_net(
    maker: Callable[..., Backend],
) -> None:
    data = smooth_images(np.random.default_rng(4), 2, 64)
    backend = _open(load_net("tinyalexnet"), maker)
    first = backend.run(data)
    kept = {name: values.copy() for name, values in first.items()}
    backend.run(-data)
    backend.close()
    for name in BLOBS:
        np.testing.assert_array_equal(first[name], kept[name])


def test_old_layers_in_both_files(tmp_path: Path) -> None:
    """Write a net of before 2014: ``layers``, types by number, parameters of 4 axes."""
    spec = load_net("tinyalexnet")
    kinds = {
        "Convolution": "CONVOLUTION",
        "ReLU": "RELU",
        "LRN": "LRN",
        "Pooling": "POOLING",
        "InnerProduct": "INNER_PRODUCT",
        "Dropout": "DROPOUT",
        "Softmax": "SOFTMAX",
    }
    deploy = text_format.Parse(spec.model.read_text(), caffe_pb2.NetParameter())
    content = (spec.folder / spec.weights.file).read_bytes()
    model = caffe_pb2.NetParameter.FromString(content)
    old_net = caffe_pb2.NetParameter(input=["data"], input_dim=[10, 3, 64, 64])
    old_model = caffe_pb2.NetParameter()
    blobs = {layer.name: layer.blobs for layer in model.layer}
    for layer in deploy.layer[1:]:
        old = old_net.layers.add(
            name=layer.name,
            type=caffe_pb2.V1LayerParameter.LayerType.Value(kinds[layer.type]),
            bottom=layer.bottom,
            top=layer.top,
        )
        for field, value in layer.ListFields():
            if field.name.endswith("_param"):
                getattr(old, field.name).CopyFrom(value)
        saved = old_model.layers.add()
        saved.CopyFrom(old)
        for blob in blobs.get(layer.name, ()):
            shape = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            fields = zip(("num", "channels", "height", "width"), shape, strict=True)
            saved.blobs.add(data=blob.data, **dict(fields))
    (tmp_path / "old.prototxt").write_text(str(old_net))
    (tmp_path / "old.caffemodel").write_bytes(old_model.SerializeToString())
    weights = dataclasses.replace(
        spec.weights, file="old.caffemodel", size=None, sha256=None
    )
    old_spec = dataclasses.replace(
        spec, folder=tmp_path, model=tmp_path / "old.prototxt", weights=weights
    )
    data = smooth_images(np.random.default_rng(6), 2, 64)
    new_blobs, old_blobs = (_open(one).run(data) for one in (spec, old_spec))
    for name in BLOBS:
        np.testing.assert_array_equal(new_blobs[name], old_blobs[name])


# --- what does not fit ----------------------------------------------------------------


def _refused(
    spec: NetSpec, error: type[Exception], message: str, **changes: Any
) -> None:
    with pytest.raises(error, match=message) as caught:
        _open(spec, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x6": "nothing"}, "expected a blob 'nothing'"),
        ({"x6": "fc7", "x7": "fc6"}, r"expected 'fc6' \(x7\) to feed"),
        ({"x8": "fc7"}, "expected x8 'fc7' to be the Softmax of y8 'fc8'"),
        ({"x5": "norm2"}, r"expected 'norm2' .* found 'pool5' \(Pooling\)"),
    ],
)
def test_heads_that_do_not_fit(change: dict[str, str], message: str) -> None:
    spec = load_net("tinyalexnet")
    changed = dataclasses.replace(spec, blobs={**spec.blobs, **change})
    _refused(changed, NetError, message)


def test_a_head_without_backward_pass_is_refused(tmp_path: Path) -> None:
    spec = load_net("tinyalexnet")
    deploy = text_format.Parse(spec.model.read_text(), caffe_pb2.NetParameter())
    relu7 = next(layer for layer in deploy.layer if layer.name == "relu7")
    relu7.type = "Softmax"
    (tmp_path / "deploy.prototxt").write_text(str(deploy))
    changed = dataclasses.replace(spec, model=tmp_path / "deploy.prototxt")
    message = r"expected layers of the types BatchNorm .* found 'relu7' \(Softmax\)"
    _refused(changed, NetError, message)


def test_input_of_another_size() -> None:
    spec = dataclasses.replace(load_net("tinyalexnet"), preprocess=Preprocess(65, 65))
    _refused(spec, NetError, r"expected one input of shape \(N, 3, 65, 65\)")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    spec = load_net("tinyalexnet")
    content = (spec.folder / spec.weights.file).read_bytes()
    model = caffe_pb2.NetParameter.FromString(content)
    for layer in model.layer:
        if layer.name == "fc8":
            layer.blobs[0].shape.dim[0] = 100
            del layer.blobs[0].data[100 * 768 :]
        if layer.name == "conv2":
            layer.name = "conv2_finetuned"
    weights = dataclasses.replace(spec.weights, file="w", size=None, sha256=None)
    changed = dataclasses.replace(spec, folder=tmp_path, weights=weights)
    (tmp_path / "w").write_bytes(model.SerializeToString())
    _refused(changed, NetError, "for layer 'conv2', found none")
    model.layer[
        [layer.name for layer in model.layer].index("conv2_finetuned")
    ].name = "conv2"
    (tmp_path / "w").write_bytes(model.SerializeToString())
    _refused(changed, NetError, r"\[200, 768\].*'fc8', found \[\[100, 768\]")
    (tmp_path / "w").write_bytes(content[: len(content) // 2])
    _refused(
        changed, NetError, "expected a caffemodel, found a file that ends too early"
    )


@pytest.mark.parametrize("device", ["gpu", "gpu:x", "cuda", ""])
def test_unknown_devices(device: str) -> None:
    spec = load_net("tinyalexnet")
    _refused(spec, BackendError, "expected a device 'cpu', 'gpu:0' or", device=device)


def test_a_gpu_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    found = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    message = (
        "expected an ONNX Runtime with CUDA for --device gpu:0, found one with CPU"
    )
    _refused(load_net("tinyalexnet"), BackendError, message, device="gpu:0")


def test_errors_of_onnx_runtime_take_one_line() -> None:
    backend = _open(load_net("tinyalexnet"))
    with pytest.raises(BackendError, match=r"ONNX Runtime stopped: .*data") as caught:
        backend.run(np.zeros((2, 4, 64, 64), np.float32))
    assert "\n" not in str(caught.value)


def test_openvino_runs_on_the_cpu_alone() -> None:
    message = "expected --device cpu for OpenVINO, found 'gpu:0'"
    spec = load_net("tinyalexnet")
    _refused(spec, BackendError, message, maker=OpenvinoBackend, device="gpu:0")


def test_errors_of_openvino_take_one_line() -> None:
    backend = _open(load_net("tinyalexnet"), OpenvinoBackend)
    with pytest.raises(BackendError, match=r"OpenVINO stopped: ") as caught:
        backend.run(np.zeros((2, 4, 64, 64), np.float32))
    assert "\n" not in str(caught.value)


def test_openvino_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"the library 'openvino', .*pip install 'fishing\[openvino\]'"
    _refused(load_net("tinyalexnet"), DependencyError, message, maker=OpenvinoBackend)


def test_openvino_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "raise ImportError('libtbb.so.12: no such file', name='openvino')"
    (tmp_path / "openvino.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino")
    message = "the library 'openvino', found libtbb.so.12: no such file; run `pip"
    _refused(load_net("tinyalexnet"), DependencyError, message, maker=OpenvinoBackend)


def test_a_processor_without_bfloat16() -> None:
    core = SimpleNamespace(get_property=lambda device, key: ["FP32", "INT8"])
    with pytest.raises(BackendError, match="found one with FP32 INT8; use --backend"):
        _check_bfloat16(core)


# --- which backend --------------------------------------------------------------------


def test_auto_takes_caffe_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto") == "onnx"
    assert choose_backend("auto", "gpu:0") == "caffe"
    assert choose_backend("caffe", "cpu") == "caffe"
    assert choose_backend("onnx", "gpu:0") == "onnx"
    folder = importlib.machinery.ModuleSpec("caffe", None, is_package=True)
    for spec in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, s=spec: s)
        assert choose_backend("auto", "gpu:0") == "onnx"
    with pytest.raises(BackendError, match="expected a backend of: auto caffe onnx"):
        choose_backend("theano")


def test_open_backend() -> None:
    spec = load_net("tinyalexnet")
    backend = open_backend("onnx", spec, temperature=TAU, batch_size=2, device="cpu")
    assert isinstance(backend, OnnxBackend)
    backend.close()
