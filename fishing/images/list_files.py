"""Text files that list images, one a line, are read and checked."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fishing.errors import DataError
from fishing.files import read_at_most
from fishing.images.find import Finder, Found
from fishing.images.names import as_id, check_class_names, why_no_id

MAX_LIST_BYTES = 2**28  # some ten million lines
MAX_LABELS = 2**32  # images times classes
# A field of a line without tabs: in quotes, or without spaces.
_FIELD = re.compile(r""""([^"]*)"(?= |$)|'([^']*)'(?= |$)|([^ ]+)""")

_log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """An image of a list, with all its labels, and why it fails ("" if it does not)."""

    id: str
    path: Path
    labels: list[str]
    problem: str


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, in UTF-16 with a byte order mark, or in Windows-1252.

    Raises
    ------
    DataError
        If there is none, or it is too long or no text.
    """
    try:
        content = read_at_most(file, MAX_LIST_BYTES)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            if b"\0" in content:
                raise
            text = content.decode("cp1252")
            _log.warning("%s is not in UTF-8; read as Windows-1252", file)
            return text
    except FileNotFoundError:
        raise DataError(
            f"expected the list '{file}', found none; "
            f"{_lists_beside(file) or 'there is no list beside it'}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a text file, found {error}") from None


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Split the lines that are not blank into fields; number them from 1.

    Fields are separated by tabs if a line has one, else by spaces; a field with spaces
    may stand in quotes.
    """
    lines = enumerate(re.split("\r\n|\r|\n", read_text(file)), start=1)
    fields = [(n, parts) for n, line in lines if (parts := _fields(line))]
    if not fields:
        raise DataError(f"{file}: expected one image a line, found no line")
    return fields


def find_listed(
    file: Path, lines: Iterable[tuple[int, Sequence[str]]], finder: Finder
) -> list[Listed]:
    """Find the image of each line ``name label...``; several lines may name the same.

    Raises
    ------
    DataError
        If a name leads out of the folder of the images.
    """
    images: dict[Path, Listed] = {}
    ids: set[str] = set()
    repeated, respelled = [], []
    for number, (name, *labels) in lines:
        found, labels = _find(file, number, name, labels, finder)
        if found.how:
            respelled.append(f"'{found.how}' for '{found.id}'")
        if found.path in images:
            repeated.append(found.id)
            images[found.path].labels.extend(labels)
            continue
        problem = why_no_id(found.id)
        if not found.exists and found.problem:
            problem = problem or f"No such file; {found.problem}"
        image_id = as_id(found.id)
        while image_id in ids:  # what was escaped may be another name
            image_id += "~"
        ids.add(image_id)
        images[found.path] = Listed(image_id, found.path, labels, problem)
    if repeated:
        _log.info(
            "%s: lines that name an image again: %d, such as '%s'; it is taken once, "
            "with the labels of all its lines",
            *(file, len(repeated), repeated[0]),
        )
    if respelled:
        _log.info(
            "%s: names that are spelled in another way on the disk: %d, such as %s",
            *(file, len(respelled), respelled[0]),
        )
    return list(images.values())


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


def _fields(line: str) -> list[str]:
    """Split a line into fields."""
    line = line.strip(" \t")
    if "\t" in line:
        parts = [part.strip(" ") for part in line.split("\t")]
        return [_FIELD.sub(_unquoted, p) if p[0] in "\"'" else p for p in parts if p]
    if '"' in line or "'" in line:
        return [_unquoted(field) for field in _FIELD.finditer(line)]
    return [part for part in line.split(" ") if part]


def _unquoted(field: re.Match[str]) -> str:
    return next((text for text in field.groups() if text is not None), "")


def _find(
    file: Path, number: int, name: str, labels: list[str], finder: Finder
) -> tuple[Found, list[str]]:
    """Find the image of a line, whose name may have spaces without quotes."""
    found = finder(name)
    if found is None:
        raise DataError(
            f"{file}, line {number}: expected the path of an image below the folder of "
            f"the images, found {name[:200]!a}; name the folder with --data"
        )
    if not found.exists:
        for n in range(len(labels), 0, -1):
            spaced = finder(" ".join((name, *labels[:n])))
            if spaced is not None and spaced.exists:
                return spaced, labels[n:]
    return found, labels


def _lists_beside(file: Path) -> str:
    """Name the splits that have a list in the same folder."""
    names = [
        p.stem
        for p in sorted(file.parent.glob("*.txt"))
        if p.parent.name != "Main" or "_" not in p.stem  # labels of a class
    ]
    return f"there are: {' '.join(names[:20])}" if names else ""
