"""The head that is proposed for public nets, and why others have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fishing.errors import NetError
from fishing.nets import propose_blobs, read_net

THREE = {"x5": "pool5", "x6": "fc6", "x7": "fc7", "y8": "fc8", "x8": "prob"}
ZOO = {
    "caffenet": THREE,
    "places205_alexnet": THREE,
    "rcnn_ilsvrc13": {"x5": "pool5", "x6": "fc6", "x7": "fc7", "y8": "fc-rcnn"},
    "lenet": {"x6": "pool2", "x7": "ip1", "y8": "ip2", "x8": "prob"},
    # An inner product: the input of the last block is x6, an activation.
    "googlenet": {
        "x6": "inception_5a/output",
        "x7": "pool5/7x7_s1",
        "y8": "loss3/classifier",
        "x8": "prob",
    },
    "resnet50": {"x6": "res4f", "x7": "pool5", "y8": "fc1000", "x8": "prob"},
    "mobilenet_v1": {"x6": "conv5_6/dw", "x7": "pool6", "y8": "fc7", "x8": "prob"},
    "densenet121": {"x6": "concat_5_15", "x7": "pool5", "y8": "fc6"},
    "se_resnet50": {
        "x6": "conv4_6",
        "x7": "pool5/7x7_s1",
        "y8": "classifier",
        "x8": "prob",
    },
    # Convolutions over a whole map, maxout, and one of several heads.
    "mtcnn_det1": {"x6": "conv2", "x7": "conv3", "y8": "conv4-1", "x8": "prob1"},
    "mtcnn_det4": {"x5": "conv3", "x6": "fc4", "x7": "fc4_5", "y8": "fc5_5"},
    "lightened_a": {"x6": "eltwise4", "x7": "dropout1", "y8": "fc2", "x8": "prob"},
}
NO_HEAD = {
    "caffenet_full_conv": "a map of 8 x 8 positions; an input of 227 x 227 pixels",
    "fast_rcnn_caffenet": "expected one input of images, .* found .*'rois'",
    "nin_imagenet": "'relu12' .ReLU. before the mean .* many matrices of rank 1",
    "squeezenet_v1.0": "'relu_conv10' .ReLU. before the mean .* matrices of rank 1",
    "seetaface": "found 'relu-fc2' .*: an embedding, .* no label to be uniform about",
    "sphereface20": "found 'fc5' .* of 512 values .*no label to be uniform about",
    "vgg19_style": "expected y8 to come from an inner product, found 'pool5' .Pooling.",
}


@pytest.mark.parametrize("name", ZOO)
def test_heads_of_public_nets(shared: Path, name: str) -> None:
    layers = read_net(shared / "zoo" / f"{name}.prototxt").layer
    before = [layer.SerializeToString() for layer in layers]
    found = propose_blobs(layers)
    assert list(found.items()) == list(ZOO[name].items())
    assert [layer.SerializeToString() for layer in layers] == before


@pytest.mark.parametrize("name", NO_HEAD)
def test_public_nets_without_a_head(shared: Path, name: str) -> None:
    layers = read_net(shared / "zoo" / f"{name}.prototxt").layer
    with pytest.raises(NetError, match=NO_HEAD[name]) as caught:
        propose_blobs(layers)
    assert "\n" not in str(caught.value)


INPUT = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
    "convolution_param { num_output: 4 kernel_size: 3 } }\n"
)


def _product(name: str, bottom: str, n: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" '
        f'top: "{name}" inner_product_param {{ num_output: {n} }} }}\n'
    )


def _proposed(folder: Path, text: str) -> dict[str, str]:
    (folder / "net.prototxt").write_text(INPUT + text)
    return propose_blobs(read_net(folder / "net.prototxt").layer)


@pytest.mark.parametrize("n", [5, 32, 100, 1000])
def test_logits_without_a_softmax(tmp_path: Path, n: int) -> None:
    found = _proposed(tmp_path, CONV + _product("fc", "conv", n))
    assert found == {"x7": "conv", "y8": "fc"}


@pytest.mark.parametrize("n", [64, 128, 512, 2048])
def test_an_embedding_has_no_label(tmp_path: Path, n: int) -> None:
    with pytest.raises(NetError, match=f"'fc' .InnerProduct. of {n} values without a"):
        _proposed(tmp_path, CONV + _product("fc", "conv", n))
    softmax = 'layer { name: "p" type: "Softmax" bottom: "fc" top: "p" }'
    found = _proposed(tmp_path, CONV + _product("fc", "conv", n) + softmax)
    assert found == {"x7": "conv", "y8": "fc", "x8": "p"}


def test_the_last_of_several_heads(tmp_path: Path) -> None:
    softmax = 'layer {{ name: "{0}" type: "Softmax" bottom: "{1}" top: "{0}" }}\n'
    text = CONV + _product("fc1", "conv", 5) + softmax.format("p1", "fc1")
    text += _product("fc2", "conv", 6) + softmax.format("p2", "fc2")
    text += 'layer { name: "best" type: "ArgMax" bottom: "p2" top: "best" }\n'
    text += 'layer { name: "side" type: "Sigmoid" bottom: "conv" top: "side" }\n'
    assert _proposed(tmp_path, text) == {"x7": "conv", "y8": "fc2", "x8": "p2"}


def test_a_hidden_product_leaves_no_activation(tmp_path: Path) -> None:
    """Layers between products that mix units end the chain."""
    text = CONV + _product("fc7", "conv", 6)
    text += 'layer { name: "mix" type: "Softmax" bottom: "fc7" top: "mix" }\n'
    text += _product("fc8", "mix", 5)
    assert _proposed(tmp_path, text) == {"x7": "mix", "y8": "fc8"}


def test_a_net_without_an_input(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(CONV)
    with pytest.raises(NetError, match="expected an input of images"):
        propose_blobs(read_net(tmp_path / "net.prototxt").layer)
