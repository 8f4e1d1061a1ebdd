"""Gradients of ONNX models equal finite differences in float64, for all activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf

from fishing.backends.onnx import OnnxBackend
from fishing.backends.onnx.derivatives import DERIVATIVES
from fishing.errors import NetError
from fishing.nets.onnx_products import ELEMENTWISE
from nets.onnx_models import CHANNELS, CLASSES, HIDDEN, Model, images, spec_of

Array = NDArray[Any]
TAU = 2.0


def _sigmoid(y: Array) -> Array:
    return 1 / (1 + np.exp(-y))


def _gelu(y: Array) -> Array:
    return 0.5 * y * (1 + erf(y / math.sqrt(2)))


def _gelu_by_tanh(y: Array) -> Array:
    return 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))


def _one(operator: str, **settings: Any) -> Callable[[Model, str], str]:
    return lambda model, y: model.node(operator, [y], "x7", **settings)


def _prelu(model: Model, y: str) -> str:
    slopes = np.linspace(-0.5, 0.8, HIDDEN, dtype=np.float32)
    return model.node("PRelu", [y, model.constant("slopes", slopes)], "x7")


def _clip(model: Model, y: str) -> str:
    low = model.constant("low", np.float32(-0.4))
    high = model.constant("high", np.float32(0.9))
    return model.node("Clip", [y, low, high], "x7")


def _silu(model: Model, y: str) -> str:
    return model.node("Mul", [y, model.node("Sigmoid", [y], "sigmoid")], "x7")


def _written_gelu(model: Model, y: str) -> str:
    root = model.constant("root", np.float32(math.sqrt(2)))
    one = model.constant("one", np.float32(1))
    half = model.constant("half", np.float32(0.5))
    ratio = model.node("Div", [y, root], "ratio")
    more = model.node("Add", [model.node("Erf", [ratio], "erf"), one], "more")
    return model.node("Mul", [model.node("Mul", [y, more], "twice"), half], "x7")


def _written_gelu_by_tanh(model: Model, y: str) -> str:
    three = model.constant("three", np.float32(3))
    number = model.constant("number", np.float32(0.044715))
    root = model.constant("root", np.float32(math.sqrt(2 / math.pi)))
    one = model.constant("one", np.float32(1))
    half = model.constant("half", np.float32(0.5))
    cube = model.node("Mul", [model.node("Pow", [y, three], "cube"), number], "part")
    inner = model.node("Mul", [model.node("Add", [y, cube], "sum"), root], "inner")
    more = model.node("Add", [model.node("Tanh", [inner], "tanh"), one], "more")
    return model.node("Mul", [model.node("Mul", [y, more], "twice"), half], "x7")


def _mish(model: Model, y: str) -> str:
    tanh = model.node("Tanh", [model.node("Softplus", [y], "softplus")], "tanh")
    return model.node("Mul", [y, tanh], "x7")


def _swish_by_division(model: Model, y: str) -> str:
    one = model.constant("one", np.float32(1))
    power = model.node("Exp", [model.node("Neg", [y], "negative")], "power")
    return model.node("Div", [y, model.node("Add", [one, power], "sum")], "x7")


def _one_minus(model: Model, y: str) -> str:
    one = model.constant("one", np.float32(1))
    return model.node("Sub", [one, model.node("Tanh", [y], "tanh")], "x7")


_NUMBERS = np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32)


def _batch_norm(model: Model, y: str) -> str:
    names = [model.constant(f"bn{i}", _NUMBERS + i) for i in range(4)]
    y = model.node("BatchNormalization", [y, *names], "normed", epsilon=1e-3)
    return model.node("Relu", [y], "x7")


def _normed(y: Array) -> Array:
    scale, bias, mean, variance = (_NUMBERS + i for i in range(4))
    return np.maximum(scale * (y - mean) / np.sqrt(variance + 1e-3) + bias, 0)


# How exporters write a non-linearity, and its formula.
ACTIVATIONS: dict[str, tuple[Callable[[Model, str], str], Callable[[Array], Array]]] = {
    "relu": (_one("Relu"), lambda y: np.maximum(y, 0)),
    "leaky": (_one("LeakyRelu", alpha=0.3), lambda y: np.where(y > 0, y, 0.3 * y)),
    "prelu": (_prelu, lambda y: np.where(y > 0, y, np.linspace(-0.5, 0.8, HIDDEN) * y)),
    "elu": (_one("Elu", alpha=0.7), lambda y: np.where(y > 0, y, 0.7 * np.expm1(y))),
    "sigmoid": (_one("Sigmoid"), _sigmoid),
    "tanh": (_one("Tanh"), np.tanh),
    "erf": (_one("Erf"), erf),
    "softplus": (_one("Softplus"), lambda y: np.log1p(np.exp(y))),
    "hard sigmoid": (
        _one("HardSigmoid", alpha=0.3, beta=0.4),
        lambda y: np.clip(0.3 * y + 0.4, 0, 1),
    ),
    "hard swish": (_one("HardSwish"), lambda y: y * np.clip(y / 6 + 0.5, 0, 1)),
    "clip": (_clip, lambda y: np.clip(y, -0.4, 0.9)),
    "gelu": (_one("Gelu"), _gelu),
    "gelu by tanh": (_one("Gelu", approximate="tanh"), _gelu_by_tanh),
    "written gelu": (_written_gelu, _gelu),
    "written gelu by tanh": (_written_gelu_by_tanh, _gelu_by_tanh),
    "silu": (_silu, lambda y: y * _sigmoid(y)),
    "mish": (_mish, lambda y: y * np.tanh(np.log1p(np.exp(y)))),
    "swish by division": (_swish_by_division, lambda y: y * _sigmoid(y)),
    "1 - tanh": (_one_minus, lambda y: 1 - np.tanh(y)),
    "batch norm": (_batch_norm, _normed),
}


def loss(y8: Array) -> Array:
    """Compute the cross-entropy with the uniform label, times 1 (not tau)."""
    scaled = y8 / TAU
    top = scaled.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
    return np.asarray(log_sum - scaled.mean(axis=1))


def differences(function: Callable[[Array], Array], y: Array) -> Array:
    """Compute dE/dy by central differences in float64."""
    found, step = np.empty_like(y), 1e-6
    for i in range(y.shape[1]):
        up, down = y.copy(), y.copy()
        up[:, i] += step
        down[:, i] -= step
        found[:, i] = (function(up) - function(down)) / (2 * step)
    return found


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_equal_finite_differences(name: str, tmp_path: Path) -> None:
    write, formula = ACTIVATIONS[name]
    model = Model()
    y7 = model.gemm(model.trunk(), "y7", CHANNELS, HIDDEN)
    model.gemm(write(model, y7), "y8", HIDDEN, CLASSES)
    spec = spec_of(model.save(tmp_path / "m.onnx", "y8"))
    assert spec.blobs == {"x6": "x6", "x7": "x7", "y8": "y8"}
    net = OnnxBackend(spec, temperature=TAU, batch_size=8, device="cpu")
    found = {key: v.astype(np.float64) for key, v in net.run(images(8)).items()}

    weights = {k: a.astype(np.float64) for k, a in model.arrays.items()}
    y7_values = found["forward/x6"] @ weights["y7/W"].T + weights["y7/b"]

    def head(y: Array) -> Array:
        return loss(formula(y) @ weights["y8/W"].T + weights["y8/b"])

    assert np.abs(found["forward/x7"] - formula(y7_values)).max() < 1e-5
    expected = differences(head, y7_values)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found["backward/y7"] - expected).max() < 2e-6
    assert (
        np.abs(found["backward/y8"] - differences(loss, found["forward/y8"])).max()
        < 2e-6
    )
    softmax = np.exp(found["forward/y8"])
    softmax /= softmax.sum(axis=1, keepdims=True)
    assert np.abs(found["forward/x8"] - softmax).max() < 1e-6


def test_each_elementwise_operator_has_a_derivative() -> None:
    assert set(DERIVATIVES) == ELEMENTWISE


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_fixed_batch_is_filled_up(n: int, tmp_path: Path) -> None:
    found = []
    for batch in ("n", 3):
        model = Model()
        model.batch = batch
        model.gemm(model.trunk(), "y8", CHANNELS, CLASSES)
        spec = spec_of(model.save(tmp_path / f"{batch}.onnx", "y8"))
        net = OnnxBackend(spec, temperature=TAU, batch_size=4, device="cpu")
        assert net.batch_size == (4 if batch == "n" else 3)
        found.append(net.run(images(min(n, net.batch_size))))
    for name in found[0]:
        np.testing.assert_allclose(
            found[0][name][:3], found[1][name], rtol=1e-5, atol=1e-7
        )


def test_blobs_of_other_names_are_refused(tmp_path: Path) -> None:
    model = Model()
    y7 = model.gemm(model.trunk(), "y7", CHANNELS, HIDDEN)
    model.gemm(model.node("Relu", [y7], "x7"), "y8", HIDDEN, CLASSES)
    path = model.save(tmp_path / "m.onnx", "y8")
    for blobs, message in (
        ({"x7": "y7", "y8": "y8"}, "expected x7 to be 'x7'"),
        ({"x6": "mean", "x7": "x7", "y8": "y8"}, "expected x6 to be 'x6'"),
        ({"x7": "x7", "y8": "nothing"}, "expected y8 'nothing' among its tensors"),
        ({"x7": "x7", "y8": "x7"}, "expected logits from an inner product"),
    ):
        with pytest.raises(NetError, match=message):
            OnnxBackend(
                spec_of(path, **blobs), temperature=2, batch_size=1, device="cpu"
            )
