"""Extraction of features from lists of images into a features file.

A few threads read and prepare images ahead of the net. At no time are more than a few
batches of them in memory.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import (
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.backends import Backend, check_run, choose_backend, open_backend, run_ahead
from fishing.errors import BackendError, DataError, ImageError
from fishing.images import (
    ImageList,
    Note,
    Preprocess,
    catch_messages,
    collect_notes,
)
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.processes import opencv_threads, usable_cores
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
    check_run(settings.temperature, batch_size)
    spec, backend = settings.net, choose_backend(settings.backend, device)
    preprocess = spec.preprocess
    record = replace(settings, backend=backend).record()
    with FeaturesWriter(output, record, overwrite=overwrite) as writer:
        pending, n_damaged = writer.pending(lists), Counter[str]()
        if pending:
            net = open_backend(
                backend,
                spec,
                temperature=settings.temperature,
                batch_size=batch_size,
                device=device,
                tf32=settings.tf32,
            )
            with closing(net):
                _log.info("%s runs on %s, backend %s", spec.name, device, backend)
                if advice := one_product_advice(spec.name, net.widths):
                    _log.info("%s", advice)
                for images in pending:
                    n_damaged[images.split] = _extract_split(
                        images, net, preprocess, writer, strict, progress
                    )
            writer.publish(progress)
        if data is not None:
            remember_data(output, data)
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
    net: Backend,
    preprocess: Preprocess,
    writer: FeaturesWriter,
    strict: bool,
    progress: Progress,
) -> int:
    """Run those images of a split through the net that no earlier run has done.

    Returns how many of them may be damaged.
    """
    start = writer.open_split(images, net.widths)
    counts: Counter[Note] = Counter()
    n_ahead = (1 + net.n_at_once) * net.batch_size
    with (
        _read_ahead(images, start, preprocess, n_ahead) as read,
        closing(_heard(read, images, start, strict, counts)) as inputs,
        closing(run_ahead(net, _batches(inputs, start, net.batch_size))) as batches,
    ):
        for (n_done, failed), blobs in batches:
            _report(failed, images, strict)
            _check_finite(blobs, images.path[n_done - 1])
            writer.append(images.split, n_done, blobs, failed)
            progress(images.split, n_done, len(images), "images")
    for note, n in counts.items():
        if n > 1 and not note.is_damage:
            _log.warning("%d images of '%s': %s", n, images.split, note.text)
    n_failed = writer.n_failed(images.split)
    if strict and n_failed:
        raise DataError(
            f"{n_failed} images of split '{images.split}' could not be read in an "
            "earlier run; mend them and start anew with --overwrite"
        )
    if n_failed == len(images):
        writer.discard(images.split)
        raise DataError(
            f"expected images in split '{images.split}', found that none of "
            f"{len(images)} can be read, such as '{images.path[0]}'; look there and "
            "run the same command again"
        )
    return counts[_DAMAGED]


def _report(failed: Mapping[int, str], images: ImageList, strict: bool) -> None:
    """Warn of images that could not be read, or stop at the first one."""
    for index, reason in failed.items():
        message = f"{images.path[index]}: {reason}"
        if strict:
            raise DataError(f"{message}; --strict stops at such a file")
        _log.warning("%s; left out", message)


def _check_finite(blobs: Mapping[str, NDArray[np.float32]], last: Path) -> None:
    """Refuse NaN and infinity, of which no kernel can be made."""
    for name, values in blobs.items():
        if not np.isfinite(values).all():
            raise BackendError(
                f"expected finite values, found NaN or infinity in {name} of the batch "
                f"that ends with '{last}'; look at the weights and the temperature"
            )


class _Read(NamedTuple):
    """An input of the net, or why there is none, and what is noted about the image."""

    input: NDArray[np.float32] | ImageError
    notes: list[Note]


@contextmanager
def _read_ahead(
    images: ImageList, start: int, preprocess: Preprocess, n_ahead: int
) -> Iterator[Iterator[_Read]]:
    """Read images in their order with a few threads, at most `n_ahead` in advance."""
    pool = ThreadPoolExecutor(
        max_workers=min(8, usable_cores()), initializer=catch_messages
    )

    def in_order() -> Iterator[_Read]:
        waiting: deque[Future[_Read]] = deque()
        for place in range(start, len(images)):
            reason = images.failed.get(place, "")
            waiting.append(pool.submit(_read, images.path[place], reason, preprocess))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    with opencv_threads(1):  # the threads of the pool are enough
        try:
            yield in_order()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(path: Path, reason: str, preprocess: Preprocess) -> _Read:
    """Read an image, unless there is a reason to think that it cannot be read."""
    with collect_notes() as notes:
        try:
            return _Read(ImageError(reason) if reason else preprocess(path), notes)
        except ImageError as error:
            return _Read(error, notes)


def _heard(
    read: Iterator[_Read],
    images: ImageList,
    start: int,
    strict: bool,
    counts: Counter[Note],
) -> Generator[NDArray[np.float32] | ImageError]:
    """Pass inputs on, say what is noted about them, and count it.

    A damaged image is named, or fails if `strict`; other notes are said once.
    """
    for path, (item, notes) in zip(images.path[start:], read, strict=True):
        damage = next((note.text for note in notes if note.is_damage), "")
        if damage and strict:
            item = ImageError(damage)
        elif damage:
            _log.warning("%s: %s; it may be damaged, and keeps its row", path, damage)
            counts[_DAMAGED] += 1
        for note in notes:
            if not note.is_damage:
                if not counts[note]:
                    _log.warning("%s: %s (said once)", path, note.text)
                counts[note] += 1
        yield item


_DAMAGED = Note("may be damaged", is_damage=True)


class _Span(NamedTuple):
    """The images of a list that a batch covers, readable or not."""

    n_done: int  # images up to the end of the batch
    failed: dict[int, str]  # reasons by place in the list


def _batches(
    inputs: Iterable[NDArray[np.float32] | ImageError], start: int, batch_size: int
) -> Iterator[tuple[_Span, NDArray[np.float32]]]:
    """Gather inputs into batches, each with the images that it covers.

    A batch ends with its last readable image, so the next one is the same whether or
    not the work was interrupted between them.
    """
    data: list[NDArray[np.float32]] = []
    span = _Span(start, {})
    for i, item in enumerate(inputs, start=start):
        span = _Span(i + 1, span.failed)
        if isinstance(item, ImageError):
            span.failed[i] = str(item)
        else:
            data.append(item)
        if len(data) == batch_size:
            yield span, np.stack(data)
            data, span = [], _Span(i + 1, {})
    if data or span.failed:
        yield span, np.stack(data) if data else np.empty(0, np.float32)
