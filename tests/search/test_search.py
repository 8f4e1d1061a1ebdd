from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import (
    explicit_features,
    make_split,
    skip_without_bfloat16,
    write_file,
)
from fishing.errors import DataError, EvaluationError, NetError, StoreError
from fishing.extract import compress, extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.search import Neighbour, search_id, search_photo, write_sheet
from fishing.search import search as module
from fishing.search.ranking import all_blocks, rank_images
from fishing.store import ExtractionSettings, FeaturesFile


@pytest.fixture
def splits(rng) -> dict:
    return {
        "trainval": make_split(rng, 31, failed=(4,)),
        "test": make_split(rng, 20, image_id=tuple(f"te{i}" for i in range(20))),
    }


@pytest.mark.parametrize("block_rows", [7, 256])
def test_neighbours_are_those_of_all_pairs(
    tmp_path: Path, splits, monkeypatch, block_rows: int
) -> None:
    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", block_rows)
    file = write_file(tmp_path / "f.h5", **splits)
    found = search_id(file, "te3", ["dW7", "x7", "x7*x6", "x7*x7+dW8"], k=12)
    assert list(found) == ["dW7", "x7", "x6*x7", "x7*x7+dW8"]
    for feature, neighbours in found.items():
        rows = np.concatenate([explicit_features(s, feature) for s in splits.values()])
        ids = np.array([i for s in splits.values() for i in s.image_id])
        similarity = rows @ rows[np.flatnonzero(ids == "te3")[0]]
        order = [i for i in np.argsort(-similarity) if ids[i] != "te3"][:12]
        assert [n.image_id for n in neighbours] == list(ids[order])
        np.testing.assert_allclose(
            [n.similarity for n in neighbours], similarity[order], atol=3e-7
        )
    first = found["dW7"][0]
    split = splits[first.split]
    labels = split.labels[split.image_id.index(first.image_id)]
    assert first.classes == tuple(np.array(split.classes)[labels > 0])


def test_one_pass_over_the_blobs_that_are_needed(splits, monkeypatch) -> None:
    read: list[tuple[str, slice]] = []

    class Rows:
        def __init__(self, name: str, values: np.ndarray) -> None:
            self.name, self.values = name, values
            self.shape, self.dtype = values.shape, values.dtype

        def __getitem__(self, key):
            read.append((self.name, key))
            return self.values[key]

    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", 10)
    split = splits["trainval"]
    query = {name: rows[:1] for name, rows in split.blobs.items()}
    for name, rows in split.blobs.items():
        split.blobs[name] = Rows(name, rows)
    blocks = all_blocks({"trainval": split})
    rank_images(query, ["dW7", "x6", "x6+x7*x7"], 3, blocks, ())
    blobs = {"forward/x6", "forward/x7", "backward/y7"}
    assert {name for name, _ in read} == blobs
    for blob in blobs:
        keys = sorted((key for name, key in read if name == blob), key=str)
        assert keys == [slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 31)]


def test_equal_images_keep_their_order_and_twins_are_listed_once(
    tmp_path: Path, rng
) -> None:
    split = make_split(rng, 9)
    for rows in split.blobs.values():
        rows[:] = rows[0]
    file = write_file(tmp_path / "f.h5", train=split, trainval=split)
    found = search_id(file, "im0004", k=100)["dW7"]
    assert [n.image_id for n in found] == [f"im{i:04d}" for i in range(9) if i != 4]
    assert {n.split for n in found} == {"train"}
    assert {n.split for n in search_id(file, "im0004", splits=["trainval"])["dW7"]} == {
        "trainval"
    }


@pytest.mark.parametrize("backend", ["onnx", "caffe", "openvino-bfloat16"])
def test_a_photo_of_the_file_finds_itself(
    devkit: Path, tmp_path: Path, backend: str
) -> None:
    if backend == "openvino-bfloat16":
        skip_without_bfloat16()
    file = tmp_path / "f.h5"
    lists = read_splits(devkit, ["test"])
    extract(
        ExtractionSettings(load_net("tinyalexnet"), backend=backend, temperature=3),
        lists,
        file,
    )
    photo = devkit / "JPEGImages" / "test_005.jpg"
    found = search_photo(file, photo, ["dW6", "x8"], k=14)
    for feature in ("dW6", "x8"):
        first = found[feature][0]
        assert (first.image_id, first.split) == ("test_005", "test")
        assert first.similarity == pytest.approx(1, abs=2e-6)
        assert first.classes == ("cold",)
        others = search_id(file, "test_005", [feature], k=13)[feature]
        assert [n.image_id for n in found[feature][1:]] == [n.image_id for n in others]
    with pytest.raises(DataError, match=r"expected an image, found '.*none\.jpg': No"):
        search_photo(file, tmp_path / "none.jpg")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_photo_of_a_compressed_file_finds_itself(
    devkit: Path, tmp_path: Path, dtype: str
) -> None:
    lists = read_splits(devkit, ["trainval", "test"])
    settings = ExtractionSettings(load_net("tinyalexnet"), backend="onnx")
    extract(settings, lists, tmp_path / "f.h5")
    file = compress(tmp_path / "f.h5", tmp_path / "s.h5", dimensions=16, dtype=dtype)
    photo = devkit / "JPEGImages" / "test_005.jpg"
    found = search_photo(file, photo, k=3)["dW7"]
    assert (found[0].image_id, found[0].split) == ("test_005", "test")
    assert found[0].similarity > (0.999 if dtype == "int8" else 0.95)


@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_a_photo_goes_through_tf32_where_the_file_did(
    devkit: Path, tmp_path: Path, monkeypatch, caplog, device: str
) -> None:
    import h5py

    file = tmp_path / "f.h5"
    extract(
        ExtractionSettings(load_net("tinyalexnet")), read_splits(devkit, ["test"]), file
    )
    with h5py.File(file, "a") as opened:
        opened.attrs["gpu_math"] = "tf32"
    asked = []

    def compute(settings: ExtractionSettings, *_, **__) -> dict[str, np.ndarray]:
        asked.append(settings.tf32)
        with FeaturesFile(file) as opened:
            return {k: v[3:4] for k, v in opened.split("test").blobs.items()}

    monkeypatch.setattr(module, "compute_blobs", compute)
    search_photo(file, devkit / "JPEGImages" / "test_003.jpg", device=device)
    assert asked == [device != "cpu"]
    assert ("was made with TF32, which no CPU has" in caplog.text) == (device == "cpu")


def test_a_photo_needs_the_net_of_the_file(
    tmp_path: Path, splits, devkit: Path
) -> None:
    file = write_file(tmp_path / "f.h5", **splits)  # of made-up SHA-256
    photo = devkit / "JPEGImages" / "test_005.jpg"
    with pytest.raises(NetError, match="made with another net_sha256"):
        search_photo(file, photo)
    with pytest.raises(NetError, match="expected one of the nets"):
        search_photo(file, photo, spec=load_net("lenet"))


def test_a_photo_needs_the_preprocessing_of_the_file(
    tmp_path: Path, devkit: Path
) -> None:
    import h5py

    file = tmp_path / "f.h5"
    extract(
        ExtractionSettings(load_net("tinyalexnet")), read_splits(devkit, ["test"]), file
    )
    with h5py.File(file, "a") as opened:
        opened.attrs["preprocess"] = '{"size": 32}'
    with pytest.raises(StoreError, match="made with another preprocess: expected"):
        search_photo(file, devkit / "JPEGImages" / "test_005.jpg")


def test_a_query_of_zeros_is_refused(tmp_path: Path, splits) -> None:
    splits["trainval"].blobs["forward/x6"][3] = 0
    path = write_file(tmp_path / "f.h5", **splits)
    query = splits["trainval"].image_id[3]
    with pytest.raises(EvaluationError, match="nothing but zeros in forward/x6"):
        search_id(path, query, ["dW7"], k=2)
    assert search_id(path, query, ["x7"], k=2)


def test_what_cannot_be_searched(tmp_path: Path, splits) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    with pytest.raises(StoreError, match="expected an image 'none', found none"):
        search_id(file, "none")
    with pytest.raises(StoreError, match="could not be read when 'trainval'"):
        search_id(file, "im0004")
    with pytest.raises(StoreError, match="expected a split 'val'"):
        search_id(file, "te3", splits=["val"])
    with pytest.raises(EvaluationError, match="expected a feature"):
        search_id(file, "te3", ["x9"])
    with pytest.raises(EvaluationError, match="expected k of 1 or more, found 0"):
        search_id(file, "te3", k=0)


def _colours(folder: Path, **colours: tuple[int, int, int]) -> None:
    folder.mkdir()
    for name, bgr in colours.items():
        image = np.full((40, 80, 3), bgr, np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), image)


def test_a_sheet_shows_each_image_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    _colours(folder, red=(0, 0, 255), green=(0, 255, 0), blue=(255, 0, 0))
    green = Neighbour("green", "all", 0.9, ())
    lost = Neighbour("lost", "all", 0.5, ("cat",))
    blue = Neighbour("blue.png", "all", 0.2, ())
    found = {"dW7": [green, lost, blue], "x7": [blue]}
    sheet = write_sheet(tmp_path / "new" / "s.png", folder / "red.png", found, folder)
    assert [p.name for p in sheet.parent.iterdir()] == ["s.png"]
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * 223 + 12, 4 * 172 + 12, 3)
    for row, column, rgb in (
        (0, 0, (255, 0, 0)),
        (0, 1, (0, 255, 0)),
        (0, 2, (255, 255, 255)),
        (0, 3, (0, 0, 255)),
        (1, 0, (255, 0, 0)),
        (1, 1, (0, 0, 255)),
        (1, 2, (255, 255, 255)),
    ):
        centre = pixels[row * 223 + 92, column * 172 + 92]
        assert tuple(centre) == rgb, (row, column)


def test_sheets_that_cannot_be_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    _colours(folder, red=(0, 0, 255))
    red = folder / "red.png"
    with pytest.raises(DataError, match=r"found none of them.*--data"):
        write_sheet(
            tmp_path / "s.png", red, {"x7": [Neighbour("lost", "all", 1, ())]}, folder
        )
    found = {"x7": [Neighbour("red", "all", 1, ())]}
    for bad in (tmp_path / "s.nokind", red / "s.png"):
        with pytest.raises(DataError, match="choose another --sheet"):
            write_sheet(bad, red, found, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["photos", "red.png"]
