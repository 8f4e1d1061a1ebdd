"""Each command imports the libraries that it needs, and no others."""

from __future__ import annotations

import json
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
from fishing.cli.main import main
from fishing.evaluate import evaluate, write_results
from fishing.extract import extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.store import ExtractionSettings

# The libraries that each command may import, of those that take time to import; google
# is protobuf.
MAY_IMPORT = {
    "fetch": {"requests"},
    "info": {"h5py"},
    "import": {"h5py", "cv2", "google", "onnx", "onnxruntime"},
    "compress": {"h5py"},
    "index": {"h5py", "scipy", "faiss"},
    "search --index": {"h5py", "scipy", "faiss"},
    "temper": {"h5py", "google"},
    "search --query-id": {"h5py", "scipy"},
    "search --query": {"h5py", "scipy", "cv2", "google", "onnx", "onnxruntime"},
    "retrieval": {"h5py", "scipy"},
    "extract": {"h5py", "cv2", "google", "onnx", "onnxruntime"},
    "export": {"google", "onnx"},
    "evaluate": {"h5py", "scipy", "sklearn"},
    "classify": {"h5py", "scipy", "sklearn", "cv2", "google", "onnx", "onnxruntime"},
    "score": {"h5py", "scipy"},
    "select": {"h5py", "scipy"},
    "photographs": {"cv2"},
    "report": {"h5py", "scipy", "sklearn", "cv2", "jinja2", "matplotlib"},
    "reproduce": {
        *("h5py", "scipy", "sklearn", "cv2", "google", "onnx", "onnxruntime"),
        *("requests", "tabulate"),
    },
}
HEAVY = {
    *set().union(*MAY_IMPORT.values()),
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
def folder(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands take: features, results, and a net to fetch."""
    folder = tmp_path_factory.mktemp("commands")
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(load_net("tinyalexnet")), lists, folder / "features.h5")
    evaluation = evaluate(folder / "features.h5", features=["x7"])
    write_results(evaluation, folder / "results")
    (folder / "VOC2007").symlink_to(devkit)
    weights = "tinyalexnet.caffemodel"
    (folder / weights).symlink_to(ROOT / "models" / "tinyalexnet" / weights)
    return folder


@pytest.fixture(scope="module")
def net(folder: Path) -> Iterator[Path]:
    """Serve TinyAlexNet's weights to a net that lacks them."""
    tiny = ROOT / "models" / "tinyalexnet"
    net = folder / "net"
    net.mkdir()
    (net / "deploy.prototxt").symlink_to(tiny / "deploy.prototxt")
    handler = partial(SimpleHTTPRequestHandler, directory=tiny)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/tinyalexnet.caffemodel"
        text = (tiny / "net.toml").read_text()
        text = re.sub(r"^sources = .*\n", "", text, flags=re.M)
        (net / "net.toml").write_text(f'{text}\nsources = ["{url}"]\n')
        yield net
        server.shutdown()


def _run(
    folder: Path, command: str, hidden: str = "no_library"
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that writes the modules it has imported at its end."""
    arguments = [str(folder / "modules.json"), hidden, *command.split()]
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=folder,
        env={**os.environ, "FISHING_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
    )


def _imported(folder: Path, command: str) -> set[str]:
    """Run a command that succeeds; return the top-level modules at its end."""
    output = folder / "modules.json"
    done = _run(folder, command)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(output.read_text())}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fetch", "net"),
        (
            "import",
            "net/deploy.prototxt tinyalexnet.caffemodel --output imported",
        ),
        ("info", "features.h5 --verify"),
        ("compress", "features.h5 --dimensions 4"),
        ("temper", "features.h5 --temperature 4"),
        ("index", "features.h5 --output dW7.faiss --check"),
        ("search --index", "dW7.faiss features.h5 --query-id test_005"),
        ("search --query-id", "test_005 features.h5"),
        ("search --query", "VOC2007/JPEGImages/test_005.jpg features.h5"),
        ("retrieval", "features.h5"),
        ("extract", "--net tinyalexnet --data VOC2007 --split test --output new.h5"),
        ("export", "--net tinyalexnet net.onnx"),
        ("evaluate", "features.h5 --feature x7 --output evaluated"),
        ("classify", "features.h5 VOC2007/JPEGImages/test_005.jpg"),
        ("score", "features.h5 --reference trainval"),
        ("select", "features.h5 --split test -k 3"),
        ("photographs", "photographs"),
        ("report", "results --data VOC2007"),
        ("reproduce", "--net tinyalexnet --data VOC2007"),
    ],
)
def test_a_command_imports_what_it_needs(
    folder: Path, net: Path, name: str, arguments: str
) -> None:
    imported = _imported(folder, f"{name} {arguments}")
    assert imported & HEAVY <= MAY_IMPORT[name]


def test_every_command_is_listed() -> None:
    assert {name.split()[0] for name in MAY_IMPORT} == set(main.commands)


def test_help_imports_no_library(folder: Path) -> None:
    for command in ("--help", "search --help"):
        imported = _imported(folder, command)
        assert not imported & (HEAVY | {"numpy", "PIL", "tqdm"})


@pytest.mark.parametrize(("command", "library", "extra"), EXTRAS)
def test_a_missing_library_is_named_in_one_line(
    folder: Path, command: str, library: str, extra: str
) -> None:
    done = _run(folder, command, hidden=library)
    assert done.returncode == 2
    assert done.stderr == (
        f"fishing: expected the library '{library}', found that it is not installed; "
        f"run `pip install 'fishing[{extra}]'`\n"
    )
    assert not (folder / "new").exists()


def test_extras_exist() -> None:
    text = (ROOT / "setup.py").read_text()
    for _, _, extra in EXTRAS:
        assert f'"{extra}": [' in text
