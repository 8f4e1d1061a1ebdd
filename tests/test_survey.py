from __future__ import annotations

import gzip
import os
import signal
from pathlib import Path

import pytest

from conftest import ROOT, make_split, write_file
from fishing import survey as module
from fishing.errors import StoreError
from fishing.store import FeaturesFile, describe
from fishing.survey import survey


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Find a file over which libhdf5 goes round for ever."""
    monkeypatch.setattr(module, "CPU_SECONDS", 1)
    found = ROOT / "tests" / "corpus" / "features" / "libhdf5-went-round-in-a-heap.gz"
    path = tmp_path / "endless.h5"
    path.write_bytes(gzip.decompress(found.read_bytes()))
    return path


def test_a_file_without_end_is_refused(endless: Path, tmp_path: Path, rng) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match="HDF5 does not come to an end; extract"):
            describe(endless)
    describe(write_file(tmp_path / "good.h5", test=make_split(rng, 5)))


def test_a_crash_is_an_error(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    survey(path)
    assert module._process is not None
    module._process.send_signal(signal.SIGSEGV)
    module._process.wait()
    with pytest.raises(StoreError, match=r"HDF5 crashes \(exit code -11\)"):
        survey(path)
    survey(path)


def test_one_process_looks_at_all_files(tmp_path: Path, rng) -> None:
    names = ["a.h5", "with space.h5", "line\nend.h5", "ü.h5", "none.h5"]
    for name in names[:-1]:
        survey(write_file(tmp_path / name, test=make_split(rng, 5)))
    with pytest.raises(StoreError, match=r"none\.h5', found none"):
        survey(tmp_path / names[-1])
    process = module._process
    survey(tmp_path / "a.h5")
    assert module._process is process is not None


def test_relative_paths(tmp_path: Path, rng, monkeypatch) -> None:
    write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    survey(tmp_path / "f.h5")
    monkeypatch.chdir(tmp_path)
    with FeaturesFile(Path("f.h5")) as file:
        assert list(file.splits) == ["test"]


def test_a_fork_has_a_process_of_its_own(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    survey(path)
    ours = module._process
    child = os.fork()
    if child == 0:
        survey(path)
        os._exit(0 if module._process is not ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    survey(path)
    assert module._process is ours


def test_an_interrupt_leaves_no_answer_behind(tmp_path: Path, rng, monkeypatch) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            survey(path)
    assert module._process is None
    survey(path)
