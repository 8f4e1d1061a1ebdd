"""Folders of shards, read as one features file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SETTINGS, make_split, write_file
from fishing.errors import StoreError
from fishing.files import file_sha256
from fishing.images import ImageList
from fishing.store import (
    FeaturesFile,
    Manifest,
    Shard,
    Split,
    begin_shards,
    describe,
    load,
    read_manifest,
    record_shard,
    shard_path,
    verify,
)

N, FAILED, CUTS = 12, (0, 5, 6, 11), (0, 5, 7, 12)


def _sliced(split: Split, start: int, stop: int) -> Split:
    """Take a part of a split, as an extraction of a part of the list makes it."""
    failed = np.array([i for i in FAILED if start <= i < stop], np.int64)
    places = np.delete(np.arange(N), list(FAILED))
    kept = np.flatnonzero((places >= start) & (places < stop))
    gone = [FAILED.index(i) for i in failed]
    assert split.labels is not None
    assert split.failed_labels is not None
    return replace(
        split,
        image_id=tuple(split.image_id[i] for i in kept),
        labels=split.labels[kept],
        blobs={name: rows[kept] for name, rows in split.blobs.items()},
        failed_id=tuple(split.failed_id[i] for i in gone),
        failed_reason=tuple(split.failed_reason[i] for i in gone),
        failed_index=failed - start,
        failed_labels=split.failed_labels[gone],
    )


@pytest.fixture
def whole(rng: np.random.Generator) -> Split:
    split = make_split(rng, N - len(FAILED), failed=FAILED)
    return replace(split, list_sha256=_list(split).sha256)


def _list(split: Split) -> ImageList:
    order = sorted([*split.image_id, *split.failed_id])  # the names count up
    labels = dict(zip(split.image_id, split.labels, strict=True))
    labels |= dict(zip(split.failed_id, split.failed_labels, strict=True))
    table = np.array([labels[name] for name in order], np.int8)
    return ImageList("test", tuple(order), (), split.classes, table)


@pytest.fixture
def folder(whole: Split, tmp_path: Path) -> Path:
    """Write three shards, the second of which has no rows."""
    folder = tmp_path / "features"
    begin_shards(folder, _manifest(whole))
    (folder / "shards").mkdir()
    for number, (start, stop) in enumerate(pairwise(CUTS)):
        part = _sliced(whole, start, stop)
        path = write_file(shard_path(folder, number), test=part)
        record_shard(folder, number, {"test": len(part)}, file_sha256(path))
    return folder


def _manifest(whole: Split) -> Manifest:
    shards = [Shard({"test": [a, b]}, {}, "") for a, b in pairwise(CUTS)]
    return Manifest(dict(SETTINGS), {"threads": 2}, {"test": whole.list_sha256}, shards)


def test_shards_are_one_file(whole: Split, folder: Path) -> None:
    file = load(folder)
    assert file.settings == SETTINGS
    found = file["test"]
    for name in (
        *("image_id", "classes", "failed_id", "failed_reason", "devkit", "list_sha256"),
    ):
        assert getattr(found, name) == getattr(whole, name)
    for name in ("labels", "failed_labels", "failed_index"):
        assert (getattr(found, name) == getattr(whole, name)).all()
    for blob, rows in whole.blobs.items():
        assert np.asarray(found.blobs[blob]).tobytes() == rows.tobytes()
        assert (found.blobs[blob][[7, 0, 3]] == rows[[7, 0, 3]]).all()
    verify(folder)
    file.verify()
    assert describe(folder)["splits"]["test"]["n_images"] == N - len(FAILED)


def test_few_descriptors_are_open(folder: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with FeaturesFile(folder) as file:
        rows = file["test"].blobs["forward/x7"]
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert rows[:].shape == (8, 6)
        assert len(os.listdir("/proc/self/fd")) == len(before)
    with pytest.raises(StoreError, match="found that it was closed"):
        rows[:]


def test_a_shard_that_is_replaced_meanwhile_is_named(folder: Path) -> None:
    with FeaturesFile(folder) as file:
        path = shard_path(folder, 2)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content + b"\0")
        with pytest.raises(StoreError, match=r"00002\.h5.* another file"):
            file["test"].blobs["forward/x7"][:]


def test_missing_shards_are_named(folder: Path) -> None:
    shard_path(folder, 2).unlink()
    shard_path(folder, 0).unlink()
    for reader in (FeaturesFile, verify, describe, load):
        with pytest.raises(StoreError, match=r"2 of them missing.*: 00000 00002;"):
            reader(folder)


def test_a_shard_that_is_not_recorded_is_missing(folder: Path) -> None:
    record_shard(folder, 1, {}, "")
    with pytest.raises(StoreError, match="1 of them missing or not finished: 00001;"):
        FeaturesFile(folder)


def test_every_damaged_byte_is_found_and_its_shard_named(
    folder: Path, rng: np.random.Generator
) -> None:
    path = shard_path(folder, 2)
    content = path.read_bytes()
    for place in rng.integers(0, len(content), 20):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"1 of 3 shards are damaged: .*00002\.h5"):
            verify(folder)
    path.write_bytes(content[:100])
    with pytest.raises(StoreError, match=r"00002\.h5"):
        FeaturesFile(folder)


def _swap(folder: Path) -> None:
    one, other = shard_path(folder, 0), shard_path(folder, 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _other_rows(folder: Path) -> None:
    _change(folder, lambda found: found["shards"][1]["rows"].update(test=1))


def _other_settings(folder: Path) -> None:
    _change(folder, lambda found: found["settings"].update(temperature=4.0))


def _other_list(folder: Path) -> None:
    _change(folder, lambda found: found["lists"].update(test="1" * 64))


def _change(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap, "expected the images and labels that the manifest"),
        (_other_rows, r"00001\.h5: expected rows of"),
        (_other_settings, r"00000\.h5 was made with another temperature"),
        (_other_list, "expected the images and labels that the manifest"),
    ],
)
def test_shards_of_other_work_are_refused(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(StoreError, match=message):
        FeaturesFile(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"null", b'{"format": 1}'),
        b'{"format": "fishing-shards", "format_version": 2}',
    ],
)
def test_a_file_that_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json: expected the manifest of"):
        FeaturesFile(folder)


VALUES: list[Any] = [None, -1, 1.5, "x", [], {}, [[]], {"test": None}, {"test": [4]}]


def test_any_value_in_a_manifest_is_checked(folder: Path) -> None:
    """Put each value in each place; what is not refused must be harmless."""
    whole = json.loads((folder / "manifest.json").read_text())
    for key in whole:
        for value in VALUES:
            _write(folder, {**whole, key: value})
            _refused_or_read(folder)
    for key in whole["shards"][0]:
        for value in VALUES:
            first = {**whole["shards"][0], key: value}
            _write(folder, {**whole, "shards": [first, *whole["shards"][1:]]})
            _refused_or_read(folder)


def _write(folder: Path, content: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(content))


def _refused_or_read(folder: Path) -> None:
    with suppress(StoreError):
        read_manifest(folder)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a folder without manifest\.json; `fishing"):
        FeaturesFile(tmp_path)


def test_work_goes_on_only_under_the_same_circumstances(
    whole: Split, folder: Path
) -> None:
    same = _manifest(whole)
    assert begin_shards(folder, same) == read_manifest(folder)
    for other, message in (
        (replace(same, run={"threads": 1}), "another threads: expected 1, found 2"),
        (replace(same, settings={**SETTINGS, "backend": "onnx"}), "another backend"),
        (replace(same, lists={"test": "1" * 64}), "another list of 'test'"),
        (replace(same, shards=same.shards[:2]), "another number of shards"),
    ):
        with pytest.raises(StoreError, match=message):
            begin_shards(folder, other)


def test_a_folder_of_somebody_else_is_left_alone(whole: Split, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"found 'photo\.jpg' in it"):
        begin_shards(tmp_path, _manifest(whole))
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_what_a_crash_left_of_a_manifest_is_swept(whole: Split, folder: Path) -> None:
    (folder / ".0123456789abcdef.partial.json").write_text("{")
    begin_shards(folder, _manifest(whole))
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "shards"}
    FeaturesFile(folder)


def test_shards_may_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    verify(tmp_path / "elsewhere")
