"""Features files of heads with one, two and four inner products, from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import SETTINGS, explicit_features, make_split, write_file
from fishing.errors import EvaluationError
from fishing.evaluate import evaluate, write_results
from fishing.kernels import FEATURES, available_features, gram, main_feature
from fishing.nets.blobs import paired_blobs
from fishing.paper import compare, format_tables, write_submission
from fishing.paper.tables import Result
from fishing.report import write_report
from fishing.search import evaluate_retrieval, search_id
from fishing.store import FeaturesFile, Split, describe

TABLE = {
    1: ("x7", "y8", "x8", "x7+y8", "dW8"),
    2: ("x6", "x7", "y8", "x8", "x6+x7", "x7+y8", "dW7", "dW8"),
    3: FEATURES,
    4: (
        *("x4", "x5", "x6", "x7", "y8", "x8"),
        *("x4+x5", "x5+x6", "x6+x7", "x7+y8", "dW5", "dW6", "dW7", "dW8"),
    ),
}
MAIN = {1: "dW8", 2: "dW8", 3: "dW7", 4: "dW6"}


def _split(rng: np.random.Generator, depth: int, n: int, **changes: object) -> Split:
    blobs = paired_blobs(depth)
    made = {b: rng.normal(size=(n, 6)).astype(np.float32) for b in blobs}
    return make_split(rng, n, blobs=made, **changes)


@pytest.fixture(params=TABLE)
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def splits(rng, depth: int) -> dict[str, Split]:
    return {"trainval": _split(rng, depth, 30), "test": _split(rng, depth, 20)}


@pytest.fixture
def path(tmp_path: Path, splits: dict[str, Split]) -> Path:
    return write_file(tmp_path / "f.h5", **splits)


def test_the_file_has_its_blobs(path: Path, depth: int) -> None:
    with FeaturesFile(path) as file:
        blobs = file.split("test").blobs
        assert set(blobs) == set(paired_blobs(depth))
        assert available_features(blobs) == TABLE[depth]
        assert main_feature(blobs) == MAIN[depth]
    assert set(describe(path)["splits"]["test"]["blobs"]) == set(paired_blobs(depth))


def test_kernels(path: Path, splits: dict[str, Split], depth: int) -> None:
    with FeaturesFile(path) as file:
        for feature in TABLE[depth]:
            found = gram(feature, file.split("test"), file.split("trainval"))
            test, train = (
                explicit_features(splits[name], feature)
                for name in ("test", "trainval")
            )
            np.testing.assert_allclose(found, test @ train.T, atol=3e-7)


def test_evaluation_and_report(path: Path, tmp_path: Path, depth: int) -> None:
    evaluation = evaluate(path)
    assert tuple(evaluation.record["features"]) == TABLE[depth]
    write_results(evaluation, tmp_path / "results")
    page = write_report(tmp_path / "results", tmp_path / "report").read_text()
    for feature in TABLE[depth]:
        assert f"</span>{feature}</th>" in page
    assert f"{MAIN[depth]} reaches a mean average precision of" in page
    assert f"The kernel of {MAIN[depth]} is the product of two Gram" in page
    with pytest.raises(EvaluationError, match=rf"dW3.*feature of {TABLE[depth][0]} "):
        evaluate(path, features=["x7", "dW3"])


def test_retrieval_and_search(path: Path, splits: dict[str, Split], depth: int) -> None:
    assert tuple(evaluate_retrieval(path)["features"]) == TABLE[depth]
    ((feature, found),) = search_id(path, "im0003", k=5, splits=["test"]).items()
    assert feature == MAIN[depth]
    rows = explicit_features(splits["test"], feature)
    # im0003 is in both splits; the first of them gives the query
    query = explicit_features(splits["trainval"], feature)[3]
    order = [i for i in np.argsort(-(rows @ query)) if i != 3][:5]
    assert [n.image_id for n in found] == [f"im{i:04d}" for i in order]


def test_tables_and_submission(path: Path, tmp_path: Path, depth: int) -> None:
    record = evaluate(path).record
    comparison = compare([Result("own", SETTINGS["net"], record)])
    text = format_tables(comparison, "md")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if "|" in line]
    assert tuple(rows[2 : 2 + len(TABLE[depth])]) == TABLE[depth]
    assert f"{SETTINGS['net']} {MAIN[depth]}" in text
    archive = tmp_path / "s.tar.gz"
    write_submission(path, archive, train=["trainval"])
    assert f'"feature": "{MAIN[depth]}"' in (tmp_path / "s.json").read_text()
