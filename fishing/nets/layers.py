"""What the backends ask of the layers of a net: who writes a blob, who needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fishing.errors import NetError
from fishing.nets.caffe_messages import not_finite


def producer(layers: Sequence[Any], blob: str) -> Any:
    """Find the layer that writes `blob` last; a NetError says that there is none."""
    found = [layer for layer in layers if blob in layer.top]
    if not found:
        raise NetError(f"expected a blob '{blob}' in the net, found none of that name")
    return found[-1]


def ancestors(layers: Sequence[Any], blobs: Sequence[str]) -> list[Any]:
    """List, in their order, the layers that any of `blobs` depends on."""
    needed, kept = set(blobs), []
    for layer in reversed(layers):
        if needed.intersection(layer.top):
            needed.update(layer.bottom)
            kept.append(layer)
    return kept[::-1]


def separate_in_place(layers: Sequence[Any], x5: str) -> None:
    """Give each layer above `x5` a top of its own; the last writer keeps the name.

    The names of bottoms and tops are changed in the given layers.
    """
    start = [layer is producer(layers, x5) for layer in layers].index(True) + 1
    head = layers[start:]
    last = {top: layer.name for layer in head for top in layer.top}
    current: dict[str, str] = {}
    for layer in head:
        layer.bottom[:] = [current.get(bottom, bottom) for bottom in layer.bottom]
        for i, top in enumerate(layer.top):
            current[top] = top if last[top] == layer.name else f"{top}@{layer.name}"
            layer.top[i] = current[top]


def check_input(layers: Sequence[Any], shape: tuple[int, int, int]) -> None:
    """Check that a net has one input, of images of this shape.

    Raises
    ------
    NetError
        If it has another number of inputs, or an input of another shape.
    """
    inputs = [layer for layer in layers if layer.type == "Input"]
    tops = [top for layer in inputs for top in layer.top]
    shapes = [list(s.dim) for layer in inputs for s in layer.input_param.shape]
    if len(tops) != 1 or len(shapes) != 1 or shapes[0][1:] != [*shape]:
        raise NetError(
            f"expected one input of shape (N, {', '.join(map(str, shape))}), "
            f"found {dict(zip(tops, shapes, strict=False))}"
        )


def check_settings(layer: Any) -> None:
    """Check that Caffe knows all settings of a layer, and that they are finite.

    Raises
    ------
    NetError
        If a field is unknown, NaN or infinite.
    """
    if layer.stranger:
        raise NetError(
            f"layer '{layer.name}' ({layer.type}): expected Caffe's own settings, "
            f"found {layer.stranger}"
        )
    for name in not_finite(layer):
        raise NetError(
            f"expected finite numbers, found another as {name} of '{layer.name}'"
        )
