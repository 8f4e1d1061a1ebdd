"""Features files that are well-formed HDF5, and yet not what they seem."""

from __future__ import annotations

import json
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import SETTINGS, make_split, write_file
from fishing.errors import StoreError
from fishing.evaluate import evaluate
from fishing.store import (
    FeaturesFile,
    describe,
    index_process,
    verify,
    write_features,
)
from fishing.store.places import check_place
from fishing.store.values import OpenFile

FC7 = "test/forward/x7"
Damage = Callable[[h5py.File], None]


def _replaced(name: str, make: Callable[[h5py.File, str], object]) -> Damage:
    def damage(file: h5py.File) -> None:
        del file[name]
        make(file, name)

    return damage


def _linked(name: str, link: object) -> Damage:
    return _replaced(name, lambda file, name: file.__setitem__(name, link))


def _dataset(name: str, *args: object, **options: object) -> Damage:
    return _replaced(
        name, lambda file, name: file.create_dataset(name, *args, **options)
    )


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((5, 6), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", FC7, (5, 6))
    file.create_virtual_dataset(name, layout)


def _external(file: h5py.File, name: str) -> None:
    outside = [(b"outside.bin", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(name, (5, 6), "<f4", external=outside)


def _filtered(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros((5, 6), "<f4"), scaleoffset=2)


def _one_chunk_of_many(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (5, 6), "<f4", chunks=(1, 6))[:1] = 1


def _attribute(place: str, name: str, value: object) -> Damage:
    def damage(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return damage


def _array(name: str, values: object) -> Damage:
    return _dataset(name, data=values)


def _wide_labels(file: h5py.File) -> None:
    del file["test/labels"]
    file["test/labels"] = np.ones((5, 2), np.int64)
    file["test/labels"].attrs["classes"] = ["cat", "dog"]


def _ring(file: h5py.File) -> None:
    file["test/again"] = file["/"]


def _crowd(file: h5py.File) -> None:
    for i in range(101):
        group = file.create_group(f"crowd/{i}")
        for j in range(100):
            group.create_group(str(j))


TEXT = h5py.string_dtype("utf-8", 6)
CASES: dict[str, tuple[Damage, str]] = {
    "soft link": (_linked(FC7, h5py.SoftLink("/test/forward/x6")), "a link to else"),
    "external link": (_linked(FC7, h5py.ExternalLink("other.h5", FC7)), "a link to el"),
    "group elsewhere": (
        _linked("test/forward", h5py.ExternalLink("other.h5", "/test/forward")),
        "a link to elsewhere",
    ),
    "split elsewhere": (
        _linked("test", h5py.ExternalLink("other.h5", "/test")),
        "a link to elsewhere",
    ),
    "virtual dataset": (_replaced(FC7, _virtual), "lie elsewhere"),
    "external storage": (_replaced(FC7, _external), "lie elsewhere"),
    "nothing stored": (_dataset(FC7, (5, 6), "<f4"), "no values"),
    "a chunk of five": (_replaced(FC7, _one_chunk_of_many), "no values"),
    "huge": (_dataset(FC7, (2**24, 2**20), "<f4"), "no values"),
    "huger": (_dataset(FC7, (2**50, 6), "<f4"), r"a shape of \(1125899906842624, 6\)"),
    "wide": (_dataset(FC7, (5, 2**30), "<f4"), r"a shape of \(5, 1073741824\)"),
    "huge in chunks": (
        _dataset(FC7, (2**24, 2**20), "<f4", chunks=(256, 512), compression="gzip"),
        "no values",
    ),
    "a huge chunk": (
        _dataset(
            FC7, data=np.zeros((5, 6), "<f4"), chunks=(5, 2**23), maxshape=(5, None)
        ),
        "a shape that may grow to",
    ),
    "no columns": (_dataset(FC7, (5, 0), "<f4"), "a shape of"),
    "three axes": (_dataset(FC7, data=np.zeros((5, 6, 1), "<f4")), "(5, 6, 1)"),
    "a number": (_dataset(FC7, data=np.float32(1)), "a shape of"),
    "no space": (_dataset(FC7, data=h5py.Empty("f4")), "a shape of None"),
    "odd filter": (_replaced(FC7, _filtered), "behind filters"),
    "a group": (_replaced(FC7, lambda f, n: f.create_group(n)), "a group, not"),
    "big-endian": (_array(FC7, np.zeros((5, 6), ">f4")), "values of type >f4"),
    "float64": (_array(FC7, np.zeros((5, 6))), "values of type float64"),
    "complex": (_array(FC7, np.zeros((5, 6), "c8")), "values of type complex64"),
    "compound": (_array(FC7, np.zeros((5, 6), "f4,i4")), "values of type"),
    "references": (_dataset(FC7, (5, 6), h5py.ref_dtype), "values of type object"),
    "vlen": (_dataset(FC7, (5, 6), h5py.vlen_dtype("f4")), "values of type object"),
    "vlen ids": (_dataset("test/image_id", data=["a"] * 5), "values of type object"),
    "ids that are numbers": (
        _array("test/image_id", np.arange(5)),
        "values of type int64",
    ),
    "ids twice": (_array("test/image_id", np.array([b"a"] * 5, TEXT)), "occurs twice"),
    "ids no text": (
        _array("test/image_id", np.array([b"\xff%d" % i for i in range(5)], TEXT)),
        "utf-8",
    ),
    "ids with lines": (
        _array("test/image_id", np.array([b"a\n%d" % i for i in range(5)], TEXT)),
        "a.n0",
    ),
    "wide labels": (_wide_labels, "labels other"),
    "label 2": (
        lambda f: f["test/labels"].__setitem__(0, 2),
        "labels other than -1, 0",
    ),
    "classes twice": (_attribute("test/labels", "classes", ["a", "a"]), "class once"),
    "class elsewhere": (
        _attribute("test/labels", "classes", ["cat", "../../dog"]),
        "without '/'",
    ),
    "class of lines": (_attribute("test/labels", "classes", ["cat", "a\nb"]), "a.nb"),
    "many classes": (_attribute("test/labels", "classes", ["c"] * 4001), "attribute"),
    "places of fractions": (_array("test/failed/index", np.array([1.0])), "values of"),
    "logits of two widths": (
        _array("test/backward/y8", np.zeros((5, 7), "<f4")),
        r"forward/y8 and backward/y8 of 6 and 7 values",
    ),
    "settings of lists": (_attribute("/", "net", [1, 2]), "'net' of"),
    "settings of references": (
        lambda f: f.attrs.create("net", f.ref, dtype=h5py.ref_dtype),
        "an attribute 'net'",
    ),
    "no settings": (_attribute("/", "net", h5py.Empty("f4")), "attribute 'net'"),
    "a temperature of NaN": (
        _attribute("/", "temperature", np.nan),
        "'temperature' of",
    ),
    "a net of lines": (_attribute("/", "net", "a\x1b[2J"), "'net' of"),
    "preprocess a list": (_attribute("/", "preprocess", "[1]"), "'preprocess' of"),
    "preprocess too deep": (_attribute("/", "preprocess", "[" * 60_000), "recursion"),
    "preprocess deep": (
        _attribute("/", "preprocess", '{"a":' * 800 + "1" + "}" * 800),
        "'preprocess' of",
    ),
    "preprocess no text": (_attribute("/", "preprocess", 3), "JSON"),
    "versions": (
        _attribute("/", "format_version", [1, 1]),
        r"format \[1, 1\], made by another version",
    ),
    "splits a text": (_attribute("/", "splits", '"test"'), "names of splits"),
    "splits twice": (_attribute("/", "splits", '["test", "test"]'), "names of splits"),
    "splits elsewhere": (_attribute("/", "splits", '["/"]'), "names of splits"),
    "splits of lists": (_attribute("/", "splits", "[[1]]"), "names of splits"),
    "a long attribute": (_attribute("/", "net", np.zeros(7000)), "an attribute 'net'"),
    "a crowd": (_crowd, "more than 10000 groups"),
    "a ring": (_ring, "under two names"),
}


@pytest.fixture
def path(tmp_path: Path, rng) -> Path:
    other = write_file(tmp_path / "other.h5", test=make_split(rng, 5, failed=(1,)))
    (tmp_path / "outside.bin").write_bytes(b"\0" * 120)
    path = tmp_path / "f.h5"
    path.write_bytes(other.read_bytes())
    return path


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_what_it_seems(path: Path, case: str) -> None:
    damage, message = CASES[case]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(StoreError, match=message) as caught:
        describe(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 2**18  # KiB


@pytest.mark.parametrize("read", [describe, verify])
@pytest.mark.parametrize(
    "case", ["external link", "group elsewhere", "split elsewhere", "virtual dataset"]
)
def test_no_other_file_is_opened(path: Path, case: str, read) -> None:
    """The target of a link is not even looked for."""
    with h5py.File(path, "a") as file:
        CASES[case][0](file)
    other = path.with_name("other.h5")
    os.mkfifo(other.with_suffix(".pipe"))  # opening it would take forever
    os.replace(other.with_suffix(".pipe"), other)
    with pytest.raises(StoreError, match="elsewhere"):
        read(path)


def test_a_bomb_of_zeros_is_read_in_pieces(tmp_path: Path, rng) -> None:
    """A compressed file may be small, but what is read of it at once is bounded."""
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    with h5py.File(path, "a") as file:
        del file["test/image_id"]
        file.create_dataset(
            "test/image_id", (2**24,), "S600", chunks=(2**12,), compression="gzip"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError):
        describe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


@pytest.mark.parametrize(
    "content",
    [
        zlib.compress(bytes(400)),
        zlib.compress(bytes(2**26)),
        zlib.compress(bytes(40 * 512 * 4))[:-9],
        zlib.compress(bytes(40 * 512 * 4), 0)[:-4],
        b"no zlib at all",
    ],
    ids=["short", "a bomb", "cut", "no checksum", "none"],
)
@pytest.mark.parametrize("place", [0, 512])
def test_chunks_that_unpack_to_another_size(
    tmp_path: Path, rng, content: bytes, place: int
) -> None:
    """HDF5 would hand out the memory behind a short chunk, or crash."""
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 40, width=600))
    with h5py.File(path, "a") as file:
        values = file[FC7][:]
        del file[FC7]
        made = file.create_dataset(
            FC7, data=values, chunks=(40, 512), compression="gzip"
        )
        made.id.write_direct_chunk((0, place), content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda p: evaluate(p, train="test"), verify):
        with pytest.raises(StoreError, match="a chunk of another size") as caught:
            read(path)
        assert FC7 in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


def test_chunks_that_are_not_packed(tmp_path: Path, rng) -> None:
    """HDF5 leaves out a filter for each chunk that it would not make smaller."""
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 40, width=600))
    with h5py.File(path, "a") as file:
        del file[FC7]
        made = file.create_dataset(
            FC7,
            (40, 600),
            "<f4",
            chunks=(40, 300),
            compression="gzip",
            fillvalue=1.0,
        )
        made[:, 300:] = 2.0
        values = rng.standard_normal((40, 300)).astype("<f4")
        made.id.write_direct_chunk((0, 0), values.tobytes(), filter_mask=1)
    with FeaturesFile(path) as found:
        rows = found["test"].blobs["forward/x7"]
        assert (rows[:, :300] == values).all()
        assert (rows[5] == np.append(values[5], np.full(300, 2.0))).all()


def _place(*table: list[int], **changes: object) -> dict[str, object]:
    """Describe 6 x 4 numbers in chunks of 4 x 4, not packed."""
    return {"chunks": [4, 4], "filters": [], "table": list(table), **changes}


FIRST, SECOND = [0, 0, 100, 64, 0], [4, 0, 164, 64, 0]


def test_chunks_in_their_places() -> None:
    form = {"dtype": "<f4", "shape": [6, 4]}
    check_place("x", form, _place(FIRST, SECOND), 228)
    check_place("x", form, _place(SECOND, FIRST), 228)
    packed = _place([0, 0, 100, 8, 0], [4, 0, 108, 192, 0], filters=[2, 1])
    check_place("x", form, packed, 300)


@pytest.mark.parametrize(
    "place",
    [
        _place(FIRST),
        _place(FIRST, FIRST),
        _place(FIRST, SECOND, SECOND),
        _place(FIRST, [8, 0, 164, 64, 0]),
        _place(FIRST, [0, 4, 164, 64, 0]),
        _place(FIRST, [3, 0, 164, 64, 0]),
        _place(FIRST, [4, 0, 165, 64, 0]),
        _place(FIRST, [4, 0, -1, 64, 0]),
        _place(FIRST, [4, 0, 164, 63, 0]),
        _place(FIRST, [4, 0, 100, 65, 0]),
        _place(FIRST, [4, 0, 164, 64]),
        _place(FIRST, [4, 0, 164, 64, 0, 0]),
        _place(FIRST, [4, 0, 164, "64", 0]),
        _place(FIRST, [4, 0, 164, 64.0, 0]),
        _place(FIRST, None),  # type: ignore[arg-type]
        _place(FIRST, SECOND, chunks=[0, 4]),
        _place(FIRST, SECOND, chunks=[4]),
        _place(FIRST, SECOND, chunks=[2**23, 4]),
        _place(FIRST, SECOND, filters=[3]),
        _place(FIRST, SECOND, filters=[1, 2]),
        _place(FIRST, SECOND, filters=[2]),
        _place([0, 0, 0, 193, 0], SECOND, filters=[1]),
        _place([0, 0, 0, 193, 1], SECOND, filters=[2, 1]),
        _place([0, 0, 100, 65, 1], SECOND, filters=[1]),
        _place([0, 0, 0, 128, 0], [4, 0, 0, 128, 0], filters=[1]),
    ],
    ids=str,
)
def test_chunks_out_of_place(place: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"values,? (or|behind) .* in x"):
        check_place("x", {"dtype": "<f4", "shape": [6, 4]}, place, 228)


@pytest.mark.parametrize("ask", [describe, verify])
def test_places_of_chunks_are_compared(tmp_path: Path, rng, monkeypatch, ask) -> None:
    """The number of chunks is right, but one is there twice and one is missing."""
    path = tmp_path / "f.h5"
    split = make_split(rng, 300, width=600)
    write_features(path, {**SETTINGS, "compression": "gzip"}, {"test": split})
    answer = index_process.ask("read_index", OpenFile(path))
    table = answer["places"][FC7]["table"]
    assert [row[:2] for row in table] == [[0, 0], [0, 512], [256, 0], [256, 512]]
    for changed in ([0, 0], [256, 1024], [512, 512]):
        table[3][:2] = changed
        content = json.dumps(answer).encode()
        monkeypatch.setattr(index_process, "run", lambda *_, c=content: (c, 0))
        with pytest.raises(StoreError, match=f"lie elsewhere, in {FC7}"):
            ask(path)


def _one_place_twice(path: Path) -> None:
    """Change the index of the chunks of one dataset, checksum included."""
    with h5py.File(path, "a", libver="earliest") as file:
        del file[FC7]
        data = np.arange(5 * 6, dtype="<f4").reshape(5, 6)
        made = file.create_dataset(FC7, data=data, chunks=(1, 6))
        chunks = [made.id.get_chunk_info(i) for i in range(5)]
    content = bytearray(path.read_bytes())
    # A node of the tree holds size, mask and place of a chunk, and its address.
    keys = [
        struct.pack("<IIQQQ", 24, 0, i, 0, 0) + struct.pack("<Q", chunk.byte_offset)
        for i, chunk in enumerate(chunks)
    ]
    place = content.index(keys[3])
    content[place + 8 : place + 16] = struct.pack("<Q", 2)
    path.write_bytes(content)


def test_a_chunk_that_is_there_twice(path: Path) -> None:
    _one_place_twice(path)
    with pytest.raises(StoreError, match=f"lie elsewhere, in .*{FC7}"):
        describe(path)
    with pytest.raises(StoreError, match=f"found damage in {FC7}: no values, or val"):
        verify(path)


def _odd_numbers(file: h5py.File, name: str) -> None:
    """Store float32 with another fraction, which HDF5 converts when it reads."""
    dtype = h5py.h5t.IEEE_F32LE.copy()
    dtype.set_fields(31, 23, 8, 1, 22)
    space = h5py.h5s.create_simple((5, 6))
    made = h5py.h5d.create(file.id, name.encode(), dtype, space)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((5, 6), "<f4"))


def test_numbers_that_hdf5_would_convert(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file[FC7]
        _odd_numbers(file, FC7)
        assert file[FC7].dtype == "<f4"
    with pytest.raises(StoreError, match="values of another type than float32 in"):
        describe(path)


def test_damage_among_the_values_is_an_error(tmp_path: Path, rng) -> None:
    splits = {name: make_split(rng, 40, width=600) for name in ("trainval", "test")}
    path = write_file(tmp_path / "f.h5", **splits)
    with h5py.File(path, "a") as file:
        for name in splits:
            values = file[name]["forward/x7"][:]
            del file[name]["forward/x7"]
            file[name].create_dataset(
                "forward/x7", data=values, chunks=(8, 512), compression="gzip"
            )
            chunk = file[name]["forward/x7"].id.get_chunk_info(9)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="expected to read /test/forward/x7, found"):
        evaluate(path, features=["x7"])


def test_what_others_add_does_not_matter(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["notes/mine"] = np.arange(5)
        file.attrs["comment"] = "mine"
    with FeaturesFile(path) as found:
        assert found.settings["comment"] == "mine"
        assert json.dumps(found.settings)
