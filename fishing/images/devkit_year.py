"""The year of a VOC devkit, which decides about its splits and its protocol.

It is told by the name of the folder as it was given, by that of the folder that it
leads to if it is a link, by ``<folder>`` in its annotations, or by ids such as
``2008_000008``, in this order.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from fishing.files import read_at_most

_log = logging.getLogger(__name__)

_NAME = re.compile(r"voc[ _-]?(20\d\d)(?!\d)", re.IGNORECASE)
_FOLDER = re.compile(rb"<folder>\s*VOC(20\d\d)\s*</folder>")
_ID = re.compile(r"(20(?:0[789]|1[0-2]))_\d{6}(?:\.[A-Za-z]+)?")
_N_ANNOTATIONS = 20
_MAX_ANNOTATION = 2**20  # bytes
FIRST_AREA_YEAR = 2010  # from which VOC measures average precision as an area


def devkit_name(devkit: Path, images: Iterable[str]) -> str:
    """Name a devkit by its year, such as ``VOC2007``; return "" if nothing tells it.

    `images` are the ids or the names of the files of all its images. Unless the name
    as given is the year's, what was decided is logged, with what tells it. If something
    else contradicts it, that is a warning.
    """
    years = _years(devkit, images)
    if not years:
        _log.info(
            "%s: its year is unknown; it is measured like VOC 2007 unless --protocol "
            "says otherwise",
            devkit,
        )
        return ""
    how, year = next(iter(years.items()))
    if devkit.name != f"VOC{year}":  # else the user has said it
        _log.info("%s: VOC%d, by %s", devkit, year, how)
    for other, found in years.items():
        if (found >= FIRST_AREA_YEAR) != (year >= FIRST_AREA_YEAR):
            _log.warning(
                "%s: VOC%d by %s, but VOC%d by %s; rename it, or name its splits and "
                "its --protocol",
                *(devkit, year, how, found, other),
            )
    return f"VOC{year}"


def year_of_devkit(devkit: Path) -> int:
    """Return the year of a devkit; 0 if nothing tells it."""
    try:
        images = os.listdir(devkit / "JPEGImages")
    except OSError:
        images = []
    return next(iter(_years(devkit, images).values()), 0)


def year_of_ids(images: Iterable[str]) -> int:
    """Return the latest year in ids like ``2008_000008``; 0 if others are among them.

    Examples
    --------
    >>> year_of_ids(["2008_000008", "2011_003276.jpg"]), year_of_ids(["000005"])
    (2011, 0)
    """
    latest = 0
    for name in images:
        match = _ID.fullmatch(name)
        if match is None:
            return 0
        latest = max(latest, int(match[1]))
    return latest


def year_of_name(devkit: str) -> int:
    """Return the year in a name such as ``VOC2012``; 0 if there is none."""
    match = _NAME.search(devkit)
    return int(match[1]) if match else 0


def _years(devkit: Path, images: Iterable[str]) -> dict[str, int]:
    """Look for the year in all places that may tell it, the most telling first."""
    given, real = os.path.abspath(devkit), os.path.realpath(devkit)
    told = {
        f"the name of '{given}'": _in_name(given),
        f"the name of '{real}', where it leads": _in_name(real),
        "the <folder> of its annotations": _in_annotations(devkit / "Annotations"),
        "the ids of its images": year_of_ids(images),
    }
    return {how: year for how, year in told.items() if year}


def _in_name(path: str) -> int:
    return year_of_name(os.path.basename(path))


def _in_annotations(folder: Path) -> int:
    """Look for the year in some annotations, the last of which are the latest."""
    try:
        with os.scandir(folder) as entries:
            some = [Path(e.path) for e in islice(entries, _N_ANNOTATIONS)]
    except OSError:
        return 0
    years = [0]
    for file in sorted(some):
        try:
            match = _FOLDER.search(read_at_most(file, _MAX_ANNOTATION))
        except (OSError, ValueError):
            continue
        years += [int(match[1])] if match else []
    return max(years)
