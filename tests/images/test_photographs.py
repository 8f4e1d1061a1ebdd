"""The data set of twenty photographs: labels, halves, and the same work twice."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest

from fishing.errors import DataError
from fishing.images import photographs, read_splits, write_photographs
from fishing.images.photographs import CLASSES, SIZE

N = {"trainval": 120, "test": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photographs"
    assert write_photographs(folder, N["trainval"], N["test"]) == folder
    return folder


def ids(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split("\n")[:-1]


def labels(folder: Path, split: str) -> np.ndarray:
    """Read the label files, (n, n_classes), by nothing but their lines."""
    columns = []
    for name in CLASSES:
        path = folder / "ImageSets" / "Main" / f"{name}_{split}.txt"
        lines = path.read_text().split("\n")[:-1]
        assert [line[:-3] for line in lines] == ids(folder, split)
        assert {line[-3:] for line in lines} == {" -1", "  1"}
        columns.append([int(line[-3:]) for line in lines])
    return np.array(columns).T


def image(folder: Path, image_id: str) -> np.ndarray:
    found = cv2.imread(str(folder / "JPEGImages" / f"{image_id}.jpg"))
    assert found is not None
    return found


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_and_lists_agree(folder: Path) -> None:
    listed = ids(folder, "trainval") + ids(folder, "test")
    assert len(set(listed)) == len(listed) == N["trainval"] + N["test"]
    assert {p.name for p in folder.iterdir()} == {
        "JPEGImages",
        "ImageSets",
        "photographs.json",
    }
    names = {path.name for path in (folder / "JPEGImages").iterdir()}
    assert names == {f"{image_id}.jpg" for image_id in listed}
    assert len(list((folder / "ImageSets" / "Main").iterdir())) == 2 + 2 * len(CLASSES)
    for image_id in listed:
        assert image(folder, image_id).shape == (SIZE, SIZE, 3) == (96, 96, 3)


def test_every_class_has_positives_and_many_images_have_several(folder: Path) -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 20
    for split, n in N.items():
        positive = labels(folder, split) == 1
        assert positive.shape == (n, 20)
        assert positive.sum(0).min() >= n // 20
        counts = positive.sum(1)
        assert (counts.min(), counts.max()) == (1, 3)
        assert 0.35 < (counts > 1).mean() < 0.65
        assert (counts == 2).sum() > n // 10
        assert (counts == 3).sum() > n // 10


def test_it_reads_as_a_devkit(folder: Path) -> None:
    for split, found in zip(N, read_splits(folder, list(N)), strict=True):
        assert found.classes == tuple(sorted(CLASSES)) == CLASSES
        assert list(found.image_id) == ids(folder, split)
        assert found.labels is not None
        assert np.array_equal(found.labels, labels(folder, split))
        assert all(path.is_file() for path in found.path)


def painted(left: int, right: int) -> dict[str, np.ndarray]:
    """Make photographs of all shapes: 255 in one channel on the left, one on the right.

    Channels are blue, green, red. The middle column of an odd width is white.
    """
    shapes = [(40, 61), (9, 300), (300, 9), (2, 3), (1, 2), (90, 90)]
    made = {}
    for i, name in enumerate(CLASSES):
        height, width = shapes[i % len(shapes)]
        photograph = np.zeros((height, width, 3), np.uint8)
        photograph[:, : width // 2, left] = 190
        photograph[:, (width + 1) // 2 :, right] = 190
        if width % 2:
            photograph[:, width // 2] = 255
        made[name] = photograph
    return made


def test_no_pixel_is_in_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue, red = 0, 2
    monkeypatch.setattr(photographs, "_load", lambda: (painted(blue, red), "painted"))
    write_photographs(tmp_path / "painted", 100, 100)
    for split, ours, other in (("trainval", blue, red), ("test", red, blue)):
        for image_id in ids(tmp_path / "painted", split):
            found = image(tmp_path / "painted", image_id)
            # JPEG moves a colour by a few levels; a leak would be of 57 and more.
            assert found[..., ours].min() > 120
            assert found[..., other].max() < 20
            assert found[..., 1].max() < 20


def test_labels_and_brightness_fit_the_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Class 4 b + r has blue and red in the shares b / 5 and r / 4 of its green.
    made = {}
    for i, name in enumerate(CLASSES):
        colour = 180 * np.array([(i // 4) / 5, 1, (i % 4) / 4])
        made[name] = np.full((70, 70, 3), np.rint(colour), np.uint8)
    monkeypatch.setattr(photographs, "_load", lambda: (made, "coloured"))
    write_photographs(tmp_path / "coloured", 150, 150)
    greens = []
    for split in N:
        found_labels = labels(tmp_path / "coloured", split)
        for row, image_id in zip(
            found_labels, ids(tmp_path / "coloured", split), strict=True
        ):
            pixels = image(tmp_path / "coloured", image_id).astype(float)
            cells = pixels.reshape(2, 48, 2, 48, 3)[:, 16:32, :, 16:32].mean((1, 3))
            share = cells.reshape(4, 3) / cells.reshape(4, 3)[:, 1:2]
            seen = 4 * np.rint(5 * share[:, 0]) + np.rint(4 * share[:, 2])
            assert set(seen.astype(int)) == set(np.flatnonzero(row == 1))
            greens.append(cells[..., 1])
    # The patches of one image differ in brightness, too.
    assert 120 < np.min(greens) < 140
    assert 220 < np.max(greens) < 240
    assert np.ptp(greens, axis=(1, 2)).max() > 50


def test_scale_mirror_and_brightness_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A horizontal ramp in both halves: its slope tells scale, its sign the mirror.
    ramp = np.tile(np.arange(30, 190, dtype=np.uint8), (160, 2))
    made = dict.fromkeys(CLASSES, np.dstack([ramp] * 3))
    monkeypatch.setattr(photographs, "_load", lambda: (made, "ramp"))
    write_photographs(tmp_path / "ramp", 200, 1)
    single = (labels(tmp_path / "ramp", "trainval") == 1).sum(1) == 1
    slopes, levels = [], []
    for image_id in np.array(ids(tmp_path / "ramp", "trainval"))[single]:
        row = image(tmp_path / "ramp", image_id)[..., 0].astype(float).mean(0)
        slopes.append(row[-10:].mean() - row[:10].mean())
        levels.append(row.mean())
    assert 0.3 < (np.array(slopes) > 0).mean() < 0.7
    steep = np.abs(slopes)
    assert steep.max() > 2 * steep.min() > 0
    assert max(levels) > 1.5 * min(levels)


def test_the_same_work_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_photographs(tmp_path / "again", N["trainval"], N["test"])
    assert everything(again) == everything(folder)


def test_a_shorter_split_is_the_start_of_a_longer(folder: Path, tmp_path: Path) -> None:
    short = write_photographs(tmp_path / "short", 7, 3)
    for split, n in (("trainval", 7), ("test", 3)):
        assert np.array_equal(labels_or_rows(short, split), labels(folder, split)[:n])
        for ours, theirs in zip(ids(short, split), ids(folder, split)[:n], strict=True):
            assert np.array_equal(image(short, ours), image(folder, theirs))


def labels_or_rows(folder: Path, split: str) -> np.ndarray:
    """Read labels where a class may have no positive image."""
    main = folder / "ImageSets" / "Main"
    files = [(main / f"{name}_{split}.txt").read_text() for name in CLASSES]
    return np.array([[int(x) for x in text.split()[1::2]] for text in files]).T


def test_another_seed_is_another_set(folder: Path, tmp_path: Path) -> None:
    other = write_photographs(tmp_path / "other", 20, 20, seed=1)
    same = 0
    for ours, theirs in zip(
        ids(other, "trainval"), ids(folder, "trainval")[:20], strict=True
    ):
        same += np.array_equal(image(other, ours), image(folder, theirs))
    assert same == 0


def test_trainval_and_test_make_different_choices(folder: Path) -> None:
    n = min(N.values())
    assert not np.array_equal(
        labels(folder, "trainval")[:n], labels(folder, "test")[:n]
    )


def test_the_photographs_are_those_of_every_supported_release() -> None:
    loaded, sha256 = photographs._load()
    assert sha256 == "fd69cb9cca480a3f424615c2716eeda1a73c76429773f0f90dcbb1c660de2aa6"
    assert tuple(loaded) == CLASSES
    for photograph in loaded.values():
        assert photograph.dtype == np.uint8
        assert photograph.ndim == 3
        assert photograph.shape[2] == 3
    assert loaded["astronaut"].shape == (512, 512, 3)
    assert loaded["page"].shape == (191, 384, 3)
    # Grey photographs have three equal channels; a retina is red, not blue.
    for name in ("brick", "camera", "text"):
        assert np.ptp(loaded[name], axis=2).max() == 0
    blue, green, red = loaded["retina"].mean((0, 1))
    assert red > green > blue


def test_the_network_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_photographs(tmp_path / "offline", 1, 1)
    monkeypatch.setitem(photographs._FILES, "brick", "skin.jpg")
    with pytest.raises(DataError, match=r"skin\.jpg.*install scikit-image again"):
        write_photographs(tmp_path / "absent", 1, 1)


def test_a_second_call_leaves_the_same_set_alone(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "set", 3, 2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_photographs(folder, 3, 2) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


@pytest.mark.parametrize("change", [{"n_trainval": 4}, {"n_test": 4}, {"seed": 1}])
def test_another_set_is_not_overwritten(tmp_path: Path, change: dict[str, int]) -> None:
    folder = write_photographs(tmp_path / "set", 3, 2)
    before = everything(folder)
    with pytest.raises(DataError, match="remove it or name another folder"):
        write_photographs(folder, **{"n_trainval": 3, "n_test": 2, **change})
    assert everything(folder) == before


def test_a_set_of_other_photographs_is_not_taken_for_ours(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "set", 3, 2)
    record = json.loads((folder / "photographs.json").read_text())
    assert (record["seed"], record["n_trainval"], record["n_test"]) == (0, 3, 2)
    record["sources_sha256"] = "0" * 64
    (folder / "photographs.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="remove it"):
        write_photographs(folder, 3, 2)


@pytest.mark.parametrize(
    "record", [b"[" * 60_000, b"[1]" * 99_999, b'"a\\nb\\u001b[2J"', b"\xff", None]
)
def test_a_record_that_is_none_is_something_else(
    tmp_path: Path, record: bytes | None
) -> None:
    folder = write_photographs(tmp_path / "set", 3, 2)
    (folder / "photographs.json").unlink()
    if record is None:
        os.mkfifo(folder / "photographs.json")
    else:
        (folder / "photographs.json").write_bytes(record)
    with pytest.raises(DataError, match="remove it") as caught:
        write_photographs(folder, 3, 2)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["photographs.json", "notes.txt"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text("mine")
    with pytest.raises(DataError, match="something else"):
        write_photographs(tmp_path / "set", 3, 2)
    assert everything(tmp_path / "set") == {name: b"mine"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    folder = write_photographs(tmp_path / "set", 1, 1)
    assert len(ids(folder, "trainval")) == 1


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "set"):
        with pytest.raises(DataError, match="file"):
            write_photographs(folder, 1, 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write_bytes = Path.write_bytes

    def fills_up(path: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fills_up)
    with pytest.raises(DataError, match="No space left on device; make room"):
        write_photographs(tmp_path / "set", 3, 3)
    assert written == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("n_trainval", 0), ("n_test", -1), ("seed", -1)]
)
def test_a_number_out_of_range_is_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(DataError, match=f"expected {name} of .* found {value}"):
        write_photographs(tmp_path / "set", **{name: value})


def test_a_data_set_that_lost_an_image_is_not_taken_for_whole(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "p", n_trainval=40, n_test=40)
    next((folder / "JPEGImages").iterdir()).unlink()
    with pytest.raises(DataError, match="remove it or name another folder"):
        write_photographs(folder, n_trainval=40, n_test=40)
