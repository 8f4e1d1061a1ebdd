"""Tests of the bundle: what is packed, and that its bytes are the same each time."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "caffe_patch")
    return importlib.import_module("bundle")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("numpy/_core/numeric.py", True),
        ("numpy/testing/__init__.py", True),
        ("numpy/_core/tests/test_api.py", False),
        ("numpy/f2py/crackfortran.py", False),
        ("test/test_os.py", False),
        ("unittest/case.py", True),
        ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", False),
        ("lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so", True),
        ("site-packages/pip/__init__.py", False),
        ("json/__pycache__/decoder.cpython-311.pyc", False),
        ("config-3.11-x86_64-linux-gnu/libpython3.11.a", False),
        ("google/protobuf/descriptor.py", True),
    ],
)
def test_what_is_left_out(bundle, name: str, kept: bool) -> None:
    assert (bundle.LEFT_OUT.search(name) is None) is kept


def test_the_c_library_stays_at_home(bundle) -> None:
    for name in ("libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libpthread.so.0"):
        assert bundle.GLIBC.match(name)
    for name in ("libcublas.so.13", "libcrypto.so.3", "libmd.so.0", "libstdc++.so.6"):
        assert not bundle.GLIBC.match(name)


def test_the_check_imports_nothing_that_is_not_packed(bundle, tmp_path: Path) -> None:
    bundle.copy_fishing(tmp_path)
    code = """if True:
        import check, speed  # all but what a checkout alone has
        from fishing.backends import open_backend, run_ahead
        from fishing.backends.caffe import CaffeBackend
        from fishing.backends.caffe.process import CaffeNet
        from fishing.nets import load_net, read_net, read_weights, weights_path
        spec = load_net("tinyalexnet")
        print(len(read_net(spec.model).layer), len(read_weights(weights_path(spec))))
    """
    folders = [tmp_path, ROOT / "tests" / "gpu", ROOT / "caffe_patch"]
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, folders))},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("24 8\n", "")


def test_a_package_is_copied_and_works(bundle, tmp_path: Path) -> None:
    bundle.copy_package("six", tmp_path)
    code = "import six; print(six.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.startswith(str(tmp_path))


def test_the_c_library_that_is_wanted(bundle) -> None:
    major, minor = bundle.wanted_glibc([Path(sys.executable).resolve()])
    assert major == 2
    assert 2 < minor < 100


def test_packing_twice_gives_the_same_bytes(bundle, tmp_path: Path) -> None:
    archives = []
    for number, time in enumerate((1e9, 1.5e9)):
        folder = tmp_path / str(number)
        for name in ("b/run", "a.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            bundle.os.utime(folder / name, (time, time))
        (folder / "b/run").chmod(0o755)
        bundle.pack(folder, tmp_path / f"{number}.tar.xz")
        archives.append((tmp_path / f"{number}.tar.xz").read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(tmp_path / "0.tar.xz") as tar:
        assert tar.getnames() == [f"{bundle.NAME}/a.txt", f"{bundle.NAME}/b/run"]
        assert tar.getmember(f"{bundle.NAME}/b/run").mode & 0o111


def test_a_bundle_that_is_too_large(bundle, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA", "1")
    monkeypatch.setattr(bundle, "BUILD", tmp_path / "build" / "caffe")
    monkeypatch.setattr(sys.modules["build"], "BUILD", tmp_path / "build" / "caffe")
    monkeypatch.setattr(bundle, "configure", lambda: tmp_path)
    monkeypatch.setattr(bundle, "ninja", lambda *_: None)
    monkeypatch.setattr(bundle, "fill", lambda folder, obj: folder.mkdir())
    monkeypatch.setattr(bundle, "MOST_BYTES", 1)
    with pytest.raises(bundle.BuildError, match="fewer architectures with CUDA_ARCH"):
        bundle.make_bundle()
    assert not list((tmp_path / "build").glob("*.xz"))


def test_a_bundle_for_the_cpu_is_refused(bundle, monkeypatch, capsys) -> None:
    monkeypatch.delenv("CUDA", raising=False)
    monkeypatch.setenv("CUDA_ARCH", "")  # put back when the test is over
    assert bundle.main() == 2
    assert bundle.os.environ["CUDA_ARCH"] == "all"
    assert "make caffe-bundle CUDA=1" in capsys.readouterr().err
