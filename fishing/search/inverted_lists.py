"""FAISS's inverted lists, made from arrays: vectors in lists, each as a short code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import needs_extra
from fishing.processes import blas_threads, usable_cores

Floats = NDArray[np.float32]

# K-means for codes of PQ: FAISS's own choice takes ten times as long, to no avail.
_PQ_SAMPLE, _PQ_ROUNDS = 10_240, 10


def load_faiss() -> Any:
    """Import FAISS; raise a DependencyError if it is not installed."""
    with needs_extra("faiss"):
        import faiss
    return faiss


def train_lists(vectors: Floats, coding: str, n_lists: int) -> tuple[Floats, Floats]:
    """Learn the centroids of lists, and the quantiser of codes.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, width)
        A sample: at least one for each list and, for ``PQ``, at least 256.
    coding : str
        ``SQ8`` or ``PQ``.
    n_lists : int

    Returns
    -------
    centroids : ndarray of float32, shape (n_lists, width)
    quantiser : ndarray of float32, shape (2, width) or (256, width)

    Raises
    ------
    DependencyError
        If FAISS is not installed.
    """
    width = vectors.shape[1]
    lists = _new_lists(coding, width, n_lists)
    lists.cp.min_points_per_centroid = 1  # or it would write to stderr
    if coding == "PQ":
        lists.pq.cp.min_points_per_centroid = 1
        lists.pq.cp.max_points_per_centroid = _PQ_SAMPLE // 256
        lists.pq.cp.niter = _PQ_ROUNDS
    with blas_threads():
        lists.train(vectors)
    centroids = lists.quantizer.reconstruct_n(0, n_lists)
    return centroids, _values(_stored_quantiser(lists, coding)).reshape(-1, width)


class InvertedLists:
    """Vectors in lists, which find those of the largest inner products with another.

    Parameters
    ----------
    coding : str
        ``SQ8`` or ``PQ``.
    centroids, quantiser : ndarray of float32
        As `train_lists` returns them.

    Raises
    ------
    DependencyError
        If FAISS is not installed.
    """

    def __init__(self, coding: str, centroids: Floats, quantiser: Floats) -> None:
        self.n_lists, width = centroids.shape
        self._lists = _new_lists(coding, width, self.n_lists)
        self._lists.quantizer.add(np.ascontiguousarray(centroids))
        _set_values(quantiser.ravel(), _stored_quantiser(self._lists, coding))
        self._lists.is_trained = True

    def encode(self, vectors: Floats, record: np.dtype[Any]) -> NDArray[Any]:
        """Find the list and the code of each vector; shape (n,), fields of `record`."""
        faiss = load_faiss()
        with blas_threads():
            _, nearest = self._lists.quantizer.search(vectors, 1)
            nearest = np.ascontiguousarray(np.maximum(nearest[:, 0], 0))
            codes = np.empty((len(vectors), *record["code"].shape), np.uint8)
            self._lists.encode_vectors(
                len(vectors), *map(faiss.swig_ptr, (vectors, nearest, codes))
            )
        records = np.empty(len(vectors), record)
        records["list"], records["code"] = nearest, codes
        return records

    def append(self, records: NDArray[Any]) -> None:
        """Add vectors, which are numbered in the order in which they come."""
        faiss = load_faiss()
        order = np.argsort(records["list"], kind="stable")
        codes = records["code"][order]
        places = order + self._lists.ntotal
        numbers, starts = np.unique(records["list"][order], return_index=True)
        for number, start, stop in zip(
            numbers.tolist(), starts, [*starts[1:], len(order)], strict=True
        ):
            parts = (places[start:stop], codes[start:stop])
            self._lists.invlists.add_entries(
                number, int(stop - start), *map(faiss.swig_ptr, parts)
            )
        self._lists.ntotal += len(records)

    def find(
        self,
        vectors: Floats,
        k: int,
        n_probed: int,
        chosen: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Find the k vectors of the largest inner products with each of m others.

        Parameters
        ----------
        vectors : ndarray of float32, shape (m, width)
        k : int
        n_probed : int
            In how many lists to look.
        chosen : ndarray of bool, shape (n,), optional
            Which vectors may be found.

        Returns
        -------
        ndarray of int64, shape (m, k)
            Their numbers, in no order; -1 where there are no more.
        """
        faiss = load_faiss()
        # This name keeps it alive as long as FAISS looks at it.
        selector = (
            None
            if chosen is None
            else faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
        )
        parameters = faiss.SearchParametersIVF(nprobe=n_probed, sel=selector)
        with blas_threads():
            found: NDArray[np.int64]
            _, found = self._lists.search(vectors, k, params=parameters)
        return found


def _new_lists(coding: str, width: int, n_lists: int) -> Any:
    """Make FAISS's empty lists, which are not trained."""
    faiss = load_faiss()
    faiss.omp_set_num_threads(usable_cores())
    common = (faiss.IndexFlatIP(width), width, n_lists)
    if coding == "PQ":
        return faiss.IndexIVFPQ(*common, width // 4, 8, faiss.METRIC_INNER_PRODUCT)
    eight_bits = faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexIVFScalarQuantizer(
        *common, eight_bits, faiss.METRIC_INNER_PRODUCT
    )


def _stored_quantiser(lists: Any, coding: str) -> Any:
    return lists.pq.centroids if coding == "PQ" else lists.sq.trained


def _values(vector: Any) -> Floats:
    values: Floats = load_faiss().vector_to_array(vector)
    return values


def _set_values(values: Floats, vector: Any) -> None:
    load_faiss().copy_array_to_vector(np.ascontiguousarray(values), vector)
