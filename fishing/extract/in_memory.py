"""From a few images to their blobs, in memory.

In go images and a net, out come the blobs that a features file would hold of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_run, open_backend
from fishing.errors import DataError, ImageError
from fishing.images import Preprocess
from fishing.nets import BLOBS, NetSpec, check_weights, weights_path


def compute_blobs(
    spec: NetSpec,
    images: Sequence[Path | NDArray[np.uint8]],
    *,
    backend: str,
    device: str = "cpu",
    temperature: float = 2.0,
    batch_size: int = 32,
    tf32: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Run images through a net, forward and backward.

    Parameters
    ----------
    spec : NetSpec
    images : sequence of Path or ndarray of uint8, shape (height, width, 3)
        Files, or pictures in BGR.
    backend : str
        One of `fishing.backends.BACKENDS`.
    device : str
        ``cpu`` or ``gpu:N``.
    temperature : float
        tau of eq. 10.
    batch_size : int
        Images that go through the net at once.
    tf32 : bool
        Multiply in TF32 on the GPU.

    Returns
    -------
    dict of str to ndarray of float32, shape (n_images, d)
        One entry for each of `fishing.backends.BLOBS`.

    Raises
    ------
    DataError
        If there is no image, or one cannot be read.
    FishingError
        As the net and the backend have it.
    """
    if not images:
        raise DataError("expected one image or more, found none")
    check_run(temperature, batch_size)
    check_weights(spec, weights_path(spec))
    preprocess = Preprocess(spec.input_size, spec.mean)
    net = open_backend(
        backend,
        spec,
        temperature=temperature,
        batch_size=min(batch_size, len(images)),
        device=device,
        tf32=tf32,
    )
    with closing(net):
        parts = [
            net.run(np.stack([_input(preprocess, i) for i in images[j:][:batch_size]]))
            for j in range(0, len(images), batch_size)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in BLOBS}


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
