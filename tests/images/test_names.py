from __future__ import annotations

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import make_split, write_file
from fishing.errors import DataError, printable
from fishing.evaluate import evaluate, read_results, write_results
from fishing.images import check_class_names, is_name, is_split_name, read_splits
from fishing.images.names import as_id, why_no_id
from fishing.store import FeaturesFile

# Names that cameras, systems and people give.
ODD = [
    "Screenshot 2024-05-01 at 5.12.03\u202fPM",  # macOS
    "Bildschirmfoto 2024-05-01 um 17.12.03\u00a0(2)",
    "\u30b9\u30af\u30ea\u30fc\u30f3\u3000\u30b7\u30e7\u30c3\u30c8",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family, with joiners
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a non-joiner
    "\u05e9\u05dc\u05d5\u05dd\u200f",  # a mark of direction
    "soft\u00adhyphen",
    "cafe\u0301",  # NFD
    "word\u2060joiner\ufeff",
    "\uf8ff private",
    'it\'s "quoted" & <b>',
    " leading and trailing ",
    "#hash%20?",
    "100%",
    "back\\slash",
]
FORBIDDEN = ["a\nb", "a\rb", "a\tb", "a\0b", "\x1b[2J", "a\x7f", "a\x85", "a\x1cb"]
FORBIDDEN += ["a\u2028b", "a\u2029b", "caf\udce9", "\ud800"]


@pytest.mark.parametrize("name", ODD)
def test_what_may_be_a_name(name: str) -> None:
    assert is_name(name)
    assert why_no_id(name) == ""
    assert as_id(name) == name
    assert is_split_name(name)
    check_class_names([name], "here")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_may_not(name: str) -> None:
    assert not is_name(name)
    assert "rename it" in why_no_id(name)
    assert not is_split_name(name)
    assert is_name(as_id(name))
    with pytest.raises(ValueError, match="expected names of classes"):
        check_class_names([name], "here")


def test_the_rule_is_about_characters_of_four_kinds() -> None:
    """All of Unicode, of which lines are cut by none that is allowed."""
    for code in range(0x110000):
        c = chr(code)
        assert is_name(c) == (unicodedata.category(c) not in ("Cc", "Zl", "Zp", "Cs"))
        assert not is_name(c) or len(f"a{c}b".splitlines()) == 1


@pytest.mark.parametrize("name", [*ODD, *FORBIDDEN])
def test_output_steers_no_terminal(name: str) -> None:
    shown = printable(name)
    kinds = {unicodedata.category(c) for c in shown}
    assert not kinds & {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
    shown.encode()


def test_a_folder_with_one_name_that_is_no_text(tmp_path: Path) -> None:
    for name in ("a.jpg", "caf\udce9.jpg", "line\nbreak.jpg", "b\u202f1.jpg"):
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((9, 9, 3), np.uint8))
        (tmp_path / "x.png").rename(tmp_path / name)
    (images,) = read_splits(tmp_path, [])
    assert images.image_id == (
        *("a.jpg", "b\u202f1.jpg", r"caf\xe9.jpg", r"line\nbreak.jpg"),
    )
    assert sorted(images.failed) == [2, 3]
    assert "not in UTF-8" in images.failed[2]


def test_escaped_names_stay_apart(tmp_path: Path) -> None:
    for name in ("a\udce9.jpg", r"a\xe9.jpg", "sub\udce9/1.jpg", r"sub\xe9/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (images,) = read_splits(tmp_path, [])
    assert len(set(images.image_id)) == 4
    assert len(images.failed) == 2


def test_class_folders_with_odd_names(tmp_path: Path) -> None:
    for name in ("polar\u00a0bear", "caf\udce9", "x" * 201, "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (images,) = read_splits(tmp_path, [])
    assert images.classes == ("cat", "polar\u00a0bear")
    assert len(images.failed) == 2


def test_odd_names_go_through_files_and_results(tmp_path: Path, rng) -> None:
    """A features file and results hold them, and give them back as they were."""
    n = len(ODD)
    classes = ("polar\u00a0bear", "caf\u00e9 \u202f x")
    train = make_split(rng, 20, classes)
    train.labels[:2] = [[1, -1], [-1, 1]]
    test = make_split(rng, n, classes, image_id=tuple(ODD))
    test.labels[:2] = [[1, -1], [-1, 1]]
    path = write_file(
        tmp_path / "f\u202f.h5", **{"Lehr\u00a0gang.1": train, "T 2": test}
    )
    with FeaturesFile(path) as file:
        assert file.split("T 2").image_id == tuple(ODD)
        assert file.split("T 2").classes == classes
    found = evaluate(path, train="Lehr\u00a0gang.1", test="T 2", features=["x7"])
    write_results(found, tmp_path / "re\u202fsults")
    again = read_results(tmp_path / "re\u202fsults")
    assert sorted(again.image_id) == sorted(ODD)
    assert again.record["classes"] == list(classes)


@pytest.mark.parametrize(
    "split", ["caf\u00e9", "Training Set", "train.v2", "\u30c6\u30b9\u30c8"]
)
def test_splits_of_any_name(tmp_path: Path, split: str) -> None:
    (tmp_path / f"{split}.txt").write_text("a.jpg\n")
    (images,) = read_splits(tmp_path, [split])
    assert images.split == split


def test_a_list_that_ends_in_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a.jpg\n")
    with pytest.raises(DataError, match="there are: mine"):
        read_splits(tmp_path, ["mine.txt"])
