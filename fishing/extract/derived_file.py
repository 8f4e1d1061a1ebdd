"""Features files that are computed from another one, without images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError, one_line
from fishing.files import whole_file
from fishing.progress import Progress
from fishing.store import FeaturesFile, Projection, Rows, Split, write_features

#: Computes some rows of a blob of a split; the key slices rows.
Compute = Callable[[Split, str, Any], NDArray[np.float32]]


def was_derived(output: Path, settings: Mapping[str, Any], file: FeaturesFile) -> bool:
    """Tell whether an output was made of a file before; refuse to replace another one.

    Raises
    ------
    StoreError
        If the output is there, with other settings or of other images.
    """
    if not output.exists():
        return False
    try:
        with FeaturesFile(output) as other:
            is_same = other.settings == settings and _images(other) == _images(file)
    except StoreError:
        is_same = False
    if not is_same:
        raise StoreError(
            f"expected no file at {output}, or the one that the same command made of "
            f"{file.path}, found another; remove it, or choose another --output"
        )
    return True


def _images(file: FeaturesFile) -> dict[str, tuple[Sequence[str], ...]]:
    return {
        name: (split.list_sha256, split.image_id, split.failed_id)
        for name, split in file.splits.items()
    }


def write_derived(
    output: Path,
    settings: Mapping[str, Any],
    file: FeaturesFile,
    compute: Compute,
    progress: Progress,
    projection: Mapping[str, Projection] | None = None,
) -> None:
    """Write a features file of the same images, a few rows at a time.

    Parameters
    ----------
    output : Path
    settings : mapping
        Those of the output.
    file : FeaturesFile
        The file that it is computed from.
    compute : callable
        Called with a split, the name of a blob and a key that slices its rows.
    progress : Progress
        Counts bytes of values.
    projection : mapping of str to Projection, optional
        How the blobs are compressed, which sets their widths.

    Raises
    ------
    StoreError
        If the output cannot be written.
    """
    done, total = 0, 0

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(output.name, done, total, "B")

    splits = {}
    for name, split in file.splits.items():
        blobs: dict[str, Rows] = {}
        for blob, rows in split.blobs.items():
            n, width = rows.shape
            if projection is not None:
                width = projection[blob].bases.shape[1]
            blobs[blob] = _Computed((n, width), split, blob, compute, report)
            total += 4 * n * width
        splits[name] = dataclasses.replace(split, blobs=blobs)
    try:
        with whole_file(output) as unfinished:
            write_features(unfinished, settings, splits, projection=projection)
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{output} cannot be made of {file.path}: {one_line(error)}; correct that "
            "and run the same command again"
        ) from None


def check_not_projected(file: FeaturesFile) -> None:
    """Refuse a compressed file, whose blobs are not those that the net computed.

    Raises
    ------
    StoreError
    """
    if file.projection:
        raise StoreError(
            f"{file.path}: expected blobs as the net computed them, found those of "
            "`fishing compress`; name the file that it was made of"
        )


class _Computed:
    """Rows that are computed when they are sliced, as `fishing.store.Rows`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        split: Split,
        blob: str,
        compute: Compute,
        report: Callable[[int], None],
    ) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._split, self._blob = split, blob
        self._compute, self._report = compute, report

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        values = self._compute(self._split, self._blob, key)
        self._report(values.nbytes)
        return values


def finite(values: NDArray[np.float32], what: str, advice: str) -> NDArray[np.float32]:
    """Return values; refuse NaN and infinity, of which no kernel can be made."""
    if not np.isfinite(values).all():
        raise StoreError(f"expected finite {what}, found NaN or infinity; {advice}")
    return values
