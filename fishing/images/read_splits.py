"""The splits of a data set: a VOC devkit, lists, or folders of images and classes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fishing.errors import DataError
from fishing.images.csv_file import read_csv
from fishing.images.devkit import (
    devkits_below,
    is_devkit,
    photographs,
    read_devkit_split,
)
from fishing.images.find import Finder
from fishing.images.folder import WHOLE_FOLDER, read_split_folder, read_whole_folder
from fishing.images.image_list import ImageList
from fishing.images.list_files import read_lines
from fishing.images.listed import read_listed_split
from fishing.images.names import is_split_name
from fishing.images.walk import is_litter


def read_splits(data: Path, splits: Iterable[str]) -> list[ImageList]:
    """Read the lists and labels of splits.

    What is decided on the way, such as the year of a devkit, is logged.

    Parameters
    ----------
    data : Path
        A VOC devkit such as ``VOCdevkit/VOC2007``, or a folder of images. There a split
        is a list ``<split>.txt`` or ``<split>.csv``, or else a subfolder, whose own
        subfolders are classes.
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
    data = Path(os.path.expanduser(data))
    if not os.path.isdir(data):  # which raises no error
        raise DataError(
            f"expected a folder of images at '{data}', found "
            f"{'a file' if os.path.exists(data) else 'none'}; name one with --data or "
            "FISHING_VOC"
        )
    for name in names:
        if not is_split_name(name):
            raise DataError(
                "expected the name of a split, of at most 100 bytes, without '/' and "
                f"control characters, found {name!a}"
            )
    if len(set(names)) < len(names):
        raise DataError(f"expected each split once, found {' '.join(names)}")
    if is_devkit(data):
        if not names:
            raise DataError(
                f"expected a split of the devkit '{data}', found none; name one, such "
                "as --split trainval"
            )
        finder = Finder(photographs(data))
        return [read_devkit_split(data, name, finder) for name in names]
    below = devkits_below(data)
    if below:
        raise DataError(
            f"expected a devkit or a folder of images, found that '{data}' is the "
            f"folder above {' '.join(p.name for p in below[:5])}; name one of them, "
            f"such as --data '{below[0]}'"
        )
    if not names:
        return [read_whole_folder(data)]
    finder = Finder(data)
    return [_read_split(data, name, finder) for name in names]


def find_image(data: Path, image_id: str) -> Path:
    """Return the path of an image, which need not exist, of a devkit or a folder.

    Raises a DataError if the id leads out of the folder.
    """
    data = Path(os.path.expanduser(data))
    found = Finder(photographs(data) if is_devkit(data) else data)(image_id)
    if found is None:
        raise DataError(
            f"expected the id of an image below '{data}', found {image_id[:200]!a}; "
            "name another --data"
        )
    return found.path


def _read_split(data: Path, split: str, finder: Finder) -> ImageList:
    """Read a split of a folder of images from its list, or from its subfolder."""
    for suffix, read in ((".txt", read_lines), (".csv", read_csv)):
        file = data / f"{split}{suffix}"
        if os.path.lexists(file):
            return read_listed_split(file, read(file), split, finder)
    if (data / split).is_dir():
        return read_split_folder(data, split)
    if split == WHOLE_FOLDER:
        return read_whole_folder(data)
    there = _splits(data)
    above = [p for p in Path(os.path.abspath(data)).parents[:2] if is_devkit(p)]
    raise DataError(
        f"expected the list '{data / split}.txt' or .csv, or the folder "
        f"'{data / split}', found none; "
        + (
            f"name the devkit, --data '{above[0]}'"
            if above
            else f"there are: {' '.join(there[:20])}"
            if there
            else "there is no list beside it"
        )
    )


def _splits(data: Path) -> list[str]:
    """Name what may be a split of a folder of images."""
    return sorted(
        p.name if p.is_dir() else p.stem
        for p in data.iterdir()
        if not is_litter(p.name) and (p.suffix in (".txt", ".csv") or p.is_dir())
    )
