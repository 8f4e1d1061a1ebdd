"""Proves and measures the GPU side of the project on a machine with an NVIDIA GPU.

    python tests/gpu/check.py --device gpu:0     # what `make gpu-check` runs

It runs Caffe's own tests in GPU mode, compares blobs of the GPU with those of the CPU,
makes the caltech20 table if the data are there, measures speed and memory, and after
each of these steps writes report.md and report.json. With `--device cpu` the same steps
run without a GPU. The exit code is 1 if something is wrong. It is 0 if a step could not
be run; the report then says which one and why.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before Caffe is imported, which otherwise warns of a missing GPU in every process.
os.environ["GLOG_minloglevel"] = "3"  # noqa: SIM112, glog spells it so
HERE = Path(__file__).resolve().parent
# The bundle has all of these files in one folder.
PARENT = HERE.parent
FOLDERS = (HERE, PARENT / "backends", PARENT.parent / "caffe_patch")
sys.path[:0] = map(str, FOLDERS)

from agreement import compare_blobs, table  # noqa: E402
from caffe_tests import run_caffe_tests  # noqa: E402
from children import in_child  # noqa: E402
from fishing.errors import FishingError  # noqa: E402
from fishing.nets import NetSpec, load_net  # noqa: E402
from machine import describe_machine  # noqa: E402
from report import NotRunError, Section, as_markdown, write_report  # noqa: E402
from speed import measure_speed  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run all steps and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="gpu:0", help="gpu:N, or cpu to try it")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-check"))
    parser.add_argument(
        "--nets", nargs="+", default=["tinyalexnet", "alexnet", "vgg16"]
    )
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 32, 128], help="images at once"
    )
    parser.add_argument("--seconds", type=float, default=5, help="for a timing")
    parser.add_argument("--tests", type=Path, help="the program of Caffe's tests")
    parser.add_argument("--data", type=Path, help="the folder caltech20")
    options = parser.parse_args(arguments)
    device = options.device
    try:
        record: dict[str, Any] = {"machine": in_child(describe_machine, device)}
    except FishingError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    sections: list[Section] = []
    with tempfile.TemporaryDirectory() as folder:

        def step(title: str, function: Callable[..., Section], *args: Any) -> None:
            print(f"gpu-check: {title} ...", file=sys.stderr, flush=True)
            sections.append(run_step(title, function, *args))
            # After each step, since a check that is interrupted keeps what it found.
            record["sections"] = [section._asdict() for section in sections]
            write_report(record, options.output)

        step("Caffe's own tests", run_caffe_tests, options.tests, device)
        nets = [make_net(name, Path(folder) / name) for name in options.nets]
        for spec in nets:
            title = f"Blobs of {spec.name}, {device} against cpu"
            step(title, compare_blobs, spec, device)
        step("The caltech20 table", table, options.data, device, Path(folder))
        for spec in nets:
            title = f"Speed of {spec.name}"
            step(title, measure_speed, spec, device, options.batches, options.seconds)
    print(as_markdown(record))
    print(f"gpu-check: written to {options.output}", file=sys.stderr)
    return int(any(section.status == "failed" for section in sections))


def run_step(title: str, function: Callable[..., Section], *args: Any) -> Section:
    """Run a step. An error in it is reported as a failure, and the next steps run."""
    try:
        return function(*args)._replace(title=title)
    except NotRunError as reason:
        return Section(title, "not run", str(reason), [], [])
    except FishingError as error:
        return Section(title, "failed", str(error), [], [])


def make_net(name: str, folder: Path) -> NetSpec:
    """Return the net that comes with its weights, or write one with random weights."""
    if name == "tinyalexnet":
        return load_net(name)
    folder.mkdir()
    in_child(write_random_net, name, folder)
    return load_net(str(folder))


def write_random_net(name: str, folder: Path) -> None:
    """Write a net with random weights, in a child process, which frees its memory."""
    from random_nets import random_net

    random_net(name, folder)


if __name__ == "__main__":
    sys.exit(main())
