"""Run the program of Caffe's own tests in shards, and count what passed and failed.

This needs only the standard library and nothing of the build, because a bundle contains
only the program.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# The names of tests of a type and a device end in a number; 2 and 3 stand for the GPU.
_ON_GPU = "*GPU*:*/2.*:*/3.*"
#: Filters of GTest: all tests of a CPU build, and of a GPU build those that need no
#: GPU, those that need one, and all. TestBrewMode leaves a GPU build in GPU mode.
FILTERS = {
    "cpu build": "-*GPU*",
    "cpu": f"-{_ON_GPU}:CommonTest.TestBrewMode",
    "gpu": _ON_GPU,
    "all": "*",
}


class TestRun(NamedTuple):
    """How a run of tests ended; `log` is the output of failed tests, or a summary."""

    passed: int
    failed: int
    log: str


def run_tests(
    program: Path, which: str, shards: int, *, folder: Path, device: str = ""
) -> TestRun:
    """Run tests in several processes at the same time.

    Parameters
    ----------
    program : Path
    which : str
        A key of `FILTERS`.
    shards : int
        The number of processes.
    folder : Path
        The folder in which the tests look for their data.
    device : str
        The number of the GPU, unless it is the first.
    """

    def run(index: int, temporary: str) -> tuple[int, str]:
        # Each process uses one BLAS thread, since there is a process for every core.
        sharding = {"GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(index)}
        result = subprocess.run(
            [
                program,
                f"--gtest_filter={FILTERS[which]}",
                *([device] if device else []),
            ],
            cwd=folder,
            env={
                **os.environ,
                **sharding,
                "OPENBLAS_NUM_THREADS": "1",
                "TMPDIR": temporary,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return result.returncode, result.stdout

    # The tests leave their files behind.
    with (
        tempfile.TemporaryDirectory() as temporary,
        ThreadPoolExecutor(shards) as pool,
    ):
        results = list(pool.map(run, range(shards), [temporary] * shards))
    passed = failed = 0
    logs = []
    for code, text in results:
        good, bad = count_tests(text, code)
        passed, failed = passed + good, failed + bad
        summary = re.findall(r"^(?:\[=+\] .* ran.*|\[  PASSED  \].*)", text, re.M)
        logs.append(text[-20000:] if bad else "\n".join(summary))
    return TestRun(passed, failed, "\n".join(logs))


def count_tests(text: str, code: int) -> tuple[int, int]:
    """Count (passed, failed) in a gtest log; a crash is one more failure."""
    passed = len(re.findall(r"^\[       OK \]", text, re.M))
    failed = len(re.findall(r"^\[  FAILED  \] .*\(\d+ ms\)$", text, re.M))
    if not failed and (code or not re.search(r"^\[  PASSED  \]", text, re.M)):
        failed = 1
    return passed, failed
