"""Extractions that are killed, or whose disk fails, at each operation in turn."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from faults import Ended, Extractions, build, environment

from campaigns.readers import Graph
from forked_commands import ForkedCommands

# What a run says that is no error.
_NEWS = ("runs on cpu", "left out")


@dataclass
class Bench:
    """A net that costs nothing, nine images with a bad one among them, and a disk."""

    extractions: Extractions
    net: Path
    images: Path
    disk: Path

    @property
    def path(self) -> Path:
        return self.disk / "f.h5"

    def run(
        self,
        *options: object,
        mode: str = "count",
        nth: int = 0,
        error: int = 0,
        split: str = "test",
    ) -> Ended:
        arguments = ["extract", "--net", self.net, "--data", self.images]
        arguments += ["--split", split, "--batch-size", 3, "--output", self.path]
        return self.extractions([*arguments, *options], mode, nth, error)

    def clear(self, *kept: bytes) -> None:
        """Leave nothing on the disk, or a finished file."""
        shutil.rmtree(self.disk)
        self.disk.mkdir()
        for content in kept:
            self.path.write_bytes(content)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    net, images = folder / "net", folder / "images"
    net.mkdir()
    images.mkdir()
    small = Graph()  # a net whose files are read and hashed in no time
    small.prepare(net)
    (net / "deploy.prototxt").write_bytes(small.seeds[0])
    names = [f"{i}.png" for i in range(9)]
    for i, name in enumerate(names):
        cv2.imwrite(str(images / name), np.full((70, 80, 3), 10 * i, np.uint8))
    (images / names[4]).write_bytes(b"")
    for split in ("test", "train"):
        (images / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as disk,
        Extractions(build(folder), Path(disk)) as extractions,
    ):
        (Path(disk) / "disk").mkdir()
        yield Bench(extractions, net, images, Path(disk) / "disk")


def _errors(ended: Ended) -> list[str]:
    lines = ended.stderr.splitlines()
    return [line for line in lines if not any(news in line for news in _NEWS)]


@dataclass
class Scene:
    """A run, what it finds, and the bytes that it and an interrupted one may leave."""

    options: tuple[str, ...]
    found: tuple[bytes, ...]
    expected: bytes
    n_operations: int


def _scene(bench: Bench, name: str) -> Scene:
    bench.clear()
    found: tuple[bytes, ...] = ()
    options: tuple[str, ...] = ()
    if name == "another split":
        assert bench.run(split="train").code == 0
        found = (bench.path.read_bytes(),)
    elif name == "overwrite":
        assert bench.run(split="train").code == 0
        found, options = (bench.path.read_bytes(),), ("--overwrite",)
        options += ("--temperature", "4")
    ended = bench.run(*options)
    assert ended.code == 0, ended.stderr
    assert ended.n_images == 8
    return Scene(options, found, bench.path.read_bytes(), ended.n_operations)


def _check_kept(bench: Bench, scene: Scene) -> None:
    """A file that has its name is whole."""
    if bench.path.exists():
        assert bench.path.read_bytes() in (*scene.found, scene.expected)
    else:
        assert not scene.found


def _check_goes_on(bench: Bench, scene: Scene, n_committed: int, where: str) -> None:
    """The same command ends in the same bytes, and does nothing twice."""
    ended = bench.run(*scene.options)
    assert ended.code == 0, (where, ended)
    assert bench.path.read_bytes() == scene.expected, where
    left = {p.name for p in bench.disk.iterdir()}
    assert left == {"f.h5", "f.h5.images"}, where
    if "--overwrite" not in scene.options:  # it starts anew each time
        assert ended.n_images <= 8 - n_committed, where


def _kill_everywhere(bench: Bench, name: str, mode: str) -> int:
    scene = _scene(bench, name)
    rng = random.Random(0)
    for nth in range(1, scene.n_operations + 1):
        bench.clear(*scene.found)
        first = bench.run(*scene.options, mode=mode, nth=nth)
        assert first.code == -9
        _check_kept(bench, scene)
        again = rng.randint(1, scene.n_operations)
        second = bench.run(*scene.options, mode=mode, nth=again)
        assert second.code in (0, -9), (nth, again, second)
        _check_kept(bench, scene)
        n_committed = first.n_committed + second.n_committed
        _check_goes_on(bench, scene, n_committed, f"killed at {nth}, then at {again}")
    return scene.n_operations


def test_killed_at_each_operation_and_again_while_going_on(bench: Bench) -> None:
    assert _kill_everywhere(bench, "fresh", "kill") > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fresh", "another split", "overwrite"])
@pytest.mark.parametrize("mode", ["kill", "tear"])
def test_killed_at_each_operation_of_any_work(
    bench: Bench, name: str, mode: str
) -> None:
    _kill_everywhere(bench, name, mode)


def _shards(bench: Bench, **fault: object) -> Ended:
    return bench.run("--shards", 2, **fault)  # type: ignore[arg-type]


def _contents(bench: Bench) -> dict[str, bytes]:
    files = (p for p in bench.path.rglob("*") if p.is_file())
    return {str(p.relative_to(bench.path)): p.read_bytes() for p in files}


def _check_shards_go_on(bench: Bench, expected: dict[str, bytes], where: str) -> None:
    """Files that have their names are whole, and the same command makes the others."""
    for name, content in _contents(bench).items():
        if name.endswith(".h5") and ".partial" not in name:
            assert content == expected[name], where
    ended = _shards(bench)
    assert ended.code == 0, (where, ended)
    assert _contents(bench) == expected, where


_SOME_OR_ALL = pytest.mark.parametrize(
    "n_places", [8, pytest.param(10**9, marks=pytest.mark.slow)]
)


def _places(n_operations: int, n_places: int) -> list[int]:
    """Choose operations to fail at: some of them, or all."""
    places = range(1, n_operations + 1)
    return random.Random(0).sample(places, min(n_places, n_operations))


@_SOME_OR_ALL
def test_shards_killed_at_an_operation_and_again(bench: Bench, n_places: int) -> None:
    bench.clear()
    n_operations = _shards(bench).n_operations
    expected = _contents(bench)
    assert sorted(expected) == ["manifest.json", "shards/00000.h5", "shards/00001.h5"]
    rng = random.Random(1)
    for nth in _places(n_operations, n_places):
        bench.clear()
        assert _shards(bench, mode="kill", nth=nth).code == -9
        again = rng.randint(1, n_operations)
        assert _shards(bench, mode="kill", nth=again).code in (0, -9)
        _check_shards_go_on(bench, expected, f"killed at {nth}, then at {again}")


@_SOME_OR_ALL
def test_shards_on_a_disk_that_is_full_from_an_operation_on(
    bench: Bench, n_places: int
) -> None:
    bench.clear()
    n_operations = _shards(bench).n_operations
    expected = _contents(bench)
    for nth in _places(n_operations, n_places):
        bench.clear()
        ended = _shards(bench, mode="full", nth=nth, error=errno.ENOSPC)
        assert ended.code in (0, 2), (nth, ended)
        if ended.code == 2:
            (line,) = _errors(ended)
            assert "cannot be written: No space left on device" in line, nth
        _check_shards_go_on(bench, expected, f"full from {nth} on")


def _fail_everywhere(bench: Bench, name: str, mode: str, error: int) -> None:
    scene = _scene(bench, name)
    codes = []
    for nth in range(1, scene.n_operations + 1):
        bench.clear(*scene.found)
        ended = bench.run(*scene.options, mode=mode, nth=nth, error=error)
        codes.append(ended.code)
        assert ended.code in (0, 2), (nth, ended)
        if ended.code == 2:
            (line,) = _errors(ended)
            assert line.startswith("fishing: "), (nth, line)
            assert os.strerror(error) in line, (nth, line)
        else:  # what could not be removed is removed next time
            assert bench.path.read_bytes() == scene.expected
        _check_kept(bench, scene)
        _check_goes_on(bench, scene, ended.n_committed, f"{mode} from {nth} on")
    assert codes.count(2) > 50


def test_a_disk_that_is_full_from_each_operation_on(bench: Bench) -> None:
    _fail_everywhere(bench, "fresh", "full", errno.ENOSPC)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fresh", "another split", "overwrite"])
@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("full", errno.ENOSPC),
        ("full", errno.EDQUOT),
        ("lost", errno.EIO),
        ("once", errno.EIO),
        ("lost", errno.EROFS),
    ],
)
def test_a_disk_that_fails_at_each_operation(
    bench: Bench, name: str, mode: str, error: int
) -> None:
    _fail_everywhere(bench, name, mode, error)


def _command(data: Path, path: Path, backend: str = "onnx") -> list[str]:
    command = [sys.executable, "-m", "fishing", "extract", "--net", "tinyalexnet"]
    command += ["--data", str(data), "--split", "trainval", "--backend", backend]
    return [*command, "--batch-size", "5", "--output", str(path)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["caffe", "onnx"])
def test_both_backends_are_killed(devkit: Path, tmp_path: Path, backend: str) -> None:
    library = build(tmp_path)
    subprocess.run(_command(devkit, tmp_path / "whole.h5", backend), check=True)
    disk = tmp_path / "disk"
    nth, code = 0, -9
    while code == -9:
        nth += 6
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        command = _command(devkit, disk / "f.h5", backend)
        fault = environment(library, disk, "kill", nth)
        code = subprocess.run(command, env=fault, stderr=subprocess.DEVNULL).returncode
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        assert (disk / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert code == 0
    assert nth > 50


@pytest.fixture(scope="module")
def whole(
    forked: ForkedCommands, devkit: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "f.h5"
    _, _, _, *arguments = _command(devkit, path)
    subprocess.run([forked.fishing, *arguments], check=True)
    return path.read_bytes()


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))


def test_files_that_may_not_grow(whole: bytes, devkit: Path, tmp_path: Path) -> None:
    """Let the system refuse a real run to write more than a few batches."""
    command = _command(devkit, tmp_path / "f.h5")
    done = subprocess.run(command, capture_output=True, preexec_fn=_limit_file_size)
    assert done.returncode == 2
    assert b"f.h5 cannot be written: File too large; once that is mended" in done.stderr
    assert done.stderr.count(b"\n") == 2  # with the line that says what runs
    subprocess.run(command, check=True)
    assert (tmp_path / "f.h5").read_bytes() == whole


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=2m tmpfs "$DISK" || exit 99
head -c 1700000 /dev/zero > "$DISK/other"
"$@"
echo "code $?"
ls "$DISK"
rm "$DISK/other"
"$@" && cp "$DISK/f.h5" "$WHOLE"
"""


def test_a_small_disk(whole: bytes, devkit: Path, tmp_path: Path) -> None:
    """Fill a disk of 2 MB, and make room on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", _ON_A_SMALL_DISK]
    done = subprocess.run(
        [*command, "sh", *_command(devkit, disk / "f.h5")],
        env={**os.environ, "DISK": str(disk), "WHOLE": str(tmp_path / "f.h5")},
        capture_output=True,
        text=True,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("this system lets nobody mount a disk")
    assert "code 2\nf.h5.partial\nother\n" in done.stdout, done
    assert done.stderr.count("cannot be written: No space left on device;") == 1
    assert (tmp_path / "f.h5").read_bytes() == whole


def test_a_second_run_is_refused_and_a_dead_one_is_not_waited_for(
    whole: bytes, devkit: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.h5"
    first = subprocess.Popen(_command(devkit, path), stderr=subprocess.PIPE)
    journal = tmp_path / "f.h5.partial" / "trainval.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert first.poll() is None
    os.kill(first.pid, 19)  # SIGSTOP: it holds the lock for as long as we like
    second = subprocess.run(_command(devkit, path), capture_output=True, text=True)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    holder = f"process {first.pid} on {socket.gethostname()}"
    assert f"found that {holder} writes there" in second.stderr
    first.kill()
    first.communicate()
    assert holder in (journal.parent / "lock").read_text()
    subprocess.run(_command(devkit, path), check=True)
    assert path.read_bytes() == whole
