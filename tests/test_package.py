"""The package as it is released: metadata, sdist and wheel, and the wheel in use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from click.testing import CliRunner

import fishing
from conftest import ROOT
from fishing.cli.main import main

# Imports what the commands below use, and lists the libraries that were loaded.
LOADED = """
import re
import cv2, h5py, onnxruntime, skimage, sklearn.svm
maps = open("/proc/self/maps").read()
print(sorted(set(re.findall(r"/([^/\\n]+[.]so[^/\\n]*)$", maps, re.M))))
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the sdist, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("released")
    left_out = shutil.ignore_patterns(
        *(".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache", "*.h5")
    )
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    command = [sys.executable, "-m", "build", "--outdir", folder, folder / "source"]
    subprocess.run(command, check=True)
    return folder


def test_the_version_stands_in_one_place() -> None:
    printed = CliRunner().invoke(main, ["--version"]).output
    assert printed == f"fishing, version {fishing.__version__}\n"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {fishing.__version__}\n" in citation
    holders = [
        path.name
        for path in (ROOT / "setup.py", ROOT / "Makefile", ROOT / "mkdocs.yml")
        if re.search(rf"\b{re.escape(fishing.__version__)}\b", path.read_text())
    ]
    assert not holders


@pytest.mark.slow
def test_wheel_and_sdist_are_whole(released: Path) -> None:
    (wheel,) = released.glob("*.whl")
    (sdist,) = released.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = message_from_bytes(
            archive.read(next(n for n in names if n.endswith("dist-info/METADATA")))
        )
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fishing").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    nets = {
        f"fishing/{path.relative_to(ROOT)}" for path in (ROOT / "models").glob("*/*")
    }
    assert {n for n in names if ".dist-info/" not in n} == modules | nets
    _check(metadata, names)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "tests/conftest.py", "docs/guide.md", "NOTICE"} <= packed
    assert modules | {"caffe_patch/softmax.patch", "CITATION.cff"} <= packed


def _check(metadata: Message, names: set[str]) -> None:
    assert metadata["Version"] == fishing.__version__
    assert "BSD-2-Clause" in (metadata["License"] or metadata["License-Expression"])
    assert metadata["Author"] is None
    assert metadata["Author-email"] is None
    classifiers = metadata.get_all("Classifier") or []
    assert "Programming Language :: Python :: 3.10" in classifiers
    for file in ("LICENSE", "NOTICE"):
        assert file in metadata.get_all("License-File", [])
        assert any(re.search(rf"dist-info/(.*/)?{file}$", name) for name in names)


@pytest.mark.slow
def test_the_wheel_runs_on_a_bare_server(released: Path, tmp_path: Path) -> None:
    (wheel,) = released.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # -I: whatever PYTHONPATH names, such as the source, is not there.
    install = [python, "-I", "-m", "pip", "install", "--quiet", f"{wheel}[demo]"]
    subprocess.run(install, check=True)
    (tmp_path / "home").mkdir()
    environment = {"PATH": str(python.parent), "HOME": str(tmp_path / "home")}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert fishing.__version__ in run("fishing", "--version")
    run("fishing", "photographs", "photos")
    splits = ("--split", "trainval", "--split", "test")
    run("fishing", "extract", "--net", "tinyalexnet", "--data", "photos", *splits)
    features = ("--feature", "x7", "--feature", "dW7")
    record = json.loads(run("fishing", "evaluate", "features.h5", *features, "--json"))
    means = {name: 100 * each["mAP"] for name, each in record["features"].items()}
    assert means == pytest.approx({"x7": 66.1, "dW7": 68.3}, abs=0.3)
    loaded = run("python", "-c", LOADED)
    assert "libonnxruntime" in loaded or "onnxruntime_pybind11_state" in loaded
    assert not re.search(r"libGL|libX11|libQt|libgtk|caffe", loaded)
