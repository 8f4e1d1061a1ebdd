"""PASCAL VOC devkits: the list of a split and the label files of its classes.

``ImageSets/Main/<split>.txt`` lists ids, and ``ImageSets/Main/<class>_<split>.txt``
gives each of them a label: -1, 0 (difficult) or 1. The image of an id is
``JPEGImages/<id>.jpg``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError
from fishing.images.image_list import ImageList
from fishing.images.list_files import check_classes, check_ids, read_lines

_LABELS = {"-1": -1, "0": 0, "1": 1}


def is_devkit(folder: Path) -> bool:
    """Tell whether a folder has the layout of a VOC devkit."""
    return (folder / "ImageSets" / "Main").is_dir()


def read_devkit_split(devkit: Path, split: str) -> ImageList:
    """Read one split of a devkit with the labels of all its classes."""
    folder = devkit / "ImageSets" / "Main"
    ids = [fields[0] for _, fields in read_lines(folder / f"{split}.txt")]
    check_ids(ids, folder / f"{split}.txt")
    suffix = f"_{split}.txt"
    # A file of ids alone is the list of another split, not a class.
    files = [
        f for f in sorted(folder.glob(f"*{suffix}")) if len(read_lines(f)[0][1]) > 1
    ]
    classes = tuple(file.name.removesuffix(suffix) for file in files)
    check_classes(classes, len(ids), folder)
    columns = [_read_labels(file, ids) for file in files]
    name = devkit.resolve().name
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(find_devkit_image(devkit, i) for i in ids),
        classes=classes,
        labels=np.stack(columns, axis=1) if columns else None,
        devkit=name if re.fullmatch(r"VOC\d{4}", name) else "",
    )


def find_devkit_image(devkit: Path, image_id: str) -> Path:
    """Return the path of an image of a devkit."""
    return devkit / "JPEGImages" / f"{image_id}.jpg"


def _read_labels(file: Path, ids: Sequence[str]) -> NDArray[np.int8]:
    """Read the labels of one class, in the order of `ids`."""
    labels: dict[str, int] = {}
    for number, fields in read_lines(file):
        if len(fields) != 2 or fields[1] not in _LABELS:
            raise DataError(
                f"{file}, line {number}: expected 'id label' with a label of -1, 0 "
                f"or 1, found {' '.join(fields)[:200]!a}"
            )
        label = _LABELS[fields[1]]
        if labels.setdefault(fields[0], label) != label:
            raise DataError(
                f"{file}, line {number}: expected one label for an image, found "
                f"another for '{fields[0]}'"
            )
    missing = [i for i in ids if i not in labels]
    if missing:
        raise DataError(
            f"{file}: expected a label for each of {len(ids)} images, found none for "
            f"{len(missing)} of them, the first '{missing[0]}'"
        )
    return np.array([labels[i] for i in ids], dtype=np.int8)
