r"""Scores that tell images like those that a net knows from outliers.

Of every score, the larger means the more familiar. With the logits y of P classes, a
temperature T and p = softmax(y):

- ``msp`` is the maximum softmax probability, max p (Hendrycks and Gimpel, ICLR 2017).
- ``energy`` is T log sum_j exp(y_j / T), the negative free energy (Liu et al., NeurIPS
  2020).
- ``gradnorm`` is the L1 norm of dE/dW8, the gradient of the weights of the last inner
  product for a uniform label (Huang et al., NeurIPS 2021). It is the outer product of
  x7 and dE/dy8, so its norm is ||x7||_1 ||dE/dy8||_1.
- ``knn`` is the negative distance to the k-th nearest image of a reference split (Sun
  et al., ICML 2022): -sqrt(2 - 2 K), where K is the kernel of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import rankdata

from fishing.errors import EvaluationError
from fishing.extract import check_not_projected
from fishing.kernels import choose_features, main_feature
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.progress import Progress, silent
from fishing.search.index import Index
from fishing.search.ranking import rank_images
from fishing.store import FeaturesFile, Split, row_blocks
from fishing.uses.kernel_to import KernelTo

Scores: TypeAlias = NDArray[np.float64]
# Scores some rows of a split.
Scorer: TypeAlias = Callable[[Split, slice], Scores]

_X7, _Y8, _G8 = forward_blob("x7"), forward_blob("y8"), backward_blob(LAST)
#: The methods, and the blobs that they need; knn needs those of its feature.
METHODS = {"msp": (_Y8,), "energy": (_Y8,), "gradnorm": (_X7, _G8), "knn": ()}


@dataclass(frozen=True)
class Scored:
    """The scores of the images of some splits.

    Attributes
    ----------
    image_id, split : tuple of str, length n
        The images, and the split that each is in.
    scores : dict of str to ndarray of float64, shape (n,)
        By method; the larger, the more familiar.
    """

    image_id: tuple[str, ...]
    split: tuple[str, ...]
    scores: dict[str, Scores]

    def of(self, split: str) -> dict[str, Scores]:
        """Return the scores of the images of one split."""
        rows = np.array(self.split) == split
        return {method: values[rows] for method, values in self.scores.items()}


def scores(
    path: Path,
    splits: Sequence[str],
    *,
    methods: Sequence[str] = (),
    temperature: float = 1.0,
    reference: str | None = None,
    feature: str | None = None,
    k: int = 10,
    index: Path | None = None,
    progress: Progress = silent,
) -> Scored:
    """Score how familiar images are, by what a features file holds of them.

    The formulas and their sources are those at the top of `fishing.uses.outliers`.
    GradNorm is at the temperature of the file, which `fishing.extract.temper` changes.

    Parameters
    ----------
    path : Path
        A features file.
    splits : sequence of str
        Splits of it.
    methods : sequence of str
        Of ``msp``, ``energy``, ``gradnorm`` and ``knn``. The default is every method
        that the file allows, and ``knn`` if there is a reference.
    temperature : float
        T of the energy.
    reference : str, optional
        The split of familiar images for ``knn``. Images are not compared with images of
        the same id.
    feature : str, optional
        The feature of ``knn``. The default is that of the index, or else the file's
        deepest gradient but one, dW7 if the net has three inner products.
    k : int
        Which of the nearest images counts for ``knn``.
    index : Path, optional
        An index of the features for the feature of ``knn``. The nearest images are then
        looked for among those that it names.
    progress : Progress
        Counts the images of each split.

    Returns
    -------
    Scored

    Raises
    ------
    StoreError
        If the file is missing or lacks a split, or if the index is missing, damaged, or
        was made from other features.
    EvaluationError
        If a method is unknown or needs a blob or a reference that is not there, if the
        temperature is not positive, if the reference has fewer than k images, or if the
        index is of another feature.

    Examples
    --------
    >>> found = scores(Path("features.h5"), ["test"])  # doctest: +SKIP
    >>> found.scores["gradnorm"].shape  # doctest: +SKIP
    (14,)
    """
    if not 0 < temperature < np.inf:
        raise EvaluationError(
            f"expected a positive temperature, found {temperature:g}; 1 is usual"
        )
    with FeaturesFile(path) as file:
        named = {name: file.split(name) for name in splits}
        blobs = next(iter(file.splits.values())).blobs
        scorers: dict[str, Scorer] = {
            "msp": _max_probability,
            "energy": lambda split, rows: _energy(split, rows, temperature),
            "gradnorm": _gradient_norm,
        }
        if file.projection and reference is not None:
            methods = methods or ["knn"]  # the others need the logits themselves
        chosen = _choose(methods, blobs, reference)
        if index is not None and "knn" not in chosen:
            raise EvaluationError(
                "expected knn, the only method that takes an index, found "
                f"{' '.join(chosen)}; name a split with --reference, or leave out "
                "--index"
            )
        if set(chosen) != {"knn"}:
            check_not_projected(file)
        if "knn" in chosen and reference is not None:
            (chosen_feature,) = choose_features([feature or main_feature(blobs)], blobs)
            familiar = file.split(reference)
            _check_k(k, familiar, named.values())
            if index is None:
                scorers["knn"] = _nearest(chosen_feature, familiar, k)
            else:
                opened = Index(index, file, chosen_feature if feature else None)
                scorers["knn"] = _nearest_by(opened, {reference: familiar}, k)
        parts: dict[str, list[Scores]] = {method: [] for method in chosen}
        for name, split in named.items():
            for block in row_blocks(len(split)):
                for method in chosen:
                    parts[method].append(scorers[method](split, block))
                progress(name, block.stop, len(split), "images")
    return Scored(
        image_id=tuple(i for split in named.values() for i in split.image_id),
        split=tuple(name for name, split in named.items() for _ in split.image_id),
        scores={m: np.concatenate([np.empty(0), *part]) for m, part in parts.items()},
    )


def separation(inside: ArrayLike, outside: ArrayLike) -> tuple[float, float]:
    """Measure how well a score tells familiar images from outliers.

    Parameters
    ----------
    inside, outside : array_like of float, shape (n,) and (m,)
        Scores of familiar images, and of outliers; at least one of each.

    Returns
    -------
    auroc : float
        The area under the receiver operating characteristic: the share of pairs in
        which the familiar image has the larger score. Ties count one half.
    fpr95 : float
        The share of outliers whose score is at least the largest threshold that 95 % of
        the familiar images reach.

    Examples
    --------
    >>> separation([3, 2, 1], [0, 1])
    (0.9166666666666666, 0.5)
    """
    a, b = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    ranks = rankdata(np.concatenate([a, b]))[: a.size]
    pairs = ranks.sum() - a.size * (a.size + 1) / 2
    # In integers: 0.95 * 20 is above 19 as floating point gives it.
    threshold = np.sort(a)[::-1][-(-95 * a.size // 100) - 1]
    return float(pairs / (a.size * b.size)), float((b >= threshold).mean())


def _choose(
    methods: Sequence[str], blobs: Mapping[str, object], reference: str | None
) -> list[str]:
    """Choose methods; by default, all that the blobs and the reference allow."""
    if not methods:
        methods = [
            method
            for method, needed in METHODS.items()
            if set(needed) <= set(blobs) and (method != "knn" or reference is not None)
        ]
    for method in methods:
        if method not in METHODS:
            raise EvaluationError(
                f"expected a method of {' '.join(METHODS)}, found '{method}'"
            )
        for blob in METHODS[method]:
            if blob not in blobs:
                raise EvaluationError(
                    f"expected {blob}, which {method} is made from, found "
                    f"{' '.join(blobs)}; choose another --method, or extract anew"
                )
        if method == "knn" and reference is None:
            raise EvaluationError(
                "expected a split of familiar images for knn, found none; name one "
                "with --reference"
            )
    if not methods:
        raise EvaluationError(
            f"expected {_Y8}, found {' '.join(blobs)}; name a split with --reference, "
            "or extract anew"
        )
    return list(dict.fromkeys(methods))


def _max_probability(split: Split, rows: slice) -> Scores:
    return np.asarray(softmax(_logits(split, rows), axis=1).max(axis=1))


def _energy(split: Split, rows: slice, T: float) -> Scores:
    return np.asarray(T * logsumexp(_logits(split, rows) / T, axis=1))


def _gradient_norm(split: Split, rows: slice) -> Scores:
    x, g = (np.abs(split.blobs[blob][rows]) for blob in (_X7, _G8))
    norms: Scores = x.sum(axis=1, dtype=np.float64) * g.sum(axis=1, dtype=np.float64)
    return norms


def _logits(split: Split, rows: slice) -> Scores:
    return split.blobs[_Y8][rows].astype(np.float64)


def _check_k(k: int, familiar: Split, splits: Iterable[Split]) -> None:
    """Refuse a k for which there are not enough familiar images."""
    known = set(familiar.image_id)
    shared = any(i in known for split in splits for i in split.image_id)
    if not 1 <= k <= len(familiar) - shared:
        raise EvaluationError(
            f"expected k from 1 to {len(familiar) - shared}, the images of the "
            f"reference, found {k}; choose another -k"
        )


def _nearest(feature: str, familiar: Split, k: int) -> Scorer:
    """Make a scorer of the distances to the k-th nearest of the familiar images."""
    column = {image_id: j for j, image_id in enumerate(familiar.image_id)}
    kernel = KernelTo(feature, familiar)

    def score(split: Split, rows: slice) -> Scores:
        K = kernel({name: split.blobs[name][rows] for name in kernel.blobs})[:]
        for i, image_id in enumerate(split.image_id[rows]):
            if image_id in column:
                K[i, column[image_id]] = -np.inf
        return _distances(np.partition(K, -k, axis=1)[:, -k])

    return score


def _nearest_by(index: Index, familiar: Mapping[str, Split], k: int) -> Scorer:
    """Make the same scorer with an index of the familiar images."""

    def score(split: Split, rows: slice) -> Scores:
        nearest = np.empty(rows.stop - rows.start)
        for i in range(rows.start, rows.stop):
            query = {blob: split.blobs[blob][i : i + 1] for blob in index.blobs}
            blocks = index.candidates(query, k, familiar)
            left_out = (split.image_id[i],)
            found = rank_images(query, [index.feature], k, blocks, left_out)
            nearest[i - rows.start] = found[index.feature][-1].similarity
        return _distances(nearest)

    return score


def _distances(K: Scores) -> Scores:
    """Turn kernels into negative distances."""
    return -np.sqrt(np.maximum(2 - 2 * K, 0))
