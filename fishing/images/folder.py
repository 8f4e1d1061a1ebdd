"""Plain folders of images, which may be sorted into folders of classes.

In ``train/cat/a/1.jpg``, ``train`` is the split and ``cat`` the class; a folder of
class folders without splits is the split ``all``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError
from fishing.images.find import IMAGE_SUFFIXES, is_image_name
from fishing.images.image_list import ImageList
from fishing.images.list_files import check_classes
from fishing.images.names import MAX_CLASSES, as_id, is_class_name, why_no_id
from fishing.images.walk import Walked, walk

_log = logging.getLogger(__name__)

WHOLE_FOLDER = "all"  # the name of the split that holds all images of a folder
# If all folders have such names, they are splits and not classes.
_SPLITS = frozenset(
    (
        *("train", "training", "trainval", "val", "valid", "validation", "dev"),
        *("test", "testing", "eval"),
    )
)


def read_whole_folder(folder: Path) -> ImageList:
    """List all images of a folder as one split.

    If all of them lie in two subfolders or more, these are classes.
    """
    found = walk(folder)
    classes = _class_folders(found.images)
    if classes and {name.lower() for name in classes} <= _SPLITS:
        _log.info(
            "'%s' has the splits %s; all images are taken as one, without labels; "
            "--split takes one with its labels",
            *(folder, " ".join(classes)),
        )
        classes = ()
    elif not 2 <= len(classes) <= MAX_CLASSES:
        classes = ()
    return _as_list(folder, WHOLE_FOLDER, found, classes, "")


def read_split_folder(folder: Path, split: str) -> ImageList:
    """List all images of the subfolder of a split, whose subfolders are classes."""
    found = walk(folder / split)
    return _as_list(folder, split, found, _class_folders(found.images), f"{split}/")


def _class_folders(images: Sequence[str]) -> tuple[str, ...]:
    """Name the folders that images are sorted into; none if one is in no folder."""
    if any("/" not in name for name in images):
        return ()
    return tuple(sorted({name.partition("/")[0] for name in images}))


def _as_list(
    folder: Path, split: str, found: Walked, classes: Sequence[str], prefix: str
) -> ImageList:
    """Give everything that was found an id, a path, labels, and why it fails."""
    names = sorted({*found.images, *found.failed}, key=lambda n: PurePosixPath(n).parts)
    if not names:
        raise DataError(
            f"expected images ({' '.join(IMAGE_SUFFIXES)}) or ImageSets/Main in "
            f"'{folder / prefix}', found neither{_others(found)}"
        )
    ids: dict[str, None] = {}
    failed = {}
    for place, name in enumerate(names):
        reason = found.failed.get(name) or why_no_id(prefix + name)
        if classes and not is_class_name(name.partition("/")[0]):
            reason = reason or "its folder's name cannot be that of a class; rename it"
        if reason:
            failed[place] = reason
        image_id = as_id(prefix + name)
        while image_id in ids:  # what was escaped may be the name of another file
            image_id += "~"
        ids[image_id] = None
    classes = tuple(filter(is_class_name, classes))
    check_classes(classes, len(names), folder)
    if classes:
        _log.info(
            "split '%s': the folders of %s are its %d classes",
            *(split, " ".join(classes[:8]), len(classes)),
        )
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(folder / (prefix + name) for name in names),
        classes=classes,
        labels=_labels(names, classes) if classes else None,
        failed=failed,
        left_alone=dict(found.left_alone),
    )


def _labels(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int8]:
    """Label images by their folders; what is no image counts in no class."""
    column = {name: j for j, name in enumerate(classes)}
    labels = np.full((len(names), len(classes)), -1, np.int8)
    for i, name in enumerate(names):
        class_name, below, _ = name.partition("/")
        if not is_image_name(name):
            labels[i] = 0
        elif below and class_name in column:
            labels[i, column[class_name]] = 1
    return labels


def _others(found: Walked) -> str:
    """Say what a folder has in place of images."""
    suffixes = " ".join(suffix for suffix, _ in found.left_alone.most_common(5))
    return f"; its files are of other kinds ({suffixes})" if suffixes else ""
