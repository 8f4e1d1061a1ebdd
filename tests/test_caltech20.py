"""The whole way on real photographs, against an independent implementation."""

from __future__ import annotations

import re
from pathlib import Path

from fishing.dataset import read_splits
from fishing.evaluate import evaluate
from fishing.extract import extract
from fishing.kernel import FEATURES
from fishing.nets import load_net


def test_table(shared: Path, tmp_path: Path) -> None:
    provenance = (shared / "models" / "tinyalexnet" / "PROVENANCE.md").read_text()
    reference = dict(re.findall(r"((?:[xyd]W?\d\+?)+) (\d+\.\d)[,.]", provenance))
    assert list(reference) == list(FEATURES)

    lists = read_splits(shared / "data" / "caltech20", ["trainval", "test"])
    outcome = extract(load_net("tinyalexnet"), lists, tmp_path / "features.h5")
    assert [(o.n_images, o.n_failed) for o in outcome] == [(600, 0), (595, 0)]
    results = evaluate(tmp_path / "features.h5", protocol="voc2007").record["features"]
    for feature, expected in reference.items():
        assert abs(100 * results[feature]["mAP"] - float(expected)) < 0.3, feature
