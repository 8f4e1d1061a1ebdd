"""How many threads there are: affinity, quotas, OMP_NUM_THREADS, joblib, --threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
from threadpoolctl import threadpool_info

import fishing
from conftest import ROOT, make_split
from fishing import TraceKernel, processes
from fishing.errors import FishingError
from fishing.processes import (
    blas_threads,
    in_threads,
    opencv_threads,
    thread_environment,
    usable_cores,
    use_threads,
)
from fishing.quotas import quota_cores

MANY = 64


@pytest.fixture(autouse=True)
def _chosen() -> Iterator[None]:
    yield
    use_threads(None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be on 64 cores without limits."""
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))
    monkeypatch.setattr(processes, "quota_cores", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


V2 = "cgroup2 cgroup rw,nsdelegate"
V1 = "cgroup cgroup rw,cpu,cpuacct"


def _root(
    tmp_path: Path, cgroup: str, mounts: list[str], quotas: dict[str, str]
) -> Path:
    """Make the files from which a process learns of its quotas."""
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    lines = [
        f"{30 + i} 20 0:{i} {top} {folder} rw,nosuid shared:9 - {kind}\n"
        for i, (top, folder, kind) in enumerate(m.split(" ", 2) for m in mounts)
    ]
    (proc / "mountinfo").write_text(
        "20 1 8:1 / / rw - ext4 /dev/sda rw\n" + "".join(lines)
    )
    for name, text in quotas.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


FS = "sys/fs/cgroup"
CASES: dict[str, tuple[str, list[str], dict[str, str], int | None]] = {
    "no groups": ("", [], {}, None),
    "container": ("0::/\n", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "200000 100000\n"}, 2),
    "no quota": ("0::/\n", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "max 100000\n"}, None),
    "half a core": ("0::/", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "50000 100000"}, 1),
    "odd period": ("0::/", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "30000 20000"}, 2),
    "own group": (
        "0::/user.slice/job\n", [f"/ /{FS} {V2}"],
        {f"{FS}/user.slice/job/cpu.max": "300000 100000"}, 3,
    ),
    "group above": (
        "0::/a/b/c\n", [f"/ /{FS} {V2}"],
        {f"{FS}/a/b/c/cpu.max": "max 100000", f"{FS}/a/b/cpu.max": "800000 100000",
         f"{FS}/a/cpu.max": "500000 100000"}, 5,
    ),
    "own group is the least": (
        "0::/a/b\n", [f"/ /{FS} {V2}"],
        {f"{FS}/a/b/cpu.max": "400000 100000", f"{FS}/a/cpu.max": "900000 100000"}, 4,
    ),
    "host's name of the group": (
        "0::/docker/12ab\n", [f"/docker/12ab /{FS} {V2}"],
        {f"{FS}/cpu.max": "700000 100000"}, 7,
    ),
    "outside of the namespace": (
        "0::/../other\n", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "600000 100000"}, 6,
    ),
    "unmounted": ("0::/\n", [], {f"{FS}/cpu.max": "200000 100000"}, 2),
    "another place": (
        "0::/job\n", [rf"/ /mnt/my\040groups {V2}"],
        {"mnt/my groups/job/cpu.max": "200000 100000"}, 2,
    ),
    "version 1": (
        "4:cpu,cpuacct:/job\n3:memory:/\n", [f"/ /{FS}/cpu,cpuacct {V1}"],
        {f"{FS}/cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n",
         f"{FS}/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}, 3,
    ),
    "version 1 above": (
        "4:cpuacct,cpu:/a/b\n", [f"/ /{FS}/cpu {V1}"],
        {f"{FS}/cpu/a/b/cpu.cfs_quota_us": "-1",
         f"{FS}/cpu/a/b/cpu.cfs_period_us": "100000",
         f"{FS}/cpu/a/cpu.cfs_quota_us": "400000",
         f"{FS}/cpu/a/cpu.cfs_period_us": "100000"}, 4,
    ),
    "version 1 in a container": (
        "4:cpu,cpuacct:/docker/12ab\n", [f"/docker/12ab /{FS}/cpu {V1}"],
        {f"{FS}/cpu/cpu.cfs_quota_us": "150000",
         f"{FS}/cpu/cpu.cfs_period_us": "50000"}, 3,
    ),
    "both": (
        "4:cpu:/job\n0::/\n", [f"/ /{FS}/cpu {V1}", f"/ /{FS}/unified {V2}"],
        {f"{FS}/cpu/job/cpu.cfs_quota_us": "200000",
         f"{FS}/cpu/job/cpu.cfs_period_us": "100000"}, 2,
    ),
    "nonsense": ("a:b\n::::\n0::", ["/ / "], {f"{FS}/cpu.max": "many 0 \xff"}, None),
    "no period": ("0::/", [f"/ /{FS} {V2}"], {f"{FS}/cpu.max": "100000 0"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_quotas_of_control_groups(tmp_path: Path, name: str) -> None:
    cgroup, mounts, quotas, expected = CASES[name]
    assert quota_cores(_root(tmp_path, cgroup, mounts, quotas)) == expected


@pytest.mark.parametrize(
    ("affinity", "quota", "omp", "expected"),
    [
        (64, None, None, 64),
        (3, None, None, 3),
        (64, 5, None, 5),
        (64, None, "7", 7),
        (4, 5, "7", 4),
        (9, 5, "7", 5),
        (9, 8, "7", 7),
        (9, 8, "6,2", 6),
        (9, None, " 2 ", 2),
        (9, None, "0", 9),
        (9, None, "-1", 9),
        (9, None, "many", 9),
        (9, None, "", 9),
        (2, None, "64", 2),
    ],
)
def test_the_least_counts(
    machine, monkeypatch, affinity: int, quota: int | None, omp: str | None, expected
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr(processes, "quota_cores", lambda: quota)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert usable_cores() == expected
    use_threads(33)
    assert usable_cores() == 33


def test_a_system_without_affinity(machine, monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == MANY
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_fewer_than_one_thread_is_refused() -> None:
    for n in (0, -3):
        with pytest.raises(FishingError, match="1 thread or more"):
            use_threads(n)


def _blas_libraries() -> list[dict[str, Any]]:
    """List the loaded BLAS libraries.

    FAISS's is left out: by OpenMP it has a number for each thread, and it runs in the
    main thread alone.
    """
    found = (i for i in threadpool_info() if i["user_api"] == "blas")
    return [i for i in found if "faiss" not in i["filepath"]]


def _cores() -> tuple[int, int]:
    with blas_threads():
        most = max(i["num_threads"] for i in _blas_libraries())
    return usable_cores(), most


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
@pytest.mark.parametrize("n_jobs", [2, 4])
def test_workers_of_joblib_share_the_cores(
    monkeypatch, backend: str, n_jobs: int
) -> None:
    """No more threads than cores, or one for each worker if there are more workers."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with joblib.parallel_config(backend=backend):
        found = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_cores)() for _ in range(n_jobs)
        )
    n_cores = len(os.sched_getaffinity(0))
    for cores, blas in found:
        assert 1 <= cores <= max(1, n_cores // n_jobs)
        assert blas <= cores
    assert usable_cores() == min(n_cores, quota_cores() or n_cores)


def test_four_workers_of_a_grid_search_share_the_cores(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    split = make_split(np.random.default_rng(1), 40, labels=None)
    X, y = fishing.paired("dW7", split), np.arange(40) % 2
    search = GridSearchCV(
        *(SVC(kernel=TraceKernel("dW7")), {"C": [1, 3, 10, 30]}),
        scoring=lambda *_: _cores()[1],
        cv=2,
        n_jobs=4,
        error_score="raise",
    ).fit(X, y)
    most = max(1, len(os.sched_getaffinity(0)) // 4)
    assert search.cv_results_["mean_test_score"].max() <= most


def test_pools_are_of_that_size(machine) -> None:
    use_threads(3)
    names: set[str] = set()
    barrier = threading.Barrier(3)

    def work(_: int) -> None:
        barrier.wait(20)
        names.add(threading.current_thread().name)

    in_threads(work, range(6))
    assert len(names) == 3


def _blas() -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return [i["num_threads"] for i in _blas_libraries()]


def test_blas_heeds_the_number_and_gets_its_own_back() -> None:
    import scipy.linalg.blas  # noqa: F401 - it has a BLAS of its own

    before = _blas()
    for n in (1, 2):
        use_threads(n)
        with blas_threads():
            assert max(_blas()) == n  # a library may be able to do fewer
            with blas_threads():
                assert max(_blas()) == n
            assert max(_blas()) == n
        assert _blas() == before


def test_blas_gets_its_number_back_from_many_threads() -> None:
    use_threads(1)
    before, barrier, found = _blas(), threading.Barrier(4), []

    def work() -> None:
        for _ in range(20):
            barrier.wait(20)
            with blas_threads():
                found.append(set(_blas()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 80 * [{1}]
    assert _blas() == before


def test_what_the_user_set_for_blas_is_not_raised(machine) -> None:
    script = (
        "import numpy, os\n"
        "from threadpoolctl import threadpool_info\n"
        "from fishing.processes import blas_threads\n"
        "with blas_threads():\n"
        "    print({i['num_threads'] for i in threadpool_info()})"
    )
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    variables.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True
    )
    assert done.stdout == "{1}\n", done.stderr


def test_opencv_gets_its_number_back() -> None:
    import cv2

    before = cv2.getNumThreads()
    with opencv_threads(1):
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before


def test_every_library_gets_the_number(monkeypatch, tmp_path: Path, devkit) -> None:
    """Ask each library, and each child, how many threads it was given."""
    import onnxruntime
    import openvino

    from fishing.backends.caffe import backend as caffe
    from fishing.extract import extract
    from fishing.images import read_splits
    from fishing.nets import load_net
    from fishing.store import ExtractionSettings

    use_threads(3)
    given: dict[str, Any] = {"caffe": []}
    session = onnxruntime.InferenceSession
    start, core = caffe.start_python, openvino.Core

    def open_session(model: Any, options: Any, *rest: Any, **more: Any) -> Any:
        given["onnx"] = options.intra_op_num_threads
        return session(model, options, *rest, **more)

    class Core:
        def __getattr__(self, name: str) -> Any:
            return getattr(core(), name)

        def compile_model(self, model: Any, device: str, settings: Any) -> Any:
            given["openvino"] = settings["INFERENCE_NUM_THREADS"]
            return core().compile_model(model, device, settings)

    def started(work: Any, *, environment: dict[str, str], **streams: Any) -> Any:
        given["caffe"].append(environment["OPENBLAS_NUM_THREADS"])
        return start(work, environment=environment, **streams)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr(caffe, "start_python", started)
    for backend in ("onnx", "openvino", "caffe"):
        settings = ExtractionSettings(load_net("tinyalexnet"), backend)
        extract(settings, read_splits(devkit, ["test"]), tmp_path / f"{backend}.h5")
    assert given == {"onnx": 3, "openvino": 3, "caffe": ["1"] * 3}


def test_readers_of_images_are_as_many(monkeypatch, devkit, tmp_path: Path) -> None:
    import cv2

    from fishing.extract import extract, read_ahead
    from fishing.images import read_splits
    from fishing.nets import load_net
    from fishing.store import ExtractionSettings

    sizes: list[tuple[int, int]] = []
    pool = read_ahead.ThreadPoolExecutor

    def counted(max_workers: int, **options: Any) -> Any:
        sizes.append((max_workers, cv2.getNumThreads()))
        return pool(max_workers, **options)

    monkeypatch.setattr(read_ahead, "ThreadPoolExecutor", counted)
    settings = ExtractionSettings(load_net("tinyalexnet"), "onnx")
    for n, expected in ((1, 1), (5, 5), (99, 8)):
        use_threads(n)
        extract(settings, read_splits(devkit, ["test"]), tmp_path / f"{n}.h5")
        assert sizes[-1][0] == expected


def test_every_command_that_computes_has_the_option() -> None:
    from fishing.cli.main import main

    without = {
        name
        for name, command in main.commands.items()
        if "threads" not in {option.name for option in command.params}
    }
    assert without == {"fetch", "import", "export", "photographs"}


_COUNTED = """
import sys, threading, time
from pathlib import Path
most = [0]
def watch():
    while True:
        most[0] = max(most[0], len(list(Path("/proc/self/task").iterdir())))
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
from fishing.cli.main import main
try:
    main(sys.argv[1:], prog_name="fishing")
finally:
    print("most", most[0], file=sys.stderr)
"""


def _most_threads(*arguments: object, **variables: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", _COUNTED, *map(str, arguments)],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_run_has_no_more_threads_than_told(devkit, tmp_path: Path, backend) -> None:
    """Beside those that compute, there are the watch and a few that wait."""
    command = ["extract", "--net", "tinyalexnet", "--data", devkit, "--split", "test"]
    command += ["--backend", backend, "--output"]
    one = _most_threads(*command, tmp_path / "1.h5", "--threads", 1)
    many = _most_threads(*command, tmp_path / "9.h5", "--threads", 9)
    by_omp = _most_threads(*command, tmp_path / "o.h5", OMP_NUM_THREADS="1")
    assert one < 9 <= many
    assert by_omp <= one


def test_rows_do_not_depend_on_threads(rng) -> None:
    from fishing import gram

    split = make_split(rng, 40, width=64)
    found = []
    for n in (1, 2, 5):
        use_threads(n)
        found.append(gram("dW7", split))
    for K in found[1:]:
        np.testing.assert_allclose(K, found[0], rtol=0, atol=1e-6)


def test_children_are_told_in_every_way() -> None:
    names = set(thread_environment(3))
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} <= names
    assert set(thread_environment(3).values()) == {"3"}
