"""An index of a features file names the images that an exact search compares.

Its vectors are the l2-normalised blobs of a feature, one after the other. The kernel of
a gradient is a product of two inner products, and the inner product of such vectors is
their sum: where the product is large, so is the sum, as long as neither is negative.
Blobs are projected on their first principal directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError, StoreError
from fishing.extract.principal_directions import unit
from fishing.search.index_file import Floats, IndexFile, IndexHeader
from fishing.search.inverted_lists import InvertedLists
from fishing.search.ranking import Block
from fishing.store import FeaturesFile, Rows, Split, row_blocks


class Index:
    """An index that is open beside the features that it was made from.

    Parameters
    ----------
    path : Path
        A file of `build_index`.
    features : FeaturesFile
    feature : str, optional
        What it has to be made for, named as `fishing.kernels.choose_features` does.

    Attributes
    ----------
    header : IndexHeader
    feature : str
        The feature that it was made for.
    blobs : list of str
        What that is made from.

    Raises
    ------
    StoreError
        If the index is missing, damaged, or was made from other features.
    EvaluationError
        If it was made for another feature.
    DependencyError
        If FAISS is not installed.
    """

    def __init__(
        self, path: Path, features: FeaturesFile, feature: str | None = None
    ) -> None:
        with IndexFile(path) as file:
            self.header, self._bases = file.header, file.arrays.bases
            self.feature, self.blobs = self.header.feature, list(self._bases)
            if feature not in (None, self.feature):
                raise EvaluationError(
                    f"{path}: expected an index for {feature}, found one for "
                    f"{self.feature}; build another one, or choose another --feature"
                )
            _check_features(path, self.header, features)
            arrays = (file.arrays.centroids, file.arrays.quantiser)
            self.lists = InvertedLists(self.header.coding, *arrays)
            for records in file.records():
                self.lists.append(records)
        self._first_rows, n = {}, 0
        for name, split in features.splits.items():
            self._first_rows[name], n = n, n + len(split)

    def vectors(
        self, blobs: Mapping[str, Rows], rows: slice | NDArray[np.int64]
    ) -> Floats:
        """Make vectors of some rows; shape (n, width)."""
        return index_vectors(blobs, rows, self._bases)

    def candidates(
        self, query: Mapping[str, Rows], k: int, splits: Mapping[str, Split]
    ) -> list[Block]:
        """Name the images of some splits among which the k nearest to a query are.

        Parameters
        ----------
        query : mapping of str to array_like of float32, shape (1, d)
        k : int
        splits : mapping of str to Split
            Some of the features that the index was made from.

        Returns
        -------
        list of Block
            More than k images, as far as there are any.
        """
        chosen = np.zeros(self.header.n_images, bool)
        for name, split in splits.items():
            first = self._first_rows[name]
            chosen[first : first + len(split)] = True
        # One more, because an image of the file finds itself.
        n = max(k, 10) * self.header.n_candidates // 10 + 1
        # Lists have fewer images of some splits than of all.
        share = max(chosen.mean(), 1 / self.header.n_images)
        n_probed = int(np.ceil(self.header.n_probed / share))
        vector = self.vectors(query, slice(0, 1))
        found = find_rows(self.lists, vector, n, n_probed, chosen)
        blocks: list[Block] = []
        for name, split in splits.items():
            places = found - self._first_rows[name]
            places = places[(places >= 0) & (places < len(split))]
            blocks += [(name, split, places[b]) for b in row_blocks(len(places))]
        return blocks


def _check_features(path: Path, header: IndexHeader, features: FeaturesFile) -> None:
    """Refuse an index of other features."""
    blobs = next(iter(features.splits.values())).blobs
    widths = {blob: rows.shape[1] for blob, rows in blobs.items()}
    n = sum(map(len, features.splits.values()))
    if (
        header.features_sha256 != features.sha256
        or header.n_images != n
        or any(widths.get(b) != width for b, (width, _) in header.directions.items())
    ):
        raise StoreError(
            f"{path}: expected an index of {features.path}, found one of other "
            f"features; make one with `fishing index` under another name"
        )


def index_vectors(
    blobs: Mapping[str, Rows],
    rows: slice | NDArray[np.int64],
    bases: Mapping[str, Floats],
) -> Floats:
    """Project some rows of normalised blobs, one blob beside the other; (n, width)."""
    parts = [unit(blobs[blob][rows]) @ basis for blob, basis in bases.items()]
    vectors = np.concatenate(parts, axis=1)
    padding = -vectors.shape[1] % 8
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, padding))))


def find_rows(
    lists: InvertedLists,
    vector: Floats,
    n: int,
    n_probed: int,
    chosen: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Find n of the chosen rows, or all of them if they are fewer, in ascending order.

    More lists are searched where n_probed of them do not hold enough.
    """
    n = min(n, int(chosen.sum()))
    mask = None if chosen.all() else chosen
    while n:  # FAISS refuses to find none
        n_probed = min(n_probed, lists.n_lists)
        (found,) = lists.find(vector, n, n_probed, mask)
        if n_probed == lists.n_lists or (found >= 0).all():
            return np.sort(found[found >= 0])
        n_probed *= 2
    return np.empty(0, np.int64)
