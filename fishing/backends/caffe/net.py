"""From deploy.prototxt to the net that is run: eq. 9 and 10 in Caffe's own terms.

In goes a deploy net as a `caffe_pb2.NetParameter`, out comes another one that computes
dE/dy_k of the head in its backward pass, and the place where each stored blob is found.
Imported where pycaffe is: in the worker process of the Caffe backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from fishing.errors import BackendError, NetError
from fishing.files import read_at_most
from fishing.nets.caffe_files import MAX_NET_BYTES, is_included
from fishing.nets.head import (
    ancestors,
    check_softmax,
    find_head,
    separate_in_place,
)

# How many parameter blobs the other layers have that a head may hold.
_N_PARAMS = {"BatchNorm": 3, "PReLU": 1}
# Layers that read or write files of their own, or run code that a file names.
_REACHES_OUT = {
    "Data",
    "HDF5Data",
    "HDF5Output",
    "ImageData",
    "Python",
    "WindowData",
}


class Tap(NamedTuple):
    """Where Caffe keeps a stored blob: in the ``data`` or ``diff`` of `blob`."""

    blob: str
    part: str


class GradientNet(NamedTuple):
    """A net that makes paired blobs, and where to find each of them."""

    param: Any  # caffe_pb2.NetParameter
    input: str
    taps: dict[str, Tap]


def read_deploy(prototxt: Path) -> Any:
    """Parse a prototxt into a `caffe_pb2.NetParameter`.

    Raises
    ------
    NetError
        If it is not one, or in the format of before 2014.
    """
    deploy = caffe_pb2.NetParameter()
    try:
        content = read_at_most(prototxt, MAX_NET_BYTES)
        text_format.Parse(content.decode("utf-8"), deploy)
    except (text_format.ParseError, ValueError, OSError, RecursionError) as error:
        raise NetError(f"{prototxt}: expected a deploy net, found {error}") from None
    if deploy.layers:
        raise NetError(
            f"{prototxt}: expected layers in the format 'layer {{ ... }}', found the "
            "old 'layers { ... }'; Caffe's upgrade_net_proto_text converts it"
        )
    return deploy


def gradient_net(
    deploy: Any,
    blobs: Mapping[str, str],
    *,
    temperature: float,
    batch_size: int,
    input_size: int,
) -> GradientNet:
    """Derive the net whose backward pass makes dE/dy6, dE/dy7 and dE/dy8.

    A ``SoftmaxWithLoss`` with temperature tau, uniform label and no normalisation is
    put on the logits, so that its ``diff`` is (softmax(y8 / tau) - 1/P) / tau (eq. 10).
    Caffe itself is told to stop below y6 (``propagate_down``) and to compute no
    gradients of weights (``lr_mult: 0``) but that of fc6's bias: without something to
    learn Caffe would not go back at all. In the head each in-place layer gets a blob of
    its own, so that no y_k is overwritten by x_k.

    Parameters
    ----------
    deploy : caffe_pb2.NetParameter
        Left as it is.
    blobs : mapping of str to str
        The net's names of x5, x6, x7, y8 and x8.
    temperature : float
    batch_size : int
    input_size : int
        Pixels of each side, as net.toml says.

    Raises
    ------
    NetError
        If the net has no head of three inner products that fits `blobs`.
    BackendError
        If this Caffe does not carry the project's patch.
    """
    param = caffe_pb2.NetParameter()
    param.CopyFrom(deploy)
    _keep(param, [layer for layer in param.layer if is_included(layer, param)])
    _input_layer(param, batch_size, input_size)
    separate_in_place(param.layer, blobs["x5"])
    check_softmax(param.layer, blobs)
    head = find_head(param.layer, blobs)
    y6, y7, y8 = (layer.top[0] for layer in head.inner_products)
    n_readers = sum(y6 in layer.bottom for layer in param.layer)
    if n_readers != 1:
        raise NetError(f"expected one layer to read '{y6}', found {n_readers}")
    for layer in head.layers:
        _without_weight_gradients(layer)
    # The cheapest thing to learn; layers further down may be frozen.
    head.inner_products[0].param[-1].lr_mult = 1
    head.inner_products[0].propagate_down[:] = [False]
    _keep(param, ancestors(param.layer, [blobs["x8"]]))
    _check_layers(param.layer)
    _add_loss(param, y8, temperature)
    taps = {
        "forward/x5": Tap(blobs["x5"], "data"),
        "forward/x6": Tap(blobs["x6"], "data"),
        "forward/x7": Tap(blobs["x7"], "data"),
        "forward/y8": Tap(blobs["y8"], "data"),
        "forward/x8": Tap(blobs["x8"], "data"),
        "backward/y6": Tap(y6, "diff"),
        "backward/y7": Tap(y7, "diff"),
        "backward/y8": Tap(y8, "diff"),
    }
    return GradientNet(param, param.layer[0].top[0], taps)


def _check_layers(layers: Sequence[Any]) -> None:
    """Refuse layers that Caffe would run, but not as a net of images and weights."""
    seen: set[str] = set()
    for layer in layers:
        if layer.type in _REACHES_OUT:
            raise NetError(
                f"expected a net that needs nothing but images and weights, found "
                f"'{layer.name}' ({layer.type}), which reaches for files of its own"
            )
        for name in _not_finite(layer):
            raise NetError(
                f"expected finite numbers, found another as {name} of '{layer.name}'"
            )
        # Caffe gives the weights of a name to the first layer of that name alone.
        if layer.name in seen:
            raise NetError(
                f"expected each layer to have a name of its own, found '{layer.name}' "
                "once more"
            )
        seen.add(layer.name)


def _not_finite(message: Any) -> Iterator[str]:
    """List fields that are NaN or infinite, here and in the messages within."""
    for field, value in message.ListFields():
        is_one = hasattr(value, "ListFields") or not isinstance(value, Sequence)
        for part in [value] if is_one else value:
            if hasattr(part, "ListFields"):
                yield from (f"{field.name}.{name}" for name in _not_finite(part))
            elif isinstance(part, float) and not math.isfinite(part):
                yield field.name


def _input_layer(param: Any, batch_size: int, input_size: int) -> None:
    """Give the net one Input layer, first, of the shape that will be fed."""
    shapes = [list(shape.dim) for shape in param.input_shape]
    dims = list(param.input_dim)
    shapes += [dims[i : i + 4] for i in range(0, len(dims), 4)]
    tops = list(param.input)
    for layer in [layer for layer in param.layer if layer.type == "Input"]:
        tops += list(layer.top)
        shapes += [list(shape.dim) for shape in layer.input_param.shape]
        param.layer.remove(layer)
    if len(tops) != 1 or len(shapes) != 1 or shapes[0][1:] != [3, *2 * [input_size]]:
        raise NetError(
            f"expected one input of shape (N, 3, {input_size}, {input_size}), "
            f"found {dict(zip(tops, shapes, strict=False))}"
        )
    for field in ("input", "input_shape", "input_dim"):
        param.ClearField(field)
    shape = caffe_pb2.BlobShape(dim=[batch_size, 3, input_size, input_size])
    name = _free_name(param, "data")
    layer = caffe_pb2.LayerParameter(name=name, type="Input", top=tops)
    layer.input_param.shape.append(shape)
    _keep(param, [layer, *param.layer])


def _keep(param: Any, layers: Sequence[Any]) -> None:
    """Make `layers` the layers of a net."""
    copies = [
        caffe_pb2.LayerParameter.FromString(layer.SerializeToString())
        for layer in layers
    ]
    del param.layer[:]
    param.layer.extend(copies)


def _without_weight_gradients(layer: Any) -> None:
    """Set ``lr_mult: 0`` for all parameters, which spares Caffe their gradients."""
    if layer.type == "InnerProduct":
        n_params = 1 + layer.inner_product_param.bias_term
    elif layer.type == "Scale":
        n_params = 1 + layer.scale_param.bias_term
    else:
        n_params = _N_PARAMS.get(layer.type, 0)
    del layer.param[:]
    layer.param.extend(
        caffe_pb2.ParamSpec(lr_mult=0, decay_mult=0) for _ in range(n_params)
    )


def _add_loss(param: Any, y8: str, temperature: float) -> None:
    """Put the cross-entropy with the uniform label on the logits."""
    name = _free_name(param, "loss")
    loss = param.layer.add(name=name, type="SoftmaxWithLoss", bottom=[y8], top=[name])
    try:
        loss.softmax_param.temperature = temperature
        loss.loss_param.uniform_label = True
    except AttributeError:
        raise BackendError(
            "expected Caffe with the patch of this project, found a Caffe whose "
            "SoftmaxWithLoss has no temperature; run `make caffe-patched`"
        ) from None
    loss.loss_param.normalization = caffe_pb2.LossParameter.NONE


def _free_name(param: Any, name: str) -> str:
    """Find a name like `name` that no layer and no blob has."""
    taken = {layer.name for layer in param.layer}
    taken.update(top for layer in param.layer for top in layer.top)
    while name in taken:
        name += "_"
    return name
