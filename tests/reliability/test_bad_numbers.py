"""NaN, infinity and zeros, wherever they come from: warned of or refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2

from conftest import make_split, write_file
from fishing.backends import open_backend
from fishing.errors import EvaluationError, NetError, StoreError
from fishing.evaluate import decision_function, evaluate
from fishing.extract import temper
from fishing.kernels import FEATURES, parse_feature
from fishing.nets import NetSpec, load_net

BACKENDS = ("caffe", "onnx", "openvino")
FACTORS = {name: parse_feature(name)[0] for name in FEATURES if "+" not in name}


def _with_weight(folder: Path, layer: str, value: float, *, is_double: bool) -> NetSpec:
    """Change one weight of a layer of TinyAlexNet."""
    spec = load_net("tinyalexnet")
    model = caffe_pb2.NetParameter()
    model.ParseFromString((spec.folder / spec.weights.file).read_bytes())
    blob = next(entry for entry in model.layer if entry.name == layer).blobs[0]
    if is_double:
        blob.double_data.extend(blob.data)
        del blob.data[:]
    (blob.double_data if is_double else blob.data)[7] = value
    (folder / "bad.caffemodel").write_bytes(model.SerializeToString())
    weights = dataclasses.replace(
        spec.weights, file="bad.caffemodel", size=None, sha256=None
    )
    return dataclasses.replace(spec, folder=folder, weights=weights)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", ["conv1", "fc7"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights(tmp_path: Path, backend: str, layer: str, value: float) -> None:
    """Max pooling would pass over a NaN below it, and give what looks like numbers."""
    spec = _with_weight(tmp_path, layer, value, is_double=value == 1e300)
    with pytest.raises(NetError, match=f"finite parameters for layer '{layer}'"):
        open_backend(backend, spec, temperature=2.0, batch_size=1, device="cpu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_parameters_of_layers(tmp_path: Path, backend: str, value: str) -> None:
    """A ReLU whose slope is NaN would be hidden by the max pooling above it."""
    spec = load_net("tinyalexnet")
    for file in ("net.toml", spec.weights.file):
        (tmp_path / file).write_bytes((spec.folder / file).read_bytes())
    text = spec.model.read_text()
    old = re.search(r'type: "ReLU"', text)
    assert old is not None
    slope = f"{old[0]} relu_param {{ negative_slope: {value} }}"
    (tmp_path / "deploy.prototxt").write_text(text.replace(old[0], slope, 1))
    with pytest.raises(NetError, match=r"found another as relu_param.negative_slope"):
        open_backend(
            backend,
            load_net(str(tmp_path)),
            temperature=2.0,
            batch_size=1,
            device="cpu",
        )


def _file(path: Path, rng, split: str, blob: str, change) -> Path:
    splits = {name: make_split(rng, 12) for name in ("trainval", "test")}
    change(splits[split].blobs[blob])
    return write_file(path, **splits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", ["trainval", "test"])
@pytest.mark.parametrize("feature", FACTORS)
def test_values_in_the_file(
    tmp_path: Path, rng, feature: str, split: str, value: float
) -> None:
    blob = FACTORS[feature][-1]
    path = _file(
        tmp_path / "f.h5",
        rng,
        split,
        blob,
        lambda rows: rows.__setitem__((3, 2), value),
    )
    with pytest.raises(EvaluationError, match=f"finite values, .* in {blob}, row 3"):
        evaluate(path, features=[feature])
    evaluate(path, features=[f for f in FACTORS if blob not in FACTORS[f]])


@pytest.mark.parametrize("split", ["trainval", "test"])
@pytest.mark.parametrize("feature", ["x7", "dW7"])
def test_nothing_but_zeros(tmp_path: Path, rng, feature: str, split: str) -> None:
    blob = FACTORS[feature][-1]
    path = _file(tmp_path / "f.h5", rng, split, blob, lambda rows: rows.fill(0))
    with pytest.raises(EvaluationError, match=f"nothing but zeros in {blob}"):
        evaluate(path, features=[feature])


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_some_rows_of_zeros(tmp_path: Path, rng, split: str, caplog) -> None:
    path = _file(
        tmp_path / "f.h5", rng, split, "forward/x7", lambda rows: rows[2:5].fill(0)
    )
    found = evaluate(path, features=["x7"])
    assert "3 of 12 rows of forward/x7 are all zeros" in caplog.text
    assert np.isfinite(found.scores["x7"]).all()


def test_a_c_over_which_libsvm_does_not_end(tmp_path: Path, rng) -> None:
    path = _file(tmp_path / "f.h5", rng, "test", "forward/x7", lambda rows: None)
    with pytest.raises(EvaluationError, match="expected a positive C of 1e"):
        evaluate(path, features=["x7"], C=1e308)


def test_decision_values_beyond_float64() -> None:
    K = np.array([[1.0, -1.0], [-1.0, 1.0]])
    labels = np.array([[1], [-1]], np.int8)
    with np.errstate(over="ignore"), pytest.raises(EvaluationError, match="decision"):
        decision_function(K / 100, K * 1e308, labels, 1e3)


def test_kernels_without_memory(tmp_path: Path, rng, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    path = _file(tmp_path / "f.h5", rng, "test", "forward/x7", lambda rows: None)
    monkeypatch.setattr("fishing.kernels.gram_matrices.gram_products", full)
    with pytest.raises(EvaluationError, match="memory for the kernels of x7"):
        evaluate(path, features=["x7"])


@pytest.mark.parametrize("blob", ["forward/x5", "forward/y8"])
def test_values_that_are_tempered(tmp_path: Path, rng, blob: str, monkeypatch) -> None:
    path = _file(
        tmp_path / "f.h5", rng, "test", blob, lambda rows: rows.__setitem__(0, np.nan)
    )
    monkeypatch.setattr("fishing.extract.temperature.recorded_net", lambda *_: None)
    monkeypatch.setattr("fishing.extract.temperature.read_steps", lambda *_: [])
    with pytest.raises(StoreError, match="expected finite"):
        temper(path, tmp_path / "t.h5", [4.0])
    assert not (tmp_path / "t.h5").exists()
