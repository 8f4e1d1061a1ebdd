from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from fishing.store import hdf5_streams
from fishing.store.hdf5_streams import Input, Output


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
    monkeypatch.setattr(hdf5_streams, "write_all", interrupt)
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
    with (tmp_path / "f").open("rb") as file:
        source = Input(file.fileno(), 2**62)
        assert source.seek(0, os.SEEK_END) == 2**62
        source.seek(3)
        assert source.read(4) == b"45\xa5\xa5"
        source.seek(2**40)
        assert source.read(2) == b"\xa5\xa5"
