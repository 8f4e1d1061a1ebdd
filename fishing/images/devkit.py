"""PASCAL VOC devkits: the list of a split and the label files of its classes.

``ImageSets/Main/<split>.txt`` lists ids, and ``ImageSets/Main/<class>_<split>.txt``
gives each of them a label: -1, 0 (difficult) or 1. The image of an id is
``JPEGImages/<id>.jpg``, or has another suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError
from fishing.images.devkit_year import devkit_name
from fishing.images.find import Finder
from fishing.images.image_list import ImageList
from fishing.images.list_files import Listed, check_classes, find_listed, read_lines

_LABELS = {"-1": -1, "0": 0, "1": 1, "+1": 1}


def is_devkit(folder: Path) -> bool:
    """Tell whether a folder has the layout of a VOC devkit."""
    return (folder / "ImageSets" / "Main").is_dir()


def photographs(devkit: Path) -> Path:
    """Name the folder of a devkit that has its images."""
    return devkit / "JPEGImages"


def devkits_below(folder: Path) -> list[Path]:
    """Find the devkits in a folder, and in its subfolders if it has none."""
    for pattern in ("*/ImageSets/Main", "*/*/ImageSets/Main"):
        found = sorted(p.parents[1] for p in folder.glob(pattern) if p.is_dir())
        if found:
            return found
    return []


def read_devkit_split(devkit: Path, split: str, finder: Finder) -> ImageList:
    """Read one split of a devkit with the labels of all its classes.

    `finder` finds the images of the devkit.
    """
    folder = devkit / "ImageSets" / "Main"
    file = folder / f"{split}.txt"
    images = find_listed(file, read_lines(file), finder)
    suffix = f"_{split}.txt"
    # A file of ids alone is the list of another split, not a class.
    files = [
        f for f in sorted(folder.glob(f"*{suffix}")) if len(read_lines(f)[0][1]) > 1
    ]
    classes = tuple(file.name.removesuffix(suffix) for file in files)
    check_classes(classes, len(images), folder)
    columns = [_read_labels(file, images, finder) for file in files]
    ids = tuple(image.id for image in images)
    return ImageList(
        split=split,
        image_id=ids,
        path=tuple(image.path for image in images),
        classes=classes,
        labels=np.stack(columns, axis=1) if columns else None,
        devkit=devkit_name(devkit, finder.names() or ids),
        failed={i: image.problem for i, image in enumerate(images) if image.problem},
    )


def _read_labels(
    file: Path, images: Sequence[Listed], finder: Finder
) -> NDArray[np.int8]:
    """Read the labels of one class, in the order of the images."""
    places = {image.id: i for i, image in enumerate(images)}
    paths = {image.path: i for i, image in enumerate(images)}
    labels: dict[int, int] = {}
    for number, fields in read_lines(file):
        if len(fields) < 2 or fields[-1] not in _LABELS:
            raise DataError(
                f"{file}, line {number}: expected 'id label' with a label of -1, 0 "
                f"or 1, found {' '.join(fields)[:200]!a}"
            )
        name, label = " ".join(fields[:-1]), _LABELS[fields[-1]]
        place = places.get(name)
        if place is None:
            found = finder(name)
            place = paths.get(found.path) if found else None
        if place is None:  # an image of another split
            continue
        if labels.setdefault(place, label) != label:
            raise DataError(
                f"{file}, line {number}: expected one label for an image, found "
                f"another for '{name}'"
            )
    missing = [image.id for i, image in enumerate(images) if i not in labels]
    if missing:
        raise DataError(
            f"{file}: expected a label for each of {len(images)} images, found none "
            f"for {len(missing)} of them, the first '{missing[0]}'"
        )
    return np.array([labels[i] for i in range(len(images))], dtype=np.int8)
