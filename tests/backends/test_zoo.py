"""Public nets as they were published: all converted, and the small ones run."""

from __future__ import annotations

import re
from pathlib import Path

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from zoo import ZOO, convert, difference, make_net, names, run, spec_of

from fishing.backends import Backend
from fishing.backends.caffe import CaffeBackend
from fishing.backends.caffe.net import gradient_net
from fishing.backends.onnx import OnnxBackend
from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.graph import build_graph
from fishing.errors import NetError
from fishing.nets import (
    PreparedNet,
    blob_shapes,
    propose_blobs,
    read_net,
    read_weights,
)
from fishing.nets.prepare_net import prepare_layers

pytestmark = pytest.mark.skipif(
    not ZOO.is_dir(), reason=f"the public nets are not in {ZOO}"
)

#: Nets without a head that gives gradients, and the reason of each.
REFUSED = {
    "caffenet_full_conv": "map of 8 x 8",
    "fast_rcnn_caffenet": "one input of images, .*'rois'",
    "fast_rcnn_vgg_m": "one input of images, .*'rois'",
    "faster_rcnn_zf": "one input of images, .*'im_info'",
    "nin_imagenet": "rank",
    "seetaface": "embedding",
    "sphereface20": "embedding",
    "squeezenet_dc": "rank",
    "squeezenet_v1.0": "rank",
    "vgg19_style": "y8 to come from an inner product, found 'pool5'",
}
#: Nets that take a few seconds, with all kinds of layers, heads and formats.
SMALL = [
    *("age_net", "cifar10_quick", "googlenet", "lenet", "lightened_a", "mobilenet_v1"),
    *("mtcnn_det1", "mtcnn_det2", "open_nsfw", "places205_alexnet", "rcnn_ilsvrc13"),
    "verifycode",
]
#: Layers of these nets that only forks have.
FORKS = {"se_resnet50": "Axpy", "shufflenet_1x_g3": "ShuffleChannel"}


@pytest.mark.parametrize("name", names())
def test_conversion(name: str) -> None:
    prototxt = ZOO / f"{name}.prototxt"
    if name not in REFUSED:
        assert "inner product" in convert(prototxt)
        return
    with pytest.raises(NetError, match=REFUSED[name]) as caught:
        convert(prototxt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", names())
def test_caffe_knows_the_settings(name: str) -> None:
    """What is read has no field of a fork, but for layers that only forks have."""
    net = read_net(ZOO / f"{name}.prototxt")
    for layer in net.layer:
        if layer.stranger:  # such layers are refused
            assert name.startswith("fast")
        if layer.stranger or layer.type == "ShuffleChannel":
            layer.Clear()
    text_format.Parse(str(net), caffe_pb2.NetParameter())


@pytest.mark.parametrize("name", SMALL)
def test_both_backends(tmp_path: Path, name: str) -> None:
    spec = make_net(ZOO / f"{name}.prototxt", tmp_path)
    found, expected = run(OnnxBackend, spec), run(CaffeBackend, spec)
    assert difference(found, expected) < 1e-5


def test_a_net_of_a_fork(tmp_path: Path) -> None:
    spec = make_net(ZOO / "shufflenet_1x_g3.prototxt", tmp_path)
    found = run(OnnxBackend, spec)
    assert difference(found, found) == 0  # which checks that no blob is constant
    with pytest.raises(NetError, match=r"ShuffleChannel.*run it with --backend onnx$"):
        run(CaffeBackend, spec)


@pytest.mark.parametrize("name", FORKS)
def test_caffe_names_layers_of_forks(name: str) -> None:
    net = read_net(ZOO / f"{name}.prototxt")
    blobs, shape = propose_blobs(net.layer), (3, 224, 224)
    layers, head, shapes, _ = prepare_layers(net.layer, blobs, shape)
    prepared = PreparedNet(layers, head, shapes, {}, Path("none"))
    message = rf"\({FORKS[name]}\): expected .* 1.0 has, .*run it with --backend onnx$"
    with pytest.raises(NetError, match=message):
        gradient_net(prepared, temperature=1.0, batch_size=1)


def _refusals(
    folder: Path, name: str, blobs: dict[str, str]
) -> dict[type[Backend], str]:
    """Find with which words the backends refuse a net; its weights do not fit."""
    (folder / "none.caffemodel").write_bytes(b"\n\0")
    spec = spec_of(ZOO / f"{name}.prototxt", folder, blobs, "none.caffemodel")
    words = {}
    for backend in (OnnxBackend, CaffeBackend):
        with pytest.raises(NetError) as caught:
            run(backend, spec)
        words[backend] = str(caught.value)
    return words


@pytest.mark.parametrize(
    ("name", "blobs", "words"),
    [
        (
            "fast_rcnn_caffenet",
            {"x7": "fc7", "y8": "cls_score", "x8": "cls_prob"},
            r"expected one input of .* found {'data': .*'rois': \[1, 5\]}",
        ),
        (
            "faster_rcnn_zf",
            {"x7": "fc7", "y8": "cls_score"},
            r"expected one input of .* found {'data': .*'im_info': \[1, 3\]}",
        ),
        ("lenet", {"x7": "ip2", "y8": "ip3"}, "expected a blob 'ip2?3' in the net"),
        ("lenet", {"x7": "conv1", "y8": "ip2"}, "'conv1'"),
        ("nin_imagenet", {"x7": "cccp7", "y8": "pool4"}, "rank 1"),
        ("vgg_cnn_s", {"x7": "fc7", "y8": "fc8", "x8": "prob"}, "shapes .* found none"),
    ],
)
def test_both_backends_refuse_in_the_same_words(
    tmp_path: Path, name: str, blobs: dict[str, str], words: str
) -> None:
    found = _refusals(tmp_path, name, blobs)
    assert found[OnnxBackend] == found[CaffeBackend]
    assert re.search(words, found[OnnxBackend])
    assert "--backend" not in found[OnnxBackend]


def test_what_the_head_does_not_need_is_not_judged(tmp_path: Path) -> None:
    """An input and layers beside the chain, of types that nobody has."""
    text = (ZOO / "lenet.prototxt").read_text()
    more = """
    layer { name: "rois" type: "Input" top: "rois" input_param { shape { dim: 1 } } }
    layer { name: "odd" type: "Odd" bottom: "rois" top: "odd" odd_param { a: 1 } }
    layer { name: "odd" type: "Pooling" bottom: "ip1" top: "ip1/pool" }
    """
    (tmp_path / "lenet.prototxt").write_text(text)
    plain = make_net(tmp_path / "lenet.prototxt", tmp_path)
    expected = run(OnnxBackend, plain)
    plain.model.write_text(text + more)
    for backend in (OnnxBackend, CaffeBackend):
        assert difference(run(backend, plain), expected) < 1e-5


#: Nets with their real weights, which are in the folder of shared models.
REAL = {
    "cifar10_quick": "small/cifar10_quick.caffemodel",
    "lenet": "small/lenet.caffemodel",
    "mtcnn_det2": "small/mtcnn_det2.caffemodel",
    "googlenet": "googlenet/googlenet.caffemodel",
}


@pytest.mark.parametrize("name", REAL)
def test_real_weights(name: str) -> None:
    """All blobs equal Caffe's, which runs the net and reads the weights as they are."""
    prototxt, weights = ZOO / f"{name}.prototxt", ZOO.parent / "models" / REAL[name]
    if not weights.is_file():
        pytest.skip(f"the weights are not at {weights}")
    reference = caffe.Net(str(prototxt), str(weights), caffe.TEST)
    net = read_net(prototxt)
    data = next(iter(reference.blobs))
    shape = tuple(reference.blobs[data].shape)[1:]
    blobs = [blob for blob in blob_shapes(net.layer, shape) if blob != data]
    found_weights = read_weights(weights)
    graph = build_graph(
        net.layer, found_weights, weights, outputs={blob: blob for blob in blobs}
    )
    x = np.random.default_rng(0).uniform(-120, 130, (2, *shape)).astype(np.float32)
    x *= np.float32({"lenet": 1 / 256, "mtcnn_det2": 1 / 128}.get(name, 1))
    reference.blobs[data].reshape(2, *shape)
    reference.blobs[data].data[...] = x
    reference.forward()
    found = open_session(graph, ["CPUExecutionProvider"]).run(blobs, {"data": x})
    for blob, values in zip(blobs, found, strict=True):
        expected = reference.blobs[blob].data.reshape(2, -1)
        largest = np.abs(expected).max()
        assert largest > 0
        assert np.abs(values - expected).max() < 1e-5 * largest, blob
