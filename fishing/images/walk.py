"""All images below a folder, what of it cannot be read, and what is left alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fishing.errors import DataError, one_line, printable
from fishing.images.find import is_image_name

_log = logging.getLogger(__name__)

# What systems and programs leave behind in folders, in lower case. Whatever begins with
# a dot is hidden, and no data either.
_LITTER = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin"),
        *("system volume information", "recycler", "lost+found", "__macosx"),
        *("__pycache__", "@eadir", "@recycle", "@recently-snapshot", "#recycle"),
        *("#snapshot", "@tmp", "@sharebin", "@__thumb"),
    )
)


@dataclass(frozen=True)
class Walked:
    """What is below a folder, by paths relative to it.

    `failed` has the reasons why images or folders cannot be read, and `left_alone`
    counts the files that are no images by their suffixes.
    """

    images: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_alone: Counter[str] = field(default_factory=Counter)


def walk(folder: Path) -> Walked:
    """Find all images of a folder and of its subfolders, through links too.

    A folder is not entered again from within itself. Hidden files, and those that
    systems leave behind, do not count. Raises a DataError if the folder itself cannot
    be entered.
    """
    found, links = Walked(), []
    root = (folder, "", frozenset({_identity(os.stat(folder))}))
    waiting = [root]
    while waiting:
        path, name, above = waiting.pop()
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            if not name:
                raise DataError(
                    f"expected a folder of images at '{folder}', found: "
                    f"{one_line(error)}; name another"
                ) from None
            found.failed[name] = f"folder not entered: {one_line(error)}"
            continue
        for entry in entries:
            if is_litter(entry.name):
                continue
            below = f"{name}/{entry.name}" if name else entry.name
            if not _is_folder(entry, below, found):
                continue
            identity = _identity(entry.stat())
            if identity in above:
                _log.info(
                    "%s: a link back to its own folder, not followed",
                    printable(entry.path),
                )
                continue
            if entry.is_symlink():
                links.append(f"{entry.path} -> {os.path.realpath(entry.path)}")
            waiting.append((Path(entry.path), below, above | {identity}))
    if links:
        _log.info(
            "%d linked folder%s followed, such as %s",
            *(len(links), " was" if len(links) == 1 else "s were"),
            printable(min(links)),
        )
    found.images.sort(key=lambda name: PurePosixPath(name).parts)
    return found


def find_photos(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Find the image files that paths stand for: the files, and all images of folders.

    Parameters
    ----------
    paths : sequence of Path
        A file counts whatever its suffix is, and a folder with its subfolders.

    Returns
    -------
    photos : list of Path
        Each once, in the order of the paths; none of them has been read yet.
    failed : dict of Path to str
        What is known to be unreadable, such as a folder, and why.

    Raises
    ------
    DataError
        If a folder of the paths cannot be entered.
    """
    photos: dict[Path, None] = {}
    failed: dict[Path, str] = {}
    for path in paths:
        if not os.path.isdir(path):  # which raises no error
            photos[path] = None
            continue
        found = walk(path)
        photos.update(dict.fromkeys(path / name for name in found.images))
        failed.update({path / name: why for name, why in found.failed.items()})
        if n := found.left_alone.total():
            where = printable(str(path))
            _log.info("%d files in '%s' are no images; left alone", n, where)
    return list(photos), failed


def is_litter(name: str) -> bool:
    """Tell whether a name is hidden, or one that a system leaves behind."""
    return name.startswith(".") or name.lower() in _LITTER


def _is_folder(entry: os.DirEntry[str], below: str, found: Walked) -> bool:
    """Tell whether an entry is a folder to enter; note whatever else it is."""
    try:
        if entry.is_dir():
            return True
        entry.stat()
    except OSError as error:
        what = "a link that leads nowhere" if entry.is_symlink() else "not entered"
        found.failed[below] = f"{what}: {one_line(error)}"
        return False
    if is_image_name(entry.name):
        found.images.append(below)
    else:
        suffix = os.path.splitext(entry.name)[1].lower()
        found.left_alone[suffix or "no suffix"] += 1
    return False


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
