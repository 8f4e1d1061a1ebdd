"""Splits that a list names, ``<split>.txt`` or ``<split>.csv`` in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fishing.images.find import Finder
from fishing.images.image_list import ImageList
from fishing.images.list_files import check_classes, find_listed


def read_listed_split(
    file: Path, lines: Sequence[tuple[int, Sequence[str]]], split: str, finder: Finder
) -> ImageList:
    """Read a split from the lines ``name label...`` of a list."""
    images = find_listed(file, lines, finder)
    classes = sorted({label for image in images for label in image.labels})
    check_classes(classes, len(images), file)
    matrix = np.full((len(images), len(classes)), -1, np.int8)
    column = {name: j for j, name in enumerate(classes)}
    for i, image in enumerate(images):
        matrix[i, [column[label] for label in image.labels]] = 1
    return ImageList(
        split=split,
        image_id=tuple(image.id for image in images),
        path=tuple(image.path for image in images),
        classes=tuple(classes),
        labels=matrix if classes else None,
        failed={i: image.problem for i, image in enumerate(images) if image.problem},
    )
