"""Extraction of features from lists of images into a features file.

A few threads read and prepare images ahead of the net. At no time are more than a few
batches of them in memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.backends import Backend, check_run, choose_backend, open_backend, run_ahead
from fishing.errors import BackendError, DataError, ImageError
from fishing.images import ImageList, Preprocess
from fishing.processes import usable_cores
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
    """

    split: str
    n_images: int
    n_failed: int
    was_there: bool


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
        pending = writer.pending(lists)
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
                for images in pending:
                    _extract_split(images, net, preprocess, writer, strict, progress)
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
            )
            for images in lists
        ]


def _extract_split(
    images: ImageList,
    net: Backend,
    preprocess: Preprocess,
    writer: FeaturesWriter,
    strict: bool,
    progress: Progress,
) -> None:
    """Run those images of a split through the net that no earlier run has done."""
    start = writer.open_split(images, net.widths)
    n_ahead = (1 + net.n_at_once) * net.batch_size
    with (
        _read_ahead(images.path[start:], preprocess, n_ahead) as inputs,
        closing(run_ahead(net, _batches(inputs, start, net.batch_size))) as batches,
    ):
        for (n_done, failed), blobs in batches:
            _report(failed, images, strict)
            _check_finite(blobs, images.path[n_done - 1])
            writer.append(images.split, n_done, blobs, failed)
            progress(images.split, n_done, len(images), "images")
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


@contextmanager
def _read_ahead(
    paths: Iterable[Path], preprocess: Preprocess, n_ahead: int
) -> Iterator[Iterator[NDArray[np.float32] | ImageError]]:
    """Read images in their order with a few threads, at most `n_ahead` in advance."""
    pool = ThreadPoolExecutor(max_workers=min(8, usable_cores()))

    def in_order() -> Iterator[NDArray[np.float32] | ImageError]:
        waiting: deque[Future[NDArray[np.float32]]] = deque()
        for path in paths:
            waiting.append(pool.submit(preprocess, path))
            if len(waiting) > n_ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    try:
        yield in_order()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[NDArray[np.float32]]) -> NDArray[np.float32] | ImageError:
    """Return the input of the net, or why there is none."""
    try:
        return future.result()
    except ImageError as error:
        return error


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
