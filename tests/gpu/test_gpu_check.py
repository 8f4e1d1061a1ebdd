"""Tests of the GPU check, with the CPU as the device under test."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from fishing.errors import BackendError
from fishing.nets import BLOBS


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("caffe_patch", "tests/gpu"):
        monkeypatch.syspath_prepend(ROOT / folder)


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _blobs(rng: np.random.Generator, n: int = 8) -> dict[str, Any]:
    """Make blobs in which x6 and x7 look like outputs of a ReLU."""
    blobs = {b: rng.normal(size=(n, 50)).astype(np.float32) for b in BLOBS}
    for name in ("forward/x6", "forward/x7"):
        blobs[name] = np.maximum(blobs[name], 0)
    return blobs


def test_equal_blobs_agree(rng) -> None:
    blobs = _blobs(rng)
    section = _module("agreement").compare(blobs, blobs)
    assert section.status == "passed"
    assert [row[0] for row in section.rows] == list(BLOBS)


@pytest.mark.parametrize("name", BLOBS)
@pytest.mark.parametrize(("size", "status"), [(5e-5, "passed"), (2e-4, "failed")])
def test_differences_are_held_to_the_tolerance(rng, name, size, status) -> None:
    blobs = _blobs(rng)
    other = {**blobs, name: blobs[name].copy()}
    row = np.unravel_index(blobs[name].argmax(), blobs[name].shape)
    other[name][row] *= 1 + size
    blobs[name][row] = np.abs(blobs[name]).max()
    other[name][row] = blobs[name][row] * (1 + size)
    assert _module("agreement").compare(blobs, other).status == status


def test_a_sign_an_order_and_nan_are_seen(rng) -> None:
    compare, blobs = _module("agreement").compare, _blobs(rng)
    fc8 = blobs["backward/y8"]
    for wrong in (-fc8, fc8[::-1], fc8 * np.nan):
        assert compare(blobs, {**blobs, "backward/y8": wrong}).status == "failed"


def test_gradients_behind_a_relu_that_flips_are_left_out(rng) -> None:
    compare, a = _module("agreement").compare, _blobs(rng)
    b = {name: blob.copy() for name, blob in a.items()}
    b["forward/x7"][3, a["forward/x7"][3].argmin()] = 1e-6
    b["backward/y6"][3] += 1
    assert compare(a, b).status == "passed"
    b["forward/x7"][:, 0] = np.where(a["forward/x7"][:, 0] > 0, 0, 1e-6)
    assert compare(a, b).status == "failed"  # not in so many images


def test_the_report_says_all_there_is(tmp_path: Path) -> None:
    report = _module("report")
    sections = [
        report.Section("One", "passed", "a reason", ["x", "y"], [[1, "2 %"]]),
        report.Section("Two", "failed", "line 1\nline 2\n", [], []),
    ]
    record = {
        "machine": {"device": "gpu:0"},
        "sections": [section._asdict() for section in sections],
    }
    paths = report.write_report(record, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.md", "report.json"]
    assert json.loads(paths[1].read_text()) == record
    assert paths[0].read_text() == (
        "# GPU check\n\n- device: gpu:0\n\n## One: passed\n\na reason\n\n"
        "| x | y |\n| --- | --- |\n| 1 | 2 % |\n\n"
        "## Two: failed\n\n```\nline 1\nline 2\n```\n"
    )


PROGRAM = """#!/bin/sh
echo "$@" >> {log}
echo '[       OK ] A/2.a (0 ms)'
{more}
"""


@pytest.mark.parametrize(
    ("more", "status", "counts"),
    [
        ("echo '[  PASSED  ] 1 test.'", "passed", [1, 0]),
        ("echo '[  FAILED  ] A/2.b (3 ms)'; exit 1", "failed", [1, 1]),
        ("kill -ABRT $$", "failed", [1, 1]),
    ],
)
def test_caffes_tests_run_on_the_device(tmp_path: Path, more, status, counts) -> None:
    program, log = tmp_path / "caffe_tests", tmp_path / "log"
    program.write_text(PROGRAM.format(log=log, more=more))
    program.chmod(0o755)
    section = _module("caffe_tests").run_caffe_tests(program, "gpu:1")
    assert (section.status, section.rows) == (status, [counts])
    assert log.read_text() == "--gtest_filter=*GPU*:*/2.*:*/3.* 1\n"


def test_steps_that_cannot_run_are_named() -> None:
    check, report = _module("check"), _module("report")

    def not_here() -> None:
        raise report.NotRunError("no data")

    def broken() -> None:
        raise BackendError("expected a GPU")

    assert check.run_step("A", not_here)[:3] == ("A", "not run", "no data")
    assert check.run_step("B", broken)[:3] == ("B", "failed", "expected a GPU")


def test_a_child_that_is_aborted_is_an_error() -> None:
    children = _module("children")
    with pytest.raises(BackendError, match=r"abort to end, found .* aborted"):
        children.in_child(importlib.import_module("os").abort)


def test_the_whole_check_on_the_cpu(tmp_path: Path, capsys) -> None:
    program = tmp_path / "caffe_tests"
    program.write_text(PROGRAM.format(log="/dev/null", more="echo '[  PASSED  ] 1'"))
    program.chmod(0o755)
    arguments = ["--device", "cpu", "--nets", "tinyalexnet", "--batches", "1", "2"]
    arguments += ["--seconds", "0", "--tests", str(program)]
    arguments += ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "r")]
    assert _module("check").main(arguments) == 0
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    statuses = {s["title"]: s["status"] for s in record["sections"]}
    assert statuses == {
        "Caffe's own tests": "passed",
        "Blobs of tinyalexnet, cpu against cpu": "passed",
        "The caltech20 table": "not run",
        "Speed of tinyalexnet": "measured",
    }
    speed = record["sections"][-1]
    names = [row[0] for row in speed["rows"]]
    assert names[:3] == [
        "patched Caffe, batch 1",
        "patched Caffe, batch 2",
        "patched Caffe as extracted with, batch 2",
    ]
    assert all(float(row[1]) > 0 for row in speed["rows"])
    assert "0.03 billion multiply-adds" in speed["text"]
    assert capsys.readouterr().out.startswith("# GPU check\n")


def test_a_check_that_is_interrupted_leaves_what_it_found(
    tmp_path: Path, monkeypatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    check, report = _module("check"), _module("report")
    passed = report.Section("", "passed", "", ["passed", "failed"], [[3, 0]])
    monkeypatch.setattr(check, "run_caffe_tests", lambda *_: passed)
    monkeypatch.setattr(check, "compare_blobs", interrupted)
    arguments = ["--device", "cpu", "--nets", "tinyalexnet", "--output", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        check.main(arguments)
    record = json.loads((tmp_path / "report.json").read_text())
    assert [s["title"] for s in record["sections"]] == ["Caffe's own tests"]
    assert "## Caffe's own tests: passed" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("device", ["gpu:99", "gpu:0,1", "gpu:0,0", "cuda:0"])
def test_no_gpu_is_said_in_one_line(device: str, capsys) -> None:
    """Both the check and the step before the build refuse it."""
    for main in (
        lambda: _module("check").main(["--device", device]),
        lambda: _module("machine").main(device),
    ):
        assert main() == 2
        error = capsys.readouterr().err
        assert error.startswith("gpu-check: expected ")
        assert error.count("\n") == 1


def test_make_looks_for_the_gpu_before_it_builds() -> None:
    command = ["make", "-n", "gpu-check", "DEVICE=gpu:7"]
    steps = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert 0 < steps.index("tests/gpu/machine.py gpu:7") < steps.index("build.py")
