"""The shapes of a net's blobs, and the checks of a net before any backend runs it.

Both backends check a net here, and therefore refuse the same nets in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fishing.errors import NetError
from fishing.nets.axes import Shape
from fishing.nets.layer_shapes import layer_shapes
from fishing.nets.layers import check_input, refusal


def blob_shapes(layers: Sequence[Any], input_shape: Sequence[int]) -> dict[str, Shape]:
    """Compute the shape of each blob for one image, as far as it can be known.

    Parameters
    ----------
    layers : sequence of LayerParameter
        What `read_net` returns in ``layer``, or a part of it.
    input_shape : sequence of int
        (channels, height, width), which the first input has. Any other input has the
        shape that the net gives it.

    Returns
    -------
    dict of str to tuple of int
        Without the batch axis. Blobs are missing that come from a layer of a type that
        is not known, or from one that cannot be computed. `check_layers` refuses these.

    Examples
    --------
    >>> from fishing.nets import load_net, read_net
    >>> spec = load_net("tinyalexnet")
    >>> shapes = blob_shapes(read_net(spec.model).layer, spec.preprocess.shape)
    >>> shapes["conv1"], shapes["fc8"]
    ((48, 32, 32), (200,))
    """
    shapes: dict[str, Shape] = {}
    for layer in layers:
        try:
            found = _tops(layer, shapes, input_shape)
        except NetError:
            for top in layer.top:
                shapes.pop(top, None)
        else:
            shapes |= zip(layer.top, found, strict=True)
    return shapes


def check_layers(layers: Sequence[Any], input_shape: Sequence[int]) -> None:
    """Check all layers that a net needs, in the order in which they run.

    Parameters
    ----------
    layers : sequence of LayerParameter
        The layers that are run; see `ancestors`.
    input_shape : sequence of int
        (channels, height, width)

    Raises
    ------
    NetError
        If no backend has a layer of that type; if it has settings or bottoms with which
        Caffe does not run it, or mixes images; if two layers share a name or
        parameters; or if the net has more than one input, or one of another shape.
    """
    if any(layer.type == "Input" for layer in layers):
        check_input(layers, input_shape)
    _check_names(layers)
    shapes: dict[str, Shape] = {}
    for layer in layers:
        shapes |= zip(layer.top, _tops(layer, shapes), strict=True)
    check_input(layers, input_shape)


def _tops(
    layer: Any,
    shapes: Mapping[str, Shape],
    input_shape: Sequence[int] | None = None,
) -> list[Shape]:
    """Compute the shapes of a layer's tops from those of the blobs before it."""
    if layer.type == "Input":
        given = [tuple(s.dim)[1:] for s in layer.input_param.shape]
        given = given * len(layer.top) if len(given) == 1 else given
        if len(given) != len(layer.top):
            raise refusal(layer, "a shape for each top", f"{len(given)}")
        if input_shape is None or shapes:
            return given
        return [tuple(input_shape), *given[1:]]
    for bottom in layer.bottom:
        if bottom not in shapes:
            raise refusal(layer, f"a layer before it to write '{bottom}'", "none")
    for top in layer.top:
        if top in shapes and top not in layer.bottom:
            raise refusal(layer, "a top of its own", f"'{top}' of another layer")
    return layer_shapes(layer, [shapes[bottom] for bottom in layer.bottom])


def _check_names(layers: Sequence[Any]) -> None:
    """Refuse layers of one name, and layers that share their parameters."""
    # Caffe gives the weights of a name to the first layer of that name alone.
    names: set[str] = set()
    params: set[str] = set()
    for layer in layers:
        shared = {p.name for p in layer.param if p.name}
        again = ({layer.name} & names) | (shared & params)
        if again:
            raise refusal(layer, "names of its own", f"'{min(again)}' once more")
        names.add(layer.name)
        params |= shared
