"""Tests of the nets that come with the project, and of reading a net's folder.

The shapes of blobs and weights are computed from the prototxts in this file.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from fishing.errors import NetError
from fishing.files import file_sha256
from fishing.nets import NetSpec, check_weights, load_net, net_names, weights_path
from fishing.nets import spec as spec_module
from fishing.nets.weights import cache_folder

SHIPPED = ("alexnet", "tinyalexnet", "vgg16")
TOML = """\
name = "mine"
title = "A net of mine"

[input]
size = 32
mean = [1, 2.5, 3]

[blobs]
x5 = "pool5"
x6 = "fc6"
x7 = "fc7"
y8 = "fc8"
x8 = "prob"

[weights]
file = "mine.caffemodel"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "net.toml").write_text(TOML)
    (folder / "deploy.prototxt").write_text('name: "mine"\n')
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def layers(spec: NetSpec) -> list[Any]:
    """Read the layers of a net by Caffe's own messages."""
    text = spec.model.read_text()
    return list(text_format.Parse(text, caffe_pb2.NetParameter()).layer)


def shapes(spec: NetSpec) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Compute the shape of every blob of one image, and of every layer's weights."""
    blobs: dict[str, tuple[int, ...]] = {}
    weights: dict[str, tuple[int, ...]] = {}
    for layer in layers(spec):
        kind, (top,) = layer.type, layer.top
        if kind == "Input":
            blobs[top] = tuple(layer.input_param.shape[0].dim)[1:]
            continue
        shape = blobs[layer.bottom[0]]
        if kind == "Convolution":
            p = layer.convolution_param
            (k,), (stride,), (pad,) = p.kernel_size, p.stride or [1], p.pad or [0]
            side = (shape[1] + 2 * pad - k) // stride + 1
            weights[layer.name] = (p.num_output, shape[0] // p.group, k, k)
            blobs[top] = (p.num_output, side, side)
        elif kind == "Pooling":
            q = layer.pooling_param
            assert (q.pool, q.pad) == (q.MAX, 0)
            side = math.ceil((shape[1] - q.kernel_size) / q.stride) + 1
            blobs[top] = (shape[0], side, side)
        elif kind == "InnerProduct":
            out = layer.inner_product_param.num_output
            weights[layer.name] = (out, math.prod(shape))
            blobs[top] = (out,)
        else:
            assert kind in ("ReLU", "LRN", "Dropout", "Softmax")
            blobs[top] = shape
    return blobs, weights


def parameters(spec: NetSpec) -> int:
    return sum(math.prod(w) + w[0] for w in shapes(spec)[1].values())


# The nets that come with the project.


def test_the_shipped_nets_are_listed() -> None:
    assert net_names() == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_net_fits_its_prototxt(name: str) -> None:
    spec = load_net(name)
    blobs, _ = shapes(spec)
    assert spec.name == spec.folder.name == name
    assert blobs["data"] == spec.preprocess.shape
    assert list(spec.blobs) == ["x5", "x6", "x7", "y8", "x8"]
    assert set(spec.blobs.values()) <= set(blobs)
    # B, G, R: ImageNet's mean is darkest in blue.
    b, g, r = spec.preprocess.mean
    assert 103 < b < 105 < g < 118 < r < 124
    digest = hashlib.sha256(spec.model.read_bytes()).hexdigest()
    assert spec.net_sha256 == digest


@pytest.mark.parametrize("name", SHIPPED)
def test_layers_are_chained_and_activations_in_place(name: str) -> None:
    at = None
    for layer in layers(load_net(name)):
        (top,) = layer.top
        assert list(layer.bottom) == ([at] if at else [])
        is_in_place = layer.type in ("ReLU", "Dropout")
        assert (at == top) == is_in_place
        assert is_in_place or layer.name == top
        assert layer.dropout_param.dropout_ratio == 0.5
        at = top
    assert at == "prob"


def test_alexnet_has_the_shapes_of_the_public_weights() -> None:
    blobs, weights = shapes(load_net("alexnet"))
    assert weights == {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 9216),
        "fc7": (4096, 4096),
        "fc8": (1000, 4096),
    }
    assert parameters(load_net("alexnet")) == 60_965_224
    assert blobs["conv1"] == (96, 55, 55)
    assert blobs["pool1"] == (96, 27, 27)
    assert blobs["pool2"] == (256, 13, 13)
    assert blobs["pool5"] == (256, 6, 6)
    assert blobs["prob"] == (1000,)


def test_alexnet_normalises_after_relu_and_before_pooling() -> None:
    found = layers(load_net("alexnet"))
    names = [layer.name for layer in found]
    for block in (1, 2):
        at = names.index(f"conv{block}")
        chain = [f"{kind}{block}" for kind in ("conv", "relu", "norm", "pool")]
        assert names[at : at + 4] == chain
    for layer in found:
        if layer.type == "LRN":
            p = layer.lrn_param
            assert (p.local_size, p.beta, p.k) == (5, 0.75, 1)
            assert p.alpha == pytest.approx(1e-4)


def test_vgg16_has_the_shapes_of_the_public_weights() -> None:
    blobs, weights = shapes(load_net("vgg16"))
    channels = 3
    expected: dict[str, tuple[int, ...]] = {}
    for block, (depth, out) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1
    ):
        for i in range(1, depth + 1):
            expected[f"conv{block}_{i}"] = (out, channels, 3, 3)
            channels = out
    expected |= {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (1000, 4096)}
    assert weights == expected
    assert list(weights) == list(expected)
    assert parameters(load_net("vgg16")) == 138_357_544
    assert blobs["conv5_3"] == (512, 14, 14)
    assert blobs["pool5"] == (512, 7, 7)


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_public_weights_are_on_record(name: str) -> None:
    weights = load_net(name).weights
    # An old caffemodel is its float32 parameters and little else.
    assert weights.size is not None
    assert 0 < weights.size - 4 * parameters(load_net(name)) < 10_000
    assert len(set(weights.sources)) == len(weights.sources) >= 2
    assert weights.licence


def test_tinyalexnet_comes_with_its_weights() -> None:
    spec = load_net("tinyalexnet")
    path = weights_path(spec)
    assert path == spec.folder / "tinyalexnet.caffemodel"
    data = path.read_bytes()
    assert spec.weights.size == len(data)
    assert spec.weights.sha256 == hashlib.sha256(data).hexdigest() == file_sha256(path)
    assert (spec.preprocess.height, spec.preprocess.mean) == (64, (104, 117, 123))


def test_tinyalexnet_is_the_shared_one(shared: Path) -> None:
    for name in ("deploy.prototxt", "tinyalexnet.caffemodel", "PROVENANCE.md"):
        ours = load_net("tinyalexnet").folder / name
        theirs = shared / "models" / "tinyalexnet" / name
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_an_installed_package_has_its_own_models(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "fishing"
    shutil.copytree(folder, package / "models" / "mine")
    monkeypatch.setattr(spec_module, "__file__", str(package / "nets" / "spec.py"))
    # A neighbour of the package that happens to be called models is not ours.
    shutil.copytree(folder, package.parent / "models" / "theirs")
    assert net_names() == ["mine"]
    assert load_net("mine").folder == package / "models" / "mine"
    shutil.rmtree(package.parent)
    with pytest.raises(NetError, match="install fishing again"):
        net_names()


# A net of the user's own.


def test_a_folder_is_a_net(folder: Path) -> None:
    spec = load_net(str(folder))
    assert (spec.name, spec.title, spec.folder) == ("mine", "A net of mine", folder)
    assert (spec.preprocess.height, spec.preprocess.mean) == (32, (1.0, 2.5, 3.0))
    weights = spec.weights
    assert (weights.file, weights.size, weights.sha256) == (
        "mine.caffemodel",
        None,
        None,
    )
    assert (weights.sources, weights.licence) == ((), "")


@pytest.mark.parametrize("net", ["vgg", "", "no/such/folder", "a" * 5000, "a\0b"])
def test_an_unknown_net_lists_the_known(net: str) -> None:
    with pytest.raises(NetError, match="alexnet, tinyalexnet, vgg16"):
        load_net(net)


@pytest.mark.parametrize("missing", ["net.toml", "deploy.prototxt"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(NetError, match=missing):
        load_net(str(folder))


@pytest.mark.parametrize(
    "line",
    [line for line in TOML.splitlines() if "=" in line],
    ids=lambda line: line.split()[0],
)
def test_a_missing_key_is_named(folder: Path, line: str) -> None:
    (folder / "net.toml").write_text(TOML.replace(line + "\n", ""))
    with pytest.raises(NetError, match=rf"net\.toml.*{line.split()[0]}`.*no such key"):
        load_net(str(folder))


@pytest.mark.parametrize("table", ["input", "blobs", "weights"])
def test_a_missing_table_is_named(folder: Path, table: str) -> None:
    kept = [part for part in TOML.split("\n\n") if f"[{table}]" not in part]
    (folder / "net.toml").write_text("\n\n".join(kept))
    with pytest.raises(NetError, match=rf"net\.toml.*`{table}`"):
        load_net(str(folder))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "mine"', "name = 1", "name"),
        ('name = "mine"', 'name = ""', "name"),
        ('name = "mine"', 'name = "a\\nb"', "name"),
        ('name = "mine"', 'name = "a\\u0000b"', "name"),
        ('name = "mine"', 'name = "\\u001b[2J"', "name"),
        ('name = "mine"', f'name = "{"x" * 1001}"', "name"),
        ('name = "mine"', f"name{'.a' * 3000} = 1", "name"),
        ("size = 32", "size = 2049", "input.size"),
        ("[1, 2.5, 3]", f"[1, 2, {'9' * 400}]", "input.mean"),
        ("[1, 2.5, 3]", "[1, 2, 1e999]", "input.mean"),
        ("[1, 2.5, 3]", "[1, 2, -1]", "input.mean"),
        ('"mine.caffemodel"', f'"{"a" * 201}"', "weights.file"),
        ('"mine.caffemodel"', '"-mine.caffemodel"', "weights.file"),
        ("[input]", 'colour = "red"\n[input]', "colour"),
        ("size = 32", "size = 0", "input.size"),
        ("size = 32", "size = 32.0", "input.size"),
        ("size = 32", "size = true", "input.size"),
        ("size = 32", "size = 32\ncrop = 1", "input.crop"),
        ("[1, 2.5, 3]", "[1, 2.5]", "input.mean"),
        ("[1, 2.5, 3]", "2", "input.mean"),
        ("[1, 2.5, 3]", "[1, 2, nan]", "input.mean"),
        ("[1, 2.5, 3]", '[1, 2, "3"]', "input.mean"),
        ('"fc6"', "6", "blobs.x6"),
        ('x6 = "fc6"', 'x6 = "fc6"\nx9 = "fc9"', "blobs.x9"),
        ('"mine.caffemodel"', '"../mine.caffemodel"', "weights.file"),
        ('"mine.caffemodel"', '"/mine.caffemodel"', "weights.file"),
        ('"mine.caffemodel"', '"a/mine.caffemodel"', "weights.file"),
        ('"mine.caffemodel"', "'a\\mine.caffemodel'", "weights.file"),
        ('"mine.caffemodel"', '".."', "weights.file"),
        ('"mine.caffemodel"', '""', "weights.file"),
        ('"mine.caffemodel"', '"a"\nsize = -1', "weights.size"),
        ('"mine.caffemodel"', '"a"\nsha256 = "abc"', "weights.sha256"),
        ('"mine.caffemodel"', '"a"\nsources = "http://a/"', "weights.sources"),
        ('"mine.caffemodel"', '"a"\nsources = ["file:///a"]', "weights.sources"),
        ('"mine.caffemodel"', '"a"\nmd5 = "abc"', "weights.md5"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, old: str, new: str, key: str) -> None:
    assert old in TOML
    (folder / "net.toml").write_text(TOML.replace(old, new))
    with pytest.raises(NetError) as raised:
        load_net(str(folder))
    assert f"`{key}`" in str(raised.value)
    assert str(folder / "net.toml") in str(raised.value)


def test_a_table_that_is_none_is_named(folder: Path) -> None:
    (folder / "net.toml").write_text('name = "a"\ntitle = "b"\ninput = 3\n')
    with pytest.raises(NetError, match="`input` to be a table, found 3"):
        load_net(str(folder))


@pytest.mark.parametrize(
    "data",
    [
        b"name = ",
        b"\xff\xfe",
        b"a = 1\na = 2\n",
        b"a = " + b"9" * 5000,  # more digits than Python reads
        b"a = " + b"[" * 5000,
        b"a = " + b"{a=" * 5000,
        b"#" * 2**16 + b"\n",
    ],
    ids=lambda data: str(data[:8]),
)
def test_what_is_no_toml_is_refused(folder: Path, data: bytes) -> None:
    (folder / "net.toml").write_bytes(data)
    with pytest.raises(NetError, match=r"expected TOML in .*net\.toml"):
        load_net(str(folder))


# Where the weights lie.


def recorded(folder: Path, data: bytes) -> NetSpec:
    digest = hashlib.sha256(data).hexdigest()
    text = f'{TOML}size = {len(data)}\nsha256 = "{digest}"\n'
    (folder / "net.toml").write_text(text)
    return load_net(str(folder))


def test_the_cache_is_fishing_home_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", "/cache/{}".format)
    monkeypatch.setenv("FISHING_HOME", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("FISHING_HOME", "")
    assert cache_folder() == Path("/cache/fishing")


def test_weights_beside_the_net_come_first(folder: Path, home: Path) -> None:
    spec = recorded(folder, b"right")
    cached = home / "weights" / spec.weights.sha256[:16] / "mine.caffemodel"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"right")
    assert weights_path(spec) == cached
    (folder / "mine.caffemodel").write_bytes(b"right")
    assert weights_path(spec) == folder / "mine.caffemodel"


def test_missing_weights_say_how_to_fetch_them(home: Path) -> None:
    with pytest.raises(NetError, match=r"found nothing; run `fishing fetch vgg16`"):
        weights_path(load_net("vgg16"))


def test_missing_weights_of_a_folder_name_the_folder(folder: Path, home: Path) -> None:
    with pytest.raises(NetError, match=re.escape(f"`fishing fetch {folder}`")):
        weights_path(recorded(folder, b"right"))


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    spec = recorded(folder, b"right")
    (folder / "mine.caffemodel").write_bytes(b"wrong!")
    with pytest.raises(NetError, match=r"expected 5 bytes .* found 6"):
        weights_path(spec)


def test_another_nets_weights_do_not_pass_for_ours(folder: Path, home: Path) -> None:
    cached = home / "weights" / "mine.caffemodel"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"another net's")
    with pytest.raises(NetError, match=r"found nothing; put the file there"):
        weights_path(load_net(str(folder)))
    (folder / "mine.caffemodel").write_bytes(b"ours")
    assert weights_path(load_net(str(folder))) == folder / "mine.caffemodel"


def test_weights_of_another_sum_are_refused(folder: Path) -> None:
    spec, path = recorded(folder, b"right"), folder / "mine.caffemodel"
    path.write_bytes(b"right")
    assert check_weights(spec, path) == spec.weights.sha256
    path.write_bytes(b"wrong")
    digest = hashlib.sha256(b"wrong").hexdigest()
    with pytest.raises(NetError, match=f"found {digest}; remove it"):
        check_weights(spec, path)


def test_weights_without_a_sum_on_record_are_only_summed(folder: Path) -> None:
    (folder / "mine.caffemodel").write_bytes(b"any")
    found = check_weights(load_net(str(folder)), folder / "mine.caffemodel")
    assert found == hashlib.sha256(b"any").hexdigest()
