"""Damaged files: what once broke, and a short campaign for each reader.

Longer campaigns: `python tests/campaigns/fuzz.py --help`.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from campaigns import fuzz

CORPUS = Path(__file__).parent / "corpus"
COUNTS = {"features": 60, "graph": 300}


@pytest.fixture(scope="module", params=list(fuzz.READERS))
def reader(request: pytest.FixtureRequest) -> fuzz.Reader:
    return fuzz.READERS[request.param]()


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda f: f.name)
def test_what_once_broke(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    if file.suffix == ".gz":
        data = gzip.decompress(data)
    replayed = fuzz.replay(fuzz.READERS[file.parent.name](), data)
    assert replayed in ("taken", "refused")


def test_a_short_campaign(reader: fuzz.Reader, tmp_path: Path) -> None:
    count = COUNTS.get(reader.name, 2000)
    found = fuzz.campaign(reader, count, seed=0, keep=tmp_path)
    assert found.findings == {}
    assert found.begun == found.taken + found.refused == count
    assert found.taken > 0
    assert found.refused > 0


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
    found = fuzz.campaign(_Fragile(), 150, seed=0, keep=tmp_path)
    assert found.findings is not None
    kinds = {what.split(" at ")[0] for what in found.findings}
    assert kinds == {"exit code -6", "ZeroDivisionError", "MemoryError"}
    kept = list(tmp_path.glob("fragile/*ZeroDivision*-1"))
    assert b"x" in kept[0].read_bytes()
