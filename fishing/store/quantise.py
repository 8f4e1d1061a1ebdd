"""Values of 8 or 4 bits, with a scale for each column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.store.format import MAX_DIMENSIONS

#: The largest magnitude of an integer; the smallest is minus that.
LARGEST = {"int8": 127, "int4": 7}
# Scales are normal numbers of float32.
_LIMITS = np.finfo(np.float32)
_SMALLEST, _LARGEST = float(_LIMITS.tiny), float(_LIMITS.max)


@dataclass(frozen=True)
class Projection:
    """How a blob is compressed.

    Attributes
    ----------
    bases : ndarray of float32, shape (d, k)
        Orthonormal columns, which the rows of the blob are projected on.
    scales : ndarray of float32, shape (k,), or None
        What an integer is worth in each column; None if values are stored as floats.
    """

    bases: NDArray[np.float32]
    scales: NDArray[np.float32] | None


def integer_scales(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Choose what an integer is worth in each column, so that rounding costs least.

    With 4 bits, it pays to cut off the few largest values and to resolve the others
    better. Of 20 limits up to the largest magnitude of a column, the one with the least
    squared error is taken.

    Parameters
    ----------
    values : ndarray, shape (n, d)
        A sample of those that will be rounded.
    dtype : str
        ``int8`` or ``int4``.

    Returns
    -------
    ndarray of float32, shape (d,)
        Positive, also for a column of zeros.
    """
    largest = np.abs(values).max(axis=0, initial=0).astype(np.float64)
    largest[largest < _SMALLEST * 2**20] = LARGEST[dtype]
    best, scales = np.full(len(largest), np.inf), largest
    for fraction in np.linspace(0.05, 1, 20):
        tried = fraction * largest / LARGEST[dtype]
        whole = np.clip(np.rint(values / tried), -LARGEST[dtype], LARGEST[dtype])
        error = np.square(whole * tried - values).sum(axis=0)
        scales = np.where(error < best, tried, scales)
        best = np.minimum(error, best)
    return np.asarray(scales, np.float32)


def quantise(
    values: NDArray[Any], scales: NDArray[np.float32], dtype: str
) -> NDArray[Any]:
    """Round values to integers, of which each is worth the scale of its column.

    Parameters
    ----------
    values : ndarray, shape (n, d)
        Those beyond the largest integer are cut off.
    scales : ndarray of float32, shape (d,)
    dtype : str
        ``int8`` or ``int4``.

    Returns
    -------
    ndarray of int8, shape (n, d), or of uint8, shape (n, ceil(d / 2))
        Two integers of 4 bits lie in a byte, that of the even column in the low bits.

    Examples
    --------
    >>> values = np.array([[0.5, -1.0, 0.26]])
    >>> quantise(values, np.float32([0.25, 0.25, 0.25]), "int8")
    array([[ 2, -4,  1]], dtype=int8)
    >>> unpack(quantise(values, np.float32([0.25, 0.25, 0.25]), "int4"))[:, :3]
    array([[ 2, -4,  1]], dtype=int8)
    """
    largest = LARGEST[dtype]
    whole = np.clip(np.rint(values / scales), -largest, largest).astype(np.int8)
    if dtype == "int8":
        return whole
    if whole.shape[1] % 2:
        whole = np.pad(whole, ((0, 0), (0, 1)))
    nibbles = whole.view(np.uint8) & 15
    return nibbles[:, ::2] | nibbles[:, 1::2] << 4


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Take apart bytes that hold two integers of 4 bits each, in two's complement."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1)
    # The highest of the 4 bits is the sign.
    whole: NDArray[np.int8] = (nibbles.reshape(len(packed), -1) ^ 8).view(np.int8) - 8
    return whole


def packed_width(width: int, dtype: str) -> int:
    """Count the values that a row of a blob takes in its file."""
    return -(-width // 2) if dtype == "int4" else width


def read_scales(attributes: Mapping[str, Any], stored_width: int, dtype: str) -> Any:
    """Read the scales beside integers; raise ValueError if they do not fit.

    A file may come from anywhere.
    """
    scales = attributes["scales"]
    if not isinstance(scales, list) or not 0 < len(scales) <= MAX_DIMENSIONS:
        raise ValueError("other scales than a list of numbers")
    if not all(type(s) is float and _SMALLEST <= s <= _LARGEST for s in scales):
        raise ValueError("scales that are not positive and finite")
    if packed_width(len(scales), dtype) != stored_width:
        raise ValueError(f"{len(scales)} scales for rows of {stored_width} {dtype}")
    return scales
