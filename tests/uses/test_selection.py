from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from conftest import explicit_features, make_split, write_file
from fishing.cli.main import main
from fishing.errors import EvaluationError, StoreError
from fishing.store import Split
from fishing.uses import select


@pytest.fixture
def splits(rng) -> dict[str, Split]:
    return {
        "pool": make_split(rng, 40, failed=(4,)),
        "labelled": make_split(rng, 7, image_id=tuple(f"la{i}" for i in range(7))),
    }


def _gradients(split: Split) -> np.ndarray:
    """Compute the gradients of W8 for the predicted class by finite differences.

    The loss is -log p of that class, with y8 = W8 x7.
    """
    found, step = [], 1e-6
    pairs = zip(
        *(split.blobs[f"forward/{name}"].astype(float) for name in ("x7", "y8")),
        strict=True,
    )
    for x, y in pairs:

        def loss(W, x=x, y=y) -> float:
            logits = y + W @ x
            return float(np.log(np.exp(logits).sum()) - logits[y.argmax()])

        gradient = np.empty((len(y), len(x)))
        for i in range(len(y)):
            for j in range(len(x)):
                W = np.zeros_like(gradient)
                W[i, j] = step
                gradient[i, j] = (loss(W) - loss(-W)) / (2 * step)
        found.append(gradient.ravel())
    return np.array(found)


def _k_means_plus_plus(
    points: np.ndarray, k: int, seed: int, centres: np.ndarray
) -> list[int]:
    """Choose points as the authors of BADGE do."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    if not len(centres):
        chosen.append(int(np.argmax((points**2).sum(axis=1))))
    while len(chosen) < k:
        near = np.concatenate([centres, points[chosen]])
        distance = ((points[:, None] - near) ** 2).sum(axis=2).min(axis=1)
        distance[chosen] = 0
        shares = np.cumsum(distance / distance.sum())
        chosen.append(int(np.argmax(shares > rng.random())))
    return chosen


def _k_centres(points: np.ndarray, k: int, seed: int, centres: np.ndarray) -> list[int]:
    chosen: list[int] = []
    if not len(centres):
        chosen.append(int(np.random.default_rng(seed).random(len(points)).argmax()))
    while len(chosen) < k:
        near = np.concatenate([centres, points[chosen]])
        distance = np.linalg.norm(points[:, None] - near, axis=2).min(axis=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@pytest.mark.parametrize("memory", [0, 40 * 6 * 4, 2**30])
@pytest.mark.parametrize("labelled", [None, "labelled"])
@pytest.mark.parametrize(
    ("method", "feature", "features", "choose"),
    [
        ("badge", None, _gradients, _k_means_plus_plus),
        ("kcenter", "dW7", explicit_features, _k_centres),
        ("kcenter", "x6+x7", explicit_features, _k_centres),
    ],
)
def test_choices_are_those_of_explicit_gradients(
    tmp_path: Path,
    splits,
    monkeypatch,
    method: str,
    feature: str | None,
    features: Callable[..., np.ndarray],
    choose: Callable[..., list[int]],
    labelled: str | None,
    memory: int,
) -> None:
    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", 6)
    monkeypatch.setattr("fishing.uses.selection._MEMORY", memory)
    file = write_file(tmp_path / "f.h5", **splits)
    extra = [feature] if feature else []
    points = features(splits["pool"], *extra)
    centres = features(splits["labelled"], *extra) if labelled else points[:0]
    for seed in range(3):
        found = select(
            *(file, "pool", 30),
            labelled=labelled,
            method=method,
            feature=feature,
            seed=seed,
        )
        expected = choose(points, 30, seed, centres)
        assert found == [splits["pool"].image_id[i] for i in expected]


@pytest.mark.parametrize("method", ["badge", "kcenter", "random"])
def test_each_image_is_chosen_once_and_none_that_has_a_label(
    tmp_path: Path, splits, method: str
) -> None:
    pool = splits["pool"]
    for rows in pool.blobs.values():
        rows[20:] = rows[0]  # copies, at distance 0 of each other
    part = {name: rows[:5] for name, rows in pool.blobs.items()}
    labelled = make_split(
        np.random.default_rng(0), 5, image_id=pool.image_id[:5], blobs=part
    )
    file = write_file(tmp_path / "f.h5", pool=pool, labelled=labelled)
    found = select(file, "pool", 35, labelled="labelled", method=method)
    assert sorted(found) == sorted(pool.image_id[5:])
    whole = select(file, "pool", 40, method=method)
    assert sorted(whole) == sorted(pool.image_id)
    fewer = select(file, "pool", 12, method=method)
    assert method == "random" or fewer == whole[:12]
    assert select(file, "pool", 40, method=method) == whole
    assert select(file, "pool", 40, method=method, seed=1) != whole


def test_errors(tmp_path: Path, splits) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    with pytest.raises(EvaluationError, match=r"expected k from 1 to 40, .* found 41"):
        select(file, "pool", 41)
    with pytest.raises(EvaluationError, match=r"expected k from 1 to 0, .* found 1;"):
        select(file, "pool", 1, labelled="pool")
    with pytest.raises(EvaluationError, match="a method of badge kcenter random"):
        select(file, "pool", 1, method="best")
    with pytest.raises(EvaluationError, match="expected a feature such as"):
        select(file, "pool", 1, method="kcenter", feature="dW9")
    with pytest.raises(StoreError, match="expected a split 'val'"):
        select(file, "val", 1)
    for split in splits.values():
        del split.blobs["forward/y8"]
    file = write_file(tmp_path / "bare.h5", **splits)
    with pytest.raises(EvaluationError, match="expected forward/y8, which badge needs"):
        select(file, "pool", 1)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="fishing")


def test_the_command(tmp_path: Path, splits) -> None:
    file, output = write_file(tmp_path / "f.h5", **splits), tmp_path / "ids.txt"
    arguments = ["select", file, "--split", "pool", "-k", 9, "--output", output]
    result = _run(*arguments, "--labelled", "labelled", "--seed", 3)
    assert result.output == f"9 images of pool written to {output}\n"
    expected = select(file, "pool", 9, labelled="labelled", seed=3)
    assert output.read_text().splitlines() == expected
    there = output / "new.txt"
    result = _run("select", file, "--split", "pool", "-k", 1, "--output", there)
    assert result.exit_code == 2
    assert f"expected to write '{there}', found: " in result.output
    record = json.loads(_run(*arguments, "--method", "random", "--json").stdout)
    assert record["image_id"] == select(file, "pool", 9, method="random")
