from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import SETTINGS
from fishing.errors import StoreError
from fishing.images import ImageList
from fishing.nets import BLOBS
from fishing.store import FeaturesFile, FeaturesWriter, storage_settings
from fishing.store import writer as writer_module
from fishing.store.journal import _chained

WIDTHS = dict.fromkeys(BLOBS, 3)
FAILED = {0: "empty file", 4: "truncated", 9: "gone"}
BATCHES = [(3, 2), (7, 3), (9, 2), (10, 0)]  # images done, rows of the batch


def _list(split: str, n: int = 10) -> ImageList:
    ids = tuple(f"{split}{i}" for i in range(n))
    labels = np.where(np.arange(n) % 2, 1, -1).astype(np.int8)[:, None]
    return ImageList(split, ids, tuple(map(Path, ids)), ("odd",), labels)


def _blobs(start: int, n: int) -> dict[str, np.ndarray]:
    """Make rows that tell which image and blob they belong to."""
    rows = np.arange(start, start + n, dtype=np.float32)[:, None]
    return {b: rows + 100 * k + np.zeros((1, 3)) for k, b in enumerate(BLOBS)}


def _append(writer: FeaturesWriter, split: str, batches=BATCHES, done: int = 0) -> None:
    start = sum(n for upto, n in BATCHES if upto <= done)
    for upto, n in batches:
        failed = {i: r for i, r in FAILED.items() if done <= i < upto}
        blobs = _blobs(start, n) if n else {}
        writer.append(split, upto, blobs, failed)
        done, start = upto, start + n


def _write(path: Path, *splits: str, **options: bool) -> bytes:
    with FeaturesWriter(path, SETTINGS, **options) as writer:
        for images in writer.pending([_list(name) for name in splits]):
            _append(writer, images.split, done=writer.open_split(images, WIDTHS))
        writer.publish()
    return path.read_bytes()


def test_rows_stand_beside_their_ids(tmp_path: Path) -> None:
    _write(tmp_path / "f.h5", "test")
    with FeaturesFile(tmp_path / "f.h5") as file:
        split = file.split("test")
        assert split.image_id == tuple(f"test{i}" for i in (1, 2, 3, 5, 6, 7, 8))
        assert split.failed_id == ("test0", "test4", "test9")
        assert split.failed_reason == tuple(FAILED.values())
        assert split.failed_index.tolist() == [0, 4, 9]
        assert split.labels is not None
        assert split.labels[:, 0].tolist() == [1, -1, 1, 1, -1, 1, -1]
        assert split.failed_labels is not None
        assert split.failed_labels[:, 0].tolist() == [-1, -1, 1]
        for k, blob in enumerate(BLOBS):
            assert split.blobs[blob][:, 0].tolist() == [100 * k + i for i in range(7)]
    assert not (tmp_path / "f.h5.partial").exists()


def test_rows_are_on_the_disk_before_the_line_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the journal must not count rows that are gone."""
    path = tmp_path / "f.h5"
    folder = tmp_path / "f.h5.partial"
    on_disk = {"test.rows": 0, "test.journal": 0}
    synced: list[tuple[str, int, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        for name in on_disk:
            if os.path.samestat(os.fstat(descriptor), (folder / name).stat()):
                # No line may be written, let alone be safe, while rows are not.
                lines = (folder / "test.journal").read_bytes().splitlines()
                n_counted = json.loads(lines[-1]).get("rows", 0) if lines else 0
                on_disk[name] = (folder / name).stat().st_size
                synced.append((name, on_disk["test.rows"], n_counted))

    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        monkeypatch.setattr(os, "fsync", fsync)
        _append(writer, "test")
        monkeypatch.undo()
    row_bytes = 4 * sum(WIDTHS.values())
    assert [name for name, *_ in synced].count("test.journal") == len(BATCHES)
    for name, n_bytes, n_counted in synced:
        assert n_bytes >= n_counted * row_bytes, (name, synced)
    assert synced[-1] == ("test.journal", 7 * row_bytes, 7)


@pytest.mark.parametrize("n_batches", range(len(BATCHES) + 1))
def test_work_is_taken_up_after_any_batch(tmp_path: Path, n_batches: int) -> None:
    whole = _write(tmp_path / "whole.h5", "test")
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        assert writer.open_split(_list("test"), WIDTHS) == 0
        _append(writer, "test", BATCHES[:n_batches])
    assert not path.exists()
    with FeaturesWriter(path, SETTINGS) as writer:
        done = writer.open_split(_list("test"), WIDTHS)
        assert done == (BATCHES[n_batches - 1][0] if n_batches else 0)
        _append(writer, "test", BATCHES[n_batches:], done)
        writer.publish()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("file", ["test.journal", "test.rows"])
def test_a_torn_tail_is_cut_off(tmp_path: Path, file: str) -> None:
    whole = _write(tmp_path / "whole.h5", "test")
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:2])
    torn = tmp_path / "f.h5.partial" / file
    content = torn.read_bytes()
    for n in range(len(content) + 1):
        torn.write_bytes(content[:n])
        with FeaturesWriter(path, SETTINGS) as writer:
            done = writer.open_split(_list("test"), WIDTHS)
            start = [upto for upto, _ in BATCHES].index(done) + 1 if done else 0
            _append(writer, "test", BATCHES[start:2], done)
    assert writer.n_failed("test") == 2
    torn.write_bytes(torn.read_bytes() + b'{"done": 9, "rows"')
    assert _write(path, "test") == whole


@pytest.mark.parametrize("file", ["test.journal", "test.rows", "settings.json"])
def test_no_flipped_bit_passes(tmp_path: Path, file: str) -> None:
    """It costs batches, or is refused; published values are right to the last bit."""
    whole = _write(tmp_path / "whole.h5", "test")
    path, work = tmp_path / "f.h5", tmp_path / "f.h5.partial"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES)
    files = {part.name: part.read_bytes() for part in work.iterdir()}
    messages = set()
    for bit in range(0, 8 * len(files[file]), 101):
        work.mkdir(exist_ok=True)
        for name, content in files.items():
            (work / name).write_bytes(content)
        damaged = bytearray(files[file])
        damaged[bit // 8] ^= 1 << bit % 8
        (work / file).write_bytes(damaged)
        for _ in range(2):
            try:
                with FeaturesWriter(path, SETTINGS) as writer:
                    done = writer.open_split(_list("test"), WIDTHS)
                    start = [0, *(upto for upto, _ in BATCHES)].index(done)
                    _append(writer, "test", BATCHES[start:], done)
                    writer.publish()
                break
            except StoreError as error:
                messages.add(str(error).split("; ")[-1])
        if file == "settings.json":
            assert not path.exists()
        else:
            assert path.read_bytes() == whole
            path.unlink()
    assert (
        messages
        == {
            "test.journal": set(),
            "test.rows": {"the same command goes on from there"},
            "settings.json": {"start anew with --overwrite"},
        }[file]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"done": 3.0}, {"done": True}, {"done": -1}, {"done": 99}, {"done": "3"},
        {"done": 4}, {"rows": 0}, {"rows": 3}, {"rows": 99}, {"rows": None},
        {"failed": []}, {"failed": {}}, {"failed": {"0": 1}}, {"failed": {"00": "x"}},
        {"failed": {"7": "x"}}, {"failed": {"0": "\ud800"}}, {"sha256": 3}, {"list": 1},
    ],
    ids=str,
)  # fmt: skip
def test_entries_that_cannot_be_do_not_count(tmp_path: Path, change) -> None:
    """They do not even with a correct checksum."""
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:1])
    journal = tmp_path / "f.h5.partial" / "test.journal"
    first, second = map(json.loads, journal.read_bytes().splitlines())
    entry = {key: value for key, value in second.items() if key != "chain"} | change
    if change.keys() == {"list"}:
        entry = {"list": "0" * 64}
    chain = _chained(first["chain"], entry)
    lines = (json.dumps(line) for line in (first, {**entry, "chain": chain}))
    journal.write_text("".join(f"{line}\n" for line in lines))
    with FeaturesWriter(path, SETTINGS) as writer:
        assert writer.open_split(_list("test"), WIDTHS) == 0


@pytest.mark.parametrize("name", ["test.rows", "settings.json", "lock", "whole.h5"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_links_to_other_files_are_refused(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    path, other = tmp_path / "f.h5", tmp_path / "thesis.txt"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:1])
    part = tmp_path / "f.h5.partial" / name
    other.write_bytes(part.read_bytes() if part.exists() else b"mine")
    before = other.read_bytes()
    part.unlink(missing_ok=True)
    part.symlink_to(other)
    with pytest.raises(StoreError, match=r"found other files|symbolic links"):
        FeaturesWriter(path, SETTINGS, overwrite=overwrite)
    assert other.read_bytes() == before


def test_publishing_shows_progress(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    for split, labels in (
        ("train", ["checking rows", "writing f.h5"]),
        ("test", ["checking rows", "f.h5", "writing f.h5"]),
    ):
        calls: list[tuple[str, int, int | None, str]] = []
        with FeaturesWriter(path, SETTINGS) as writer:
            writer.open_split(_list(split), WIDTHS)
            _append(writer, split, BATCHES)
            writer.publish(lambda *call, calls=calls: calls.append(call))
        assert list(dict.fromkeys(label for label, *_ in calls)) == labels
        for label in labels:
            done = [n for name, n, *_ in calls if name == label]
            ((total, unit),) = {call[2:] for call in calls if call[0] == label}
            assert done == sorted(done)
            assert done[-1] == total
            assert unit == ("images" if label == "checking rows" else "B")
            assert (total == 10) == (unit == "images")


def test_a_split_is_added(tmp_path: Path) -> None:
    both = _write(tmp_path / "both.h5", "train", "test")
    path = tmp_path / "f.h5"
    _write(path, "train")
    assert _write(path, "test") == both
    with FeaturesWriter(path, SETTINGS) as writer:
        assert writer.pending([_list("train"), _list("test")]) == []
        assert writer.n_failed("train") == 3
    assert not (tmp_path / "f.h5.partial").exists()


def test_unfinished_splits_outlive_the_publishing_of_others(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("train"), WIDTHS)
        _append(writer, "train", BATCHES[:1])
    _write(path, "test")
    with FeaturesWriter(path, SETTINGS) as writer:
        assert writer.open_split(_list("train"), WIDTHS) == 3


def test_a_crash_after_the_renaming(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        patch.setattr("fishing.store.writer.Journal.remove", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _write(path, "test")
    whole = path.read_bytes()
    assert (tmp_path / "f.h5.partial" / "test.rows").exists()
    assert _write(path, "test") == whole
    assert not (tmp_path / "f.h5.partial").exists()


@pytest.mark.parametrize("key", SETTINGS)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(tmp_path: Path, key: str, finished: bool) -> None:
    path = tmp_path / "f.h5"
    if finished:
        _write(path, "test")
    else:
        with FeaturesWriter(path, SETTINGS) as writer:
            writer.open_split(_list("test"), WIDTHS)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=f"made with another {key}: expected other"):
        FeaturesWriter(path, {**SETTINGS, key: "other"})
    kept = {p: c for p, c in files.items() if p.name != "lock"}
    assert kept == {p: p.read_bytes() for p in kept}


def test_a_setting_that_only_one_side_has_is_refused(tmp_path: Path) -> None:
    """An example is gpu_math, which is recorded only if it is tf32."""
    path, more = tmp_path / "f.h5", {**SETTINGS, "gpu_math": "tf32"}
    with FeaturesWriter(path, more) as writer:
        writer.open_split(_list("test"), WIDTHS)
    with pytest.raises(StoreError, match="another gpu_math: expected None, found tf32"):
        FeaturesWriter(path, SETTINGS)
    FeaturesWriter(path, more)
    _write(tmp_path / "g.h5", "test")
    with pytest.raises(StoreError, match="another gpu_math: expected tf32, found None"):
        FeaturesWriter(tmp_path / "g.h5", more)


def test_other_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:1])
    with (
        FeaturesWriter(path, SETTINGS) as writer,
        pytest.raises(StoreError, match="split 'test' differ"),
    ):
        writer.open_split(_list("test", 11), WIDTHS)
    _write(path, "test")
    with (
        FeaturesWriter(path, SETTINGS) as writer,
        pytest.raises(StoreError, match="split 'test' differ"),
    ):
        writer.pending([_list("test", 11)])


def test_overwrite_starts_anew_and_keeps_the_old_file_until_then(
    tmp_path: Path,
) -> None:
    path = tmp_path / "f.h5"
    old = _write(path, "train", "test")
    other = {**SETTINGS, "temperature": 4.0}
    with FeaturesWriter(path, other, overwrite=True) as writer:
        assert writer.pending([_list("test")])
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:1])
    assert path.read_bytes() == old
    with FeaturesWriter(path, other) as writer:  # goes on without --overwrite
        assert writer.pending([_list("test")])
        assert writer.open_split(_list("test"), WIDTHS) == 3
        _append(writer, "test", BATCHES[1:], 3)
        writer.publish()
    with FeaturesFile(path) as file:
        assert file.settings["temperature"] == 4.0
        assert list(file.splits) == ["test"]
    only_test = _write(tmp_path / "other.h5", "test")
    assert _write(path, "test", overwrite=True) == only_test


def test_a_crash_after_an_overwriting_loses_nothing(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "f.h5"
    _write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("fishing.store.writer.Journal.close", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _write(path, "train", overwrite=True)
    _write(path, "test")
    with FeaturesFile(path) as file:
        assert list(file.splits) == ["train", "test"]


def test_other_kinds_of_files_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(b"a picture")
    for overwrite in (True, False):
        with pytest.raises(StoreError, match="found"):
            FeaturesWriter(path, SETTINGS, overwrite=overwrite)
        assert path.read_bytes() == b"a picture"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="found the folder"):
        FeaturesWriter(tmp_path, SETTINGS)


def test_a_damaged_features_file_can_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    whole = _write(path, "test")
    path.write_bytes(whole[:-100])
    with pytest.raises(StoreError, match="expected an HDF5 file"):
        FeaturesWriter(path, SETTINGS)
    assert _write(path, "test", overwrite=True) == whole


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "f.h5.partial" / "thesis" / "chapter1.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    for overwrite in (True, False):
        with pytest.raises(StoreError, match="found other files; move them away"):
            FeaturesWriter(tmp_path / "f.h5", SETTINGS, overwrite=overwrite)
        assert thesis.read_text() == "years of work"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "f.h5").symlink_to(tmp_path / "disk" / "real.h5")
    _write(tmp_path / "f.h5", "test")
    assert (tmp_path / "f.h5").is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["real.h5"]


@pytest.mark.parametrize("damage", [b"garbage\n", b"{}\n", b"[1]\n", b"\0\0\n"])
@pytest.mark.parametrize("place", range(4))
def test_a_damaged_journal_counts_up_to_the_damage(
    tmp_path: Path, damage: bytes, place: int
) -> None:
    whole = _write(tmp_path / "whole.h5", "test")
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:3])
    journal = tmp_path / "f.h5.partial" / "test.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:place], damage, *lines[place + 1 :]]))
    with FeaturesWriter(path, SETTINGS) as writer:
        done = writer.open_split(_list("test"), WIDTHS)
        assert done == [0, *(upto for upto, _ in BATCHES)][max(place - 1, 0)]
        _append(writer, "test", BATCHES[max(place - 1, 0) :], done)
        writer.publish()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"settings": 1}'])
def test_damaged_settings_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
    record = tmp_path / "f.h5.partial" / "settings.json"
    record.write_bytes(content)
    with pytest.raises(StoreError, match="start anew with --overwrite"):
        FeaturesWriter(path, SETTINGS)
    record.unlink()  # rows without settings could be anybody's
    with pytest.raises(StoreError, match="found other files"):
        FeaturesWriter(path, SETTINGS)


def test_a_split_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FeaturesWriter(path, SETTINGS) as writer:
        writer.open_split(_list("test"), WIDTHS)
        _append(writer, "test", BATCHES[:1])
        writer.discard("test")
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_while_one_waits_is_kept(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "f.h5"
    lock = writer_module.lock

    def late(file: Path, when_held: Callable[[str], None]) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "lock", lock)
            _write(path, "train")
        file.parent.mkdir()
        return lock(file, when_held)

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "lock", late)
        _write(path, "test")
    with FeaturesFile(path) as file:
        assert list(file.splits) == ["train", "test"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with (
        FeaturesWriter(path, SETTINGS),
        pytest.raises(StoreError, match=r"process \d+ on .* writes there"),
    ):
        FeaturesWriter(path, SETTINGS)
    with FeaturesWriter(path, SETTINGS):
        pass  # the lock went with its holder


def test_a_full_disk(tmp_path: Path) -> None:
    """Let the system refuse to make any file longer than a few rows."""
    whole = _write(tmp_path / "whole.h5", "test")
    path = tmp_path / "f.h5"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
        with FeaturesWriter(path, {"net": "small"}) as writer:
            writer.open_split(_list("test"), WIDTHS)
            with pytest.raises(StoreError, match="written: File too large"):
                _append(writer, "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    with FeaturesWriter(path, {"net": "small"}) as writer:
        done = writer.open_split(_list("test"), WIDTHS)
    assert done > 0
    assert len(whole) > 400


def test_a_disk_that_is_full_in_the_end(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole.h5", "test")
    path = tmp_path / "f.h5"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        with pytest.raises(StoreError, match="written: File too large"):
            _write(path, "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    with FeaturesWriter(path, SETTINGS) as writer:
        assert writer.open_split(_list("test"), WIDTHS) == 10
        writer.publish()
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "storage",
    [storage_settings("float16"), storage_settings(compression="gzip")],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_storage_is_refused(tmp_path: Path, storage, finished: bool) -> None:
    """So it is if one of them is the default, which no file records."""
    (key,) = storage
    for i, (first, second) in enumerate([(storage, {}), ({}, storage)]):
        path = tmp_path / f"{i}.h5"
        with FeaturesWriter(path, {**SETTINGS, **first}) as writer:
            done = writer.open_split(_list("test"), WIDTHS)
            if finished:
                _append(writer, "test", done=done)
                writer.publish()
        with pytest.raises(StoreError, match=f"made with another {key}: expected "):
            FeaturesWriter(path, {**SETTINGS, **second})
        with FeaturesWriter(path, {**SETTINGS, **first}):
            pass


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_split_is_added_to_rounded_ones(
    tmp_path: Path, monkeypatch, compression: str
) -> None:
    """What was rounded once must not be rounded again."""
    settings = {**SETTINGS, **storage_settings("float16", compression)}
    monkeypatch.setitem(globals(), "SETTINGS", settings)
    rng = np.random.default_rng(2)
    noise = {b: rng.normal(size=(20, 3)).astype(np.float32) for b in BLOBS}

    def blobs(start: int, n: int) -> dict[str, np.ndarray]:
        return {b: values[start : start + n] for b, values in noise.items()}

    monkeypatch.setitem(globals(), "_blobs", blobs)
    both = _write(tmp_path / "both.h5", "train", "test")
    path = tmp_path / "f.h5"
    _write(path, "train")
    assert _write(path, "test") == both
