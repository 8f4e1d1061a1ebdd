from __future__ import annotations

from pathlib import Path

import pytest

from fishing.errors import DataError
from fishing.images import read_splits

EXPECTED = {"a.jpg": {"cat", "ice"}, "b c.jpg": {"dog"}, "sub/d.jpg": {"cat"}}


def _read(folder: Path, content: str | bytes):
    for name in EXPECTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "mine.csv").write_bytes(data)
    (images,) = read_splits(folder, ["mine"])
    return images


def _labels(images) -> dict[str, set[str]]:
    assert images.labels is not None
    return {
        path.name if path.parent.name != "sub" else f"sub/{path.name}": {
            name for name, v in zip(images.classes, row, strict=True) if v == 1
        }
        for path, row in zip(images.path, images.labels, strict=True)
    }


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,cat,ice\nb c.jpg,dog\nsub/d.jpg,cat\n",
        "path,label,label2\na.jpg,cat,ice\nb c.jpg,dog,\nsub/d.jpg,cat,\n",
        "filename,tags\na.jpg,cat;ice\nb c.jpg,dog\nsub/d.jpg,cat\n",
        "image_id,tags\na,cat|ice\nb c,dog\nsub/d,cat\n",
        'Image Path;Class\na.jpg;cat\na.jpg;ice\n"b c.jpg";dog\nsub\\d.jpg;cat\n',
        "file\tlabels\na.jpg\tcat;ice\nb c.jpg\tdog\nsub/d.jpg\tcat\n",
        ",path,label\n0,a.jpg,cat|ice\n1,b c.jpg,dog\n2,sub/d.jpg,cat\n",  # pandas
        "label,path\ncat|ice,a.jpg\ndog,b c.jpg\ncat,sub/d.jpg\n",
        "path,cat,dog,ice\na.jpg,1,0,1\nb c.jpg,0,1,0\nsub/d.jpg,1,0,0\n",
        "path,cat,dog,ice\na.jpg,1,-1,1\nb c.jpg,-1,1,-1\nsub/d.jpg,1,-1,-1\n",
        "path,cat,dog,ice\na.jpg,1.0,0.0,1.0\nb c.jpg,,1,\nsub/d.jpg,1,,\n",
        '"a.jpg","cat","ice"\r\n"b c.jpg","dog"\r\n\r\n"./sub/d.jpg","cat"\r\n',
        " a.jpg , cat , ice \n b c.jpg , dog \n sub/d.jpg,cat",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ways_to_write_labels(tmp_path: Path, text: str, encoding: str) -> None:
    assert _labels(_read(tmp_path, text.encode(encoding))) == EXPECTED


def test_names_with_commas_quotes_and_lines(tmp_path: Path) -> None:
    (tmp_path / "x, y.jpg").touch()
    images = _read(tmp_path, 'path,label\n"x, y.jpg","polar bear, ""old"""\n')
    assert images.path == (tmp_path / "x, y.jpg",)
    assert images.classes == ('polar bear, "old"',)


def test_without_labels(tmp_path: Path) -> None:
    images = _read(tmp_path, "path\na.jpg\nb c.jpg\n")
    assert len(images) == 2
    assert images.labels is None


def test_numbers_as_names_of_classes(tmp_path: Path) -> None:
    images = _read(tmp_path, "a.jpg,7\nb c.jpg,2\n")
    assert images.classes == ("2", "7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one image a row, found no row"),
        ("path,label\n", "expected one image a row, found no row"),
        ("path,label\na.jpg,cat\n,dog\n", "line 3: expected a path, found none"),
        ("../a.jpg,cat\n", "line 1: expected the path of an image below"),
        ("a.jpg,x/y\n", "expected names of classes"),
        ("a.jpg," + "x" * 200_000, "expected CSV, found: field larger"),
        (b"\0\1\2\xff", "expected a text file"),
    ],
)
def test_malformed(tmp_path: Path, text, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(tmp_path, text)
