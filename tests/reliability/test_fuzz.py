"""Damaged files: what once broke, and a short campaign for each reader.

Longer campaigns: `python tests/campaigns/fuzz.py --help`.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
from functools import cache
from pathlib import Path

import pytest

from campaigns import fuzz
from fishing.errors import StoreError
from fishing.store import FeaturesFile, index_process
from hdf5_checksums import find_blocks, repair

CORPUS = Path(__file__).parent / "corpus"
COUNTS = {
    "features": 60,
    "graph": 300,
    "openvino": 100,
    "interrupted": 300,
    "results": 400,
}


@cache
def _reader(name: str) -> fuzz.Reader:
    return fuzz.READERS[name]()


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda f: f.name)
def test_what_once_broke(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    if file.suffix == ".gz":
        data = gzip.decompress(data)
    replayed = fuzz.replay(_reader(file.parent.name), data)
    assert replayed in ("taken", "refused")


@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_short_campaign(name: str, tmp_path: Path) -> None:
    count = COUNTS.get(name, 2000)
    found = fuzz.campaign(_reader(name), count, seed=0, keep=tmp_path)
    assert found.findings == {}
    assert found.begun == found.taken + found.refused == count
    assert found.taken > 0
    assert found.refused > 0


def test_repaired_files_are_read(tmp_path: Path) -> None:
    """Past HDF5's own checksums, so that what comes behind them is tried."""
    original = _reader("features").seeds[0]
    # The shape, and how far it may grow.
    shape, other = (struct.pack("<QQQQ", n, 2, n, 2) for n in (5, 4))
    blocks = find_blocks(original)
    place = next(
        place
        for block in blocks
        if (place := original.find(shape, block.start, block.stop)) >= 0
    )
    content = bytearray(original)
    content[place : place + 32] = other
    path = tmp_path / "f.h5"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="incorrect metadata checksum"):
        FeaturesFile(path)
    repair(content, original, blocks)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a shape of \(4, 2\) in /t"):
        FeaturesFile(path)


def test_every_guarded_structure_is_found() -> None:
    kinds = b"OHDR|OCHK|FRHP|FHDB|FSHD|FSSE|BTHD|BTLF|FAHD|FADB"
    met = set()
    for seed in _reader("features").seeds:
        starts = {block.start for block in find_blocks(seed)}
        found = {m.start(): m.group() for m in re.finditer(kinds, seed)}
        assert starts == {0, *found}
        met |= set(found.values())
    assert met == set(kinds.split(b"|"))


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("chunk-index-damaged", "wrong B-tree signature"),
        ("chunks-of-a-shape-that-grows", "a shape that may grow to"),
        ("libhdf5-crashed", "HDF5 crashes|of type object"),
        ("libhdf5-freed-twice", "memory allocation failed|does not come to an end"),
        ("libhdf5-went-round-in-a-heap", "does not come to an end"),
        ("libhdf5-wrote-beyond-a-table-of-attributes", "HDF5 crashes|no blobs"),
    ],
)
def test_damage_reaches_what_it_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reached: str
) -> None:
    """No earlier check spares HDF5 the damage."""
    monkeypatch.setattr(index_process, "CPU_SECONDS", 0)
    path = tmp_path / "f.h5"
    path.write_bytes(gzip.decompress((CORPUS / "features" / f"{name}.gz").read_bytes()))
    with pytest.raises(StoreError, match=reached):
        FeaturesFile(path)


class _Fragile(fuzz.Reader):
    """Breaks in every way that a campaign has to notice."""

    name = "fragile"

    def make_seeds(self) -> list[bytes]:
        return [b"kxme  "]

    def run(self, folder: Path, data: bytes) -> None:
        if data[:1] == b"k":
            os.abort()
        elif b"x" in data:
            raise ZeroDivisionError
        elif b"m" in data:
            bytes(2**40)


def test_a_campaign_notices(tmp_path: Path) -> None:
    found = fuzz.campaign(_Fragile(), 100, seed=0, keep=tmp_path)
    assert found.findings is not None
    kinds = {what.split(" at ")[0] for what in found.findings}
    assert kinds == {"exit code -6", "ZeroDivisionError", "MemoryError"}
    kept = list(tmp_path.glob("fragile/ZeroDivision*-seed-0-input-*"))
    assert b"x" in kept[0].read_bytes()
