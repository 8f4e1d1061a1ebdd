"""The whole chain on real photographs, against an independent implementation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fishing.evaluate import evaluate
from fishing.extract import extract
from fishing.images import read_splits
from fishing.kernels import FEATURES
from fishing.nets import load_net
from fishing.store import ExtractionSettings


def _table(shared: Path, output: Path, backend: str) -> dict[str, float]:
    """Compute mean average precisions in per cent."""
    lists = read_splits(shared / "data" / "caltech20", ["trainval", "test"])
    outcome = extract(
        ExtractionSettings(load_net("tinyalexnet"), backend=backend), lists, output
    )
    assert [(o.n_images, o.n_failed) for o in outcome] == [(600, 0), (595, 0)]
    record = evaluate(output, protocol="voc2007").record
    assert record["source"]["backend"] == backend
    return {name: 100 * r["mAP"] for name, r in record["features"].items()}


def test_tables(shared: Path, tmp_path: Path) -> None:
    provenance = (shared / "models" / "tinyalexnet" / "PROVENANCE.md").read_text()
    reference = dict(re.findall(r"((?:[xyd]W?\d\+?)+) (\d+\.\d)[,.]", provenance))
    assert list(reference) == list(FEATURES)

    caffe = _table(shared, tmp_path / "caffe.h5", "caffe")
    assert caffe == pytest.approx({k: float(v) for k, v in reference.items()}, abs=0.3)
    for backend in ("onnx", "openvino"):
        found = _table(shared, tmp_path / f"{backend}.h5", backend)
        assert found == pytest.approx(caffe, abs=0.01)
