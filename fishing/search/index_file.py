"""Index files: what an index was made from, and its arrays in plain form.

FAISS may crash over a damaged file of its own format. So the arrays that it needs lie
here as they are in memory: their sizes and ranges are checked, and FAISS is handed
arrays but never parses a file. docs/format.md describes the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError, StoreError, one_line
from fishing.kernels import feature_blobs

Floats = NDArray[np.float32]

_MAGIC = b"fishing-index 1\n"
_SHA256_BYTES, _LENGTH_BYTES = 32, 4
_MAX_HEADER = 2**16  # bytes
_BLOCK = 2**22  # bytes that are read at once
#: Vectors are of about unit norm, and so are all values that FAISS is handed.
_LARGEST = 1e3
#: By coding, the values of its quantiser and the bytes of a code, for one dimension.
_CODINGS = {"SQ8": (2, 1.0), "PQ": (256, 0.25)}


@dataclass(frozen=True)
class IndexHeader:
    """What an index was made from, and how it is searched.

    Attributes
    ----------
    feature : str
    features_sha256 : str
        `fishing.store.FeaturesFile.sha256` of the features.
    n_images : int
        The rows of all splits, one split after the other.
    directions : dict of str to list of int
        By blob, its width and the number of directions that it is projected on.
    coding : str
        ``SQ8`` (a byte for each value) or ``PQ`` (a byte for four values).
    n_lists, n_probed : int
        How many lists vectors are sorted into, and how many of them a search looks at.
    n_candidates : int
        How many images are compared exactly to find 10.
    """

    feature: str
    features_sha256: str
    n_images: int
    directions: dict[str, list[int]]
    coding: str
    n_lists: int
    n_probed: int
    n_candidates: int

    @property
    def width(self) -> int:
        """Values of a vector: the directions of all blobs, filled up by zeros."""
        return -(-sum(k for _, k in self.directions.values()) // 8) * 8

    @property
    def record(self) -> np.dtype[Any]:
        """What is stored of an image: its list and its code."""
        n_bytes = int(_CODINGS[self.coding][1] * self.width)
        return np.dtype([("list", "<u2"), ("code", "u1", (n_bytes,))])

    def shapes(self) -> list[tuple[int, int]]:
        """List the shapes of the arrays of float32 in the file."""
        quantiser = (_CODINGS[self.coding][0], self.width)
        tables = [(width, k) for width, k in self.directions.values()]
        return [*tables, (self.n_lists, self.width), quantiser]


@dataclass(frozen=True)
class IndexArrays:
    """The arrays of an index, but for what is stored of each image.

    Attributes
    ----------
    bases : dict of str to ndarray of float32, shape (d, k)
        The directions of each blob, as columns.
    centroids : ndarray of float32, shape (n_lists, width)
    quantiser : ndarray of float32, shape (2, width) or (256, width)
        What the bytes of a code stand for: least values and ranges of ``SQ8``, or the
        centroids of ``PQ`` in FAISS's order.
    """

    bases: dict[str, Floats]
    centroids: Floats
    quantiser: Floats


def write_arrays(file: IO[bytes], arrays: IndexArrays) -> None:
    """Begin an index file; records and `write_header` follow."""
    file.write(_MAGIC)
    for values in (*arrays.bases.values(), arrays.centroids, arrays.quantiser):
        file.write(np.ascontiguousarray(values, "<f4").tobytes())


def write_header(file: IO[bytes], header: IndexHeader) -> None:
    """Finish an index file, which is open for reading too."""
    text = json.dumps(asdict(header)).encode()
    file.write(text + len(text).to_bytes(_LENGTH_BYTES, "little"))
    file.write(_digest(file, file.tell()))


class IndexFile:
    """An index file, open for reading; a context manager.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    header : IndexHeader
    arrays : IndexArrays

    Raises
    ------
    StoreError
        If there is no such file, it is no index file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if path.exists() and not path.is_file():
                raise ValueError("a folder, a device or a pipe")
            self._file = path.open("rb")
            try:
                self.header, payload = _read_header(self._file)
                self.arrays = _read_arrays(self._file, self.header, payload)
            except BaseException:
                self._file.close()
                raise
        except FileNotFoundError:
            raise StoreError(
                f"expected an index file at '{path}', found none; `fishing index` "
                "makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise self._refusal(error) from None

    def __enter__(self) -> IndexFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def records(self) -> Iterator[NDArray[Any]]:
        """Read what is stored of the images, some at a time.

        Raises StoreError if the file is lost or damaged.
        """
        dtype, left = self.header.record, self.header.n_images
        while left:
            n = min(left, max(_BLOCK // dtype.itemsize, 1))
            try:
                found = np.frombuffer(_read(self._file, n * dtype.itemsize), dtype)
                if (found["list"] >= self.header.n_lists).any():
                    raise ValueError("an image in a list that is not there")
            except (OSError, ValueError) as error:
                raise self._refusal(error) from None
            yield found
            left -= n

    def _refusal(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._path}: expected a whole index file, found {one_line(error)}; "
            "remove it and make it anew with `fishing index`"
        )


def _read_header(file: IO[bytes]) -> tuple[IndexHeader, int]:
    """Read the end of a file; return its header and the bytes that come before.

    Raises ValueError if the file is damaged.
    """
    end = file.seek(0, 2) - _SHA256_BYTES
    start = file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC or end < len(_MAGIC) + _LENGTH_BYTES:
        raise ValueError("another kind of file, or another version of it")
    digest = _digest(file, end)
    if file.read() != digest:
        raise ValueError("other bytes than were written")
    file.seek(end - _LENGTH_BYTES)
    length = int.from_bytes(_read(file, _LENGTH_BYTES), "little")
    start = end - _LENGTH_BYTES - length
    if length > _MAX_HEADER or start < len(_MAGIC):
        raise ValueError(f"a header of {length} bytes")
    file.seek(start)
    with suppress(TypeError, RecursionError, EvaluationError):
        header = IndexHeader(**json.loads(_read(file, length)))
        if _fits(header):
            return header, start - len(_MAGIC)
    raise ValueError("a header that does not fit")


def _fits(header: IndexHeader) -> bool:
    """Tell whether all fields are of their types and within their limits.

    Raises EvaluationError if there is no such feature.
    """
    numbers = (header.n_images, header.n_lists, header.n_probed, header.n_candidates)
    is_plain = (
        isinstance(header.feature, str)
        and isinstance(header.features_sha256, str)
        and header.coding in _CODINGS
        and isinstance(header.directions, dict)
        and all(type(n) is int and 0 < n < 2**31 for n in numbers)
        and header.n_probed <= header.n_lists <= 2**16
        and header.n_candidates >= 10
    )
    is_of_feature = is_plain and header.directions.keys() == feature_blobs(
        header.feature
    )
    return is_of_feature and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(n) is int and 0 < n < 2**31 for n in pair)
        for pair in header.directions.values()
    )


def _read_arrays(file: IO[bytes], header: IndexHeader, payload: int) -> IndexArrays:
    """Read the arrays at the beginning; raise ValueError if they do not fit."""
    shapes = header.shapes()
    n_bytes = sum(4 * rows * columns for rows, columns in shapes)
    if n_bytes + header.n_images * header.record.itemsize != payload:
        raise ValueError("arrays of other sizes than its header says")
    file.seek(len(_MAGIC))
    *bases, centroids, quantiser = (_read_floats(file, shape) for shape in shapes)
    named = dict(zip(header.directions, bases, strict=True))
    return IndexArrays(named, centroids, quantiser)


def _read_floats(file: IO[bytes], shape: tuple[int, int]) -> Floats:
    values = np.frombuffer(_read(file, 4 * shape[0] * shape[1]), "<f4").reshape(shape)
    if not (np.abs(values) <= _LARGEST).all():
        raise ValueError(f"values that are not finite or above {_LARGEST:g}")
    return values


def _read(file: IO[bytes], n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) != n_bytes:
        raise ValueError("an end that comes too early")
    return content


def _digest(file: IO[bytes], n_bytes: int) -> bytes:
    """Compute the SHA-256 of so many bytes from the beginning, and stay there."""
    file.seek(0)
    digest = hashlib.sha256()
    for n in _pieces(n_bytes):
        digest.update(_read(file, n))
    return digest.digest()


def _pieces(n_bytes: int) -> Iterable[int]:
    return (min(_BLOCK, n_bytes - i) for i in range(0, n_bytes, _BLOCK))
