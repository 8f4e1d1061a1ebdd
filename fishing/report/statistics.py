"""What a page has to say of one evaluation, in numbers.

In go the results and the features file that they were computed from, out come curves,
rankings, Gram matrices and norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from fishing.errors import EvaluationError
from fishing.evaluate import Evaluation, all_labels, precision_recall
from fishing.kernels.features import FACTORS
from fishing.kernels.gram_matrices import row_blocks
from fishing.store import Rows, Split

GRADIENTS = ("dW6", "dW7", "dW8")

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
        """Rank the images of one class, surest first, without the difficult ones."""
        kept = np.flatnonzero(self.labels[:, column] != 0)
        scores = self.scores[feature][kept, column]
        return kept[np.argsort(-scores, kind="stable")]


def rank(evaluation: Evaluation, testing: Split) -> Ranked:
    """Put labels beside the scores of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        As `fishing.evaluate.read_results` gives it: only the images with a score.
    testing : Split
        The test split of the features file.

    Raises
    ------
    EvaluationError
        If the images or classes are not those of the split.
    """
    record = evaluation.record
    name, classes = record["test"], tuple(record["classes"])
    if record["lists"].get(name) != testing.list_sha256:
        raise EvaluationError(
            "expected the features that were evaluated, found another list of "
            f"'{name}'; evaluate them anew, or name the right file with --features"
        )
    image_id, labels = all_labels(testing, name, classes)
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
    """Recall and precision at each image of a class that the ranking finds."""
    recall, precision = precision_recall(
        ranked.labels[:, column], ranked.scores[feature][:, column]
    )
    hits = np.flatnonzero(np.diff(recall, prepend=0.0))
    return recall[hits], precision[hits]


@dataclass(frozen=True)
class Move:
    """How the rank of an image differs between two features; ranks count from 1."""

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
        At most `n` each, the largest differences first.
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
        """Mean similarity of two images of one class, and of two classes.

        None where there are no such two.
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
        In the order wanted; an image of several stands with the first.
    feature : str
        ``dW6``, ``dW7`` or ``dW8``.
    n_images : int
        About as many are taken, the first of each class.
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
    forward, backward = (
        _cosines(_taken(split.blobs[blob], taken)) for blob in FACTORS[feature]
    )
    return Grams(
        start, {"forward": forward, "backward": backward, "product": forward * backward}
    )


def gradient_norms(split: Split) -> dict[str, NDArray[np.float64]]:
    """Frobenius norms of dE/dW_k: of the rank-1 matrix x g^T it is ||x|| ||g||.

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        By ``dW6``, ``dW7`` and ``dW8``.
    """
    return {
        feature: np.prod([_norms(split, blob) for blob in FACTORS[feature]], axis=0)
        for feature in GRADIENTS
    }


def compared(features: Mapping[str, object]) -> tuple[str, str]:
    """Choose the two features that a page compares: x7 and dW7 where they are there."""
    names = list(features)
    baseline = "x7" if "x7" in names else names[0]
    others = [name for name in names if name != baseline] or [baseline]
    gradients = [name for name in others if name in GRADIENTS] or others
    return baseline, "dW7" if "dW7" in others else gradients[0]


def _taken(rows: Rows, taken: Sequence[int]) -> NDArray[np.float64]:
    """Read some rows."""
    values = np.empty((len(taken), rows.shape[1]))
    for place, i in enumerate(taken):
        values[place] = rows[i : i + 1][0]
    return values


def _cosines(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    unit = normalize(rows) if len(rows) else rows
    return np.asarray(unit @ unit.T, np.float32)


def _norms(split: Split, blob: str) -> NDArray[np.float64]:
    rows = split.blobs[blob]
    return np.concatenate([*_block_norms(rows[b] for b in row_blocks(len(split)))])


def _block_norms(
    blocks: Iterator[NDArray[np.float32]],
) -> Iterator[NDArray[np.float64]]:
    for block in blocks:
        yield np.linalg.norm(block.astype(np.float64), axis=1)
