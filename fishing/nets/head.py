"""The head of a net: the chain of inner products through which eq. 10 goes down.

All backends and `fishing temper` find the head with `prepare_head`, and therefore
refuse the same nets in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets.blobs import head_names
from fishing.nets.layers import producer, separate_in_place

#: Types of layers that change no values in the TEST phase.
SAME_VALUES = {"Dropout", "Flatten", "Reshape"}


class Head(NamedTuple):
    """The layers from the lowest inner product to the logits."""

    layers: list[Any]  # from the logits down, maybe with some below the lowest product
    inner_products: list[Any]  # from the lowest up


def prepare_head(
    layers: Sequence[Any], blobs: Mapping[str, str], n_inner_products: int = 3
) -> Head:
    """Give each layer of the head a blob of its own, and find the head.

    Parameters
    ----------
    layers : sequence of LayerParameter
        All layers of a net. Names of bottoms and tops above x5 are changed in place.
    blobs : mapping of str to str
        The net's names of the blobs that `head_names` lists.
    n_inner_products : int
        How many inner products the head has.

    Returns
    -------
    Head

    Raises
    ------
    NetError
        If x8 is not the softmax of y8, or the net has no head that fits `blobs`.
    """
    *inputs, logits, _ = head_names(n_inner_products)
    separate_in_place(layers, blobs[inputs[0]])
    _check_softmax(layers, blobs)
    return find_head(layers, blobs, (*inputs, logits))


def find_head(
    layers: Sequence[Any], blobs: Mapping[str, str], names: Sequence[str]
) -> Head:
    """Walk from the logits down to the input of the lowest inner product.

    Each layer of the head writes a blob of its own; see `separate_in_place`. `names`
    are keys of `blobs`, from the input of the lowest inner product to the logits.
    """
    walk = _Walk(layers)
    found = [walk.inner_product(blobs[names[-1]], names[-1], pass_through=False)]
    for name in reversed(names[1:-1]):
        walk.same_values(found[-1].bottom[0], blobs[name], name)
        found.append(walk.inner_product(blobs[name], name, pass_through=True))
    walk.same_values(found[-1].bottom[0], blobs[names[0]], names[0])
    return Head(walk.layers, found[::-1])


def _check_softmax(layers: Sequence[Any], blobs: Mapping[str, str]) -> None:
    """Check that all blobs exist, and that x8 is the softmax of y8."""
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


class _Walk:
    """The way down from the logits, and the layers that it has passed."""

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
        """Walk down from `blob` to the inner product that it is computed from."""
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
