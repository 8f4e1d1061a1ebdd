"""Where the images of a features file were, in a small file beside it.

Features files hold no path, so that the same work gives the same bytes wherever it is
done. ``<features file>.images`` holds the path from its own folder to the data set.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fishing.files import read_at_most

_log = logging.getLogger(__name__)

_SUFFIX = ".images"
_MAX_BYTES = 2**14


def remember_data(features_file: Path, data: Path) -> None:
    """Remember the data set that a features file was extracted from.

    Where this cannot be written, a warning says so: nothing but pictures needs it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> remember_data(folder / "f.h5", folder / "photos")
    >>> remembered_data(folder / "f.h5").name
    'photos'
    """
    beside = _beside(features_file)
    way = relative_path(data, beside.parent)
    if remembered_data(features_file) == follow_path(way, beside.parent):
        return
    try:
        # One line is written at once; a kill leaves nothing that has to be removed.
        beside.write_text(f"{way}\n", encoding="utf-8")
    except OSError as error:
        _log.warning(
            "'%s' cannot be written: %s; name the data set with --data where images "
            "are shown",
            *(beside, error.strerror),
        )


def remembered_data(features_file: Path) -> Path | None:
    """Return the data set that is remembered; None if none is.

    The folder need not exist any more.
    """
    beside = _beside(features_file)
    try:
        way = read_at_most(beside, _MAX_BYTES).decode().removesuffix("\n")
    except (OSError, ValueError):
        return None
    return follow_path(way, beside.parent) if way and way.isprintable() else None


def relative_path(path: Path, folder: Path) -> str:
    """Write the path from a folder, which still holds after both are moved together."""
    # The parent is resolved, but not the name: a link stays one.
    target = path.parent.resolve() / path.name
    return Path(os.path.relpath(target, folder.resolve())).as_posix()


def follow_path(way: str, folder: Path) -> Path:
    """Return the path that `relative_path` wrote, without the steps up and down."""
    return Path(os.path.normpath(folder.resolve() / way))


def _beside(features_file: Path) -> Path:
    return features_file.with_name(features_file.name + _SUFFIX)
