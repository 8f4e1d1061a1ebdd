from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from fishing import files as disk
from fishing.errors import StoreError
from fishing.files import name_whole_file, write_whole
from fishing.store.hdf5_streams import EndlessInput, Output


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let the system refuse to make any file longer than 4,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def _write_hdf5(target: Output, n: int) -> None:
    with h5py.File(target, "w") as file:
        for i in range(3):
            file[f"group{i}/values"] = np.arange(n)


@pytest.mark.usefixtures("small_disk")
def test_hdf5_never_learns_that_the_disk_is_full(tmp_path: Path) -> None:
    out = Output(tmp_path / "f.h5")
    _write_hdf5(out, 1000)
    with pytest.raises(OSError, match="File too large"):
        out.__exit__()


def test_an_interrupt_does_not_pass_through_hdf5(tmp_path: Path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = Output(tmp_path / "f.h5")
    monkeypatch.setattr(disk, "write_all", interrupt)
    _write_hdf5(out, 1000)
    with pytest.raises(KeyboardInterrupt):
        out.__exit__()


def test_what_comes_out_is_what_hdf5_writes_itself(tmp_path: Path) -> None:
    with Output(tmp_path / "a.h5") as out:
        _write_hdf5(out, 1000)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["group2/values"][:].tolist() == list(range(1000))


def test_behind_the_end_there_is_a_filler(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with EndlessInput(tmp_path / "f") as source:
        assert source.seek(0, os.SEEK_END) > 2**60
        source.seek(3)
        assert source.read(4) == b"45\xa5\xa5"
        source.seek(2**40)
        assert source.read(2) == b"\xa5\xa5"


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
    with (
        disk.lock(tmp_path / "lock"),
        pytest.raises(StoreError, match=f"process {os.getpid()} on "),
    ):
        disk.lock(tmp_path / "lock")
    with disk.lock(tmp_path / "lock"):
        pass
