"""Eq. 10 for heads of several depths, against derivatives of the loss in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import caffe
import numpy as np
import pytest

from conftest import SETTINGS, make_split
from fishing.errors import NetError, StoreError
from fishing.extract import temper
from fishing.extract.head_gradient import gradient, read_steps
from fishing.files import file_sha256
from fishing.nets import NetSpec, load_net
from fishing.nets.blobs import head_names, paired_blobs
from fishing.store import FeaturesFile, write_features

TAU = 3.0
LAYER = """
layer {{ name: "{name}" type: "InnerProduct" bottom: "{below}" top: "{name}"
        inner_product_param {{ num_output: {width}
            weight_filler {{ type: "gaussian" std: 0.5 }}
            bias_filler {{ type: "gaussian" std: 0.5 }} }} }}
"""
DATA = """
layer {{ name: "{name}" type: "Input" top: "{name}"
        input_param {{ shape {{ dim: 4 dim: 9 }} }} }}
"""


@pytest.fixture(params=[1, 2, 4])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def head(depth: int, tmp_path: Path, rng) -> tuple[NetSpec, dict, list]:
    """Make a head with ReLUs, activations of it, and its weights from y8 down."""
    *inputs, y8, x8 = head_names(depth)
    text = DATA.format(name=inputs[0])
    for below, name in zip(inputs, (*inputs[1:], y8), strict=True):
        text += LAYER.format(name=name, below=below, width=5 if name == y8 else 9)
        if name != y8:
            text += (
                f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" '
                f'top: "{name}" }}\n'
            )
    text += f'layer {{ name: "{x8}" type: "Softmax" bottom: "{y8}" top: "{x8}" }}\n'
    (tmp_path / "deploy.prototxt").write_text(text)
    caffe.set_random_seed(3)
    net = caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST)
    net.save(str(tmp_path / "own.caffemodel"))
    net.blobs[inputs[0]].data[...] = rng.normal(size=(4, 9))
    net.forward()
    names = head_names(depth)
    blobs = {f"forward/{x}": net.blobs[x].data.copy() for x in names}
    layers = [[p.data.astype(np.float64) for p in net.params[x]] for x in names[1:-1]]
    shipped = load_net("tinyalexnet")
    spec = dataclasses.replace(
        shipped,
        folder=tmp_path,
        model=tmp_path / "deploy.prototxt",
        blobs={name: name for name in names},
        weights=dataclasses.replace(
            shipped.weights, file="own.caffemodel", size=None, sha256=None
        ),
    )
    return spec, blobs, layers


def _loss(x: np.ndarray, layers: list) -> float:
    """Compute E of one image from an input of the head upwards, in float64."""
    for i, (W, b) in enumerate(layers):
        x = np.maximum(x, 0) if i else x
        x = W @ x + b
    z = x / TAU
    return float(-np.mean(z - z.max() - np.log(np.exp(z - z.max()).sum())))


def _expected(blobs: dict, layers: list, k: int) -> np.ndarray:
    """Differentiate E with respect to y_k: where x_k is positive, that is x_k."""
    above = layers[len(layers) - (8 - k) :]
    name = f"forward/{'y8' if k == 8 else f'x{k}'}"
    rows = blobs[name].astype(np.float64)
    found = np.zeros(rows.shape)
    for i, row in enumerate(rows):
        for j, step in enumerate(1e-5 * np.eye(len(row))):
            if k == 8 or row[j] > 0:
                change = _loss(row + step, above) - _loss(row - step, above)
                found[i, j] = change / 2e-5
    return found


def _widths(blobs: dict, depth: int) -> dict[str, int]:
    widths = {name: rows.shape[1] for name, rows in blobs.items()}
    backward = {f"backward/y{k}": 9 for k in range(9 - depth, 8)}
    return {**widths, **backward, "backward/y8": 5}


def test_gradients_are_derivatives_of_the_loss(head, depth: int) -> None:
    spec, blobs, layers = head
    steps = read_steps(spec, _widths(blobs, depth))
    assert len(steps) == depth - 1
    for n_steps in range(depth):
        found = gradient(blobs, steps[:n_steps], TAU, slice(None))
        expected = _expected(blobs, layers, 8 - n_steps)
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(found, expected, atol=1e-8, rtol=1e-4)


def test_tempered_files(head, depth: int, tmp_path: Path, rng) -> None:
    spec, blobs, layers = head
    made = {name: np.ones((4, d), "f4") for name, d in _widths(blobs, depth).items()}
    settings = {
        **SETTINGS,
        "net_sha256": spec.net_sha256,
        "weights_sha256": file_sha256(tmp_path / "own.caffemodel"),
    }
    ordered = {name: (made | blobs)[name] for name in paired_blobs(depth)}
    split = make_split(rng, 4, blobs=ordered)
    write_features(tmp_path / "f.h5", settings, {"all": split})
    (path,) = temper(tmp_path / "f.h5", tmp_path / "t.h5", [TAU], spec=spec)
    with FeaturesFile(path) as file:
        found = file.split("all").blobs
        for k in range(9 - depth, 9):
            np.testing.assert_allclose(
                found[f"backward/y{k}"][:],
                _expected(blobs, layers, k),
                atol=1e-8,
                rtol=1e-4,
            )


def test_a_net_with_another_head(head, depth: int) -> None:
    spec, blobs, _ = head
    with pytest.raises(NetError, match=rf"expected x{7 - depth} among the blobs of"):
        read_steps(spec, _widths(blobs, depth + 1))


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        (("forward/x6", "forward/y8", "backward/y7"), "expected forward/x7, found"),
        (("forward/x7", "forward/y8", "forward/x8"), "expected gradients, found"),
    ],
)
def test_files_that_lack_blobs(tmp_path: Path, rng, blobs, message: str) -> None:
    spec = load_net("tinyalexnet")
    settings = {
        **SETTINGS,
        "net_sha256": spec.net_sha256,
        "weights_sha256": file_sha256(spec.folder / spec.weights.file),
    }
    split = make_split(rng, 4, blobs={name: np.ones((4, 9), "f4") for name in blobs})
    write_features(tmp_path / "f.h5", settings, {"all": split})
    with pytest.raises(StoreError, match=message):
        temper(tmp_path / "f.h5", tmp_path / "t.h5", [TAU])
    assert not (tmp_path / "t.h5").exists()
