"""SHA-256 of the values of each dataset, and of the outline that holds them together.

They are recorded while a features file is written, and compared by `find_damage`.
HDF5's own structures have checksums of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import one_line
from fishing.progress import Progress
from fishing.store.format import SHA256
from fishing.store.places import BAD_INDEX, open_values
from fishing.store.rows import row_blocks
from fishing.store.values import OpenFile, PlainValues


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

    def hexdigest(self) -> str:
        """Give the checksum of all values so far."""
        return self._digest.hexdigest()


def outline_sha256(outline: Mapping[str, Any]) -> str:
    """Digest attributes, shapes and types, as docs/format.md says.

    Parameters
    ----------
    outline : mapping
        As `fishing.store.index` makes it.
    """
    root = dict(outline["/"])
    root["attributes"] = {k: v for k, v in root["attributes"].items() if k != SHA256}
    text = json.dumps({**outline, "/": root}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find_damage(
    file: OpenFile, index: Mapping[str, Any], progress: Progress
) -> dict[str, str]:
    """Recompute all checksums of a features file, in the memory of a few rows.

    Parameters
    ----------
    file : OpenFile
    index : mapping
        Where its values lie, as `fishing.store.index` says.
    progress : Progress
        Counts bytes of values.

    Returns
    -------
    dict of str to str
        What is wrong with each dataset that is damaged, or with the outline, which has
        the name ``/``.
    """
    try:
        damage: dict[str, str] = dict(index["damage"])
        values, recorded = _open_all(file, index, damage)
        is_other_outline = outline_sha256(index["outline"]) != recorded["/"]
    except BAD_INDEX as error:
        return {"/": one_line(error)}
    done, total = 0, sum(part.nbytes for part in values.values())
    for name, part in values.items():
        checksum = Checksum()
        for block in row_blocks(part.shape[0]):
            try:
                rows = part.read(block)
            except (OSError, ValueError) as error:
                damage[name] = one_line(error)
                break
            checksum.update(rows)
            done += rows.nbytes
            progress(file.path.name, done, total, "B")
        else:
            if checksum.hexdigest() != recorded[name]:
                damage[name] = (
                    "other values than were written"
                    if recorded[name]
                    else "no checksum"
                )
    if not damage and is_other_outline:
        damage["/"] = "other attributes, shapes or types than were written"
    return damage


def _open_all(
    file: OpenFile, index: Mapping[str, Any], damage: dict[str, str]
) -> tuple[dict[str, PlainValues], dict[str, Any]]:
    """Open all datasets, and collect recorded checksums; note what is damaged."""
    values: dict[str, PlainValues] = {}
    recorded = {"/": index["outline"]["/"]["attributes"].get(SHA256)}
    for name, place in index["places"].items():
        try:
            form = index["outline"][name]
            recorded[name] = form["attributes"].get(SHA256)
            values[name] = open_values(file, name, form, place)
        except BAD_INDEX as error:
            damage[name] = one_line(error)
    return values, recorded
