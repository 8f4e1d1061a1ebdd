"""The numbers of a report: rankings, curves, Gram matrices and norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate import Evaluation, all_ids, all_labels, precision_recall
from fishing.kernels import (
    GRADIENTS,
    UnitRows,
    available_features,
    gram_products,
    main_feature,
    parse_feature,
)
from fishing.store import Split

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Ranked:
    """The images of the test split in the order of its list, with labels and scores."""

    image_id: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int8]  # (n_images, n_classes)
    # By feature, of the same shape; -inf for an image without a row.
    scores: dict[str, NDArray[np.float64]]

    def order(self, feature: str, column: int) -> NDArray[np.int64]:
        """Rank the images of one class, best first, without the difficult ones."""
        kept = np.flatnonzero(self.labels[:, column] != 0)
        scores = self.scores[feature][kept, column]
        return kept[np.argsort(-scores, kind="stable")]


def rank(evaluation: Evaluation, testing: Split) -> Ranked:
    """Put the labels of the test split beside the scores of an evaluation.

    The evaluation comes from `fishing.evaluate.read_results`, so it has only the images
    with a score. Raises an EvaluationError if they do not fit the split.
    """
    record = evaluation.record
    name, classes = record["test"], tuple(record["classes"])
    if record["lists"].get(name) != testing.list_sha256:
        raise EvaluationError(
            "expected the features that were evaluated, found another list of "
            f"'{name}'; evaluate them anew, or name the right file with --features"
        )
    image_id, labels = all_ids(testing), all_labels(testing, name, classes)
    for feature, result in record["features"].items():
        for j, other in enumerate(classes):
            if result["AP"][other] is not None and not (
                (labels[:, j] > 0).any()
                and np.isfinite(evaluation.scores[feature][:, j]).all()
            ):
                raise EvaluationError(
                    f"expected positives and the scores of all images of '{name}' in "
                    f"class '{other}' by {feature}, found some missing; evaluate anew"
                )
    place = {i: n for n, i in enumerate(image_id)}
    unknown = [i for i in evaluation.image_id if i not in place]
    if unknown:
        raise EvaluationError(
            f"expected scores of images of '{name}', found one of '{unknown[0]}'; "
            "evaluate anew"
        )
    rows = [place[i] for i in evaluation.image_id]
    scores = {}
    for feature, values in evaluation.scores.items():
        scores[feature] = np.full((len(image_id), len(classes)), -np.inf)
        scores[feature][rows] = values
    return Ranked(image_id, classes, labels, scores)


def curve(ranked: Ranked, feature: str, column: int) -> Curve:
    """Compute recall and precision at each positive of a class, in rank order."""
    recall, precision = precision_recall(
        ranked.labels[:, column], ranked.scores[feature][:, column]
    )
    hits = np.flatnonzero(np.diff(recall, prepend=0.0))
    return recall[hits], precision[hits]


@dataclass(frozen=True)
class Move:
    """The ranks of an image by two features, counted from 1."""

    image: int  # its place in the list
    before: int
    after: int


def moves(
    ranked: Ranked, baseline: str, challenger: str, column: int, n: int
) -> tuple[list[Move], list[Move]]:
    """Find the images of a class that gain most places by the challenger, or lose most.

    Each of the two lists has at most `n` images, the largest moves first.
    """
    before, after = (
        {int(image): place for place, image in enumerate(ranked.order(f, column), 1)}
        for f in (baseline, challenger)
    )
    found = [
        Move(int(i), before[int(i)], after[int(i)])
        for i in np.flatnonzero(ranked.labels[:, column] > 0)
    ]
    found.sort(key=lambda move: move.after - move.before)
    gained = [move for move in found[:n] if move.after < move.before]
    lost = [move for move in found[::-1][:n] if move.after > move.before]
    return gained, lost


@dataclass(frozen=True)
class Grams:
    """Similarities of a sample of images, sorted by class."""

    start: dict[str, int]  # where each class begins
    # "forward", "backward" and their "product", the trace kernel; shape (n, n)
    parts: dict[str, NDArray[np.float32]]

    def contrast(self, part: str) -> tuple[float | None, float | None]:
        """Average the similarity of two images of one class, and of two classes.

        An average is None if there are no such images.
        """
        K = self.parts[part]
        owner = np.searchsorted([*self.start.values()], np.arange(len(K)), side="right")
        same = owner[:, None] == owner
        pairs = K[same & ~np.eye(len(K), dtype=bool)], K[~same]
        within, between = (float(k.mean()) if k.size else None for k in pairs)
        return within, between


def class_grams(
    split: Split, classes: Sequence[str], feature: str, n_images: int = 240
) -> Grams:
    """Compute Gram matrices of the two parts of a gradient, and their product.

    The first images of each class are taken, about `n_images` in all. An image of
    several classes belongs to the first one.
    """
    labels = np.zeros((len(split), 0)) if split.labels is None else split.labels
    per_class = max(2, n_images // max(1, len(classes)))
    taken: list[int] = []
    start: dict[str, int] = {}
    for name in classes:
        if name not in split.classes:
            continue
        members = np.flatnonzero(labels[:, split.classes.index(name)] > 0)
        new = [int(i) for i in members if int(i) not in set(taken)][:per_class]
        if new:
            start[name] = len(taken)
            taken += new
    (blobs,) = parse_feature(feature)
    rows = np.array(taken, int)
    units = [UnitRows(split.blobs[blob][rows], blob) for blob in blobs]
    (forward,), (backward,) = (gram_products(unit, unit) for unit in units)
    return Grams(
        start, {"forward": forward, "backward": backward, "product": forward * backward}
    )


def gradient_norms(split: Split) -> dict[str, NDArray[np.float64]]:
    """Compute the Frobenius norm of each gradient: ||x|| ||g|| for the matrix x g^T."""
    norms = {}
    for feature in available_features(split.blobs):
        if feature in GRADIENTS:
            (blobs,) = parse_feature(feature)
            factors = [UnitRows(split.blobs[blob], blob).norms for blob in blobs]
            norms[feature] = np.prod(factors, axis=0)
    return norms


def compared(
    features: Iterable[str], blobs: Iterable[str], reference: str | None = None
) -> tuple[str, str]:
    """Choose the two features that a page compares: the baseline and the challenger.

    They are the reference of a bootstrap, or else x7, and the deepest gradient but one
    that the blobs of the file give, if both were evaluated.
    """
    names = list(features)
    baseline = reference or ("x7" if "x7" in names else names[0])
    others = [name for name in names if name != baseline] or [baseline]
    gradients = [name for name in others if name in GRADIENTS] or others
    main = main_feature(list(blobs))
    return baseline, main if main in others else gradients[0]
