"""Checksums of a features file: what is recorded while it is written, what is damaged.

In go open files and datasets, out come SHA-256 of each dataset's values and of the
outline that holds them together, and the names of those that differ from what was
recorded. HDF5's own structures have checksums of its own (`fishing.store`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.nets import BLOBS
from fishing.store.checks import check_dataset, check_names, open_part
from fishing.store.chunks import read_values

#: The attribute that holds the checksum of a dataset and, on the file, of the outline.
SHA256 = "sha256"
#: What h5py answers damage with.
HDF5_ERRORS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OSError,
    RuntimeError,
)
_DATASETS = (
    "image_id",
    "labels",
    *BLOBS,
    *(f"failed/{name}" for name in ("image_id", "reason", "index", "labels")),
)
# Rows that are read at once: whole chunks, each decompressed only once.
_BLOCK_ROWS = 256


def reserve_sha256(part: Any) -> None:
    """Make room for a checksum in a file, group or dataset that has no values yet."""
    part.attrs[SHA256] = np.bytes_("0" * 64)


class Checksum:
    """SHA-256 of the values of a dataset, taken while they are written or read.

    Values are those in the file, in their order and type: of float16 before the scale,
    of compressed ones what was compressed.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, values: NDArray[Any]) -> None:
        """Add the next values."""
        self._digest.update(np.ascontiguousarray(values).data)

    def record(self, dataset: Any) -> None:
        """Write the checksum to its dataset."""
        _record(dataset, self._digest.hexdigest())

    def differs(self, dataset: Any) -> bool:
        """Tell whether the dataset has another one."""
        return self._digest.hexdigest() != _recorded(dataset)


def plain(value: Any) -> Any:
    """Turn what h5py gives for an attribute into text, numbers and lists of them."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def record_outline(file: Any) -> None:
    """Write the checksum of the outline of a file, once all else is written."""
    _record(file, _outline_sha256(file))


def find_damage(
    file: Any, file_size: int, progress: Callable[[int, int], None]
) -> dict[str, str]:
    """Recompute all checksums, in the memory of a few rows.

    Parameters
    ----------
    file : h5py.File
    file_size : int
        How many bytes of it there are; values beyond them are lost.
    progress : callable
        Called with how many bytes of values are read, and of how many.

    Returns
    -------
    dict of str to str
        What is wrong with each dataset that is damaged, or with the outline, which has
        the name ``/``.

    Raises
    ------
    HDF5_ERRORS
        If the names of the splits cannot be read.
    """
    datasets, damage = _open_all(file, file_size)
    done, total = 0, sum(dataset.nbytes for dataset in datasets.values())
    for name, dataset in datasets.items():
        checksum = Checksum()
        try:
            for start in range(0, len(dataset), _BLOCK_ROWS):
                block = slice(start, start + _BLOCK_ROWS)
                values = read_values(dataset, (block,))
                checksum.update(values)
                done += values.nbytes
                progress(done, total)
            if checksum.differs(dataset):
                damage[name] = "other values than were written"
        except HDF5_ERRORS as error:
            damage[name] = _first_line(error)
    try:
        if not damage and _outline_sha256(file) != _recorded(file):
            damage["/"] = "other attributes, shapes or types than were written"
    except HDF5_ERRORS as error:
        damage["/"] = _first_line(error)
    return damage


def _open_all(file: Any, file_size: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Open the datasets that are there; what is wrong with the others."""
    datasets: dict[str, Any] = {}
    damage: dict[str, str] = {}
    for name in _names(file):
        try:
            part = open_part(file, name)
            if part is not None:
                check_dataset(part, file_size)
                datasets[name] = part
        except HDF5_ERRORS as error:
            damage[name] = _first_line(error)
    return datasets, damage


def _names(file: Any) -> list[str]:
    """Name the datasets that a file may have."""
    return [f"{split}/{name}" for split in _splits(file) for name in _DATASETS]


def _splits(file: Any) -> list[str]:
    return check_names(json.loads(file.attrs["splits"]))


def _outline_sha256(file: Any) -> str:
    """Digest attributes, shapes and types, as docs/format.md says."""
    outline: dict[str, dict[str, Any]] = {}
    for name in ("/", *_splits(file), *_names(file)):
        part = open_part(file, name)
        if part is None:
            continue
        attributes = {key: plain(value) for key, value in part.attrs.items()}
        if name == "/":
            attributes.pop(SHA256, None)
        outline[name] = {"attributes": attributes}
        if hasattr(part, "dtype"):
            outline[name] |= {"shape": list(part.shape), "dtype": part.dtype.str}
    return hashlib.sha256(json.dumps(outline, sort_keys=True).encode()).hexdigest()


def _record(part: Any, hexdigest: str) -> None:
    part.attrs.modify(SHA256, np.bytes_(hexdigest))


def _recorded(part: Any) -> str:
    return bytes(part.attrs[SHA256]).decode("ascii", "replace")


def _first_line(error: BaseException) -> str:
    return (str(error).strip("'\"") or repr(error)).splitlines()[0]
