"""Tests of Caffe's GPU build on the CPU, with kernels as C++ and launches as loops.

All kernels, the host code of every layer and blas.cu are compiled. The tests check what
the GPU side computes, by Caffe's own tests in GPU mode and through the driver, the
workers and the nets of this project. NVIDIA's compiler, the memory model and speed are
not tested.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cuda.convert import as_cpp, convert_tree, write_changed

from conftest import ROOT
from fishing.backends import open_backend, run_ahead
from fishing.nets import BLOBS, load_net

EMULATOR = ROOT / "tests" / "caffe_patch" / "emulated_cuda"


def test_launches_become_calls() -> None:
    source = """
      k<Dtype>  // a (comment)
          <<<GET(n, 2), 512>>>(n, f(a, b), c[0]);
      if (x) e<<<1, 1>>>();
    """
    assert " ".join(as_cpp(source).split()) == (
        "emulate(GET(n, 2), 512, [](auto... a) { k<Dtype>(a...); }, n, f(a, b), c[0]); "
        "if (x) emulate(1, 1, [](auto... a) { e(a...); });"
    )


def test_barriers_want_all_threads_at_once() -> None:
    source = """
      __device__ T sum(T x) { if (x) { __syncthreads(); } return x; }
      template <typename T> __global__ void k(int n, T x) { sum(x); }
      __global__ void e(int n) { summed(n); }
      void launch() { k<T><<<g, b, 0, s>>>(n, x); e<<<g, b>>>(n); }
    """
    made = as_cpp(source)
    assert "emulate_together(g, b, [](auto... a) { k<T>(a...); }, n, x);" in made
    assert "emulate(g, b, [](auto... a) { e(a...); }, n);" in made


@pytest.fixture(scope="session")
def emulated() -> Path:
    """Build the package, and return its folder and that of a libcuda."""
    sys.path.insert(0, str(ROOT / "caffe_patch"))
    build = importlib.import_module("build")
    obj, source = build.BUILD / "emulated", build.BUILD / "emulated-src"
    with pytest.MonkeyPatch.context() as patch, build.alone():
        patch.setenv("CUDA", "1")
        build.have_apt()
        build.prepare_source()
        convert_tree(build.SRC, source)
        blas = as_cpp((ROOT / "caffe_patch" / "blas.cu").read_text())
        write_changed(source / "src/caffe/util/blas.cu", blas.encode())
        settings = ["-DCUDA=ON", f"-DCUDA_EMULATED={EMULATOR}"]
        settings.append("-DCUDA_ARCHITECTURES_TEXT=90")
        build.run_cmake(obj, source, settings)
        build.ninja(obj, "pycaffe")
        shutil.rmtree(obj / "site", ignore_errors=True)
        module = obj / build.module_name()
        build.fill_package(obj / "site" / "caffe", obj, module, "blas.cu")
    command = ["gcc", "-shared", "-fPIC", "-o", obj / "libcuda.so.1"]
    subprocess.run([*command, EMULATOR / "libcuda.c"], check=True)
    return Path(obj)


@pytest.fixture
def two_gpus(emulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers find the emulated Caffe and driver."""
    monkeypatch.syspath_prepend(emulated / "site")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(emulated))
    monkeypatch.syspath_prepend(ROOT / "tests" / "gpu")


@pytest.mark.slow
def test_caffes_own_tests_in_gpu_mode(emulated: Path, tmp_path: Path) -> None:
    build, gtests = (importlib.import_module(name) for name in ("build", "gtests"))
    with build.alone():
        build.ninja(emulated, "caffe_tests")
    run = gtests.run_tests(emulated / "caffe_tests", "gpu", 2, folder=tmp_path)
    assert not run.failed, run.log
    assert run.passed > 400


@pytest.mark.slow
def test_blobs_of_two_gpus_are_those_of_the_cpu(two_gpus: None) -> None:
    """Two workers on each of two GPUs, with the batch size that memory allows."""
    agreement: Any = importlib.import_module("agreement")
    spec = load_net("tinyalexnet")
    data = agreement.made_images(12, spec.preprocess.height)
    found: dict[str, Any] = {}
    for device in ("cpu", "gpu:0,1"):
        net = open_backend(
            "caffe", spec, temperature=3.0, batch_size=None, device=device
        )
        try:
            if device != "cpu":
                assert (net.n_at_once, net.batch_size) == (4, 128)
            batches = [(None, data[i : i + 2]) for i in range(0, len(data), 2)]
            rows = [blobs for _, blobs in run_ahead(net, batches)]
        finally:
            net.close()
        found[device] = {
            name: np.concatenate([blobs[name] for blobs in rows]) for name in BLOBS
        }
    section = agreement.compare(found["cpu"], found["gpu:0,1"])
    assert section.status == "passed", section
