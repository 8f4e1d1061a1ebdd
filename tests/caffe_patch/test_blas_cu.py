"""Tests of the kernels that replace cuBLAS and cuRAND, compiled for the CPU.

They check what the kernels compute, index by index, but neither their speed nor
anything of a GPU's memory model.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulated_cuda.convert import as_cpp
from numpy.typing import NDArray

from conftest import ROOT

Array = NDArray[Any]

TYPES = {"S": (np.float32, ctypes.c_float), "D": (np.float64, ctypes.c_double)}


@pytest.fixture(scope="module")
def blas(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("blas")
    source = as_cpp((ROOT / "caffe_patch" / "blas.cu").read_text())
    assert source.count("emulate_together(") == 4  # gemm, twice, gemv and dot
    assert source.count("emulate(") == 5
    assert "<<<" not in source
    (folder / "blas.cpp").write_text(source)
    include = ROOT / "tests" / "caffe_patch" / "emulated_cuda"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{include}",
         "blas.cpp", "-o", "blas.so"],
        cwd=folder, check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(folder / "blas.so"))


@pytest.fixture
def handle(blas: ctypes.CDLL) -> ctypes.c_void_p:
    found = ctypes.c_void_p()
    assert blas.cublasCreate_v2(ctypes.byref(found)) == 0
    return found


@pytest.fixture(params=["S", "D"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _at(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _call(
    blas: ctypes.CDLL, handle: ctypes.c_void_p, kind: str, name: str
) -> Callable[..., int]:
    """Call a function. Numbers that are not integers are passed by address."""
    function = getattr(blas, f"cublas{kind}{name}")

    def call(*arguments: Any) -> int:
        made = [
            _at(a)
            if isinstance(a, np.ndarray)
            else ctypes.byref(TYPES[kind][1](a))
            if isinstance(a, float)
            else a
            for a in arguments
        ]
        return int(function(handle, *made))

    return call


# Within a square, over its edge, and enough of them for the large kernel.
SIZES = [(1, 1, 1), (33, 5, 7), (16, 32, 16), (70, 65, 20), (1030, 1025, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(blas, handle, kind: str, rng, size, trans) -> None:
    (m, n, k), dtype = size, TYPES[kind][0]
    # The leading dimensions are longer than need be, and what lies between is NaN.
    a_op, b_op = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    a, lda = _stored(a_op.T if trans[0] else a_op, dtype)
    b, ldb = _stored(b_op.T if trans[1] else b_op, dtype)
    c_before = rng.normal(size=(m, n))
    c, ldc = _stored(c_before, dtype)
    gemm = _call(blas, handle, kind, "gemm_v2")
    assert gemm(*trans, m, n, k, 0.5, a, lda, b, ldb, 2.0, c, ldc) == 0
    wanted = 0.5 * a_op @ b_op + 2 * c_before
    atol = (1e-5 if kind == "S" else 1e-12) * np.abs(wanted).max()
    np.testing.assert_allclose(c.T[:m], wanted, atol=atol)
    assert np.isnan(c.T[m:]).all()
    c[:] = np.nan  # what beta = 0 must not read
    assert gemm(*trans, m, n, k, 1.0, a, lda, b, ldb, 0.0, c, ldc) == 0
    np.testing.assert_allclose(c.T[:m], a_op @ b_op, atol=atol)


def _stored(matrix: Array, dtype: type) -> tuple[Array, int]:
    """Store a matrix by columns, with three values of NaN after each."""
    rows, columns = matrix.shape
    stored = np.full((columns, rows + 3), np.nan, dtype)
    stored[:, :rows] = matrix.T
    return stored, rows + 3


@pytest.mark.parametrize("size", [(1, 1), (300, 7), (5, 600)])
@pytest.mark.parametrize("trans", [0, 1])
def test_gemv(blas, handle, kind: str, rng, size, trans: int) -> None:
    (m, n), dtype = size, TYPES[kind][0]
    matrix = rng.normal(size=(m, n))
    a, lda = _stored(matrix, dtype)
    op = matrix.T if trans else matrix
    x = rng.normal(size=op.shape[1]).astype(dtype)
    y = rng.normal(size=op.shape[0]).astype(dtype)
    wanted = 1.5 * op @ x - y
    gemv = _call(blas, handle, kind, "gemv_v2")
    assert gemv(trans, m, n, 1.5, a, lda, x, 1, -1.0, y, 1) == 0
    np.testing.assert_allclose(y, wanted, atol=1e-4 if kind == "S" else 1e-12)
    y[:] = np.nan
    assert gemv(trans, m, n, 1.5, a, lda, x, 1, 0.0, y, 1) == 0
    np.testing.assert_allclose(y, 1.5 * op @ x, atol=1e-4 if kind == "S" else 1e-12)


@pytest.mark.parametrize("n", [0, 1, 255, 1000])
def test_vectors(blas, handle, kind: str, rng, n: int) -> None:
    x, y = (rng.normal(size=n).astype(TYPES[kind][0]) for _ in range(2))
    y_before, tight = y.copy(), {"rtol": 1e-5, "atol": 1e-4}
    result = np.full(1, np.nan, x.dtype)

    def call(name: str) -> Callable[..., int]:
        return _call(blas, handle, kind, name)

    assert call("dot_v2")(n, x, 1, y, 1, result) == 0
    np.testing.assert_allclose(result[0], x @ y, **tight)
    assert call("asum_v2")(n, x, 1, result) == 0
    np.testing.assert_allclose(result[0], np.abs(x).sum(), **tight)
    assert call("axpy_v2")(n, 0.5, x, 1, y, 1) == 0
    np.testing.assert_allclose(y, y_before + 0.5 * x, **tight)
    assert call("copy_v2")(n, x, 1, y, 1) == 0
    np.testing.assert_array_equal(y, x)
    assert call("scal_v2")(n, -2.0, y, 1) == 0
    np.testing.assert_allclose(y, -2 * x, **tight)
    assert call("scal_v2")(n, -2.0, y, 2) != 0  # refused, not computed wrongly


@pytest.fixture
def generator(blas: ctypes.CDLL) -> ctypes.c_void_p:
    found = ctypes.c_void_p()
    assert blas.curandCreateGenerator(ctypes.byref(found), 0) == 0
    return found


def _generate(blas: ctypes.CDLL, generator: Any, name: str, out: Array, *args: Any):
    function = getattr(blas, f"curandGenerate{name}")
    assert function(generator, _at(out), ctypes.c_size_t(out.size), *args) == 0
    return out


def test_philox_gives_the_words_of_its_authors(blas, generator) -> None:
    """The known answers for a counter and a key of zeros that Random123 ships."""
    words = _generate(blas, generator, "", np.zeros(5, np.uint32))
    assert words[0] == 0x6627E8D5
    assert len(set(words.tolist())) == 5
    later = _generate(blas, generator, "", np.zeros(5, np.uint32))
    assert not set(words.tolist()) & set(later.tolist())
    seed = blas.curandSetPseudoRandomGeneratorSeed
    assert seed(generator, ctypes.c_ulonglong(0)) == 0
    again = _generate(blas, generator, "", np.zeros(5, np.uint32))
    np.testing.assert_array_equal(again, words)


@pytest.mark.parametrize(
    ("suffix", "dtype", "real"),
    [("", np.float32, ctypes.c_float), ("Double", np.float64, ctypes.c_double)],
)
def test_random_values(blas, generator, suffix: str, dtype, real) -> None:
    n = 20000
    u = _generate(blas, generator, f"Uniform{suffix}", np.zeros(n, dtype))
    assert 0 < u.min() < 0.001
    assert 0.999 < u.max() <= 1
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    z = _generate(
        blas, generator, f"Normal{suffix}", np.zeros(n, dtype), real(3), real(2)
    )
    assert abs(z.mean() - 3) < 5 * 2 / np.sqrt(n)
    assert abs(z.std() - 2) < 5 * 2 / np.sqrt(2 * n)
    tails = (np.abs(z - 3) > 4).mean()  # beyond two standard deviations: 4.55 %
    assert abs(tails - 0.0455) < 5 * np.sqrt(0.0455 / n)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / np.sqrt(n)
