"""The splits of a data set, whether it is a VOC devkit or a plain folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fishing.errors import DataError
from fishing.images.devkit import find_devkit_image, is_devkit, read_devkit_split
from fishing.images.folder import (
    find_folder_image,
    read_listed_split,
    read_whole_folder,
)
from fishing.images.image_list import ImageList, is_split_name


def read_splits(data: Path, splits: Iterable[str]) -> list[ImageList]:
    """Read the lists and labels of splits.

    Parameters
    ----------
    data : Path
        A VOC devkit such as ``VOCdevkit/VOC2007``, or a folder of images.
    splits : iterable of str
        Names of splits. For a folder of images it may be empty, which stands for all
        images of the folder.

    Returns
    -------
    list of ImageList
        One for each name, in the same order.

    Raises
    ------
    DataError
        If the folder, a list or a label file is missing or malformed, or a list names
        an image outside the folder.
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
                "expected the name of a split, of at most 100 letters, digits, '_' and "
                f"'-', found {name!a}"
            )
    if len(set(names)) < len(names):
        raise DataError(f"expected each split once, found {' '.join(names)}")
    if is_devkit(data):
        if not names:
            raise DataError(
                f"expected a split of the devkit '{data}', found none; name one, such "
                "as --split trainval"
            )
        return [read_devkit_split(data, name) for name in names]
    if not names:
        return [read_whole_folder(data)]
    return [read_listed_split(data, name) for name in names]


def find_image(data: Path, image_id: str) -> Path:
    """Return the path of an image, which need not exist, of a devkit or a folder."""
    if is_devkit(data):
        return find_devkit_image(data, image_id)
    return find_folder_image(data, image_id)
