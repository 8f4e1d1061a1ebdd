"""Small features files: blobs on their first principal directions, in a few bits.

The trace kernel of dW7 compares x6 and dE/dy7 by their cosines. The directions in which
a blob varies most keep these, so a pair of short vectors stands for a pair of long
ones: the small file is a features file, with the same names of features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.extract.derived_file import finite, was_derived, write_derived
from fishing.extract.principal_directions import (
    RowSample,
    principal_directions,
    unit,
)
from fishing.processes import blas_threads
from fishing.progress import Progress, silent
from fishing.store import (
    LARGEST,
    MAX_DIMENSIONS,
    PROJECTION,
    FeaturesFile,
    Projection,
    Rows,
    Split,
    integer_scales,
)

#: How a compressed file may store its values, the default first.
COMPRESSED_DTYPES = ("int8", "int4", "float16", "float32")


def compress(
    path: Path,
    output: Path,
    *,
    dimensions: int = 64,
    dtype: str = "int8",
    splits: Sequence[str] = (),
    progress: Progress = silent,
) -> Path:
    """Write a small features file of the same images, which serves the same purposes.

    The rows of each blob are l2-normalised, projected on their first principal
    directions, and l2-normalised again. The directions are those of the uncentred
    second moments of at most 10,000 normalised rows, taken at equal distances from some
    splits. They lie in the output, so that the features of a photo can be projected
    too. An output that was made before is left alone.

    Parameters
    ----------
    path : Path
        A features file.
    output : Path
        The file to write.
    dimensions : int
        How many values of each blob to keep; narrower blobs keep their width.
    dtype : str
        ``int8`` or ``int4``: 8 or 4 bits a value, with a scale for each direction; or
        ``float16`` or ``float32``.
    splits : sequence of str
        The splits that determine directions and scales. By default, trainval, or all
        splits if there is none of that name.
    progress : Progress
        Counts bytes that are verified, blobs whose directions are found, and bytes.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    StoreError
        If the file is missing, damaged, compressed already, lacks a split, or holds a
        value that is not finite; if a choice is not allowed; or if the output is
        another file, or cannot be written.

    Examples
    --------
    >>> compress(Path("features.h5"), Path("small.h5"))  # doctest: +SKIP
    """
    if not 1 <= dimensions <= MAX_DIMENSIONS or dtype not in COMPRESSED_DTYPES:
        raise StoreError(
            f"expected from 1 to {MAX_DIMENSIONS} dimensions and a dtype of: "
            f"{' '.join(COMPRESSED_DTYPES)}; found {dimensions} and '{dtype}'"
        )
    with FeaturesFile(path) as file, blas_threads():
        learned = _check_source(file, splits)
        sample = RowSample([file[name] for name in learned])
        settings = _settings(file, dimensions, dtype, learned, len(sample))
        if was_derived(output, settings, file):
            return output
        file.verify(progress)  # damage must not get new checksums
        names = list(next(iter(file.splits.values())).blobs)
        projection = {}
        for i, blob in enumerate(names):
            progress("principal directions", i, len(names), "blobs")
            projection[blob] = _learn(sample, blob, dimensions, dtype)
        progress("principal directions", len(names), len(names), "blobs")

        def compute(split: Split, blob: str, key: Any) -> NDArray[np.float32]:
            rows = finite(split.blobs[blob][key], blob, "extract anew")
            return _projected(rows, projection[blob].bases)

        write_derived(output, settings, file, compute, progress, projection)
    return output


def project(
    blobs: Mapping[str, NDArray[np.float32]], bases: Mapping[str, Rows]
) -> dict[str, NDArray[np.float32]]:
    """Project the blobs of other images as those of a compressed file were.

    Parameters
    ----------
    blobs : mapping of str to ndarray of float32, shape (n, d)
    bases : mapping of str to array_like of float32, shape (d, k)
        `FeaturesFile.projection`. If it is empty, the blobs are returned as they are.

    Returns
    -------
    dict of str to ndarray of float32, shape (n, k)
        Those blobs that have bases.

    Raises
    ------
    StoreError
        If bases are of another width than the blob, or are not finite.
    """
    if not bases:
        return dict(blobs)
    projected = {}
    for blob in blobs.keys() & bases.keys():
        width, found = blobs[blob].shape[1], bases[blob].shape[0]
        if found != width:
            raise StoreError(
                f"expected bases for {width} values of {blob}, found some for {found}; "
                "compress the features file anew"
            )
        values = finite(bases[blob][:], f"bases of {blob}", "compress anew")
        projected[blob] = _projected(blobs[blob], values)
    return projected


def _check_source(file: FeaturesFile, splits: Sequence[str]) -> list[str]:
    """Name the splits to learn from; refuse a file that cannot be compressed."""
    if file.projection:
        raise StoreError(
            f"{file.path}: expected a file of `fishing extract`, found one that is "
            "compressed already; name the file that it was made of"
        )
    if PROJECTION in file:
        raise StoreError(
            f"{file.path}: expected splits of other names, found '{PROJECTION}', which "
            "is the place of the bases; extract it under another name"
        )
    default = ["trainval"] if "trainval" in file else list(file)
    learned = list(dict.fromkeys(splits)) or default
    if not sum(len(file.split(name)) for name in learned):
        raise StoreError(
            f"{file.path}: expected images in {' '.join(learned)}, found none; choose "
            "another --split"
        )
    return learned


def _settings(
    file: FeaturesFile, dimensions: int, dtype: str, splits: list[str], n_rows: int
) -> dict[str, Any]:
    """Build the settings of the output, which holds no compressed chunks."""
    projection = {"dimensions": dimensions, "splits": splits, "rows": n_rows}
    kept = {k: v for k, v in file.settings.items() if k not in ("dtype", "compression")}
    stored = {} if dtype == "float32" else {"dtype": dtype}
    return {**kept, **stored, PROJECTION: projection}


def _learn(sample: RowSample, blob: str, dimensions: int, dtype: str) -> Projection:
    """Find the directions of a blob, and what an integer is worth along each."""
    bases = principal_directions(sample, blob, dimensions)
    if dtype not in LARGEST:
        return Projection(bases, None)
    rows = np.concatenate([unit(part @ bases) for part in sample.unit_rows(blob)])
    return Projection(bases, integer_scales(rows, dtype))


def _projected(
    rows: NDArray[np.float32], bases: NDArray[np.float32]
) -> NDArray[np.float32]:
    return unit(unit(rows) @ bases)
