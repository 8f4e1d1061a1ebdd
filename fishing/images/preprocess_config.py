"""Read from other libraries' files how images are prepared for a net.

timm writes `config.json`, and Hugging Face `preprocessor_config.json`. Nets of
torchvision and Caffe come without such a file; their customs have names here.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.files import read_at_most
from fishing.images.preprocess import INTERPOLATIONS, Preprocess
from fishing.images.setting_kinds import (
    FLAG,
    HEIGHT_WIDTH,
    SIDE,
    TABLE,
    Kind,
    either,
    number,
    numbers,
    one_of,
    shown,
)

#: Names that stand for the customs of a library.
PRESETS = ("torchvision", "caffe")
_MAX_BYTES = 2**20
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, of 1
_BY_HAND = "write [input] of net.toml by hand"


class _Processor(NamedTuple):
    """What an image processor of Hugging Face does if its file leaves it out.

    None where versions of transformers differ: then the file must say it.
    """

    keeps_proportions: bool | None = None  # if `size` is a number
    resample: int | None = None  # a number of Pillow's
    crops: bool | None = False


_PROCESSORS = {
    "": _Processor(),  # the file does not name it
    "ViT": _Processor(False, 2),
    "Pvt": _Processor(False),
    "Siglip": _Processor(None, 3),
    "DeiT": _Processor(False, 3, True),
    "Beit": _Processor(False, 3, None),
    "EfficientNet": _Processor(False),
    "CLIP": _Processor(True, 3, True),
    "Bit": _Processor(True, 3, True),
    "Levit": _Processor(True, 3, True),
    "ConvNext": _Processor(True),
    "MobileNetV1": _Processor(True, 2, True),
    "MobileNetV2": _Processor(True, 2, True),
    "MobileViT": _Processor(True, None, True),
}
_RESAMPLES = {2: "bilinear", 3: "bicubic"}
# Steps that are dealt with here, or leave an image as it is.
_STEPS = {
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"),
    *("do_flip_channel_order", "do_reduce_labels"),
}

_INPUT_SIZE = Kind(
    "[3, height, width]",
    lambda v: isinstance(v, list) and v[:1] == [3] and HEIGHT_WIDTH.fits(v[1:]),
)
_PCT = number(0.1, 1)
_MEAN_OF_1, _MEAN_OF_255, _STD_KIND = (
    either(numbers(low, high, (3,)), number(low, high))
    for low, high in ((0, 1), (0, 255), (1e-3, 1e3))
)


def read_preprocess(source: str, size: tuple[int, int] | None = None) -> Preprocess:
    """Read how images are prepared for a net.

    Parameters
    ----------
    source : str
        ``torchvision`` (its nets' common way: the shortest side to 256 with Pillow's
        bilinear filter, the central 224, ImageNet's mean and standard deviation),
        ``caffe`` (BGR, the mean 104 117 123), or the path of timm's ``config.json`` or
        Hugging Face's ``preprocessor_config.json``.
    size : tuple of int, optional
        The height and the width of the net's input, if the net fixes them.

    Returns
    -------
    Preprocess

    Raises
    ------
    NetError
        If the file cannot be read, is of another kind, describes a step that this
        package does not have, or gives inputs of another size.

    Examples
    --------
    >>> read_preprocess("torchvision", (299, 299)).resize
    342
    """
    if source == "caffe":
        return Preprocess(*(size or (224, 224)), mean=(104.0, 117.0, 123.0))
    if source == "torchvision":
        crop = size or (224, 224)
        resize = round(max(crop) / 0.875)  # 256 for 224
        return _pillow(crop, resize, "bilinear", _MEAN, _STD)
    config = _read(source)
    try:
        is_timm = "pretrained_cfg" in config or "input_size" in config
        found = _timm(config, size) if is_timm else _hugging_face(config)
        if size is not None and size != (found.height, found.width):
            raise NetError(
                f"expected images of {size[0]} x {size[1]} pixels (height x width) as "
                f"the net takes them, found {found.height} x {found.width}; name the "
                "file of this net"
            )
    except NetError as error:
        raise NetError(f"{source}: {error}") from None
    return found


def _timm(config: Mapping[str, Any], size: tuple[int, int] | None) -> Preprocess:
    """Prepare images as `timm.data.create_transform` does.

    timm has a second size and crop for tests, which a net that fixes them may need.
    """
    found = _get(config, "pretrained_cfg", config, TABLE)
    test = _get(found, "test_input_size", None, _INPUT_SIZE)
    is_test = size is not None and test is not None and tuple(test[1:]) == size
    _, height, width = _get(found, "input_size", [3, 224, 224], _INPUT_SIZE)
    pct = _get(found, "crop_pct", 0.875, _PCT)
    if is_test:
        _, height, width = test
        pct = _get(found, "test_crop_pct", pct, _PCT)
    scaled = math.floor(height / pct), math.floor(width / pct)
    mode = _get(found, "crop_mode", "center", one_of(["center", "squash"]))
    if mode == "center" and height != width:
        raise NetError(
            "expected a square `input_size` with the crop_mode 'center', found "
            f"{height} x {width}; {_BY_HAND}"
        )
    return _pillow(
        (height, width),
        scaled if mode == "squash" else scaled[0],
        _get(found, "interpolation", "bicubic", one_of(INTERPOLATIONS)),
        _three(_get(found, "mean", _MEAN, _MEAN_OF_1)),
        _three(_get(found, "std", _STD, _STD_KIND)),
    )


def _hugging_face(config: Mapping[str, Any]) -> Preprocess:
    """Prepare images as an image processor of Hugging Face does."""
    kind, processor = _processor(config)
    for key, value in config.items():
        if key.startswith("do_") and value and key not in _STEPS:
            raise NetError(
                f"expected only steps that fishing has, found `{key[:100]}`; {_BY_HAND}"
            )
    resample = _get(
        config,
        "resample",
        processor.resample,
        one_of(_RESAMPLES, "2 (bilinear) or 3 (bicubic)"),
    )
    if resample is None or not _get(config, "do_resize", True, FLAG):
        raise NetError(f"expected `resample` and `do_resize`, found none; {_BY_HAND}")
    crop, resize = _geometry(config, kind, processor)
    offset, factor = 0, 1.0
    if _get(config, "do_rescale", True, FLAG):
        factor = _get(config, "rescale_factor", 1 / 255, number(1e-3, 1))
        offset = int(_get(config, "rescale_offset", False, FLAG))
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if _get(config, "do_normalize", kind != "MobileViT", FLAG):
        mean = _three(_get(config, "image_mean", None, _MEAN_OF_255))
        std = _three(_get(config, "image_std", None, _STD_KIND))
    twice = kind == "EfficientNet" and _get(config, "include_top", True, FLAG)
    is_bgr = _get(config, "do_flip_channel_order", kind == "MobileViT", FLAG)
    # (value * factor - offset - mean) / std, of which EfficientNet divides twice
    return Preprocess(
        *crop,
        resize=resize,
        interpolation=_RESAMPLES[resample],
        antialias=True,
        channels="BGR" if is_bgr else "RGB",
        mean=tuple((m + offset) / factor for m in mean),
        scale=tuple(factor / s ** (2 if twice else 1) for s in std),
        rounding="transformers",
    )


def _processor(config: Mapping[str, Any]) -> tuple[str, _Processor]:
    """Find the kind of an image processor, such as `ViT`, and its defaults."""
    name = config.get("image_processor_type", config.get("feature_extractor_type", ""))
    kind = name if isinstance(name, str) else "?"
    kind = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    if kind not in _PROCESSORS:
        known = ", ".join(filter(None, _PROCESSORS))
        raise NetError(
            f"expected an image processor of: {known}; found {shown(name)}; {_BY_HAND}"
        )
    if "size" not in config:
        raise NetError(
            "expected timm's config.json or Hugging Face's preprocessor_config.json, "
            "found neither `pretrained_cfg` nor `size` in it; name one of these files"
        )
    return kind, _PROCESSORS[kind]


def _geometry(
    config: Mapping[str, Any], kind: str, processor: _Processor
) -> tuple[tuple[int, int], int | tuple[int, int]]:
    """Find the height and the width of the crop, and how images are resized before."""
    resized = _size(config, "size", processor.keeps_proportions)
    if kind == "ConvNext" and isinstance(resized, int):
        # It crops by itself, but warps to a size from 384 on.
        square = (resized, resized)
        pct = _get(config, "crop_pct", 0.875, _PCT)
        return square, square if resized >= 384 else int(resized / pct)
    if kind == "Levit" and isinstance(resized, int):
        resized = int(256 / 224 * resized)
    crops = _get(config, "do_center_crop", processor.crops, FLAG)
    if crops is None:
        raise NetError(f"expected `do_center_crop`, found none; {_BY_HAND}")
    if crops:
        crop = _size(config, "crop_size", False)
        return (crop, crop) if isinstance(crop, int) else crop, resized
    if isinstance(resized, int):
        raise NetError(
            "expected `do_center_crop` beside a `size` of the shortest edge, found no "
            f"crop, so that inputs differ in size; {_BY_HAND}"
        )
    return resized, resized


def _size(
    config: Mapping[str, Any], key: str, keeps_proportions: bool | None
) -> int | tuple[int, int]:
    """Read the size of the shortest edge, or a height and a width."""
    found = config.get(key)
    if isinstance(found, int) and SIDE.fits(found) and keeps_proportions is not None:
        return found if keeps_proportions else (found, found)
    if isinstance(found, dict):
        given: dict[str, Any] = {name: v for name, v in found.items() if v}
        if all(map(SIDE.fits, given.values())):
            if set(given) == {"shortest_edge"}:
                return int(given["shortest_edge"])
            if set(given) == {"height", "width"}:
                return int(given["height"]), int(given["width"])
    raise NetError(
        f"expected `{key}` to have shortest_edge, or height and width, each "
        f"{SIDE.words}, found {shown(found)}; {_BY_HAND}"
    )


def _pillow(
    size: tuple[int, int],
    resize: int | tuple[int, int],
    interpolation: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Preprocess:
    """Make a Preprocess of torchvision's transforms, which take values of 0 to 1."""
    return Preprocess(
        *size,
        resize=resize,
        interpolation=interpolation,
        antialias=True,
        channels="RGB",
        mean=tuple(255 * m for m in mean),
        scale=tuple(1 / (255 * s) for s in std),
        rounding="torchvision",
    )


def _read(source: str) -> dict[str, Any]:
    """Read a JSON object of limited size."""
    if not source or not os.path.isfile(source):
        raise NetError(
            f"expected {' or '.join(PRESETS)}, or the path of timm's config.json or "
            f"Hugging Face's preprocessor_config.json, found {shown(source)}"
        )
    try:
        found = json.loads(read_at_most(Path(source), _MAX_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NetError(f"expected JSON in {source}, found {error}") from None
    except OSError as error:
        raise NetError(f"expected to read {source}: {error.strerror}") from None
    if not isinstance(found, dict):
        raise NetError(f"expected a JSON object in {source}, found {shown(found)}")
    return found


def _get(config: Mapping[str, Any], key: str, default: Any, kind: Kind) -> Any:
    """Read a value that must be of a kind, if it is there and is not null."""
    found = config.get(key)
    if found is None:
        return default
    if not kind.fits(found):
        raise NetError(
            f"expected `{key}` to be {kind.words}, found {shown(found)}; {_BY_HAND}"
        )
    return found


def _three(values: Any) -> tuple[float, ...]:
    if values is None:
        raise NetError(f"expected `image_mean` and `image_std`, found none; {_BY_HAND}")
    three = values if isinstance(values, (list, tuple)) else [values] * 3
    return tuple(map(float, three))
