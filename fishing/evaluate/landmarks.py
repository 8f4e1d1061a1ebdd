"""SVMs past the square of the number of images: Nystroem's method and linear SVMs."""

from __future__ import annotations

import logging
import os
import tempfile

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fishing.errors import EvaluationError, one_line
from fishing.evaluate.estimators import paired_blobs
from fishing.evaluate.linear import train_linear
from fishing.kernels import LandmarkMap, blobs_of_feature, choose_landmarks
from fishing.processes import usable_memory
from fishing.progress import Progress, silent
from fishing.store import Split

#: How many landmarks are taken where the exact kernels do not fit into memory.
DEFAULT_LANDMARKS = 4096
_BLOCK = 2048  # rows that are mapped at once

_log = logging.getLogger(__name__)


def landmarks_needed(train: Split, test: Split) -> int | None:
    """Say how many landmarks to take: None where the exact kernels fit into memory.

    Exact kernels take 16 bytes for each pair of training images, and 8 for each pair of
    a training and a test image.
    """
    n_bytes = 16 * len(train) ** 2 + 8 * len(train) * len(test)
    usable = usable_memory()
    if n_bytes <= usable:
        return None
    _log.info(
        "exact kernels of %d and %d images take %.0f GB, and %.0f GB are free: %d "
        "landmarks approximate them (--landmarks)",
        *(len(train), len(test), n_bytes / 1e9, usable / 1e9, DEFAULT_LANDMARKS),
    )
    return DEFAULT_LANDMARKS


def landmark_decision_function(
    feature: str,
    train: Split,
    test: Split,
    labels: NDArray[np.int8],
    *,
    C: float = 1.0,
    n_landmarks: int = DEFAULT_LANDMARKS,
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Train an SVM for each class on vectors that approximate a kernel, and apply it.

    The kernel of each training image with itself is exact, as in the approximation of
    Snelson and Ghahramani (NIPS 2005); for other pairs it is Nystroem's.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6*x7`` or ``dW7``.
    train, test : Split
    labels : ndarray of int8, shape (n_train, n_classes)
        1, -1 or 0 (neither).
    C : float
        Weight of the hinge loss; positive.
    n_landmarks : int
        How many of the training images are landmarks, drawn by a fixed seed.
    progress : Progress
        Counts images that are mapped, and passes of the SVMs' solver.

    Returns
    -------
    ndarray of float64, shape (n_test, n_classes)

    Raises
    ------
    EvaluationError
        As `fishing.evaluate.decision_function`, or if there is too little memory.
    """
    try:
        landmarks = choose_landmarks(len(train), n_landmarks)
        vectors = LandmarkMap(feature, train, landmarks)
        X, residual = _matrix(len(train), vectors.width), np.empty(len(train))
        for block in _blocks(len(train)):
            rows = _rows(feature, train, block)
            X[block] = vectors(rows)
            residual[block] = vectors.residual(rows, X[block])
            progress(f"{feature}, training", block.stop, len(train), "images")
        W, b = train_linear(X, labels, C, progress, residual=residual)
        values = np.empty((len(test), labels.shape[1]))
        for block in _blocks(len(test)):
            values[block] = vectors(_rows(feature, test, block)) @ W + b
            progress(f"{feature}, test", block.stop, len(test), "images")
    except MemoryError:
        raise EvaluationError(
            f"expected memory for {n_landmarks} landmarks, found too little; use fewer"
        ) from None
    return values


class NystroemFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from paired rows to vectors that approximate a feature's kernel.

    Its output goes into `sklearn.svm.LinearSVC` and other linear models, whose time and
    memory grow with the number of images, not with its square.

    Parameters
    ----------
    feature : str
        The feature that was given to `fishing.paired`.
    n_landmarks : int
        How many of the images given to `fit` are landmarks.
    random_state : int
        Seed of the landmarks.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(20, 8))  # 4 values of x6, 4 of g7
    >>> NystroemFeatures("dW7", n_landmarks=5).fit_transform(X).shape
    (20, 5)
    """

    def __init__(
        self, feature: str = "dW7", n_landmarks: int = 1000, random_state: int = 0
    ) -> None:
        self.feature = feature
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    def fit(self, X: NDArray[np.float32], y: object = None) -> NystroemFeatures:
        """Draw the landmarks.

        Raises
        ------
        EvaluationError
            If the feature is unknown, or the rows do not fit it.
        """
        blobs = paired_blobs(self.feature, X)
        chosen = choose_landmarks(len(X), self.n_landmarks, self.random_state)
        self.map_ = LandmarkMap(self.feature, blobs, chosen)
        return self

    def transform(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map paired rows; shape (n, n_landmarks), or less if landmarks are alike."""
        check_is_fitted(self)
        return self.map_(paired_blobs(self.feature, X))


def _rows(feature: str, split: Split, block: slice) -> dict[str, NDArray[np.float32]]:
    """Read some rows of the blobs that a feature is made from."""
    blobs = blobs_of_feature(feature, split)
    return {blob: rows[block] for blob, rows in blobs.items()}


def _blocks(n: int) -> list[slice]:
    return [slice(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK)]


def _matrix(n: int, width: int) -> NDArray[np.float32]:
    """Make room for vectors: in memory, or else in a temporary file."""
    if 4 * n * width <= usable_memory() / 2:
        return np.empty((n, width), np.float32)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the matrix keeps it open
    try:  # a disk that fills up later would end the process
        os.posix_fallocate(file.fileno(), 0, 4 * n * width)
    except OSError as error:
        raise EvaluationError(
            f"expected {4e-9 * n * width:.1f} GB for vectors in "
            f"{tempfile.gettempdir()}, found: {one_line(error)}; name another folder "
            "in TMPDIR, or use fewer landmarks"
        ) from None
    return np.memmap(file, np.float32, "w+", shape=(n, width))
