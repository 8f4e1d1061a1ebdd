from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fishing import files as disk
from fishing.files import name_whole_file, whole_file, write_whole


def test_short_writes_are_taken_up(tmp_path: Path) -> None:
    class Short:
        written = b""

        def write(self, content: memoryview) -> int:
            self.written += bytes(content[:3])
            return len(content[:3])

    file = Short()
    disk.write_all(file, np.arange(5, dtype=np.int16))
    assert file.written == np.arange(5, dtype=np.int16).tobytes()


def test_names_are_given_to_what_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def call(*arguments, name=name, real=real):
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)
    (tmp_path / "new").write_bytes(b"whole")
    name_whole_file(tmp_path / "new", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert calls == ["fsync", "replace", "fsync"]  # the file, then its folder
    calls.clear()
    write_whole(tmp_path / "file", b"other")
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "file").read_bytes() == b"other"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_lock_tells_who_holds_it(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on a machine that is long gone\n")
    holders = []

    def refuse(holder: str) -> None:
        holders.append(holder)
        raise InterruptedError

    with (
        disk.lock(tmp_path / "lock", refuse),
        pytest.raises(InterruptedError),
    ):
        disk.lock(tmp_path / "lock", refuse)
    assert holders == [f"process {os.getpid()} on {os.uname().nodename}"]
    with disk.lock(tmp_path / "lock", refuse):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    first = disk.lock(tmp_path / "lock", print)
    waited: list[str] = []

    def release(holder: str) -> None:
        waited.append(holder)
        (tmp_path / "lock").unlink()  # as a holder does that is through
        first.close()

    with disk.lock(tmp_path / "lock", release) as second:
        assert len(waited) == 1
        assert os.path.samestat(os.fstat(second.fileno()), (tmp_path / "lock").stat())


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("thesis")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        disk.lock(tmp_path / "lock", print)
    assert (tmp_path / "mine").read_text() == "thesis"


def test_a_whole_file_replaces_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    def tear() -> None:
        with whole_file(tmp_path / "link") as unfinished:
            unfinished.write_text("half")
            assert disk.is_unfinished(unfinished.name)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tear()
    assert (tmp_path / "real").read_text() == "old"
    with whole_file(tmp_path / "link") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_no_more_is_read_than_expected(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert disk.read_at_most(tmp_path / "f", 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        disk.read_at_most(tmp_path / "f", 4)
    for other in (Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="a folder, a device or a pipe"):
            disk.read_at_most(other, 4)
