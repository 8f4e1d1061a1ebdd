"""Reading Caffe's files without Caffe, against Caffe's own messages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from conftest import ROOT
from fishing.errors import NetError
from fishing.nets import fit_weights, load_net, read_net, read_weights
from fishing.nets.caffe_binary import parse_binary
from fishing.nets.caffe_schema import ENUMS, MESSAGES, Message, upgrade
from fishing.nets.caffe_text import parse_text

TYPES = {
    "int": {"int32", "uint32"},
    "long": {"int64"},
    "bool": {"bool"},
    "float": {"float"},
    "double": {"double"},
    "string": {"string"},
}


def _type_name(field: Any) -> str:
    return next(
        name.removeprefix("TYPE_").lower()
        for name in dir(field)
        if name.startswith("TYPE_") and getattr(field, name) == field.type
    )


def _is_many(field: Any) -> bool:
    return bool(field.is_repeated)


@pytest.mark.parametrize("kind", MESSAGES)
def test_fields_are_those_of_caffe(kind: str) -> None:
    """Names, numbers, types and defaults; and no field of a message is forgotten."""
    theirs = getattr(caffe_pb2, kind).DESCRIPTOR.fields_by_name
    assert set(MESSAGES[kind]) == set(theirs)
    for name, field in MESSAGES[kind].items():
        their = theirs[name]
        assert field.number == their.number, name
        if field.kind == "ignored":
            continue
        assert field.many == _is_many(their), name
        if field.kind in MESSAGES:
            assert their.message_type.name == field.kind, name
        elif field.kind in ENUMS:
            values = {v.name: v.number for v in their.enum_type.values}
            assert values == ENUMS[field.kind], name
            if not field.many:
                assert ENUMS[field.kind][field.default] == their.default_value, name
        else:
            assert _type_name(their) in TYPES[field.kind], name
            if not field.many:
                assert field.default == pytest.approx(their.default_value), name


# --- random messages ------------------------------------------------------------------


def _fill(message: Any, rng: np.random.Generator, depth: int = 0) -> None:
    """Set fields of a message of Caffe's at random."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < (0.3 if depth else 0.8):
            continue
        n = int(rng.integers(1, 4)) if _is_many(field) else 1
        if field.message_type:
            if depth > 2:
                continue
            for _ in range(n):
                part = getattr(message, field.name)
                _fill(part.add() if _is_many(field) else part, rng, depth + 1)
                if not _is_many(field):
                    part.SetInParent()
            continue
        values = [_draw(field, rng) for _ in range(n)]
        if _is_many(field):
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, values[0])


def _draw(field: Any, rng: np.random.Generator) -> Any:
    kind = _type_name(field)
    if kind == "enum":
        return int(rng.choice([v.number for v in field.enum_type.values]))
    if kind == "string":
        letters = list("ab_ 7/\"'\\\n\t\x01é漢#{}")
        return "".join(rng.choice(letters, 6))
    if kind == "bool":
        return bool(rng.random() < 0.5)
    if kind in ("float", "double"):
        return float(rng.choice([rng.normal(), -1e-20, 3e30, 7, math.inf, -0.0]))
    if kind.startswith("u"):
        return int(rng.choice([0, 1, 127, 128, 300, 2**31]))
    return int(rng.choice([0, -1, 1, 127, 128, -300, 2**31 - 1]))


def _same(ours: Message, theirs: Any) -> None:
    """Compare all fields that are not ignored."""
    for name, field in MESSAGES[ours.kind].items():
        if field.kind == "ignored":
            continue
        mine, other = getattr(ours, name), getattr(theirs, name)
        if not field.many:
            assert ours.HasField(name) == theirs.HasField(name), name
            mine, other = [mine], [other]
        assert len(mine) == len(other), name
        for a, b in zip(mine, other, strict=True):
            if field.kind in MESSAGES:
                _same(a, b)
            elif field.kind in ENUMS:
                assert ENUMS[field.kind][a] == b, name
            elif field.kind == "float":
                assert np.float32(a) == np.float32(b), name
            else:
                assert a == b, name


@pytest.mark.parametrize("kind", ["NetParameter", "LayerParameter", "V1LayerParameter"])
@pytest.mark.parametrize("seed", range(15))
def test_random_messages(kind: str, seed: int) -> None:
    theirs = getattr(caffe_pb2, kind)()
    _fill(theirs, np.random.default_rng(seed))
    binary = parse_binary(memoryview(theirs.SerializePartialToString()), kind)
    _same(binary, theirs)
    assert not list(binary.strangers())
    for form in ({}, {"as_one_line": True}, {"as_utf8": True}):
        text = text_format.MessageToString(theirs, **form)
        ours = parse_text(text, kind)
        _same(ours, theirs)
        assert not list(ours.strangers())


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "tinyalexnet"])
def test_nets_of_the_project(name: str) -> None:
    path = ROOT / "models" / name / "deploy.prototxt"
    theirs = text_format.Parse(path.read_text(), caffe_pb2.NetParameter())
    _same(parse_text(path.read_text()), theirs)
    _same(parse_binary(memoryview(theirs.SerializeToString())), theirs)


# --- text -----------------------------------------------------------------------------


def test_ways_to_write_the_same() -> None:
    text = """
    # a comment { with brackets "
    name: 'o' "n\\x65" 'N\\145t';  input_shape < dim: [ 1, 0x10 , 010 ] >
    layer { name: "a", relu_param: { negative_slope: .5f } }, layer: {
      convolution_param { pad: 1 pad: 2 bias_term: 0 }
      pooling_param { pool: 1 } lrn_param { alpha: -1.e-3F beta: -inf } }
    layer [ { name: "x" }, { name: "y" } ]
    """
    theirs = text_format.Parse(text, caffe_pb2.NetParameter())
    ours = parse_text(text)
    _same(ours, theirs)
    assert ours.name == "oneNet"
    assert ours.input_shape[0].dim == [1, 16, 8]
    assert ours.layer[1].pooling_param.pool == "AVE"


def test_unknown_fields_are_read_over_and_noted() -> None:
    text = """layer { name: "a" odd { b: "}" c < d: 'x' > } odder: [1, 2]
      pooling_param { odd_size: -3e4 kernel_size: 2 } data_param { source: "}" } }"""
    layer = parse_text(text).layer[0]
    assert layer.pooling_param.kernel_size == 2
    assert list(layer.strangers()) == ["odd", "odder", "pooling_param.odd_size"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 1", "line 1: '1' in place of a text in quotes"),
        ("\n\nlayer {", "line 3: the end of the text in place of the name of a field"),
        ('name: "a" name: "b"', "in place of 'name' once"),
        ("layer { phase: LUNCH }", "'LUNCH' in place of one of TRAIN TEST"),
        ("input_dim: 1.5", "'1.5' in place of a value of type int"),
        ("input_dim 1", "'1' in place of ':' after 'input_dim'"),
        ("input_dim: [1 2]", "'2' in place of ',' or ']'"),
        ("layer: 7", "'7' in place of '{'"),
        ("odd { ( }", "'\\(' in place of a name, a value or a bracket"),
        ("odd", "the end of the text in place of ':' or '{'"),
        ("odd: {", "the end of the text in place of '}'"),
        ("odd: [", "the end of the text in place of ']'"),
        ('name: "a', "'\"' in place of a name, a value or a bracket"),
        ("layer { relu_param { negative_slope: x } }", "'x' in place of a value"),
        ("}", "'}' in place of the name of a field"),
    ],
)
def test_malformed_texts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_text(text)


# --- bytes ----------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def test_numbers_that_are_not_packed() -> None:
    values = np.array([1.5, -2, 3e-9], "<f4")
    doubles = np.array([0.1, -1e300], "<f8")
    loose = b"".join(b"\x2d" + v.tobytes() for v in values)
    packed = b"\x2a\x0c" + values.tobytes()
    long = b"".join(b"\x41" + v.tobytes() for v in doubles)
    blob = parse_binary(memoryview(loose + packed + long + loose), "BlobProto")
    np.testing.assert_array_equal(blob.data, np.concatenate([values] * 3))
    np.testing.assert_array_equal(blob.double_data, doubles)
    theirs = caffe_pb2.BlobProto.FromString(loose + packed + long + loose)
    assert list(theirs.data) == list(blob.data)
    # Tags of two bytes, as of a field whose number is above 15.
    dim = parse_binary(memoryview(b"\x08\x05\x0a\x02\x06\x07"), "BlobShape").dim
    assert dim == [5, 6, 7]


def test_damaged_bytes_are_malformed_or_another_message() -> None:
    """Nothing but a ValueError may come of any damage."""
    message = caffe_pb2.NetParameter()
    _fill(message, np.random.default_rng(3))
    content = message.SerializePartialToString()
    rng = np.random.default_rng(4)
    n_refused = 0
    for _ in range(1000):
        damaged = bytearray(content[: rng.integers(len(content))])
        for place in rng.integers(0, max(len(damaged), 1), 2):
            damaged[place : place + 1] = rng.bytes(1)
        try:
            list(parse_binary(memoryview(bytes(damaged))).strangers())
        except ValueError:
            n_refused += 1
    assert n_refused > 500


# --- files ----------------------------------------------------------------------------


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_old_layers_become_new_ones(tmp_path: Path) -> None:
    text = """
    name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 9
    layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1
             convolution_param { num_output: 4 kernel_size: 3 } }
    layers { name: "p" type: 17 bottom: "c" top: "p" pooling_param { pool: AVE } }
    layers { name: "d" type: DECONVOLUTION bottom: "p" top: "d" param: "shared" }
    """
    theirs = text_format.Parse(text, caffe_pb2.NetParameter())
    for content in (text, theirs.SerializeToString()):
        net = read_net(_write(tmp_path / "net", content))
        assert [layer.type for layer in net.layer] == [
            "Input",
            "Convolution",
            "Pooling",
            "DECONVOLUTION",
        ]
        assert net.layer[0].input_param.shape[0].dim == [1, 3, 8, 9]
        assert net.layer[1].convolution_param.num_output == 4
        assert net.layer[2].pooling_param.pool == "AVE"
        assert net.layer[3].param[0].name == "shared"


def test_the_oldest_layers_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "net", 'layers { layer { name: "a" } }')
    with pytest.raises(NetError, match=r"expected a deploy net, found .* of 2013"):
        read_net(path)
    with pytest.raises(ValueError, match="both 'layer' and 'layers'"):
        upgrade(parse_text('layers { name: "a" } layer { name: "b" }'))


@pytest.mark.parametrize(
    ("rules", "included"),
    [
        ("", True),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("include { min_level: 1 }", False),
        ("include { min_level: 0 max_level: 0 }", True),
        ("include { max_level: -1 }", False),
        ('include { stage: "deploy" }', False),
        ('exclude { not_stage: "deploy" }', False),
        ("include {}", True),
    ],
)
def test_layers_of_the_test_phase(tmp_path: Path, rules: str, included: bool) -> None:
    layers = f'layer {{ name: "a" {rules} }}'
    net = read_net(_write(tmp_path / "net", layers))
    assert bool(net.layer) is included
    import caffe

    text = (
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } } '
        f'layer {{ name: "a" type: "ReLU" bottom: "x" top: "y" {rules} }}'
    )
    theirs = caffe.Net(str(_write(tmp_path / "caffe.prototxt", text)), caffe.TEST)
    assert ("a" in theirs._layer_names) is included


def test_weights_look_into_the_file() -> None:
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


def test_old_shapes_and_double_numbers(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter()
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
    "content",
    [b"", b"<html>not found</html>", b"\x0a\xff", b"\xa2\x06\x05\x3a\x03\x2a"],
)
def test_files_that_are_no_caffemodel(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path / "bad.caffemodel", content)
    with pytest.raises(NetError, match="expected a caffemodel, found") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_numbers_that_do_not_fill_their_shape(tmp_path: Path) -> None:
    net = caffe_pb2.NetParameter()
    blob = net.layer.add(name="fc").blobs.add(data=range(5))
    blob.shape.dim.extend([2, 3])
    path = _write(tmp_path / "bad.caffemodel", net.SerializeToString())
    with pytest.raises(NetError, match=r"5 numbers for a parameter of shape \[2, 3\]"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"name: '\xff'", b"\x0a\x00\x01\x02", "layer {"])
def test_files_that_are_no_net(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(NetError, match="expected a deploy net, found"):
        read_net(_write(tmp_path / "bad.prototxt", content))
    with pytest.raises(NetError, match=r"expected a deploy net, found .*No such file"):
        read_net(tmp_path / "missing")
