"""From deploy.prototxt to the net that is run: eq. 9 and 10 in Caffe's own terms.

In goes a deploy net as a `caffe_pb2.NetParameter`, out comes another one that computes
dE/dy_k of the head in its backward pass, and the place where each stored blob is found.
Imported where pycaffe is: in the worker process of the Caffe backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from fishing.errors import BackendError, NetError

# Layers that hand on the values they get (dropout does so when a net is tested).
_SAME_VALUES = {"Dropout", "Flatten", "Reshape"}
# How many parameter blobs the other layers have that a head may hold.
_N_PARAMS = {"BatchNorm": 3, "PReLU": 1}


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
        text_format.Parse(prototxt.read_text(encoding="utf-8"), deploy)
    except (text_format.ParseError, UnicodeDecodeError) as error:
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
    gradients of weights (``lr_mult: 0``). In the head each in-place layer gets a blob
    of its own, so that no y_k is overwritten by x_k.

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
    _input_layer(param, batch_size, input_size)
    for blob in blobs.values():
        _producer(param, blob)  # refuses names that the net has not
    _separate_in_place(param, blobs["x5"])
    softmax = _producer(param, blobs["x8"])
    if softmax.type != "Softmax" or list(softmax.bottom) != [blobs["y8"]]:
        raise NetError(
            f"expected x8 '{blobs['x8']}' to be the Softmax of y8 '{blobs['y8']}', "
            f"found the {softmax.type} of {' '.join(softmax.bottom) or 'nothing'}"
        )
    head = _Head(param, blobs)
    for layer in head.layers:
        _without_weight_gradients(layer)
    head.inner_products[0].propagate_down[:] = [False]
    head.after_y6.propagate_down[:] = [True]
    y6, y7, y8 = (layer.top[0] for layer in head.inner_products)
    _keep_ancestors(param, blobs["x8"])
    _add_loss(param, y8, temperature)
    taps = {
        "forward/pool5": Tap(blobs["x5"], "data"),
        "forward/fc6": Tap(blobs["x6"], "data"),
        "forward/fc7": Tap(blobs["x7"], "data"),
        "forward/fc8": Tap(blobs["y8"], "data"),
        "forward/prob": Tap(blobs["x8"], "data"),
        "backward/fc6": Tap(y6, "diff"),
        "backward/fc7": Tap(y7, "diff"),
        "backward/fc8": Tap(y8, "diff"),
    }
    return GradientNet(param, param.layer[0].top[0], taps)


class _Head:
    """The chain of layers from x5 to y8, walked from its end."""

    def __init__(self, param: Any, blobs: Mapping[str, str]) -> None:
        self._param = param
        self.layers: list[Any] = []
        y8 = self._inner_product(blobs["y8"], "y8", pass_through=False)
        y7 = self._below(y8, blobs, "x7")
        y6 = self._below(y7, blobs, "x6")
        self._same_values(y6.bottom[0], blobs["x5"], "x5")
        self.inner_products = (y6, y7, y8)
        consumers = [layer for layer in param.layer if y6.top[0] in layer.bottom]
        if len(consumers) != 1:
            raise NetError(
                f"expected one layer to read '{y6.top[0]}', found {len(consumers)}"
            )
        self.after_y6 = consumers[0]

    def _below(self, layer: Any, blobs: Mapping[str, str], x: str) -> Any:
        """Find the inner product that x, the input of `layer`, comes from."""
        self._same_values(layer.bottom[0], blobs[x], x)
        return self._inner_product(blobs[x], x, pass_through=True)

    def _same_values(self, blob: str, wanted: str, x: str) -> None:
        """Walk down from `blob` to `wanted` through layers that change no value."""
        while blob != wanted:
            layer = _producer(self._param, blob)
            if layer.type not in _SAME_VALUES:
                raise NetError(
                    f"expected '{wanted}' ({x}) to feed the inner product above it, "
                    f"found '{layer.name}' ({layer.type}) between them"
                )
            self.layers.append(layer)
            blob = layer.bottom[0]

    def _inner_product(self, blob: str, x: str, *, pass_through: bool) -> Any:
        """Walk down from `blob` to the inner product that it is made from."""
        layer = _producer(self._param, blob)
        while layer.type != "InnerProduct":
            if (
                not pass_through
                or len(layer.bottom) != 1
                or len(layer.top) != 1
                or (layer.type in ("Convolution", "Pooling", "Input"))
            ):
                raise NetError(
                    f"expected {x} to come from an InnerProduct layer, found "
                    f"'{layer.name}' ({layer.type})"
                )
            self.layers.append(layer)
            layer = _producer(self._param, layer.bottom[0])
        self.layers.append(layer)
        return layer


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
    layer = caffe_pb2.LayerParameter(name="data", type="Input", top=tops)
    layer.input_param.shape.append(shape)
    _insert_first(param, layer)


def _insert_first(param: Any, first: Any) -> None:
    """Put a layer before all others."""
    layers = [first, *param.layer]
    copies = [
        caffe_pb2.LayerParameter.FromString(p.SerializeToString()) for p in layers
    ]
    del param.layer[:]
    param.layer.extend(copies)


def _producer(param: Any, blob: str) -> Any:
    """Find the layer that writes `blob` last."""
    layers = [layer for layer in param.layer if blob in layer.top]
    if not layers:
        raise NetError(f"expected a blob '{blob}' in the net, found none of that name")
    return layers[-1]


def _separate_in_place(param: Any, x5: str) -> None:
    """Give each layer above `x5` a top of its own; the last writer keeps the name."""
    start = list(param.layer).index(_producer(param, x5)) + 1
    head = param.layer[start:]
    last = {top: layer.name for layer in head for top in layer.top}
    current: dict[str, str] = {}
    for layer in head:
        layer.bottom[:] = [current.get(bottom, bottom) for bottom in layer.bottom]
        for i, top in enumerate(layer.top):
            current[top] = top if last[top] == layer.name else f"{top}@{layer.name}"
            layer.top[i] = current[top]


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


def _keep_ancestors(param: Any, blob: str) -> None:
    """Drop all layers that `blob` does not depend on."""
    needed, kept = {blob}, []
    for layer in reversed(param.layer):
        if needed.intersection(layer.top):
            needed.update(layer.bottom)
            kept.append(caffe_pb2.LayerParameter.FromString(layer.SerializeToString()))
    del param.layer[:]
    param.layer.extend(reversed(kept))


def _add_loss(param: Any, y8: str, temperature: float) -> None:
    """Put the cross-entropy with the uniform label on the logits."""
    loss = param.layer.add(
        name="loss", type="SoftmaxWithLoss", bottom=[y8], top=["loss"]
    )
    try:
        loss.softmax_param.temperature = temperature
        loss.loss_param.uniform_label = True
    except AttributeError:
        raise BackendError(
            "expected Caffe with the patch of this project, found a Caffe whose "
            "SoftmaxWithLoss has no temperature; run `make caffe-patched`"
        ) from None
    loss.loss_param.normalization = caffe_pb2.LossParameter.NONE
