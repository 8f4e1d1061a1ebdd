"""What tells the year of a devkit, and what follows from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conftest import make_split, write_file
from fishing.evaluate import evaluate
from fishing.images import read_splits, year_of_devkit, year_of_ids
from fishing.paper import reproduction


def _devkit(folder: Path, ids=("a", "b"), annotated: int = 0) -> Path:
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    for name in ("train", "val", "trainval", "test"):
        (main / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))
    for name in ids:
        (folder / "JPEGImages" / f"{name}.jpg").touch()
        if annotated:
            (folder / "Annotations").mkdir(exist_ok=True)
            xml = f"<annotation>\n\t<folder>VOC{annotated}</folder>\n</annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(xml)
    return folder


OF_2012 = ("2008_000008", "2011_003276", "2007_000027")


@pytest.mark.parametrize(
    ("name", "ids", "annotated", "year", "how"),
    [
        ("VOC2007", ("000005",), 0, 2007, "by the name of"),
        ("voc2012", ("a",), 0, 2012, "by the name of"),
        ("VOC2012-small", ("a",), 0, 2012, "by the name of"),
        ("pascal_voc_2010", ("a",), 0, 2010, "by the name of"),
        ("pascal", ("a",), 2012, 2012, "by the <folder> of its annotations"),
        ("pascal", OF_2012, 0, 2011, "by the ids of its images"),
        ("pascal", OF_2012, 2012, 2012, "by the <folder> of its annotations"),
        ("pascal", ("2008_000008",), 0, 2008, "by the ids of its images"),
        ("pascal", ("000005",), 2007, 2007, "by the <folder> of its annotations"),
        ("pascal", ("000005",), 0, 0, "its year is unknown"),
        ("avoca20120", ("a",), 0, 0, "its year is unknown"),
        ("mine", ("2008_000008", "other"), 0, 0, "its year is unknown"),
    ],
)
def test_the_year(tmp_path: Path, caplog, name, ids, annotated, year, how) -> None:
    caplog.set_level("INFO")
    devkit = _devkit(tmp_path / name, ids, annotated)
    (images,) = read_splits(devkit, ["test"])
    assert images.devkit == (f"VOC{year}" if year else "")
    assert year_of_devkit(devkit) == year
    assert (how in caplog.text) == (name != "VOC2007")


@pytest.mark.parametrize(
    ("given", "real"),
    [("VOC2012", "elsewhere/pascal"), ("pascal", "data/VOC2012"), ("x", "y/VOC2012")],
)
def test_links(tmp_path: Path, given: str, real: str) -> None:
    devkit = _devkit(tmp_path / "real" / real)
    (tmp_path / given).symlink_to(devkit)
    (images,) = read_splits(tmp_path / given, ["test"])
    assert images.devkit == "VOC2012"
    (data_set,) = reproduction._find_data_sets(tmp_path / given, [])
    assert data_set.name == "VOC2012"
    assert (data_set.train.split, data_set.test.split) == ("train", "val")


@pytest.mark.parametrize("name", ["pascal", "VOC2012", "."])
def test_reproduction_trains_on_the_splits_of_the_year(
    tmp_path: Path, name: str, monkeypatch
) -> None:
    folder = tmp_path / ("VOC2012" if name == "." else name)
    _devkit(folder, OF_2012, 2012)
    monkeypatch.chdir(folder)
    (data_set,) = reproduction._find_data_sets(Path(".") if name == "." else folder, [])
    assert (data_set.train.split, data_set.test.split) == ("train", "val")


def test_a_contradiction_is_said(tmp_path: Path, caplog) -> None:
    devkit = _devkit(tmp_path / "VOC2007", OF_2012)
    (images,) = read_splits(devkit, ["test"])
    assert images.devkit == "VOC2007"
    assert "but VOC2011 by the ids of its images" in caplog.text


def test_years_in_ids() -> None:
    assert year_of_ids([]) == 0
    assert year_of_ids(["2008_000008.jpg", "2010_000001.JPG"]) == 2010
    assert year_of_ids(["2013_000001"]) == 0
    assert year_of_ids(["2008_00001"]) == 0


@pytest.mark.parametrize(
    ("devkit", "ids", "protocol", "because"),
    [
        ("VOC2007", "im{}", "voc2007", "the devkit is VOC2007"),
        ("VOC2012", "im{}", "voc2012", "the devkit is VOC2012"),
        ("", "2008_{:06d}", "voc2007", "the ids are those of VOC2008"),
        ("", "2012_{:06d}", "voc2012", "the ids are those of VOC2012"),
        ("", "im{}", "voc2007", "the images are of no devkit whose year is known"),
    ],
)
def test_an_evaluation_says_why(
    tmp_path: Path, rng, devkit: str, ids: str, protocol: str, because: str
) -> None:
    splits = {}
    for name in ("trainval", "test"):
        split = make_split(rng, 12, devkit=devkit)
        split.labels[:2] = [[1, -1], [-1, 1]]
        names = tuple(ids.format(i) for i in range(12))
        splits[name] = dataclasses.replace(split, image_id=names)
    path = write_file(tmp_path / "f.h5", **splits)
    record = evaluate(path, features=["x7"]).record
    assert (record["protocol"], record["protocol_because"]) == (protocol, because)
    record = evaluate(path, features=["x7"], protocol="voc2012").record
    assert record["protocol_because"] == "--protocol asks for it"
