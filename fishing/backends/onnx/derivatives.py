"""Derivatives of ONNX's element-wise operators, to go down from x_k to y_k.

A non-linearity may consist of several nodes, as GELU often does. All tensors are taken
as (n, d), since between two inner products every value belongs to one unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fishing.backends.onnx.builder import DATA, Builder, Value
from fishing.nets.onnx_files import OnnxNet
from fishing.nets.onnx_products import SAME_VALUES, attributes


def go_down(
    build: Builder,
    net: OnnxNet,
    nodes: Sequence[Any],
    x: str,
    y: str,
    gradient: Value,
) -> Value:
    """Add the backward pass of element-wise nodes, and return dE/dy.

    Parameters
    ----------
    build : Builder
        It holds the nodes of the model under the names of `graph_name`.
    net : OnnxNet
    nodes : sequence of NodeProto
        The nodes between y and x, in the order in which they run.
    x, y : str
        Tensors of the model.
    gradient : Value
        dE/dx, of shape (n, d).

    Returns
    -------
    Value
    """
    found: dict[str, list[Value]] = {x: [gradient]}
    tensors = _Tensors(build, net, gradient.shape)
    for node in reversed(nodes):
        if node.output[0] not in found:
            continue
        total = tensors.total(found[node.output[0]])
        if node.op_type in SAME_VALUES:
            parts = {0: total}
        else:
            parts = DERIVATIVES[node.op_type](_Step(tensors, node, total))
        for i, part in parts.items():
            if not net.is_constant(node.input[i]):
                found.setdefault(node.input[i], []).append(part)
    return tensors.total(found[y])


def graph_name(net: OnnxNet, tensor: str) -> str:
    """Name a tensor of the model in the gradient graph, where no name clashes."""
    if not tensor:
        return ""  # an input that is left out
    return DATA if tensor == net.input else f"net/{tensor}"


class _Tensors:
    """Values of the model as (n, d), and nodes that compute with them."""

    def __init__(self, build: Builder, net: OnnxNet, shape: tuple[int, ...]) -> None:
        self._build, self.net, self._shape = build, net, shape
        self._known: dict[str, Value | str] = {}

    def __getitem__(self, tensor: str) -> Value | str:
        if tensor not in self._known:
            name = graph_name(self.net, tensor)
            if self.net.is_constant(tensor):
                flat = self.net.constant(tensor).reshape(-1)
                self._known[tensor] = self._build.constant(
                    flat.astype(np.float32), f"{name}/constant"
                )
            else:
                self._known[tensor] = self._build.node(
                    "Flatten", [name], f"{name}/flat", self._shape, axis=1
                )
        return self._known[tensor]

    def add(
        self, operator: str, *inputs: Value | str | float, **settings: Any
    ) -> Value:
        """Add a node; a float becomes a constant."""
        names = [
            i
            if isinstance(i, Value | str)
            else self._build.constant(float(i), f"number/{i:g}")
            for i in inputs
        ]
        return self._build.node(operator, names, "derivative", self._shape, **settings)

    def total(self, parts: Sequence[Value]) -> Value:
        total = parts[0]
        for part in parts[1:]:
            total = self.add("Add", total, part)
        return total


class _Step:
    """A node of the model, the gradient of its output, and means to compute."""

    def __init__(self, tensors: _Tensors, node: Any, gradient: Value) -> None:
        self._tensors, self._node = tensors, node
        self.gradient = gradient
        self.settings = attributes(node)
        self.add = tensors.add

    def input(self, i: int) -> Any:
        return self._tensors[self._node.input[i]]

    def number(self, i: int, default: float) -> float:
        """Read an input that is one constant number, or left out."""
        names = self._node.input
        if len(names) <= i or not names[i]:
            return default
        return float(self._tensors.net.constant(names[i]).reshape(-1)[0])

    @property
    def output(self) -> Any:
        return self._tensors[self._node.output[0]]

    def times(self, factor: Any) -> dict[int, Value]:
        return {0: self.add("Mul", self.gradient, factor)}

    def where(self, condition: Value, yes: Any, no: Any) -> Value:
        return self.add("Where", condition, yes, no)

    def polynomial(self, x: Any, *coefficients: float) -> Value:
        """Compute a polynomial, whose highest coefficient comes first."""
        total: Any = coefficients[0]
        for coefficient in coefficients[1:]:
            product = self.add("Mul", x, total)
            total = self.add("Add", product, coefficient) if coefficient else product
        return total  # type: ignore[no-any-return]


def _add(s: _Step) -> dict[int, Value]:
    return {0: s.gradient, 1: s.gradient}


def _sub(s: _Step) -> dict[int, Value]:
    return {0: s.gradient, 1: s.add("Neg", s.gradient)}


def _mul(s: _Step) -> dict[int, Value]:
    return {
        0: s.add("Mul", s.gradient, s.input(1)),
        1: s.add("Mul", s.gradient, s.input(0)),
    }


def _div(s: _Step) -> dict[int, Value]:
    """Divide by the divisor; its own derivative is -output / divisor."""
    quotient = s.add("Div", s.gradient, s.input(1))
    return {0: quotient, 1: s.add("Neg", s.add("Mul", quotient, s.output))}


def _pow(s: _Step) -> dict[int, Value]:
    exponent = s.number(1, 1.0)
    power = s.add("Pow", s.input(0), exponent - 1)
    return s.times(s.add("Mul", power, exponent))


def _relu(s: _Step) -> dict[int, Value]:
    return {0: s.where(s.add("Greater", s.output, 0.0), s.gradient, 0.0)}


def _leaky_relu(s: _Step) -> dict[int, Value]:
    slope = s.settings.get("alpha", 0.01)
    return s.times(s.where(s.add("Greater", s.input(0), 0.0), 1.0, slope))


def _prelu(s: _Step) -> dict[int, Value]:
    return s.times(s.where(s.add("Greater", s.input(0), 0.0), 1.0, s.input(1)))


def _elu(s: _Step) -> dict[int, Value]:
    alpha = s.settings.get("alpha", 1.0)
    below = s.add("Add", s.output, alpha)
    return s.times(s.where(s.add("Greater", s.input(0), 0.0), 1.0, below))


def _clip(s: _Step) -> dict[int, Value]:
    """Let the gradient pass where the value is within the limits."""
    low, high = s.number(1, -math.inf), s.number(2, math.inf)
    gradient = s.gradient
    if low > -math.inf:
        above = s.add("Greater", s.input(0), low)
        gradient = s.where(above, gradient, 0.0)
    if high < math.inf:
        gradient = s.where(s.add("Less", s.input(0), high), gradient, 0.0)
    return {0: gradient}


def _sigmoid(s: _Step) -> dict[int, Value]:
    return s.times(s.add("Mul", s.output, s.add("Sub", 1.0, s.output)))


def _tanh(s: _Step) -> dict[int, Value]:
    return s.times(s.polynomial(s.output, -1.0, 0.0, 1.0))


def _erf(s: _Step) -> dict[int, Value]:
    bell = s.add("Exp", s.polynomial(s.input(0), -1.0, 0.0, 0.0))
    return s.times(s.add("Mul", bell, 2 / math.sqrt(math.pi)))


def _exp(s: _Step) -> dict[int, Value]:
    return s.times(s.output)


def _neg(s: _Step) -> dict[int, Value]:
    return {0: s.add("Neg", s.gradient)}


def _softplus(s: _Step) -> dict[int, Value]:
    return s.times(s.add("Sigmoid", s.input(0)))


def _hard_sigmoid(s: _Step) -> dict[int, Value]:
    """Multiply by alpha where the line alpha x + beta is within 0 and 1."""
    alpha = s.settings.get("alpha", 0.2)
    inside = s.where(s.add("Less", s.output, 1.0), alpha, 0.0)
    return s.times(s.where(s.add("Greater", s.output, 0.0), inside, 0.0))


def _hard_swish(s: _Step) -> dict[int, Value]:
    """Multiply by x/3 + 1/2 between -3 and 3, by 0 below and by 1 above."""
    slope = s.polynomial(s.input(0), 1 / 3, 0.5)
    upper = s.where(s.add("Less", s.input(0), 3.0), slope, 1.0)
    return s.times(s.where(s.add("Greater", s.input(0), -3.0), upper, 0.0))


def _gelu(s: _Step) -> dict[int, Value]:
    """Multiply by the derivative of x Phi(x), or of its approximation by tanh."""
    x = s.input(0)
    if s.settings.get("approximate", b"none") == b"tanh":
        c = math.sqrt(2 / math.pi)
        tanh = s.add("Tanh", s.polynomial(x, 0.044715 * c, 0.0, c, 0.0))
        half = s.polynomial(tanh, 0.5, 0.5)
        slope = s.polynomial(tanh, -0.5, 0.0, 0.5)
        inner = s.polynomial(x, 3 * 0.044715 * c, 0.0, c, 0.0)
        return s.times(s.add("Add", half, s.add("Mul", slope, inner)))
    erf = s.add("Erf", s.add("Mul", x, math.sqrt(0.5)))
    bell = s.add("Exp", s.polynomial(x, -0.5, 0.0, 0.0))
    density = s.add("Mul", s.add("Mul", x, bell), 1 / math.sqrt(2 * math.pi))
    return s.times(s.add("Add", s.polynomial(erf, 0.5, 0.5), density))


def _batch_norm(s: _Step) -> dict[int, Value]:
    """Multiply by scale / sqrt(variance + epsilon)."""
    epsilon = s.settings.get("epsilon", 1e-5)
    deviation = s.add("Sqrt", s.add("Add", s.input(4), epsilon))
    return s.times(s.add("Div", s.input(1), deviation))


#: By operator, a function that gives the gradients of a node's inputs.
DERIVATIVES: dict[str, Callable[[_Step], dict[int, Value]]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Div": _div,
    "Elu": _elu,
    "Erf": _erf,
    "Exp": _exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Mul": _mul,
    "Neg": _neg,
    "PRelu": _prelu,
    "Pow": _pow,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sub": _sub,
    "Tanh": _tanh,
}
