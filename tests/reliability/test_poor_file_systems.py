"""Calls that network shares, FUSE and the like do not offer, one at a time.

`lacks.c` is preloaded into the process that forks the commands.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fishing import files, mounts
from fishing.nets import load_net, read_weights, weights_path
from forked_commands import ForkedCommands

# What weakens a promise: the warning names the call.
_WEAKER = {
    ("fsync_folder", "fsync of folders"): ("EINVAL", "ENOSYS", "EOPNOTSUPP", "EBADF"),
    ("fsync_file", "fsync of files"): ("EINVAL", "ENOSYS", "EOPNOTSUPP"),
    ("open_folder", "opening folders to sync them"): ("EACCES",),
    ("flock", "flock"): ("ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"),
}
# What nothing can stand in for.
_NEEDED = {
    ("rename", "the renaming of a file over another one"): ("EXDEV", "ENOSYS"),
    ("append", "appending to files"): ("EOPNOTSUPP", "EINVAL"),
}
_FAILURES = {  # a failing disk is still one
    **dict.fromkeys(("fsync_folder", "fsync_file"), ("EIO", "ENOSPC", "EDQUOT")),
    "flock": ("EIO",),
}


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    folder = tmp_path_factory.mktemp("lacks")
    library = folder / "lacks.so"
    source = Path(__file__).with_name("lacks.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    with ForkedCommands(folder, environment) as commands:
        yield commands


def _run(
    lacking: ForkedCommands, below: Path, call: str, error: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    lack = f"{os.path.realpath(below)} {call} {getattr(errno, error)}"
    return subprocess.run(
        [lacking.fishing, *map(str, arguments)],
        env={**lacking.environment, "LACKS": lack},
        capture_output=True,
        text=True,
    )


def _extract(devkit: Path, path: Path) -> list[object]:
    start = ["extract", "--net", "tinyalexnet", "--data", devkit, "--split", "test"]
    return [*start, "--batch-size", 5, "--output", path]


@pytest.fixture(scope="module")
def whole(forked, devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "f.h5"
    subprocess.run([forked.fishing, *map(str, _extract(devkit, path))], check=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("call", "words", "error"),
    [(*key, error) for key, errors in _WEAKER.items() for error in errors],
)
def test_a_weaker_promise_is_one_warning(
    lacking, devkit: Path, tmp_path: Path, whole: bytes, call, words, error
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = _run(lacking, disk, call, error, *_extract(devkit, disk / "f.h5"))
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "runs on" not in text]
    assert line.startswith("fishing: the file system ")
    assert f"does not offer {words}" in line
    assert (disk / "f.h5").read_bytes() == whole
    assert {p.name.removesuffix(".images") for p in disk.iterdir()} == {"f.h5"}


@pytest.mark.parametrize(
    ("call", "words", "error"),
    [(*key, error) for key, errors in _NEEDED.items() for error in errors],
)
def test_a_call_that_is_needed_is_named_with_the_mount(
    lacking, devkit: Path, tmp_path: Path, call, words, error
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = _run(lacking, disk, call, error, *_extract(devkit, disk / "f.h5"))
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if "runs on" not in text]
    assert f"{mounts.file_system(disk)} does not offer {words}" in line
    assert "choose a folder on another one" in line
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "error"), [(call, e) for call, errors in _FAILURES.items() for e in errors]
)
def test_a_failing_disk_is_no_poor_one(
    lacking, devkit: Path, tmp_path: Path, call: str, error: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = _run(lacking, disk, call, error, *_extract(devkit, disk / "f.h5"))
    assert done.returncode == 2
    assert "does not offer" not in done.stderr
    assert os.strerror(getattr(errno, error)) in done.stderr
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("call", ["mmap", "tmpfile", "ftruncate"])
@pytest.mark.parametrize("backend", ["onnx", "caffe"])
def test_other_ways_are_taken_without_a_word(
    lacking, devkit: Path, tmp_path: Path, call: str, backend: str
) -> None:
    """Weights are read that cannot be mapped; new rows need no cutting."""
    below = Path("/") if call == "tmpfile" else tmp_path
    source, net = load_net("tinyalexnet").folder, tmp_path / "net"
    net.mkdir()
    for file in source.iterdir():
        (net / file.name).write_bytes(file.read_bytes())
    command = _extract(devkit, tmp_path / "f.h5")
    command[command.index("tinyalexnet")] = net
    if call == "ftruncate":
        below = tmp_path / "f.h5.partial" / "test"
    done = _run(lacking, below, call, "ENODEV", *command, "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "offer" not in done.stderr


def test_weights_that_cannot_be_mapped_are_the_same(monkeypatch) -> None:
    path = weights_path(load_net("tinyalexnet"))
    mapped = read_weights(path)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", refused)
    for name, arrays in read_weights(path).items():
        for one, other in zip(arrays, mapped[name], strict=True):
            assert (one == other).all()


def test_inode_numbers_that_change_do_not_end_in_a_loop(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with files.lock(tmp_path / "lock", print):
        assert (tmp_path / "lock").read_text().startswith("process ")


def test_each_warning_comes_once(tmp_path: Path, monkeypatch, caplog) -> None:
    def refused(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(files, "_warned", set())
    for name in ("a", "b", "c"):
        files.write_whole(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert sorted(r.getMessage().split("offer ")[1][:10] for r in caplog.records) == [
        "fsync of f",
        "fsync of f",
    ]


def test_the_mount_is_the_nearest_one() -> None:
    assert mounts.file_system(Path("/proc/self/status")) == (
        "the file system proc at /proc"
    )
    assert mounts.file_system(Path("/procession")).endswith(" at /")
