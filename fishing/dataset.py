"""Image lists and labels: what goes in is a folder, what comes out an `ImageList`.

Two layouts are read. A PASCAL VOC devkit (`JPEGImages`, `ImageSets/Main`) has splits
that are named by files; label files give every image -1, 0 (difficult) or 1 for every
class. Any other folder is taken as it is: a split is a list file `<split>.txt` in it
with lines `id` or `id label...`, or, without a split, all images of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
WHOLE_FOLDER = "all"
MAX_CLASSES = 4000  # as many names as an attribute of HDF5 holds
MAX_CLASS_BYTES = 200  # of a name that becomes part of a file name
MAX_ID_BYTES = 1000
MAX_LIST_BYTES = 2**28  # of a list or label file: some ten million lines
MAX_LABELS = 2**32  # images times classes
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_DEVKIT_NAME = re.compile(r"VOC\d{4}")


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
        return [_read_voc(data, name) for name in names]
    if not names:
        return [_read_folder(data)]
    return [_read_list(data, name) for name in names]


def find_image(data: Path, image_id: str) -> Path:
    """Name the file of an image of a devkit or of a folder of images.

    Whether there is one shows when it is read.
    """
    if (data / "ImageSets" / "Main").is_dir():
        return _voc_image(data, image_id)
    return _find_image(data, image_id)


def _voc_image(devkit: Path, image_id: str) -> Path:
    return devkit / "JPEGImages" / f"{image_id}.jpg"


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


def _read_voc(devkit: Path, split: str) -> ImageList:
    """Read one split of a VOC devkit with the labels of all its classes."""
    folder = devkit / "ImageSets" / "Main"
    ids = [fields[0] for _, fields in _lines(folder / f"{split}.txt")]
    _check_ids(ids, folder / f"{split}.txt")
    suffix = f"_{split}.txt"
    # A file of ids alone is the list of another split, not a class.
    files = [f for f in sorted(folder.glob(f"*{suffix}")) if len(_lines(f)[0][1]) > 1]
    classes = tuple(file.name.removesuffix(suffix) for file in files)
    _check_classes(classes, len(ids), folder)
    columns = [_read_voc_labels(file, ids) for file in files]
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(_voc_image(devkit, i) for i in ids),
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
    for number, fields in _lines(file):
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


def _read_list(folder: Path, split: str) -> ImageList:
    """Read a list file with lines ``id`` or ``id label...``."""
    file = folder / f"{split}.txt"
    entries = [(fields[0], fields[1:]) for _, fields in _lines(file)]
    ids = [image_id for image_id, _ in entries]
    _check_ids(ids, file)
    classes = sorted({label for _, labels in entries for label in labels})
    _check_classes(classes, len(ids), file)
    matrix = np.full((len(ids), len(classes)), -1, np.int8)
    column = {name: j for j, name in enumerate(classes)}
    for i, (_, labels) in enumerate(entries):
        matrix[i, [column[label] for label in labels]] = 1
    return ImageList(
        split=split,
        image_id=tuple(ids),
        path=tuple(_find_image(folder, i) for i in ids),
        classes=tuple(classes),
        labels=matrix if classes else None,
    )


def _read_folder(folder: Path) -> ImageList:
    """Take all images of a folder and of those in it, sorted by name."""
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
    _check_ids(ids, folder)
    return ImageList(split=WHOLE_FOLDER, image_id=tuple(ids), path=tuple(paths))


def _find_image(folder: Path, image_id: str) -> Path:
    """Find the file of an id that may lack its suffix."""
    exact = folder / image_id
    if exact.suffix.lower() in IMAGE_SUFFIXES:
        return exact
    for suffix in IMAGE_SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            candidate = folder / f"{image_id}{spelling}"
            if os.path.isfile(candidate):
                return candidate
    return folder / f"{image_id}{IMAGE_SUFFIXES[0]}"


def _lines(file: Path) -> list[tuple[int, list[str]]]:
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


def read_at_most(file: Path, n_bytes: int) -> bytes:
    """Read a file, unless it is none or has no end; a ValueError says so."""
    if file.exists() and not file.is_file():
        raise ValueError("none that can be read to its end")
    with file.open("rb") as source:
        content = source.read(n_bytes + 1)
    if len(content) > n_bytes:
        raise ValueError(f"more than {n_bytes} bytes")
    return content


def _lists_beside(file: Path) -> str:
    """Say which splits there are, for the message that one is not there."""
    names = [
        p.stem
        for p in sorted(file.parent.glob("*.txt"))
        if p.parent.name != "Main" or "_" not in p.stem
    ]
    return f"there are: {' '.join(names[:20])}" if names else ""


def _check_ids(ids: list[str], file: Path) -> None:
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


def _check_classes(classes: Sequence[str], n_images: int, file: Path) -> None:
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
