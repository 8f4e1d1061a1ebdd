"""What a net has for its training alone, and how images come in instead."""

from __future__ import annotations

from typing import Any

from fishing.nets.caffe_messages import LayerParameter, set_layers

# Layers that bring images, with the message that holds their settings.
_DATA = {
    "Data": "data_param",
    "DummyData": "dummy_data_param",
    "ImageData": "image_data_param",
    "MemoryData": "memory_data_param",
    "WindowData": "window_data_param",
}
_WITHOUT_RESULT = {"Accuracy", "HDF5Output", "Silence"}


def leave_out_training(net: Any) -> None:
    """Leave out losses, Accuracy and Silence, and put an Input where images come in.

    The first top of a layer such as Data becomes the input, if the layer says how large
    it is: by ``crop_size``, say. `check_layers` refuses the layer otherwise.
    """
    kept = [layer for layer in net.layer if not _is_for_training(layer.type)]
    if not any(layer.type == "Input" for layer in kept):
        kept = [_as_input(layer) for layer in kept]
    set_layers(net, kept)


def _is_for_training(kind: str) -> bool:
    return kind in _WITHOUT_RESULT or kind.endswith("Loss")


def _as_input(layer: Any) -> Any:
    """Turn a layer that brings images into an Input, if it tells their size."""
    shape = _image_shape(layer) if layer.type in _DATA and layer.top else []
    if not shape:
        return layer
    found = LayerParameter(name=layer.name, type="Input", top=layer.top[:1])
    found.input_param.shape.add(dim=[1, *shape])
    return found


def _image_shape(layer: Any) -> list[int]:
    """Find (channels, height, width) of the images that a layer brings, or nothing."""
    p, transform = getattr(layer, _DATA[layer.type]), layer.transform_param
    if layer.type == "DummyData":
        if p.shape:
            return list(p.shape[0].dim)[1:]
        sides = p.channels, p.height, p.width
        return [side[0] for side in sides] if all(sides) else []
    crop = transform.crop_size or getattr(p, "crop_size", 0)
    if layer.type == "MemoryData":
        sizes = [crop or p.height, crop or p.width]
        return [p.channels, *sizes] if p.channels and all(sizes) else []
    # Data does not tell how many channels its images have: three, unless it is forced.
    grey = transform.force_gray or not getattr(p, "is_color", True)
    sizes = [crop or getattr(p, f"new_{side}", 0) for side in ("height", "width")]
    return [1 if grey else 3, *sizes] if all(sizes) else []
