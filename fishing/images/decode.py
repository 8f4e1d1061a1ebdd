"""Decode image files as Caffe does."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fishing.errors import ImageError

MAX_FILE_BYTES = 2**29


MAX_PIXELS = 2**27


_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image as `cv::imread` does for Caffe: 8 bits, BGR, EXIF applied.

    Grey images get three equal channels, CMYK and 16-bit ones are converted, alpha is
    dropped, and of an animated or paged file the first picture is taken.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    Raises
    ------
    ImageError
        If there is no such file, or it is empty, truncated, too large or no image.
    """
    try:
        state = path.stat()
        if state.st_size > MAX_FILE_BYTES:
            raise ImageError(
                f"too large: {state.st_size} bytes, at most {MAX_FILE_BYTES}"
            )
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
            raise ImageError("a device or a pipe, which may have no end")
        encoded = path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    if not encoded:
        raise ImageError("empty file")
    _check_header(encoded)
    if _is_truncated_jpeg(encoded):
        raise ImageError("truncated JPEG: no end-of-image marker")
    try:
        image = cv2.imdecode(
            np.frombuffer(_first_picture(encoded), np.uint8), cv2.IMREAD_COLOR
        )
    except cv2.error as error:
        raise ImageError(f"not decoded: {error.err}") from None
    if image is None:
        raise ImageError("not an image that OpenCV can decode")
    return image.astype(np.uint8, copy=False)


def _check_header(encoded: bytes) -> None:
    """Refuse absurd dimensions before memory is taken for the pixels."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from None
    # Damaged headers make Pillow's readers raise whatever comes to them. OpenCV has the
    # last word anyway: it reads formats that Pillow does not.
    except Exception:
        return
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"too large: {width} x {height} pixels, at most {MAX_PIXELS} in all"
        )


def _first_picture(encoded: bytes) -> bytes:
    """Leave of a PNG only its picture, if its chunks lie in the file.

    The OpenCV of Caffe's time knew no animation; today's crashes over some damaged
    ones, and takes as much memory as a chunk claims to need.
    """
    if not encoded.startswith(_PNG):
        return encoded
    kept, position, kind = [_PNG], len(_PNG), b""
    while position < len(encoded) and kind != b"IEND":
        # Of a chunk: its length, its type, as many bytes, a checksum.
        kind = encoded[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(encoded[position : position + 4], "big")
        if end > len(encoded):
            raise ImageError("truncated PNG: a chunk that ends beyond the file")
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(encoded[position:end])
        position = end
    return b"".join(kept)


def _is_truncated_jpeg(encoded: bytes) -> bool:
    """Tell whether a JPEG ends before its end-of-image marker.

    OpenCV would fill what is missing with grey and only warn. The marker is looked for
    behind the first start of scan, since a thumbnail in the header has one of its own.
    """
    if not encoded.startswith(b"\xff\xd8\xff"):
        return False
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return encoded.rfind(b"\xff\xd9", position) < 0  # most end with it
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return True
