"""Image files are decoded as OpenCV does it for Caffe, but damaged ones are refused."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError
from fishing.file_kinds import kind_of
from fishing.images.decoder_messages import take_messages
from fishing.images.jpeg import JpegFile
from fishing.images.notes import take_note

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE_BYTES = 2**29
MAX_PIXELS = 2**27
_PNG = b"\x89PNG\r\n\x1a\n"
# How libjpeg's warnings about the data of a picture begin.
_DAMAGE = (
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression",
)
_FLOAT_FORMATS = (b"#?RADIANCE", b"#?RGBE", b"PF\n", b"Pf\n", b"PF ", b"Pf ")
_DEEP, _FLOAT, _MAX_16 = "deep", "float", 65535
MORE_THAN_8_BITS = (
    "more than 8 bits a channel; the upper 8 are kept, so values that fill fewer bits "
    "than the file has become dark"
)
# What OpenCV does with an image that is not of 8 bits.
_REDUCED = {
    _DEEP: MORE_THAN_8_BITS,
    _FLOAT: "floating-point values; what lies outside of OpenCV's range of 8 bits is "
    "cut off",
}

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

    Notes
    -----
    What else there is to say about an image is noted (`fishing.images.collect_notes`):
    that it is not of 8 bits, or what a decoder said to a thread that catches it.
    """
    import cv2  # here, because few of the commands that import this module decode

    take_messages()  # of an image that failed
    encoded = _read_file(path)
    jpeg = JpegFile(encoded) if JpegFile.recognises(encoded) else None
    kind = "" if jpeg else _check_header(encoded)
    if jpeg:
        _check_size(*jpeg.size)
    try:
        image = cv2.imdecode(
            np.frombuffer(_without_animation(encoded), np.uint8), cv2.IMREAD_COLOR
        )
    except cv2.error as error:
        raise ImageError(f"not decoded: {error.err}") from None
    if image is None:
        raise ImageError(
            "a TIFF that OpenCV does not decode, such as one of floating-point values; "
            "convert it to 8 bits"
            if encoded.startswith((b"II", b"MM"))
            else kind_of(encoded) or "not an image that OpenCV can decode"
        )
    picture: NDArray[np.uint8] = image.astype(np.uint8, copy=False)
    if jpeg and jpeg.ends_before(picture):
        raise ImageError("truncated JPEG: its data end before the picture does")
    if kind:
        take_note(_REDUCED[kind])
    for message in take_messages():
        take_note(message, message.startswith(_DAMAGE))
    return picture


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


def _check_header(encoded: bytes) -> str:
    """Refuse an image of too many pixels before memory is allocated for them.

    Returns the key in `_REDUCED` of an image that is not of 8 bits, or "".
    """
    kind = _FLOAT if encoded.startswith(_FLOAT_FORMATS) else ""
    from PIL import Image  # here, since most images need no Pillow

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            kind = kind or _depth(image, encoded)
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from None
    # Damaged headers make Pillow raise errors of any kind. OpenCV, which reads more
    # formats, decides about such files.
    except Exception:
        return kind
    _check_size(width, height)
    return kind


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"too large: {width} x {height} pixels, at most {MAX_PIXELS} in all"
        )


def _depth(image: Image.Image, encoded: bytes) -> str:
    """Tell whether an image has deep values, floating-point ones, or neither."""
    if image.mode == "F":
        return _FLOAT
    if image.mode.startswith("I"):
        return _DEEP
    tiles = str(getattr(image, "tile", ""))  # with their raw modes
    deep = {
        "PNG": encoded[24:25] == b"\x10",
        "TIFF": ";16" in tiles,
        "PPM": str(_MAX_16) in tiles,
        # The bits of the first component less one, in the header of an image.
        "JPEG2000": _byte_after(encoded, b"ihdr", 10) & 0x7F > 7,
        "AVIF": bool(_byte_after(encoded, b"av1C", 2) & 0x40),
    }
    return _DEEP if deep.get(image.format or "") else ""


def _byte_after(encoded: bytes, name: bytes, offset: int) -> int:
    """Return a byte of the first box of a name, or 0 if there is none."""
    start = encoded.find(name, 0, 4096)
    at = start + len(name) + offset
    return encoded[at] if start >= 0 and at < len(encoded) else 0


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
