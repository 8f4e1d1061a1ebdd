"""PASCAL VOC devkits: image lists and label files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError
from fishing.images.image_list import ImageList, check_classes, check_ids, read_lines

_DEVKIT_NAME = re.compile(r"VOC\d{4}")


def voc_image(devkit: Path, image_id: str) -> Path:
    """Name the file of an image of a devkit."""
    return devkit / "JPEGImages" / f"{image_id}.jpg"


def read_voc(devkit: Path, split: str) -> ImageList:
    """Read one split of a VOC devkit with the labels of all its classes."""
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
    columns = [_read_voc_labels(file, ids) for file in files]
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(voc_image(devkit, i) for i in ids),
        classes=classes,
        labels=np.stack(columns, axis=1) if columns else None,
        devkit=devkit.resolve().name
        if _DEVKIT_NAME.fullmatch(devkit.resolve().name)
        else "",
    )


def _read_voc_labels(file: Path, ids: list[str]) -> NDArray[np.int8]:
    """Read the column of one class, in the order of `ids`."""
    values = {"-1": -1, "0": 0, "1": 1}
    labels: dict[str, int] = {}
    for number, fields in read_lines(file):
        if len(fields) != 2 or fields[1] not in values:
            raise DataError(
                f"{file}, line {number}: expected 'id label' with a label of -1, 0 "
                f"or 1, found {' '.join(fields)[:200]!a}"
            )
        label = values[fields[1]]
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
