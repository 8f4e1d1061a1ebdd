"""Features files with activations that have no gradients, through every command.

The head of the file has one inner product, and two activations below it were named.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fishing.cli.main import main
from fishing.extract import extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.paper import write_submission
from fishing.search import search as search_module
from fishing.store import ExtractionSettings, FeaturesFile, write_features

HERE = ("x5", "x6", "x7", "y8", "x8", "x5+x6", "x6+x7", "x7+y8", "dW8")
PRODUCTS = ("--feature", "dW8", "--feature", "x7*x6", "--feature", "x5*x6*x7+dW8")


@pytest.fixture(scope="module")
def features(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract the blobs of three inner products, and leave out dE/dy6 and dE/dy7."""
    folder = tmp_path_factory.mktemp("named")
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(load_net("tinyalexnet")), lists, folder / "whole.h5")
    with FeaturesFile(folder / "whole.h5") as file:
        splits = {}
        for name, split in file.splits.items():
            blobs = dict(split.blobs)
            del blobs["backward/y6"], blobs["backward/y7"]
            splits[name] = dataclasses.replace(split, blobs=blobs)
        write_features(folder / "f.h5", file.settings, splits)
    return folder / "f.h5"


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def test_info(features: Path) -> None:
    blobs = json.loads(_run("info", features, "--json", "--verify").stdout)["splits"]
    assert list(blobs["test"]["blobs"]) == [
        *(f"forward/{x}" for x in ("x5", "x6", "x7", "y8", "x8")),
        "backward/y8",
    ]


def test_evaluate_and_report(features: Path, devkit: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", features, "--output", tmp_path / "r", "--json")
    assert tuple(json.loads(_run(*arguments).stdout)["features"]) == HERE
    record = json.loads(_run(*arguments, "--feature", "x7", *PRODUCTS).stdout)
    assert list(record["features"]) == ["x7", "dW8", "x6*x7", "x5*x6*x7+dW8"]
    assert (tmp_path / "r" / "x6*x7" / "comp1_cls_test_warm.txt").is_file()
    _run("report", tmp_path / "r", "--output", tmp_path / "page", "--data", devkit)
    page = (tmp_path / "page" / "index.html").read_text()
    assert '<h3><span class="swatch" style="background: var(--dW8,' in page
    assert "Gram matrix, product" in page
    # No colour is named for a product, so that of other features is taken.
    assert "var(--x6_x7, var(--other))" in page
    assert "--x6_x7:" not in page


def test_report_of_products_alone(features: Path, tmp_path: Path) -> None:
    arguments = ("--feature", "x6*x7", "--feature", "x5*x6", "--output", tmp_path / "r")
    _run("evaluate", features, *arguments)
    _run("report", tmp_path / "r", "--output", tmp_path / "page")
    assert "Ranked by x5*x6" in (tmp_path / "page" / "index.html").read_text()


def test_retrieval(features: Path) -> None:
    assert (
        tuple(json.loads(_run("retrieval", features, "--json").stdout)["features"])
        == HERE
    )
    record = json.loads(_run("retrieval", features, "--json", *PRODUCTS).stdout)
    assert list(record["features"]) == ["dW8", "x6*x7", "x5*x6*x7+dW8"]


def test_search(features: Path, devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    photo = devkit / "JPEGImages" / "test_005.jpg"
    for query in (("--query-id", "test_005"), ("--query", photo)):
        arguments = ("search", features, *query, "--json")
        assert list(json.loads(_run(*arguments).stdout)["neighbours"]) == ["dW8"]
        result = json.loads(_run(*arguments, *PRODUCTS).stdout)["neighbours"]
        assert list(result) == ["dW8", "x6*x7", "x5*x6*x7+dW8"]
        found[query[0]] = [n["image_id"] for n in result["x6*x7"]]
    assert found["--query"] == ["test_005", *found["--query-id"][:-1]]
    # A net whose net.toml names no activation below the head.
    query = dict.fromkeys(["forward/x7", "backward/y8"], np.ones((1, 4), np.float32))
    monkeypatch.setattr(search_module, "compute_blobs", lambda *_, **__: query)
    result = CliRunner().invoke(
        main, ["search", str(features), "--query", str(photo), "--feature", "x6*x7"]
    )
    assert result.exit_code == 2
    assert "expected forward/x6, which x6*x7 is made from" in result.output


def test_submission(features: Path, tmp_path: Path) -> None:
    arguments = {"train": ["trainval"], "test": "test"}
    archives = [
        write_submission(features, tmp_path / f"{i}.tar.gz", feature=name, **arguments)
        for i, name in enumerate(("x7*x6", "x6*x7", None))
    ]
    one, same, default = (path.read_bytes() for path in archives)
    assert one == same != default
    record = json.loads((tmp_path / "0.json").read_text())
    assert record["feature"] == "x6*x7"
    assert json.loads((tmp_path / "2.json").read_text())["feature"] == "dW8"


def test_temper_keeps_the_activations(features: Path, tmp_path: Path) -> None:
    _run("temper", features, "--temperature", 8, "--output", tmp_path / "t8.h5")
    with FeaturesFile(features) as file, FeaturesFile(tmp_path / "t8.h5") as other:
        before, after = file.split("test").blobs, other.split("test").blobs
        assert list(before) == list(after)
        for name in before:
            same = np.array_equal(before[name][:], after[name][:])
            assert same == name.startswith("forward/"), name


@pytest.mark.parametrize("command", ["evaluate", "retrieval", "search"])
def test_a_gradient_that_is_not_there(features: Path, command: str) -> None:
    query = ["--query-id", "test_005"] if command == "search" else []
    result = CliRunner().invoke(
        main, [command, str(features), *query, "--feature", "dW7"]
    )
    assert result.exit_code == 2
    assert "expected backward/y7, which dW7 is made from" in result.output
    assert "choose a feature of x5 x6 x7 y8 x8 x5+x6" in result.output
