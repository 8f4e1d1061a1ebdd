"""Extraction of features from lists of images into a features file."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends import Backend, check_run, choose_backend, open_backend, run_ahead
from fishing.errors import BackendError, DataError, NetError, printable
from fishing.extract.read_ahead import DAMAGED, heard, in_batches, read_ahead
from fishing.images import ImageList, Note
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.progress import Progress, silent
from fishing.store import ExtractionSettings, FeaturesWriter, remember_data

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extracted:
    """What an extraction did for one split.

    Attributes
    ----------
    split : str
    n_images, n_failed : int
        How many images the list has, and how many of them could not be read.
    was_there : bool
        Whether the features file had the split already.
    n_damaged : int
        How many images that were read by this run have a row, but may be damaged.
    left_alone : dict of str to int
        How many files of the folder are no images, by their suffixes.
    """

    split: str
    n_images: int
    n_failed: int
    was_there: bool
    n_damaged: int = 0
    left_alone: dict[str, int] = field(default_factory=dict)


def extract(
    settings: ExtractionSettings,
    lists: Sequence[ImageList],
    output: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress = silent,
) -> list[Extracted]:
    """Write the paired blobs of all images into a features file.

    An interrupted extraction is resumed. Splits that the file has already are left
    alone, and others are added.

    Parameters
    ----------
    settings : ExtractionSettings
    lists : sequence of ImageList
    output : Path
        The features file. It gets this name once it is whole.
    data : Path, optional
        The data set of the lists. It is remembered beside the features file, for
        commands that show images.
    device : str
        ``cpu``, ``gpu:0``, or several GPUs as ``gpu:0,1``.
    batch_size : int, optional
        Images that go through the net at once. Values do not depend on it beyond
        rounding. By default, 32 on the CPU, and what memory allows on a GPU.
    overwrite : bool
        Whether to remove an existing file, and what an interrupted extraction left.
    strict : bool
        Whether to stop at the first image that cannot be read, instead of recording it.
    progress : Progress
        Counts the images of each split.

    Returns
    -------
    list of Extracted
        One for each list.

    Raises
    ------
    DataError
        If no image of a split can be read, or, if `strict`, one cannot.
    FishingError
        If the net, the backend or the features file cannot be used.
    """
    with NetOnDemand(settings, device=device, batch_size=batch_size) as net:
        done = extract_lists(
            net, lists, output, overwrite=overwrite, strict=strict, progress=progress
        )
    if data is not None:
        remember_data(output, data)
    return done


class NetOnDemand:
    """A net that is loaded when the first image needs it; a context manager.

    Parameters
    ----------
    settings, device, batch_size
        See `extract`.

    Attributes
    ----------
    settings : ExtractionSettings
        With the backend that ``auto`` stands for.
    record : dict
        What features files of this net record.

    Raises
    ------
    FishingError
        If the settings are not allowed, or the weights are missing.
    """

    def __init__(
        self,
        settings: ExtractionSettings,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        check_run(settings.temperature, batch_size)
        backend = choose_backend(settings.backend, device)
        self.settings = replace(settings, backend=backend)
        self.record: dict[str, Any] = self.settings.record()
        self._device, self._batch_size = device, batch_size
        self._net: Backend | None = None

    def __enter__(self) -> NetOnDemand:
        return self

    def __exit__(self, *_: object) -> None:
        if self._net is not None:
            self._net.close()

    def load(self) -> Backend:
        """Load the net, unless it is loaded."""
        if self._net is None:
            settings, spec = self.settings, self.settings.net
            net = open_backend(
                settings.backend,
                spec,
                temperature=settings.temperature,
                batch_size=self._batch_size,
                device=self._device,
                tf32=settings.tf32,
            )
            self._net = net
            _log.info(
                "%s runs on %s, backend %s", spec.name, self._device, settings.backend
            )
            if advice := one_product_advice(spec.name, net.widths):
                _log.info("%s", advice)
        return self._net

    def widths(self) -> dict[str, int]:
        """Count the values per image of each blob that is stored.

        Raises a NetError if the net lacks one that the settings name.
        """
        found, stored = self.load().widths, self.settings.stored
        missing = [blob for blob in stored if blob not in found]
        if missing:
            raise NetError(
                f"expected {missing[0]} among the blobs to store, found that "
                f"{self.settings.net.name} has {' '.join(found)}; choose another "
                "--feature"
            )
        return {blob: n for blob, n in found.items() if not stored or blob in stored}


def extract_lists(
    net: NetOnDemand,
    lists: Sequence[ImageList],
    output: Path,
    *,
    overwrite: bool = False,
    strict: bool = False,
    may_lack_rows: bool = False,
    progress: Progress = silent,
) -> list[Extracted]:
    """Write the blobs of all images into a features file, by a net that stays loaded.

    The parameters are those of `extract`. With `may_lack_rows`, a list of which no
    image can be read is no error: it may be a part of a longer one. It still is one if
    none of its files exists, since their disk may not be there.
    """
    with FeaturesWriter(output, net.record, overwrite=overwrite) as writer:
        pending, n_damaged = writer.pending(lists), Counter[str]()
        if pending:
            for images in pending:
                n_damaged[images.split] = _extract_split(
                    images, net, writer, strict, progress
                )
                nothing = writer.n_failed(images.split) == len(images)
                if nothing and not (may_lack_rows and _is_there(images)):
                    writer.discard(images.split)
                    raise none_can_be_read(images)
            writer.publish(progress)
        names = {images.split for images in pending}
        return [
            Extracted(
                images.split,
                len(images),
                writer.n_failed(images.split),
                was_there=images.split not in names,
                n_damaged=n_damaged[images.split],
                left_alone=dict(images.left_alone),
            )
            for images in lists
        ]


def _is_there(images: ImageList) -> bool:
    """Tell whether a list is empty, or one of its files exists."""
    return not images.path or any(map(os.path.exists, images.path))


def none_can_be_read(images: ImageList) -> DataError:
    """Make the error of a list of which no image can be read."""
    return DataError(
        f"expected images in split '{images.split}', found that none of "
        f"{len(images)} can be read, such as '{images.path[0]}'; look there and "
        "run the same command again"
    )


def one_product_advice(net: str, blobs: Collection[str]) -> str:
    """Say what a head with one inner product is good for; nothing of other heads.

    Parameters
    ----------
    net : str
        The name of the net.
    blobs : collection of str
        The paired blobs of the net.

    Returns
    -------
    str
        One line, or none.

    Examples
    --------
    >>> one_product_advice("vgg16", ["forward/x6", "forward/x7", "backward/y7"])
    ''
    """
    if backward_blob(LAST) not in blobs or backward_blob(LAST - 1) in blobs:
        return ""
    missing = "" if forward_blob("x6") in blobs else ", once net.toml names such an x6"
    return (
        f"{net} has a head of one inner product: at temperature 2, dW8 does not beat "
        f"x7; x6*x7 does, where x6 is the input of the last block{missing}"
    )


def _extract_split(
    images: ImageList,
    net: NetOnDemand,
    writer: FeaturesWriter,
    strict: bool,
    progress: Progress,
) -> int:
    """Run those images of a split through the net that no earlier run has done.

    Returns how many of them may be damaged.
    """
    loaded, widths = net.load(), net.widths()
    preprocess = net.settings.net.preprocess
    start = writer.open_split(images, widths)
    counts: Counter[Note] = Counter()
    n_ahead = (1 + loaded.n_at_once) * loaded.batch_size
    with (
        read_ahead(images, start, preprocess, n_ahead) as read,
        closing(heard(read, images, start, strict, counts)) as inputs,
        closing(
            run_ahead(loaded, in_batches(inputs, start, loaded.batch_size))
        ) as batches,
    ):
        for (n_done, failed), found in batches:
            blobs = {name: rows for name, rows in found.items() if name in widths}
            _report(failed, images, strict)
            _check_finite(blobs, images.path[n_done - 1])
            writer.append(images.split, n_done, blobs, failed)
            progress(images.split, n_done, len(images), "images")
    for note, n in counts.items():
        if n > 1 and not note.is_damage:
            _log.warning("%d images of '%s': %s", n, images.split, note.text)
    if strict and writer.n_failed(images.split):
        raise DataError(
            f"{writer.n_failed(images.split)} images of split '{images.split}' could "
            "not be read in an earlier run; mend them and start anew with --overwrite"
        )
    return counts[DAMAGED]


def _report(failed: Mapping[int, str], images: ImageList, strict: bool) -> None:
    """Warn of images that could not be read, or stop at the first one."""
    for index, reason in failed.items():
        message = f"{images.path[index]}: {reason}"
        if strict:
            raise DataError(f"{message}; --strict stops at such a file")
        _log.warning("%s; left out", printable(message))


def _check_finite(blobs: Mapping[str, NDArray[np.float32]], last: Path) -> None:
    """Refuse NaN and infinity, of which no kernel can be made."""
    for name, values in blobs.items():
        if not np.isfinite(values).all():
            raise BackendError(
                f"expected finite values, found NaN or infinity in {name} of the batch "
                f"that ends with '{last}'; look at the weights and the temperature"
            )
