from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fishing.evaluate import (
    average_precision,
    average_precision_11point,
    average_precision_area,
)


def _voc2007_labels(shared: Path, name: str) -> dict[str, int]:
    with tarfile.open(shared / "data" / "voc2007-imagesets-main.tar.xz") as archive:
        file = archive.extractfile(f"VOC2007/ImageSets/Main/{name}_test.txt")
        assert file is not None
        pairs = (line.split() for line in file.read().decode().splitlines())
        return {image_id: int(label) for image_id, label in pairs}


def test_equals_the_development_kits(shared: Path) -> None:
    reference = np.load(shared / "data" / "voc2007-ap-reference.npz")
    for j, name in enumerate(reference["classes"]):
        labels = _voc2007_labels(shared, name)
        y = [labels[image_id] for image_id in reference["image_id"]]
        scores = reference["scores"][:, j]
        eleven = average_precision_11point(y, scores)
        area = average_precision_area(y, scores)
        assert eleven == pytest.approx(reference["ap_11point"][j], abs=1e-12)
        assert area == pytest.approx(reference["ap_area"][j], abs=1e-12)


def test_three_tenths_are_not_0_3() -> None:
    # Ten positives; after three of them precision falls, so t = 0.3 decides.
    labels = [1, 1, 1] + [-1] * 7 + [1] * 7
    scores = -np.arange(17.0)
    best_later = 10 / 17
    assert average_precision_11point(labels, scores) == pytest.approx(
        (3 * 1 + 8 * best_later) / 11, abs=1e-15
    )


@pytest.mark.parametrize("ap", [average_precision_11point, average_precision_area])
def test_difficult_images_do_not_count(ap) -> None:
    with_difficult = ap([1, 0, -1, 0, 1], [5, 4, 3, 2, 1])
    assert with_difficult == ap([1, -1, 1], [5, 3, 1])


@pytest.mark.parametrize("ap", [average_precision_11point, average_precision_area])
def test_ties_keep_their_order(ap) -> None:
    assert ap([1, -1], [0.0, 0.0]) == pytest.approx(1.0)
    assert ap([-1, 1], [0.0, 0.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("ap", [average_precision_11point, average_precision_area])
def test_missing_images_rank_last(ap) -> None:
    assert ap([1, -1], [-np.inf, -3.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("ap", [average_precision_11point, average_precision_area])
def test_bad_input(ap) -> None:
    assert np.isnan(ap([-1, -1], [0.0, 1.0]))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        ap([1, -1], [np.nan, 0.0])
    with pytest.raises(ValueError, match="must be equal"):
        ap([1, -1], [0.0])


def test_average_precision_of_retrieval_equals_scikit_learn(rng) -> None:
    for n in (2, 17, 400):
        labels = np.where(rng.random(n) < 0.3, 1, -1)
        labels[0] = 1
        scores = rng.normal(size=n)
        expected = average_precision_score(labels > 0, scores)
        assert average_precision(labels, scores) == pytest.approx(expected)
    assert np.isnan(average_precision([-1, 0], [1.0, 2.0]))
    # Difficult ones are left out, equal ones keep their order.
    found = average_precision([0, -1, 1, 1], [9.0, 1.0, 1.0, 0.0])
    assert found == pytest.approx(7 / 12)
