"""Searches with an index, and what index files are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conftest import explicit_features, make_split, write_file
from fishing.errors import EvaluationError, FishingError, StoreError
from fishing.extract import compress, extract, extract_shards
from fishing.images import read_splits
from fishing.nets import BLOBS, load_net
from fishing.search import (
    Neighbour,
    build_index,
    indexing,
    measure_index,
    search_id,
    search_photo,
)
from fishing.search.index_file import IndexArrays, IndexFile, write_arrays, write_header
from fishing.store import ExtractionSettings, Split

N, WIDTH, N_CLUSTERS = 400, 24, 20
Splits = dict[str, Split]


def _clusters(rng: np.random.Generator, n: int, prefix: str) -> Split:
    """Make images around a few centres: activations, and gradients of both signs."""
    centres = np.random.default_rng(7).normal(size=(N_CLUSTERS, len(BLOBS), WIDTH))
    values = centres[rng.integers(N_CLUSTERS, size=n)]
    values = np.float32(values + 0.5 * rng.normal(size=values.shape))
    blobs = {
        blob: np.maximum(rows, 0) if blob.startswith("forward") else rows
        for blob, rows in zip(BLOBS, values.swapaxes(0, 1), strict=True)
    }
    ids = tuple(f"{prefix}{i}" for i in range(n))
    return make_split(rng, n, image_id=ids, blobs=blobs)


@pytest.fixture(scope="module", autouse=True)
def _few_candidates() -> Iterator[None]:
    """Let a search compare a few of the images, as it does of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "_N_CANDIDATES", (20, 40, 80))
        yield


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    return {"trainval": _clusters(rng, N - 100, "a"), "test": _clusters(rng, 100, "b")}


@pytest.fixture(scope="module")
def made(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a features file and its index once; each test takes copies."""
    folder = tmp_path_factory.mktemp("made")
    features = write_file(folder / "f.h5", **splits)
    build_index(features, folder / "dW7.faiss", feature="dW7")
    return folder


@pytest.fixture
def features(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copy(made / "f.h5", tmp_path))


@pytest.fixture
def index(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copy(made / "dW7.faiss", tmp_path))


def _recall(
    splits: Splits, feature: str, search: Callable[[str], list[Neighbour]]
) -> float:
    """Search for some of the images, and compare with all pairs, written out."""
    rows = np.concatenate([explicit_features(s, feature) for s in splits.values()])
    ids = [i for split in splits.values() for i in split.image_id]
    shares = []
    for q in range(0, len(ids), 17):
        similarity, found = rows @ rows[q], search(ids[q])
        np.testing.assert_allclose(
            [n.similarity for n in found],
            [similarity[ids.index(n.image_id)] for n in found],
            atol=3e-7,
        )
        order = [ids[i] for i in np.argsort(-similarity) if i != q][:10]
        shares.append(len({n.image_id for n in found} & set(order)) / 10)
    return float(np.mean(shares))


@pytest.mark.parametrize("coding", ["SQ8", "PQ"])
@pytest.mark.parametrize("feature", ["dW7", "x7", "x6*x7", "x6+x7", "x6*x7+dW8"])
def test_an_index_finds_what_all_pairs_do(
    tmp_path: Path,
    features: Path,
    splits: Splits,
    monkeypatch: pytest.MonkeyPatch,
    feature: str,
    coding: str,
) -> None:
    monkeypatch.setattr(indexing, "_MOST_SQ8", 2**30 if coding == "SQ8" else 0)
    index = tmp_path / "new" / "i.faiss"
    header = build_index(features, index, feature=feature)
    assert (header.feature, header.coding, header.n_images) == (feature, coding, N)
    assert header.n_candidates <= 80
    assert [file.name for file in index.parent.iterdir()] == ["i.faiss"]

    def search(image_id: str) -> list[Neighbour]:
        return search_id(features, image_id, index=index)[feature]

    assert _recall(splits, feature, search) >= 0.95


def test_recall_is_that_of_the_searches(
    features: Path, index: Path, splits: Splits
) -> None:
    """An index whose directions are of other images is found out."""
    assert measure_index(features, index) >= 0.95

    def turn(arrays: IndexArrays) -> IndexArrays:
        bases = {
            blob: np.roll(basis, 1, axis=0) for blob, basis in arrays.bases.items()
        }
        return replace(arrays, bases=bases)

    _rewrite(index, turn, n_candidates=10, n_probed=1)

    def search(image_id: str) -> list[Neighbour]:
        return search_id(features, image_id, index=index)["dW7"]

    recall = _recall(splits, "dW7", search)
    assert recall < 0.4
    assert measure_index(features, index) == pytest.approx(recall, abs=0.15)


def test_few_images_are_compared(
    features: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    original = indexing.find_rows

    def find_rows(*given: Any) -> Any:
        found = original(*given)
        compared.append(len(found))
        return found

    monkeypatch.setattr("fishing.search.index.find_rows", find_rows)
    search_id(features, "a5", index=index)
    assert 10 < compared[0] <= 80


def test_splits_and_numbers_are_those_of_an_exact_search(
    features: Path, index: Path
) -> None:
    for k, chosen in ((N, ()), (60, ["test"]), (3, ["test"]), (99, ["test"])):
        exact = search_id(features, "b7", ["dW7"], k, splits=chosen)
        found = search_id(features, "b7", ["dW7"], k, splits=chosen, index=index)
        if k == 60:  # more than an index promises
            assert len(found["dW7"]) == 60
        else:
            _check_same(found["dW7"], exact["dW7"])


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_an_index_of_a_compressed_file(
    tmp_path: Path, features: Path, dtype: str
) -> None:
    small = compress(features, tmp_path / "s.h5", dimensions=11, dtype=dtype)
    build_index(small, tmp_path / "i.faiss", feature="dW7")
    assert measure_index(small, tmp_path / "i.faiss") >= 0.95
    with pytest.raises(StoreError, match="found one of other features"):
        measure_index(features, tmp_path / "i.faiss")


def test_photos_and_folders_of_shards(devkit: Path, tmp_path: Path) -> None:
    settings = ExtractionSettings(load_net("tinyalexnet"))
    lists = read_splits(devkit, ["trainval", "test"])
    extract(settings, lists, tmp_path / "f.h5", batch_size=8)
    extract_shards(settings, lists, tmp_path / "shards", 3, batch_size=8)
    photo = devkit / "JPEGImages" / "test_005.jpg"
    for features in (tmp_path / "f.h5", tmp_path / "shards"):
        index = tmp_path / f"{features.stem}.faiss"
        build_index(features, index)
        exact = search_photo(features, photo, k=5)["dW7"]
        found = search_photo(features, photo, k=5, index=index)["dW7"]
        assert found[0].image_id == "test_005"
        _check_same(found, exact)
    with pytest.raises(StoreError, match="found one of other features"):
        search_id(tmp_path / "f.h5", "test_005", index=tmp_path / "shards.faiss")


def _check_same(found: list[Neighbour], exact: list[Neighbour]) -> None:
    """Compare neighbours up to the rounding of products of other sizes."""
    assert [n.image_id for n in found] == [n.image_id for n in exact]
    np.testing.assert_allclose(
        [n.similarity for n in found], [n.similarity for n in exact], atol=3e-7
    )


def test_other_features_are_refused(
    tmp_path: Path, features: Path, index: Path
) -> None:
    rng = np.random.default_rng(7)
    other = write_file(
        tmp_path / "g.h5",
        **{"trainval": _clusters(rng, N - 100, "a"), "test": _clusters(rng, 100, "b")},
    )
    with pytest.raises(StoreError, match=r"expected an index of .*g\.h5, found one of"):
        search_id(other, "a1", index=index)
    with pytest.raises(EvaluationError, match="an index for x7, found one for dW7"):
        search_id(features, "a1", ["x7"], index=index)
    with pytest.raises(StoreError, match=r"expected an index file at .*none"):
        search_id(features, "a1", index=tmp_path / "none")


def test_an_output_that_is_there(tmp_path: Path, features: Path, index: Path) -> None:
    before = (index.read_bytes(), index.stat().st_mtime_ns)
    build_index(features, index, feature="dW7")
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before
    with pytest.raises(StoreError, match=r"the index of x7 of .*f\.h5, found another"):
        build_index(features, index, feature="x7")
    with pytest.raises(StoreError, match="found another; remove it"):
        build_index(features, features, feature="x7")
    assert index.read_bytes() == before[0]


def test_a_damaged_file_gets_no_index(tmp_path: Path, features: Path) -> None:
    content = bytearray(features.read_bytes())
    with h5py.File(features) as file:
        content[file["test/forward/x6"].id.get_offset() + 3] ^= 1
    features.write_bytes(content)
    with pytest.raises(StoreError, match="found damage in test/forward/x6"):
        build_index(features, tmp_path / "new.faiss")
    assert not (tmp_path / "new.faiss").exists()


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, features: Path) -> None:
    seen = []

    def stop(label: str, *_: object) -> None:
        seen.append(label)
        if label == "encoding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(features, tmp_path / "i.faiss", progress=stop)
    assert seen[0] == "f.h5"  # which is verified
    assert "principal directions" in seen
    assert [file.name for file in tmp_path.iterdir()] == ["f.h5"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be made of .*f\.h5"):
        build_index(features, tmp_path / "file" / "i.faiss")


def test_an_index_that_would_not_find_them_is_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """The squares of inner products are large for opposite rows, too."""
    split = make_split(rng, 200, width=4)
    for rows in split.blobs.values():
        rows[100:] = -rows[:100]
    path = write_file(tmp_path / "f.h5", all=split)
    with pytest.raises(EvaluationError, match=r"finds 95% of .* by x7\*x7, found one"):
        build_index(path, tmp_path / "i.faiss", feature="x7*x7")
    assert not (tmp_path / "i.faiss").exists()


@pytest.mark.parametrize("n", [1, 2, 45])
def test_few_images(tmp_path: Path, rng: np.random.Generator, n: int) -> None:
    path = write_file(tmp_path / "f.h5", all=_clusters(rng, n, "a"))
    build_index(path, tmp_path / "i.faiss")
    assert measure_index(path, tmp_path / "i.faiss") == 1
    exact, found = (
        search_id(path, "a0", ["dW7"], index=i)["dW7"]
        for i in (None, tmp_path / "i.faiss")
    )
    _check_same(found, exact)
    assert len(found) == min(n - 1, 10)


def test_no_images_and_no_finite_values(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write_file(tmp_path / "f.h5", all=make_split(rng, 0))
    with pytest.raises(StoreError, match="expected images, found none"):
        build_index(path, tmp_path / "i.faiss")
    split = make_split(rng, 50)
    split.blobs["forward/x6"][7, 1] = np.nan
    path = write_file(tmp_path / "g.h5", all=split)
    with pytest.raises(FishingError, match="found NaN or infinity"):
        build_index(path, tmp_path / "i.faiss")


def _rewrite(
    index: Path,
    change_arrays: Callable[[IndexArrays], IndexArrays] = lambda arrays: arrays,
    change_records: Callable[[Any], Any] = lambda records: records,
    **changes: Any,
) -> None:
    """Write an index file anew with changes, and with the right checksum."""
    with IndexFile(index) as file:
        header, arrays = file.header, file.arrays
        records = np.concatenate(list(file.records()))
    with index.open("w+b") as target:
        write_arrays(target, change_arrays(arrays))
        target.write(change_records(records).tobytes())
        write_header(target, replace(header, **changes))


def _refused(features: Path, index: Path) -> str:
    with pytest.raises(FishingError) as caught:
        search_id(features, "a1", index=index)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def test_damage_is_refused(
    features: Path, index: Path, rng: np.random.Generator
) -> None:
    content = index.read_bytes()
    places = [*range(20), *rng.integers(len(content), size=40), *range(-500, 0, 7)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        index.write_bytes(damaged)
        assert "expected a whole index file, found" in _refused(features, index)
    for length in (0, 1, 15, 16, 40, 60, len(content) // 2, len(content) - 1):
        index.write_bytes(content[:length])
        assert "expected a whole index file, found" in _refused(features, index)
    for other in (content + b"\0", content * 2, features.read_bytes()):
        index.write_bytes(other)
        assert "expected a whole index file, found" in _refused(features, index)
    index.unlink()
    index.mkdir()
    assert "found a folder, a device or a pipe" in _refused(features, index)


@pytest.mark.parametrize(
    "changes",
    [
        *({"n_images": n} for n in (0, -1, True, 1.0, 399, 2**31, 10**30)),
        *({"n_lists": n} for n in (0, 9, 11, 2**16 + 1, None)),
        *({"n_probed": n} for n in (0, 11, 2**40)),
        *({"n_candidates": n} for n in (0, 9, -5, "7")),
        *({"coding": c} for c in ("PQ", "Flat", None, ["SQ8"])),
        *({"feature": f} for f in ("x7", "x9", "", 7)),
        *({"features_sha256": s} for s in ("0" * 64, 7)),
        {"directions": {}},
        {"directions": [["forward/x6", [24, 24]]]},
        {"directions": {"forward/x6": [24, 24], "backward/y7": [48, 12]}},
        {"directions": {"forward/x6": [24, 24], "backward/y8": [24, 24]}},
        {"directions": {"forward/x6": [24, 24], "backward/y7": [-24, -24]}},
        {"directions": {"forward/x6": [24, 24], "backward/y7": [24, 24, 1]}},
        {"directions": {"forward/x6": [24, 24]}},
    ],
    ids=str,
)
def test_hostile_headers_are_refused(
    features: Path, index: Path, changes: dict[str, Any]
) -> None:
    with IndexFile(index) as file:
        assert (file.header.n_lists, file.header.width) == (10, 48)
    _rewrite(index, **changes)
    assert str(index) in _refused(features, index)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"[" * 50_000, b'{"feature": "dW7"}', b"\xff" * 9],
    ids=repr,
)
def test_hostile_texts_are_refused(features: Path, index: Path, text: bytes) -> None:
    with IndexFile(index) as file:
        header = file.header
    _rewrite(index)
    content = index.read_bytes()[:-36]
    payload = content[: content.index(json.dumps(asdict(header)).encode())]
    for length in (len(text), 0, 2**31, 2**32 - 1, len(payload) + len(text)):
        index.write_bytes(payload + text + length.to_bytes(4, "little"))
        _sign(index)
        assert "expected a whole index file, found" in _refused(features, index)


def _sign(index: Path) -> None:
    """Append the right checksum."""
    import hashlib

    content = index.read_bytes()
    index.write_bytes(content + hashlib.sha256(content).digest())


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38])
@pytest.mark.parametrize("name", ["centroids", "quantiser", "bases"])
def test_hostile_arrays_are_refused(
    features: Path, index: Path, name: str, value: float
) -> None:
    def change(arrays: IndexArrays) -> IndexArrays:
        copies = {k: v.copy() for k, v in arrays.bases.items()}
        parts = {"bases": copies, "centroids": arrays.centroids.copy()}
        parts["quantiser"] = arrays.quantiser.copy()
        values = parts[name] if name != "bases" else copies["forward/x6"]
        values[1, 3] = value
        return IndexArrays(**parts)

    _rewrite(index, change)
    assert "values that are not finite or above" in _refused(features, index)


def test_lists_that_are_not_there_are_refused(features: Path, index: Path) -> None:
    def change(records: Any) -> Any:
        records["list"][-1] = 10
        return records

    _rewrite(index, change_records=change)
    assert "an image in a list that is not there" in _refused(features, index)


def test_a_split_without_images(tmp_path: Path, rng: np.random.Generator) -> None:
    splits = {"all": _clusters(rng, 50, "a"), "none": make_split(rng, 0, width=WIDTH)}
    path = write_file(tmp_path / "f.h5", **splits)
    build_index(path, tmp_path / "i.faiss")
    found = search_id(path, "a0", index=tmp_path / "i.faiss", splits=["none"])
    assert found == {"dW7": []}
    assert len(search_id(path, "a0", index=tmp_path / "i.faiss")["dW7"]) == 10
