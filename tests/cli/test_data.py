"""What people bring, through the commands: folders, leftovers, damage and years."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from fishing.cli.main import main
from fishing.store import FeaturesFile


@pytest.fixture(autouse=True)
def _restore_logger():
    """The command sets its own handlers, which would hold a closed stream."""
    yield
    logging.getLogger("fishing").handlers = []


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def _extract(data: Path, output: Path, *more: object, code: int = 0) -> tuple[str, str]:
    arguments = ("extract", "--net", "tinyalexnet", "--data", data, "--output", output)
    return _run(*arguments, *more, code=code)


def _jpeg(rng) -> bytes:
    image = cv2.resize(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), (90, 80))
    return np.asarray(cv2.imencode(".jpg", image)[1]).tobytes()


def _write(folder: Path, content: bytes, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def mess(tmp_path: Path, rng) -> Path:
    """Make a folder with everything that used to be passed over without a word."""
    data = tmp_path / "mess"
    good = _jpeg(rng)
    _write(data, good, "a.jpg", "b.jfif", "C.JPE", "Shot at 5.12\u202fPM.jpg")
    _write(tmp_path / "real" / "cats", good, "1.jpg", "deep/2.jpg")
    (data / "cats").symlink_to(tmp_path / "real" / "cats")
    (data / "gone.jpg").symlink_to("nowhere")
    (data / "self").symlink_to(".")
    _write(data, good[: len(good) // 2] + b"\xff\xd9", "half.jpg")
    _write(data, good, "caf\udce9.jpg")
    _write(data, good, ".hidden.jpg", "__MACOSX/a.jpg", "@eaDir/b.jpg", "Thumbs.db")
    _write(data, b"", "x.heic", "y.heic", "sub/z.HEIC", "notes.txt", "README")
    return data


def test_no_image_is_passed_over(mess: Path, tmp_path: Path, caplog) -> None:
    out, err = _extract(mess, tmp_path / "f.h5")
    assert caplog.text.encode()  # handlers of any kind can write what is logged
    assert "all: 6 of 9 images, 3 failed\n" in out
    assert "left alone: 5 files (.heic 3, .txt 1, no suffix 1)\n" in out
    for name in ("gone.jpg: a link", r"caf\xe9.jpg: its name", "half.jpg: truncated"):
        assert err.count(name) == 1
    assert "1 linked folder was followed" in err
    with FeaturesFile(tmp_path / "f.h5") as file:
        split = file.split("all")
        assert "Shot at 5.12\u202fPM.jpg" in split.image_id
        assert split.failed_id == (r"caf\xe9.jpg", "gone.jpg", "half.jpg")
    out, _ = _run("info", tmp_path / "f.h5")
    assert r"failed: caf\xe9.jpg: its name is not in UTF-8" in out


@pytest.mark.parametrize("name", ["gone.jpg", "half.jpg", "caf\udce9.jpg"])
def test_strict_stops_at_each_of_them(mess: Path, tmp_path: Path, name: str) -> None:
    for other in {"gone.jpg", "half.jpg", "caf\udce9.jpg"} - {name}:
        (mess / other).unlink()
    _, err = _extract(mess, tmp_path / "f.h5", "--strict", code=2)
    assert "--strict stops at such a file" in err
    (mess / name).unlink()
    _extract(mess, tmp_path / "f.h5", "--strict", "--overwrite")


def test_a_terminal_that_lacks_characters(mess: Path, tmp_path: Path) -> None:
    (mess / "half.jpg").rename(mess / "half\u202f.jpg")
    _extract(mess, tmp_path / "g.h5")
    result = subprocess.run(
        [sys.executable, "-m", "fishing", "info", tmp_path / "g.h5"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert rb"failed: half\u202f.jpg: truncated" in result.stdout


def test_left_alone_in_json(mess: Path, tmp_path: Path) -> None:
    out, _ = _extract(mess, tmp_path / "f.h5", "--json")
    (split,) = json.loads(out)["splits"]
    assert split["left_alone"] == {".heic": 3, ".txt": 1, "no suffix": 1}
    assert split["n_failed"] == 3


def test_damage_is_named_and_counted(tmp_path: Path, rng) -> None:
    whole = _jpeg(rng)
    hurt = whole[:-2] + bytes(60) + whole[-2:]
    _write(tmp_path / "data", whole, "a.jpg", "c.jpg")
    _write(tmp_path / "data", hurt, "b.jpg")
    out, err = _extract(tmp_path / "data", tmp_path / "f.h5")
    if "may be damaged" not in out:
        pytest.skip("this system gives threads no descriptors of their own")
    assert "3 of 3 images, 0 failed, 1 may be damaged" in out
    assert "b.jpg: Corrupt JPEG data" in err
    _, err = _extract(tmp_path / "data", tmp_path / "g.h5", "--strict", code=2)
    assert "b.jpg: Corrupt JPEG data" in err
    assert "--strict stops" in err


def test_depth_is_said_once(tmp_path: Path, rng) -> None:
    (tmp_path / "data").mkdir()
    for i in range(3):
        deep = rng.integers(0, 4096, (80, 90, 3), dtype=np.uint16)
        cv2.imwrite(str(tmp_path / "data" / f"{i}.png"), deep)
    _, err = _extract(tmp_path / "data", tmp_path / "f.h5")
    assert err.count("(said once)") == 1
    assert "3 images of 'all': more than 8 bits a channel" in err


def test_class_folders_from_extraction_to_evaluation(tmp_path: Path, rng) -> None:
    for split in ("train", "val"):
        for name in ("cat", "polar bear"):
            for i in range(4):
                _write(tmp_path / "data" / split / name, _jpeg(rng), f"{i}.jpg")
    path = tmp_path / "f.h5"
    _extract(tmp_path / "data", path, "--split", "train", "--split", "val")
    out, _ = _run(
        *("evaluate", path, "--train", "train", "--test", "val", "--feature", "x7"),
        *("--output", tmp_path / "results"),
    )
    assert (
        "at 11 points, because the images are of no devkit whose year is known" in out
    )
    names = os.listdir(tmp_path / "results" / "x7")
    assert "comp1_cls_val_polar bear.txt" in names


@pytest.mark.parametrize("folder", ["VOC2012", "pascal"])
def test_an_evaluation_says_what_decided(tmp_path: Path, rng, folder: str) -> None:
    data = tmp_path / folder
    main_folder = data / "ImageSets" / "Main"
    main_folder.mkdir(parents=True)
    for k, split in enumerate(("train", "val")):
        ids = [f"2011_{i + 10 * k:06d}" for i in range(6)]
        _write(data / "JPEGImages", _jpeg(rng), *(f"{i}.JPG" for i in ids))
        (main_folder / f"{split}.txt").write_text("\n".join(ids))
        labels = "".join(f"{i} {1 - 2 * (j % 2)}\n" for j, i in enumerate(ids))
        (main_folder / f"cat_{split}.txt").write_text(labels)
    path = tmp_path / "f.h5"
    out, err = _extract(data, path, "--split", "train", "--split", "val")
    assert "6 of 6 images, 0 failed" in out
    assert ("the ids of its images" in err) == (folder == "pascal")
    arguments = ("evaluate", path, "--train", "train", "--test", "val")
    out, _ = _run(*arguments, "--feature", "x7", "--output", tmp_path / "r")
    year = 2012 if folder == "VOC2012" else 2011
    assert f"as an area, because the devkit is VOC{year}" in out
    out, _ = _run(
        *arguments,
        "--feature",
        "x7",
        "--output",
        tmp_path / "r",
        "--protocol",
        "voc2007",
    )
    assert "at 11 points, because --protocol asks for it" in out


def test_the_home_folder(tmp_path: Path, rng, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FISHING_VOC", "~/photos")
    _write(tmp_path / "photos", _jpeg(rng), "a.jpg")
    _run("extract", "--net", "tinyalexnet", "--output", "~/f.h5")
    assert (tmp_path / "f.h5").is_file()
