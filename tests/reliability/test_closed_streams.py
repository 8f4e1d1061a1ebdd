"""Whatever standard streams are closed, commands and functions do their work."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_split, write_file
from fishing.store import load
from forked_commands import ForkedCommands

# All sets of standard streams that may be closed, but for the empty one.
CLOSED = [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]
SOME = [(0,), (2,), (0, 1, 2)]


_FISHING = (sys.executable, "-m", "fishing")


def _run(
    closed: tuple[int, ...], *command: object
) -> subprocess.CompletedProcess[bytes]:
    """Run a command without some of its standard streams."""
    ends = " ".join(f"{n}{'<' if n == 0 else '>'}&-" for n in closed)
    shell = ["bash", "-c", f'exec "$@" {ends}', "bash", *map(str, command)]
    return subprocess.run(shell, capture_output=True, input=b"")


@pytest.mark.parametrize("closed", SOME)
def test_every_step_works(
    forked: ForkedCommands, devkit: Path, tmp_path: Path, closed: tuple
) -> None:
    path, split = tmp_path / "f.h5", ("--split", "trainval", "--split", "test")
    steps = {
        "features file": ["info", path, "--verify"],
        "mAP": ["evaluate", path, "--feature", "x7", "--output", tmp_path / "r"],
        "similarity": ["search", path, "--query-id", "test_001"],
        "t4.h5": ["temper", path, "--temperature", 4, "--output", tmp_path / "t4.h5"],
    }
    extract = ["extract", "--net", "tinyalexnet", "--data", devkit, *split]
    for command in ([*extract, "--output", path], *steps.values()):
        done = _run(closed, forked.fishing, *command)
        assert done.returncode == 0, (command, done)
        assert b"fishing: " not in done.stderr.replace(
            b"fishing: tinyalexnet runs", b""
        )
        assert bool(done.stdout) == (1 not in closed)
    names = {p.name.removesuffix(".images") for p in tmp_path.iterdir()}
    assert names == {"f.h5", "r", "t4.h5"}
    assert len(load(path)["trainval"]) == 26


@pytest.mark.parametrize("closed", SOME)
@pytest.mark.parametrize("backend", ["caffe", "openvino"])
def test_every_backend_works(
    forked: ForkedCommands, devkit: Path, tmp_path: Path, backend: str, closed: tuple
) -> None:
    path = tmp_path / "f.h5"
    arguments = ["extract", "--net", "tinyalexnet", "--data", devkit / "JPEGImages"]
    arguments += ["--output", path, "--backend", backend]
    done = _run(closed, forked.fishing, *arguments)
    assert done.returncode == 0, done
    assert load(path)["all"].blobs["forward/x7"][:].sum() > 0


@pytest.mark.parametrize("closed", CLOSED)
def test_an_error_is_still_one(tmp_path: Path, closed: tuple) -> None:
    done = _run(closed, *_FISHING, "info", tmp_path / "none.h5")
    assert done.returncode == 2
    assert (b"found none" in done.stderr) == (2 not in closed)
    if len(closed) == 2:
        return
    # What opens first must not get the place of a stream, and be printed into.
    (tmp_path / "text.h5").write_text("thesis")
    done = _run(closed, *_FISHING, "info", tmp_path / "text.h5")
    assert done.returncode == 2
    assert b"overwrite" not in done.stderr
    assert (tmp_path / "text.h5").read_text() == "thesis"


_SCRIPT = """
import os, sys
for n in map(int, sys.argv[2]):
    os.close(n)
import fishing
kept = [fishing.load(sys.argv[1]) for _ in range(4)]
assert len({f["test"].blobs["forward/x7"][:].sum() for f in kept}) == 1
for f in kept:
    f.verify()
print("well", file=open(sys.argv[3], "w"))
"""


@pytest.mark.parametrize("closed", CLOSED)
def test_the_library_needs_no_stream(tmp_path: Path, rng, closed: tuple) -> None:
    """Even if its own file gets the number of a stream before it starts a child."""
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    numbers = "".join(map(str, closed))
    command = [sys.executable, "-c", _SCRIPT, path, numbers, tmp_path / "log"]
    done = _run((), *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == "well\n"


def test_a_child_never_gets_a_passed_descriptor_as_a_stream(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "from fishing.processes import start_python\n"
        "os.close(0); os.close(1)\n"
        "number = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "assert number == 0\n"
        "work = lambda n: f'import os; os.write({n}, b\"{n}\"); print(5); input()'\n"
        "null = subprocess.DEVNULL\n"
        "start_python(work, number, environment={}, stdin=null, stdout=null, "
        "stderr=null).wait()\n"
    )
    _run((), sys.executable, "-c", script, tmp_path / "log")
    assert int((tmp_path / "log").read_text()) > 2


def test_open_streams_stay_as_they_are(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from fishing.processes import open_standard_streams\n"
        "before = [os.fstat(n) for n in range(3)], sys.stdin, sys.stdout, sys.stderr\n"
        "open_standard_streams()\n"
        "assert before == ([os.fstat(n) for n in range(3)], sys.stdin, sys.stdout, "
        "sys.stderr)\n"
    )
    done = _run((), sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
