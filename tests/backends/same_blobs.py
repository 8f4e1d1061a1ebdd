"""Made-up images, and blobs of two backends that have to be the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.nets import BLOBS

Array = NDArray[Any]


def smooth_images(rng: np.random.Generator, n: int, size: int) -> NDArray[np.float32]:
    """Make smooth random images in the range of real ones minus the mean."""
    coarse = rng.uniform(-120, 130, (n, 3, 8, 8))
    fine = coarse.repeat(-(-size // 8), 2).repeat(-(-size // 8), 3)[..., :size, :size]
    return (fine + rng.normal(0, 10, fine.shape)).astype(np.float32)


def assert_same_blobs(found: dict[str, Array], expected: dict[str, Array]) -> None:
    """Compare each blob of each image within 1e-4, and all images within 1e-5."""
    assert list(found) == list(BLOBS)
    for name in BLOBS:
        a, b = found[name], expected[name]
        assert a.dtype == np.float32
        assert a.shape == b.shape
        error, norm = np.linalg.norm(a - b, axis=1), np.linalg.norm(b, axis=1)
        assert (norm > 0).all(), name
        assert (error <= 1e-4 * norm).all(), name
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b), name
