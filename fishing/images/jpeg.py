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

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError

_START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a scan
_SCAN, _RESTARTS = 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_GREY, _BLOCK, _ROUNDING = 128, 8, 1.5
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # their shares in luma
_ALL_COEFFICIENTS = 2**64 - 1
# Bytes that are data to every decoder, without a marker among them.
_MORE = bytes((i * 167 + 13) % 255 for i in range(256))
_MORE_RESTARTS = b"".join(bytes((0xFF, 0xD0 + i % 8)) + _MORE for i in range(16))

# A marker, and where its parameters start and end.
_Segment = tuple[int, int, int]


class JpegFile:
    """A JPEG whose headers, up to the first scan, are read once.

    `size` is its width and height in pixels, as they are stored. Raises an ImageError
    if it is cut, as far as that shows without decoding.
    """

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._headers = self._segments(2)
        if not self._headers or self._headers[-1][0] != _SCAN:
            raise ImageError("truncated JPEG: no picture in it")
        # A header may hold a thumbnail with a marker of its own.
        if encoded.rfind(_END, self._headers[-1][2]) < 0:
            raise ImageError("truncated JPEG: no end-of-image marker")
        frames = [s for s in self._headers if s[0] in _FRAMES]
        if not frames or frames[0][1] + 6 > len(encoded):
            raise ImageError("truncated JPEG: no size in it")
        self._frame = frames[0]
        start = self._frame[1]  # of the precision, the height and the width
        self.size = (
            int.from_bytes(encoded[start + 3 : start + 5], "big"),
            int.from_bytes(encoded[start + 1 : start + 3], "big"),
        )
        if self._frame[0] in _PROGRESSIVE and self._lacks_scans():
            raise ImageError("truncated JPEG: scans are missing")

    @staticmethod
    def recognises(encoded: bytes) -> bool:
        """Tell whether a file is a JPEG."""
        return encoded.startswith(_START)

    def ends_before(self, picture: NDArray[np.uint8]) -> bool:
        """Tell whether the data end before the picture, which is given in BGR, does."""
        if not self._may_end_in_grey(picture):
            return False
        _, segments, end = self._scans()
        more = _MORE
        if any(s[0] == _RESTARTS for s in (*self._headers, *segments)):
            more += _MORE_RESTARTS
        try:
            found = _decoded(self._encoded)
        except Exception:  # whatever Pillow raises: then there is nothing to compare
            return False
        try:
            again = _decoded(self._encoded[:end] + more + self._encoded[end:])
        except Exception:
            return True
        return not np.array_equal(found, again)

    def _segments(self, position: int) -> list[_Segment]:
        """List the segments from a position on, up to a scan or what is no segment."""
        found, encoded = [], self._encoded
        while position + 4 <= len(encoded) and encoded[position] == 0xFF:
            marker = encoded[position + 1]
            if marker == 0xFF:  # fill byte
                position += 1
                continue
            end = position + 2 + (encoded[position + 2] << 8 | encoded[position + 3])
            found.append((marker, position + 4, end))
            position = end
            if marker == _SCAN:
                break
        return found

    def _scans(self) -> tuple[list[_Segment], list[_Segment], int]:
        """List all scans and other segments, and find the end of the picture."""
        scans = [self._headers[-1]]
        others: list[_Segment] = []
        while marker := _MARKER.search(self._encoded, scans[-1][2]):
            found = self._segments(marker.start())
            if marker[0] == _END or not found or found[-1][0] != _SCAN:
                return scans, others, marker.start()
            others += found[:-1]
            scans.append(found[-1])
        return scans, others, len(self._encoded)

    def _lacks_scans(self) -> bool:
        """Tell whether some coefficients of a progressive JPEG lack their last bits."""
        encoded, (_, start, end) = self._encoded, self._frame
        missing = dict.fromkeys(encoded[start + 6 : end : 3], _ALL_COEFFICIENTS)
        for _, start, end in self._scans()[0]:
            if end - 3 <= start or end > len(encoded):
                return True
            first, last, bits = encoded[end - 3 : end]
            if not bits & 15:
                these = (1 << last + 1) - (1 << first)
                for component in encoded[
                    start + 1 : start + 1 + 2 * encoded[start] : 2
                ]:
                    missing[component] = missing.get(component, 0) & ~these
        return any(missing.values())

    def _may_end_in_grey(self, picture: NDArray[np.uint8]) -> bool:
        """Tell whether the last block, at a corner that EXIF may turn, is all grey."""
        n_components = self._encoded[self._frame[1] + 5]
        if n_components > 3:  # CMYK gives other colours
            return True
        height, width = picture.shape[:2]
        for y, x in ((-1, -1), (0, 0), (0, -1), (-1, 0)):
            b, g, r = picture[y, x].tolist()
            if abs(_BLUE * b + _GREEN * g + _RED * r - _GREY) < _ROUNDING:
                n_rows, n_columns = ((n - 1) % _BLOCK + 1 for n in (height, width))
                rows = slice(n_rows) if y == 0 else slice(-n_rows, None)
                columns = slice(n_columns) if x == 0 else slice(-n_columns, None)
                luma = picture[rows, columns] @ np.array((_BLUE, _GREEN, _RED))
                if np.median(np.abs(luma - _GREY)) < _ROUNDING:
                    return True
        return False


def _decoded(encoded: bytes) -> NDArray[np.uint8]:
    """Decode by Pillow, which keeps libjpeg's warnings from stderr."""
    from PIL import Image  # here, since few images need Pillow

    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        return np.asarray(image)
