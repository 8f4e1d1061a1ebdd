"""Each command in a process of its own: what it imports, and whom it tells.

It imports the libraries that it needs, and no others; it reaches no other machine, and
writes nothing into HOME.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from conftest import ROOT
from fishing.cli.main import main
from fishing.evaluate import evaluate, write_results
from fishing.extract import extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.store import ExtractionSettings
from reliability.network import Ended, build

NET = ROOT / "models" / "tinyalexnet"
_PHOTO = "VOC2007/JPEGImages/test_005.jpg"
_NEW = "extract --net tinyalexnet --split test --output new.h5 --overwrite"
_NET = {"google", "onnx", "onnxruntime"}
# Commands, and the libraries that each may import, of those that take time to import;
# google is protobuf.
COMMANDS = {
    _NEW: {"h5py", "cv2", *_NET},
    f"{_NEW} --backend onnx": {"h5py", "cv2", *_NET},
    f"{_NEW} --backend openvino": {"h5py", "cv2", *_NET, "openvino"},
    f"{_NEW} --backend caffe": {"h5py", "cv2", "google"},
    "info features.h5 --verify": {"h5py"},
    "temper features.h5 --temperature 4 --output t4.h5": {"h5py", "google"},
    "search features.h5 --query-id test_005": {"h5py", "scipy"},
    "search features.h5 --query-id test_005 --sheet sheet.png": {
        "h5py",
        "scipy",
        "cv2",
    },
    f"search features.h5 --query {_PHOTO}": {"h5py", "scipy", "cv2", *_NET},
    "retrieval features.h5": {"h5py", "scipy"},
    f"classify features.h5 {_PHOTO} --feature x7": {
        *("h5py", "scipy", "sklearn", "cv2"),
        *_NET,
    },
    "score features.h5 --split test --reference trainval --output scores.csv": {
        *("h5py", "scipy"),
    },
    "select features.h5 --split test -k 2 --output ids.txt": {"h5py", "scipy"},
    "compress features.h5 --dimensions 8 --output small.h5": {"h5py"},
    "index features.h5 --output new.faiss --check": {"h5py", "scipy", "faiss"},
    "search features.h5 --index new.faiss --query-id test_005": {
        *("h5py", "scipy", "faiss"),
    },
    "import tiny/deploy.prototxt tiny/tinyalexnet.caffemodel --output imported": {
        *("h5py", "cv2"),
        *_NET,
    },
    "export --net tinyalexnet net.onnx": {"google", "onnx"},
    "evaluate features.h5 --feature x7 --output evaluated": {
        *("h5py", "scipy", "sklearn"),
    },
    "photographs photographs": {"cv2"},
    "report results --output page": {
        *("h5py", "scipy", "sklearn", "cv2", "jinja2", "matplotlib"),
    },
    "reproduce --net tinyalexnet --data VOC2007": {
        *("h5py", "scipy", "sklearn", "cv2", "requests", "tabulate"),
        *_NET,
    },
    "fetch tinyalexnet": {"requests"},  # it comes with the project
}
HEAVY = {
    *set().union(*COMMANDS.values()),
    *("openvino", "caffe", "skimage", "pandas", "pyarrow"),
    *("dask", "distributed"),
}
# The optional libraries by the command that needs them, and the extra that brings them.
EXTRAS = [
    ("score features.h5 --output new/scores.parquet", "pyarrow", "parquet"),
    ("index features.h5 --output new", "faiss", "faiss"),
    ("photographs new", "skimage", "demo"),
    ("report results", "jinja2", "report"),
    ("report results", "matplotlib", "report"),
    (
        "extract --net tinyalexnet --data VOC2007 --split test --output new --shards 1 "
        "--scheduler local",
        "distributed",
        "dask",
    ),
]
CHILD = """
import atexit, json, sys
from pathlib import Path
output, hidden = Path(sys.argv.pop(1)), sys.argv.pop(1)
sys.modules[hidden] = None  # as if it were not installed
atexit.register(lambda: output.write_text(json.dumps(sorted(sys.modules))))
from fishing.cli.main import main
main(prog_name="fishing")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def folder(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands take: features, results, a data set and a net."""
    folder = tmp_path_factory.mktemp("commands")
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(load_net("tinyalexnet")), lists, folder / "features.h5")
    write_results(evaluate(folder / "features.h5", features=["x7"]), folder / "results")
    (folder / "VOC2007").symlink_to(devkit)
    (folder / "tiny").symlink_to(NET)
    return folder


class Run:
    """Runs commands in processes that write the modules they have imported."""

    def __init__(self, library: Path, folder: Path, home: Path) -> None:
        self._library, self._folder, self._home = library, folder, home
        self.imported: set[str] = set()

    def __call__(self, command: str, hidden: str = "no_library") -> Ended:
        modules = self._home.with_name("modules.json")
        words = ("-c", CHILD, str(modules), hidden, *command.split())
        done = Ended(self._library, self._folder, self._home, *words)
        self.imported = {n.partition(".")[0] for n in json.loads(modules.read_text())}
        return done


@pytest.fixture
def run(library: Path, folder: Path, tmp_path: Path) -> Run:
    return Run(library, folder, tmp_path / "home")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_imports_what_it_needs_and_tells_nobody(run: Run, command: str) -> None:
    done = run(command)
    assert done.process.returncode == 0, done.process.stderr
    assert run.imported & HEAVY <= COMMANDS[command]
    assert (done.told, done.left) == ([], [])


def test_an_error_is_told_nobody(run: Run) -> None:
    done = run("extract --net nothing")
    assert done.process.returncode == 2
    assert (done.told, done.left) == ([], [])


def test_every_command_is_listed() -> None:
    assert {c.split()[0] for c in COMMANDS} == set(main.commands)


@pytest.mark.parametrize("command", ["--help", "search --help"])
def test_help_imports_no_library(run: Run, command: str) -> None:
    done = run(command)
    assert not run.imported & (HEAVY | {"numpy", "PIL", "tqdm"})
    assert (done.told, done.left) == ([], [])


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Path]:
    """Serve TinyAlexNet's weights to a net that lacks them."""
    net = tmp_path / "net"
    net.mkdir()
    (net / "deploy.prototxt").symlink_to(NET / "deploy.prototxt")
    handler = partial(SimpleHTTPRequestHandler, directory=NET)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/tinyalexnet.caffemodel"
        text = (NET / "net.toml").read_text()
        text = re.sub(r"^sources = .*\n", "", text, flags=re.M)
        (net / "net.toml").write_text(f'{text}\nsources = ["{url}"]\n')
        yield net
        server.shutdown()


def test_fetch_alone_connects(
    library: Path, folder: Path, tmp_path: Path, net: Path
) -> None:
    """This also shows that a connection would be seen."""
    run = Run(library, folder, tmp_path / "copy")
    copy = run(f"fetch {net} --from {NET / 'tinyalexnet.caffemodel'}")
    assert copy.process.returncode == 0, copy.process.stderr
    assert copy.told == []
    (tmp_path / "modules.json").unlink()
    run = Run(library, folder, tmp_path / "home")
    done = run(f"fetch {net}")
    assert done.process.returncode == 0, done.process.stderr
    assert any(line.startswith("connect") for line in done.told)
    assert {p.split("/")[0] for p in done.left} == {".cache"}
    assert run.imported & HEAVY == {"requests"}


@pytest.mark.parametrize(("command", "library_", "extra"), EXTRAS)
def test_a_missing_library_is_named_in_one_line(
    run: Run, folder: Path, command: str, library_: str, extra: str
) -> None:
    done = run(command, hidden=library_).process
    assert done.returncode == 2
    assert done.stderr == (
        f"fishing: expected the library '{library_}', found that it is not installed; "
        f"run `pip install 'fishing[{extra}]'`\n"
    )
    assert not (folder / "new").exists()


def test_extras_exist() -> None:
    text = (ROOT / "setup.py").read_text()
    for _, _, extra in EXTRAS:
        assert f'"{extra}": [' in text
