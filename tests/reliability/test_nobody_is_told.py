"""No backend or function reaches another machine or writes into HOME.

tests/cli/test_each_command.py shows the same of the commands.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import ROOT
from fishing.cli.main import main
from reliability.network import Ended, build

SCRIPTS = {
    "estimator": "import fishing; fishing.GradientFeatures(net='tinyalexnet').transform"
    "(['VOC2007/JPEGImages/test_005.jpg'])",
    "openvino": "import fishing; fishing.GradientFeatures(net='tinyalexnet', "
    "backend='openvino').transform(['VOC2007/JPEGImages/test_005.jpg'])\n"
    "import openvino.tools.ovc",
    "plots": "import fishing.report.plots",
    "names": "import fishing; [getattr(fishing, n) for n in fishing.__all__]",
    "snippet": "",  # of docs/guide.md, see below
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def folder(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untold")
    (folder / "VOC2007").symlink_to(devkit)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_functions(library: Path, folder: Path, tmp_path: Path, name: str) -> None:
    script = SCRIPTS[name]
    if name == "snippet":
        main(
            ["export", "--net", "tinyalexnet", str(folder / "vgg16-gradients.onnx")],
            standalone_mode=False,
        )
        text = (ROOT / "docs" / "guide.md").read_text()
        (script,) = re.findall(r"```python\n(.*?onnxruntime.*?)```", text, re.S)
    done = Ended(library, folder, tmp_path / "home", "-c", script)
    assert done.process.returncode == 0, done.process.stderr
    assert (done.told, done.left) == ([], [])


def test_a_library_that_was_imported_before_is_quiet(
    library: Path, folder: Path, tmp_path: Path
) -> None:
    """What it did while it was imported is past; HOME gets nothing more."""
    script = (
        "import onnxruntime, pathlib\n"
        "list_all = lambda: sorted(pathlib.Path.home().rglob('*'))\n"
        "before = list_all()\n" + SCRIPTS["estimator"] + "\nassert list_all() == before"
    )
    done = Ended(library, folder, tmp_path / "home", "-c", script)
    assert done.process.returncode == 0, done.process.stderr


def test_a_local_cluster_stays_on_the_loopback(
    library: Path, folder: Path, tmp_path: Path
) -> None:
    command = "-m fishing extract --net tinyalexnet --split test --output new --shards"
    home = tmp_path / "home"
    done = Ended(library, folder, home, *command.split(), "1", "--scheduler", "local")
    assert done.process.returncode == 0, done.process.stderr
    assert set(done.told) == {
        *("socket 2", "getaddrinfo 127.0.0.1", "connect 127.0.0.1")
    }
    assert done.left == []


@pytest.mark.parametrize(
    "script",
    [
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.gethostbyname('localhost')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import ctypes; ctypes.CDLL(None).gethostbyname(b'localhost')",
        "import os; os.fork() or ctypes.CDLL(None).socket(10, 1, 0)",
    ],
)
def test_what_is_told_is_seen(library: Path, tmp_path: Path, script: str) -> None:
    done = Ended(library, tmp_path, tmp_path / "home", "-c", f"import ctypes\n{script}")
    assert done.told
