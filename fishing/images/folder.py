"""Plain folders of images, with or without list files ``<split>.txt``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fishing.errors import DataError
from fishing.images.image_list import ImageList
from fishing.images.list_files import check_classes, check_ids, read_lines

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
WHOLE_FOLDER = "all"  # the name of the split that holds all images of a folder


def read_listed_split(folder: Path, split: str) -> ImageList:
    """Read a list file with lines ``id`` or ``id label...``."""
    file = folder / f"{split}.txt"
    entries = [(fields[0], fields[1:]) for _, fields in read_lines(file)]
    ids = [image_id for image_id, _ in entries]
    check_ids(ids, file)
    classes = sorted({label for _, labels in entries for label in labels})
    check_classes(classes, len(ids), file)
    matrix = np.full((len(ids), len(classes)), -1, np.int8)
    column = {name: j for j, name in enumerate(classes)}
    for i, (_, labels) in enumerate(entries):
        matrix[i, [column[label] for label in labels]] = 1
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(find_folder_image(folder, i) for i in ids),
        classes=tuple(classes),
        labels=matrix if classes else None,
    )


def read_whole_folder(folder: Path) -> ImageList:
    """List all images of a folder and of its subfolders, sorted by path."""
    paths = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )
    if not paths:
        raise DataError(
            f"expected images ({' '.join(IMAGE_SUFFIXES)}) or ImageSets/Main in "
            f"'{folder}', found neither"
        )
    ids = [p.relative_to(folder).as_posix() for p in paths]
    check_ids(ids, folder)
    return ImageList(split=WHOLE_FOLDER, image_id=tuple(ids), path=tuple(paths))


def find_folder_image(folder: Path, image_id: str) -> Path:
    """Find the file of an id, which may lack its suffix.

    The path that is returned need not exist; reading it then names the error.
    """
    exact = folder / image_id
    if exact.suffix.lower() in IMAGE_SUFFIXES:
        return exact
    for suffix in IMAGE_SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            candidate = folder / f"{image_id}{spelling}"
            if os.path.isfile(candidate):  # False where the name is too long
                return candidate
    return folder / f"{image_id}{IMAGE_SUFFIXES[0]}"
