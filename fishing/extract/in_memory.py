"""Blobs of a few images, computed in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_run, choose_backend, open_backend
from fishing.errors import DataError, ImageError
from fishing.images import Preprocess
from fishing.nets import check_weights, weights_path
from fishing.store import ExtractionSettings


def compute_blobs(
    settings: ExtractionSettings,
    images: Sequence[Path | NDArray[np.uint8]],
    *,
    device: str = "cpu",
    batch_size: int = 32,
) -> dict[str, NDArray[np.float32]]:
    """Run images through a net, forward and backward.

    Parameters
    ----------
    settings : ExtractionSettings
        ``dtype`` and ``compression`` are not used; they concern files only.
    images : sequence of Path or ndarray of uint8, shape (height, width, 3)
        Image files, or pictures in BGR.
    device : str
        ``cpu`` or ``gpu:N``.
    batch_size : int
        Images that go through the net at once.

    Returns
    -------
    dict of str to ndarray of float32, shape (n_images, d)
        By name, the blobs that a features file of the images would hold.

    Raises
    ------
    DataError
        If there is no image, or one cannot be read.
    FishingError
        If the net or the backend cannot be used.
    """
    if not images:
        raise DataError("expected one image or more, found none")
    check_run(settings.temperature, batch_size)
    spec = settings.net
    check_weights(spec, weights_path(spec))
    preprocess = spec.preprocess
    net = open_backend(
        choose_backend(settings.backend, device),
        spec,
        temperature=settings.temperature,
        batch_size=min(batch_size, len(images)),
        device=device,
        tf32=settings.tf32,
    )
    with closing(net):
        parts = [
            net.run(np.stack([_input(preprocess, i) for i in images[j:][:batch_size]]))
            for j in range(0, len(images), batch_size)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _input(
    preprocess: Preprocess, image: Path | NDArray[np.uint8]
) -> NDArray[np.float32]:
    try:
        if isinstance(image, Path):
            return preprocess(image)
        return preprocess.prepare(image)
    except ImageError as error:
        name = f"'{image}'" if isinstance(image, Path) else f"{image.shape} pixels"
        raise DataError(f"expected an image, found {name}: {error}") from None
