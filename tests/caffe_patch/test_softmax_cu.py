"""Tests of the patch's CUDA code, compiled for the CPU: temperature, uniform target.

Both layers run whole, as Caffe calls them, with their kernels and blas.cu. They are
compared with the formula, and with the same layers on the CPU.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from emulated_cuda.convert import as_cpp, convert_tree
from numpy.typing import NDArray

from conftest import ROOT

Array = NDArray[Any]
EMULATOR = ROOT / "tests" / "caffe_patch" / "emulated_cuda"
N, CLASSES, POSITIONS = 3, 5, 7


class Result(NamedTuple):
    loss: float
    gradient: Array


SoftmaxLoss = Callable[..., Result]


@pytest.fixture(scope="module")
def softmax_loss(tmp_path_factory: pytest.TempPathFactory) -> SoftmaxLoss:
    folder = tmp_path_factory.mktemp("softmax")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "caffe_patch")
        patch.delenv("CUDA", raising=False)
        build = importlib.import_module("build")
        with build.alone():
            obj = build.configure()
            messages = "CMakeFiles/caffe.dir/gen/caffe/proto/caffe.pb.cc.o"
            build.ninja(obj, messages)  # is there after `make caffe-patched`
            convert_tree(build.SRC, folder)
    (folder / "blas.cu").write_text(
        as_cpp((ROOT / "caffe_patch" / "blas.cu").read_text())
    )
    found = dict(
        line.split(":", 1)
        for line in (obj / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("BLAS_")
    )
    blas = {name: value.split("=", 1)[1] for name, value in found.items()}
    includes = [EMULATOR, folder, folder / "include", obj / "gen"]
    subprocess.run(
        ["g++", "-std=c++17", "-O0", "-w", "-DNDEBUG",
         "-DBOOST_BIND_GLOBAL_PLACEHOLDERS", "-DCAFFE_VERSION=1.0.0",
         "-include", "google/protobuf/descriptor.h",
         *(f"-I{path}" for path in [*includes, blas["BLAS_INCLUDE_DIR"]]),
         EMULATOR / "softmax.cpp", obj / messages, blas["BLAS_LIBRARY"],
         "-lprotobuf", "-lglog", "-lgflags", "-lboost_thread",
         "-lboost_system", "-o", folder / "softmax"],
        check=True,
    )  # fmt: skip
    return _bind(folder / "softmax")


def _bind(program: Path) -> SoftmaxLoss:
    """Run each call in its own process, since failed checks of Caffe abort it."""

    def call(device: str, text: str, scores: Array, labels: Array | None) -> Result:
        kind = {np.float32: "float", np.float64: "double"}[scores.dtype.type]
        n_labels = 0 if labels is None else labels.size
        sizes = map(str, (*scores.shape, n_labels))
        content = scores.tobytes() + (b"" if labels is None else labels.tobytes())
        done = subprocess.run(
            [program, device, kind, text, *sizes],
            input=content, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        found = np.frombuffer(done.stdout, scores.dtype)
        return Result(float(found[0]), found[1:].reshape(scores.shape))

    return call


def _by_hand(
    scores: Array, labels: Array | None, tau: float, normalization: str, weight: float
) -> Result:
    """-sum_c t_c log softmax(y / tau)_c, and (softmax(y / tau) - t) / tau."""
    exponential = np.exp(scores.astype(float) / tau)
    prob = exponential / exponential.sum(axis=1, keepdims=True)
    if labels is None:
        target = np.full_like(prob, 1 / CLASSES)
    else:
        target = labels[:, None, :] == np.arange(CLASSES)[:, None]
    factor = weight / {"NONE": 1, "BATCH_SIZE": N, "FULL": N * POSITIONS}[normalization]
    loss = -(target * np.log(prob)).sum()
    return Result(factor / weight * loss, factor * (prob - target) / tau)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau", [1.0, 2.0, 0.25])
@pytest.mark.parametrize("target", ["uniform", "label"])
@pytest.mark.parametrize("normalization", ["NONE", "BATCH_SIZE", "FULL"])
def test_loss_and_gradient(
    softmax_loss, rng, device, dtype, tau, target, normalization
) -> None:
    scores = rng.normal(size=(N, CLASSES, POSITIONS)).astype(dtype)
    labels = rng.integers(0, CLASSES, (N, POSITIONS)).astype(dtype)
    text = f"""
        loss_weight: 3  softmax_param {{ temperature: {tau} }}
        loss_param {{ normalization: {normalization}
                      uniform_label: {str(target == "uniform").lower()} }}
    """
    given = labels if target == "label" else None
    found = softmax_loss(device, text, scores, given)
    wanted = _by_hand(scores, given, tau, normalization, 3)
    near = {"rtol": 0, "atol": 1e-5 if dtype is np.float32 else 1e-12}
    np.testing.assert_allclose(found.gradient, wanted.gradient, **near)
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=10 * near["atol"])


@pytest.mark.parametrize("uniform", ["true", "false"])
@pytest.mark.parametrize("normalization", ["NONE", "BATCH_SIZE", "FULL", "VALID"])
def test_an_ignored_label_as_on_the_cpu(
    softmax_loss, rng, uniform: str, normalization: str
) -> None:
    scores = rng.normal(size=(N, CLASSES, POSITIONS))
    labels = rng.integers(0, CLASSES, (N, POSITIONS)).astype(float)
    labels[0, :2] = 1
    text = f"""
        softmax_param {{ temperature: 2 }}
        loss_param {{ normalization: {normalization}  uniform_label: {uniform}
                      ignore_label: 1 }}
    """
    cpu, gpu = (softmax_loss(where, text, scores, labels) for where in ("cpu", "gpu"))
    np.testing.assert_allclose(gpu.gradient, cpu.gradient, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gpu.loss, cpu.loss, rtol=1e-12)
    assert not gpu.gradient[0, :, :2].any()
