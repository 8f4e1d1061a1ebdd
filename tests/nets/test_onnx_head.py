"""The head of an ONNX model is found by what its nodes compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fishing.errors import NetError
from fishing.nets import find_onnx_head, propose_onnx_blobs, read_onnx
from nets.onnx_models import CHANNELS, CLASSES, HIDDEN, Model


def _gemm(model: Model, x: str) -> str:
    return model.gemm(x, "logits", CHANNELS, CLASSES)


def _gemm_by_columns(model: Model, x: str) -> str:
    weights = model.random("W8", CHANNELS, CLASSES)
    bias = model.random("b8", CLASSES)
    return model.node("Gemm", [x, weights, bias], "logits", alpha=0.5, beta=2.0)


def _matmul(model: Model, x: str) -> str:
    y = model.node("MatMul", [x, model.random("W8", CHANNELS, CLASSES)], "product")
    return model.node("Add", [model.random("b8", CLASSES), y], "logits")


def _transposed_matmul(model: Model, x: str) -> str:
    weights = model.node("Transpose", [model.random("W8", CLASSES, CHANNELS)], "W8/T")
    return model.node("MatMul", [x, weights], "logits")


def _quantised_weights(model: Model, x: str) -> str:
    stored = model.rng.integers(-128, 128, (CHANNELS, CLASSES)).astype(np.int8)
    names = [
        model.constant("stored", stored),
        model.constant("step", np.float32(0.01)),
        model.constant("zero", np.int8(3)),
    ]
    weights = model.node("DequantizeLinear", names, "W8")
    return model.node("MatMul", [x, weights], "logits")


def _half_precision_weights(model: Model, x: str) -> str:
    half = model.rng.normal(0, 0.7, (CHANNELS, CLASSES)).astype(np.float16)
    weights = model.node("Cast", [model.constant("half", half)], "W8", to=1)
    return model.node("MatMul", [x, weights], "logits")


def _constant_node(model: Model, x: str) -> str:
    from onnx import numpy_helper

    array = model.rng.normal(0, 0.7, (CHANNELS, CLASSES)).astype(np.float32)
    model.node("Constant", [], "W8", value=numpy_helper.from_array(array))
    return model.node("MatMul", [x, "W8"], "logits")


def _convolution(model: Model, x: str) -> str:
    shape = model.constant("shape", np.array([0, CHANNELS, 1, 1]))
    maps = model.node("Reshape", [x, shape], "1 x 1 maps")
    weights = model.random("W8", CLASSES, CHANNELS, 1, 1)
    y = model.node("Conv", [maps, weights, model.random("b8", CLASSES)], "y")
    return model.node("Flatten", [y], "logits")


WAYS = {
    "gemm": _gemm,
    "gemm by columns": _gemm_by_columns,
    "matmul and add": _matmul,
    "transposed matmul": _transposed_matmul,
    "quantised weights": _quantised_weights,
    "float16 weights": _half_precision_weights,
    "constant node": _constant_node,
    "convolution": _convolution,
}
ENDINGS: dict[str, Callable[[Model, str], str]] = {
    "logits": lambda model, y: y,
    "softmax": lambda model, y: model.node("Softmax", [y], "prob", axis=1),
    "identity": lambda model, y: model.node("Identity", [y], "output"),
    "squeeze": lambda model, y: model.node(
        "Squeeze",
        [
            model.node("Unsqueeze", [y, model.constant("2", np.array([2]))], "3-D"),
            "2",
        ],
        "output",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", WAYS)
def test_a_product_is_found(way: str, ending: str, tmp_path: Path) -> None:
    from fishing.backends import check_products
    from nets.onnx_models import images, spec_of

    model = Model()
    y = ENDINGS[ending](model, WAYS[way](model, model.trunk()))
    path = model.save(tmp_path / "m.onnx", y)
    net = read_onnx(path)
    blobs = propose_onnx_blobs(net)
    (product,) = find_onnx_head(net, blobs["y8"]).products
    assert product.weights.shape == (CLASSES, CHANNELS)
    assert ("x8" in blobs) == (ending == "softmax")
    check_products(spec_of(path), images(3))


def test_a_convolution_before_a_global_mean_commutes(tmp_path: Path) -> None:
    from fishing.backends import check_products
    from nets.onnx_models import images, spec_of

    for i, pooling in enumerate(("GlobalAveragePool", "ReduceMean")):
        model = Model()
        weights = [model.random("W", CHANNELS, 3, 3, 3), model.random("b", CHANNELS)]
        maps = model.node(
            "Relu", [model.node("Conv", ["image", *weights], "c")], "maps"
        )
        head = [
            model.random("W8", CLASSES, CHANNELS, 1, 1),
            model.random("b8", CLASSES),
        ]
        y = model.node("Conv", [maps, *head], "y")
        axes = {"axes": [2, 3]} if pooling == "ReduceMean" else {}
        model.opset = 17
        y = model.node("Flatten", [model.node(pooling, [y], "pooled", **axes)], "out")
        path = model.save(tmp_path / f"{i}.onnx", y)
        assert spec_of(path).blobs["x7"] == "maps"
        check_products(spec_of(path), images(3))


def test_the_chain_goes_down_as_far_as_products_follow(tmp_path: Path) -> None:
    model = Model()
    x = model.node("Relu", [model.gemm(model.trunk(), "y5", CHANNELS, 9)], "x5")
    x = model.node("Dropout", [model.gemm(x, "y6", 9, 8)], "dropped")
    x = model.node("Tanh", [x], "tanh")
    x = model.node("Relu", [model.gemm(x, "y7", 8, HIDDEN)], "x7")
    y = model.gemm(x, "y8", HIDDEN, CLASSES)
    net = read_onnx(model.save(tmp_path / "m.onnx", y))
    assert propose_onnx_blobs(net) == {
        "x4": "x6",
        "x5": "x5",
        "x6": "tanh",
        "x7": "x7",
        "y8": "y8",
    }
    head = find_onnx_head(net, "y8")
    assert head.describe() == "4 inner products, y5, y6, y7 and y8 over x6"
    kinds = [[node.op_type for node in nodes] for nodes in head.between]
    assert kinds == [["Relu"], ["Dropout", "Tanh"], ["Relu"]]


def test_a_normalisation_ends_the_chain(tmp_path: Path) -> None:
    model = Model()
    y7 = model.gemm(model.trunk(), "y7", CHANNELS, HIDDEN)
    names = [model.random("scale", HIDDEN), model.random("shift", HIDDEN)]
    x7 = model.node("LayerNormalization", [y7, *names], "normed")
    y = model.gemm(x7, "y8", HIDDEN, CLASSES)
    net = read_onnx(model.save(tmp_path / "m.onnx", y))
    assert propose_onnx_blobs(net) == {"x7": "normed", "y8": "y8"}


def _two_heads(model: Model, x: str) -> str:
    first = model.gemm(x, "first", CHANNELS, CLASSES)
    second = model.gemm(x, "second", CHANNELS, CLASSES)
    both = model.node("Add", [first, second], "both")
    return model.node("Div", [both, model.constant("2", np.float32(2))], "mean2")


def _pooled_after_relu(model: Model, x: str) -> str:
    y = model.node("Conv", ["maps", model.random("W8", CLASSES, CHANNELS, 1, 1)], "y")
    return model.node("GlobalAveragePool", [model.node("Relu", [y], "r")], "pooled")


def _computed_weights(model: Model, x: str) -> str:
    scores = model.node("MatMul", [x, model.node("Transpose", [x], "t")], "scores")
    return model.node("Identity", [scores], "output")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_two_heads, "expected one classifier, found the mean of 2"),
        (_pooled_after_relu, "sum of matrices of rank 1"),
        (_computed_weights, "expected logits from an inner product with constant"),
        (lambda model, x: x, "found GlobalAveragePool"),
    ],
)
def test_other_ends_are_refused(
    write: Callable[[Model, str], str], message: str, tmp_path: Path
) -> None:
    model = Model()
    path = model.save(tmp_path / "m.onnx", write(model, model.trunk()))
    with pytest.raises(NetError, match=message):
        propose_onnx_blobs(read_onnx(path))


def test_two_outputs_are_refused_unless_they_are_of_one_head(tmp_path: Path) -> None:
    model = Model()
    y = model.gemm(model.trunk(), "y8", CHANNELS, CLASSES)
    model.node("Softmax", [y], "prob")
    path = model.save(tmp_path / "one.onnx", "y8", "prob")
    assert propose_onnx_blobs(read_onnx(path))["x8"] == "prob"
    model.gemm("x6", "other", CHANNELS, 2)
    path = model.save(tmp_path / "two.onnx", "y8", "other")
    with pytest.raises(NetError, match="expected one classifier, found 2"):
        propose_onnx_blobs(read_onnx(path))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        model = Model()
        y = model.gemm(model.trunk(), "y8", CHANNELS, CLASSES)
        model.arrays["y8/W"][1, 2] = value
        path = model.save(tmp_path / "m.onnx", y)
        with pytest.raises(NetError, match="expected finite weights"):
            propose_onnx_blobs(read_onnx(path))
