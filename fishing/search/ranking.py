"""The exact kernels of queries with many images, and which images rank first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fishing.kernels import UnitRows, feature_blobs, feature_kernel, gram_products
from fishing.processes import blas_threads, in_threads
from fishing.progress import Progress, silent
from fishing.store import Rows, Split, row_blocks

#: Some rows of a split, by its name: a slice, or their places.
Block: TypeAlias = tuple[str, Split, slice | NDArray[np.int64]]
_AT_ONCE = 64  # blocks that are shared out to threads


@dataclass(frozen=True)
class Neighbour:
    """An image that a search found.

    Attributes
    ----------
    image_id, split : str
        Its id, and the split that it is in.
    similarity : float
        The kernel of the two images: 1 if their features are equal up to scale.
    classes : tuple of str
        The classes that it is a positive example of.
    """

    image_id: str
    split: str
    similarity: float
    classes: tuple[str, ...]


def all_blocks(splits: Mapping[str, Split]) -> list[Block]:
    """Cut all rows of some splits into blocks."""
    return [
        (name, split, block)
        for name, split in splits.items()
        for block in row_blocks(len(split))
    ]


def rank_images(
    query: Mapping[str, Rows],
    features: Sequence[str],
    k: int,
    blocks: Sequence[Block],
    left_out: Sequence[str],
    progress: Progress = silent,
) -> dict[str, list[Neighbour]]:
    """Find the k nearest images of some blocks by each feature, reading each row once.

    Parameters
    ----------
    query : mapping of str to array_like of float32, shape (1, d)
    features : sequence of str
    k : int
    blocks : sequence of Block
    left_out : sequence of str
        Ids of images that are not to be found.
    progress : Progress
        Counts the images of each split.
    """
    best: dict[str, list[Neighbour]] = {feature: [] for feature in features}
    kernels = block_kernels(
        features, query, ((split.blobs, rows) for _, split, rows in blocks)
    )
    for (name, split, rows), similarities in zip(blocks, kernels, strict=True):
        places = np.r_[rows]
        for feature in features:
            similarity, nearest = similarities[feature][0], best[feature]
            worst = nearest[-1].similarity if len(nearest) == k else -np.inf
            better = np.flatnonzero(similarity > worst)
            order = better[np.argsort(-similarity[better], kind="stable")]
            known = {*left_out, *(n.image_id for n in nearest)}
            fresh = (j for j in order if split.image_id[places[j]] not in known)
            found = [
                _neighbour(split, name, int(places[j]), similarity[j])
                for j in islice(fresh, k)
            ]
            # Sorting is stable, so equal ones keep the order of the file.
            best[feature] = sorted(nearest + found, key=lambda n: -n.similarity)[:k]
        progress(name, int(places[-1]) + 1, len(split), "images")
    return best


def _neighbour(split: Split, name: str, i: int, similarity: float) -> Neighbour:
    positive = () if split.labels is None else np.flatnonzero(split.labels[i] > 0)
    classes = tuple(split.classes[c] for c in positive)
    return Neighbour(split.image_id[i], name, float(similarity), classes)


def block_kernels(
    features: Sequence[str],
    queries: Mapping[str, Rows],
    blocks: Iterable[tuple[Mapping[str, Rows], slice | NDArray[np.int64]]],
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Compute the kernels of m queries with the images of each block, in its order.

    Parameters
    ----------
    features : sequence of str
    queries : mapping of str to array_like of float32, shape (m, d)
    blocks : iterable of (mapping of str to Rows, slice or ndarray of int)
        Blobs, and which rows of them.

    Yields
    ------
    dict of str to ndarray of float64, shape (m, n)
        By feature.
    """
    blobs = sorted(set().union(*map(feature_blobs, features)))
    ours = {blob: UnitRows(queries[blob], blob) for blob in blobs}
    found: dict[int, dict[str, NDArray[np.float64]]] = {}

    def compute(item: tuple[int, tuple[Mapping[str, Rows], Any]]) -> None:
        number, (theirs, rows) = item
        grams = {}
        for blob, unit_rows in ours.items():
            block = UnitRows(theirs[blob][rows], blob)
            (grams[blob],) = gram_products(block, unit_rows)
        found[number] = {f: feature_kernel(f, grams)[:] for f in features}

    rest = enumerate(blocks)
    # Threads share out blocks rather than their products, which are small.
    while group := list(islice(rest, _AT_ONCE)):
        with blas_threads(1):
            in_threads(compute, group)
        for number, _ in group:
            yield found.pop(number)
