"""The commands and examples in README and docs, run in a sandbox; and the site.

A page has a folder of its own, in which its blocks run one after the other. There
VOCdevkit holds a few made-up images, and alexnet and vgg16 are TinyAlexNet under their
names, fetched from a server of this machine. A `text` block is what the block before it
prints: its lines, or how they begin, up to the last digits of figures.

Forks of one process run `fishing` and Python (forked_commands.py). Some commands are
checked instead of run; `_instead` says which, how and why.
"""

from __future__ import annotations

import ast
import functools
import http.server
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import h5py
import pytest

import fishing
from conftest import ROOT
from fishing.backends import parse_device
from fishing.cli.main import main
from fishing.errors import BackendError
from fishing.nets import load_net
from forked_commands import ForkedCommands
from nets.onnx_models import CHANNELS, CLASSES, Model

PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
BIN = Path(sys.executable).parent
WEIGHTS = "tinyalexnet.caffemodel"
# Pages that begin with a features file that is there.
STARTED = {"beyond.md", "format.md", "python.md", "scale.md"}
# Pages that fetch weights themselves.
FETCH = {"README.md", "guide.md"}
# The table of the demo as a terminal of 94 columns has it.
TERMINAL = """
import json
from fishing.evaluate import format_table
print(format_table(json.load(open("demo/results/results.json")), 94))
"""
# Runs a script as far as its parser of arguments.
PARSE_ONLY = """
import argparse, os, runpy, sys
parse = argparse.ArgumentParser.parse_args
argparse.ArgumentParser.parse_args = lambda *given: (parse(*given), sys.exit(0))
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit(f"{sys.argv[0]} has not parsed its arguments")
"""
MAKE = f"make --directory '{ROOT}' --assume-old .venv/installed"
# Languages that are read rather than run.
READ = {"text", "toml", "bibtex", "matlab", "py"}


class Block(NamedTuple):
    line: int
    language: str
    text: str


def _blocks(page: Path) -> list[Block]:
    found, start = [], None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if start is None and line.lstrip().startswith("```"):
            start = number
        elif start is not None and line.strip() == "```":
            language = lines[start - 1].strip().removeprefix("```")
            found.append(Block(start, language, "\n".join(lines[start : number - 1])))
            start = None
    assert start is None, f"{page}, line {start}: this block does not end"
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serve TinyAlexNet's weights."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=ROOT / "models" / "tinyalexnet"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}/{WEIGHTS}"
        http_server.shutdown()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """Copy the package, with stand-ins for the nets that would have to be fetched."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "fishing", folder / "fishing")
    tiny = ROOT / "models" / "tinyalexnet"
    (folder / "models").mkdir()
    (folder / "models" / "tinyalexnet").symlink_to(tiny)
    for name in ("alexnet", "vgg16"):
        net = folder / "models" / name
        net.mkdir()
        shutil.copy(tiny / "deploy.prototxt", net)
        text = (tiny / "net.toml").read_text()
        text = re.sub(r'^name = ".*"', f'name = "{name}"', text, flags=re.M)
        text = re.sub(r"^sources = .*\n", "", text, flags=re.M)
        (net / "net.toml").write_text(f'{text}\nsources = ["{server}"]\n')
    return folder


@pytest.fixture(scope="module")
def data(devkit: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out devkits, photos and what else the pages take for granted."""
    folder = tmp_path_factory.mktemp("data")
    ids = {p.stem: f"{i:06d}" for i, p in enumerate(_images(devkit), start=1)}
    for year, renamed in (
        ("2007", {}),
        ("2012", {"trainval": "train", "test": "val"}),
    ):
        copy = folder / "VOCdevkit" / f"VOC{year}"
        shutil.copytree(devkit, copy)
        for image in _images(copy):
            image.rename(image.with_stem(ids[image.stem]))
        for file in list((copy / "ImageSets" / "Main").iterdir()):
            text = re.sub(r"\w+_\d{3}", lambda m: ids[m[0]], file.read_text())
            file.write_text(text)
            *name, split = file.stem.split("_")
            file.rename(file.with_stem("_".join([*name, renamed.get(split, split)])))
    photos = folder / "VOCdevkit" / "VOC2007" / "JPEGImages"
    shutil.copytree(photos, folder / "photos")
    for i, image in enumerate(sorted(photos.iterdir())[:8]):
        split, name = ("train", "val")[i // 4], ("cat", "dog")[i % 2]
        (folder / "animals" / split / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / "animals" / split / name)
    shutil.copytree(folder / "animals" / "train", folder / "pets")
    shutil.copytree(folder / "animals" / "val", folder / "pets", dirs_exist_ok=True)
    shutil.copy(photos / "000001.jpg", folder / "photo.jpg")
    (folder / "photos" / "mine.txt").write_text("000001 cat\n000002 dog\n")
    (folder / "terminal.py").write_text(TERMINAL)
    (folder / "parse_only.py").write_text(PARSE_ONLY)
    (folder / "downloads").mkdir()
    (folder / "downloads" / "VGG_ILSVRC_16_layers.caffemodel").symlink_to(
        ROOT / "models" / "tinyalexnet" / WEIGHTS
    )
    _write_resnet50(folder / "resnet50.onnx")
    (folder / "caltech20").symlink_to(shared / "data" / "caltech20")
    (folder / "models").symlink_to(ROOT / "models")
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def _write_resnet50(path: Path) -> None:
    """Write a small model of ResNet-50's input."""
    model = Model()
    proto = model.proto(model.gemm(model.trunk(), "y8", CHANNELS, CLASSES))
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 224
    path.write_bytes(proto.SerializeToString())


def _images(devkit: Path) -> list[Path]:
    return sorted((devkit / "JPEGImages").iterdir())


def _environment(package: Path, home: Path) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("FISHING_")},
        "FISHING_HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "OPENBLAS_NUM_THREADS": "1",  # pages run side by side
    }


def _call(command: Sequence[object], folder: Path, environment: dict[str, str]) -> str:
    """Run a command that succeeds; return what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def begun(package: Path, data: Path, home: Path) -> Path:
    """Run once what several pages begin with: `make demo`, and an extraction."""
    environment = _environment(package, home)
    demo = [*shlex.split(MAKE), "demo", f"DEMO={data / 'demo'}"]
    (data / "demo.txt").write_text(_call(demo, data, environment))
    extract = ["fishing", "extract", "--net", "vgg16", "--split", "trainval"]
    extract += ["--split", "test", "--output", "begun.h5"]
    _call(extract, data, environment)
    return data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cache that has the weights."""
    home = tmp_path_factory.mktemp("home")
    cached = home / "weights" / str(load_net("tinyalexnet").weights.sha256)[:16]
    cached.mkdir(parents=True)
    (cached / WEIGHTS).symlink_to(ROOT / "models" / "tinyalexnet" / WEIGHTS)
    return home


@pytest.fixture(scope="module")
def runs(
    package: Path, begun: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """Run the pages side by side: most of their time goes into starting Python."""
    pool = ThreadPoolExecutor(os.cpu_count())
    futures = {}
    programs = tmp_path_factory.mktemp("bin")
    with ForkedCommands(programs, _environment(package, home)):
        for page in PAGES:
            folder = tmp_path_factory.mktemp("page")
            environment = _environment(
                package, folder / "home" if page.name in FETCH else home
            )
            environment["PATH"] = f"{programs}:{environment['PATH']}"
            futures[page] = pool.submit(_run, page, begun, folder, environment)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks(page: Path, runs: dict[Path, Future[None]]) -> None:
    runs[page].result()


def _run(page: Path, begun: Path, folder: Path, environment: dict[str, str]) -> None:
    """Run the blocks of a page, and compare what they print."""
    sandbox = folder / "sandbox"
    large = shutil.ignore_patterns("demo", "begun.h5")
    shutil.copytree(begun, sandbox, symlinks=True, ignore=large)
    (sandbox / "demo").symlink_to(begun / "demo")
    if page.name in STARTED:
        shutil.copy(begun / "begun.h5", sandbox / "features.h5")

    def run(command: Sequence[object]) -> str:
        return _call(command, sandbox, environment)

    printed = ""
    for blocks in _stretches(_blocks(page)):
        if blocks[0].language == "sh":
            lines = [_instead(line) for line in blocks[0].text.splitlines()]
            printed = run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)])
        elif blocks[0].language == "matlab":
            _read_matlab(blocks[0].text, sandbox)
        elif blocks[0].language == "py":
            _read_python(blocks[0].text)
        elif blocks[0].language == "toml":
            _read_net(blocks[0].text, sandbox / "toml")
        elif blocks[0].language == "python":
            code = [b.text for b in blocks if b.language == "python"]
            printed = run(["python", "-c", "\n".join(code)])
        expected = [b for b in blocks if b.language == "text"]
        _compare("\n".join(b.text for b in expected), printed, str(expected))


def _stretches(blocks: list[Block]) -> Iterator[list[Block]]:
    """Cut a page, but not between blocks of Python: they go on from each other."""
    stretch: list[Block] = []
    for block in blocks:
        assert block.language in READ | {"sh", "python"}, (
            f"{block}: say what this is: ```sh, python, text, ..."
        )
        goes_on = block.language == stretch[0].language == "python" if stretch else True
        if not goes_on and block.language != "text":
            yield stretch
            stretch = []
        stretch.append(block)
    if stretch:
        yield stretch


def _command(line: str) -> str:
    return line.partition("#")[0].strip()


def _instead(line: str) -> str:
    """Say what is run for a line of a shell.

    `make demo` has run once for all pages. Otherwise `make` builds Caffe, runs these
    tests, or needs a GPU: make itself checks target and variables, and prints what it
    would do. Scripts of tests/ take minutes to hours:
    their own parsers check the arguments. Extractions on a GPU run on the CPU.
    """
    command = _command(line)
    if command == "make demo":
        return "cat demo.txt; python terminal.py"
    if command.startswith("make gpu-check"):
        plan = f"{MAKE} --dry-run --no-print-directory {command.removeprefix('make ')}"
        script = f"sed -n 's|^.*python tests/gpu/|{ROOT}/tests/gpu/|p' | tail -n 1"
        return f"{plan} | {script} | xargs python parse_only.py"
    if command.startswith("make "):
        return f"{MAKE} --dry-run {command.removeprefix('make ')}"
    if script := re.match(r"\.venv/bin/python (tests/.*)", command):
        return f"python parse_only.py '{ROOT}'/{script[1]}"
    return re.sub(r"--device (gpu\S*)", _on_the_cpu, line)


def _on_the_cpu(device: re.Match[str]) -> str:
    parse_device(device[1])
    return "--device cpu"


def _compare(expected: str, printed: str, place: str) -> None:
    """Find lines, or how they begin, one after the other in what was printed."""
    found = iter(printed.splitlines())
    for line in filter(str.strip, expected.splitlines()):
        assert any(_begins(other, line) for other in found), (
            f"{place}: expected '{line}' in\n{printed}"
        )


def _begins(line: str, beginning: str) -> bool:
    words = line.replace("*", "").split()
    expected = beginning.replace("*", "").split()
    pairs = zip(words, expected, strict=False)
    return len(words) >= len(expected) and all(itertools.starmap(_equal, pairs))


def _equal(word: str, expected: str) -> bool:
    if not re.fullmatch(r"-?\d+\.\d+", expected):
        return word == expected
    # BLAS rounds on each processor in its way, which may swap two images of a class.
    tolerance = 0.5 if abs(float(expected)) > 2 else 0.01
    return bool(re.fullmatch(r"-?\d+\.\d+", word)) and (
        abs(float(word) - float(expected)) <= tolerance
    )


def _read_net(text: str, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(ROOT / "models" / "tinyalexnet" / "deploy.prototxt", folder)
    (folder / "net.toml").write_text(text)
    load_net(str(folder))


def _read_python(text: str) -> None:
    """Check Python that needs weights from the network: it names what there is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "fishing" or hasattr(fishing, node.attr), node.attr


def _read_matlab(text: str, sandbox: Path) -> None:
    """Check that MATLAB's examples, which cannot be run, name what is in the file."""
    calls = re.findall(r"(h5read|h5readatt)\('(.*?)', '(.*?)'(?:, '(.*?)')?\)", text)
    assert len(calls) == text.count("h5read")
    for function, name, path, attribute in calls:
        with h5py.File(sandbox / name) as file:
            assert path in file
            assert function == "h5read" or attribute in file[path].attrs


def test_other_output_is_found_out() -> None:
    printed = "headline\ndW7  68.3*  12.0\nx 0.16445\n"
    for expected in ("dW7 68.7", "headline\n\nx 0.16450", "dW7 67.9 12.0\nx"):
        _compare(expected, printed, "")
    for other in ("dW7 67.7", "dW7 68.3 12.0 7.0", "x 0.17\ndW7", "x 0.19", "x7"):
        with pytest.raises(AssertionError):
            _compare(other, printed, "")


@pytest.mark.parametrize(
    "line",
    [
        "make no-such-target",
        "make gpu-check CHECK=--no-such-option",
        ".venv/bin/python tests/campaigns/kills.py --no-such-option",
        ".venv/bin/python tests/benchmarks/no_such_script.py",
        ".venv/bin/python tests/conftest.py",
    ],
)
def test_a_wrong_command_is_found_out(line: str, data: Path) -> None:
    command = ["bash", "-euo", "pipefail", "-c", _instead(line)]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=data, env=environment, capture_output=True)
    assert done.returncode != 0


@pytest.mark.parametrize(
    "script",
    [
        path
        for folder in ("benchmarks", "campaigns")
        for path in sorted((ROOT / "tests" / folder).glob("*.py"))
        if "ArgumentParser(" in path.read_text()
        and path.stem != "guided"  # needs a library that is not installed here
    ],
    ids=lambda path: path.stem,
)
def test_scripts_start(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert script.name in capsys.readouterr().out


def test_a_wrong_device_is_found_out() -> None:
    assert _instead("fishing x --device gpu:0,1 -k 1") == "fishing x --device cpu -k 1"
    with pytest.raises(BackendError):
        _instead("fishing extract --device gpu:0,0")


def test_every_command_is_in_the_guide() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in main.commands:
        assert f"fishing {name}" in texts


def test_the_picture_shows_the_figures_of_the_demo() -> None:
    path = ROOT / "docs" / "images" / "report.svg"
    assert path.stat().st_size < 60_000
    texts = [t for t in ElementTree.parse(path).getroot().itertext() if t.strip()]
    shown = {
        name: float(value.replace("\N{MINUS SIGN}", "-"))
        for name, value in (t.split() for t in texts if re.fullmatch(r"\S+  ?\S+", t))
        if re.fullmatch(r"\D\d+\.\d", value)
    }
    table: dict[str, list[float]] = {}
    rows = [
        block.text
        for block in _blocks(ROOT / "docs" / "benchmarks.md")
        if block.text.startswith("Average precision")
    ]
    for line in rows[0].replace("*", "").splitlines()[1:]:
        name, *values = line.split() or [""]
        if name in ("x7", "dW7"):
            table.setdefault(name, []).extend(map(float, values))
    expected = [a - b for a, b in zip(table["dW7"], table["x7"], strict=True)][1:]
    assert sorted(shown.values()) == pytest.approx(sorted(expected), abs=0.11)
    assert shown["color"] == max(shown.values())


def test_the_site(tmp_path: Path) -> None:
    command = [str(BIN / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    for uri in ("tutorial/", "paper/", "models/tinyalexnet/PROVENANCE/"):
        assert f'href="{uri}"' in home
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert {f"fishing.{name}" for name in fishing.__all__} <= set(listed)
    for name in (*listed[:-1], "fishing.errors.FishingError"):
        assert f'id="{name}"' in api
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(\w+://[^"]+)', html
        )
        assert not loaded, page
