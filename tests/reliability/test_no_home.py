"""A user without a name and a home folder, as containers of OpenShift run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from fishing.errors import NetError
from fishing.nets import load_net, weights_path
from fishing.nets.weights import cache_folder

_CHILD = """
import pwd, sys

def nobody(*_):
    raise KeyError("getpwuid(): uid not found: 1000650000")

pwd.getpwuid = pwd.getpwnam = nobody
from fishing.cli.main import main
main(sys.argv[1:], prog_name="fishing")
"""


def _run(folder: Path, *arguments: object, **variables: str) -> tuple[int, str]:
    homes = ("HOME", "FISHING_HOME", "XDG_", "USER", "LOGNAME", "MPLCONFIGDIR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(homes)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, arguments)],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("backend", ["onnx", "openvino", "caffe"])
def test_the_net_that_ships_needs_no_home(
    devkit: Path, tmp_path: Path, backend: str
) -> None:
    extract = ["extract", "--net", "tinyalexnet", "--data", devkit, "--output", "f.h5"]
    steps = [
        [*extract, "--split", "trainval", "--split", "test", "--backend", backend],
        ["evaluate", "f.h5", "--feature", "x7", "--output", "r"],
        ["report", "r", "--output", "page"],
        ["temper", "f.h5", "--temperature", 4, "--output", "t.h5"],
        ["fetch", "tinyalexnet"],
        ["photographs", "photographs"],
    ]
    for step in steps if backend == "onnx" else steps[:1]:
        code, said = _run(tmp_path, *step)
        assert code == 0, said


@pytest.mark.parametrize(
    "command",
    ["fetch vgg16", "extract --net vgg16 --data data", "export --net vgg16 n.onnx"],
)
@pytest.mark.parametrize("home", [None, "~", "~/cache"])
def test_where_to_put_weights_is_asked(
    devkit: Path, tmp_path: Path, command: str, home: str | None
) -> None:
    (tmp_path / "data").symlink_to(devkit / "JPEGImages")
    variables = {} if home is None else {"FISHING_HOME": home}
    code, said = _run(tmp_path, *command.split(), **variables)
    assert code == 2
    assert said.count("\n") == 1
    assert said.endswith("set FISHING_HOME\n")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = _run(tmp_path, "fetch", "vgg16", HOME=str(tmp_path / "file"))
    assert code == 2
    assert "Not a directory; set FISHING_HOME to a folder that can be written" in said


def test_a_tilde_is_the_home(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FISHING_HOME", "~/nets")
    assert cache_folder() == tmp_path / "nets"
    with pytest.raises(NetError, match=f"{tmp_path}/nets/weights/.*run `fishing fetch"):
        weights_path(load_net("vgg16"))
