"""No command, backend or function reaches another machine or writes into HOME.

`network.c` is preloaded into each process, so what C and C++ libraries do counts too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from conftest import ROOT
from fishing.backends import BACKENDS
from fishing.cli.main import main
from fishing.evaluate import evaluate, write_results
from fishing.extract import extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.store import ExtractionSettings

NET = ROOT / "models" / "tinyalexnet"
_NEW = "extract --net tinyalexnet --split test --output new.h5 --overwrite"
COMMANDS = [
    *(f"{_NEW} --backend {backend}" for backend in ("auto", *BACKENDS[:3])),
    "info features.h5 --verify",
    "temper features.h5 --temperature 4 --output t4.h5",
    "search features.h5 --query-id test_005 --sheet sheet.png",
    "search features.h5 --query VOC2007/JPEGImages/test_005.jpg",
    "retrieval features.h5",
    "classify features.h5 VOC2007/JPEGImages/test_005.jpg --feature x7",
    "score features.h5 --split test --output scores.csv",
    "select features.h5 --split test -k 2 --output ids.txt",
    "compress features.h5 --dimensions 8 --output small.h5",
    "index features.h5 --output new.faiss --check",
    "import tiny/deploy.prototxt tiny/tinyalexnet.caffemodel --output imported",
    "export --net tinyalexnet net.onnx",
    "evaluate features.h5 --feature x7 --output evaluated",
    "photographs photographs",
    "report results --output page",
    "reproduce --net tinyalexnet --data VOC2007",
    "fetch tinyalexnet",  # it comes with the project
    "--help",
    "extract --net nothing",
]
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
    """Compile network.c, as the tests of faults compile theirs."""
    library = tmp_path_factory.mktemp("network") / "network.so"
    source = Path(__file__).with_name("network.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return library


@pytest.fixture(scope="module")
def folder(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands take."""
    folder = tmp_path_factory.mktemp("untold")
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(load_net("tinyalexnet")), lists, folder / "features.h5")
    write_results(evaluate(folder / "features.h5", features=["x7"]), folder / "results")
    (folder / "VOC2007").symlink_to(devkit)
    (folder / "tiny").symlink_to(NET)
    return folder


class Ended:
    """How a process ended, what it told the network, and what it left in HOME."""

    def __init__(self, library: Path, folder: Path, home: Path, *command: str) -> None:
        home.mkdir()
        log = home.with_name("network.log")
        hidden = re.compile("FISHING_|XDG_|MPL|ORT_|USER|LOGNAME|PYTEST|DO_NOT_TRACK")
        variables = {k: v for k, v in os.environ.items() if not hidden.match(k)}
        self.process = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={
                **variables,
                "HOME": str(home),
                "LD_PRELOAD": str(library),
                "NETWORK_LOG": str(log),
                "FISHING_VOC": "VOC2007",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
        )
        self.told = log.read_text().splitlines() if log.exists() else []
        self.left = [str(p.relative_to(home)) for p in home.rglob("*")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(library: Path, folder: Path, tmp_path: Path, command: str) -> None:
    done = Ended(library, folder, tmp_path / "home", "-m", "fishing", *command.split())
    if command != "extract --net nothing":
        assert done.process.returncode == 0, done.process.stderr
    assert (done.told, done.left) == ([], [])


def test_every_command_is_listed() -> None:
    assert {c.split()[0] for c in COMMANDS} - {"--help"} == set(main.commands)


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


@pytest.fixture
def server() -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=NET)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/tinyalexnet.caffemodel"
        server.shutdown()


def test_fetch_alone_connects(
    library: Path, folder: Path, tmp_path: Path, server: str
) -> None:
    """This also shows that a connection would be seen."""
    net = tmp_path / "net"
    net.mkdir()
    (net / "deploy.prototxt").write_bytes((NET / "deploy.prototxt").read_bytes())
    text = re.sub(r"^sources = .*\n", "", (NET / "net.toml").read_text(), flags=re.M)
    (net / "net.toml").write_text(f'{text}\nsources = ["{server}"]\n')
    fetch = ("-m", "fishing", "fetch", str(net))
    copy = Ended(
        *(library, folder, tmp_path / "copy", *fetch, "--from"),
        str(NET / "tinyalexnet.caffemodel"),
    )
    assert copy.process.returncode == 0, copy.process.stderr
    assert copy.told == []
    done = Ended(library, folder, tmp_path / "home", *fetch)
    assert done.process.returncode == 0, done.process.stderr
    assert any(line.startswith("connect") for line in done.told)
    assert {p.split("/")[0] for p in done.left} == {".cache"}


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
