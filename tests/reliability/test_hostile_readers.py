"""Files that were made to fill the memory, to take forever, or to lead elsewhere."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from campaigns.readers import Graph
from fishing.backends import open_backend
from fishing.errors import DataError, ImageError, NetError, StoreError
from fishing.images import find_image, read_image, read_splits
from fishing.nets import fetch_weights, load_net, read_net, read_weights
from fishing.nets.caffe_files import MAX_NET_BYTES
from fishing.store import describe
from forked_commands import ForkedCommands

MIB = 2**20
RUN = {"temperature": 2.0, "batch_size": 1, "device": "cpu"}
DATA = np.ones((1, 3, 8, 8), np.float32)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _bounded(
    forked: ForkedCommands, reader: str, path: Path, message: str, most: int = 20 * MIB
) -> None:
    """Expect a NetError in a process that may not take much memory."""
    program = (
        "import sys, resource, pathlib\n"
        f"from fishing.nets import {reader}\n"
        "pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])\n"
        f"limit = pages * resource.getpagesize() + {most} + {path.stat().st_size}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        f"try: {reader}(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [forked.python, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NetError "), done.stdout
    assert message in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {" * 30_000, "messages within messages without end"),
        ("layer {} " * 200_000, "more than 131072 values"),
        ("input_dim: [" + "1," * 200_000, "more than 131072 values"),
        ("input_dim: " + "1" * 100_000 + "x", "in line 1"),
        ("input_dim: 4294967296", "in line 1"),
        ("input_shape { dim: 9223372036854775808 }", "in line 1"),
        ("layer { lrn_param { alpha: 0x" + "f" * 300, "in line 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts(forked: ForkedCommands, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "deploy.prototxt").write_text(text)
    _bounded(forked, "read_net", tmp_path / "deploy.prototxt", message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_field(100, b"") * 600_000, "more than 1048576 bytes that are no weights"),
        (_field(4, b"\1" * 2**21), "more than 1048576 bytes that are no weights"),
        (_field(3, b"") * 600_000, "more than 1048576 bytes that are no weights"),
        (_field(100, _field(7, b"") * 600_000), "more than 1048576 bytes that"),
        (_field(100, _field(7, _field(5, b"") * 600_000)), "more than 1048576 bytes"),
        (_field(100, b"\xa2\x06" + _varint(2**31)), "too early"),
        (b"\x20" + b"\xff" * 20, "a number of more than 64 bits"),
    ],
    ids=["layers", "dims", "inputs", "blobs", "pieces", "2 GB", "long number"],
)
def test_messages(
    forked: ForkedCommands, tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "net").write_bytes(data)
    _bounded(forked, "read_weights", tmp_path / "net", message, most=600 * MIB)


def test_runs_of_one_number_each(tmp_path: Path) -> None:
    """Each run is looked at once: with a look at all the rest this takes minutes."""
    number = struct.pack("<f", 1)
    run = b"\x2d" + number + b"\x10\x01"
    data = _field(100, _field(7, run * 50_000 + b"\x08\xd0\x86\x03\x18\x01\x20\x01"))
    (tmp_path / "net").write_bytes(data)
    ((blob,),) = read_weights(tmp_path / "net").values()
    assert blob.shape == (50_000, 1, 1, 1)
    assert blob.tobytes() == number * 50_000


def test_prototxts_without_end(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="found a folder, a device or a pipe"):
        read_net(Path("/dev/zero"))
    (tmp_path / "long").write_bytes(b" " * (MAX_NET_BYTES + 1))
    with pytest.raises(NetError, match=f"more than {MAX_NET_BYTES} bytes"):
        read_net(tmp_path / "long")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    folder.mkdir()
    reader = Graph()
    reader.prepare(folder)
    (folder / "deploy.prototxt").write_bytes(reader.seeds[0])
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "stride: 2 pad: 1 }",
            "stride: 1 pad: 40000 kernel_size: 40001 }",
            "multiple|most",
        ),
        ("pad: 1 stride: 2", "pad: 100000 stride: 1", "at most 67108864 values"),
        ("pad: 1 stride: 2", "pad: 2147483647 stride: 1", "at most 67108864 values"),
        ("num_output: 4", "num_output: 2000000000", "at most 67108864 values"),
        ("dim: 8 input", "dim: 8000000 input", "expected one input of shape"),
        ('bottom: "fc6" top: "fc7"', 'top: "fc7"', "expected 1 bottom"),
        ('bottom: "data"', 'bottom: "prob"', "a layer before it to write 'prob'"),
        ('bottom: "fc6" top: "fc7"', 'bottom: "fc8" top: "fc7"', "expected a blob|to"),
        ('"LRN"', '"Python"', "a type of: "),
        ("local_size: 3", "local_size: 4294967295", "most|LRN|odd|stopped"),
    ],
)
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_graphs(net: Path, backend: str, old: str, new: str, message: str) -> None:
    text = (net / "deploy.prototxt").read_text()
    assert old in text
    (net / "deploy.prototxt").write_text(text.replace(old, new))
    tracemalloc.start()
    try:
        if "local_size" in old:  # a window over all channels is one
            values = open_backend(backend, load_net(str(net)), **RUN).run(DATA)
            assert all(np.isfinite(rows).all() for rows in values.values())
        else:
            with pytest.raises(NetError, match=message):
                open_backend(backend, load_net(str(net)), **RUN)
        assert tracemalloc.get_traced_memory()[1] < 50 * MIB
    finally:
        tracemalloc.stop()


def _listed(folder: Path, is_devkit: bool, *names: str) -> Path:
    main = folder / "ImageSets" / "Main" if is_devkit else folder
    main.mkdir(parents=True, exist_ok=True)
    (main / "t.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


@pytest.mark.parametrize(
    "image_id",
    ["../a", "a/../../b", "/etc/passwd", "..", ".", "/", "..\\a", "a\\..\\..\\b"],
)
@pytest.mark.parametrize("is_devkit", [True, False])
def test_ids_that_lead_elsewhere(tmp_path: Path, image_id: str, is_devkit) -> None:
    _listed(tmp_path, is_devkit, "good", image_id)
    with pytest.raises(DataError, match="line 2: expected the path of an image below"):
        read_splits(tmp_path, ["t"])
    with pytest.raises(DataError, match="expected the id of an image below"):
        find_image(tmp_path, image_id)


@pytest.mark.parametrize(
    "image_id", ["x" * 1001, "a\x1b[2J", "a\0b", "a\x85", "a\u2028b"]
)
@pytest.mark.parametrize("is_devkit", [True, False])
def test_names_that_cannot_be_ids(tmp_path: Path, image_id: str, is_devkit) -> None:
    """One odd name costs one image; the others of the list are read."""
    (images,) = read_splits(_listed(tmp_path, is_devkit, "a", image_id, "b"), ["t"])
    assert images.image_id[::2] == ("a", "b")
    assert list(images.failed) == [1]
    assert "rename it" in images.failed[1]
    assert images.image_id[1].isprintable()
    assert len(images.image_id[1].encode()) <= 1000


def test_features_that_are_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.h5")
    with pytest.raises(StoreError, match="found a folder, a device or a pipe"):
        describe(tmp_path / "f.h5")


def test_lists_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("zero", "pipe"):
        with pytest.raises(DataError, match="found a folder, a device or a pipe"):
            read_splits(tmp_path, [name])


def test_two_labels_for_an_image(tmp_path: Path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "t.txt").write_text("a\nb\n")
    (main / "cat_t.txt").write_text("a 1\nb -1\na -1\n")
    with pytest.raises(DataError, match="line 3: expected one label for an image"):
        read_splits(tmp_path, ["t"])


@pytest.mark.parametrize("name", ["", "tab\t", "x" * 201])
def test_classes_of_a_devkit(tmp_path: Path, name: str) -> None:
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "t.txt").write_text("a\n")
    (main / f"{name}_t.txt").write_text("a 1\n")
    with pytest.raises(DataError, match="names of classes"):
        read_splits(tmp_path, ["t"])


def test_many_images_in_many_classes(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(f"im{i} c{i % 999}\n" for i in range(4000)))
    (images,) = read_splits(tmp_path, ["t"])
    assert images.labels is not None
    assert images.labels.shape == (4000, 999)
    assert (images.labels == 1).sum() == 4000


def test_images_that_are_devices(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ImageError, match="a device or a pipe"):
            read_image(tmp_path / name)


def test_an_image_that_only_opencv_knows(tmp_path: Path) -> None:
    """Pillow reads no Radiance: OpenCV itself has to refuse 10 GB of pixels."""
    path = tmp_path / "a.hdr"
    path.write_bytes(
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n" + b"\0" * 99
    )
    program = (
        "import sys, resource, pathlib\n"
        "from fishing.images.decode import read_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "try: read_image(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ImageError not decoded: ")
    assert "PIXELS" in done.stdout


def test_a_source_without_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FISHING_HOME", str(tmp_path))
    monkeypatch.setattr("fishing.nets.fetch.MAX_BYTES", 10 * MIB)
    spec = load_net("vgg16")
    spec = replace(spec, weights=replace(spec.weights, size=None))
    with pytest.raises(NetError, match="expected 10485760 bytes, found more"):
        fetch_weights(spec, "/dev/zero")
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix != ".lock"]
