"""Names in lists and what they are on the disk."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from fishing.errors import DataError
from fishing.images import find_image, read_splits

NFC = unicodedata.normalize("NFC", "h\u00f6hle \u00e9")
NFD = unicodedata.normalize("NFD", NFC)


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _read(folder: Path, text: str | bytes, split: str = "mine"):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / f"{split}.txt").write_bytes(content)
    (images,) = read_splits(folder, [split])
    return images


@pytest.mark.parametrize("is_devkit", [True, False])
@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [
        ("a.jpg", "a.jpg"),
        ("a", "a.jpg"),
        ("a", "a.JPG"),
        ("a", "a.Jpg"),
        ("a", "a.jpeg"),
        ("a", "a.JPEG"),
        ("a", "a.png"),
        ("a", "a.jfif"),
        ("a", "A.jpg"),
        ("a.jpg", "a.JPG"),
        ("a.JPG", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("a.v2", "a.v2.jpg"),
        ("sub/a", "sub/a.jpg"),
        ("sub/a.jpg", "Sub/A.JPG"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("sub\\deep\\a", "sub/deep/a.png"),
        ("back\\slash.jpg", "back\\slash.jpg"),
        ("./a.jpg", "a.jpg"),
        (".\\a.jpg", "a.jpg"),
        ("sub//a.jpg", "sub/a.jpg"),
        (NFC, NFD + ".jpg"),
        (NFD, NFC + ".jpg"),
        (f"{NFC}/{NFC}.JPG", f"{NFD}/{NFD}.jpg"),
        ("\u00c9T\u00c9.jpg", unicodedata.normalize("NFD", "\u00e9t\u00e9.JPG")),
        ("STRASSE.jpg", "stra\u00dfe.jpg"),
        ("caf\u00e9.jpg", "caf\udce9.jpg"),  # Latin-1 on the disk
        ("a\u202fb\u00a0c.jpg", "a\u202fb\u00a0c.jpg"),
        ("'quoted'.jpg", "'quoted'.jpg"),
    ],
)
def test_a_name_is_found(tmp_path: Path, listed: str, on_disk: str, is_devkit) -> None:
    main, photos = tmp_path, tmp_path
    if is_devkit:
        main, photos = tmp_path / "ImageSets" / "Main", tmp_path / "JPEGImages"
        main.mkdir(parents=True)
    _touch(photos, on_disk, "other.jpg")
    (main / "t.txt").write_text(f"{listed}\tcat\n")
    (images,) = read_splits(tmp_path, ["t"])
    assert images.path == (photos / on_disk,)
    assert not images.failed
    assert find_image(tmp_path, images.image_id[0]) == photos / on_disk


def test_another_spelling_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    _touch(tmp_path, "A.jpg", "b.jpg")
    _read(tmp_path, "a.jpg\nb.jpg\n")
    assert "another way on the disk: 1, such as 'A.jpg' for 'a.jpg'" in caplog.text


def test_as_written_comes_first(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "A.jpg", "a.png", "a/x.jpg", "b/x.jpg", "b.png")
    images = _read(tmp_path, "A.jpg\na.jpg\na\nb\nA.png\n")
    names = [p.name for p in images.path]
    assert names == ["A.jpg", "a.jpg", "b.png", "a.png"]  # the third is the second


def test_two_that_fit(tmp_path: Path) -> None:
    _touch(tmp_path, "ab.jpg", "Ab.jpg")
    images = _read(tmp_path, "AB.jpg\n")
    assert "there are 'Ab.jpg' and 'ab.jpg'" in images.failed[0]


def test_another_format_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png")
    images = _read(tmp_path, "a.jpg\nnone.jpg\n")
    assert images.failed == {0: "No such file; there is 'a.png'"}


def test_absolute_paths(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _touch(data, "sub/a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "link").symlink_to(data)
    text = f"{data}/sub/a.jpg cat\n{data}/b dog\n{tmp_path}/link/c.jpg dog\n"
    (data / "mine.txt").write_text(text)
    (images,) = read_splits(tmp_path / "link", ["mine"])
    assert images.image_id == ("sub/a.jpg", "b", "c.jpg")
    with pytest.raises(DataError, match="line 1: expected the path of an image below"):
        _read(data, f"{tmp_path}/elsewhere.jpg cat\n")


@pytest.mark.parametrize(
    "line",
    [
        "my photo.jpg\tpolar bear\tice",
        "my photo.jpg\tpolar bear\t\tice\t",
        '"my photo.jpg"\t"polar bear"\tice',
        "my photo\tpolar bear\tice",
        '"my photo.jpg" "polar bear" ice',
        "'my photo.jpg' 'polar bear' ice",
        '  "my photo.jpg"   "polar bear"  ice  ',
        'my photo.jpg "polar bear" ice',
    ],
)
def test_names_with_spaces(tmp_path: Path, line: str) -> None:
    _touch(tmp_path, "my photo.jpg")
    images = _read(tmp_path, line + "\n")
    assert images.path == (tmp_path / "my photo.jpg",)
    assert images.classes == ("ice", "polar bear")


def test_spaces_without_quotes(tmp_path: Path) -> None:
    _touch(tmp_path, "my photo.jpg", "it is.jpg", "it.jpg")
    images = _read(tmp_path, "my photo.jpg\nit is cat\n")
    assert [p.name for p in images.path] == ["my photo.jpg", "it.jpg"]


def test_repeated_lines(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    _touch(tmp_path, "a.jpg", "b.jpg")
    text = "a.jpg cat\nb dog\n./a.jpg dog\na cat\nA.JPG ice\nb.jpg dog\nnone\n./none\n"
    images = _read(tmp_path, text)
    assert images.image_id == ("a.jpg", "b", "none")
    assert images.classes == ("cat", "dog", "ice")
    assert images.labels.tolist() == [[1, 1, 1], [-1, 1, -1], [-1, -1, -1]]
    assert "lines that name an image again: 5, such as" in caplog.text


def test_repeated_lines_of_a_devkit(tmp_path: Path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    _touch(tmp_path / "JPEGImages", "a.jpg", "b.jpg")
    (main / "t.txt").write_text("a\nb\na\n./b.jpg\n")
    (main / "cat_t.txt").write_text("a.jpg 1\nb -1\na 1\n")
    (images,) = read_splits(tmp_path, ["t"])
    assert images.image_id == ("a", "b")
    assert images.labels.tolist() == [[1], [-1]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_from_windows(tmp_path: Path, encoding: str, end: str) -> None:
    _touch(tmp_path, "\u00e9.jpg", "b.jpg")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    text = mark + f"\u00e9.jpg caf\u00e9{end}{end}b.jpg x{end}"
    images = _read(tmp_path, text.encode(encoding))
    assert images.image_id == ("\u00e9.jpg", "b.jpg")
    assert images.classes == ("caf\u00e9", "x")
    assert not images.failed


def test_a_list_in_windows_1252(tmp_path: Path, caplog) -> None:
    _touch(tmp_path, "\u00e9.jpg", "r\u00e9sum\udce9.jpg")
    images = _read(tmp_path, "\u00e9.jpg \u20ac\n".encode("cp1252"))
    assert images.image_id == ("\u00e9.jpg",)
    assert images.classes == ("\u20ac",)
    assert "read as Windows-1252" in caplog.text


def test_label_files_from_windows(tmp_path: Path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "t.txt").write_bytes("a\r\nb\r\n".encode("utf-16"))
    (main / "cat_t.txt").write_bytes(b"\xef\xbb\xbfa  1\r\nb -1\r\n")
    (images,) = read_splits(tmp_path, ["t"])
    assert images.labels.tolist() == [[1], [-1]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_be_entered_but_not_listed(tmp_path: Path) -> None:
    _touch(tmp_path, "dark/a.jpg")
    (tmp_path / "dark").chmod(0o100)
    images = _read(tmp_path, "dark/a.jpg\ndark/a\n")
    (tmp_path / "dark").chmod(0o700)
    assert images.path == (tmp_path / "dark" / "a.jpg",)


def test_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _touch(tmp_path, "photos/a.jpg")
    (images,) = read_splits(Path("~/photos"), [])
    assert images.path == (tmp_path / "photos" / "a.jpg",)
    assert find_image(Path("~/photos"), "a") == images.path[0]
