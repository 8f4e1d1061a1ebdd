"""Image lists and labels: what goes in is a folder, what comes out an `ImageList`.

Two layouts are read. A PASCAL VOC devkit (`JPEGImages`, `ImageSets/Main`) has splits
that are named by files; label files give every image -1, 0 (difficult) or 1 for every
class. Any other folder is taken as it is: a split is a list file `<split>.txt` in it
with lines `id` or `id label...`, or, without a split, all images of the folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError
from fishing.files import read_at_most

MAX_CLASSES = 4000  # as many names as an attribute of HDF5 holds
MAX_CLASS_BYTES = 200  # of a name that becomes part of a file name
MAX_ID_BYTES = 1000
MAX_LIST_BYTES = 2**28  # of a list or label file: some ten million lines
MAX_LABELS = 2**32  # images times classes
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class ImageList:
    """The images of one split, in the order of its list.

    Attributes
    ----------
    split : str
        Name of the split, such as ``trainval``.
    image_id : tuple of str, length n
    path : tuple of Path, length n
        The image files; whether they can be read shows when they are.
    classes : tuple of str, length n_classes
        Empty where there are no labels.
    labels : ndarray of int8, shape (n, n_classes), or None
        1 positive, -1 negative, 0 difficult (neither).
    devkit : str
        ``VOC2007`` and the like where the folder is named so, else empty.
    """

    split: str
    image_id: tuple[str, ...]
    path: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: NDArray[np.int8] | None = None
    devkit: str = ""

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def sha256(self) -> str:
        """SHA-256 over ids, classes and labels: equal for equal lists only."""
        digest = hashlib.sha256(json.dumps([self.image_id, self.classes]).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


def is_split_name(name: str) -> bool:
    """Tell whether a split may be named so."""
    return _SPLIT_NAME.fullmatch(name) is not None


def check_class_names(classes: Sequence[str], where: object) -> None:
    """Hold names of classes to be such that files can be named by them.

    Raises
    ------
    ValueError
        If there are too many, or one of them is none.
    """
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{where}: expected lines 'id label...' with at most {MAX_CLASSES} "
            f"classes, found {len(classes)}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"{where}: expected each class once, found one twice")
    for name in classes:
        if (
            not name
            or not name.isprintable()
            or "/" in name
            or len(name.encode()) > MAX_CLASS_BYTES
        ):
            raise ValueError(
                f"{where}: expected names of classes without '/', of 1 to "
                f"{MAX_CLASS_BYTES} bytes, found {name[:300]!a}"
            )


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Read the fields of all lines that are not blank, with the lines' numbers."""
    try:
        text = read_at_most(file, MAX_LIST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"expected the list '{file}', found none; "
            f"{_lists_beside(file) or 'there is no list beside it'}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a text file, found {error}") from None
    lines = enumerate((line.split() for line in text.splitlines()), start=1)
    fields = [(number, line) for number, line in lines if line]
    if not fields:
        raise DataError(f"{file}: expected one image a line, found no line")
    return fields


def _lists_beside(file: Path) -> str:
    """Say which splits there are, for the message that one is not there."""
    names = [
        p.stem
        for p in sorted(file.parent.glob("*.txt"))
        if p.parent.name != "Main" or "_" not in p.stem
    ]
    return f"there are: {' '.join(names[:20])}" if names else ""


def check_ids(ids: list[str], file: Path) -> None:
    """Refuse ids that occur twice, lead out of the folder, or name no file."""
    seen = set()
    for image_id in ids:
        parts = PurePosixPath(image_id)
        if (
            parts.is_absolute()
            or ".." in parts.parts
            or not parts.name
            or not image_id.isprintable()
            or len(image_id.encode()) > MAX_ID_BYTES
        ):
            raise DataError(
                f"{file}: expected printable ids below the folder of the images, of at "
                f"most {MAX_ID_BYTES} bytes, found {image_id[:200]!a}"
            )
        if image_id in seen:
            raise DataError(f"{file}: expected each id once, found '{image_id}' twice")
        seen.add(image_id)


def check_classes(classes: Sequence[str], n_images: int, file: Path) -> None:
    """Refuse classes that results could not be named by, or too many of them."""
    try:
        check_class_names(classes, file)
    except ValueError as error:
        raise DataError(str(error)) from None
    if n_images * len(classes) > MAX_LABELS:
        raise DataError(
            f"{file}: expected at most {MAX_LABELS} labels, found {n_images} images "
            f"in {len(classes)} classes"
        )
