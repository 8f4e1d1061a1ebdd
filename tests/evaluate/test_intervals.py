from __future__ import annotations

import numpy as np
import pytest

from fishing.evaluate import bootstrap
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.evaluate.intervals import draw_counts, resampled_precision


def plain(
    labels: np.ndarray, scores: np.ndarray, counts: np.ndarray, protocol: str
) -> list[float]:
    """Measure each resample by itself, with its images written out."""
    return [
        PROTOCOLS[protocol](np.repeat(labels, column), np.repeat(scores, column))
        for column in counts.T
    ]


def ranking(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Make labels with difficult images, and scores with ties and failed images."""
    labels = rng.choice(np.array([-1, 0, 1], np.int8), n, p=[0.7, 0.1, 0.2])
    scores = np.round(rng.normal(size=n) + labels, 1)  # many are equal
    scores[rng.random(n) < 0.1] = -np.inf
    return labels, scores


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equals_a_plain_loop(rng: np.random.Generator, protocol: str) -> None:
    for n in (1, 2, 3, 7, 40, 300):
        for _ in range(5):
            labels, scores = ranking(rng, n)
            counts = draw_counts(n, 60, int(rng.integers(2**31)))
            found = resampled_precision(labels, scores, counts, protocol)
            expected = plain(labels, scores, counts, protocol)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
            if protocol == "voc2007":  # the same divisions, summed in the same order
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_blocks_do_not_matter(
    rng: np.random.Generator, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, scores = ranking(rng, 50)
    counts = draw_counts(50, 33, 0)
    found = resampled_precision(labels, scores, counts, protocol)
    monkeypatch.setattr("fishing.evaluate.intervals._BLOCK_VALUES", 350)
    again = resampled_precision(labels, scores, counts, protocol)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_copy_of_each_image_is_the_ranking_itself(
    rng: np.random.Generator, protocol: str
) -> None:
    labels, scores = ranking(rng, 80)
    (found,) = resampled_precision(labels, scores, np.ones((80, 1), np.uint8), protocol)
    assert found == pytest.approx(PROTOCOLS[protocol](labels, scores), abs=1e-15)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ties_keep_their_order(protocol: str) -> None:
    counts = np.array([[1], [2], [1]], np.uint8)
    scores = np.zeros(3)
    first, last = (
        resampled_precision(np.array(y, np.int8), scores, counts, protocol)[0]
        for y in ([1, -1, -1], [-1, -1, 1])
    )
    assert (first, last) == (1, 0.25)


def test_a_resample_without_a_positive_has_no_precision() -> None:
    labels, scores = np.array([1, -1], np.int8), np.array([1.0, 0.0])
    counts = np.array([[0, 2], [2, 0]], np.uint8)
    for protocol in PROTOCOLS:
        found = resampled_precision(labels, scores, counts, protocol)
        np.testing.assert_array_equal(found, [np.nan, 1.0])
    found = resampled_precision(-np.ones(2, np.int8), scores, counts, "voc2007")
    assert np.isnan(found).all()


def test_draws() -> None:
    counts = draw_counts(500, 400, 3)
    assert (counts.sum(axis=0) == 500).all()
    np.testing.assert_array_equal(counts, draw_counts(500, 400, 3))
    assert (counts != draw_counts(500, 400, 4)).any()
    # Each image is drawn once on average, and not at all with a chance of 1/e.
    assert counts.mean(axis=1) == pytest.approx(1, abs=0.25)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.005)
    # Different images are drawn independently, but for their sum.
    correlation = np.corrcoef(counts[:20])
    assert abs(correlation[~np.eye(20, dtype=bool)]).max() < 0.25


CLASSES = ("cat", "dog", "none", "untrained")


def _evaluated(rng: np.random.Generator, n: int = 60) -> tuple[np.ndarray, dict]:
    labels = rng.choice(np.array([-1, 0, 1], np.int8), (n, 4), p=[0.6, 0.1, 0.3])
    labels[:, 2] = -1
    scores = {f: labels + rng.normal(size=(n, 4)) * 2 for f in ("x6", "x7", "dW7")}
    for values in scores.values():
        values[[3, 30]] = -np.inf
        values[:, 2:] = np.nan
    return labels, scores


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("n_parts", [1, 3])
def test_intervals_are_those_of_a_plain_bootstrap(
    rng: np.random.Generator, protocol: str, n_parts: int
) -> None:
    labels, scores = _evaluated(rng)
    parts = [np.flatnonzero(np.arange(60) % n_parts == k) for k in range(n_parts)]
    calls = []
    found = bootstrap(
        labels,
        scores,
        classes=CLASSES,
        protocol=protocol,
        n_resamples=50,
        reference="x7",
        parts=parts if n_parts > 1 else (),
        progress=lambda *call: calls.append(call),
    )
    assert calls[-1] == ("bootstrap", 4, 4, "classes")
    assert list(found) == ["x6", "x7", "dW7"]
    samples = {}
    for feature, values in scores.items():
        by_class = []
        for j in range(2):
            of_parts = [
                plain(
                    *(labels[part, j], values[part, j]),
                    *(draw_counts(len(part), 50, [0, k]), protocol),
                )
                for k, part in enumerate(parts)
            ]
            by_class.append(np.nanmean(of_parts, axis=0))
        samples[feature] = np.array([*by_class, np.nanmean(by_class, axis=0)])
    for feature, of_feature in found.items():
        kinds = {"interval": samples[feature]}
        if feature != "x7":  # paired: the difference of each resample
            kinds["difference"] = samples[feature] - samples["x7"]
        assert set(of_feature) == set(kinds)
        for kind, values in kinds.items():
            cat, dog, mean = np.quantile(values, [0.025, 0.975], axis=1).T
            measured = of_feature[kind]
            assert measured["mAP"] == pytest.approx(mean, abs=1e-12)
            assert measured["AP"]["cat"] == pytest.approx(cat, abs=1e-12)
            assert measured["AP"]["dog"] == pytest.approx(dog, abs=1e-12)
            assert measured["AP"]["none"] is measured["AP"]["untrained"] is None


def test_pairs_make_differences_certain(rng: np.random.Generator) -> None:
    """Features that differ little differ little on each resample."""
    labels = rng.choice(np.array([-1, 1], np.int8), (300, 1))
    base = labels + rng.normal(size=(300, 1)) * 2
    scores = {"x7": base, "same": base.copy(), "near": base + 0.01 * labels}
    found = bootstrap(
        labels,
        scores,
        classes=["cat"],
        protocol="voc2012",
        n_resamples=200,
        reference="x7",
    )
    low, high = found["x7"]["interval"]["mAP"]
    assert high - low > 0.05
    assert found["same"]["difference"]["mAP"] == [0, 0]
    low, high = found["near"]["difference"]["mAP"]
    assert 0 < low < high < 0.02


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Over many draws of test images, 95 % intervals of a difference hold the truth."""
    rng = np.random.default_rng(5)

    def draw(n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        labels = rng.choice(np.array([-1, 1], np.int8), (n, 1), p=[0.8, 0.2])
        common = rng.normal(size=(n, 1))
        noise = (rng.normal(size=(n, 1)) for _ in range(2))
        return labels, {
            f: labels * gain + common + 0.5 * next(noise)
            for f, gain in (("x7", 0.8), ("dW7", 0.9))
        }

    labels, scores = draw(200_000)
    area = PROTOCOLS["voc2012"]
    truth = area(labels[:, 0], scores["dW7"][:, 0]) - area(
        labels[:, 0], scores["x7"][:, 0]
    )
    covered = []
    for _ in range(200):
        labels, scores = draw(400)
        found = bootstrap(
            labels,
            scores,
            classes=["cat"],
            protocol="voc2012",
            n_resamples=200,
            reference="x7",
        )
        low, high = found["dW7"]["difference"]["mAP"]
        covered.append(low <= truth <= high)
    assert 0.89 <= np.mean(covered) <= 0.99
