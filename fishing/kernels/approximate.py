"""Vectors whose inner products approximate the kernel of a feature: Nystroem's method.

The kernel of n images has n^2 values. Compared with m landmarks only, each image gets
a vector z = N^T k, where k holds its kernel with the landmarks and N N^T is the inverse
of the landmarks' own kernel. Then z_A . z_B approximates the kernel of A and B, and is
exact where one of them is a landmark (Williams and Seeger, NIPS 2001). Time and memory
grow with n. What z . z lacks of the kernel of an image with itself is known too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.kernels.gram_matrices import (
    blobs_of_feature,
    feature_kernel,
    gram_products,
)
from fishing.kernels.unit_rows import UnitRows
from fishing.store import Rows, Split


def choose_landmarks(n: int, n_landmarks: int, seed: int = 0) -> NDArray[np.intp]:
    """Draw landmarks from n images, without replacement and in the order of the images.

    Raises
    ------
    EvaluationError
        If there are no images, or no landmarks are asked for.

    Examples
    --------
    >>> choose_landmarks(3, 10)
    array([0, 1, 2])
    """
    if n < 1 or n_landmarks < 1:
        raise EvaluationError(
            f"expected one landmark or more of one image or more, found {n_landmarks} "
            f"of {n}"
        )
    drawn = np.random.default_rng(seed).permutation(n)[:n_landmarks]
    return np.sort(drawn)


class LandmarkMap:
    """Maps images to vectors by their kernel with landmarks.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.
    images : Split, or mapping of str to array_like of float32, shape (n, d)
        Blobs by their names, such as ``forward/x7``.
    rows : ndarray of int, shape (m,)
        Which images are the landmarks; see `choose_landmarks`.

    Attributes
    ----------
    width : int
        Values of a vector: m, or less where landmarks are nearly alike.

    Raises
    ------
    EvaluationError
        If the feature is unknown; if a blob is missing, holds a value that is not
        finite, or holds only zeros.

    Examples
    --------
    >>> import numpy as np
    >>> images = {"forward/x7": np.float32([[3, 4], [0, 2], [1, 0]])}
    >>> z = LandmarkMap("x7", images, np.arange(2))(images)
    >>> (z @ z.T).round(6) + 0.0
    array([[1. , 0.8, 0.6],
           [0.8, 1. , 0. ],
           [0.6, 0. , 1. ]], dtype=float32)
    """

    def __init__(
        self, feature: str, images: Split | Mapping[str, Rows], rows: NDArray[np.intp]
    ) -> None:
        self._feature = feature
        self._landmarks = {
            blob: UnitRows(values[rows], blob).checked()
            for blob, values in blobs_of_feature(feature, images).items()
        }
        K = self._kernel(self._landmarks)
        moments, vectors = np.linalg.eigh(K)
        # Each value of K has the precision of float32: what is smaller is noise.
        kept = moments > K.max() * len(rows) * np.finfo(np.float32).eps
        root = vectors[:, kept] / np.sqrt(moments[kept])
        self._root: NDArray[np.float32] = root.astype(np.float32)
        self.width = self._root.shape[1]

    def __call__(self, images: Mapping[str, Rows]) -> NDArray[np.float32]:
        """Map images; shape (n, width).

        Raises
        ------
        EvaluationError
            If a blob is missing, has another width than those of the landmarks, or
            holds a value that is not finite.
        """
        blobs = blobs_of_feature(self._feature, images)
        K = self._kernel({blob: UnitRows(rows, blob) for blob, rows in blobs.items()})
        vectors: NDArray[np.float32] = K.astype(np.float32) @ self._root
        return vectors

    def residual(
        self, images: Mapping[str, Rows], vectors: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Compute what the kernel of each image with itself has beyond |z|^2.

        Landmarks have next to none.

        Parameters
        ----------
        images : mapping of str to array_like of float32, shape (n, d)
        vectors : ndarray of float32, shape (n, width)
            What the map makes of them.

        Returns
        -------
        ndarray of float64, shape (n,)
            Not negative.

        Raises
        ------
        EvaluationError
            If a blob is missing.
        """
        blobs = blobs_of_feature(self._feature, images)
        # Unit rows have 1, and rows of zeros 0.
        itself = {
            blob: np.any(rows[:], axis=1, keepdims=True).astype(np.float32)
            for blob, rows in blobs.items()
        }
        kernel = feature_kernel(self._feature, itself)[:][:, 0]
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        lacking: NDArray[np.float64] = np.maximum(kernel - squares, 0)
        return lacking

    def _kernel(self, images: Mapping[str, UnitRows]) -> NDArray[np.float64]:
        """Compute the kernel of images with the landmarks; shape (n, m)."""
        grams = {
            blob: gram_products(landmarks, images[blob])[0]
            for blob, landmarks in self._landmarks.items()
        }
        return feature_kernel(self._feature, grams)[:]
