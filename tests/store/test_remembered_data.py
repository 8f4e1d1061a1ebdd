from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fishing.store import relative_path, remember_data, remembered_data


def test_it_holds_after_both_are_moved(tmp_path: Path) -> None:
    features, data = tmp_path / "a" / "out" / "f.h5", tmp_path / "a" / "photos"
    data.mkdir(parents=True)
    features.parent.mkdir()
    remember_data(features, data)
    beside = tmp_path / "a" / "out" / "f.h5.images"
    assert beside.read_text() == "../photos\n"
    shutil.move(tmp_path / "a", tmp_path / "b")
    found = remembered_data(tmp_path / "b" / "out" / "f.h5")
    assert found is not None
    assert found.resolve() == (tmp_path / "b" / "photos").resolve()
    assert remembered_data(tmp_path / "b" / "out" / "g.h5") is None


def test_relative_paths_and_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    remember_data(Path("f.h5"), Path("link"))
    assert Path("f.h5.images").read_text() == "link\n"  # links stay links
    assert relative_path(Path(), tmp_path / "real") == ".."
    assert relative_path(tmp_path / "real", Path()) == "real"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\nb\n", b"x" * 20_000])
def test_what_is_no_path_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.h5.images").write_bytes(content)
    assert remembered_data(tmp_path / "f.h5") is None


def test_where_it_cannot_be_written_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "f.h5.images").mkdir()
    remember_data(tmp_path / "f.h5", tmp_path)
    assert "name the data set with --data" in caplog.text


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    remember_data(tmp_path / "f.h5", tmp_path / "photos")
    before = (tmp_path / "f.h5.images").stat()
    remember_data(tmp_path / "f.h5", tmp_path / "photos")
    assert (tmp_path / "f.h5.images").stat() == before
    remember_data(tmp_path / "f.h5", tmp_path / "other")
    assert remembered_data(tmp_path / "f.h5") == tmp_path / "other"
