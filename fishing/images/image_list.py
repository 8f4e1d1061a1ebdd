"""The images of one split, their labels, and those that cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
        Name of the devkit, such as ``VOC2007``, if its year is known; else empty.
    failed : mapping of int to str
        By their places in the list, images of which it is known before they are read
        that they cannot be, with the reasons. A folder that cannot be entered counts as
        such an image.
    left_alone : mapping of str to int
        How many files of the folder are no images, by their suffixes.
    """

    split: str
    image_id: tuple[str, ...]
    path: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: NDArray[np.int8] | None = None
    devkit: str = ""
    failed: Mapping[int, str] = field(default_factory=dict)
    left_alone: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def sha256(self) -> str:
        """SHA-256 of the ids, classes and labels, by which lists are compared."""
        digest = hashlib.sha256(json.dumps([self.image_id, self.classes]).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()
