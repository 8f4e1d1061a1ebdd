"""Find the CUDA toolkit for a build with CUDA=1: compiler, libraries, architectures.

CUDA_HOME, CUDA_ARCH, PATH and the installed GPUs determine what CMake is told. If the
toolkit lacks cuBLAS or cuRAND, NVIDIA's wheels on PyPI provide them. This needs the
standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from failure import BuildError

OLDEST = 75  # Turing: what CUDA 12 and 13 both compile for

# Where the wheels put their files in site-packages: of CUDA 13, and of 12.
WHEEL_FOLDERS = ("nvidia/cu13", "nvidia/cublas", "nvidia/curand")


class Toolkit(NamedTuple):
    """What CMake is told of a toolkit.

    Attributes
    ----------
    nvcc : Path
    version : tuple of int
        Major and minor.
    architectures : list of int
        Compute capabilities, such as 90 for 9.0, in ascending order.
    includes : list of Path
        Folders of cublas_v2.h and curand.h.
    libraries : list of Path
        The shared libraries cuBLAS and cuRAND.
    """

    nvcc: Path
    version: tuple[int, int]
    architectures: list[int]
    includes: list[Path]
    libraries: list[Path]

    def gencode(self) -> str:
        """Say for which GPUs nvcc compiles.

        Every file goes through the compiler once, for the oldest; the assembler makes
        of that the code of each other GPU, and later ones make their own of it.
        """
        oldest = self.architectures[0]
        codes = [*(f"sm_{a}" for a in self.architectures), f"compute_{oldest}"]
        return f"-gencode=arch=compute_{oldest},code=[{','.join(codes)}]"


def find_toolkit() -> Toolkit:
    """Find all that CUDA=1 needs; fetch the wheels of what the toolkit lacks.

    Raises
    ------
    BuildError
        If there is no nvcc, it is too old, CUDA_ARCH asks for what it has not, or pip
        cannot install cuBLAS and cuRAND.
    """
    nvcc = find_nvcc()
    version = nvcc_version(nvcc)
    includes, libraries = find_libraries(toolkit_root(nvcc), version)
    return Toolkit(nvcc, version, choose_architectures(nvcc), includes, libraries)


def find_nvcc() -> Path:
    """Find the compiler: of CUDA_HOME, on PATH, or where NVIDIA installs it."""
    home = os.environ.get("CUDA_HOME")
    if home:
        found, where = shutil.which("nvcc", path=f"{home}/bin"), f"{home}/bin"
    else:
        usual = "/usr/local/cuda/bin"
        found = shutil.which("nvcc") or shutil.which("nvcc", path=usual)
        where = f"PATH and {usual}"
    if not found:
        raise BuildError(
            f"CUDA=1 needs nvcc, which is not in {where}; set CUDA_HOME to the "
            "toolkit, or build without CUDA"
        )
    return Path(found)


def nvcc_version(nvcc: Path) -> tuple[int, int]:
    """Ask nvcc for its release; 12.0 or later."""
    text = _output([str(nvcc), "--version"])
    match = re.search(r"release (\d+)\.(\d+)", text)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < (12, 0):
        found = f"{version[0]}.{version[1]}" if match else "no version"
        raise BuildError(
            f"CUDA=1 needs CUDA 12.0 or later, found {found} in {nvcc}; set CUDA_HOME "
            "to a newer toolkit"
        )
    return version


def toolkit_root(nvcc: Path) -> Path:
    """Ask nvcc where its toolkit is: on PATH may be a mere script that calls it."""
    text = _output([str(nvcc), "--dryrun", "-E", "-x", "cu", "/dev/null"])
    match = re.search(r"^#\$ TOP=(.*)$", text, re.MULTILINE)
    return Path(match[1]).resolve() if match else nvcc.resolve().parent.parent


def choose_architectures(nvcc: Path) -> list[int]:
    """Choose the GPUs to compile for.

    Those that CUDA_ARCH lists (``75;90``, or ``all``), else those of the GPUs that
    nvidia-smi finds, else all: of each generation the first that nvcc knows, whose code
    the others of the generation run too.
    """
    text = _output([str(nvcc), "--list-gpu-code"])
    known = sorted({int(a) for a in re.findall(r"sm_(\d+)", text)})
    known = [a for a in known if a >= OLDEST]
    first = sorted({a // 10: a for a in reversed(known)}.values())
    asked = os.environ.get("CUDA_ARCH", "").strip()
    if asked == "all":
        return first
    if not asked:
        gpus = [gpu for gpu in installed_gpus() if gpu >= OLDEST]
        return sorted({max(k for k in known if k <= gpu) for gpu in gpus}) or first
    wanted = re.split(r"[;,\s]+", asked)
    strange = [a for a in wanted if not a.isdigit() or int(a) not in known]
    if strange:
        raise BuildError(
            f"CUDA_ARCH: expected 'all' or some of {' '.join(map(str, known))}, found "
            f"'{' '.join(strange)}'"
        )
    return sorted(set(map(int, wanted)))


def installed_gpus() -> list[int]:
    """Compute capabilities of the GPUs of this machine, as nvidia-smi tells them."""
    text = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    return [int(a) * 10 + int(b) for a, b in re.findall(r"^(\d+)\.(\d)$", text, re.M)]


def find_libraries(
    root: Path, version: tuple[int, int]
) -> tuple[list[Path], list[Path]]:
    """Find headers and libraries of cuBLAS and cuRAND: of the toolkit, or of wheels."""
    site = Path(sysconfig.get_path("purelib"))
    own = [root, Path("/usr")]
    wheels = [site / folder for folder in WHEEL_FOLDERS]
    includes: list[Path] = []
    libraries: list[Path] = []
    for name, header in (("cublas", "cublas_v2.h"), ("curand", "curand.h")):
        found = _library(own, name, header) or _library(wheels, name, header)
        if found is None:
            requirement = _requirement(name, version)
            print(f"caffe: the toolkit has no {name}; pip install {requirement}",
                  flush=True)  # fmt: skip
            command = [sys.executable, "-m", "pip", "install", "-q", requirement]
            if subprocess.run(command).returncode == 0:
                found = _library(wheels, name, header)
        if found is None:
            raise BuildError(
                f"CUDA=1 needs {name}, which is not in {root}, and pip could not "
                "install it; install the full toolkit, or "
                f"{_requirement(name, version)}"
            )
        includes.append(found[0])
        libraries.append(found[1])
    return list(dict.fromkeys(includes)), libraries


def _requirement(name: str, version: tuple[int, int]) -> str:
    """Name the wheel of a library; cuRAND counts its versions apart from CUDA."""
    major, minor = version
    if name == "cublas":
        suffix = "-cu12" if major == 12 else ""
        return f"nvidia-cublas{suffix}=={major}.{minor}.*"
    return "nvidia-curand-cu12==10.3.*" if major == 12 else "nvidia-curand==10.4.*"


def _library(roots: list[Path], name: str, header: str) -> tuple[Path, Path] | None:
    """Find the folder of a header, and the library to link, under one of the roots."""
    for root in roots:
        for include in (root / "include", root / "targets/x86_64-linux/include"):
            if not (include / header).is_file():
                continue
            for lib in ("lib64", "lib", "lib/x86_64-linux-gnu"):
                found = sorted((root / lib).glob(f"lib{name}.so*"))
                if found:
                    return include, found[0]
    return None


def _output(command: list[str]) -> str:
    """Return all that a command says; nothing if it is missing or fails."""
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""
