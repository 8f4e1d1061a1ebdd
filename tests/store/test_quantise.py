"""Values of 8 and 4 bits, against roundings and packings in plain loops."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import SETTINGS, make_split
from fishing.errors import StoreError
from fishing.store import (
    LARGEST,
    FeaturesFile,
    Projection,
    describe,
    integer_scales,
    verify,
    write_features,
)
from fishing.store.quantise import quantise, unpack

X7 = "test/forward/x7"


def _rounded(values: np.ndarray, scales: np.ndarray, largest: int) -> list[list[int]]:
    return [
        [
            max(-largest, min(largest, round(float(v / s))))
            for v, s in zip(row, scales, strict=True)
        ]
        for row in values
    ]


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("width", [1, 4, 7])
def test_rounding_and_packing(rng, dtype: str, width: int) -> None:
    values = rng.normal(size=(50, width))
    scales = (rng.uniform(0.5, 3, width) / LARGEST[dtype]).astype(np.float32)
    expected = _rounded(values, scales, LARGEST[dtype])
    found = quantise(values, scales, dtype)
    if dtype == "int4":
        assert found.shape == (50, (width + 1) // 2)
        for row, packed in zip(expected, found.tolist(), strict=True):
            even, odd = row[::2], [*row[1::2], 0][: len(packed)]
            assert packed == [
                low % 16 + 16 * (high % 16) for low, high in zip(even, odd, strict=True)
            ]
        found = unpack(found)[:, :width]
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", LARGEST)
def test_no_other_scale_rounds_much_better(rng, dtype: str) -> None:
    heavy = rng.standard_t(3, (3000, 1))
    values = np.hstack([heavy, rng.normal(size=(3000, 1)) * 1e-6, heavy * 0])
    scales = integer_scales(values, dtype)
    assert scales.dtype == np.float32
    assert scales[2] > 0
    for column in (0, 1):
        v = values[:, [column]]

        def error(scale: float, v: np.ndarray = v) -> float:
            whole = np.clip(np.rint(v / scale), -LARGEST[dtype], LARGEST[dtype])
            return float(np.square(whole * scale - v).sum())

        most = np.abs(v).max() / LARGEST[dtype]
        best = min(error(most * f) for f in np.linspace(0.02, 1.2, 300))
        assert error(float(scales[column])) < 1.25 * best
        assert dtype == "int8" or error(float(scales[column])) < 0.8 * error(most)


def _file(path: Path, dtype: str, width: int = 7) -> Path:
    rng = np.random.default_rng(3)
    blobs = {
        blob: rng.normal(size=(9, width)).astype(np.float32)
        for blob in ("forward/x7", "backward/y8")
    }
    projection = {
        blob: Projection(
            rng.normal(size=(20, width)).astype(np.float32), integer_scales(rows, dtype)
        )
        for blob, rows in blobs.items()
    }
    settings = {**SETTINGS, "dtype": dtype, "projection": {"dimensions": width}}
    split = make_split(rng, 9, blobs=blobs)
    write_features(path, settings, {"test": split}, projection=projection)
    return path


@pytest.mark.parametrize("dtype", LARGEST)
def test_the_layout_is_the_documented_one(tmp_path: Path, dtype: str) -> None:
    path = _file(tmp_path / "f.h5", dtype)
    verify(path)
    assert describe(path)["splits"]["test"]["blobs"]["forward/x7"] == 7
    with h5py.File(path) as file, FeaturesFile(path) as ours:
        stored = file[X7]
        scales = stored.attrs["scales"]
        assert scales.dtype == np.float32
        assert stored.dtype == (np.int8 if dtype == "int8" else np.uint8)
        values = stored[:].astype(int)
        if dtype == "int4":
            pairs = np.stack([values % 16, values // 16], axis=-1).reshape(9, -1)
            values = np.where(pairs > 7, pairs - 16, pairs)[:, :7]
        np.testing.assert_array_equal(
            ours["test"].blobs["forward/x7"][:], values.astype(np.float32) * scales
        )
        for name in (X7, "projection/forward/x7", "projection/backward/y8"):
            digest = hashlib.sha256(file[name][()].tobytes()).hexdigest()
            assert file[name].attrs["sha256"].decode() == digest
        bases = file["projection/forward/x7"]
        assert bases.dtype == "<f4"
        np.testing.assert_array_equal(ours.projection["forward/x7"][:], bases[:])


def _attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file[X7].attrs[name]
        if value is not None:
            file[X7].attrs[name] = value

    return damage


def _replaced(name: str, values: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return damage


def _another_split(file: h5py.File) -> None:
    file.attrs["splits"] = '["projection"]'


def _setting(value: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        file.attrs["projection"] = value

    return damage


ONES = np.ones(7, np.float32)
BASES = "projection/forward/x7"
CASES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no scales": (_attribute("scales", None), "scales"),
    "one scale": (_attribute("scales", np.float32(1)), "than a list of numbers"),
    "scales of zero": (_attribute("scales", 0 * ONES), "not positive and finite"),
    "negative scales": (_attribute("scales", -ONES), "not positive and finite"),
    "scales of NaN": (_attribute("scales", ONES * np.nan), "not positive and finite"),
    "huge scales": (_attribute("scales", np.full(7, 1e39)), "not positive and finite"),
    "tiny scales": (_attribute("scales", np.full(7, 1e-60)), "not positive and"),
    "scales of text": (_attribute("scales", ["1"] * 7), "not positive and finite"),
    "whole scales": (_attribute("scales", np.ones(7, int)), "not positive and finite"),
    "few scales": (_attribute("scales", ONES[:4]), "4 scales for rows of"),
    "many scales": (_attribute("scales", np.ones(9)), "9 scales for rows of"),
    "thousands of scales": (_attribute("scales", np.ones(2000)), "than a list of num"),
    "int64": (_replaced(X7, np.zeros((9, 7), int)), "values of type int64"),
    "uint16": (_replaced(X7, np.zeros((9, 7), np.uint16)), "values of type uint16"),
    "no bases": (_replaced(BASES, None), "bases of 0 directions for 7 values in forw"),
    "no bases at all": (_replaced("projection", None), "bases of 0 directions"),
    "narrow bases": (_replaced(BASES, np.ones((20, 6), "<f4")), "bases of 6 direct"),
    "bases of one axis": (_replaced(BASES, np.ones(7, "<f4")), r"a shape of \(7,\)"),
    "bases of float64": (_replaced(BASES, np.ones((20, 7))), "values of type float64"),
    "bases elsewhere": (_replaced(BASES, h5py.SoftLink(f"/{X7}")), "a link to elsewhe"),
    "a number as projection": (_setting(3), "JSON"),
    "a list as projection": (_setting("[64]"), "'projection' of"),
    "a text as projection": (_setting('"64"'), "'projection' of"),
    "bases in a split": (_another_split, "projection"),
}


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("case", CASES)
def test_hostile_fields(tmp_path: Path, dtype: str, case: str) -> None:
    path = _file(tmp_path / "f.h5", dtype)
    damage, message = CASES[case]
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(StoreError, match=message) as caught:
        describe(path)
    assert str(caught.value).isprintable()
    with pytest.raises(StoreError):
        verify(path)


@pytest.mark.parametrize("dtype", LARGEST)
def test_changed_bytes_are_found_in_bases_and_integers(
    tmp_path: Path, dtype: str
) -> None:
    path = _file(tmp_path / "f.h5", dtype)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        places = {name: file[name].id.get_offset() for name in (X7, BASES)}
    for name, place in places.items():
        changed = bytearray(whole)
        changed[place + 1] ^= 4
        path.write_bytes(changed)
        with pytest.raises(StoreError, match=f"damage in {name}: other values"):
            verify(path)


def test_files_of_floats_have_no_bases(tmp_path: Path, rng) -> None:
    """A split of that name is a split as any other."""
    path = tmp_path / "f.h5"
    write_features(path, SETTINGS, {"projection": make_split(rng, 5)})
    verify(path)
    with FeaturesFile(path) as file:
        assert file.projection == {}
        assert len(file["projection"]) == 5
