from __future__ import annotations

import ast
from pathlib import Path

import pytest

from conftest import ROOT

# The rooms of the house; a module imports only those that stand before it.
ORDER = [
    "errors",
    "process",
    "nets",
    "fetch",
    "dataset",
    "photographs",
    "preprocess",
    "backends.caffe_schema",
    "backends.caffe_text",
    "backends.caffe_binary",
    "backends.caffe_files",
    "backends.devices",
    "backends.workers",
    "backends.head",
    "backends.caffe_net",
    "backends.caffe_worker",
    "backends.caffe",
    "backends.onnx_builder",
    "backends.onnx_spatial",
    "backends.onnx_layers",
    "backends.onnx_backward",
    "backends.onnx_graph",
    "backends.onnx",
    "backends.openvino",
    "backends",
    "disk",
    "chunks",
    "soundness",
    "checksum",
    "rows",
    "layout",
    "reader_worker",
    "reader",
    "store",
    "journal",
    "writer",
    "origin",
    "gradient",
    "temper",
    "extract",
    "compute",
    "kernel",
    "similarity",
    "estimators",
    "search",
    "sheet",
    "svm",
    "metrics",
    "evaluate",
    "retrieval",
    "record",
    "report",
    "submission",
    "paper",
    "tables",
    "reproduce",
    "summary",
    "pictures",
    "thumbnails",
    "contents",
    "page",
    "cli",
    "__main__",
]
# `backends` gives its makers the interface that they fill, and then chooses among them.
ALLOWED = {
    ("backends.caffe_worker", "backends.caffe_net"),
    ("backends.workers", "backends"),
}


def _modules() -> dict[str, Path]:
    package = ROOT / "fishing"
    files = (p for p in package.rglob("*.py") if "models" not in p.parts)
    names = {p: ".".join(p.relative_to(package).with_suffix("").parts) for p in files}
    return {
        name.removesuffix("__init__").rstrip("."): path for path, name in names.items()
    }


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(_modules()) == sorted(["", *ORDER])


@pytest.mark.parametrize("name", ORDER)
def test_data_flows_one_way(name: str) -> None:
    imports = _imports(_modules()[name])
    own = {i.removeprefix("fishing.") for i in imports if i.startswith("fishing.")}
    before = set(ORDER[: ORDER.index(name)])
    assert own <= before | {to for module, to in ALLOWED if module == name}


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("h5py", {"layout", "soundness"}),
        ("click", {"cli"}),
        ("requests", {"fetch"}),
    ],
)
def test_only_few_modules_know(library: str, modules: set[str]) -> None:
    users = {name for name, path in _modules().items() if library in _imports(path)}
    assert users == modules
