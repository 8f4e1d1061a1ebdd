from __future__ import annotations

import gzip
import io
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fishing.store.reader_process import Shared, _Server

from conftest import ROOT, make_split, write_file
from fishing.errors import StoreError
from fishing.store import FeaturesFile, Split, describe, load, verify
from fishing.store import reader as module
from fishing.store import reader_process as reader_worker


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Find a file over which libhdf5 goes round for ever."""
    monkeypatch.setattr(module, "CPU_SECONDS", 1)
    return _from_corpus("libhdf5-went-round-in-a-heap.gz", tmp_path)


def _from_corpus(name: str, folder: Path) -> Path:
    found = ROOT / "tests" / "reliability" / "corpus" / "features" / name
    path = folder / "damaged.h5"
    path.write_bytes(gzip.decompress(found.read_bytes()))
    return path


@pytest.fixture
def split(rng) -> Split:
    return make_split(rng, 600)


def test_a_file_without_end_is_refused(endless: Path, tmp_path: Path, rng) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match="HDF5 does not come to an end; extract"):
            describe(endless)
    describe(write_file(tmp_path / "good.h5", test=make_split(rng, 5)))


@pytest.mark.parametrize("ask", [describe, verify])
def test_a_crash_is_an_error(ask: Callable[[Path], Any], tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    ask(path)
    _stop(module._spare)
    with pytest.raises(StoreError, match=r"HDF5 crashes \(exit code -11\)"):
        ask(path)
    ask(path)


def test_a_crash_while_reading_is_an_error(tmp_path: Path, split: Split) -> None:
    path = write_file(tmp_path / "f.h5", test=split)
    with FeaturesFile(path) as file:
        rows = file["test"].blobs["forward/x7"]
        _stop(file._reader._process)
        with pytest.raises(StoreError, match=r"HDF5 crashes \(exit code -11\)"):
            rows[:]
        np.testing.assert_array_equal(rows[:], split.blobs["forward/x7"])
        _stop(file._reader._process)
    assert describe(path)


def _stop(process: module._Process | None) -> None:
    assert process is not None
    process._process.send_signal(signal.SIGSEGV)
    process._process.wait()


def test_one_process_opens_all_files(tmp_path: Path, rng) -> None:
    names = ["a.h5", "with space.h5", "line\nend.h5", "ü.h5", "none.h5"]
    for name in names[:-1]:
        describe(write_file(tmp_path / name, test=make_split(rng, 5)))
    process = module._spare
    with pytest.raises(StoreError, match=r"none\.h5', found none"):
        describe(tmp_path / names[-1])
    describe(tmp_path / "a.h5")
    assert module._spare is process is not None


def test_several_files_are_open_at_once(tmp_path: Path, rng) -> None:
    splits = [make_split(rng, n) for n in (3, 4, 5)]
    files = [load(write_file(tmp_path / f"{len(s)}.h5", test=s)) for s in splits]
    for split, file in zip(splits, files, strict=True):
        for blob, rows in file["test"].blobs.items():
            np.testing.assert_array_equal(rows[:], split.blobs[blob])


def test_a_file_that_nobody_uses_has_no_process(tmp_path: Path, rng) -> None:
    file = load(write_file(tmp_path / "f.h5", test=make_split(rng, 5)))
    process = file._reader._process._process
    rows = file["test"].blobs["forward/x7"]
    del file
    assert rows[:].shape[0] == 5
    del rows
    assert process.wait(10) == -signal.SIGKILL


def test_a_closed_file_says_so(tmp_path: Path, rng) -> None:
    with FeaturesFile(write_file(tmp_path / "f.h5", test=make_split(rng, 5))) as file:
        rows = file["test"].blobs["forward/x7"]
    with pytest.raises(StoreError, match=r"f\.h5: expected to read from an open file"):
        rows[:]


def test_relative_paths(tmp_path: Path, rng, monkeypatch) -> None:
    write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    describe(tmp_path / "f.h5")
    monkeypatch.chdir(tmp_path)
    with FeaturesFile(Path("f.h5")) as file:
        assert list(file.splits) == ["test"]
    (tmp_path / "f.h5").write_bytes(b"other")
    with pytest.raises(StoreError, match=r"^f\.h5: expected an HDF5 file"):
        describe(Path("f.h5"))


def test_a_fork_has_a_process_of_its_own(tmp_path: Path, split: Split) -> None:
    path = write_file(tmp_path / "f.h5", test=split)
    describe(path)
    spare = module._spare
    with FeaturesFile(path) as file:
        rows = file["test"].blobs["forward/x7"]
        child = os.fork()
        if child == 0:
            is_equal = np.array_equal(rows[:], split.blobs["forward/x7"])
            describe(path)
            spare._end()  # as at the exit of a fork
            os._exit(0 if is_equal and module._spare is not spare else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(rows[:], split.blobs["forward/x7"])
    assert module._spare is spare


def test_a_fork_while_a_thread_reads(tmp_path: Path, split: Split) -> None:
    with FeaturesFile(write_file(tmp_path / "f.h5", test=split)) as file:
        rows = file["test"].blobs["forward/x7"]
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                rows[:]

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    rows[:3]
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            done.set()
            thread.join()


def test_another_folder_changes_nothing(
    tmp_path: Path, split: Split, monkeypatch
) -> None:
    write_file(tmp_path / "f.h5", test=split)
    monkeypatch.chdir(tmp_path)
    with FeaturesFile(Path("f.h5")) as file:
        monkeypatch.chdir("/")
        _stop(file._reader._process)
        with pytest.raises(StoreError, match=r"^f\.h5: expected a whole"):
            file["test"].blobs["forward/x7"][:2]
        assert len(file["test"].blobs["forward/x7"][:2]) == 2


def test_modules_of_the_current_folder_are_not_ours(
    tmp_path: Path, rng, monkeypatch
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    for name in ("struct.py", "h5py.py", "json.py"):
        (tmp_path / name).write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_spare", None)
    monkeypatch.setattr(sys, "path", ["", ".", Path("/nowhere"), *sys.path])
    assert describe(path)
    assert not (tmp_path / "ran").exists()


def test_a_process_that_does_not_start_is_not_the_file(
    tmp_path: Path, rng, monkeypatch
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    monkeypatch.setattr(module, "_spare", None)
    monkeypatch.setattr(module, "_START", "raise SystemExit(3) # {answers} {shared}")
    with pytest.raises(StoreError, match=r"start a process .* exit code 3"):
        describe(path)


def test_prints_at_the_start_do_no_harm(tmp_path: Path, rng, monkeypatch) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    monkeypatch.setattr(module, "_spare", None)
    monkeypatch.setattr(
        module, "_START", "print('hello', flush=True); " + module._START
    )
    assert describe(path)


def test_what_a_signal_raises_passes_through(tmp_path: Path, split: Split) -> None:
    with FeaturesFile(write_file(tmp_path / "f.h5", test=split)) as file:
        rows = file["test"].blobs["forward/x7"]
        process = file._reader._process._process

        def late(*_: object) -> None:
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, late)
        process.send_signal(signal.SIGSTOP)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(TimeoutError):
                rows[:]
        finally:
            signal.signal(signal.SIGALRM, before)
        np.testing.assert_array_equal(rows[:], split.blobs["forward/x7"])


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"settings": {}},
        {"settings": {}, "format_version": 2, "splits": 3},
        {"settings": {}, "format_version": 2, "splits": {"a": {}}},
        {"settings": {}, "format_version": 2, "splits": {"a": {"arrays": ["labels"]}}},
    ],
)
def test_an_answer_that_is_none_is_an_error(
    tmp_path: Path, rng, monkeypatch, answer: dict[str, Any]
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    monkeypatch.setattr(module._Process, "ask", lambda *_: (answer, []))
    for read in (describe, verify):
        with pytest.raises(StoreError, match=r"found one over which HDF5 crashes"):
            read(path)


@pytest.mark.parametrize("name", ["a\0.h5", "a\n\0.h5"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(StoreError, match="expected a features file") as caught:
        load(name)
    assert str(caught.value).isprintable()


def test_what_is_read_at_the_exit_can_be(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    script = (
        "import atexit, fishing\n"
        "found = []\n"
        "rows = lambda: found[0]['test'].blobs['forward/x7'][:]\n"
        "atexit.register(lambda: print(rows().shape))\n"
        f"found.append(fishing.load({str(path)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout.startswith("(5, "), done.stderr


def test_a_fork_does_not_read_another_file(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    with FeaturesFile(path) as file:
        write_file(path, test=make_split(rng, 5))
        file["test"].blobs["forward/x7"][:]
        _stop(file._reader._process)
        with pytest.raises(StoreError, match="crashes"):
            file["test"].blobs["forward/x7"][:]
        with pytest.raises(StoreError, match="found that it has changed since"):
            file["test"].blobs["forward/x7"][:]


def test_an_interrupt_leaves_no_answer_behind(
    tmp_path: Path, split: Split, monkeypatch
) -> None:
    path = write_file(tmp_path / "f.h5", test=split)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with FeaturesFile(path) as file:
        rows = file["test"].blobs["forward/x7"]
        with monkeypatch.context() as patch:
            patch.setattr(module, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                rows[:]
            with pytest.raises(KeyboardInterrupt):
                describe(path)
        assert module._spare is None
        np.testing.assert_array_equal(rows[:], split.blobs["forward/x7"])


def test_no_room_for_a_process_is_an_error(tmp_path: Path, rng, monkeypatch) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    monkeypatch.setattr(module, "_spare", None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(os.listdir("/dev/fd"))
    for n_more in range(5):
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + n_more, limits[1]))
        try:
            with pytest.raises(StoreError, match="Too many open files; close other"):
                describe(path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(os.listdir("/dev/fd")) == n_open
    assert describe(path)


@pytest.mark.parametrize("ask", [describe, verify])
def test_too_little_memory_is_an_error(
    ask: Callable[[Path], Any], tmp_path: Path, rng, monkeypatch
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    server = _Server(io.BytesIO(), Shared(-1))
    monkeypatch.setattr(reader_worker, "StoredFile", _no_memory)
    monkeypatch.setattr(reader_worker, "damage_of", _no_memory)
    monkeypatch.setattr(reader_worker, "_set_limit", lambda *_: None)

    def answer(_, question: dict[str, Any], *__: object) -> tuple[dict[str, Any], list]:
        server._pipe = io.BytesIO()
        server.answer(**question, seconds=1)
        server._pipe.seek(0)
        return reader_worker.receive(server._pipe)

    monkeypatch.setattr(module._Process, "ask", answer)
    with pytest.raises(StoreError, match=r"f\.h5: expected to read it within the mem"):
        ask(path)


def _no_memory(*_: object) -> None:
    raise MemoryError


def _message(text: bytes, behind: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + behind


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        b"\xff" * 8,
        (2**50).to_bytes(8, "little"),
        _message(b"{"),
        _message(b"[1]"),
        _message(b"{}"),
        _message(b"\xff\xfe"),
        _message(b'{"forms": 3}'),
        _message(b'{"forms": [["<f4", [2]]]}', bytes(7)),
        _message(b'{"forms": [["<f4", [-2]]]}', bytes(8)),
        _message(b'{"forms": [["|O", [2]]]}', bytes(16)),
        _message(b'{"forms": [["<f4", ["a"]]]}', bytes(16)),
    ],
)
def test_a_process_gone_astray_is_an_error(
    tmp_path: Path, rng, monkeypatch, content: bytes
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2))
    with FeaturesFile(path) as file:
        process = file._reader._process
        monkeypatch.setattr(process, "_answers", io.BytesIO(content))
        with pytest.raises(StoreError, match=r"found one over which HDF5 crashes"):
            file["test"].blobs["forward/x7"][:1, :2]
        assert file["test"].blobs["forward/x7"][:1, :2].shape == (1, 2)
