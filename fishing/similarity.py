"""Kernels between any two sets of images, of a features file or in memory.

In go blobs by name, out come the kernels of `fishing.kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.kernel import (
    Gram,
    Kernel,
    feature_blobs,
    inverse_norms,
    panels,
    parse_feature,
    scaled_panel,
)
from fishing.store import Rows, Split

#: Rows of a feature, factor by factor, summand by summand.
Factors: TypeAlias = Sequence[Sequence[Rows]]


def gram(
    feature: str,
    A: Split | Mapping[str, Rows],
    B: Split | Mapping[str, Rows] | None = None,
) -> NDArray[np.float64]:
    """Compute the kernel of one feature between two sets of images: eq. 12.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6+x7`` or ``dW7``.
    A, B : Split, or mapping of str to array_like of float32, shape (n, d)
        Blobs by the names of `fishing.backends.BLOBS`; B is A where it is left out.

    Returns
    -------
    ndarray of float64, shape (n_A, n_B)
        1 where two images have the same feature up to scale.

    Raises
    ------
    EvaluationError
        If the feature is unknown, a blob is missing or of two widths, or holds a value
        that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> A = {"forward/fc7": np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)}
    >>> gram("x7", A).round(6)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """
    a = feature_factors(feature, A)
    return kernel_between(a, a if B is None else feature_factors(feature, B))[:]


def feature_factors(feature: str, images: Split | Mapping[str, Rows]) -> Factors:
    """Pick the blobs that a feature is made from, in their places in it."""
    blobs = images.blobs if isinstance(images, Split) else images
    if not isinstance(blobs, Mapping):
        raise EvaluationError(
            "expected a split of a features file, or blobs by name, found "
            f"{type(images).__name__}; fishing.load('features.h5')['test'] gives one"
        )
    for blob in sorted(feature_blobs(feature)):
        if blob not in blobs:
            raise EvaluationError(
                f"expected {blob}, which {feature} is made from, found "
                f"{' '.join(blobs) or 'nothing'}"
            )
    return [[blobs[blob] for blob in factors] for factors in parse_feature(feature)]


def kernel_between(a: Factors, b: Factors) -> Kernel:
    """Pair the factors of two sets of images; shape (n_a, n_b), sliced by rows."""
    return Kernel(
        [
            [_cosines(*pair) for pair in zip(*summands, strict=True)]
            for summands in zip(a, b, strict=True)
        ]
    )


def _cosines(a: Rows, b: Rows) -> Gram:
    """Inner products of the normalised rows of a and b; shape (n_a, n_b)."""
    (n, d), (m, d_b) = a.shape, b.shape
    if d != d_b:
        raise EvaluationError(
            f"expected rows of one width, found {d} and {d_b} values; both sides must "
            "come from the same net"
        )
    scale_a, scale_b = inverse_norms(a, "A"), inverse_norms(b, "B")
    K = np.zeros((n, m), np.float32)
    for columns in panels(max(n, m), d):
        K += scaled_panel(a, columns, scale_a) @ scaled_panel(b, columns, scale_b).T
    return K
