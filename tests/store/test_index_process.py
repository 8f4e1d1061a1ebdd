from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, make_split, write_file
from fishing.errors import StoreError
from fishing.store import FeaturesFile, describe, index_process, load, verify
from fishing.store.values import OpenFile

BLOB = "forward/x7"
# This may happen to a good file; no one should be told to overwrite it.
_NOT_THE_FILE = r"did not end within 0.5 s; the file may be whole: [^-]+$"


@pytest.fixture
def path(tmp_path: Path, rng) -> Path:
    return write_file(tmp_path / "f.h5", test=make_split(rng, 5))


class _Child:
    """A process that answers what a test wants and ends as it wants."""

    def __init__(self, answer: bytes, code: int = 0) -> None:
        self.answer, self.code = answer, code

    def __call__(self, task: str, descriptor: int, pipe: int) -> _Child:
        os.write(pipe, self.answer)
        return self

    def wait(self, timeout: float | None = None) -> int:
        return self.code

    def kill(self) -> None:
        pass


def _runs(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    """Let the process do other work than it should."""
    monkeypatch.setattr(index_process, "_START", work)


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch, path: Path) -> None:
    """On this one libhdf5 does not come to an end."""
    monkeypatch.setattr(index_process, "CPU_SECONDS", 0)
    name = "libhdf5-went-round-in-a-heap.gz"
    damaged = ROOT / "tests" / "reliability" / "corpus" / "features" / name
    endless = tmp_path / "damaged.h5"
    endless.write_bytes(gzip.decompress(damaged.read_bytes()))
    for ask in (describe, verify):
        with pytest.raises(StoreError, match="HDF5 does not come to an end within 0 s"):
            ask(endless)
    monkeypatch.undo()
    describe(path)


@pytest.mark.parametrize("ask", [describe, verify])
def test_a_process_that_waits_for_ever_is_ended(
    ask: Callable[[Path], Any], path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(index_process, "WALL_SECONDS", 0.5)
    _runs(monkeypatch, "import os, time; os.write({pipe}, b'x'); time.sleep(99)")
    start = time.monotonic()
    with pytest.raises(StoreError, match=_NOT_THE_FILE):
        ask(path)
    assert time.monotonic() - start < 30


def test_a_process_that_hangs_up_and_stays_is_ended(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(index_process, "WALL_SECONDS", 0.5)
    _runs(monkeypatch, "import os, time; os.close({pipe}); time.sleep(99)")
    with pytest.raises(StoreError, match=_NOT_THE_FILE):
        describe(path)


@pytest.mark.parametrize("ask", [describe, verify])
def test_a_crash_is_an_error(
    ask: Callable[[Path], Any], path: Path, monkeypatch
) -> None:
    """So is one that comes after a whole answer."""
    _runs(
        monkeypatch,
        "from fishing.store import index; import os; index.os._exit = lambda _: "
        "os.kill(os.getpid(), 11); "
        "index.answer(index.{task}, {descriptor}, {pipe}, {seconds})",
    )
    with pytest.raises(StoreError, match=r"HDF5 crashes \(exit code -11\)"):
        ask(path)


def _children() -> str:
    """List the child processes of this one; other tests may have left some."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_no_process_outlives_the_opening(path: Path) -> None:
    before = _children()
    with FeaturesFile(path) as file:
        assert _children() == before
        file["test"].blobs[BLOB][:]
        assert _children() == before


@pytest.mark.parametrize(
    "content",
    [
        b"\n{", b"\n[1]", b"\n{}", b"\n\xff\xfe", b"\n" + b"[" * 99_999, b"\n3",
        b'\n{"outline": {}}', b'\n{"outline": 3, "places": {}, "damage": {}}',
        b'\n{"outline": {"/": []}, "places": {"test": 1}, "damage": {}}',
        b'\n{"outline": {"/": {"attributes": {"splits": "{}"}}}, "damage": []}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("ask", [describe, verify])
def test_an_answer_that_is_none_is_an_error(
    path: Path, monkeypatch, content: bytes, ask
) -> None:
    monkeypatch.setattr(index_process, "start", _Child(content[:50_000]))
    said = "expected (a whole features file|what was written), found"
    with pytest.raises(StoreError, match=said):
        ask(path)


def _with(where: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Change one entry of an answer."""

    def change(answer: dict[str, Any]) -> None:
        *keys, last = where.split("|")
        for key in keys:
            answer = answer[key]
        answer[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _with(f"places|test/{BLOB}|offset", value)
        for value in (-1, 2**40, 2**70, 1.5, "1", None, True)
    ]
    + [
        _with(f"outline|test/{BLOB}|shape", value)
        for value in ([5, 2**20], [2**60, 6], [5], [5, 6, 1], [-5, 6], "ab", None, 30)
    ]
    + [
        _with(f"outline|test/{BLOB}|dtype", value)
        for value in ("<f8", "|O", ">f4", "<i8", "|S4", "|S0", "f4,f4", 3, [], "no")
    ]
    + [_with(f"places|test/{BLOB}", value) for value in ({}, None, [], {"chunks": 1})]
    + [
        _with("places|test/image_id|offset", 2**40),
        _with("outline|test/image_id|dtype", "|S9999999"),
        _with("outline|test/labels|attributes", {}),
        _with("outline|test/labels|attributes|classes", 3),
        _with("outline|test|attributes", {}),
        _with("outline|/|attributes|splits", 3),
        _with("outline|/|attributes|splits", '["test", "other"]'),
        _with("outline|/|attributes|preprocess", "[" * 9999),
    ],
)
def test_no_number_of_the_process_is_trusted(path: Path, monkeypatch, change) -> None:
    """Damage may have led HDF5 astray, and the process with it."""
    answer = index_process.ask("read_index", OpenFile(path))
    change(answer)
    monkeypatch.setattr(index_process, "start", _Child(json.dumps(answer).encode()))
    with pytest.raises(StoreError, match="expected a whole features file, found"):
        describe(path)


def test_an_answer_of_any_length_is_not_kept(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(index_process, "_MAX_ANSWER", 2**16)
    _runs(
        monkeypatch, "import os; [os.write({pipe}, bytes(2**16)) for _ in iter(int, 1)]"
    )
    with pytest.raises(StoreError, match="HDF5 gives no proper answer"):
        describe(path)


def test_the_index_is_of_the_file_that_was_opened(path: Path, rng, monkeypatch) -> None:
    start = index_process.start

    def late(task: str, descriptor: int, pipe: int) -> subprocess.Popen[bytes]:
        write_file(path.with_name("g.h5"), other=make_split(rng, 3))
        os.replace(path.with_name("g.h5"), path)
        return start(task, descriptor, pipe)

    monkeypatch.setattr(index_process, "start", late)
    with FeaturesFile(path) as file:
        assert list(file) == ["test"]


def test_odd_names_of_files(tmp_path: Path, rng, monkeypatch) -> None:
    for name in ("with space.h5", "line\nend.h5", "ü.h5", "\udcff.h5"):
        describe(write_file(tmp_path / name, test=make_split(rng, 5)))
    for name in ("a\0.h5", "a\n\0.h5", "n" * 300):
        with pytest.raises(StoreError, match="expected a features file") as caught:
            load(name)
        assert str(caught.value).isprintable()
    monkeypatch.chdir(tmp_path)
    with FeaturesFile(Path("ü.h5")) as file:
        monkeypatch.chdir("/")
        assert len(file["test"].blobs[BLOB][:2]) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ü.h5").write_bytes(b"other")
    with pytest.raises(StoreError, match=r"^ü\.h5: expected an HDF5 file"):
        describe(Path("ü.h5"))


def test_a_file_that_may_not_be_read(path: Path, monkeypatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StoreError, match="found: Permission denied; name one"):
        describe(path)


def test_modules_of_the_current_folder_are_not_ours(path: Path, monkeypatch) -> None:
    for name in ("struct.py", "h5py.py", "json.py"):
        (path.parent / name).write_text("open('ran', 'w')")
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", ["", ".", Path("/nowhere"), *sys.path])
    assert describe(path)
    assert not (path.parent / "ran").exists()


def test_a_process_that_does_not_start_is_not_the_file(path: Path, monkeypatch) -> None:
    _runs(monkeypatch, "raise SystemExit(3) # {pipe}")
    with pytest.raises(StoreError, match=r"start a process .* exit code 3"):
        describe(path)


def test_prints_at_the_start_do_no_harm(path: Path, monkeypatch) -> None:
    _runs(monkeypatch, "print('hello', flush=True); " + index_process._START)
    assert describe(path)


def test_what_a_signal_raises_passes_through(path: Path, monkeypatch) -> None:
    """The process is ended, and nothing stays open."""
    _runs(monkeypatch, "import time; time.sleep(99) # {pipe}")
    n_open, children = len(os.listdir("/dev/fd")), _children()

    def late(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            describe(path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert _children() == children
    assert len(os.listdir("/dev/fd")) == n_open


def test_what_is_read_at_the_exit_can_be(path: Path) -> None:
    script = (
        "import atexit, fishing\n"
        "found = []\n"
        "rows = lambda: found[0]['test'].blobs['forward/x7'][:]\n"
        "atexit.register(lambda: print(rows().shape))\n"
        f"found.append(fishing.load({str(path)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
    )
    assert done.stdout.startswith("(5, "), done.stderr
    assert done.stderr == ""


def test_reading_does_not_import_h5py(path: Path) -> None:
    script = (
        "import sys, pathlib, fishing.store\n"
        f"path = pathlib.Path({str(path)!r})\n"
        "fishing.load(path)['test'].blobs['forward/x7'][:]\n"
        "fishing.store.verify(path)\n"
        "sys.exit(not {'h5py', 'cv2', 'sklearn'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_room_for_a_process_is_an_error(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(os.listdir("/dev/fd"))
    refusals = []
    for most in range(3, n_open + 20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        try:
            describe(path)
        except StoreError as error:
            refusals.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(os.listdir("/dev/fd")) == n_open
    assert all("Too many open files; " in text for text in refusals)
    kinds = {text.split(",")[0].split(" at ")[0] for text in refusals}
    assert kinds == {
        "expected a features file",
        "expected to start a process that reads features files",
    }
    assert describe(path)


@pytest.mark.parametrize("ask", [describe, verify])
def test_too_little_memory_is_an_error(
    ask: Callable[[Path], Any], path: Path, monkeypatch
) -> None:
    _runs(
        monkeypatch,
        "from fishing.store import index; index.MEMORY = 2**20; "
        "index._opened = lambda _: bytes(2**30); "
        "index.answer(index.{task}, {descriptor}, {pipe}, {seconds})",
    )
    with pytest.raises(StoreError, match=r"f\.h5: expected to read it within the mem"):
        ask(path)


@pytest.mark.parametrize("ask", [describe, verify])
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSYS, signal.SIGUSR1]
)
def test_a_process_that_others_end_tells_nothing_of_the_file(
    ask: Callable[[Path], Any], number: int, path: Path, monkeypatch
) -> None:
    """As the system does if memory runs out: nobody is told to overwrite the file."""
    for start in ("", "os.write({pipe}, b'\\n'); "):
        work = f"import os; {start}os.kill(os.getpid(), {int(number)})"
        _runs(monkeypatch, f"{work} # {{pipe}}")
        said = f"was ended by signal {int(number)}; the file may be whole"
        with pytest.raises(StoreError, match=said) as caught:
            ask(path)
        assert "overwrite" not in str(caught.value)
        assert "anew" not in str(caught.value)


def test_a_disk_that_fails_tells_nothing_of_the_file(path: Path, monkeypatch) -> None:
    """Wherever HDF5 meets the error, at the first byte or later."""
    _runs(
        monkeypatch,
        "import os; real = os.preadv; calls = []\n"
        "def preadv(*a):\n"
        "    calls.append(a)\n"
        "    if len(calls) > MOST: raise OSError(5, 'Input/output error')\n"
        "    return real(*a)\n"
        "os.preadv = preadv\n" + index_process._START,
    )
    work = index_process._START
    for most in (0, 1, 2, 5, 9):
        _runs(monkeypatch, work.replace("MOST", str(most)))
        said = r"found Input/output error; the file may be whole: [^-]*$"
        with pytest.raises(StoreError, match=said):
            describe(path)


def test_values_on_a_disk_that_fails(path: Path, monkeypatch) -> None:
    def preadv(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(StoreError, match=r"expected to read it, found Input[^-]*$"):
        describe(path)
