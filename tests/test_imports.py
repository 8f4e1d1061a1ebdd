"""Data flows one way: a folder imports only the folders that stand before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "fishing"
GROUND = {"errors", "files", "processes", "progress"}
# The chain that the README shows. Folders of one line do not know each other.
CHAIN = (
    {"nets", "images"},
    {"backends"},
    {"store"},
    {"extract"},
    {"kernels"},
    {"evaluate"},
    {"search", "paper", "report"},
    {"cli"},
)
# The report shows the paper's figures beside those of an evaluation.
ALLOWED = {("report", "paper")}
FOLDERS = sorted(set().union(*CHAIN))


def modules() -> dict[str, Path]:
    """Find all modules by their name below the package."""
    files = (p for p in PACKAGE.rglob("*.py") if "models" not in p.parts)
    return {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p
        for p in files
        if p.name != "__init__.py"
    }


def imports(path: Path) -> set[str]:
    """Name what a module imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
    return found


def own_imports(path: Path) -> set[str]:
    return {
        i.removeprefix("fishing.") for i in imports(path) if i.startswith("fishing.")
    }


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_folder_has_its_place() -> None:
    rooms = {room(name) for name in modules()}
    assert rooms == {*FOLDERS, *GROUND, "__main__"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_data_flows_one_way(folder: str) -> None:
    place = next(i for i, rooms in enumerate(CHAIN) if folder in rooms)
    allowed = GROUND.union({folder}, *CHAIN[:place])
    allowed |= {to for one, to in ALLOWED if one == folder}
    for name, path in modules().items():
        if room(name) == folder:
            upwards = {i for i in own_imports(path) if room(i) not in allowed}
            assert not upwards, f"{name} imports {upwards}"


def test_ground_imports_only_ground() -> None:
    for name in GROUND:
        assert {room(i) for i in own_imports(modules()[name])} <= GROUND


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: own_imports(path) & set(modules()) for name, path in modules().items()
    }
    done: set[str] = set()
    while len(done) < len(graph):
        free = {name for name in graph.keys() - done if graph[name] <= done}
        assert free, f"circle among {sorted(graph.keys() - done)}"
        done |= free


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("h5py", {"store"}),
        ("click", {"cli"}),
        ("requests", {"nets"}),
        ("onnx", {"backends"}),
        ("caffe", {"backends"}),
        ("matplotlib", {"report"}),
    ],
)
def test_only_one_folder_knows(library: str, users: set[str]) -> None:
    found = {
        room(name)
        for name, path in modules().items()
        if any(i == library or i.startswith(f"{library}.") for i in imports(path))
    }
    assert found == users
