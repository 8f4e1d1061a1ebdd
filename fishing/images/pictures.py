"""Pictures in memory, arrays and Pillow images, in the form of decoded files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fishing.errors import DataError, one_line
from fishing.images.decode import MORE_THAN_8_BITS
from fishing.images.notes import take_note

Pixels = NDArray[np.uint8]


def picture(item: Any, order: str = "RGB") -> Path | Pixels:
    """Return a path as it is, and a picture in BGR.

    Parameters
    ----------
    item : path, Pillow image, or ndarray of uint8
        An array has the shape (height, width, 3) in the order of channels that is
        given, or (height, width) in grey. A Pillow image may have any mode that Pillow
        can show as RGB. As with its file, EXIF's orientation is applied, an alpha
        channel is dropped, and of 16 bits the upper 8 are kept.
    order : str
        ``RGB`` or ``BGR``.

    Returns
    -------
    Path, or ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    DataError
        If the item is none of these.
    """
    if isinstance(item, str | os.PathLike):
        return Path(item)
    if isinstance(item, Image.Image):
        return _from_pillow(item)[..., ::-1]
    pixels = np.asarray(item)
    if pixels.dtype.kind in "OSU":
        raise DataError(
            f"expected paths, or pictures of uint8, found {str(item)[:100]!r} of type "
            f"{type(item).__name__}; give one path or picture for each image"
        )
    _check_array(pixels)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if order == "RGB" else pixels)


def _from_pillow(image: Image.Image) -> Pixels:
    """Convert a Pillow image to RGB."""
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            take_note(MORE_THAN_8_BITS)
            values = np.asarray(upright)
            if values.min() < 0 or values.max() > 65535:
                raise DataError(
                    f"expected a Pillow image of 16 bits, found values from "
                    f"{values.min()} to {values.max()}; convert it to 8 bits"
                )
            return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
        if upright.mode == "F":
            raise DataError(
                "expected a Pillow image of 8 or 16 bits, found floating-point values; "
                "scale them to 0-255 and convert it to mode L"
            )
        if upright.mode in ("RGBa", "La"):  # multiplied by their alpha
            upright = upright.convert(upright.mode.upper())
        return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"expected a Pillow image that can be shown as RGB, found mode "
            f"{image.mode} and: {one_line(error)}; convert it to RGB"
        ) from None


def _check_array(pixels: NDArray[Any]) -> None:
    """Refuse an array that is no picture, and say how to make it one."""
    shape = pixels.shape
    advice = ""
    if pixels.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        advice = "its channels come first; np.moveaxis(image, 0, -1) puts them last"
    elif pixels.ndim == 3 and shape[2] == 1:
        advice = "image[..., 0] is the grey picture"
    elif pixels.ndim == 3 and shape[2] == 4:
        advice = (
            "image[..., :3] leaves out the alpha of RGBA; for CMYK, give the Pillow "
            "image or its file"
        )
    elif pixels.ndim == 4:
        advice = "give the pictures one by one"
    if advice or not pixels.size or pixels.ndim not in (2, 3) or shape[2:] not in _ENDS:
        raise DataError(
            "expected pictures of shape (height, width, 3) or (height, width), found "
            f"shape {shape}; {advice or 'give one picture for each image'}"
        )
    if pixels.dtype != np.uint8:
        raise DataError(
            "expected paths, or pictures of uint8, found values of type "
            f"{pixels.dtype} from {pixels.min()} to {pixels.max()}; "
            f"{_to_bytes(pixels)} converts"
        )


_ENDS = ((), (3,))


def _to_bytes(pixels: NDArray[Any]) -> str:
    """Say what makes bytes of values in the range that they have."""
    if pixels.dtype.kind == "b":
        return "image.astype(np.uint8) * 255"
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return "(image * 255).round().astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "image.round().astype(np.uint8)"
    if pixels.dtype == np.uint16:
        return "(image >> 8).astype(np.uint8)"
    return "scaling the values to 0-255 and .round().astype(np.uint8)"
