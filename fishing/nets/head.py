"""The head of a net: the chain of inner products through which eq. 10 goes down.

All backends and `fishing temper` find the head here, by `prepare_net`, and therefore
refuse the same nets in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets.blobs import LAST, backward_blob, forward_blob, head_names
from fishing.nets.caffe_messages import EltwiseParameter
from fishing.nets.inner_products import (
    Shapes,
    fitting_input,
    is_mean,
    n_positions,
)
from fishing.nets.layers import place, producer

#: Types of layers that change no values in the TEST phase.
SAME_VALUES = frozenset({"Dropout", "Flatten", "Reshape", "Split"})
#: Types of layers that compute each value from one value, and may stand between inner
#: products. So may the Eltwise of all tops of a Slice that takes the maximum: maxout.
ELEMENT_WISE = SAME_VALUES.union(
    ("BatchNorm", "Bias", "ELU", "PReLU", "Power", "ReLU", "Scale", "Sigmoid", "TanH")
)


class Head(NamedTuple):
    """The layers from the logits down to the lowest inner product, and their blobs."""

    layers: list[Any]  # from the highest inner product down to the lowest
    inner_products: list[Any]  # from the lowest up
    blobs: dict[str, str]  # x6, x7, y8 ... to the blobs, activations below included
    lowest: str  # what the lowest inner product is over, in words

    def describe(self) -> str:
        """Describe the head: "1 inner product, fc1000 over pool5".

        Returns
        -------
        str
        """
        return described([p.name for p in self.inner_products[::-1]], self.lowest)

    def activations(self) -> list[str]:
        """Name the activations below the head, which no inner product reads: x6 ..."""
        below = head_names(LAST)[: LAST - len(self.inner_products)]
        return [name for name in self.blobs if name in below]

    def forward(self) -> dict[str, str]:
        """Map the names of stored activations, ``forward/x7``, to blobs of the net."""
        return {forward_blob(name): blob for name, blob in self.blobs.items()}

    def gradients(self) -> dict[str, str]:
        """Map ``backward/y8`` and the like to the blobs y_k, from the lowest up."""
        first = LAST + 1 - len(self.inner_products)
        return {
            backward_blob(k): product.top[0]
            for k, product in enumerate(self.inner_products, start=first)
        }


def described(products: Sequence[str], lowest: str) -> str:
    """Describe inner products, named from the highest down, and what is below them."""
    last, *others = products
    names = f"{', '.join(others[::-1])} and {last}" if others else last
    count = f"{len(products)} inner product{'s' if others else ''}"
    return f"{count}, {names} over {lowest}"


def find_head(layers: Sequence[Any], blobs: Mapping[str, str], shapes: Shapes) -> Head:
    """Walk from the logits down, as far as the inputs of inner products have names.

    Parameters
    ----------
    layers : sequence of LayerParameter
        Each layer above the lowest blob of `blobs` writes a blob of its own; see
        `separate_in_place`. Convolutions that are inner products are written as such;
        see `as_inner_products`.
    blobs : mapping of str to str
        Names of `head_names` to the net's own, y8 and x7 at least. What is named below
        the inputs of inner products is an activation, and may be any blob.
    shapes : mapping of str to tuple of int
        The shapes of the blobs of `layers`.

    Returns
    -------
    Head

    Raises
    ------
    NetError
        If y8 does not come from an inner product, or a name between inner products is
        not what feeds the one above it.
    """
    walk = Walk(layers, shapes)
    names = [name for name in reversed(head_names(LAST)[:-2]) if name in blobs]
    reached = {name: blobs[name] for name in ("y8", "x8") if name in blobs}
    products: list[Any] = []
    blob, lowest = blobs["y8"], ""
    product = walk.logits(blob)
    for name in names:
        if products and product is not None:
            product = walk.next_product(blob)
        if product is None:
            found_names = [product.name for product in products]
            walk.check_activation(blobs[name], name, described(found_names, lowest))
            reached[name] = blobs[name]
            continue
        blob = reached[name] = walk.input(product, blobs[name], name)
        lowest = blobs[name] if blob == blobs[name] else f"the mean of {blobs[name]}"
        products.append(product)
    start, end = (walk.passed.index(product) for product in (products[0], products[-1]))
    ordered = {name: reached[name] for name in head_names(LAST) if name in reached}
    return Head(walk.passed[start : end + 1], products[::-1], ordered, lowest)


class Walk:
    """The way down from the logits, and the layers that it has passed."""

    def __init__(self, layers: Sequence[Any], shapes: Shapes) -> None:
        self._layers = self._below = list(layers)
        self._shapes = shapes
        self._stop: Any = None  # the layer at which the way to a product ended
        self.passed: list[Any] = []

    def logits(self, blob: str) -> Any:
        """Walk down from the logits to the inner product that makes them."""
        layer = self._step(blob)
        while layer.type in SAME_VALUES and layer.bottom:
            layer = self._step(layer.bottom[0])
        if layer.type != "InnerProduct":
            raise NetError(self._no_logits(layer))
        self._check_vector(layer)
        return layer

    def input(self, product: Any, wanted: str, x: str) -> str:
        """Walk from an inner product down to its input, the blob `wanted`.

        The input is another blob where the product is over the mean of `wanted`.
        """
        blob = str(product.bottom[0])
        while blob != wanted:
            layer = producer(self._below, blob)
            if blob == f"{wanted}@{layer.name}" and is_mean(layer, self._shapes):
                return blob
            self._step(blob)
            if layer.type not in SAME_VALUES:
                raise NetError(
                    f"expected '{wanted}' ({x}) to feed the inner product above it, "
                    f"found '{layer.name}' ({layer.type}) between them"
                )
            blob = layer.bottom[0]
        return blob

    def next_product(self, blob: str) -> Any | None:
        """Walk down through element-wise layers to the next inner product, if any."""
        while True:
            layer = producer(self._below, blob)
            if layer.type == "InnerProduct":
                self._check_vector(layer)
                return self._step(blob)
            parts = self._maxout_parts(layer)
            if parts is None and (
                layer.type not in ELEMENT_WISE or len(layer.bottom) != 1
            ):
                self._stop = layer
                return None
            self._step(blob)
            if parts is not None:
                self._step(parts.top[0])
            blob = str((parts or layer).bottom[0])

    def check_activation(self, blob: str, x: str, head: str) -> None:
        """Check that no inner product is hidden between the head and an activation.

        Otherwise, a misspelt name would silently become that of an activation.
        """
        stop = self._stop
        is_vector = n_positions(self._shapes.get(stop.top[0])) == 1
        if stop.type == "Convolution" and is_vector and blob in stop.bottom:
            raise NetError(
                f"expected '{blob}' ({x}) to feed an inner product, found "
                f"{_no_product(stop, self._shapes)}"
            )
        hidden = self._hidden_product()
        if hidden is not None:
            raise NetError(
                f"expected layers of the types {' '.join(sorted(ELEMENT_WISE))}, or "
                f"Slice and Eltwise MAX, between '{hidden.name}' ({hidden.type}) and "
                f"the head of {head}, found '{stop.name}' ({stop.type}); "
                f"leave out {x} '{blob}'"
            )

    def _hidden_product(self) -> Any | None:
        """Find an inner product below the last layer, through blobs of one position."""
        todo = [(bottom, self._below) for bottom in self._stop.bottom]
        while todo:
            blob, below = todo.pop()
            if n_positions(self._shapes.get(blob)) > 1:
                continue
            layer = producer(below, blob)
            if layer.type == "InnerProduct":
                return layer
            rest = below[: place(below, layer)]
            todo += [(bottom, rest) for bottom in layer.bottom]
        return None

    def _maxout_parts(self, layer: Any) -> Any | None:
        """Find the Slice of all whose tops a layer takes the maximum, if it does."""
        is_max = layer.eltwise_param.operation == EltwiseParameter.MAX
        if layer.type != "Eltwise" or not is_max:
            return None
        parts = producer(self._below, layer.bottom[0])
        fits = parts.type == "Slice" and sorted(parts.top) == sorted(layer.bottom)
        return parts if fits else None

    def _step(self, blob: str) -> Any:
        """Go down to the layer that writes `blob`; in-place layers share its name."""
        layer = producer(self._below, blob)
        self._below = self._below[: place(self._below, layer)]
        self.passed.append(layer)
        if not layer.bottom:
            raise NetError(
                f"expected inner products below y8, found '{layer.name}' "
                f"({layer.type}), which has no bottom"
            )
        return layer

    def _check_vector(self, layer: Any) -> None:
        """Refuse an inner product that makes several vectors of an image."""
        shape = self._shapes.get(layer.top[0])
        if layer.inner_product_param.axis != 1 if shape is None else len(shape) != 1:
            raise NetError(
                f"expected '{layer.name}' to make one vector of an image, found an "
                f"inner product along axis {layer.inner_product_param.axis}"
            )

    def _no_logits(self, layer: Any) -> str:
        """Say why a layer does not make logits."""
        found = f"'{layer.name}' ({layer.type})"
        if layer.type == "Convolution":
            found = _no_product(layer, self._shapes)
            if n_positions(self._shapes.get(layer.top[0])) > 1:
                size = fitting_input(self._layers, layer.top[0], self._shapes)
                found += (
                    f"; an input of {size[0]} x {size[1]} pixels would make one"
                    if size
                    else "; no smaller input makes one"
                )
        elif is_mean(layer, self._shapes):
            below = producer(self._below, layer.bottom[0])
            if below.type in ELEMENT_WISE - SAME_VALUES:
                found = (
                    f"'{below.name}' ({below.type}) before the mean over positions by "
                    f"'{layer.name}', with which the gradient is a sum of many "
                    "matrices of rank 1"
                )
        return f"expected y8 to come from an inner product, found {found}"


def _no_product(layer: Any, shapes: Shapes) -> str:
    """Say why a convolution is not one inner product."""
    found, group = f"'{layer.name}' ({layer.type})", layer.convolution_param.group
    top = shapes.get(layer.top[0], ())
    if n_positions(top) > 1:
        size = " x ".join(map(str, top[1:]))
        return f"{found}, which makes a map of {size} positions"
    if group > 1:
        return f"{found} of {group} groups, each of which sees a part of its bottom"
    return f"{found}, whose kernel does not cover its bottom"
