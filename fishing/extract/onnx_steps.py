"""The steps down the head of an ONNX model, for gradients from stored activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import NetError
from fishing.extract.step import Step
from fishing.nets import NetSpec, named_onnx_head, read_onnx
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.nets.onnx_products import SAME_VALUES, attributes

_Array = NDArray[np.float32]


def read_onnx_steps(spec: NetSpec, widths: Mapping[str, int]) -> list[Step]:
    """Read the steps from the logits down; see `fishing.extract.head_gradient`.

    Raises a NetError if the model cannot be read, if its head does not fit the features
    file, or if the derivative of a non-linearity does not follow from its output.
    """
    lowest = min(k for k in range(1, LAST + 1) if backward_blob(k) in widths)
    head, _ = named_onnx_head(read_onnx(spec.model), spec.blobs)
    n_steps = LAST - lowest
    if n_steps > len(head.between):
        raise NetError(
            f"expected a net with {n_steps + 1} inner products or more for "
            f"{backward_blob(lowest)}, found {head.describe()} in {spec.name}; "
            "name the net that the features file was made with"
        )
    return [
        Step(
            forward_blob(f"x{LAST - 1 - i}"),
            np.ascontiguousarray(head.products[i].weights),
            _derivative(head.between[i]),
        )
        for i in range(n_steps)
    ]


def _derivative(nodes: Sequence[Any]) -> Callable[[_Array], _Array]:
    """Choose f' for the nodes between two inner products."""
    found = [node for node in nodes if node.op_type not in SAME_VALUES]
    if not found:
        return np.ones_like
    if len(found) > 1 or found[0].op_type not in _DERIVATIVES:
        names = ", ".join(node.op_type for node in found)
        raise NetError(
            "expected one non-linearity between inner products, of the operators "
            f"{' '.join(_DERIVATIVES)}, found {names}: activations do not tell its "
            "derivative; extract anew with --temperature"
        )
    settings = attributes(found[0])
    alpha = settings.get("alpha", 0.01 if found[0].op_type == "LeakyRelu" else 1.0)
    if alpha < 0:
        raise NetError(
            f"expected an alpha of 0 or more in {found[0].op_type}, found {alpha:g}, "
            "with which y may be negative where x is positive; extract anew with "
            "--temperature"
        )
    return _DERIVATIVES[found[0].op_type](np.float32(alpha))


_DERIVATIVES: dict[str, Callable[[np.float32], Callable[[_Array], _Array]]] = {
    "Elu": lambda alpha: lambda x: np.where(x > 0, np.float32(1), alpha + x),
    "LeakyRelu": lambda alpha: lambda x: np.where(x > 0, np.float32(1), alpha),
    "Relu": lambda alpha: lambda x: np.where(x > 0, np.float32(1), np.float32(0)),
    "Sigmoid": lambda alpha: lambda x: x * (1 - x),
    "Tanh": lambda alpha: lambda x: 1 - x * x,
}
