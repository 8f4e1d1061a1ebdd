"""Prepare images by torchvision, timm and transformers, and store what they give.

Run `python tests/images/other_libraries.py` with torch, torchvision, timm and
transformers 4 installed to write `other_libraries.npz`, which
`test_preprocess_config.py` compares with. The file names the versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED = Path(__file__).with_suffix(".npz")
#: Heights and widths; sides shrink or grow, and odd numbers of pixels are cut off.
SIZES = [(47, 61), (80, 45), (33, 100), (57, 38), (32, 32), (300, 401), (403, 250)]

_HALF = [0.5, 0.5, 0.5]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HF = {
    **{"do_resize": True, "do_normalize": True, "do_rescale": True},
    **{"image_mean": _HALF, "image_std": _HALF, "rescale_factor": 1 / 255},
}


def _square(n: int) -> dict[str, int]:
    return {"height": n, "width": n}


#: Names to (the library or its class, the settings).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision": ("torchvision", {"crop_size": 224}),
    "timm": ("timm", {"pretrained_cfg": {"input_size": [3, 32, 32]}}),
    "timm-bare": (
        "timm",
        {
            **{"input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.9},
            **{"mean": _HALF, "std": [0.25, 0.5, 0.75], "crop_mode": "center"},
        },
    ),
    "timm-squash": (
        "timm",
        {
            "pretrained_cfg": {
                **{"input_size": [3, 24, 32], "crop_pct": 0.95, "crop_mode": "squash"},
                **{"interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1]},
            }
        },
    ),
    "timm-224": ("timm", {"pretrained_cfg": {"crop_pct": 0.95}}),
    "vit": ("ViT", {**_HF, "size": _square(32), "resample": 2}),
    "vit-number": ("ViT", {**_HF, "size": 32}),
    "vit-224": ("ViT", {**_HF, "size": _square(224), "resample": 3}),
    "deit": (
        "DeiT",
        {
            **{**_HF, **_IMAGENET, "size": _square(36), "crop_size": _square(32)},
            **{"do_center_crop": True, "resample": 3},
        },
    ),
    "beit": (
        "Beit",
        {**_HF, "size": _square(32), "do_center_crop": False, "resample": 2},
    ),
    "convnext": ("ConvNext", {**_HF, "size": {"shortest_edge": 32}, "resample": 3}),
    "convnext-number": (
        "ConvNext",
        {**_HF, "size": 30, "crop_pct": 0.95, "resample": 2},
    ),
    "convnext-384": (
        "ConvNext",
        {**_HF, "size": {"shortest_edge": 384}, "resample": 3},
    ),
    "clip": (
        "CLIP",
        {**_HF, "size": {"shortest_edge": 32}, "crop_size": _square(32), "resample": 3},
    ),
    "bit": ("Bit", {**_HF, **_IMAGENET, "size": 37, "crop_size": 32}),
    "mobilenet": (
        "MobileNetV2",
        {**_HF, "size": {"shortest_edge": 36}, "crop_size": _square(32), "resample": 2},
    ),
    "mobilenet-224": (
        "MobileNetV1",
        {**_HF, "size": {"shortest_edge": 256}, "crop_size": _square(224)},
    ),
    "levit": (
        "Levit",
        {**_HF, "size": {"shortest_edge": 28}, "crop_size": _square(28)},
    ),
    "mobilevit": (
        "MobileViT",
        {
            **{"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255},
            **{"size": {"shortest_edge": 36}, "crop_size": _square(32)},
            **{"do_center_crop": True, "do_flip_channel_order": True, "resample": 2},
        },
    ),
    "efficientnet": (
        "EfficientNet",
        {
            **{**_HF, **_IMAGENET, "size": _square(36), "crop_size": _square(32)},
            **{"do_center_crop": True, "resample": 3, "include_top": True},
        },
    ),
    "efficientnet-offset": (
        "EfficientNet",
        {
            **{**_HF, "size": _square(32), "do_center_crop": False, "resample": 2},
            **{"include_top": False, "rescale_factor": 1 / 127.5},
            **{"rescale_offset": True, "do_normalize": False},
        },
    ),
    "siglip": ("Siglip", {**_HF, "size": _square(32)}),
    "pvt": ("Pvt", {**_HF, **_IMAGENET, "size": _square(32), "resample": 3}),
}


def config(name: str) -> dict[str, Any]:
    """Return the settings of a case as the library's file has them."""
    kind, settings = CASES[name]
    is_processor = kind not in ("torchvision", "timm")
    named = {"image_processor_type": f"{kind}ImageProcessor"} if is_processor else {}
    return {**settings, **named}


def image(height: int, width: int) -> NDArray[np.uint8]:
    """Make a picture (RGB) of waves that grow finer, with three different channels."""
    y, x, c = np.ogrid[:height, :width, :3]
    waves = (x * x * (3 + c) + y * y * (7 - c) + 5 * x * y) * 2 // max(height, width)
    return (waves % 256).astype(np.uint8)


def thinned(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep some pixels of an input, so that the file stays small."""
    step = -(-data.shape[1] // 20)
    return data[:, ::step, 1::step]


def main() -> None:
    import timm
    import torchvision
    import transformers
    from PIL import Image

    stored: dict[str, Any] = {}
    for name in CASES:
        prepare = _prepare(name)
        for height, width in SIZES:
            data = prepare(Image.fromarray(image(height, width)))
            stored[f"{name}/{height}x{width}"] = thinned(np.asarray(data, np.float32))
    versions = {m.__name__: m.__version__ for m in (torchvision, timm, transformers)}
    np.savez_compressed(STORED, versions=json.dumps(versions), **stored)
    print(versions, STORED.stat().st_size)


def _prepare(name: str) -> Callable[[Any], Any]:
    """Build the library's own transform of a case."""
    import timm.data
    import transformers
    from torchvision.transforms._presets import ImageClassification

    kind, settings = CASES[name]
    if kind == "torchvision":
        return ImageClassification(**settings)
    if kind == "timm":
        found = settings.get("pretrained_cfg", settings)
        resolved = timm.data.resolve_data_config({}, pretrained_cfg=found)
        return timm.data.create_transform(**resolved, is_training=False)
    processor = getattr(transformers, f"{kind}ImageProcessor").from_dict(settings)
    return lambda picture: processor(picture, return_tensors="np")["pixel_values"][0]


if __name__ == "__main__":
    main()
