"""The images of a features file that are nearest to a photo or to one of themselves.

The kernels of some features compare all images with the query, in one pass over the
file and a few hundred rows at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fishing.errors import EvaluationError, StoreError
from fishing.extract import compute_blobs, project, recorded_settings
from fishing.kernels import (
    UnitRows,
    choose_features,
    feature_blobs,
    feature_kernel,
    gram_products,
    main_feature,
)
from fishing.nets import NetSpec
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, Rows, Split, row_blocks


@dataclass(frozen=True)
class Neighbour:
    """An image that a search found.

    Attributes
    ----------
    image_id, split : str
        Its id, and the split that it is in.
    similarity : float
        The kernel of the two images: 1 if their features are equal up to scale.
    classes : tuple of str
        The classes that it is a positive example of.
    """

    image_id: str
    split: str
    similarity: float
    classes: tuple[str, ...]


def search_photo(
    path: Path,
    photo: Path,
    features: Sequence[str] = (),
    k: int = 10,
    *,
    splits: Sequence[str] = (),
    spec: NetSpec | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, list[Neighbour]]:
    """Find the images of a features file that are nearest to a photo.

    The photo goes through the net with the preprocessing, backend and temperature that
    the file was made with, and on a GPU with TF32 if the file was made with it.

    Parameters
    ----------
    path : Path
        A features file.
    photo : Path
        An image file.
    features : sequence of str
        Such as ``x7``, ``x6*x7`` or ``dW7``. The default is the file's deepest gradient
        but one, dW7 if the net has three inner products.
    k : int
        How many images to find.
    splits : sequence of str
        The splits to search; by default, all of them.
    spec : NetSpec, optional
        The net of the file. By default, the one under models/ that the file names.
    device : str
        The device that runs the net on the photo: ``cpu`` or ``gpu:N``.
    progress : Progress
        Counts the images of each split.

    Returns
    -------
    dict of str to list of Neighbour
        For each feature, named as `fishing.kernels.choose_features` names it, the
        nearest image first. Equally near images keep the order of the file. An image
        that is in several splits is listed once.

    Raises
    ------
    StoreError
        If the file is missing, lacks a split, or was made with another net.
    DataError
        If the photo cannot be read.
    EvaluationError
        If the file or the net lacks a feature, or k is not positive.
    """
    with FeaturesFile(path) as file:
        searched, names = _choose(file, features, k, splits)
        settings = recorded_settings(file, spec, device)
        computed = compute_blobs(settings, [photo], device=device)
        query = project(computed, file.projection)
        choose_features(names, query)  # a net.toml may name fewer blobs than the file
        return _nearest(query, names, k, searched, (), progress)


def search_id(
    path: Path,
    image_id: str,
    features: Sequence[str] = (),
    k: int = 10,
    *,
    splits: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, list[Neighbour]]:
    """Find the images of a features file that are nearest to one of its own.

    The image itself is left out. Parameters and Returns are those of `search_photo`.

    Raises
    ------
    StoreError
        If the file is missing, or lacks a split or the image.
    EvaluationError
        If the file lacks a feature, or k is not positive.
    """
    with FeaturesFile(path) as file:
        searched, names = _choose(file, features, k, splits)
        for name, split in file.splits.items():
            if image_id in split.image_id:
                i = split.image_id.index(image_id)
                query = {blob: rows[i : i + 1] for blob, rows in split.blobs.items()}
                return _nearest(query, names, k, searched, (image_id,), progress)
            if image_id in split.failed_id:
                raise StoreError(
                    f"{path}: expected a row of '{image_id}', found that it could not "
                    f"be read when '{name}' was extracted; choose another image"
                )
    raise StoreError(
        f"{path}: expected an image '{image_id}', found none of that id in "
        f"{' '.join(file.splits)}; `fishing search --query` takes any image file"
    )


def _choose(
    file: FeaturesFile, features: Sequence[str], k: int, splits: Sequence[str]
) -> tuple[dict[str, Split], list[str]]:
    """Choose the splits and the features; refuse what cannot be searched."""
    if k < 1:
        raise EvaluationError(f"expected k of 1 or more, found {k}")
    searched = {name: file.split(name) for name in splits or file.splits}
    blobs = next(iter(file.splits.values())).blobs
    return searched, choose_features(features or [main_feature(blobs)], blobs)


def _nearest(
    query: Mapping[str, Rows],
    features: Sequence[str],
    k: int,
    splits: Mapping[str, Split],
    left_out: Sequence[str],
    progress: Progress,
) -> dict[str, list[Neighbour]]:
    """Find the k nearest images by each feature, reading each row once."""
    blobs = set().union(*map(feature_blobs, features))
    ours = {blob: UnitRows(query[blob], blob).checked() for blob in sorted(blobs)}
    best: dict[str, list[Neighbour]] = {feature: [] for feature in features}
    seen = set(left_out)
    for name, split in splits.items():
        for block in row_blocks(len(split)):
            grams = {}
            for blob, row in ours.items():
                theirs = UnitRows(split.blobs[blob][block], blob)
                (grams[blob],) = gram_products(theirs, row)
            ids = split.image_id[block]
            fresh = np.array([image_id not in seen for image_id in ids])
            seen.update(ids)
            for feature in features:
                similarity = feature_kernel(feature, grams)[:][0]
                order = np.argsort(-similarity, kind="stable")
                found = [
                    _neighbour(split, name, block.start + j, similarity[j])
                    for j in order[fresh[order]][:k]
                ]
                # Sorting is stable, so equal ones keep the order of the file.
                merged = sorted(best[feature] + found, key=lambda n: -n.similarity)
                best[feature] = merged[:k]
            progress(name, block.stop, len(split), "images")
    return best


def _neighbour(split: Split, name: str, i: int, similarity: float) -> Neighbour:
    positive = () if split.labels is None else np.flatnonzero(split.labels[i] > 0)
    classes = tuple(split.classes[c] for c in positive)
    return Neighbour(split.image_id[i], name, float(similarity), classes)


def format_neighbours(found: Mapping[str, Sequence[Neighbour]]) -> str:
    """Lay out what a search found, a table for each feature.

    Parameters
    ----------
    found : mapping of str to sequence of Neighbour
        By feature, as `fishing.search.search_photo` returns them.

    Returns
    -------
    str
        The tables, without a newline at their end.

    Examples
    --------
    >>> print(format_neighbours({"dW7": [Neighbour("000012", "test", 0.5, ("car",))]}))
    dW7  similarity  split  image   classes
      1      0.5000  test   000012  car
    """
    tables = []
    for feature, neighbours in found.items():
        rows = [(feature, "similarity", "split", "image", "classes")]
        for rank, n in enumerate(neighbours, start=1):
            cells = (f"{n.similarity:.4f}", n.split, n.image_id, " ".join(n.classes))
            rows.append((str(rank), *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        tables.append("\n".join(_row(row, widths) for row in rows))
    return "\n\n".join(tables)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Pad cells to the widths of their columns; the first two are set to the right."""
    return "  ".join(
        f"{cell:>{width}}" if i < 2 else f"{cell:<{width}}"
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
