"""Folders as people have them: links, leftovers, what cannot be entered, classes."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fishing.errors import DataError
from fishing.images import read_image, read_splits
from fishing.images.find import IMAGE_SUFFIXES


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _all(folder: Path):
    (images,) = read_splits(folder, [])
    return images


def test_links_are_followed(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    _touch(elsewhere, "cats/1.jpg", "cats/deep/2.jpg", "one.png", "store/a1b2")
    _touch(data, "3.jpg")
    (data / "cats").symlink_to(elsewhere / "cats")
    (data / "one.png").symlink_to("../elsewhere/one.png")
    (data / "blob.jpg").symlink_to("../elsewhere/store/a1b2")  # as git-annex has it
    images = _all(data)
    assert images.image_id == (
        *("3.jpg", "blob.jpg", "cats/1.jpg", "cats/deep/2.jpg", "one.png"),
    )
    assert "1 linked folder was followed" in caplog.text
    (tmp_path / "way").symlink_to(data)
    assert _all(tmp_path / "way").image_id == images.image_id


@pytest.mark.parametrize("target", [".", "..", "../..", "loop", "absolute"])
def test_loops_come_to_an_end(tmp_path: Path, target: str, caplog) -> None:
    caplog.set_level("INFO")
    data = tmp_path / "data"
    _touch(data, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg")
    link = data / "sub" / "deep" / "loop"
    link.symlink_to(data if target == "absolute" else target)
    images = _all(data)
    assert {"a.jpg", "sub/b.jpg", "sub/deep/c.jpg"} <= set(images.image_id)
    assert len(images) == (4 if target == "loop" else 3)
    if target == "loop":
        assert "leads nowhere" in str(images.failed) or "not entered" in str(
            images.failed
        )
    else:
        assert "link back" in caplog.text


def test_two_links_to_each_other(tmp_path: Path) -> None:
    _touch(tmp_path, "x/a.jpg", "y/b.jpg")
    (tmp_path / "x" / "to").symlink_to("../y")
    (tmp_path / "y" / "to").symlink_to("../x")
    assert _all(tmp_path).image_id == ("x/a.jpg", "x/to/b.jpg", "y/b.jpg", "y/to/a.jpg")


def test_dangling_links_fail(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg")
    for name in ("b.jpg", "cats", "sub.v2"):
        (tmp_path / name).symlink_to(tmp_path / "gone" / name)
    images = _all(tmp_path)
    assert images.image_id == ("a.jpg", "b.jpg", "cats", "sub.v2")
    assert sorted(images.failed) == [1, 2, 3]
    assert all("leads nowhere" in reason for reason in images.failed.values())


def test_a_folder_that_cannot_be_entered_fails(tmp_path: Path, monkeypatch) -> None:
    _touch(tmp_path, "cat/1.jpg", "dog/2.jpg", "dog/dark/3.jpg", "lost/4.jpg")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name in ("dark", "lost"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images = _all(tmp_path)
    assert images.image_id == ("cat/1.jpg", "dog/2.jpg", "dog/dark", "lost")
    assert images.failed[2] == "folder not entered: Permission denied"
    assert sorted(images.failed) == [2, 3]
    # A folder is no image: it counts in no class.
    assert images.labels.tolist() == [[1, -1], [-1, 1], [0, 0], [0, 0]]


def test_the_folder_itself_cannot_be_entered(tmp_path: Path, monkeypatch) -> None:
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="found: Permission denied"):
        _all(tmp_path)


LITTER = [".ipynb_checkpoints/a.png", "._x.png", ".hidden.jpg", "@eaDir/a.jpg"]
LITTER += ["__MACOSX/._a.jpg", "__MACOSX/a.jpg", "Thumbs.db", "desktop.ini"]
LITTER += [".DS_Store", ".thumbnails/a.png", "$RECYCLE.BIN/a.jpg", "#recycle/a.jpg"]
LITTER += [
    "sub/.git/a.jpg",
    "sub/@eaDir/b.jpg/SYNOPHOTO_THUMB_M.jpg",
    "lost+found/a.jpg",
]
LITTER += ["System Volume Information/a.jpg", "ehthumbs.db", "__pycache__/a.jpg"]


@pytest.mark.parametrize("name", LITTER)
def test_what_systems_leave_behind_is_no_data(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "a.jpg", name)
    images = _all(tmp_path)
    assert images.image_id == ("a.jpg",)
    assert not images.left_alone
    assert not images.failed


def test_litter_is_no_class(tmp_path: Path) -> None:
    _touch(tmp_path, "cat/1.jpg", "dog/2.jpg", *LITTER)
    assert _all(tmp_path).classes == ("cat", "dog")


def test_what_is_left_alone_is_counted(tmp_path: Path) -> None:
    names = ["a.heic", "b.HEIC", "sub/c.heic", "d.txt", "sub/e.txt", "README", "f.jpg~"]
    _touch(tmp_path, "a.jpg", *names)
    images = _all(tmp_path)
    assert images.image_id == ("a.jpg",)
    assert images.left_alone == {".heic": 3, ".txt": 2, "no suffix": 1, ".jpg~": 1}


def test_only_other_files(tmp_path: Path) -> None:
    _touch(tmp_path, "a.heic", "b.heic", "c.mov")
    with pytest.raises(DataError, match=r"neither; .* other kinds \(.heic .mov\)"):
        _all(tmp_path)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_each_suffix_is_one_that_the_decoder_takes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    picture = np.full((40, 50, 3), 90, np.uint8)
    others = {".jpe": ".jpg", ".jfif": ".jpg", ".jif": ".jpg", ".mpo": ".jpg"}
    others |= {".apng": ".png", ".j2k": ".j2k", ".pgm": ".pgm", ".pbm": ".pbm"}
    others |= {".pxm": ".ppm"}
    if suffix in (".j2k", ".j2c", ".jpc"):
        Image.fromarray(picture).save(tmp_path / "a.j2k", no_jp2=True)
        (tmp_path / "a.j2k").rename(path)
    elif suffix == ".gif":
        Image.fromarray(picture).save(path)
    else:
        kind = others.get(suffix, suffix)
        if kind in (".pgm", ".pbm"):
            picture = picture[..., 0]
        if kind in (".pfm", ".hdr", ".pic"):
            picture = picture.astype(np.float32) / (1 if kind == ".pfm" else 255)
        path.write_bytes(np.asarray(cv2.imencode(kind, picture)[1]).tobytes())
    (images,) = read_splits(tmp_path, [])
    assert images.path == (path,)
    found = read_image(path)
    assert found.shape == (40, 50, 3)
    if suffix != ".pbm":
        np.testing.assert_allclose(found, 90, atol=3)


def test_pipes_and_folders_with_the_names_of_images(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "b.jpg/c.jpg")
    os.mkfifo(tmp_path / "p.jpg")
    assert _all(tmp_path).image_id == ("a.jpg", "b.jpg/c.jpg", "p.jpg")


def test_folders_of_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "train/cat/1.jpg", "train/dog/deep/er/2.jpg", "train/dog/3.PNG")
    _touch(tmp_path, "val/dog/4.jpg", "val/emu/5.jpg", "val/notes.txt")
    train, val = read_splits(tmp_path, ["train", "val"])
    assert train.image_id == (
        "train/cat/1.jpg",
        "train/dog/3.PNG",
        "train/dog/deep/er/2.jpg",
    )
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [[1, -1], [-1, 1], [-1, 1]]
    assert val.classes == ("dog", "emu")
    assert val.left_alone == {".txt": 1}
    assert all(p.is_file() for p in (*train.path, *val.path))


def test_class_folders_without_splits(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    _touch(tmp_path, "cat/1.jpg", "cat/sub/2.jpg", "polar bear/3.jpg", "train/4.jpg")
    for images in (_all(tmp_path), *read_splits(tmp_path, ["all"])):
        assert images.split == "all"
        assert images.classes == ("cat", "polar bear", "train")
        assert images.labels.argmax(axis=1).tolist() == [0, 0, 1, 2]
        assert (images.labels == 1).sum() == 4
    assert "the folders of cat polar bear train are its 3 classes" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "cat/1.jpg", "dog/2.jpg"),  # one of them in no folder
        ("cat/1.jpg",),
        ("train/cat/1.jpg", "val/dog/2.jpg"),
        ("Train/cat/1.jpg", "Test/dog/2.jpg"),
    ],
)
def test_folders_that_are_no_classes(tmp_path: Path, names) -> None:
    _touch(tmp_path, *names)
    images = _all(tmp_path)
    assert len(images) == len(names)
    assert images.labels is None


def test_splits_are_said_where_none_is_asked_for(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    _touch(tmp_path, "train/cat/1.jpg", "val/dog/2.jpg")
    _all(tmp_path)
    assert "has the splits train val" in caplog.text


def test_a_split_folder_without_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "train/1.jpg", "train/2.jpg")
    (images,) = read_splits(tmp_path, ["train"])
    assert images.image_id == ("train/1.jpg", "train/2.jpg")
    assert images.labels is None


def test_a_list_comes_before_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    (tmp_path / "train.txt").write_text("train/cat/1.jpg tiger\n")
    (images,) = read_splits(tmp_path, ["train"])
    assert images.classes == ("tiger",)


def test_more_folders_than_classes_may_be(tmp_path: Path) -> None:
    for i in range(4001):
        _touch(tmp_path, f"{i:04d}/a.jpg")
    assert _all(tmp_path).labels is None


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    _touch(tmp_path, "train/cat/1.jpg", "val.txt", "labels.csv", ".git/x")
    with pytest.raises(DataError, match="there are: labels train val"):
        read_splits(tmp_path, ["test"])


@pytest.mark.parametrize("above", [".", "VOCdevkit"])
def test_the_folder_above_a_devkit(tmp_path: Path, above: str) -> None:
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / above / year / "ImageSets" / "Main").mkdir(parents=True)
    for splits in ([], ["trainval"]):
        with pytest.raises(DataError, match="folder above VOC2007 VOC2012; name one"):
            read_splits(tmp_path, splits)


@pytest.mark.parametrize("below", ["JPEGImages", "ImageSets/Main", "ImageSets"])
def test_a_folder_within_a_devkit(tmp_path: Path, below: str) -> None:
    (tmp_path / "kit" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "kit" / "JPEGImages").mkdir()
    with pytest.raises(DataError, match=r"name the devkit, --data '.*/kit'"):
        read_splits(tmp_path / "kit" / below, ["test"])


def test_a_file_as_data(tmp_path: Path) -> None:
    _touch(tmp_path, "list.csv")
    with pytest.raises(DataError, match=r"expected a folder of images .* found a file"):
        read_splits(tmp_path / "list.csv", [])
