"""Blobs of a few images, computed in memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_run, choose_backend, open_backend
from fishing.errors import DataError, ImageError, StoreError
from fishing.images import Note, Preprocess, collect_notes, picture
from fishing.nets import NetSpec, check_weights, recorded_net, weights_path
from fishing.processes import opencv_threads, usable_cores
from fishing.store import ExtractionSettings, FeaturesFile

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)


def compute_blobs(
    settings: ExtractionSettings,
    images: Sequence[Path | Image | NDArray[np.uint8]],
    *,
    device: str = "cpu",
    batch_size: int = 32,
) -> dict[str, NDArray[np.float32]]:
    """Run images through a net, forward and backward.

    Parameters
    ----------
    settings : ExtractionSettings
        ``dtype`` and ``compression`` are not used; they concern files only.
    images : sequence of Path, Pillow image, or ndarray of uint8
        Image files, or pictures; arrays are of shape (height, width, 3) in BGR, or
        (height, width) in grey.
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
    parts = []
    for batch in compute_batches(settings, images, device, batch_size):
        for place, reason in batch.failed.items():
            raise DataError(
                f"expected an image, found {_named(images[place])}: {reason}"
            )
        parts.append(batch.blobs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Batch(NamedTuple):
    """A batch of images: the places of those with a row, their blobs, and the others.

    `failed` has the reasons why images cannot be read, by their places.
    """

    places: list[int]
    blobs: dict[str, NDArray[np.float32]]
    failed: dict[int, str]


def compute_batches(
    settings: ExtractionSettings,
    images: Sequence[Path | Image | NDArray[np.uint8]],
    device: str = "cpu",
    batch_size: int = 32,
) -> Iterator[Batch]:
    """Run images through a net a batch at a time, and leave out what cannot be read.

    Parameters are those of `compute_blobs`; an item that is no image at all raises a
    DataError. The blobs of a batch of which no image can be read are empty.
    """
    check_run(settings.temperature, batch_size)
    spec = settings.net
    check_weights(spec, weights_path(spec))
    net = open_backend(
        choose_backend(settings.backend, device),
        spec,
        temperature=settings.temperature,
        batch_size=min(batch_size, len(images)),
        device=device,
        tf32=settings.tf32,
    )
    noted: Counter[Note] = Counter()
    with closing(net):
        for start in range(0, len(images), batch_size):
            inputs: dict[int, NDArray[np.float32]] = {}
            failed: dict[int, str] = {}
            with opencv_threads(usable_cores()), collect_notes() as notes:
                for place, image in enumerate(images[start:][:batch_size], start):
                    try:
                        inputs[place] = _input(spec.preprocess, image)
                    except ImageError as error:
                        failed[place] = str(error)
            noted.update(notes)
            blobs = net.run(np.stack(list(inputs.values()))) if inputs else {}
            yield Batch(list(inputs), blobs, failed)
    for found, n in noted.items():
        _log.warning("%d of %d images: %s", n, len(images), found.text)


def recorded_settings(
    file: FeaturesFile, spec: NetSpec | None = None, device: str = "cpu"
) -> ExtractionSettings:
    """Return the settings by which other images get features like those of a file.

    These are its net, preprocessing, backend and temperature, and on a GPU also TF32.

    Parameters
    ----------
    file : FeaturesFile
    spec : NetSpec, optional
        The net of the file. By default, the one under models/ that the file names.
    device : str
        The device that will run the net.

    Raises
    ------
    StoreError
        If the file was made with another net, or prepares images in another way.
    """
    spec = recorded_net(file.settings, file.path, spec)
    expected, found = file.settings["preprocess"], spec.preprocess.describe()
    if found != expected:
        raise StoreError(
            f"{file.path} was made with another preprocess: expected {expected}, found "
            f"{found} in {spec.folder}; name the net that it was made with by --net"
        )
    tf32 = file.settings.get("gpu_math") == "tf32"
    if tf32 and device == "cpu":
        _log.warning(
            "%s was made with TF32, which no CPU has: photos are computed in float32, "
            "and their similarities are slightly off; use --device gpu:0 to compute "
            "them as the file was",
            file.path,
        )
    return ExtractionSettings(
        spec,
        backend=str(file.settings["backend"]),
        temperature=float(file.settings["temperature"]),
        tf32=tf32 and device != "cpu",
    )


def _input(preprocess: Preprocess, image: Any) -> NDArray[np.float32]:
    """Prepare an image; raises an ImageError if it cannot be read."""
    found = picture(image, "BGR")
    return preprocess(found) if isinstance(found, Path) else preprocess.prepare(found)


def _named(image: Any) -> str:
    found = picture(image, "BGR")
    return f"'{found}'" if isinstance(found, Path) else f"{found.shape} pixels"
