"""Tests of `fishing.nets.caffe_weights` against Caffe's own messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2

from fishing.errors import NetError
from fishing.nets import fit_weights, load_net, read_weights


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def _with_blob(blob: bytes) -> bytes:
    """Write a caffemodel of one layer with one blob."""
    return _field(100, _field(1, b"fc") + _field(7, blob))


def test_arrays_are_views_of_the_file() -> None:
    spec = load_net("tinyalexnet")
    path = spec.folder / spec.weights.file
    theirs = caffe_pb2.NetParameter.FromString(path.read_bytes())
    weights = read_weights(path)
    assert list(weights) == [layer.name for layer in theirs.layer if layer.blobs]
    for layer in theirs.layer:
        for array, blob in zip(weights.get(layer.name, []), layer.blobs, strict=True):
            assert list(array.shape) == list(blob.shape.dim)
            assert not array.flags.owndata
            assert not array.flags.writeable
            np.testing.assert_array_equal(array.ravel(), np.float32(blob.data))


def test_numbers_that_are_not_packed(tmp_path: Path) -> None:
    values = np.array([1.5, -2, 3e-9], "<f4")
    doubles = np.array([0.1, -1e300], "<f8")
    loose = b"".join(b"\x2d" + v.tobytes() for v in values)
    packed = _field(5, values.tobytes())
    long = b"".join(b"\x41" + v.tobytes() for v in doubles)
    diff = b"\x35" + values[:1].tobytes() + _field(6, values.tobytes())
    for numbers, expected in (
        (loose + packed + long + diff + loose, [*values] * 3),
        (packed + packed, [*values] * 2),
        (packed + _field(5, b"") + loose, [*values] * 2),
        (long + diff, doubles),
        (long + _field(8, doubles.tobytes()), [*doubles] * 2),
    ):
        blob = _field(7, _field(1, _varint(len(expected)))) + numbers
        path = _write(tmp_path / "net.caffemodel", _with_blob(blob))
        (found,) = read_weights(path)["fc"]
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found, np.float32(expected))
        theirs = caffe_pb2.NetParameter.FromString(path.read_bytes()).layer[0].blobs[0]
        np.testing.assert_array_equal(theirs.data or theirs.double_data, expected)


def test_old_shapes_and_double_numbers(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter(input=["x"])  # which has no shape here
    layer = net.layers.add(name="fc", type=caffe_pb2.V1LayerParameter.INNER_PRODUCT)
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    layer.blobs.add(num=1, channels=1, height=1, width=2, double_data=[0.1, 0.2])
    layer.blobs.add(data=[7])  # a number without axes has no shape
    path = _write(tmp_path / "old.caffemodel", net.SerializeToString())
    found = read_weights(path)
    assert [a.shape for a in found["fc"]] == [(1, 1, 2, 3), (1, 1, 1, 2), ()]
    assert all(a.dtype == np.float32 for a in found["fc"])
    W, b, one = fit_weights(path, found, {"fc": [[2, 3], [2], []]})["fc"]
    np.testing.assert_array_equal(W, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(b, np.float32([0.1, 0.2]))
    assert one == 7
    for wanted in ({"fc": [[3, 2], [2], []]}, {"fc": [[2, 3]]}, {"fc8": [[2]]}):
        with pytest.raises(
            NetError, match=r"expected parameters of shapes .* for layer"
        ):
            fit_weights(path, found, wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "a web page"),
        (b"\x0a\xff", "too early"),
        (b"\x0a", "too early"),
        (b"\xff" * 20, "a number of more than 64 bits"),
        (b"\xa2\x06\x05\x3a\x03\x2a", "too early"),
        (b"\xa2\x06" + _varint(2**31), "too early"),
        (b"\xa2\x06\x01\x0b", "wire type 3"),
        (_field(100, b"\x38\x01"), "'blobs' of wire type 0"),
        (_with_blob(b"\x29" + b"\0" * 8), "'data' of wire type 1"),
        (_with_blob(_field(5, b"\0" * 7)), "7 bytes in place of numbers of 4"),
        (_with_blob(_field(7, b"\x0a\x01\xff")), "Error parsing message"),
        (_with_blob(_field(5, b"\0" * 8)), r"2 numbers for a parameter of shape \[\]"),
        (_field(2, _field(1, _field(50, b"\x08"))), "too early"),
        (_field(2, b"") + _field(100, b""), "both 'layer' and 'layers'"),
    ],
)
def test_files_that_are_no_caffemodel(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = _write(tmp_path / "bad.caffemodel", content)
    with pytest.raises(NetError, match=f"expected a caffemodel, found .*({message})"):
        read_weights(path)


def test_numbers_that_do_not_fill_their_shape(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter()
    blob = net.layer.add(name="fc").blobs.add(data=range(5))
    blob.shape.dim.extend([2, 3])
    path = _write(tmp_path / "bad.caffemodel", net.SerializeToString())
    with pytest.raises(NetError, match=r"5 numbers for a parameter of shape \[2, 3\]"):
        read_weights(path)


def test_damaged_files_are_refused_or_other_weights(tmp_path: Path) -> None:
    """No damage may cause anything but a NetError."""
    net = caffe_pb2.NetParameter(name="n")
    for i in range(3):
        layer = net.layer.add(name=f"fc{i}", type="InnerProduct")
        layer.inner_product_param.num_output = 5
        for shape in ([5, 2], [5]):
            blob = layer.blobs.add(data=np.ones(shape).ravel())
            blob.shape.dim.extend(shape)
    content = net.SerializeToString()
    rng = np.random.default_rng(4)
    n_refused = 0
    for _ in range(1000):
        damaged = bytearray(content[: rng.integers(1, len(content))])
        for place in rng.integers(0, len(damaged), 2):
            damaged[place : place + 1] = rng.bytes(1)
        try:
            read_weights(_write(tmp_path / "n.caffemodel", bytes(damaged)))
        except NetError:
            n_refused += 1
    assert n_refused > 500


def test_texts_that_are_not_utf8_do_not_matter(tmp_path: Path) -> None:
    path = "/gef\u00e4hrlich".encode("latin-1")
    blob = _field(7, _field(1, b"\1")) + _field(5, b"\0" * 4)
    data = _field(107, _field(1, path))
    current = _field(100, _field(1, b"fc") + _field(7, blob) + data)
    other = _field(100, _field(1, path) + _field(7, blob))
    file = _write(tmp_path / "n.caffemodel", current + other)
    assert list(read_weights(file)) == ["fc", "/gef\ufffdhrlich"]
    v1 = _field(2, _field(4, b"fc") + _field(6, blob) + _field(11, _field(1, path)))
    v1 += _field(2, _field(4, path) + _field(6, blob))
    assert list(read_weights(_write(file, v1))) == ["fc", "/gef\ufffdhrlich"]
