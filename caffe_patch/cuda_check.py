#!/usr/bin/env python3
"""Compiles and links the GPU build from scratch, and reports what that took.

    CUDA=1 python caffe_patch/cuda_check.py     # what `make caffe-cuda-check` runs

No GPU is needed. The module and the tests are linked against cuBLAS and cuRAND and, for
the bundle, against blas.cu; both modules are imported. The script needs the standard
library only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from build import BUILD, alone, configure, cores, fill_package, module_name
from failure import BuildError

TARGETS = ("pycaffe", "caffe_tests", "pycaffe_bundle", "caffe_tests_bundle")


def main() -> int:
    """Build, import and print the figures, and return the exit code: 0 or 2."""
    os.environ["CUDA"] = "1"
    try:
        record = check()
    except BuildError as error:
        print(f"caffe: {error}", file=sys.stderr)
        return 2
    print(as_markdown(record))
    path = BUILD.parent / "caffe-cuda-check.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")
    return 0


def check() -> dict[str, object]:
    """Build everything from scratch.

    Returns
    -------
    dict
        ``seconds`` by target, ``warnings`` by text, ``bytes`` by file, and the versions
        and architectures of the build.

    Raises
    ------
    BuildError
        If something does not compile, link or import.
    """
    obj = BUILD / "cuda-check"
    with alone():
        shutil.rmtree(obj, ignore_errors=True)
        obj.mkdir()
        configure(obj)
        seconds, log = {}, ""
        for target in TARGETS:
            start = time.monotonic()
            log += compile_target(obj, target)
            seconds[target] = round(time.monotonic() - start, 1)
        files = {
            "module": obj / module_name(),
            "tests": obj / "caffe_tests",
            "module of the bundle": obj / "bundle" / module_name(),
            "tests of the bundle": obj / "caffe_tests_bundle",
        }
        for name, blas in (("module", "cuBLAS"), ("module of the bundle", "blas.cu")):
            check_import(obj, files[name], blas)
        build = json.loads((obj / "versions.json").read_text())
        record = {
            "toolkit": build["cuda_toolkit"],
            "architectures": build["cuda_architectures"],
            "compiler": build["compiler"],
            "cores": cores(),
            "n_kernel_files": len(list(obj.glob("CMakeFiles/caffe.dir/**/*.cu.o"))),
            "seconds": seconds,
            "warnings": count_warnings(log),
            "bytes": {name: path.stat().st_size for name, path in files.items()},
        }
        shutil.rmtree(obj)
    return record


def compile_target(obj: Path, target: str) -> str:
    """Build one target, and return what the compilers printed."""
    command = ["ninja", "-C", str(obj), "-j", str(cores()), target]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise BuildError(f"ninja {target} failed:\n{result.stdout[-3000:].strip()}")
    return result.stdout


def check_import(obj: Path, module: Path, blas: str) -> None:
    """Import the package with a module, in a folder like the one it is built for."""
    stage = obj / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    fill_package(stage / "site" / "caffe", obj, module, blas)
    code = "import caffe; caffe.set_mode_cpu(); print(len(caffe.layer_type_list()))"
    env = dict(os.environ, PYTHONPATH=str(stage / "site"))
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    if result.returncode:
        raise BuildError(f"{module} cannot be imported:\n{result.stderr[-2000:]}")


def count_warnings(log: str) -> dict[str, int]:
    """Count the warnings of compilers and linker by their text."""
    counts: dict[str, int] = {}
    for text in re.findall(r"^.*?\bwarning\b[^:\n]*: (.*)$", log, re.MULTILINE):
        counts[text.strip()] = counts.get(text.strip(), 0) + 1
    return counts


def as_markdown(record: dict[str, object]) -> str:
    """Make a table of the figures."""
    seconds, sizes, warnings = (record[k] for k in ("seconds", "bytes", "warnings"))
    assert isinstance(seconds, dict)
    assert isinstance(sizes, dict)
    assert isinstance(warnings, dict)
    lines = [
        f"CUDA {record['toolkit']}, {record['compiler']}, {record['cores']} cores, "
        f"{record['n_kernel_files']} files of kernels for sm_"
        + " sm_".join(str(record["architectures"]).split()),
        "",
        "| | |",
        "| --- | --- |",
        *(f"| seconds for {name} | {value} |" for name, value in seconds.items()),
        *(f"| {name} | {value / 2**20:.1f} MiB |" for name, value in sizes.items()),
        f"| warnings | {sum(warnings.values())} |",
        *(f"| {count} of them | {text} |" for text, count in warnings.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
