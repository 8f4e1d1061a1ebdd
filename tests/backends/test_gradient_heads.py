"""Heads of every kind: eq. 9, 10 and 12 by all backends, and what is no head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_nets import (
    HEADS,
    PROB,
    TRUNK,
    Float64,
    convolution,
    layer,
    mean,
    own_gradients,
    product,
    relu,
    write_net,
)
from numpy.typing import NDArray

from fishing.backends import open_backend
from fishing.errors import NetError
from fishing.extract import extract
from fishing.extract.head_gradient import gradient, read_steps
from fishing.images import read_splits
from fishing.kernels import gram
from fishing.nets import NetSpec, prepare_net
from fishing.nets.blobs import paired_blobs
from fishing.store import ExtractionSettings, FeaturesFile

Array = NDArray[Any]
TAU = 2.0
BACKENDS = ("onnx", "openvino", "caffe")


def _run(
    spec: NetSpec, backend: str, data: Array, tau: float = TAU
) -> dict[str, Array]:
    net = open_backend(
        backend, spec, temperature=tau, batch_size=len(data), device="cpu"
    )
    try:
        found = net.run(data)
        assert {name: rows.shape[1] for name, rows in found.items()} == net.widths
        return found
    finally:
        net.close()


@pytest.fixture(scope="module")
def data() -> Array:
    return np.random.default_rng(3).normal(0, 1, (4, 3, 10, 10)).astype(np.float32)


@pytest.fixture(scope="module", params=HEADS)
def case(request: pytest.FixtureRequest, tmp_path_factory, data: Array) -> Any:
    """Make a net, and run it by all backends."""
    head = HEADS[request.param]
    spec = write_net(tmp_path_factory.mktemp("net"), head.text, head.table)
    return head, spec, {name: _run(spec, name, data) for name in BACKENDS}


def _gradients(head: Any) -> list[int]:
    return list(range(9 - head.n_products, 9))


def test_all_backends_agree(case) -> None:
    head, spec, found = case
    inputs = [name for name in head.table if name not in ("y8", "x8")]
    forward = [f"forward/{name}" for name in (*sorted(inputs), "y8", "x8")]
    backward = list(paired_blobs(head.n_products)[-head.n_products :])
    for blobs in found.values():
        assert list(blobs) == [*forward, *backward]
        for name, rows in blobs.items():
            expected = found["caffe"][name]
            assert np.abs(expected).max() > 1e-3, name
            np.testing.assert_allclose(rows, expected, atol=1e-5 * np.abs(rows).max())
        y = blobs["forward/y8"].astype(np.float64)
        e = np.exp(y - y.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            blobs["forward/x8"], e / e.sum(axis=1, keepdims=True), atol=1e-6
        )
    assert prepare_net(spec).head.describe() == head.describe


def test_activations_are_the_published_blobs(case, data: Array) -> None:
    """Maps are averaged unless an inner product reads all of their positions."""
    head, spec, found = case
    net = own_gradients(spec, head.table["y8"], TAU)
    net.blobs["data"].reshape(*data.shape)
    net.blobs["data"].data[...] = data
    net.forward()
    inputs = {f"x{k - 1}" for k in _gradients(head)}
    for name, blob in head.table.items():
        expected = net.blobs[blob].data
        is_input = name in inputs and "the mean of" not in head.describe
        if not is_input and expected.ndim == 4:
            expected = expected.astype(np.float64).mean(axis=(2, 3))
        expected = expected.reshape(len(data), -1)
        for blobs in found.values():
            np.testing.assert_allclose(blobs[f"forward/{name}"], expected, atol=2e-6)


def test_eq_9_and_12_by_caffes_own_weight_gradients(case, data: Array) -> None:
    """Caffe's dE/dW of the published net is the outer product, whose kernel factors."""
    head, spec, found = case
    net = own_gradients(spec, head.table["y8"], TAU)
    products = prepare_net(spec).head.inner_products
    weights: dict[tuple[int, int], Array] = {}
    for i in (0, 1):
        for params in net.params.values():
            params[0].diff[...] = 0  # Caffe adds to what is there
        net.blobs["data"].data[...] = data[i]
        net.forward()
        net.backward()
        for k, one in zip(_gradients(head), products, strict=True):
            diff = net.params[one.name][0].diff.astype(np.float64)
            if one.inner_product_param.transpose:
                diff = diff.T
            if diff.shape[2:] == (3, 3):  # over one position that is padded
                rest = np.delete(diff.reshape(*diff.shape[:2], 9), 4, axis=2)
                assert (rest == 0).all()
                diff = diff[:, :, 1, 1]
            weights[i, k] = diff.reshape(len(diff), -1)
    for blobs in found.values():
        for k in _gradients(head):
            x, g = (blobs[n].astype(np.float64) for n in _pair(k))
            for i in (0, 1):
                outer = np.outer(g[i], x[i])
                scale = np.abs(outer).max()
                assert scale > 1e-5
                np.testing.assert_allclose(weights[i, k], outer, atol=2e-5 * scale)
            kernel = (x[0] @ x[1]) * (g[0] @ g[1])
            size = np.linalg.norm(weights[0, k]) * np.linalg.norm(weights[1, k])
            found_kernel = float(np.sum(weights[0, k] * weights[1, k]))
            assert found_kernel == pytest.approx(kernel, abs=2e-5 * size)


def _pair(k: int) -> tuple[str, str]:
    return f"forward/x{k - 1}", f"backward/y{k}"


def test_eq_10_is_the_derivative_of_the_loss(case, data: Array) -> None:
    """Move each y_k along random directions, and compute E in float64."""
    head, spec, found = case
    net = Float64(spec)
    image, y8 = data[0].astype(np.float64), head.table["y8"]
    rng = np.random.default_rng(4)
    for k, one in zip(
        _gradients(head), prepare_net(spec).head.inner_products, strict=True
    ):
        g = found["onnx"][f"backward/y{k}"][0].astype(np.float64)
        # Adding to a map before its mean is adding to the mean.
        n = 16 if "the mean of" in head.describe else 1
        for _ in range(4):
            direction = rng.normal(size=g.shape)
            step = 1e-6 * np.repeat(direction, n)
            up, down = (
                net.loss(image, y8, TAU, one.name, sign * step) for sign in (1, -1)
            )
            scale = np.linalg.norm(g) * np.linalg.norm(direction)
            assert (up - down) / 2e-6 == pytest.approx(direction @ g, abs=1e-4 * scale)


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_temper(case, data: Array, tau: float) -> None:
    head, spec, found = case
    blobs = found["onnx"]
    widths = {name: rows.shape[1] for name, rows in blobs.items()}
    if head.refusal:
        with pytest.raises(NetError) as caught:
            read_steps(spec, widths)
        assert head.refusal in str(caught.value)
        assert "do not tell its derivative" in str(caught.value)
        return
    steps = read_steps(spec, widths)
    expected = _run(spec, "onnx", data, tau)
    for n, k in enumerate(reversed(_gradients(head))):
        rows = gradient(blobs, steps[:n], tau, slice(None))
        np.testing.assert_allclose(
            rows, expected[f"backward/y{k}"], atol=2e-6 * np.abs(rows).max()
        )


@pytest.mark.parametrize("name", ["maxout", "a convolution after the mean"])
def test_features_files(tmp_path: Path, devkit: Path, name: str) -> None:
    """A maxout makes x7 narrower than y7, and an activation has no gradient."""
    head = HEADS[name]
    spec = write_net(tmp_path / "net", head.text, head.table)
    lists, path = read_splits(devkit, ["test"]), tmp_path / "f.h5"
    extract(ExtractionSettings(spec, backend="onnx"), lists, path)
    with FeaturesFile(path) as file:
        split = file.split("test")
        widths = {name: rows.shape[1] for name, rows in split.blobs.items()}
        kernel = gram("dW8", split, split)
    common = {"forward/x6": 5, "forward/y8": 7, "forward/x8": 7, "backward/y8": 7}
    if name == "maxout":
        assert widths == {**common, "forward/x7": 4, "backward/y7": 12}
    else:
        assert widths == {**common, "forward/x6": 6, "forward/x7": 5}
    np.testing.assert_allclose(np.diag(kernel), 1, atol=1e-6)


# --- what is no head ------------------------------------------------------------------

MAP = TRUNK + convolution("fc8", "conv2", 7, 3) + PROB
GROUPS = TRUNK + mean("pool", "conv2") + convolution("c", "pool", 6, 1)
NOT_HEADS = {
    "a larger map": (
        MAP,
        "x7=conv2 y8=fc8",
        r"found 'fc8' \(Convolution\), which makes a map of 2 x 2 positions; an input "
        "of 7 x 7 pixels would make one",
    ),
    "a map of any input": (
        TRUNK + convolution("fc8", "conv2", 7, 1, "pad: 1") + PROB,
        "x7=conv2 y8=fc8",
        "a map of 6 x 6 positions; no smaller input makes one",
    ),
    "groups": (
        GROUPS + convolution("fc8", "c", 6, 1, "group: 2") + PROB,
        "x7=c y8=fc8",
        r"found 'fc8' \(Convolution\) of 2 groups, each of which sees a part",
    ),
    "groups below": (
        GROUPS
        + convolution("fc7", "c", 6, 1, "group: 2")
        + relu("fc7")
        + product("fc8", "fc7", 7)
        + PROB,
        "x6=c x7=fc7 y8=fc8",
        r"expected 'c' \(x6\) to feed an inner product, found 'fc7' \(Convolution\) of",
    ),
    "a part of the map": (
        TRUNK + convolution("fc8", "conv2", 7, 3, "stride: 2") + PROB,
        "x7=conv2 y8=fc8",
        "whose kernel does not cover its bottom",
    ),
    "many matrices of rank 1": (
        TRUNK + convolution("c", "conv2", 7, 1) + relu("c") + mean("fc8", "c") + PROB,
        "x7=conv2 y8=fc8",
        r"found 'relu_c' \(ReLU\) before the mean over positions by 'fc8', with which "
        "the gradient is a sum of many matrices of rank 1",
    ),
    "no product": (
        TRUNK + mean("fc8", "conv2") + PROB,
        "x7=conv2 y8=fc8",
        "expected y8 to come from an inner product, found 'relu_conv2'",
    ),
    "an activation of the logits": (
        TRUNK + product("fc8", "conv2", 7) + relu("fc8") + PROB,
        "x7=conv2 y8=fc8",
        r"expected y8 to come from an inner product, found 'relu_fc8' \(ReLU\)",
    ),
    "a mixing layer between products": (
        TRUNK
        + product("fc7", "conv2", 6)
        + layer("Softmax", "mix", "fc7")
        + product("fc8", "mix", 7)
        + PROB,
        "x6=conv2 x7=mix y8=fc8",
        r"between 'fc7' \(InnerProduct\) and the head of 1 inner product, fc8 over "
        r"mix, found 'mix' \(Softmax\); leave out x6 'conv2'",
    ),
    "two products added": (
        TRUNK
        + product("a", "conv2", 6)
        + product("b", "conv2", 6)
        + layer("Eltwise", "sum", "a b")
        + product("fc8", "sum", 7)
        + PROB,
        "x6=conv2 x7=sum y8=fc8",
        r"the head of 1 inner product, fc8 over sum, found 'sum' \(Eltwise\)",
    ),
    "half of a maxout": (
        TRUNK
        + product("fc7", "conv2", 6)
        + layer("Slice", "slice", "fc7", "a b c")
        + layer("Eltwise", "max", "a b", settings="eltwise_param { operation: MAX }")
        + product("fc8", "max", 7)
        + PROB,
        "x6=conv2 x7=max y8=fc8",
        r"found 'max' \(Eltwise\)",
    ),
    "another name": (
        TRUNK
        + product("fc7", "conv2", 6)
        + relu("fc7")
        + product("fc8", "fc7", 7)
        + PROB,
        "x6=conv1 x7=fc7 y8=fc8",
        r"expected 'conv1' \(x6\) to feed the inner product .*, found 'relu_conv2'",
    ),
    "the softmax of something else": (
        TRUNK
        + product("fc8", "conv2", 7)
        + product("other", "conv2", 7)
        + layer("Softmax", "prob", "other"),
        "x7=conv2 y8=fc8 x8=prob",
        "expected x8 'prob' to be the Softmax of y8 'fc8', found the Softmax of other",
    ),
    "several vectors of an image": (
        TRUNK + product("fc8", "conv2", 7, "axis: 2"),
        "x7=conv2 y8=fc8",
        "expected 'fc8' to make one vector of an image, found an inner product along",
    ),
    "an activation that is neither vector nor map": (
        TRUNK
        + layer("Flatten", "f", "conv2", settings="flatten_param { axis: 2 }")
        + product("fc8", "f", 7),
        "x6=f x7=f y8=fc8",
        "expected x6 'f' to be a vector or a map of an image, found a blob of shape",
    ),
    "one name twice": (
        TRUNK + layer("Sigmoid", "conv1", "conv2", "s") + product("fc8", "s", 7),
        "x7=s y8=fc8",
        "expected names of its own, found 'conv1' once more",
    ),
}


@pytest.mark.parametrize("name", NOT_HEADS)
def test_all_backends_refuse_in_the_same_words(tmp_path: Path, name: str) -> None:
    text, blobs, message = NOT_HEADS[name]
    table = dict(pair.split("=") for pair in blobs.split())
    spec = write_net(tmp_path, text, table)
    said = set()
    for backend in BACKENDS:
        with pytest.raises(NetError, match=message) as caught:
            _run(spec, backend, np.zeros((1, 3, 10, 10), np.float32))
        said.add(str(caught.value))
    assert len(said) == 1
    assert "\n" not in said.pop()
