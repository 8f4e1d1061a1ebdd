"""Small features files, against singular vectors by numpy."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest

from conftest import SETTINGS, make_split
from fishing.errors import FishingError, StoreError
from fishing.evaluate import evaluate
from fishing.extract import compress, project, temper
from fishing.extract.principal_directions import (
    MAX_SAMPLE,
    RowSample,
    principal_directions,
)
from fishing.kernels import gram
from fishing.nets import BLOBS
from fishing.store import FeaturesFile, Split, describe, verify, write_features

WIDTHS = dict(zip(BLOBS, (40, 30, 30, 9, 9, 30, 30, 9), strict=True))


def _spectral(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Make rows whose second moments fall off, in directions of their own."""
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    rows = rng.normal(size=(n, d)) * 0.7 ** np.arange(d) + 0.3
    return (rows @ turn).astype(np.float32)


def _split(
    rng: np.random.Generator, n: int, turns: int = 5, **changes: object
) -> Split:
    same = np.random.default_rng(turns)
    blobs = {blob: _spectral(same, 2000, d) for blob, d in WIDTHS.items()}
    chosen = rng.choice(2000, n, replace=False)
    return make_split(rng, n, blobs={b: v[chosen] for b, v in blobs.items()}, **changes)


@pytest.fixture
def source(tmp_path: Path, rng) -> Path:
    path = tmp_path / "features.h5"
    splits = {"trainval": _split(rng, 400), "test": _split(rng, 90, failed=(3,))}
    write_features(path, SETTINGS, splits)
    return path


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _expected(source: Path, k: int, split: str) -> dict[str, np.ndarray]:
    """Project the rows of a split on the right singular vectors of trainval."""
    found = {}
    with FeaturesFile(source) as file:
        for blob, rows in file["trainval"].blobs.items():
            V = np.linalg.svd(_unit(rows[:]))[2][:k].T
            found[blob] = _unit(_unit(file[split].blobs[blob][:]) @ V)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("dimensions", [1, 7, 200])
def test_kernels_are_those_of_the_singular_vectors(
    source: Path, dtype: str, dimensions: int
) -> None:
    """Signs and turns among equal directions do not matter to a kernel."""
    small = compress(
        source, source.with_name("s.h5"), dimensions=dimensions, dtype=dtype
    )
    verify(small)
    error = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2, "int4": 0.3}[dtype]
    with FeaturesFile(small) as file:
        for split in ("trainval", "test"):
            for blob, expected in _expected(source, dimensions, split).items():
                rows = file[split].blobs[blob][:]
                assert rows.shape == expected.shape
                found = _unit(rows) @ _unit(rows).T
                wrong = np.abs(found - expected @ expected.T)
                # A few rows lie beyond the largest values of trainval: they are cut.
                assert np.quantile(wrong, 0.95) < error, blob
                assert wrong.max() < (10 * error if dtype == "int8" else error)


def test_directions_are_those_of_the_second_moments() -> None:
    """They are compared by the moments that they catch, in one blob of many columns."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(700, 300)) * np.arange(1, 301) ** -0.5 + 0.02
    split = make_split(rng, 700, blobs={"forward/x7": rows.astype(np.float32)})
    bases = principal_directions(RowSample([split]), "forward/x7", 40)
    np.testing.assert_allclose(bases.T @ bases, np.eye(40), atol=1e-6)
    moments = np.linalg.svd(_unit(rows), compute_uv=False) ** 2
    caught = np.square(_unit(rows) @ bases).sum(axis=0)
    assert caught.sum() > (1 - 1e-4) * moments[:40].sum()
    assert (caught[:-1] > caught[1:] * 0.999).all()
    np.testing.assert_allclose(caught[:10], moments[:10], rtol=1e-4)


def test_a_sample_is_bounded_and_spread_over_the_splits(rng) -> None:
    splits = []
    for first, n in ((0, 9000), (9000, 4), (9004, 12000)):
        rows = np.arange(first, first + n, dtype=np.float32)[:, None]
        rows = np.concatenate([rows, np.ones_like(rows)], axis=1)
        splits.append(make_split(rng, n, blobs={"forward/x7": rows}))
    sample = RowSample(splits)
    rows = np.concatenate(list(sample.unit_rows("forward/x7")))
    found = np.rint(rows[:, 0] / rows[:, 1]).astype(int)
    assert len(found) == len(sample) == MAX_SAMPLE
    assert found[0] == 0
    assert found[-1] == 21003
    assert set(np.diff(found)) == {2, 3}


def test_only_the_chosen_splits_are_learned_from(source: Path, tmp_path: Path) -> None:
    first = compress(source, tmp_path / "a.h5", dimensions=4, dtype="float32")
    with FeaturesFile(source) as file:
        changed = dataclasses.replace(
            file["test"],
            blobs={b: -(rows[::-1] ** 3) for b, rows in _all(file["test"])},
        )
        other = tmp_path / "other.h5"
        write_features(
            other, file.settings, {"trainval": file["trainval"], "test": changed}
        )
    second = compress(other, tmp_path / "b.h5", dimensions=4, dtype="float32")
    third = compress(
        other, tmp_path / "c.h5", dimensions=4, dtype="float32", splits=["test"]
    )
    files = [FeaturesFile(path) for path in (first, second, third)]
    for blob in BLOBS:
        a, b, c = (file.projection[blob][:] for file in files)
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0.01
    assert files[2].settings["projection"]["splits"] == ["test"]


def _all(split: Split) -> list[tuple[str, np.ndarray]]:
    return [(blob, rows[:]) for blob, rows in split.blobs.items()]


def test_without_trainval_all_splits_are_learned_from(tmp_path: Path, rng) -> None:
    path = tmp_path / "f.h5"
    write_features(path, SETTINGS, {"a": _split(rng, 30), "b": _split(rng, 20)})
    small = compress(path, tmp_path / "s.h5", dimensions=5)
    assert describe(small)["settings"]["projection"] == {
        "dimensions": 5,
        "splits": ["a", "b"],
        "rows": 50,
    }


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_other_images_are_projected_alike(source: Path, tmp_path: Path, dtype) -> None:
    """A query photo gets the row that the file would hold, up to rounding."""
    small = compress(source, tmp_path / "s.h5", dimensions=7, dtype=dtype)
    with FeaturesFile(source) as file, FeaturesFile(small) as other:
        query = project(dict(_all(file["test"])), other.projection)
        stored = other["test"]
        for blob, rows in query.items():
            cosines = (_unit(rows) * _unit(stored.blobs[blob][:])).sum(axis=1)
            assert cosines.min() > (0.995 if dtype == "int8" else 0.97), blob
        similar = gram("dW7", query, stored)
        assert (similar.argmax(axis=1) == np.arange(len(stored))).mean() > 0.95


def test_bases_of_another_net(source: Path, tmp_path: Path) -> None:
    small = compress(source, tmp_path / "s.h5", dimensions=3)
    with (
        FeaturesFile(small) as file,
        pytest.raises(StoreError, match="bases for 8 values of forward/x7, found some"),
    ):
        project({"forward/x7": np.ones((1, 8), np.float32)}, file.projection)


def test_a_small_file_is_evaluated_as_a_large_one(source: Path, tmp_path: Path) -> None:
    small = compress(source, tmp_path / "s.h5", dimensions=30)
    found = evaluate(small, features=["dW7", "x6*x7"]).record["features"]
    expected = evaluate(source, features=["dW7", "x6*x7"]).record["features"]
    for feature in expected:
        assert abs(found[feature]["mAP"] - expected[feature]["mAP"]) < 0.02


def test_the_same_work_gives_the_same_bytes_once(source: Path, tmp_path: Path) -> None:
    a, b = (
        compress(source, tmp_path / name, dimensions=6) for name in ("a.h5", "b.h5")
    )
    assert a.read_bytes() == b.read_bytes()
    before = a.stat()
    compress(source, a, dimensions=6)
    assert a.stat() == before
    with pytest.raises(StoreError, match=r"found another; remove it"):
        compress(source, a, dimensions=5)


def test_another_file_of_the_same_list_is_not_passed_over(tmp_path: Path, rng) -> None:
    path, small = tmp_path / "f.h5", tmp_path / "s.h5"
    split = make_split(rng, 30, failed=(3,))
    write_features(path, SETTINGS, {"all": split})
    compress(path, small, dimensions=5)
    path.unlink()
    write_features(path, SETTINGS, {"all": make_split(rng, 31)})
    with pytest.raises(StoreError, match="found another; remove it"):
        compress(path, small, dimensions=5)


def test_rows_of_zeros_stay_zeros(tmp_path: Path, rng) -> None:
    blobs = dict(_all(_split(rng, 50)))
    blobs["forward/x7"][7] = 0
    blobs["backward/y8"][:] = 0
    path = tmp_path / "f.h5"
    write_features(path, SETTINGS, {"all": make_split(rng, 50, blobs=blobs)})
    with FeaturesFile(compress(path, tmp_path / "s.h5", dimensions=5)) as file:
        rows = file["all"].blobs["forward/x7"][:]
        assert (np.flatnonzero(~rows.any(axis=1)) == [7]).all()
        assert not file["all"].blobs["backward/y8"][:].any()


def test_values_that_are_not_finite(tmp_path: Path, rng) -> None:
    for split in ("trainval", "test"):  # the latter is met when the output is written
        splits = {name: _split(rng, 20) for name in ("trainval", "test")}
        splits[split].blobs["forward/x6"][3, 4] = np.inf
        path = tmp_path / f"{split}.h5"
        write_features(path, SETTINGS, splits)
        with pytest.raises(StoreError, match="expected finite forward/x6, found NaN"):
            compress(path, tmp_path / "s.h5", dimensions=5)
        assert sorted(p.name for p in tmp_path.iterdir() if "s.h5" in p.name) == []
        path.unlink()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dimensions": 0}, "from 1 to 1024 dimensions"),
        ({"dimensions": 1025}, "from 1 to 1024 dimensions"),
        ({"dtype": "int2"}, "found 64 and 'int2'"),
        ({"splits": ["val"]}, "expected a split 'val'"),
    ],
)
def test_what_cannot_be_compressed(source: Path, choice, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        compress(source, source.with_name("s.h5"), **choice)
    assert not source.with_name("s.h5").exists()


def test_a_small_file_is_neither_compressed_nor_tempered(source: Path) -> None:
    small = compress(source, source.with_name("s.h5"), dtype="float32")
    with pytest.raises(StoreError, match="compressed already"):
        compress(small, source.with_name("smaller.h5"))
    with pytest.raises(StoreError, match="found those of `fishing compress`"):
        temper(small, source.with_name("t.h5"), [4])


def test_a_split_in_the_place_of_the_bases(tmp_path: Path, rng) -> None:
    path = tmp_path / "f.h5"
    write_features(path, SETTINGS, {"projection": _split(rng, 20)})
    verify(path)
    with pytest.raises(StoreError, match="expected splits of other names"):
        compress(path, tmp_path / "s.h5")


@pytest.mark.parametrize("stop_at", ["principal directions", "s.h5", "features.h5"])
def test_interrupted_and_run_again(source: Path, tmp_path: Path, stop_at: str) -> None:
    expected = compress(source, tmp_path / "e.h5", dimensions=5).read_bytes()
    labels = []

    def interrupt(label: str, done: int, total: int | None, unit: str) -> None:
        labels.append(label)
        assert total is not None
        assert done <= total
        if label == stop_at and done > 0:
            signal.raise_signal(signal.SIGINT)

    output = tmp_path / "s.h5"
    with pytest.raises(KeyboardInterrupt):
        compress(source, output, dimensions=5, progress=interrupt)
    assert stop_at in labels
    assert {p.name for p in tmp_path.iterdir()} == {"features.h5", "e.h5"}
    assert compress(source, output, dimensions=5).read_bytes() == expected


def test_a_damaged_file_gets_no_new_checksums(source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[-100] ^= 1
    source.write_bytes(content)
    with pytest.raises(FishingError, match="found damage in"):
        compress(source, source.with_name("s.h5"))
