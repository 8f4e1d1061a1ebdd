from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from fishing.errors import DataError
from fishing.images import read_splits


@pytest.fixture
def voc2007(shared: Path, tmp_path: Path) -> Path:
    with tarfile.open(shared / "data" / "voc2007-imagesets-main.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "VOC2007"


def test_voc2007_has_the_known_counts(voc2007: Path) -> None:
    # Images with at least one object, and with difficult objects only, as the table
    # of the VOC 2007 results page and the label files of the development kit say.
    train, val, trainval, test = read_splits(
        voc2007, ["train", "val", "trainval", "test"]
    )
    assert [len(s) for s in (train, val, trainval, test)] == [2501, 2510, 5011, 4952]
    assert len(trainval.classes) == 20
    assert trainval.classes[0] == "aeroplane"
    assert trainval.classes[18] == "train"
    assert trainval.devkit == "VOC2007"
    positives = dict(
        zip(trainval.classes, (trainval.labels == 1).sum(axis=0), strict=True)
    )
    known = {"aeroplane": 238, "bicycle": 243, "bird": 330, "boat": 181, "bottle": 244}
    known |= {"bus": 186, "car": 713, "cat": 337, "chair": 445, "cow": 141}
    known |= {"diningtable": 200, "dog": 421, "horse": 287, "motorbike": 245}
    known |= {"person": 2008, "pottedplant": 245, "sheep": 96, "sofa": 229}
    known |= {"train": 261, "tvmonitor": 256}
    assert positives == known
    tested = dict(zip(test.classes, (test.labels == 1).sum(axis=0), strict=True))
    assert (tested["person"], tested["train"], tested["aeroplane"]) == (2007, 259, 204)
    assert (test.labels == 0).any()
    assert trainval.path[0].name == "000005.jpg"


def test_voc_labels_follow_the_split_file(devkit: Path) -> None:
    (images,) = read_splits(devkit, ["test"])
    assert images.classes == ("cold", "warm")
    assert images.labels is not None
    assert images.labels[:2].tolist() == [[-1, 1], [1, -1]]
    assert images.path[3] == devkit / "JPEGImages" / "test_003.jpg"


def _devkit(folder: Path, **files: str) -> Path:
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for name, text in files.items():
        (main / f"{name}.txt").write_bytes(text.encode())
    return folder


def test_label_files_in_another_order_and_with_crlf(tmp_path: Path) -> None:
    folder = _devkit(
        tmp_path, val="b\r\na\r\n", cat_val="a  1\r\nb  0\r\n", train_val="b -1\na 1\n"
    )
    (images,) = read_splits(folder, ["val"])
    assert images.classes == ("cat", "train")
    assert images.image_id == ("b", "a")
    assert images.labels is not None
    assert images.labels.tolist() == [[0, -1], [1, 1]]
    assert images.devkit == ""


def test_a_split_without_label_files(tmp_path: Path) -> None:
    (images,) = read_splits(_devkit(tmp_path, test="a\nb\n"), ["test"])
    assert images.labels is None
    assert images.classes == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"val": "a\nb\n", "cat_val": "a 1\n"}, "none for 1 of them, the first 'b'"),
        ({"val": "a\n", "cat_val": "a 2\n"}, "line 1: expected 'id label'"),
        ({"val": "a\nb\n", "cat_val": "a 1\nb\n"}, "line 2: expected 'id label'"),
        ({"val": "../a\n"}, "below the folder"),
        ({"val": "/etc/passwd\n"}, "below the folder"),
        ({"val": "\n"}, "found no line"),
        ({"train": "a\n"}, "there are: train"),
    ],
)
def test_malformed_devkits(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = _devkit(tmp_path, **files)
    with pytest.raises(DataError, match=message):
        read_splits(folder, ["val"])


def test_binary_list(tmp_path: Path) -> None:
    folder = _devkit(tmp_path)
    (folder / "ImageSets" / "Main" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="expected a text file"):
        read_splits(folder, ["val"])


def test_split_names(tmp_path: Path) -> None:
    folder = _devkit(tmp_path, val="a\n")
    for name in ("../val", "", ".hidden", "-x", "a\nb", "x" * 101, "\udce9"):
        with pytest.raises(DataError, match="of a split, of at most 100 bytes"):
            read_splits(folder, [name])
    with pytest.raises(DataError, match="expected each split once"):
        read_splits(folder, ["val", "val"])
    with pytest.raises(DataError, match="found none; name one, such"):
        read_splits(folder, [])
    with pytest.raises(DataError, match="found none; name one with --data"):
        read_splits(folder / "nowhere", ["val"])


def test_folder_of_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "sub/a.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (images,) = read_splits(tmp_path, [])
    assert images.split == "all"
    assert images.image_id == ("b.PNG", "sub/a.jpg")
    assert images.labels is None


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found neither"):
        read_splits(tmp_path, [])


def test_list_file(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    (tmp_path / "mine.txt").write_text("two.jpg dog cat\none dog\nthree\n")
    (images,) = read_splits(tmp_path, ["mine"])
    assert images.image_id == ("two.jpg", "one", "three")
    assert images.path[1] == tmp_path / "one.png"
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [[1, 1], [-1, 1], [-1, -1]]


def test_list_file_without_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("two.jpg\none.jpg\n")
    (images,) = read_splits(tmp_path, ["mine"])
    assert images.labels is None


def test_sha256_tells_lists_apart(tmp_path: Path) -> None:
    texts = [
        "a x\nb y\n",
        "b y\na x\n",
        "a y\nb x\n",
        "a x\n",
        "a x z\nb y\n",
        "a\nb\n",
    ]
    sums = set()
    for text in texts:
        (tmp_path / "s.txt").write_text(text)
        first, second = (read_splits(tmp_path, ["s"])[0].sha256 for _ in range(2))
        assert first == second
        sums.add(first)
    assert len(sums) == len(texts)
    assert np.unique([len(s) for s in sums]).tolist() == [64]


def test_the_list_of_another_split_is_no_class(tmp_path: Path) -> None:
    folder = _devkit(tmp_path, val="a\n", cat_val="a 1\n", small_val="a\n")
    (images,) = read_splits(folder, ["val"])
    assert images.classes == ("cat",)


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "one.JPG").touch()
    (tmp_path / "mine.txt").write_text("one\n")
    (images,) = read_splits(tmp_path, ["mine"])
    assert images.path[0] == tmp_path / "one.JPG"


@pytest.mark.parametrize("name", ["a/b", "x" * 201, "tab\x7f"])
def test_classes_that_no_file_can_be_named_by(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.txt").write_text(f"one {name}\n")
    with pytest.raises(DataError, match="expected names of classes"):
        read_splits(tmp_path, ["mine"])


def test_too_many_classes(tmp_path: Path) -> None:
    lines = (f"image{i} class{i}\n" for i in range(4001))
    (tmp_path / "mine.txt").write_text("".join(lines))
    with pytest.raises(DataError, match="at most 4000 classes, found 4001"):
        read_splits(tmp_path, ["mine"])
