from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from campaigns import flipped_bits
from conftest import SETTINGS, make_split, write_file
from fishing.errors import StoreError
from fishing.kernels import Kernels
from fishing.nets import BLOBS
from fishing.nets.blobs import paired_blobs
from fishing.store import (
    FeaturesFile,
    Split,
    describe,
    storage_settings,
    verify,
    write,
    write_features,
)
from fishing.store.settings import STORAGE


def test_what_is_written_is_read(tmp_path: Path, rng) -> None:
    splits = {
        "trainval": make_split(rng, 700, failed=(3, 500)),
        "test": make_split(rng, 4, image_id=("a", "ü/b.png", "c", "d" * 40)),
    }
    with FeaturesFile(write_file(tmp_path / "f.h5", **splits)) as file:
        assert file.settings == SETTINGS
        assert list(file.splits) == ["trainval", "test"]
        for name, split in splits.items():
            read = file.split(name)
            for field in dataclasses.fields(split):
                expected, found = getattr(split, field.name), getattr(read, field.name)
                if field.name == "blobs":
                    assert list(found) == list(BLOBS)
                    for blob, rows in expected.items():
                        np.testing.assert_array_equal(found[blob][:], rows)
                elif isinstance(expected, np.ndarray):
                    np.testing.assert_array_equal(found, expected)
                    assert found.dtype == expected.dtype
                else:
                    assert found == expected


def test_unlabelled_split(tmp_path: Path, rng) -> None:
    split = make_split(rng, 5, labels=None, failed_labels=None, classes=())
    with FeaturesFile(write_file(tmp_path / "f.h5", all=split)) as file:
        assert file.split("all").labels is None
        assert file.split("all").classes == ()


def test_the_layout_is_the_documented_one(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, failed=(1,)))
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"fishing-features"
        assert file.attrs["format_version"] == 3
        assert file.attrs["temperature"] == 2.0
        assert file["test/forward/x6"].shape == (5, 6)
        assert file["test/forward/x6"].dtype == np.float32
        assert file["test/labels"].dtype == np.int8
        assert list(file["test/labels"].attrs["classes"]) == [b"cat", b"dog"]
        assert file["test/image_id"].asstr()[0] == "im0000"
        assert file["test/failed/image_id"].asstr()[:].tolist() == ["im0001"]
        assert file["test/failed/reason"].asstr()[:].tolist() == ["empty file"]


def test_more_images_than_a_file_may_hold(tmp_path: Path, rng, monkeypatch) -> None:
    monkeypatch.setattr(write, "MAX_ROWS", 5)
    write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    with pytest.raises(StoreError, match="at most 5 images in a split of one file"):
        write_file(tmp_path / "g.h5", test=make_split(rng, 6))
    assert not (tmp_path / "g.h5").exists()


def test_same_splits_same_bytes(tmp_path: Path, rng) -> None:
    split = make_split(rng, 300, failed=(7,))
    first = write_file(tmp_path / "a.h5", test=split)
    second = write_file(tmp_path / "b.h5", test=split)
    assert first.read_bytes() == second.read_bytes()


def test_describe(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, failed=(1,)))
    assert describe(path) == {
        "settings": SETTINGS,
        "splits": {
            "test": {
                "n_images": 5,
                "n_failed": 1,
                "n_classes": 2,
                "blobs": dict.fromkeys(BLOBS, 6),
                "failed": {"im0001": "empty file"},
            }
        },
    }


def test_missing_split(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", trainval=make_split(rng, 5))
    with (
        FeaturesFile(path) as file,
        pytest.raises(StoreError, match="expected a split 'test', found trainval"),
    ):
        file.split("test")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`fishing extract` makes one"):
        FeaturesFile(tmp_path / "none.h5")


def test_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "f.h5").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match="expected an HDF5 file"):
        FeaturesFile(tmp_path / "f.h5")


def _damage_format(file: h5py.File) -> None:
    file.attrs["format"] = "other"


def _damage_version(file: h5py.File) -> None:
    file.attrs["format_version"] = 99


def _damage_blobs(file: h5py.File) -> None:
    del file["test/forward"]
    del file["test/backward"]


def _damage_rows(file: h5py.File) -> None:
    del file["test/backward/y7"]
    file["test/backward/y7"] = np.zeros((4, 6), np.float32)


def _damage_axes(file: h5py.File) -> None:
    del file["test/forward/x8"]
    file["test/forward/x8"] = np.zeros(5, np.float32)


def _damage_type(file: h5py.File) -> None:
    del file["test/forward/x8"]
    file["test/forward/x8"] = np.zeros((5, 6), np.float64)


def _damage_reasons(file: h5py.File) -> None:
    del file["test/failed/reason"]
    file["test/failed/reason"] = np.array([], dtype="S1")


def _damage_places(file: h5py.File) -> None:
    file["test/failed/index"][:] = 99


def _damage_classes(file: h5py.File) -> None:
    file["test/labels"].attrs["classes"] = ["cat"]


def _damage_failed(file: h5py.File) -> None:
    del file["test/failed"]


def _damage_split(file: h5py.File) -> None:
    del file["test"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_format, "another kind"),
        (_damage_version, "format 99, made by another version of fishing"),
        (_damage_blobs, "no blobs"),
        (_damage_rows, r"\(4, 6\) in /test/backward/y7, where \(5, 6\) fits 5 images"),
        (_damage_axes, r"a shape of \(5,\) in /test/forward/x8"),
        (_damage_type, "values of type float64 in /test/forward/x8"),
        (_damage_reasons, r"a shape of \(0,\) in /test/failed/reason"),
        (_damage_places, "other places than those of 6 images"),
        (_damage_classes, r"a shape of \(5, 2\) in /test/labels"),
        (_damage_failed, "failed"),
        (_damage_split, "test"),
    ],
)
def test_damaged_files(tmp_path: Path, rng, damage, message: str) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, failed=(1,)))
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(StoreError, match=f"whole features file.*{message}"):
        FeaturesFile(path)


def test_truncated_file(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 500))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(StoreError, match="expected an HDF5 file"):
        FeaturesFile(path)


def test_splits_of_other_widths(tmp_path: Path, rng) -> None:
    splits = {"trainval": make_split(rng, 5), "test": make_split(rng, 5, width=7)}
    path = write_file(tmp_path / "f.h5", **splits)
    with pytest.raises(StoreError, match=r"forward/x5 of \[6, 7\] values an image"):
        FeaturesFile(path)


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, failed=(1,)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError) as caught:
            describe(path)
        assert "\n" not in str(caught.value)


# --- how blobs are stored ---------------------------------------------------------

ALL_STORAGE = [(d, c) for d in STORAGE["dtype"] for c in STORAGE["compression"]]


def _sparse(rng, n: int, width: int = 1200, largest: float = 1) -> Split:
    """Make a split with the zeros of a ReLU and values over ten powers of ten."""
    blobs = {}
    for blob in BLOBS:
        values = 10 ** rng.uniform(-8, 0, (n, width)) * rng.choice([-1, 1], (n, width))
        values[rng.random((n, width)) < 0.7] = 0
        blobs[blob] = (values * largest).astype(np.float32)
    return make_split(rng, n, blobs=blobs)


def _write(path: Path, split: Split, dtype: str, compression: str) -> Path:
    settings = {**SETTINGS, **storage_settings(dtype, compression)}
    write_features(path, settings, {"test": split})
    return path


@pytest.mark.parametrize(("dtype", "compression"), ALL_STORAGE)
@pytest.mark.parametrize("n", [1, 255, 600])
def test_whatever_the_storage_float32_is_read(
    tmp_path: Path, rng, dtype: str, compression: str, n: int
) -> None:
    split = _sparse(rng, n)
    path = _write(tmp_path / "f.h5", split, dtype, compression)
    error = 2**-11 if dtype == "float16" else 0
    with FeaturesFile(path) as file:
        for blob, expected in split.blobs.items():
            rows = file.split("test").blobs[blob]
            assert rows.shape == expected.shape
            assert rows.dtype == np.float32
            for key in (slice(None), slice(0, 2), (slice(None), slice(500, 700)), 0):
                assert rows[key].dtype == np.float32
                np.testing.assert_allclose(rows[key], expected[key], rtol=error, atol=0)


@pytest.mark.parametrize(("dtype", "compression"), ALL_STORAGE)
def test_any_hdf5_library_can_read_it(
    tmp_path: Path, rng, dtype: str, compression: str
) -> None:
    split = _sparse(rng, 600)
    path = _write(tmp_path / "f.h5", split, dtype, compression)
    with h5py.File(path) as file:
        dataset = file["test/backward/y6"]
        assert dataset.dtype == dtype
        assert str(dataset.compression).lower() == compression
        found = dataset[:] * np.float32(dataset.attrs.get("scale", 1))
        expected = split.blobs["backward/y6"][:]
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=0)
    again = _write(tmp_path / "g.h5", split, dtype, compression)
    assert again.read_bytes() == path.read_bytes()
    plain = _write(tmp_path / "p.h5", split, dtype, "none")
    assert compression == "none" or path.stat().st_size < 0.7 * plain.stat().st_size


@pytest.mark.parametrize(("dtype", "compression"), ALL_STORAGE)
def test_kernels_hardly_depend_on_the_storage(
    tmp_path: Path, rng, dtype: str, compression: str
) -> None:
    split = _sparse(rng, 300, largest=1e-6)
    path = _write(tmp_path / "f.h5", split, dtype, compression)
    with FeaturesFile(path) as file:
        found = Kernels(file.split("test"), file.split("test"))
        for a, b in zip(found("dW7"), Kernels(split, split)("dW7"), strict=True):
            error = 1e-3 if dtype == "float16" else 0
            np.testing.assert_allclose(a[:], b[:], rtol=0, atol=error)


def test_the_default_leaves_no_trace(tmp_path: Path, rng) -> None:
    assert storage_settings() == storage_settings("float32", "none") == {}
    with h5py.File(write_file(tmp_path / "f.h5", test=make_split(rng, 5))) as file:
        assert not {"dtype", "compression"} & set(file.attrs)
        for blob in BLOBS:
            assert file["test"][blob].chunks is None
            assert list(file["test"][blob].attrs) == ["sha256"]


@pytest.mark.parametrize("largest", [0, 1e-38, 1e-9, 1.99999, 1.9999, 65519, 3e38])
def test_float16_has_a_scale_for_any_values(tmp_path: Path, rng, largest) -> None:
    split = _sparse(rng, 20, largest=largest)
    path = _write(tmp_path / "f.h5", split, "float16", "none")
    with FeaturesFile(path) as file:
        for blob, expected in split.blobs.items():
            found = file.split("test").blobs[blob][:]
            smallest = np.abs(expected).max() * 2**-29
            np.testing.assert_allclose(found, expected, rtol=2**-11, atol=smallest / 2)
        again = _write(tmp_path / "again.h5", file.split("test"), "float16", "none")
    assert again.read_bytes() == path.read_bytes()


def test_float16_rounded_up_to_the_next_power_of_two(tmp_path: Path, rng) -> None:
    """The scale must not change when rounded values are written once more."""
    ones = np.full((3, 6), np.nextafter(np.float32(2), np.float32(1)))
    split = make_split(rng, 3, blobs=dict.fromkeys(BLOBS, ones))
    path = _write(tmp_path / "f.h5", split, "float16", "none")
    with FeaturesFile(path) as file:
        assert (file.split("test").blobs["backward/y6"][:] == 2).all()
        again = _write(tmp_path / "again.h5", file.split("test"), "float16", "none")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_split_without_rows(tmp_path: Path, rng, compression: str) -> None:
    split = make_split(rng, 0, failed=(0, 1))
    path = _write(tmp_path / "f.h5", split, "float16", compression)
    with FeaturesFile(path) as file:
        assert file.split("test").blobs["forward/x6"].shape == (0, 6)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dtype": "float64"}, "expected a dtype of: float32 float16; found 'float64'"),
        (
            {"compression": "lzf"},
            "expected a compression of: none gzip; found 'lzf",
        ),
    ],
)
def test_unknown_storage(choice, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        storage_settings(**choice)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, np.nan, np.inf])
def test_float16_without_a_scale(tmp_path: Path, rng, scale) -> None:
    path = _write(tmp_path / "f.h5", make_split(rng, 5), "float16", "none")
    with h5py.File(path, "a") as file:
        del file["test/forward/x7"].attrs["scale"]
        if scale is not None:
            file["test/forward/x7"].attrs["scale"] = np.float32(scale)
    with pytest.raises(StoreError, match=r"whole features file.*scale"):
        FeaturesFile(path)


# --- is a file as it was written? -------------------------------------------------


def _datasets(path: Path) -> dict[str, h5py.Dataset]:
    found = {}
    with h5py.File(path) as file:
        for split in file:
            file[split].visititems(
                lambda name, part, split=split: (
                    found.update({f"{split}/{name}": (part[()], dict(part.attrs))})
                    if isinstance(part, h5py.Dataset)
                    else None
                )
            )
    return found


@pytest.mark.parametrize(("dtype", "compression"), ALL_STORAGE)
def test_anyone_can_check_the_checksums(
    tmp_path: Path, rng, dtype: str, compression: str
) -> None:
    """They are the SHA-256 of the bytes of the values, as docs/format.md says."""
    path = _write(tmp_path / "f.h5", _sparse(rng, 300), dtype, compression)
    verify(path)
    datasets = _datasets(path)
    assert len(datasets) == 14
    for name, (values, attributes) in datasets.items():
        expected = hashlib.sha256(values.tobytes()).hexdigest()
        assert attributes["sha256"].decode() == expected, name
    outline: dict = {}
    with h5py.File(path) as file:
        for name in ("/", "test", *datasets):
            part = file[name]
            outline[name] = {"attributes": {}}
            for key, value in part.attrs.items():
                if (name, key) != ("/", "sha256"):
                    plain = value.tolist()
                    if isinstance(plain, list):
                        plain = [item.decode() for item in plain]
                    plain = plain.decode() if isinstance(plain, bytes) else plain
                    outline[name]["attributes"][key] = plain
            if name in datasets:
                outline[name] |= {"shape": list(part.shape), "dtype": part.dtype.str}
        text = json.dumps(outline, sort_keys=True)
        expected = hashlib.sha256(text.encode()).hexdigest()
        assert file.attrs["sha256"].decode() == expected


@pytest.mark.parametrize(("dtype", "compression"), ALL_STORAGE)
def test_one_flipped_bit_is_found_and_named(
    tmp_path: Path, rng, dtype: str, compression: str
) -> None:
    split = make_split(rng, 60, width=40)
    path = _write(tmp_path / "f.h5", split, dtype, compression)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        places = {}
        for name in ("image_id", "labels", *BLOBS):
            dataset = file["test"][name].id
            chunked = dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED
            places[name] = (
                dataset.get_chunk_info(0).byte_offset + 20
                if chunked
                else dataset.get_offset()
            )
    for name, place in places.items():
        damaged = bytearray(whole)
        damaged[place + 3] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=f"found damage in test/{name}: [^;]*; ta"):
            verify(path)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_any_flipped_bit_is_found_or_changes_nothing(
    tmp_path: Path, compression: str
) -> None:
    """tests/campaigns/flipped_bits.py does the same with every bit."""
    path = tmp_path / "f.h5"
    flipped_bits.small_file(path, storage_settings(compression=compression))
    bits = range(0, 8 * path.stat().st_size, 347)
    outcomes, silent = flipped_bits.flip_all(path, bits)
    assert silent == []
    assert not [name for name in outcomes if name.startswith("CRASH")]
    assert outcomes["changes nothing"] < len(bits) / 10


def test_a_lost_tail_is_named(tmp_path: Path, rng) -> None:
    """HDF5 itself refuses such a file without saying what is lost."""
    split = make_split(rng, 500, failed=(3,))
    path = write_file(tmp_path / "f.h5", train=split, test=split)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        ends = {
            name: file[name].id.get_offset() + values.nbytes
            for name, (values, _) in _datasets(path).items()
        }
    for name, end in ends.items():
        path.write_bytes(whole[: end - 1])
        with pytest.raises(StoreError, match=f"found damage in .*{name}: "):
            verify(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="test/backward/y8: values beyond the end"):
        verify(path)


def test_files_without_checksums(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    with pytest.raises(StoreError, match="`fishing extract` makes one"):
        verify(tmp_path / "none.h5")
    with h5py.File(path, "a") as file:
        del file.attrs["sha256"]
    with pytest.raises(StoreError, match="found damage in /: "):
        verify(path)
    with h5py.File(path, "a") as file:
        del file["test/labels"].attrs["sha256"]
    with pytest.raises(StoreError, match="found damage in test/labels: no checksum"):
        verify(path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ask", [describe, verify])
def test_files_of_earlier_formats_are_refused(
    tmp_path: Path, rng, version: int, ask
) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = version
        # Such files have strings of variable length, which this format has not.
        del file["test/image_id"]
        file["test/image_id"] = ["a"] * 5
    with pytest.raises(
        StoreError,
        match=f"found format {version}, made by an earlier version of fishing; extract",
    ):
        ask(path)


@pytest.mark.parametrize("n_inner_products", range(1, 8))
def test_heads_of_any_number_of_inner_products(
    tmp_path: Path, rng, n_inner_products: int
) -> None:
    blobs = {
        blob: rng.normal(size=(5, 4)).astype(np.float32)
        for blob in reversed(paired_blobs(n_inner_products))
    }
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, blobs=blobs))
    verify(path)
    with FeaturesFile(path) as file:
        assert list(file["test"].blobs) == list(paired_blobs(n_inner_products))
        for blob, rows in blobs.items():
            np.testing.assert_array_equal(file["test"].blobs[blob][:], rows)


def test_some_blobs_are_enough(tmp_path: Path, rng) -> None:
    blobs = {"backward/y7": rng.normal(size=(5, 4)).astype(np.float32)}
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5, blobs=blobs))
    assert describe(path)["splits"]["test"]["blobs"] == {"backward/y7": 4}


@pytest.mark.parametrize("names", [(), ("forward/fc7",), ("forward/x7", "x8")])
def test_other_blobs_are_not_written(tmp_path: Path, rng, names) -> None:
    split = make_split(rng, 2, blobs=dict.fromkeys(names, np.zeros((2, 3), np.float32)))
    with pytest.raises(StoreError, match="expected blobs of: forward/x"):
        write_file(tmp_path / "f.h5", test=split)
    assert not (tmp_path / "f.h5").exists()


def test_splits_of_other_blobs(tmp_path: Path, rng) -> None:
    path = write_file(
        tmp_path / "f.h5", trainval=make_split(rng, 5), test=make_split(rng, 5)
    )
    with h5py.File(path, "a") as file:
        del file["test/forward/x7"]
    with pytest.raises(StoreError, match="splits with and without forward/x7"):
        FeaturesFile(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("forward/y8", "backward/y8"),
        ("forward/y8", "forward/x8"),
    ],
)
def test_blobs_of_one_width(tmp_path: Path, rng, one: str, other: str) -> None:
    blobs = {one: np.zeros((2, 3), np.float32), other: np.zeros((2, 4), np.float32)}
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 2, blobs=blobs))
    with pytest.raises(StoreError, match=f"{one} and {other} of 3 and 4 values"):
        FeaturesFile(path)


def test_gradients_of_maxout_are_wider_than_its_output(tmp_path: Path, rng) -> None:
    blobs = {"forward/x7": np.zeros((2, 3)), "backward/y7": np.zeros((2, 6))}
    blobs = {name: rows.astype(np.float32) for name, rows in blobs.items()}
    with FeaturesFile(
        write_file(tmp_path / "f.h5", test=make_split(rng, 2, blobs=blobs))
    ) as file:
        assert file["test"].blobs["backward/y7"].shape == (2, 6)


def test_verifying_shows_progress(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 600))
    calls: list[tuple[str, int, int | None, str]] = []
    verify(path, lambda *call: calls.append(call))
    assert [done for _, done, *_ in calls] == sorted({done for _, done, *_ in calls})
    assert calls[-1][0] == "f.h5"
    assert calls[-1][3] == "B"
    assert calls[-1][1] == calls[-1][2] > 8 * 600 * 6 * 4
