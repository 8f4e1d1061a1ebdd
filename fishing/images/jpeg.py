"""JPEG files whose picture is not whole.

libjpeg fills what is missing with grey, and only warns. So the end-of-image marker is
looked for, and the scans of a progressive file are counted. If a file has the marker
although its data are cut, its picture ends in exact grey (the level of coefficients
that are zero). Only such pictures are decoded again, with more data before the marker:
a decoder that has all it needs does not look at them.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a scan
_SCAN, _END, _RESTARTS = 0xDA, 0xD9, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_GREY, _BLOCK = 128, 8
# Bytes that are data to every decoder, without a marker among them.
_MORE = bytes((i * 167 + 13) % 255 for i in range(256))
_MORE_RESTARTS = b"".join(bytes((0xFF, 0xD0 + i % 8)) + _MORE for i in range(16))


class Segment(NamedTuple):
    """A marker, and its parameters from `start` to `end`."""

    marker: int
    start: int
    end: int


def why_cut(encoded: bytes) -> str:
    """Say why a JPEG is cut, as far as that shows without decoding; else return ""."""
    if not encoded.startswith(_START):
        return ""
    headers = _segments(encoded, 2)
    if not headers or headers[-1].marker != _SCAN:
        return "truncated JPEG: no picture in it"
    # The header may hold a thumbnail with a marker of its own.
    if encoded.rfind(b"\xff\xd9", headers[-1].end) < 0:
        return "truncated JPEG: no end-of-image marker"
    frame = next((s for s in headers if s.marker in _FRAMES), None)
    if frame and frame.marker in _PROGRESSIVE and _lacks_scans(encoded, frame):
        return "truncated JPEG: scans are missing"
    return ""


def is_cut_before_end(encoded: bytes, picture: NDArray[np.uint8]) -> bool:
    """Tell whether the data of a JPEG end before its picture, which is given in BGR."""
    if not encoded.startswith(_START) or not _may_end_in_grey(encoded, picture):
        return False
    segments = _all_segments(encoded)
    end = segments[-1].start - 2
    more = _MORE
    if any(segment.marker == _RESTARTS for segment in segments):
        more += _MORE_RESTARTS
    try:
        found = _decoded(encoded)
    except Exception:  # whatever Pillow raises: then there is nothing to compare
        return False
    try:
        return not np.array_equal(found, _decoded(encoded[:end] + more + encoded[end:]))
    except Exception:
        return True


def _segments(encoded: bytes, position: int) -> list[Segment]:
    """List the segments from a position on, up to a scan, the end, or what is none."""
    found = []
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _END:
            found.append(Segment(marker, position + 2, position + 2))
            break
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        found.append(Segment(marker, position + 4, position + 2 + length))
        position += 2 + length
        if marker == _SCAN:
            break
    return found


def _all_segments(encoded: bytes) -> list[Segment]:
    """List all segments of the first picture."""
    found = _segments(encoded, 2)
    while found and found[-1].marker == _SCAN:
        marker = _MARKER.search(encoded, found[-1].end)
        if marker is None:
            break
        if encoded[marker.start() + 1] == _END:
            found.append(Segment(_END, marker.end(), marker.end()))
            break
        found += _segments(encoded, marker.start()) or [Segment(_END, 0, 0)]
    return found


def _lacks_scans(encoded: bytes, frame: Segment) -> bool:
    """Tell whether some coefficients of a progressive JPEG lack their last bits."""
    components = encoded[frame.start + 6 : frame.end : 3]
    missing = {(c, k) for c in components for k in range(64)}
    for segment in _all_segments(encoded):
        if segment.marker == _SCAN:
            n = encoded[segment.start]
            first, last, bits = encoded[segment.end - 3 : segment.end]
            if not bits & 15:
                ids = encoded[segment.start + 1 : segment.start + 1 + 2 * n : 2]
                missing -= {(c, k) for c in ids for k in range(first, last + 1)}
    return bool(missing)


def _may_end_in_grey(encoded: bytes, picture: NDArray[np.uint8]) -> bool:
    """Tell whether a corner of a picture, turned by EXIF or not, is exactly grey."""
    frame = next((s for s in _segments(encoded, 2) if s.marker in _FRAMES), None)
    if frame is None or encoded[frame.start + 5] > 3:  # CMYK gives other colours
        return frame is not None
    height, width = picture.shape[:2]
    for y in (0, height - 1):
        for x in (0, width - 1):
            b, g, r = picture[y, x].tolist()
            if abs(0.114 * b + 0.587 * g + 0.299 * r - _GREY) <= 1.5:
                return True
    return False


def _decoded(encoded: bytes) -> NDArray[np.uint8]:
    """Decode by Pillow, which keeps libjpeg's warnings from stderr."""
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        return np.asarray(image)
