"""Tests of the choice of a CUDA toolkit, with scripts in place of toolkits."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
  --list-gpu-code) printf '%s\\n' sm_50 sm_75 sm_80 sm_86 sm_90 sm_100 sm_103 ;;
  --dryrun) echo '#$ TOP={root}/bin/..' >&2 ;;
esac
"""


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Load the module as on a machine with only the usual commands."""
    monkeypatch.syspath_prepend(ROOT / "caffe_patch")
    for name in ("CUDA_HOME", "CUDA_ARCH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    module = importlib.import_module("cuda_toolkit")
    paths = {"purelib": str(tmp_path / "site")}
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: paths[name])
    return module


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def _toolkit(root: Path, version: str = "13.0", *libraries: str) -> Path:
    for name in libraries:
        header = {"cublas": "cublas_v2.h", "curand": "curand.h"}[name]
        for path in (root / "include" / header, root / "lib64" / f"lib{name}.so"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return _script(root / "bin" / "nvcc", NVCC.format(version=version, root=root))


def test_cuda_home_goes_before_path(cuda, tmp_path: Path, monkeypatch) -> None:
    on_path = _script(tmp_path / "bin" / "nvcc", "")
    assert cuda.find_nvcc() == on_path
    nvcc = _toolkit(tmp_path / "home")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert cuda.find_nvcc() == nvcc
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match=r"not in .*/nowhere/bin; set CUDA_HOME"):
        cuda.find_nvcc()


@pytest.mark.parametrize(("version", "good"), [("12.0", True), ("11.8", False)])
def test_versions(cuda, tmp_path: Path, version: str, good: bool) -> None:
    nvcc = _toolkit(tmp_path / "home", version)
    if good:
        assert cuda.nvcc_version(nvcc) == (12, 0)
        return
    with pytest.raises(cuda.BuildError, match=r"12.0 or later, found 11.8"):
        cuda.nvcc_version(nvcc)


def test_a_script_that_calls_nvcc(cuda, tmp_path: Path) -> None:
    nvcc = _toolkit(tmp_path / "home")
    script = _script(tmp_path / "bin" / "nvcc", f'#!/bin/sh\nexec {nvcc} "$@"\n')
    assert cuda.toolkit_root(script) == tmp_path / "home"


@pytest.mark.parametrize(
    ("asked", "gpus", "wanted"),
    [
        ("", "", [75, 80, 90, 100]),
        ("all", "9.0", [75, 80, 90, 100]),
        ("", "9.0\n8.6\n9.0", [86, 90]),
        ("", "8.9", [86]),  # a card that nvcc does not know runs what is before it
        ("", "6.1", [75, 80, 90, 100]),
        ("86;90", "7.5", [86, 90]),
        ("90, 75", "", [75, 90]),
    ],
)
def test_architectures(
    cuda, tmp_path: Path, monkeypatch, asked: str, gpus: str, wanted: list[int]
) -> None:
    monkeypatch.setenv("CUDA_ARCH", asked)
    if gpus:
        _script(tmp_path / "bin" / "nvidia-smi", f"#!/bin/sh\nprintf '{gpus}\\n'\n")
    assert cuda.choose_architectures(_toolkit(tmp_path / "home")) == wanted


@pytest.mark.parametrize("asked", ["50", "sm_90", "90;91", "native"])
def test_architectures_that_nvcc_has_not(
    cuda, tmp_path: Path, monkeypatch, asked: str
) -> None:
    monkeypatch.setenv("CUDA_ARCH", asked)
    with pytest.raises(cuda.BuildError, match="expected 'all' or some of 75 80 86"):
        cuda.choose_architectures(_toolkit(tmp_path / "home"))


def test_one_pass_of_the_compiler_for_all(cuda) -> None:
    toolkit = cuda.Toolkit(Path("nvcc"), (13, 0), [75, 90], [], [])
    flag = "-gencode=arch=compute_75,code=[sm_75,sm_90,compute_75]"
    assert toolkit.gencode() == flag


def test_libraries_of_the_toolkit(cuda, tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "home"
    _toolkit(root, "12.4", "cublas", "curand")
    monkeypatch.setenv("CUDA_HOME", str(root))
    found = cuda.find_toolkit()
    assert found.includes == [root / "include"]
    assert found.libraries == [
        root / "lib64" / "libcublas.so",
        root / "lib64" / "libcurand.so",
    ]


@pytest.mark.parametrize(
    ("version", "wheel", "folder"),
    [
        ("13.0", "nvidia-curand==10.4.*", "cu13"),
        ("12.8", "nvidia-curand-cu12==10.3.*", "curand"),
    ],
)
def test_wheels_for_what_the_toolkit_lacks(
    cuda, tmp_path: Path, monkeypatch, version: str, wheel: str, folder: str
) -> None:
    root, site = tmp_path / "home", tmp_path / "site" / "nvidia" / folder
    _toolkit(root, version, "cublas")
    asked = []

    def pip(command: list[str]) -> Any:
        asked.append(command[-1])
        for path in (site / "include" / "curand.h", site / "lib" / "libcurand.so.10"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return cuda.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(cuda, "subprocess", _Pip(cuda.subprocess, pip))
    parts = tuple(map(int, version.split(".")))
    includes, libraries = cuda.find_libraries(root, parts)
    assert asked == [wheel]
    assert includes == [root / "include", site / "include"]
    assert libraries[1] == site / "lib" / "libcurand.so.10"
    cuda.find_libraries(root, parts)
    assert asked == [wheel]  # it is there now


def test_no_wheel_either(cuda, tmp_path: Path, monkeypatch) -> None:
    failed = cuda.subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(cuda, "subprocess", _Pip(cuda.subprocess, lambda _: failed))
    with pytest.raises(cuda.BuildError, match=r"or nvidia-cublas==13\.1\.\*"):
        cuda.find_libraries(tmp_path / "home", (13, 1))


class _Pip:
    """Stand in for the module subprocess, with a `run` that acts as pip."""

    def __init__(self, module: Any, run: Any) -> None:
        self._module, self.run = module, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


LOG = """[1/2] Building CUDA object a.cu.o
In file included from a.cu:1:
math_functions.h:54:2: warning: #warning "an internal header" [-Wcpp]
/x/blas.cu(374): warning #20011-D: calling a __host__ function("dot(int, int)") is not

[2/2] Linking
/x/b.cu(1): warning #177-D: variable "i" was declared but never referenced
/x/b.cu(9): warning #177-D: variable "i" was declared but never referenced
ninja: Entering directory: no warning
"""


def test_warnings_are_counted_by_their_text(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "caffe_patch")
    found = importlib.import_module("cuda_check").count_warnings(LOG)
    assert found == {
        '#warning "an internal header" [-Wcpp]': 1,
        'calling a __host__ function("dot(int, int)") is not': 1,
        'variable "i" was declared but never referenced': 2,
    }


def test_the_figures_are_a_table(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "caffe_patch")
    record = {
        "toolkit": "13.0.88",
        "architectures": "75 90",
        "compiler": "GNU 12.2.0",
        "cores": 2,
        "n_kernel_files": 54,
        "seconds": {"pycaffe": 419.7},
        "warnings": {"an internal header": 2},
        "bytes": {"module": 3 << 19},
    }
    text = importlib.import_module("cuda_check").as_markdown(record)
    assert text.startswith(
        "CUDA 13.0.88, GNU 12.2.0, 2 cores, 54 files of kernels for "
    )
    assert "sm_75 sm_90\n" in text
    for row in ("seconds for pycaffe | 419.7", "module | 1.5 MiB", "warnings | 2"):
        assert f"| {row} |" in text
