"""Image files are decoded as OpenCV does it for Caffe, but damaged ones are refused."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fishing.errors import ImageError

MAX_FILE_BYTES = 2**29
MAX_PIXELS = 2**27
_PNG = b"\x89PNG\r\n\x1a\n"

# The same limit for formats that Pillow does not read; OpenCV reads it when imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image as `cv::imread` does for Caffe: 8 bits, BGR, EXIF applied.

    A grey image gets three equal channels, CMYK and 16-bit images are converted, an
    alpha channel is dropped, and the first of several pictures is taken.

    Parameters
    ----------
    path : Path

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, too large or not an image.
    """
    import cv2  # here, because few of the commands that import this module decode

    encoded = _read_file(path)
    _check_size(encoded)
    if _is_truncated_jpeg(encoded):
        raise ImageError("truncated JPEG: no end-of-image marker")
    try:
        image = cv2.imdecode(
            np.frombuffer(_without_animation(encoded), np.uint8), cv2.IMREAD_COLOR
        )
    except cv2.error as error:
        raise ImageError(f"not decoded: {error.err}") from None
    if image is None:
        raise ImageError("not an image that OpenCV can decode")
    return image.astype(np.uint8, copy=False)


def _read_file(path: Path) -> bytes:
    try:
        state = path.stat()
        if state.st_size > MAX_FILE_BYTES:
            raise ImageError(
                f"too large: {state.st_size} bytes, at most {MAX_FILE_BYTES}"
            )
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
            raise ImageError("expected a file, found a device or a pipe")
        encoded = path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    if not encoded:
        raise ImageError("empty file")
    return encoded


def _check_size(encoded: bytes) -> None:
    """Refuse an image of too many pixels before memory is allocated for them."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from None
    # Damaged headers make Pillow raise errors of any kind. OpenCV, which reads more
    # formats, decides about such files.
    except Exception:
        return
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"too large: {width} x {height} pixels, at most {MAX_PIXELS} in all"
        )


def _without_animation(encoded: bytes) -> bytes:
    """Remove the animation chunks of a PNG; refuse a PNG with an incomplete chunk.

    Caffe's OpenCV did not know animated PNGs. Recent versions crash on some damaged
    ones, and allocate as much memory as a chunk claims to need.
    """
    if not encoded.startswith(_PNG):
        return encoded
    kept, position, kind = [_PNG], len(_PNG), b""
    while position < len(encoded) and kind != b"IEND":
        # A chunk is its length (4 bytes), its type (4), its data and a checksum (4).
        kind = encoded[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(encoded[position : position + 4], "big")
        if end > len(encoded):
            raise ImageError("truncated PNG: a chunk that ends beyond the file")
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(encoded[position:end])
        position = end
    return b"".join(kept)


def _is_truncated_jpeg(encoded: bytes) -> bool:
    """Tell whether a JPEG lacks its end-of-image marker.

    OpenCV fills the missing part with grey and only warns. The marker is looked for
    after the first start of scan, because a thumbnail in the header has one too.
    """
    if not encoded.startswith(b"\xff\xd8\xff"):
        return False
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            return encoded.rfind(b"\xff\xd9", position) < 0
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return True
