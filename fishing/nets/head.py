"""The head of a net: the chain of inner products that eq. 10 goes down.

In go the layers of a net, as Caffe's messages or our own, out come those of the head.
Both backends share this walk, and so refuse the same nets in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError

# Layers that hand on the values they get (dropout does so when a net is tested).
SAME_VALUES = {"Dropout", "Flatten", "Reshape"}


class Head(NamedTuple):
    """The layers from the lowest inner product to the logits.

    Attributes
    ----------
    layers : list
        From the logits down; some layers below the lowest inner product may follow it.
    inner_products : list
        From the lowest up.
    """

    layers: list[Any]
    inner_products: list[Any]


def find_head(
    layers: Sequence[Any],
    blobs: Mapping[str, str],
    keys: Sequence[str] = ("x5", "x6", "x7", "y8"),
) -> Head:
    """Walk from the logits down to x5.

    Parameters
    ----------
    layers : sequence of layers
        In each of the head a blob of its own must be written: see `separate_in_place`.
    blobs : mapping of str to str
        The net's names of the inputs of the inner products and of the logits.
    keys : sequence of str
        The keys of `blobs`, from the lowest input to the logits.

    Returns
    -------
    Head

    Raises
    ------
    NetError
        If the net has no head of ``len(keys) - 1`` inner products that fits `blobs`.
    """
    walk = _Walk(layers)
    found = [walk.inner_product(blobs[keys[-1]], keys[-1], pass_through=False)]
    for key in reversed(keys[1:-1]):
        walk.same_values(found[-1].bottom[0], blobs[key], key)
        found.append(walk.inner_product(blobs[key], key, pass_through=True))
    walk.same_values(found[-1].bottom[0], blobs[keys[0]], keys[0])
    return Head(walk.layers, found[::-1])


def check_softmax(layers: Sequence[Any], blobs: Mapping[str, str]) -> None:
    """Hold x8 to be the softmax of y8.

    Raises
    ------
    NetError
        If it is not, or if a blob that is named does not exist.
    """
    for blob in blobs.values():
        producer(layers, blob)
    softmax = producer(layers, blobs["x8"])
    if softmax.type != "Softmax" or list(softmax.bottom) != [blobs["y8"]]:
        raise NetError(
            f"expected x8 '{blobs['x8']}' to be the Softmax of y8 '{blobs['y8']}', "
            f"found the {softmax.type} of {' '.join(softmax.bottom) or 'nothing'}"
        )
    if softmax.softmax_param.axis not in (1, -1):
        raise NetError(
            f"expected '{softmax.name}' to take the softmax over the classes, found it "
            f"along axis {softmax.softmax_param.axis}"
        )


def producer(layers: Sequence[Any], blob: str) -> Any:
    """Find the layer that writes `blob` last.

    Raises
    ------
    NetError
        If there is none.
    """
    found = [layer for layer in layers if blob in layer.top]
    if not found:
        raise NetError(f"expected a blob '{blob}' in the net, found none of that name")
    return found[-1]


def separate_in_place(layers: Sequence[Any], x5: str) -> None:
    """Give each layer above `x5` a top of its own; the last writer keeps the name.

    The names of bottoms and tops are changed where they are.
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


def ancestors(layers: Sequence[Any], blobs: Sequence[str]) -> list[Any]:
    """List, in their order, the layers that any of `blobs` depends on."""
    needed, kept = set(blobs), []
    for layer in reversed(layers):
        if needed.intersection(layer.top):
            needed.update(layer.bottom)
            kept.append(layer)
    return kept[::-1]


class _Walk:
    """A way down from the logits, and the layers that it passed."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._below = list(layers)
        self.layers: list[Any] = []

    def same_values(self, blob: str, wanted: str, x: str) -> None:
        """Walk down from `blob` to `wanted` through layers that change no value."""
        while blob != wanted:
            layer = self._step(blob)
            if layer.type not in SAME_VALUES:
                raise NetError(
                    f"expected '{wanted}' ({x}) to feed the inner product above it, "
                    f"found '{layer.name}' ({layer.type}) between them"
                )
            blob = layer.bottom[0]

    def inner_product(self, blob: str, x: str, *, pass_through: bool) -> Any:
        """Walk down from `blob` to the inner product that it is made from."""
        layer = self._step(blob)
        while layer.type != "InnerProduct":
            if (
                not pass_through
                or len(layer.bottom) != 1
                or len(layer.top) != 1
                or layer.type in ("Convolution", "Pooling", "Input")
            ):
                raise NetError(
                    f"expected {x} to come from an InnerProduct layer, found "
                    f"'{layer.name}' ({layer.type})"
                )
            layer = self._step(layer.bottom[0])
        if layer.inner_product_param.axis != 1:
            raise NetError(
                f"expected '{layer.name}' to make one vector of an image, found an "
                f"inner product along axis {layer.inner_product_param.axis}"
            )
        return layer

    def _step(self, blob: str) -> Any:
        """Go down to the layer that writes `blob`; in-place layers share its name."""
        layer = producer(self._below, blob)
        place = [other is layer for other in self._below].index(True)
        self._below = self._below[:place]
        self.layers.append(layer)
        if not layer.bottom:
            raise NetError(
                f"expected '{layer.name}' ({layer.type}) to stand above x5, found that "
                "it has no bottom"
            )
        return layer
