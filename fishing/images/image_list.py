"""The images of one split, and the names that splits and classes may have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 4000  # more names might not fit into an attribute of HDF5
MAX_CLASS_BYTES = 200  # the name of a class becomes part of a file name
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
        The image files, none of which has been read yet.
    classes : tuple of str, length n_classes
        Empty if there are no labels.
    labels : ndarray of int8, shape (n, n_classes), or None
        1 for a positive, -1 for a negative, 0 for difficult (neither).
    devkit : str
        Name of the devkit, such as ``VOC2007``, if the folder has one; else empty.
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
        """SHA-256 of the ids, classes and labels, by which lists are compared."""
        digest = hashlib.sha256(json.dumps([self.image_id, self.classes]).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


def is_split_name(name: str) -> bool:
    """Tell whether a split may have this name."""
    return _SPLIT_NAME.fullmatch(name) is not None


def check_class_names(classes: Sequence[str], where: object) -> None:
    """Check that files can be named after all classes.

    Parameters
    ----------
    classes : sequence of str
    where : object
        The file or split that names them, for the message.

    Raises
    ------
    ValueError
        If there are too many classes, or a name is unsuitable or occurs twice.
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
