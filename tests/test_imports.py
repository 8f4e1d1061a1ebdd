"""Data flows one way: a folder imports only the folders that stand before it.

A folder's face, its ``__init__``, hands on public names and does nothing else.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "fishing"
GROUND = {
    *("errors", "file_kinds", "files", "mounts", "processes", "progress", "quotas"),
    "side_effects",
}
# The chain that the README shows. Folders of one line do not know each other.
CHAIN = (
    {"images"},
    {"nets"},
    {"backends"},
    {"store"},
    {"extract"},
    {"kernels"},
    {"evaluate"},
    {"search", "uses", "paper", "report"},
    {"cli"},
)
# The report shows the paper's figures beside those of an evaluation, and classified
# photographs are drawn as those that a search found.
ALLOWED = {("report", "paper"), ("uses", "search")}
FOLDERS = sorted(set().union(*CHAIN))
FACES = sorted(p.parent for p in PACKAGE.rglob("__init__.pyi"))
MAX_LINES = 350


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


def test_the_readme_shows_the_chain() -> None:
    lines = (", ".join(f"`{name}`" for name in sorted(rooms)) for rooms in CHAIN)
    assert " → ".join(lines) in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_a_face_only_hands_names_on(face: Path) -> None:
    docstring, *body = ast.parse((face / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    statements = [ast.unparse(one) for one in body]
    if face == PACKAGE:
        statements = [s for s in statements if not s.startswith("__version__ = ")]
    assert statements == [
        "import lazy_loader",
        "__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)",
    ]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_every_name_of_a_face_exists(face: Path) -> None:
    name = ".".join(face.relative_to(PACKAGE.parent).parts)
    module = importlib.import_module(name)
    imported = [
        (alias.name, alias.asname, f"{name}.{node.module}")
        for node in ast.parse((face / "__init__.pyi").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert imported
    assert sorted(module.__all__) == sorted(name for name, _, _ in imported)
    for public, alias, source in imported:
        assert public == alias, f"{public} needs `as {public}` to be handed on"
        expected = getattr(importlib.import_module(source), public)
        assert getattr(module, public) is expected


def test_no_module_is_long() -> None:
    long = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if len(path.read_text().splitlines()) > MAX_LINES
    }
    assert not long


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
        ("faiss", {"search"}),
        ("click", {"cli"}),
        ("pyarrow", {"uses"}),
        ("requests", {"nets"}),
        ("onnx", {"backends", "nets"}),
        ("caffe", {"backends"}),
        ("distributed", {"extract"}),
        ("jinja2", {"report"}),
        ("matplotlib", {"report"}),
        ("sklearn", {"evaluate"}),
        ("tabulate", {"paper"}),
        ("tqdm", {"cli"}),
    ],
)
def test_only_one_folder_knows(library: str, users: set[str]) -> None:
    found = {
        room(name)
        for name, path in modules().items()
        if any(i == library or i.startswith(f"{library}.") for i in imports(path))
    }
    assert found == users
