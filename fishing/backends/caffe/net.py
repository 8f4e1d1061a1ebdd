"""Turn a deploy net into the one that is run: eq. 9 and 10 in Caffe's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fishing.nets import ONNX_ALONE, PreparedNet, refusal
from fishing.nets.caffe_messages import (
    LossParameter,
    NetParameter,
    set_layers,
)

# The number of parameter blobs of the head's layers without a `bias_term`.
_N_PARAMS = {"BatchNorm": 3, "Bias": 1, "PReLU": 1}


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
    net: PreparedNet, *, temperature: float, batch_size: int
) -> GradientNet:
    """Derive the net whose backward pass computes dE/dy of the head's inner products.

    A ``SoftmaxWithLoss`` with temperature tau, uniform label and no normalisation is
    put on the logits y8, whose ``diff`` is then (softmax(y8 / tau) - 1/P) / tau, as in
    eq. 10. Caffe is told to stop below the lowest inner product (``propagate_down``)
    and to compute no gradients of weights (``lr_mult: 0``) but that of this product's
    bias: without something to learn, Caffe would skip the backward pass.

    `net` is left as it is. A NetError says that it has a layer of a fork.
    """
    param = NetParameter()
    set_layers(param, net.layers)
    _check_layers(param.layer)
    _set_input(param.layer[0], batch_size)
    head = {layer.name for layer in net.head.layers}
    for layer in param.layer:
        if layer.name in head:
            _without_weight_gradients(layer)
        if layer.name == net.head.inner_products[0].name:
            # The cheapest thing to learn; layers further down may be frozen.
            layer.param[-1].lr_mult = 1
            layer.propagate_down[:] = [False]
    taps = {name: Tap(blob, "data") for name, blob in net.head.forward().items()}
    gradients = net.head.gradients()
    taps |= {name: Tap(blob, "diff") for name, blob in gradients.items()}
    _add_loss(param, net.head.inner_products[-1].top[0], temperature)
    return GradientNet(param, param.layer[0].top[0], taps)


def _set_input(layer: Any, batch_size: int) -> None:
    """Give the input the batch size that will be fed, and a name of its own."""
    layer.input_param.shape[0].dim[0] = batch_size


def _check_layers(layers: Sequence[Any]) -> None:
    """Refuse layers that patched Caffe does not have."""
    for layer in layers:
        if layer.type in ONNX_ALONE:
            found = "one of a fork; run it with --backend onnx"
            raise refusal(layer, "a layer that BVLC/caffe 1.0 has", found)


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
