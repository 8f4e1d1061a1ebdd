"""Run Caffe's own tests of the layers that a feature uses, on the device."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gtests import run_tests
from report import NotRunError, Section

HERE = Path(__file__).resolve().parent
# In the bundle, and in a checkout.
PROGRAMS = (
    HERE.parent / "bin" / "caffe_tests",
    HERE.parents[1] / "build" / "caffe" / "cuda" / "caffe_tests",
    HERE.parents[1] / "build" / "caffe" / "cpu" / "caffe_tests",
)


def run_caffe_tests(program: Path | None, device: str) -> Section:
    """Run the tests of one kind of device.

    Raises
    ------
    NotRunError
        If the test program is missing.
    """
    found = [path for path in ([program] if program else PROGRAMS) if path.is_file()]
    if not found:
        raise NotRunError(f"no {program or PROGRAMS[1]}; `make gpu-check` builds it")
    which = "cpu" if device == "cpu" else "gpu"
    number = "" if device == "cpu" else device.removeprefix("gpu:")
    with tempfile.TemporaryDirectory() as folder:
        run = run_tests(found[0], which, 1, folder=Path(folder), device=number)
    failed = run.failed or not run.passed
    return Section(
        "",
        "failed" if failed else "passed",
        run.log if failed else "",
        ["passed", "failed"],
        [[run.passed, run.failed]],
    )
