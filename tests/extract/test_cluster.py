"""Extraction by the workers of a Dask cluster on the loopback, which are processes."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import cv2
import dask
import distributed
import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from extract.dask_processes import DaskProcesses
from fishing.cli.main import main
from fishing.errors import FishingError, InUseError, StoreError
from fishing.extract import (
    Extracted,
    cluster,
    dask_client,
    extract,
    extract_on_cluster,
    extract_shards,
)
from fishing.images import ImageList, read_splits
from fishing.nets import load_net
from fishing.processes import use_threads
from fishing.store import ExtractionSettings, FeaturesFile, read_manifest, shard_path

SETTINGS = ExtractionSettings(load_net("tinyalexnet"))
SPLITS = ("trainval", "test")
N_SHARDS, BATCH_SIZE = 4, 3
Run = Callable[..., list[Extracted]]
Popen: TypeAlias = "subprocess.Popen[bytes]"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    use_threads(1)
    yield
    use_threads(None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of 150 + 30 images in two classes; some cannot be read."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, n in (("trainval", 150), ("test", 30)):
        for i in range(n):
            path = folder / split / ("cat" if i % 2 else "dog") / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (66, 70, 3), dtype=np.uint8))
            if i % 50 == 2:
                path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def lists(photos: Path) -> list[ImageList]:
    return read_splits(photos, SPLITS)


@pytest.fixture(scope="module")
def expected(lists: list[ImageList], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the same shards by this process alone."""
    folder = tmp_path_factory.mktemp("expected") / "features"
    extract_shards(SETTINGS, lists, folder, N_SHARDS, batch_size=BATCH_SIZE)
    return folder


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    with DaskProcesses(tmp_path_factory.mktemp("dask"), 2) as processes:
        yield processes


@pytest.fixture
def run(lists: list[ImageList], tmp_path: Path) -> Run:
    """Extract into the folder `f`."""

    def run(scheduler: object, **options: Any) -> list[Extracted]:
        return extract_on_cluster(
            *(SETTINGS, lists, tmp_path / "f", N_SHARDS, str(scheduler)),
            **{"batch_size": BATCH_SIZE, **options},
        )

    return run


def _command(photos: Path, output: Path, scheduler: object) -> list[str]:
    words = [sys.executable, "-m", "fishing", "extract", "--net", "tinyalexnet"]
    words += ["--data", str(photos), "--output", str(output), "--threads", "1"]
    words += [word for split in SPLITS for word in ("--split", split)]
    words += ["--batch-size", str(BATCH_SIZE), "--shards", str(N_SHARDS)]
    return [*words, "--scheduler", str(scheduler)]


def _check_same(folder: Path, expected: Path) -> None:
    """All files have the same bytes, and there are no others."""
    files = {p.relative_to(expected) for p in expected.rglob("*")}
    assert {p.relative_to(folder) for p in folder.rglob("*")} == files
    for file in files:
        one, other = expected / file, folder / file
        assert one.is_dir() or one.read_bytes() == other.read_bytes(), file


def _when_busy(folder: Path, process: Popen) -> Path:
    """Wait until a worker has written rows; return the path of its shard."""
    while process.poll() is None:
        for journal in folder.glob("shards/*.h5.partial/*.journal"):
            if journal.exists() and journal.stat().st_size > 500:
                return journal.parent.with_suffix("")
    raise AssertionError(f"{process.args!r} has ended")


def test_rows_have_the_bytes_of_a_single_run(
    two_workers: DaskProcesses,
    run: Run,
    lists: list[ImageList],
    expected: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[str, int, int | None, str]] = []
    with caplog.at_level(logging.INFO, "fishing"):
        outcome = run(two_workers.file, progress=lambda *report: told.append(report))
    assert outcome == [
        Extracted("trainval", 150, 3, was_there=False),
        Extracted("test", 30, 1, was_there=False),
    ]
    assert caplog.text.count("empty file; left out") == 4  # of all workers
    _check_same(tmp_path / "f", expected)
    extract(SETTINGS, lists, tmp_path / "one.h5", batch_size=BATCH_SIZE)
    with FeaturesFile(tmp_path / "f") as file, FeaturesFile(tmp_path / "one.h5") as one:
        for name in SPLITS:
            assert file[name].image_id == one[name].image_id
            for blob, rows in one[name].blobs.items():
                assert file[name].blobs[blob][:].tobytes() == rows[:].tobytes()
    # One bar for all.
    assert {(label, total, unit) for label, _, total, unit in told} == {
        ("f", 180, "images")
    }
    counts = [done for _, done, _, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == 180


def test_what_is_there_and_whole_is_left_alone(
    two_workers: DaskProcesses, run: Run, expected: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(expected, tmp_path / "f"))
    shard_path(folder, 1).unlink()
    shard_path(folder, 2).write_bytes(shard_path(folder, 0).read_bytes())
    times = [shard_path(folder, i).stat().st_mtime_ns for i in (0, 3)]
    assert not run(two_workers.file)[0].was_there
    _check_same(folder, expected)
    assert [shard_path(folder, i).stat().st_mtime_ns for i in (0, 3)] == times
    assert all(one.was_there for one in run(two_workers.file))


def test_a_worker_with_other_threads_is_refused(
    two_workers: DaskProcesses, run: Run
) -> None:
    use_threads(2)
    try:
        with pytest.raises(
            StoreError,
            match=rf"^worker tcp://127\.0\.0\.1:\d+ on {os.uname().nodename}: .* made "
            r"with another threads: expected 1, found 2",
        ):
            run(two_workers.file)
    finally:
        use_threads(1)


@contextmanager
def _joined(processes: DaskProcesses, **options: Any) -> Iterator[Popen]:
    """Have another worker join for a while."""
    n = processes.n_registered()
    worker = processes.start_worker(**options)
    while processes.n_registered() == n:
        assert worker.poll() is None
        time.sleep(0.05)
    yield worker
    worker.kill()
    worker.wait()


def test_a_worker_with_another_library_is_refused(
    two_workers: DaskProcesses, run: Run, expected: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "numpy-0.0.1.dist-info"
    other.mkdir(parents=True)
    text = "Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1"
    (other / "METADATA").write_text(text)
    path = f"{other.parent}:{os.environ.get('PYTHONPATH', '')}"
    with (
        _joined(two_workers, environment={"PYTHONPATH": path}),
        pytest.raises(StoreError, match=r"^worker .* numpy: expected 0\.0\.1, found"),
    ):
        run(two_workers.file)
    # The folder is sound, and the other workers go on.
    run(two_workers.file)
    _check_same(tmp_path / "f", expected)


def test_another_batch_size_is_refused(two_workers: DaskProcesses, run: Run) -> None:
    run(two_workers.file)
    with pytest.raises(StoreError, match="another batch_size: expected 5, found 3"):
        run(two_workers.file, batch_size=5)


def test_a_second_client_is_refused_and_a_killed_one_is_not_in_the_way(
    two_workers: DaskProcesses, run: Run, photos: Path, expected: Path, tmp_path: Path
) -> None:
    first = subprocess.Popen(_command(photos, tmp_path / "f", two_workers.file))
    while not (lock := tmp_path / "f" / "client.lock").exists() or not lock.read_text():
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(InUseError, match=rf"found that process {first.pid} on"):
        run(two_workers.file)
    first.kill()
    first.wait()
    run(two_workers.file)
    _check_same(tmp_path / "f", expected)


def test_workers_may_come_later_and_the_first_says_how_many_threads(
    run: Run, expected: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DaskProcesses(tmp_path) as processes, caplog.at_level(logging.INFO, "fishing"):

        def start() -> None:
            while "waiting for a worker" not in caplog.text:
                time.sleep(0.1)
            processes.start_worker(threads=2)

        starter = Thread(target=start)
        starter.start()
        use_threads(None)
        try:
            run(processes.file)
        finally:
            use_threads(1)
        starter.join()
    assert read_manifest(tmp_path / "f").run["threads"] == 2
    with FeaturesFile(tmp_path / "f") as file, FeaturesFile(expected) as other:
        assert file["test"].image_id == other["test"].image_id


@pytest.mark.parametrize(
    ("scheduler", "found"),
    [
        (
            "tcp://127.0.0.1:9",
            "expected a Dask scheduler at tcp://127.0.0.1:9, found: ",
        ),
        ("tls://127.0.0.1:9", "TLS expects"),
        ("post://127.0.0.1:9", "unknown address scheme 'post'"),
        ("missing.json", "found 'missing.json', which is none of these"),
        ("broken.json", "found 'broken.json', which is none of these"),
    ],
)
def test_a_scheduler_that_is_not_there_is_named_in_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
    found: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('{"workers": {}}')
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(FishingError) as error,
    ):
        run(scheduler)
    assert found in str(error.value)
    assert not (tmp_path / "f").exists()


def test_a_killed_worker_costs_what_was_in_flight(
    two_workers: DaskProcesses, run: Run, expected: Path, tmp_path: Path
) -> None:
    others = list(two_workers.workers)
    with _joined(two_workers) as worker:

        def kill() -> None:
            _when_busy(tmp_path / "f", worker)
            worker.kill()
            for other in others:
                other.send_signal(signal.SIGCONT)

        for other in others:
            other.send_signal(signal.SIGSTOP)
        killer = Thread(target=kill)
        killer.start()
        run(two_workers.file)
        killer.join()
        assert worker.wait() == -signal.SIGKILL
    _check_same(tmp_path / "f", expected)


def test_a_killed_scheduler_ends_the_run_in_one_line(
    photos: Path, run: Run, expected: Path, tmp_path: Path
) -> None:
    with DaskProcesses(tmp_path, 1) as processes:
        command = _command(photos, tmp_path / "f", processes.file)
        client = subprocess.Popen(command, stderr=subprocess.PIPE)
        _when_busy(tmp_path / "f", client)
        processes.workers[0].send_signal(signal.SIGSTOP)
        processes.scheduler.kill()
        _, stderr = client.communicate()
        assert client.returncode == 2
        *_, line = stderr.decode().splitlines()
        assert line.startswith(
            "fishing: expected the Dask scheduler to stay, found that"
        )
        assert b"Traceback" not in stderr
        processes.workers[0].kill()
        processes.start_scheduler()
        processes.start_worker()
        run(processes.file)
    _check_same(tmp_path / "f", expected)


def test_a_full_disk_of_one_worker_is_named(
    two_workers: DaskProcesses, run: Run, expected: Path, tmp_path: Path
) -> None:
    with (
        _joined(two_workers, shell="ulimit -f 400"),  # KiB
        pytest.raises(StoreError, match=r"^worker tcp://.*: .*File too large"),
    ):
        run(two_workers.file)
    run(two_workers.file)
    _check_same(tmp_path / "f", expected)


def test_a_shard_of_another_process_is_waited_for(
    two_workers: DaskProcesses,
    run: Run,
    photos: Path,
    expected: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = _command(photos, tmp_path / "f", "")[:-2]
    other = subprocess.Popen([*command, "--shard", "0"])
    assert _when_busy(tmp_path / "f", other).name == "00000.h5"
    other.send_signal(signal.SIGSTOP)

    def go_on() -> None:
        while "it is tried again" not in caplog.text:
            time.sleep(0.1)
        other.send_signal(signal.SIGCONT)

    waker = Thread(target=go_on)
    waker.start()
    run(two_workers.file)
    waker.join()
    assert other.wait() == 0
    assert f"process {other.pid} on" in caplog.text
    _check_same(tmp_path / "f", expected)


class _Broken(ImageList):
    """A list that no worker can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_an_unknown_error_is_named_after_some_attempts(
    two_workers: DaskProcesses,
    lists: list[ImageList],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_MOST_FAILURES", 1)
    one = lists[1]
    broken = _Broken(one.split, one.image_id, one.path, one.classes, one.labels)
    with pytest.raises(FishingError, match=r"expected shard 0 of .* 2 times in a row"):
        extract_on_cluster(SETTINGS, [broken], tmp_path / "f", 1, str(two_workers.file))


def test_tls_is_taken_from_the_configuration_of_dask(
    photos: Path, expected: Path, tmp_path: Path
) -> None:
    _make_certificate(tmp_path)
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "tls.yaml").write_text(
        "distributed:\n  comm:\n    require-encryption: true\n    tls:\n"
        f"      ca-file: {tmp_path}/ca.pem\n"
        + "".join(
            f"      {role}: {{cert: {tmp_path}/node.pem, key: {tmp_path}/node.key}}\n"
            for role in ("scheduler", "worker", "client")
        )
    )
    tls = {"DASK_CONFIG": str(tmp_path / "dask")}
    options = ("--protocol", "tls")
    with DaskProcesses(tmp_path, 1, options, environment=tls) as processes:
        assert '"tls://127.0.0.1:' in processes.file.read_text()
        command = _command(photos, tmp_path / "f", processes.file)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "TLS expects" in done.stderr
        assert not (tmp_path / "f").exists()
        done = subprocess.run(
            command, env={**os.environ, **tls}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    _check_same(tmp_path / "f", expected)


def _make_certificate(folder: Path) -> None:
    """Make an authority, and a certificate of its for all."""

    def openssl(*words: object) -> None:
        command = ["openssl", *map(str, words)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"
    )
    openssl("req", *new, "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2)
    openssl("x509", "-req", "-in", "node.csr", *signed, "-out", "node.pem")


def test_a_local_cluster_listens_on_the_loopback_and_leaves_nothing(
    photos: Path, expected: Path, tmp_path: Path
) -> None:
    command = _command(photos, tmp_path / "f", "local")
    client = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    _when_busy(tmp_path / "f", client)
    client.send_signal(signal.SIGSTOP)
    here = psutil.Process(client.pid)
    processes = [here, *here.children(recursive=True)]
    assert len(processes) > 1
    listening = {
        socket.laddr.ip
        for process in processes
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    client.send_signal(signal.SIGCONT)
    os.killpg(client.pid, signal.SIGINT)
    _, stderr = client.communicate()
    assert client.returncode == 130
    assert stderr.decode().endswith(
        "fishing: interrupted; run the same command again\n"
    )
    assert b"Traceback" not in stderr
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _check_same(tmp_path / "f", expected)


@pytest.mark.parametrize(
    ("threads", "n_shards", "device", "expected"),
    [
        (None, 64, "cpu", (8, 1)),
        (2, 64, "cpu", (4, 2)),
        (3, 64, "cpu", (2, 3)),
        (9, 64, "cpu", (1, 9)),
        (2, 3, "cpu", (3, 2)),
        (2, 64, "gpu:0", (1, 2)),
    ],
)
def test_local_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    threads: int | None,
    n_shards: int,
    device: str,
    expected: tuple[int, int],
) -> None:
    asked: dict[str, Any] = {}

    def local_cluster(**options: Any) -> None:
        asked.update(options)
        raise OSError("too many processes")

    monkeypatch.setattr(distributed, "LocalCluster", local_cluster)
    monkeypatch.setattr(dask_client, "system_cores", lambda: 8)
    use_threads(threads)
    try:
        with (
            pytest.raises(FishingError, match="found: too many processes"),
            dask_client.open_client("local", n_shards, device),
        ):
            pass
    finally:
        use_threads(1)
    assert (asked["n_workers"], asked["threads_per_worker"]) == expected


def test_options_that_do_not_go_together(photos: Path, tmp_path: Path) -> None:
    base = ["extract", "--net", "tinyalexnet", "--data", str(photos)]
    for options, message in (
        (["--scheduler", "local"], "--scheduler needs --shards"),
        (
            ["--scheduler", "local", "--shards", "2", "--shard", "1"],
            "leave out --shard",
        ),
    ):
        output = ["--output", str(tmp_path / "f")]
        done = CliRunner().invoke(main, [*base, *options, *output])
        assert done.exit_code == 2
        assert message in done.output
