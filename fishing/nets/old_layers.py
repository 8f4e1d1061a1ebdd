"""Layers and inputs of old formats, as those of today."""

from __future__ import annotations

from typing import Any

from fishing.nets.caffe_messages import (
    LayerParameter,
    V1LayerParameter,
    readable,
    set_layers,
)

# The V1 types that are more than today's in capitals, as INNER_PRODUCT is InnerProduct.
_V1_TYPES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}
# The types of 2013 in today's words, and the message that holds their settings.
_V0_TYPES = {
    "accuracy": ("Accuracy", ""),
    "bnll": ("BNLL", ""),
    "concat": ("Concat", "concat_param"),
    "conv": ("Convolution", "convolution_param"),
    "data": ("Data", "data_param"),
    "dropout": ("Dropout", "dropout_param"),
    "euclidean_loss": ("EuclideanLoss", ""),
    "flatten": ("Flatten", ""),
    "hdf5_data": ("HDF5Data", "hdf5_data_param"),
    "hdf5_output": ("HDF5Output", ""),
    "im2col": ("Im2col", ""),
    "images": ("ImageData", "image_data_param"),
    "infogain_loss": ("InfogainLoss", ""),
    "innerproduct": ("InnerProduct", "inner_product_param"),
    "lrn": ("LRN", "lrn_param"),
    "multinomial_logistic_loss": ("MultinomialLogisticLoss", ""),
    "pool": ("Pooling", "pooling_param"),
    "relu": ("ReLU", ""),
    "sigmoid": ("Sigmoid", ""),
    "softmax": ("Softmax", ""),
    "softmax_loss": ("SoftmaxWithLoss", ""),
    "split": ("Split", ""),
    "tanh": ("TanH", ""),
    "window_data": ("WindowData", "window_data_param"),
}
# The settings of 2013 that have another name today.
_V0_SETTINGS = {"biasterm": "bias_term", "kernelsize": "kernel_size"}


def upgrade_layers(net: Any) -> None:
    """Turn the ``layers`` of a net into ``layer``, as Caffe itself does.

    These are layers of the V1 format, and of V0, the format of 2013, whose settings
    stand in a ``layer`` of their own. A ValueError refuses a net that has both
    ``layer`` and ``layers``, and padding of 2013 before other layers than Caffe pads.
    """
    if net.layers and net.layer:
        raise ValueError("both 'layer' and 'layers'")
    padded: dict[str, tuple[str, int]] = {}  # what padding layers write: bottom, pad
    for old in net.layers:
        if old.HasField("layer") and old.layer.type == "padding":
            if len(old.bottom) != 1 or len(old.top) != 1:
                raise ValueError("a padding layer without one bottom and one top")
            padded[old.top[0]] = old.bottom[0], old.layer.pad
            continue
        new = net.layer.add()
        if old.HasField("layer"):
            _upgrade_v0(old, new)
            _pad(new, padded)
        else:
            _upgrade_v1(old, new)
        for top in new.top:
            padded.pop(top, None)
    net.ClearField("layers")


def upgrade_inputs(net: Any) -> None:
    """Turn ``input``, ``input_shape`` and ``input_dim`` into layers of type ``Input``.

    A ValueError refuses inputs without a shape and shapes without an input.
    """
    dims = list(net.input_dim)
    shapes = [list(shape.dim) for shape in net.input_shape]
    shapes += [dims[i : i + 4] for i in range(0, len(dims), 4)]
    names = list(net.input)
    if len(names) != len(shapes):
        raise ValueError(f"{len(names)} inputs with {len(shapes)} shapes")
    if not names:
        return
    inputs = [LayerParameter(name=name, type="Input", top=[name]) for name in names]
    for layer, dim in zip(inputs, shapes, strict=True):
        layer.input_param.shape.add(dim=dim)
    set_layers(net, [*inputs, *net.layer])
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def _upgrade_v1(old: Any, new: Any) -> None:
    """Copy a V1 layer into a layer of today, without what only training needs."""
    name = V1LayerParameter.LayerType.Name(old.type)
    words = "".join(word.capitalize() for word in name.split("_"))
    new.type = _V1_TYPES.get(name, words)
    kept = set(LayerParameter.DESCRIPTOR.fields_by_name) - {"type", "param"}
    for field, value in old.ListFields():
        if field.name not in kept:
            continue
        if isinstance(value, (str, bytes)):
            setattr(new, field.name, readable(value))
        else:
            getattr(new, field.name).MergeFrom(value)
    for shared in old.param:
        new.param.add(name=readable(shared))


def _upgrade_v0(old: Any, new: Any) -> None:
    """Copy a layer of 2013 into a layer of today, without what only training needs.

    Like Caffe, this drops settings that the type of the layer does not have.
    """
    found = old.layer
    kind = readable(found.type)
    new.name = readable(found.name)
    if old.HasField("stranger"):
        new.stranger = old.stranger
    new.type, message = _V0_TYPES.get(kind, (kind, ""))
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if found.HasField("cropsize"):
        new.transform_param.crop_size = found.cropsize
    if not message:
        return
    settings = getattr(new, message)
    known = settings.DESCRIPTOR.fields_by_name
    for field, value in found.ListFields():
        name = _V0_SETTINGS.get(field.name, field.name)
        if name not in known or field.name == "source":
            continue
        target = getattr(settings, name)
        if hasattr(target, "extend"):
            target.append(value)
        elif field.message_type is None:
            setattr(settings, name, value)


def _pad(layer: Any, padded: dict[str, tuple[str, int]]) -> None:
    """Take the place of the padding layer of 2013 before a layer, if there is one."""
    found = [bottom for bottom in layer.bottom if bottom in padded]
    if not found:
        return
    if layer.type not in ("Convolution", "Pooling") or len(layer.bottom) != 1:
        raise ValueError(f"a padding layer before '{layer.name}' ({layer.type})")
    layer.bottom[0], pad = padded[found[0]]
    if layer.type == "Convolution":
        layer.convolution_param.pad[:] = [pad]
    else:
        layer.pooling_param.pad = pad
