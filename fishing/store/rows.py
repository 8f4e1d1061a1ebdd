"""How the rows of a blob lie in an HDF5 dataset: their type and their compression.

In goes what can be sliced like an array of float32, out of a dataset comes the same. A
dataset of float16 carries its ``scale``, a power of two: value = stored * scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.store.checksums import Checksum, reserve_sha256
from fishing.store.chunks import read_values
from fishing.store.settings import with_storage

_FILTERS: dict[str, dict[str, Any]] = {
    # Shuffling would scatter the zeros of a ReLU, of which LZF makes the most.
    "lzf": {"compression": "lzf"},
    # Higher levels cost twice the time for 2 % of the size.
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
}
# A chunk is this large at most: the kernel reads columns, others read rows.
_CHUNK = (256, 512)
# Rows that are written at once: whole chunks, each compressed only once.
_BLOCK_ROWS = _CHUNK[0]


class Rows(Protocol):
    """What can be sliced like an array of shape (n, d), be it in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Read a part."""
        ...


def create_rows(
    group: Any, name: str, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> Any:
    """Make the dataset of a blob, without its values.

    Parameters
    ----------
    group : h5py.Group
    name : str
        Of the dataset to make.
    shape : tuple of int
    settings : mapping
        Of the file: as `storage_settings` gives them, and others.

    Returns
    -------
    h5py.Dataset
    """
    storage, layout = with_storage(settings), {}
    # HDF5 has no chunks without values.
    if storage["compression"] != "none" and math.prod(shape):
        chunks = tuple(map(min, shape, _CHUNK))
        layout = {"chunks": chunks, **_FILTERS[storage["compression"]]}
    dtype = "<f2" if storage["dtype"] == "float16" else "<f4"
    dataset = group.create_dataset(name, shape=shape, dtype=dtype, **layout)
    if dataset.dtype == np.float16:
        dataset.attrs["scale"] = np.float32(1)
    reserve_sha256(dataset)
    return dataset


def write_rows(dataset: Any, rows: Any) -> Iterator[int]:
    """Write values and their checksum, a few rows at a time.

    Parameters
    ----------
    dataset : h5py.Dataset
        With room for a checksum; if it is of float16, also for a scale.
    rows : array_like, shape (n, ...)
        Sliced by rows; twice, where the type is float16.

    Yields
    ------
    int
        How many bytes of values were written since the last one.
    """
    is_half = dataset.dtype == np.float16
    blocks = [slice(i, i + _BLOCK_ROWS) for i in range(0, len(dataset), _BLOCK_ROWS)]
    if is_half:
        magnitudes = (float(np.abs(rows[block]).max(initial=0)) for block in blocks)
        scale = _half_scale(max(magnitudes, default=0))
        dataset.attrs.modify("scale", scale)
    checksum = Checksum()
    for block in blocks:
        values = rows[block] / scale if is_half else rows[block]
        values = values.astype(dataset.dtype, copy=False)
        checksum.update(values)
        dataset[block] = values
        yield values.nbytes
    checksum.record(dataset)


def open_rows(dataset: Any) -> Rows:
    """View a dataset as rows of float32, whatever its type.

    Parameters
    ----------
    dataset : h5py.Dataset

    Raises
    ------
    LookupError, ValueError
        If it is of float16 and has no scale that can be one.
    """
    return _HalfRows(dataset) if dataset.dtype == np.float16 else _Rows(dataset)


class _Rows:
    """A dataset whose damage, where there is any, shows as a StoreError."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        try:
            keys = key if isinstance(key, tuple) else (key,)
            values: NDArray[np.float32] = read_values(self._dataset, keys)
        except (OSError, RuntimeError, ValueError) as error:
            dataset = self._dataset
            raise StoreError(
                f"{dataset.file.filename}: expected to read {dataset.name}, found "
                f"{str(error).splitlines()[0]}; extract it anew with --overwrite"
            ) from None
        return values


class _HalfRows(_Rows):
    """A dataset of float16 and a scale, read as float32."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.dtype = np.dtype(np.float32)
        self._scale = np.float32(dataset.attrs["scale"])
        if not 0 < self._scale < np.inf:
            raise ValueError(f"a scale of {self._scale} in {dataset.name}")

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        values = super().__getitem__(key).astype(np.float32)
        values *= self._scale
        return values


def _half_scale(largest: float) -> np.float32:
    """Choose the power of two that brings the largest value near float16's limit.

    Gradients may be as small as 1e-8, where float16 has no digits left. Under a scale
    all values keep 11 bits that are at least 2^-29 of the largest one.
    """
    mantissa, exponent = math.frexp(largest)
    # As it will be stored: writing what was read must find the same scale again.
    exponent += math.frexp(float(np.float16(mantissa)))[1]
    # Not below float32's own limit: the scale is a float32, and divides.
    return np.float32(2.0 ** max(exponent - 16, -126))
