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
from fishing.store import Rows, Split

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Ranked:
    """The images of the test split, with their labels and all scores.

    Attributes
    ----------
    image_id : tuple of str, length n
        In the order of the list.
    classes : tuple of str
    labels : ndarray of int8, shape (n, n_classes)
    scores : dict of str to ndarray of float64, shape (n, n_classes)
        By feature; -inf for an image without a row.
    """

    image_id: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int8]
    scores: dict[str, NDArray[np.float64]]

    def order(self, feature: str, column: int) -> NDArray[np.int64]:
        """Rank the images of one class, best first, without the difficult ones."""
        kept = np.flatnonzero(self.labels[:, column] != 0)
        scores = self.scores[feature][kept, column]
        return kept[np.argsort(-scores, kind="stable")]


def rank(evaluation: Evaluation, testing: Split) -> Ranked:
    """Put labels beside the scores of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        As `fishing.evaluate.read_results` returns it: only the images with a score.
    testing : Split
        The test split of the features file.

    Raises
    ------
    EvaluationError
        If the images or the scores do not fit the split.
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
    """Compute recall and precision at each image of a class that a ranking finds."""
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
    """Find the images of a class that another feature ranks most differently.

    Returns
    -------
    gained, lost : list of Move
        At most `n` each, the largest moves first.
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
    """Similarities of a sample of images, sorted by class.

    Attributes
    ----------
    start : dict of str to int
        Where each class begins.
    parts : dict of str to ndarray of float32, shape (n, n)
        ``forward``, ``backward`` and their ``product``, the trace kernel.
    """

    start: dict[str, int]
    parts: dict[str, NDArray[np.float32]]

    def contrast(self, part: str) -> tuple[float | None, float | None]:
        """Average the similarity of two images of one class, and of two classes.

        An average is None if there are no such images.
        """
        K = self.parts[part]
        owner = np.zeros(len(K), int)
        for place in list(self.start.values())[1:]:
            owner[place:] += 1
        same = owner[:, None] == owner
        pairs = K[same & ~np.eye(len(K), dtype=bool)], K[~same]
        within, between = (float(k.mean()) if k.size else None for k in pairs)
        return within, between


def class_grams(
    split: Split, classes: Sequence[str], feature: str, n_images: int = 240
) -> Grams:
    """Compute Gram matrices of the two parts of a gradient, and their product.

    Parameters
    ----------
    split : Split
        With labels.
    classes : sequence of str
        Their order in the matrices. An image of several classes belongs to the first.
    feature : str
        A gradient, such as ``dW7``.
    n_images : int
        About how many images to take, the first ones of each class.
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
    ((forward_blob, backward_blob),) = parse_feature(feature)
    forward, backward = (
        _gram(_taken(split.blobs[blob], taken), blob)
        for blob in (forward_blob, backward_blob)
    )
    return Grams(
        start, {"forward": forward, "backward": backward, "product": forward * backward}
    )


def gradient_norms(split: Split) -> dict[str, NDArray[np.float64]]:
    """Compute the Frobenius norms of dE/dW_k: ||x|| ||g|| for the rank-1 matrix x g^T.

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        By gradient, such as ``dW7``, for those that the split has.
    """
    norms = {}
    for feature in available_features(split.blobs):
        if feature in GRADIENTS:
            (blobs,) = parse_feature(feature)
            factors = [UnitRows(split.blobs[blob], blob).norms for blob in blobs]
            norms[feature] = np.prod(factors, axis=0)
    return norms


def compared(features: Iterable[str], blobs: Iterable[str]) -> tuple[str, str]:
    """Choose the two features that a page compares.

    Parameters
    ----------
    features : iterable of str
        Those that were evaluated, at least one.
    blobs : iterable of str
        Those of the features file.

    Returns
    -------
    baseline, challenger : str
        x7 and the deepest gradient but one, if they are there.

    Examples
    --------
    >>> from fishing.nets import BLOBS
    >>> compared(["x6", "x7", "dW6", "dW7"], BLOBS)
    ('x7', 'dW7')
    """
    names = list(features)
    baseline = "x7" if "x7" in names else names[0]
    others = [name for name in names if name != baseline] or [baseline]
    gradients = [name for name in others if name in GRADIENTS] or others
    main = main_feature(list(blobs))
    return baseline, main if main in others else gradients[0]


def _taken(rows: Rows, taken: Sequence[int]) -> NDArray[np.float32]:
    """Read some rows."""
    values = np.empty((len(taken), rows.shape[1]), np.float32)
    for place, i in enumerate(taken):
        values[place] = rows[i : i + 1][0]
    return values


def _gram(rows: NDArray[np.float32], blob: str) -> NDArray[np.float32]:
    unit = UnitRows(rows, blob)
    return gram_products(unit, unit)[0]
