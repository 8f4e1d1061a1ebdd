"""Turn a deploy net into the one that is run: eq. 9 and 10 in Caffe's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets import (
    BLOBS,
    ancestors,
    check_input,
    check_settings,
    head_names,
    prepare_head,
)
from fishing.nets.caffe_messages import LayerParameter, LossParameter, set_layers

# The number of parameter blobs of the head's layers without a `bias_term`.
_N_PARAMS = {"BatchNorm": 3, "PReLU": 1}
# Layers that read or write files of their own, or run code that a file names.
_USE_FILES = {"Data", "HDF5Data", "HDF5Output", "ImageData", "Python", "WindowData"}


class Tap(NamedTuple):
    """Where Caffe keeps a stored blob: in the ``data`` or ``diff`` of `blob`."""

    blob: str
    part: str


class GradientNet(NamedTuple):
    """A net that computes paired blobs, and where to find each of them."""

    param: Any  # NetParameter
    input: str
    taps: dict[str, Tap]


def gradient_net(
    deploy: Any,
    blobs: Mapping[str, str],
    *,
    temperature: float,
    batch_size: int,
    input_shape: tuple[int, int, int],
) -> GradientNet:
    """Derive the net whose backward pass computes dE/dy of the head's inner products.

    A ``SoftmaxWithLoss`` with temperature tau, uniform label and no normalisation is
    put on the logits y8, whose ``diff`` is then (softmax(y8 / tau) - 1/P) / tau, as in
    eq. 10. Caffe is told to stop below the lowest inner product (``propagate_down``)
    and to compute no gradients of weights (``lr_mult: 0``) but that of this product's
    bias: without something to learn, Caffe would skip the backward pass. Each in-place
    layer of the head gets a blob of its own, so that no y_k is overwritten by x_k.

    `deploy` is what `read_net` returns; it is left as it is. `blobs` are
    those of `NetSpec`, and `input_shape` is that of one image. A NetError says that the
    net has no head that fits `blobs`, or a layer that cannot be run.
    """
    param = type(deploy)()
    param.CopyFrom(deploy)
    _set_input(param, batch_size, input_shape)
    head = prepare_head(param.layer, blobs)
    outputs = [layer.top[0] for layer in head.inner_products]
    n_readers = sum(outputs[0] in layer.bottom for layer in param.layer)
    if n_readers != 1:
        raise NetError(f"expected one layer to read '{outputs[0]}', found {n_readers}")
    for layer in head.layers:
        _without_weight_gradients(layer)
    # The cheapest thing to learn; layers further down may be frozen.
    head.inner_products[0].param[-1].lr_mult = 1
    head.inner_products[0].propagate_down[:] = [False]
    set_layers(param, ancestors(param.layer, [blobs["x8"]]))
    _check_layers(param.layer)
    _add_loss(param, outputs[-1], temperature)
    taps = [Tap(blobs[name], "data") for name in head_names()]
    taps += [Tap(output, "diff") for output in outputs]
    return GradientNet(
        param, param.layer[0].top[0], dict(zip(BLOBS, taps, strict=True))
    )


def _set_input(param: Any, batch_size: int, input_shape: tuple[int, int, int]) -> None:
    """Put the one Input layer first, in the shape that will be fed."""
    check_input(param.layer, input_shape)
    tops = [t for layer in param.layer if layer.type == "Input" for t in layer.top]
    others = [layer for layer in param.layer if layer.type != "Input"]
    name = _free_name(others, "data")
    first = LayerParameter(name=name, type="Input", top=tops)
    first.input_param.shape.add(dim=[batch_size, *input_shape])
    set_layers(param, [first, *others])


def _check_layers(layers: Sequence[Any]) -> None:
    """Refuse layers that Caffe would run, but not as a net of images and weights."""
    seen: set[str] = set()
    for layer in layers:
        if layer.type in _USE_FILES:
            raise NetError(
                f"expected a net that needs nothing but images and weights, found "
                f"'{layer.name}' ({layer.type}), which reaches for files of its own"
            )
        check_settings(layer)
        # Caffe gives the weights of a name to the first layer of that name alone.
        if layer.name in seen:
            raise NetError(
                f"expected each layer to have a name of its own, found '{layer.name}' "
                "once more"
            )
        seen.add(layer.name)


def _without_weight_gradients(layer: Any) -> None:
    """Set ``lr_mult: 0`` for all parameters, which spares Caffe their gradients."""
    if layer.type == "InnerProduct":
        n_params = 1 + layer.inner_product_param.bias_term
    elif layer.type == "Scale":
        n_params = 1 + layer.scale_param.bias_term
    else:
        n_params = _N_PARAMS.get(layer.type, 0)
    layer.ClearField("param")
    for _ in range(n_params):
        layer.param.add(lr_mult=0, decay_mult=0)


def _add_loss(param: Any, logits: str, temperature: float) -> None:
    """Put the cross-entropy with the uniform label on the logits."""
    name = _free_name(param.layer, "loss")
    loss = param.layer.add(
        name=name, type="SoftmaxWithLoss", bottom=[logits], top=[name]
    )
    loss.softmax_param.temperature = temperature
    loss.loss_param.uniform_label = True
    loss.loss_param.normalization = LossParameter.NONE


def _free_name(layers: Sequence[Any], name: str) -> str:
    """Find a name like `name` that no layer and no blob has."""
    taken = {layer.name for layer in layers}
    taken.update(top for layer in layers for top in layer.top)
    while name in taken:
        name += "_"
    return name
