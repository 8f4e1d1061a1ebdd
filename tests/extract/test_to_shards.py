"""Extraction into a folder of shards: by one process, by several, and after kills."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from conftest import MarkerNet
from fishing.cli.main import main
from fishing.errors import DataError, NetError, StoreError
from fishing.evaluate import evaluate
from fishing.extract import (
    compress,
    cut_lists,
    extract,
    extract_shards,
    temper,
    to_file,
    to_shards,
)
from fishing.files import file_sha256
from fishing.images import ImageList, read_splits
from fishing.nets import load_net
from fishing.processes import use_threads
from fishing.search import evaluate_retrieval, search_id
from fishing.store import (
    ExtractionSettings,
    FeaturesFile,
    read_manifest,
    shard_path,
    verify,
)
from forked_commands import ForkedCommands

SETTINGS = ExtractionSettings(load_net("tinyalexnet"))
SPLITS = ("trainval", "test")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of 37 + 14 images in two classes; some cannot be read."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, n in (("trainval", 37), ("test", 14)):
        for i in range(n):
            path = folder / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (66, 70, 3), dtype=np.uint8)
            image[..., i % 2] //= 3
            cv2.imwrite(str(path), image)
            if i % 9 == 2:
                path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def lists(photos: Path) -> list[ImageList]:
    return read_splits(photos, SPLITS)


@pytest.fixture(scope="module")
def single(
    lists: list[ImageList], tmp_path_factory: pytest.TempPathFactory
) -> FeaturesFile:
    path = tmp_path_factory.mktemp("single") / "features.h5"
    extract(SETTINGS, lists, path, batch_size=3)
    return FeaturesFile(path)


@pytest.fixture(scope="module")
def made(lists: list[ImageList], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "features"
    extract_shards(SETTINGS, lists, folder, 4, batch_size=3)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "features"))


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> MarkerNet:
    """Open a net that costs nothing."""
    marker = MarkerNet()

    def open_backend(*_: object, batch_size: int, **__: object) -> MarkerNet:
        marker.batch_size = batch_size
        return marker

    monkeypatch.setattr(to_file, "open_backend", open_backend)
    return marker


def _check_same(folder: Path, single: FeaturesFile) -> None:
    """All that is read from a folder has the bytes of a single run."""
    with FeaturesFile(folder) as file:
        assert file.settings == single.settings
        assert list(file) == list(single)
        for name in single:
            one, other = single[name], file[name]
            assert other.image_id == one.image_id
            assert other.classes == one.classes
            assert (other.failed_id, other.failed_reason) == (
                *(one.failed_id, one.failed_reason),
            )
            assert other.failed_index.tolist() == one.failed_index.tolist()
            assert other.list_sha256 == one.list_sha256
            for key in ("labels", "failed_labels"):
                assert (getattr(other, key) == getattr(one, key)).all()
            assert list(other.blobs) == list(one.blobs)
            for blob, rows in one.blobs.items():
                assert other.blobs[blob][:].tobytes() == rows[:].tobytes()


@pytest.mark.parametrize("n_shards", [1, 2, 5, 18])
def test_rows_have_the_bytes_of_a_single_run(
    lists: list[ImageList], single: FeaturesFile, tmp_path: Path, n_shards: int
) -> None:
    outcome = extract_shards(SETTINGS, lists, tmp_path / "f", n_shards, batch_size=3)
    assert [(o.split, o.n_images, o.n_failed, o.was_there) for o in outcome] == [
        ("trainval", 37, 4, False),
        ("test", 14, 2, False),
    ]
    _check_same(tmp_path / "f", single)
    verify(tmp_path / "f")
    for number, shard in enumerate(read_manifest(tmp_path / "f").shards):
        path = shard_path(tmp_path / "f", number)
        assert shard.sha256 == file_sha256(path)
        with FeaturesFile(path) as file:  # each is a features file
            assert {name: len(file[name]) for name in file} == shard.rows
        for start, _ in shard.images.values():
            assert start % 3 == 0
    assert {p.name for p in (tmp_path / "f").iterdir()} == {"manifest.json", "shards"}


def test_shards_may_be_made_one_by_one_in_any_order(
    lists: list[ImageList], made: Path, tmp_path: Path
) -> None:
    for shard in (2, 0, 3, 1):
        with pytest.raises(StoreError):
            FeaturesFile(tmp_path / "f")
        extract_shards(SETTINGS, lists, tmp_path / "f", 4, shard=shard, batch_size=3)
    for path in sorted(made.rglob("*.*")):
        assert (tmp_path / "f" / path.relative_to(made)).read_bytes() == (
            path.read_bytes()
        )


def test_whatever_takes_a_file_takes_a_folder(
    made: Path, single: FeaturesFile, tmp_path: Path
) -> None:
    one = evaluate(single.path, features=["dW7"])
    other = evaluate(made, features=["dW7"])
    assert one.record == other.record
    assert (one.scores["dW7"] == other.scores["dW7"]).all()
    image_id = single["test"].image_id[3]
    assert search_id(made, image_id) == search_id(single.path, image_id)
    assert evaluate_retrieval(made) == evaluate_retrieval(single.path)
    temper(made, tmp_path / "a.h5", [4.0])
    temper(single.path, tmp_path / "b.h5", [4.0])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    for source, name in ((made, "c.h5"), (single.path, "d.h5")):
        compress(source, tmp_path / name, dimensions=4)
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "d.h5").read_bytes()
    runner = CliRunner()
    command = ["compress", str(made), "--output", str(tmp_path / "e.h5")]
    done = runner.invoke(main, [*command, "--dtype", "float32", "--json"])
    shards = sum(path.stat().st_size for path in made.glob("shards/*.h5"))
    assert json.loads(done.stdout)["bytes_before"] == shards
    for command in (["info", "--verify"], ["evaluate", "--feature", "x7"]):
        extra = ["--output", str(tmp_path / "r")] if command[0] == "evaluate" else []
        done = runner.invoke(main, [*command, *extra, str(made)])
        assert done.exit_code == 0, done.output
    done = runner.invoke(
        main, ["report", str(tmp_path / "r"), "--output", str(tmp_path / "page")]
    )
    assert done.exit_code == 0, done.output


def test_finished_shards_are_not_made_again(
    lists: list[ImageList], folder: Path, net: MarkerNet
) -> None:
    outcome = extract_shards(SETTINGS, lists, folder, 4, batch_size=3)
    assert net.batches == []
    assert [(one.n_images, one.n_failed, one.was_there) for one in outcome] == [
        (37, 4, True),
        (14, 2, True),
    ]


@pytest.mark.parametrize("harm", ["missing", "damaged", "cut", "not recorded"])
def test_a_bad_shard_alone_is_made_anew(
    lists: list[ImageList], made: Path, folder: Path, harm: str
) -> None:
    path = shard_path(folder, 1)
    expected = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(expected[:-3] + b"\0\1\2")
    elif harm == "cut":
        path.write_bytes(expected[:5000])
    else:
        found = json.loads((folder / "manifest.json").read_text())
        found["shards"][1] |= {"rows": {}, "sha256": ""}
        (folder / "manifest.json").write_text(json.dumps(found))
    others = {i: shard_path(folder, i).stat().st_mtime_ns for i in (0, 2, 3)}
    extract_shards(SETTINGS, lists, folder, 4, batch_size=3)
    assert path.read_bytes() == expected
    assert read_manifest(folder) == read_manifest(made)
    for i, time_ns in others.items():
        assert shard_path(folder, i).stat().st_mtime_ns == time_ns


def test_other_threads_versions_and_batches_are_refused(
    lists: list[ImageList], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = read_manifest(folder).run["threads"]
    use_threads(n + 1)
    try:
        with pytest.raises(StoreError, match=f"threads: expected {n + 1}, found {n};"):
            extract_shards(SETTINGS, lists, folder, 4, batch_size=3)
    finally:
        use_threads(None)
    with pytest.raises(StoreError, match="another batch_size: expected 2, found 3"):
        extract_shards(SETTINGS, lists, folder, 4, batch_size=2)
    monkeypatch.setattr(to_shards, "version", lambda name: "0.0.1")
    with pytest.raises(StoreError, match=r"another numpy: expected 0\.0\.1, found"):
        extract_shards(SETTINGS, lists, folder, 4, batch_size=3)


def test_numbers_that_do_not_fit_are_refused(
    lists: list[ImageList], tmp_path: Path, net: MarkerNet
) -> None:
    with pytest.raises(DataError, match=r"expected 1 to 18 shards.*found 19"):
        extract_shards(SETTINGS, lists, tmp_path / "f", 19, batch_size=3)
    with pytest.raises(DataError, match=r"--shard from 0 to 3, found 4"):
        extract_shards(SETTINGS, lists, tmp_path / "f", 4, shard=4, batch_size=3)
    assert not (tmp_path / "f").exists()


def test_a_net_of_fixed_batches_says_which(
    lists: list[ImageList], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_file, "open_backend", lambda *_, **__: MarkerNet())
    with pytest.raises(NetError, match="expected --batch-size 32, the only one"):
        extract_shards(SETTINGS, lists, tmp_path / "f", 4, batch_size=3)


def _unreadable(folder: Path, n: int) -> list[ImageList]:
    """Make a list of 9 images, the first n of which cannot be read."""
    folder.mkdir()
    for i in range(9):
        image = np.full((70, 70, 3), 10 * i, np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        if i < n:
            (folder / f"{i}.png").write_bytes(b"")
    return read_splits(folder, [])


def test_a_shard_without_rows_is_no_error(tmp_path: Path, net: MarkerNet) -> None:
    lists = _unreadable(tmp_path / "images", 3)
    extract_shards(SETTINGS, lists, tmp_path / "f", 3, batch_size=3)
    extract(SETTINGS, lists, tmp_path / "f.h5", batch_size=3)
    verify(tmp_path / "f")
    _check_same_rows(tmp_path / "f", tmp_path / "f.h5")


def _check_same_rows(folder: Path, path: Path) -> None:
    with FeaturesFile(folder) as file, FeaturesFile(path) as other:
        split, whole = file.split("all"), other.split("all")
        assert split.failed_index.tolist() == whole.failed_index.tolist()
        for blob, rows in whole.blobs.items():
            assert split.blobs[blob][:].tobytes() == rows[:].tobytes()


def test_a_list_without_any_row_is_an_error(tmp_path: Path, net: MarkerNet) -> None:
    lists = _unreadable(tmp_path / "images", 9)
    extract_shards(SETTINGS, lists, tmp_path / "f", 3, shard=0, batch_size=3)
    with pytest.raises(DataError, match="none of 9 can be read"):
        extract_shards(SETTINGS, lists, tmp_path / "f", 3, batch_size=3)


def test_shards_of_about_ten_thousand_images(
    photos: Path, tmp_path: Path, net: MarkerNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_lists, "_SHARD_IMAGES", 10)
    command = ["extract", "--net", "tinyalexnet", "--data", str(photos)]
    command += ["--split", "trainval", "--split", "test", "--batch-size", "3"]
    output = str(tmp_path / "f")
    done = CliRunner().invoke(main, [*command, "--shards", "auto", "--output", output])
    assert done.exit_code == 0, done.output
    assert len(read_manifest(tmp_path / "f").shards) == 5  # of 51


def test_images_that_are_not_there_make_no_shard(
    tmp_path: Path, net: MarkerNet
) -> None:
    """A machine that lacks the disk would otherwise record shards without rows."""
    lists = _unreadable(tmp_path / "images", 0)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(DataError, match="none of 3 can be read, such as"):
            extract_shards(SETTINGS, lists, tmp_path / "f", 3, shard=1, batch_size=3)
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    extract_shards(SETTINGS, lists, tmp_path / "f", 3, batch_size=3)
    with FeaturesFile(tmp_path / "f") as file:
        assert len(file["all"]) == 9


def test_what_the_net_refuses_leaves_no_folder(
    lists: list[ImageList], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, stored=("forward/x4", "backward/y5"))
    with pytest.raises(NetError, match="another --feature"):
        extract_shards(settings, lists, tmp_path / "f", 2, batch_size=3)
    assert not (tmp_path / "f").exists()


def test_a_folder_in_the_place_of_a_shard_is_named(folder: Path) -> None:
    path = shard_path(folder, 0)
    path.unlink()
    path.symlink_to(folder)
    with pytest.raises(StoreError, match=r"00000\.h5: expected a shard"):
        FeaturesFile(folder)


def test_progress_counts_all_shards_as_one(
    lists: list[ImageList], tmp_path: Path, net: MarkerNet
) -> None:
    told: list[tuple[str, int, int | None, str]] = []
    extract_shards(
        *(SETTINGS, lists, tmp_path / "f", 4),
        batch_size=3,
        progress=lambda *report: told.append(report),
    )
    assert {(label, total, unit) for label, _, total, unit in told} == {
        ("f", 51, "images")
    }
    counts = [done for _, done, _, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == 51


def _command(photos: Path, output: Path, *options: object) -> list[str]:
    words = ["extract", "--net", "tinyalexnet"]
    words += ["--data", str(photos), "--output", str(output), "--batch-size", "3"]
    words += [word for split in SPLITS for word in ("--split", split)]
    return [*words, "--threads", "1", "--shards", "4", *map(str, options)]


def _run(
    forked: ForkedCommands, command: list[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked.fishing, *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def _start(command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a process that can be killed."""
    return subprocess.Popen([sys.executable, "-m", "fishing", *command], **streams)


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_job_of_an_array_makes_its_shard(
    forked: ForkedCommands, photos: Path, tmp_path: Path, variable: str
) -> None:
    done = _run(forked, _command(photos, tmp_path / "f"), **{variable: "2"})
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "f" / "shards").iterdir()] == ["00002.h5"]
    # An option goes before a variable, and without --shards there is no shard to make.
    done = _run(
        forked, _command(photos, tmp_path / "f", "--shard", 1), **{variable: "2"}
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "f" / "shards").iterdir())) == 2
    plain = _command(photos, tmp_path / "f.h5")
    del plain[plain.index("--shards") :]
    assert _run(forked, plain, **{variable: "seven"}).returncode == 0
    assert (tmp_path / "f.h5").is_file()
    done = _run(forked, _command(photos, tmp_path / "f"), **{variable: "seven"})
    assert done.returncode == 2
    assert f"the number of a shard in {variable}, found 'seven'" in done.stderr


def test_options_that_do_not_go_together(
    forked: ForkedCommands, photos: Path, tmp_path: Path
) -> None:
    done = _run(forked, _command(photos, tmp_path / "f", "--overwrite"))
    assert done.returncode == 2
    assert "remove their folder" in done.stderr
    command = _command(photos, tmp_path / "f", "--shard", 1)
    del command[command.index("--shards") : command.index("--shards") + 2]
    done = _run(forked, command)
    assert done.returncode == 2
    assert "--shard needs --shards" in done.stderr
    assert not (tmp_path / "f").exists()


def test_a_feature_stores_its_blobs_alone(
    forked: ForkedCommands, photos: Path, tmp_path: Path
) -> None:
    features = ("--feature", "dW7", "--feature", "x6*x7")
    done = _run(forked, _command(photos, tmp_path / "f", *features))
    assert done.returncode == 0, done.stderr
    with FeaturesFile(tmp_path / "f") as file:
        blobs = ["forward/x6", "forward/x7", "backward/y7"]
        assert list(file["test"].blobs) == blobs
        assert file.settings["stored"] == "backward/y7 forward/x6 forward/x7"
    done = _run(forked, _command(photos, tmp_path / "g", "--feature", "dW1"))
    assert done.returncode == 2
    assert "expected backward/y1 among the blobs to store" in done.stderr


def test_workers_that_are_killed_lose_and_double_nothing(
    forked: ForkedCommands, photos: Path, tmp_path: Path
) -> None:
    """Three workers share a folder and some shards, and all are killed."""
    expected = tmp_path / "expected"
    assert _run(forked, _command(photos, expected)).returncode == 0
    rng = random.Random(0)
    for _ in range(4):
        workers = [
            _start(
                _command(photos, tmp_path / "f", *options),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for options in ((), ("--shard", 0), ("--shard", 3))
        ]
        time.sleep(rng.uniform(0.5, 4))
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    workers = [
        _start(
            _command(photos, tmp_path / "f", "--shard", number), stderr=subprocess.PIPE
        )
        for number in (0, 1, 2, 3, 3)
    ]
    for worker in workers:
        _, stderr = worker.communicate()
        assert worker.returncode in (0, 2), stderr
        assert worker.returncode == 0 or b"expected to be alone in" in stderr
    assert _run(forked, _command(photos, tmp_path / "f")).returncode == 0
    for path in sorted(expected.rglob("*.*")):
        found = tmp_path / "f" / path.relative_to(expected)
        assert found.read_bytes() == path.read_bytes(), path
    names = {p.relative_to(expected) for p in expected.rglob("*")}
    assert {p.relative_to(tmp_path / "f") for p in (tmp_path / "f").rglob("*")} == names


def test_a_second_worker_on_one_shard_is_refused(
    forked: ForkedCommands, photos: Path, tmp_path: Path
) -> None:
    command = _command(photos, tmp_path / "f", "--shard", 0)
    first = _start(command, stderr=subprocess.DEVNULL)
    journal = tmp_path / "f" / "shards" / "00000.h5.partial" / "trainval.journal"
    while not journal.exists() or not journal.read_bytes():
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)
    try:
        second = _run(forked, command)
        assert second.returncode == 2
        assert f"found that process {first.pid} on" in second.stderr
        # Others make theirs meanwhile.
        done = _run(forked, _command(photos, tmp_path / "f", "--shard", 1))
        assert done.returncode == 0, done.stderr
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
