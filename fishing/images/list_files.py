"""Text files that list images, one a line, are read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fishing.errors import DataError
from fishing.files import read_at_most
from fishing.images.image_list import check_class_names

MAX_ID_BYTES = 1000
MAX_LIST_BYTES = 2**28  # some ten million lines
MAX_LABELS = 2**32  # images times classes


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Split the lines that are not blank into fields; number them from 1."""
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


def check_ids(ids: Sequence[str], file: Path) -> None:
    """Refuse ids that occur twice, lead out of the folder, or name no file."""
    seen = set()
    for image_id in ids:
        if not _is_id(image_id):
            raise DataError(
                f"{file}: expected printable ids below the folder of the images, of at "
                f"most {MAX_ID_BYTES} bytes, found {image_id[:200]!a}"
            )
        if image_id in seen:
            raise DataError(f"{file}: expected each id once, found '{image_id}' twice")
        seen.add(image_id)


def check_classes(classes: Sequence[str], n_images: int, file: Path) -> None:
    """Refuse classes that no file can be named after, and too many labels."""
    try:
        check_class_names(classes, file)
    except ValueError as error:
        raise DataError(str(error)) from None
    if n_images * len(classes) > MAX_LABELS:
        raise DataError(
            f"{file}: expected at most {MAX_LABELS} labels, found {n_images} images "
            f"in {len(classes)} classes"
        )


def _lists_beside(file: Path) -> str:
    """Name the splits that have a list in the same folder."""
    names = [
        p.stem
        for p in sorted(file.parent.glob("*.txt"))
        if p.parent.name != "Main" or "_" not in p.stem  # labels of a class
    ]
    return f"there are: {' '.join(names[:20])}" if names else ""


def _is_id(text: str) -> bool:
    path = PurePosixPath(text)
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and text.isprintable()
        and len(text.encode()) <= MAX_ID_BYTES
    )
