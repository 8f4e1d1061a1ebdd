"""Gradient features as an estimator and a kernel of scikit-learn.

`GradientFeatures` turns images into paired rows, which hold the parts of a feature side
by side. `TraceKernel` computes the kernel of paired rows, for `sklearn.svm.SVC`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from fishing.backends import check_run, choose_backend, parse_device
from fishing.errors import DataError, EvaluationError
from fishing.extract import compute_blobs
from fishing.images import picture
from fishing.kernels import Kernel, blobs_of_feature, cosines, parse_feature
from fishing.nets import load_net
from fishing.store import ExtractionSettings, Rows, Split


def paired(feature: str, images: Split | Mapping[str, Rows]) -> NDArray[np.float32]:
    """Put the parts of a feature side by side, as `TraceKernel` takes them.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.
    images : Split, or mapping of str to array_like of float32, shape (n, d)
        Blobs by their names, such as ``forward/x7``.

    Returns
    -------
    ndarray of float32, shape (n, n_parts * width)
        The parts of dW7 are x6 and dE/dy7, those of x6*x7 are x6 and x7. Narrow parts
        are padded with zeros, which change no inner product, to the width of the
        widest.

    Raises
    ------
    EvaluationError
        If the feature is unknown, or a blob is missing.

    Examples
    --------
    >>> import numpy as np
    >>> x7, g8 = np.array([[1.0, 2.0, 3.0]]), np.array([[4.0, 5.0]])
    >>> paired("dW8", {"forward/x7": x7, "backward/y8": g8})
    array([[1., 2., 3., 4., 5., 0.]], dtype=float32)
    """
    blobs = blobs_of_feature(feature, images)
    parts = [blobs[b] for factors in parse_feature(feature) for b in factors]
    n, width = parts[0].shape[0], max(rows.shape[1] for rows in parts)
    X = np.zeros((n, len(parts), width), np.float32)
    for i, rows in enumerate(parts):
        X[:, i, : rows.shape[1]] = rows[:]
    return X.reshape(n, -1)


class TraceKernel(BaseEstimator):  # type: ignore[misc]
    """The kernel of a feature on paired rows, for ``SVC(kernel=TraceKernel())``.

    It is the linear kernel for an activation, the trace kernel of eq. 12,
    Tr(A^T B) = (x_A . x_B) (g_A . g_B), for a gradient, the product of the kernels of
    its factors for a product, and the mean of the kernels of its summands for a sum.
    Each part is l2-normalised by itself.

    Parameters
    ----------
    feature : str
        The feature that was given to `paired` or to `GradientFeatures`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import SVC
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 8)), np.arange(20) % 2  # 4 values of x6, 4 of g7
    >>> SVC(kernel=TraceKernel("dW7"), C=1).fit(X, y).predict(X).shape
    (20,)
    """

    def __init__(self, feature: str = "dW7") -> None:
        self.feature = feature

    def __call__(self, X: ArrayLike, Y: ArrayLike | None = None) -> NDArray[np.float64]:
        """Compute the kernel.

        Parameters
        ----------
        X, Y : array_like, shape (n_X, d) and (n_Y, d)
            Paired rows. By default, Y is X.

        Returns
        -------
        ndarray of float64, shape (n_X, n_Y)

        Raises
        ------
        EvaluationError
            If the feature is unknown, or the rows do not fit it.
        """
        a = _parts(self.feature, X)
        b = a if Y is None or Y is X else _parts(self.feature, Y)
        pairs = zip(a, b, strict=True)
        summands = parse_feature(self.feature)
        return Kernel(
            [[cosines(k, *next(pairs)) for k in blobs] for blobs in summands]
        )[:]


def paired_blobs(feature: str, X: ArrayLike) -> dict[str, NDArray[Any]]:
    """Name the blobs that paired rows of a feature hold: undo `paired`.

    Raises
    ------
    EvaluationError
        If the feature is unknown, or the rows do not fit it.
    """
    names = [blob for factors in parse_feature(feature) for blob in factors]
    return dict(zip(names, _parts(feature, X), strict=True))


def _parts(feature: str, X: ArrayLike) -> list[NDArray[Any]]:
    """Cut rows into the parts of a feature."""
    rows = np.asarray(X)
    n_parts = sum(map(len, parse_feature(feature)))
    if rows.ndim != 2 or rows.shape[1] % n_parts or not rows.shape[1]:
        raise EvaluationError(
            f"expected rows of {n_parts} parts of {feature}, equally wide and side by "
            f"side, found shape {rows.shape}; fishing.paired makes them"
        )
    return np.split(rows, n_parts, axis=1)


class GradientFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from images to the paired rows of a feature.

    It learns nothing: `fit` only checks the parameters.

    Parameters
    ----------
    net : str
        A net under models/, or a folder like one.
    feature : str
        Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.
    backend : str
        ``auto`` or one of `fishing.backends.BACKENDS`.
    device : str
        ``cpu`` or ``gpu:N``.
    temperature : float
        tau of eq. 10.
    batch_size : int
        Images that go through the net at once.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((2, 70, 90, 3), np.uint8)
    >>> GradientFeatures(net="tinyalexnet").fit_transform(images).shape
    (2, 1536)
    """

    def __init__(
        self,
        net: str = "tinyalexnet",
        feature: str = "dW7",
        backend: str = "auto",
        device: str = "cpu",
        temperature: float = 2.0,
        batch_size: int = 32,
    ) -> None:
        self.net = net
        self.feature = feature
        self.backend = backend
        self.device = device
        self.temperature = temperature
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> GradientFeatures:
        """Check the parameters.

        Raises
        ------
        FishingError
            If one of them is not allowed.
        """
        load_net(self.net)
        parse_feature(self.feature)
        parse_device(self.device)
        choose_backend(self.backend, self.device)
        check_run(self.temperature, self.batch_size)
        return self

    def transform(
        self, X: Sequence[str | os.PathLike[str] | NDArray[np.uint8]]
    ) -> NDArray[np.float32]:
        """Run images through the net.

        Parameters
        ----------
        X : sequence of str, path, Pillow image, or ndarray of uint8
            Image files, or pictures. Arrays are of shape (height, width, 3) in RGB, as
            in scikit-image, or (height, width) in grey. A Pillow image gives the
            features of its file.

        Returns
        -------
        ndarray of float32, shape (n_images, n_parts * width)
            Paired rows, as `paired` makes them.

        Raises
        ------
        DataError
            If an item of X is not an image, or cannot be read.
        FishingError
            If the net or the backend cannot be used.
        """
        blobs = compute_blobs(
            ExtractionSettings(load_net(self.net), self.backend, self.temperature),
            [picture(item) for item in _images(X)],
            device=self.device,
            batch_size=self.batch_size,
        )
        return paired(self.feature, blobs)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        return tags


def _images(X: Any) -> list[Any]:
    """List the images; refuse a single one, whose items are not images."""
    if hasattr(X, "columns"):
        raise DataError(
            "expected a sequence of images, found a table; name the column that holds "
            "their paths"
        )
    if isinstance(X, str | os.PathLike):
        found = f"one path, '{X}'"
    elif isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[2] in (3, 4):
        found = f"one picture, shape {X.shape}"
    elif not isinstance(X, Iterable):
        found = f"one {type(X).__name__}"
    else:
        return list(X)
    raise DataError(f"expected a sequence of images, found {found}; put it in a list")
