"""Builds an index of a features file, and measures what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError, StoreError, one_line
from fishing.extract.derived_file import finite
from fishing.extract.principal_directions import RowSample, principal_directions
from fishing.files import whole_file
from fishing.kernels import choose_features, feature_blobs, main_feature
from fishing.progress import Progress, silent
from fishing.search.index import Index, find_rows, index_vectors
from fishing.search.index_file import (
    Floats,
    IndexArrays,
    IndexFile,
    IndexHeader,
    write_arrays,
    write_header,
)
from fishing.search.inverted_lists import InvertedLists, load_faiss, train_lists
from fishing.search.ranking import block_kernels
from fishing.store import FeaturesFile, Rows, StackedRows, row_blocks

_DIRECTIONS = 128  # of each blob
_MOST_LISTS, _PER_LIST = 1024, 40  # k-means needs 39 images for each
_MOST_SQ8 = 2**30  # bytes of codes; beyond, PQ takes a quarter
_TOP, _N_QUERIES = 10, 100
# What the images that are looked at must hold of the exact top 10, of other queries
# than those of a check; and below which share there is no index.
_TARGET, _LEAST = 0.99, 0.95
_N_CANDIDATES = (200, 400, 800, 1600, 3200)


def build_index(
    path: Path,
    output: Path,
    *,
    feature: str | None = None,
    progress: Progress = silent,
) -> IndexHeader:
    """Write an index of a features file, with which `search_photo` is fast.

    FAISS sorts the images into lists by k-means and stores a code of a few bytes for
    each value. How many lists a search looks at is chosen so that 99 % of the exact top
    10 of a hundred images are found. An output that was made before is left alone.

    Parameters
    ----------
    path : Path
        A features file, or a folder of shards.
    output : Path
        The index file to write.
    feature : str, optional
        Such as ``x7``, ``x6*x7`` or ``dW7``. The default is the file's deepest gradient
        but one, dW7 if the net has three inner products.
    progress : Progress
        Counts blobs whose directions are found, and images.

    Returns
    -------
    IndexHeader
        What is in the index.

    Raises
    ------
    StoreError
        If the features file is missing, holds no images or a value that is not finite;
        or if the output is another file, or cannot be written.
    EvaluationError
        If the file lacks the feature, or the index would find less than 95 %.
    DependencyError
        If FAISS is not installed.

    Examples
    --------
    >>> build_index(Path("features.h5"), Path("dW7.faiss"))  # doctest: +SKIP
    """
    load_faiss()  # before the work of minutes that needs it
    with FeaturesFile(path) as file:
        blobs = next(iter(file.splits.values())).blobs
        (feature,) = choose_features([feature or main_feature(blobs)], blobs)
        if output.exists():
            return _found(output, file, feature)
        if not sum(map(len, file.splits.values())):
            raise StoreError(f"{path}: expected images, found none; extract some")
        file.verify(progress)  # damage must not get into an index that looks whole
        try:
            with whole_file(output) as unfinished, unfinished.open("w+b") as target:
                header = _write(file, feature, target, progress)
        except OSError as error:
            raise StoreError(
                f"{output} cannot be made of {path}: {one_line(error)}; correct that "
                "and run the same command again"
            ) from None
    return header


def measure_index(path: Path, index: Path, progress: Progress = silent) -> float:
    """Measure what share of the exact top 10 a search with an index finds.

    The queries are at most a hundred images of the file, at equal distances. If it has
    200 images or more, they are not those by which the index was built.

    Parameters
    ----------
    path : Path
        A features file.
    index : Path
        Its index.
    progress : Progress
        Counts images.

    Returns
    -------
    float
        The recall, in [0, 1].

    Raises
    ------
    StoreError
        If the features file or the index is missing or damaged, or if the index was
        made from other features.
    DependencyError
        If FAISS is not installed.
    """
    with FeaturesFile(path) as file:
        opened = Index(index, file)
        rows = _stacked(file, opened.feature)
        queries = _places(opened.header.n_images, _N_QUERIES, 0.5)
        exact = _exact_nearest(opened.feature, rows, queries, progress)
        vectors = opened.vectors(rows, queries)
        return _recall(opened.lists, opened.header, vectors, queries, exact)


def _found(output: Path, file: FeaturesFile, feature: str) -> IndexHeader:
    """Take an output that was made before; refuse to replace another file."""
    with suppress(StoreError), IndexFile(output) as index:
        made_from = (index.header.features_sha256, index.header.feature)
        if made_from == (file.sha256, feature):
            return index.header
    raise StoreError(
        f"expected no file at {output}, or the index of {feature} of {file.path}, "
        "found another; remove it, or choose another --output"
    )


def _write(
    file: FeaturesFile, feature: str, target: IO[bytes], progress: Progress
) -> IndexHeader:
    """Train an index, encode all images one block after the other, and try it."""
    rows = _stacked(file, feature)
    n = sum(map(len, file.splits.values()))
    bases = _directions(file, rows, progress)
    header = IndexHeader(
        feature=feature,
        features_sha256=file.sha256,
        n_images=n,
        directions={blob: list(basis.shape) for blob, basis in bases.items()},
        coding="SQ8",
        n_lists=max(1, min(_MOST_LISTS, n // _PER_LIST)),
        n_probed=1,
        n_candidates=_N_CANDIDATES[0],
    )
    if n * header.width > _MOST_SQ8:
        header = replace(header, coding="PQ")
    sample = _training_vectors(rows, bases, header, progress)
    progress("training", 0, header.n_lists, "lists")
    trained = train_lists(sample, header.coding, header.n_lists)
    progress("training", header.n_lists, header.n_lists, "lists")
    del sample
    write_arrays(target, IndexArrays(bases, *trained))
    lists = InvertedLists(header.coding, *trained)
    for block in row_blocks(n):
        records = lists.encode(_vectors(rows, block, bases), header.record)
        target.write(records.tobytes())
        lists.append(records)
        progress("encoding", block.stop, n, "images")
    header = _tuned(header, lists, rows, bases, progress)
    write_header(target, header)
    return header


def _stacked(file: FeaturesFile, feature: str) -> dict[str, Rows]:
    """View the blobs of a feature in all splits, one after the other."""
    return {
        blob: StackedRows([split.blobs[blob] for split in file.splits.values()])
        for blob in sorted(feature_blobs(feature))
    }


def _directions(
    file: FeaturesFile, rows: Mapping[str, Rows], progress: Progress
) -> dict[str, Floats]:
    """Find the principal directions of each blob."""
    sample, bases = RowSample(list(file.splits.values())), {}
    for i, blob in enumerate(rows):
        progress("principal directions", i, len(rows), "blobs")
        bases[blob] = principal_directions(sample, blob, _DIRECTIONS)
    progress("principal directions", len(rows), len(rows), "blobs")
    return bases


def _places(n: int, most: int, shift: float = 0.0) -> NDArray[np.int64]:
    """Choose at most so many of n places, at equal distances."""
    m = min(n, most)
    return np.floor((np.arange(m) + shift) * n / m).astype(np.int64)


def _training_vectors(
    rows: Mapping[str, Rows],
    bases: Mapping[str, Floats],
    header: IndexHeader,
    progress: Progress,
) -> Floats:
    """Make vectors of a sample of the images, of bounded size."""
    places = _places(header.n_images, _MOST_LISTS * _PER_LIST)
    vectors = np.empty((len(places), header.width), np.float32)
    for block in row_blocks(len(places)):
        vectors[block] = _vectors(rows, places[block], bases)
        progress("sample", block.stop, len(places), "images")
    return vectors


def _vectors(
    rows: Mapping[str, Rows],
    which: slice | NDArray[np.int64],
    bases: Mapping[str, Floats],
) -> Floats:
    return finite(index_vectors(rows, which, bases), "features", "extract anew")


def _exact_nearest(
    feature: str,
    rows: Mapping[str, Rows],
    queries: NDArray[np.int64],
    progress: Progress,
) -> NDArray[np.int64]:
    """Find the 10 nearest images to each of m others, in one pass; shape (m, 10).

    An image is not near to itself; -1 stands where there are fewer images.
    """
    n = next(iter(rows.values())).shape[0]
    best = np.full((len(queries), _TOP), -np.inf)
    nearest = np.full((len(queries), _TOP), -1)
    theirs = {blob: values[queries] for blob, values in rows.items()}
    blocks = list(row_blocks(n))
    found = block_kernels([feature], theirs, ((rows, block) for block in blocks))
    for block, kernels in zip(blocks, found, strict=True):
        K, places = kernels[feature], np.arange(block.start, block.stop)
        K[queries[:, None] == places] = -np.inf
        is_better = best.min(axis=1, keepdims=True) < K
        better = np.flatnonzero(is_better.any(axis=0))
        places = places[better]
        K = np.concatenate([best, K[:, better]], axis=1)
        where = np.concatenate(
            [nearest, np.broadcast_to(places, (len(queries), len(places)))], axis=1
        )
        top = np.argpartition(-K, _TOP - 1, axis=1)[:, :_TOP]
        best, nearest = (np.take_along_axis(a, top, axis=1) for a in (K, where))
        progress("exact search", block.stop, n, "images")
    nearest[np.isneginf(best)] = -1
    return nearest


def _recall(
    lists: InvertedLists,
    header: IndexHeader,
    vectors: Floats,
    queries: NDArray[np.int64],
    exact: NDArray[np.int64],
) -> float:
    """Measure which share of the exact top 10 is among the candidates of queries."""
    found, chosen = 0, np.ones(header.n_images, bool)
    for vector, query, nearest in zip(vectors, queries, exact, strict=True):
        chosen[query] = False
        candidates = find_rows(
            *(lists, vector[None], header.n_candidates, header.n_probed, chosen)
        )
        chosen[query] = True
        found += int(np.isin(nearest, candidates).sum())
    n_exact = int((exact >= 0).sum())
    return found / n_exact if n_exact else 1.0


def _tuned(
    header: IndexHeader,
    lists: InvertedLists,
    rows: Mapping[str, Rows],
    bases: Mapping[str, Floats],
    progress: Progress,
) -> IndexHeader:
    """Choose how much of an index to search: the least that finds enough.

    Raises EvaluationError if all of it does not.
    """
    queries = _places(header.n_images, _N_QUERIES)
    exact = _exact_nearest(header.feature, rows, queries, progress)
    vectors, recall = _vectors(rows, queries, bases), 0.0
    for n_candidates in _N_CANDIDATES:
        n_probed = 1
        while True:
            tried = replace(header, n_candidates=n_candidates, n_probed=n_probed)
            recall = _recall(lists, tried, vectors, queries, exact)
            if recall >= _TARGET:
                return tried
            if n_probed == header.n_lists:
                break
            n_probed = min(2 * n_probed, header.n_lists)
    if recall < _LEAST:
        raise EvaluationError(
            f"expected an index that finds {_LEAST:.0%} of the nearest images by "
            f"{header.feature}, found one of {recall:.1%}; choose another --feature, "
            "or search without an index"
        )
    return tried
