"""Read the splits of any data set: a devkit or a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fishing.errors import DataError
from fishing.images.devkit import read_voc, voc_image
from fishing.images.folder import find_folder_image, read_folder, read_list
from fishing.images.image_list import ImageList, is_split_name


def read_splits(data: Path, splits: Iterable[str]) -> list[ImageList]:
    """Read the splits of a devkit or a folder of images.

    Parameters
    ----------
    data : Path
        A VOC devkit such as ``VOCdevkit/VOC2007``, or a folder of images.
    splits : iterable of str
        Names of splits. None at all, for a folder of images, means all its images.

    Returns
    -------
    list of ImageList
        One for each name, in the same order.

    Raises
    ------
    DataError
        If the folder, a list or a label file is missing, malformed, or names an
        image outside the folder.
    """
    names = list(splits)
    if not data.is_dir():
        raise DataError(
            f"expected a folder of images at '{data}', found none; "
            "name one with --data or FISHING_VOC"
        )
    for name in names:
        if not is_split_name(name):
            raise DataError(
                "a split is named by at most 100 letters, digits, '_' and '-', "
                f"not {name!a}"
            )
    if len(set(names)) < len(names):
        raise DataError(f"each split may be named once, found {' '.join(names)}")
    if (data / "ImageSets" / "Main").is_dir():
        if not names:
            raise DataError(
                f"'{data}' is a devkit: name a split of it, such as --split trainval"
            )
        return [read_voc(data, name) for name in names]
    if not names:
        return [read_folder(data)]
    return [read_list(data, name) for name in names]


def find_image(data: Path, image_id: str) -> Path:
    """Name the file of an image of a devkit or of a folder of images.

    Whether there is one shows when it is read.
    """
    if (data / "ImageSets" / "Main").is_dir():
        return voc_image(data, image_id)
    return find_folder_image(data, image_id)
