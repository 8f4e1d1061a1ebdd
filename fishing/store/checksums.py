"""SHA-256 of the values of each dataset, and of the outline that holds them together.

`fishing.store.write` records them, and `find_damage` compares them. HDF5 guards its own
structures by checksums of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fishing.errors import one_line
from fishing.progress import Progress
from fishing.store.format import SHA256
from fishing.store.places import BAD_INDEX, open_values
from fishing.store.rows import row_blocks
from fishing.store.values import OpenFile, PlainValues


def outline_sha256(outline: Mapping[str, Any]) -> str:
    """Compute the checksum of attributes, shapes and types, as docs/format.md says.

    `fishing.store.index` makes the outline.
    """
    root = dict(outline["/"])
    root["attributes"] = {k: v for k, v in root["attributes"].items() if k != SHA256}
    text = json.dumps({**outline, "/": root}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find_damage(
    file: OpenFile, index: Mapping[str, Any], progress: Progress
) -> dict[str, str]:
    """Compute all checksums of a features file again, in the memory of a few rows.

    Returns what is wrong with each damaged dataset, by its name, or with the outline,
    by the name ``/``.
    """
    try:
        damage: dict[str, str] = dict(index["damage"])
        values, recorded = _open_all(file, index, damage)
        is_other_outline = outline_sha256(index["outline"]) != recorded["/"]
    except BAD_INDEX as error:
        return {"/": one_line(error)}
    done, total = 0, sum(part.nbytes for part in values.values())
    for name, part in values.items():
        digest = hashlib.sha256()
        for block in row_blocks(part.shape[0]):
            try:
                rows = part.read(block)
            except (OSError, ValueError) as error:
                damage[name] = one_line(error)
                break
            digest.update(rows.data)
            done += rows.nbytes
            progress(file.path.name, done, total, "B")
        else:
            if not recorded[name]:
                damage[name] = "no checksum"
            elif digest.hexdigest() != recorded[name]:
                damage[name] = "other values than were written"
    if not damage and is_other_outline:
        damage["/"] = "other attributes, shapes or types than were written"
    return damage


def _open_all(
    file: OpenFile, index: Mapping[str, Any], damage: dict[str, str]
) -> tuple[dict[str, PlainValues], dict[str, Any]]:
    """Open all datasets and collect the recorded checksums; note what is damaged."""
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
