#!/usr/bin/env python3
"""Packs patched Caffe for GPU machines that have no compiler and no network.

    CUDA=1 python caffe_patch/bundle.py     # what `make caffe-bundle CUDA=1` runs

This writes build/fishing-gpu.tar.xz, a folder that runs wherever it is unpacked, on
x86-64 Linux with NVIDIA's driver. It contains an interpreter with its standard library,
the package `caffe` and what it imports, Caffe's tests, all shared libraries except the
C library's, and the check of tests/gpu. Caffe is linked with blas.cu in place of cuBLAS
and cuRAND. The script needs the standard library only.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path

from build import (
    BUILD,
    HERE,
    alone,
    configure,
    cuda,
    fill_package,
    module_name,
    ninja,
)
from failure import BuildError

NAME = "fishing-gpu"
MOST_BYTES = 64 * 2**20

# The packages that Python imports there. Backends other than Caffe are left out.
PACKAGES = ("numpy", "six", "protobuf", "platformdirs", "lazy_loader")
LEFT_OUT = re.compile(
    r"(^|/)(tests?|__pycache__|idlelib|lib2to3|ensurepip|tkinter|turtledemo|f2py|include"
    r"|pydoc_data|config-[^/]*|site-packages|dist-packages|distutils|[^/]*\.dist-info)/"
    r"|\.(a|pyi|pyc|whl|pxd)$|/(_tkinter|_curses\w*|readline|_dbm|_gdbm|_sqlite3|_ssl"
    r"|_test\w+|_xxtestfuzz|xxlimited\w*)\.cpython"
)
# The C library must be the machine's own, because libcuda needs it.
GLIBC = re.compile(r"^(ld-linux|lib(c|m|dl|rt|pthread|util|resolv|nsl|anl)\.so)")

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"

LAUNCHER = """#!/bin/sh
# Python with everything in this folder, wherever the folder is.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
export PYTHONHOME="$here/runtime" PYTHONPATH="$here/site:$here/check"
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"""
README = """Patched Caffe for NVIDIA GPUs, without a toolkit.

    ./gpu-check --device gpu:0    check and measure it; see also --help
    ./python                      Python with caffe, numpy and fishing

This needs x86-64 Linux with glibc {glibc} or later and, for a GPU, NVIDIA's driver for
CUDA {cuda} or later. It contains code for compute capabilities {architectures}, and
PTX from which the driver compiles code for later GPUs.
"""


def main() -> int:
    """Build the bundle, and return the exit code: 0, or 2 after an error."""
    # The bundle is for other machines, whatever GPU this one has.
    os.environ["CUDA_ARCH"] = os.environ.get("CUDA_ARCH") or "all"
    try:
        path = make_bundle()
    except BuildError as error:
        print(f"caffe: {error}", file=sys.stderr)
        return 2
    print(f"caffe: {path}, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def make_bundle() -> Path:
    """Build what is needed and pack it.

    Raises
    ------
    BuildError
        If CUDA=1 is not set, a build fails, or the archive would be too large.
    """
    if not cuda():
        raise BuildError(
            "expected CUDA=1, because a bundle is for GPUs; run `make caffe-bundle "
            "CUDA=1`"
        )
    folder, archive = BUILD.parent / NAME, BUILD.parent / f"{NAME}.tar.xz"
    with alone():
        obj = configure()
        ninja(obj, "pycaffe_bundle")
        ninja(obj, "caffe_tests_bundle")
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, obj)
        partial = archive.with_suffix(".partial")
        pack(folder, partial)
    size = partial.stat().st_size
    if size > MOST_BYTES:
        partial.unlink()
        raise BuildError(
            f"expected a bundle of at most {MOST_BYTES >> 20} MiB, found "
            f"{size / 2**20:.1f}; choose fewer architectures with CUDA_ARCH"
        )
    partial.replace(archive)
    return archive


def fill(folder: Path, obj: Path) -> None:
    """Put everything into a folder."""
    site, checks, root = folder / "site", folder / "check", HERE.parent
    fill_package(site / "caffe", obj, obj / "bundle" / module_name(), "blas.cu")
    copy_fishing(site)
    copy_tree(root / "tests" / "gpu", checks)
    for name in ("random_nets.py", "torch_nets.py"):
        shutil.copy(root / "tests" / "backends" / name, checks)
    shutil.copy(HERE / "gtests.py", checks)
    (folder / "bin").mkdir()
    shutil.copy(obj / "caffe_tests_bundle", folder / "bin" / "caffe_tests")
    copy_interpreter(folder / "runtime")
    copy_libraries(folder)
    for name, what in (("python", ""), ("gpu-check", ' "$here/check/check.py"')):
        text = f'{LAUNCHER}exec "$here/runtime/bin/{PYTHON}"{what} "$@"\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "README.txt").write_text(describe(folder))


def copy_fishing(site: Path) -> None:
    """Copy this package with its nets, and what it imports."""
    root = HERE.parent
    for name in PACKAGES:
        copy_package(name, site)
    copy_tree(root / "fishing", site / "fishing")
    copy_tree(root / "models", site / "fishing" / "models")
    # lazy_loader reads the names that a folder hands on from its stub.
    for stub in (root / "fishing").rglob("*.pyi"):
        shutil.copy(stub, site / stub.relative_to(root))


def describe(folder: Path) -> str:
    """Write the text of README.txt, with what the bundle needs of a machine."""
    build = json.loads((folder / "site/caffe/build.json").read_text())
    return README.format(
        glibc=".".join(map(str, wanted_glibc(elf_files(folder)))),
        cuda=build["cuda_toolkit"].split(".")[0],
        architectures=build["cuda_architectures"],
    )


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder without what is not needed at run time."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and not LEFT_OUT.search(name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)


def copy_package(name: str, site: Path) -> None:
    """Copy the files of an installed distribution."""
    for file in importlib.metadata.files(name) or ():
        text = file.as_posix()
        if not text.startswith("..") and not LEFT_OUT.search(text):
            (site / text).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), site / text)


def copy_interpreter(runtime: Path) -> None:
    """Copy the interpreter and its standard library."""
    copy_tree(Path(sysconfig.get_path("stdlib")), runtime / "lib" / PYTHON)
    (runtime / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), runtime / "bin" / PYTHON)


def copy_libraries(folder: Path) -> None:
    """Copy the shared libraries that files in the folder need, and strip them all."""
    (folder / "lib").mkdir()
    done = {path.name for path in elf_files(folder)}
    for path in elf_files(folder):
        for line in output(["ldd", str(path)]).splitlines():
            match = re.match(r"\s*(\S+) => (/\S+)", line)
            if match and not GLIBC.match(match[1]) and match[1] not in done:
                shutil.copy(match[2], folder / "lib" / match[1])
                done.add(match[1])
    for path in elf_files(folder):
        if ".libs" not in path.parent.name:  # strip breaks the libraries of wheels
            output(["strip", "--strip-unneeded", str(path)])


def elf_files(folder: Path) -> list[Path]:
    """List programs and shared libraries."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.open("rb").read(4) == b"\x7fELF"]


def wanted_glibc(files: Iterable[Path]) -> tuple[int, int]:
    """Find the newest version of the C library that one of the files needs."""
    found = {(2, 0)}
    for path in files:
        # This lists versions that are needed, and not those that a text mentions.
        text = output(["readelf", "--version-info", "--wide", str(path)])
        found |= {(2, int(n)) for n in re.findall(r"Name: GLIBC_2\.(\d+)", text)}
    return max(found)


def pack(folder: Path, archive: Path) -> None:
    """Write the archive; the same files give the same bytes."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, f"{NAME}/{path.relative_to(folder)}", filter=plain)


def output(command: list[str]) -> str:
    """Return what a command prints, or nothing if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
