"""Finds the file that a list means by a name: one rule for all lists and devkits.

A name may be spelled as on the disk, or lack the suffix, or differ in what systems
change on the way: the case, the form of accented letters (NFC on most systems, NFD on
macOS), the backslash of Windows, or bytes in Windows-1252. Each folder is listed once.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Suffixes of the formats that OpenCV decodes, the commonest first.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    *(".pbm", ".pnm", ".gif", ".jpe", ".jfif", ".jif", ".mpo", ".avif", ".jp2"),
    *(".j2k", ".j2c", ".jpc", ".apng", ".dib", ".pam", ".pxm", ".pfm", ".sr", ".ras"),
    *(".hdr", ".pic"),
)


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


class Found(NamedTuple):
    """What a name in a list stands for.

    `id` is the name without what is superfluous in it; `path` need not exist. `how` is
    the spelling on the disk if it is another, and `problem` says why there is no file.
    """

    id: str
    path: Path
    exists: bool
    how: str = ""
    problem: str = ""


class Finder:
    """Finds the images of one folder by the names that lists give them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, _Listing | None] = {}

    def __call__(self, name: str) -> Found | None:
        """Find an image; return None if the name leads out of the folder."""
        found = None
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            below = self._below(spelling)
            if below is None:
                return None
            again = self._find(below)
            if found is None or again.exists:
                found = again
            if found.exists:
                break
        return found

    def names(self) -> Sequence[str]:
        """List the names in the folder itself."""
        listing = self._listing(self._folder)
        return [] if listing is None else list(listing.names)

    def _below(self, name: str) -> str | None:
        """Return a path below the folder without superfluous parts."""
        path = PurePosixPath(name)
        if path.is_absolute():
            for root in (os.path.abspath(self._folder), os.path.realpath(self._folder)):
                if path.is_relative_to(root):
                    path = path.relative_to(root)
                    break
        leads_out = path.is_absolute() or ".." in path.parts or not path.name
        return None if leads_out else path.as_posix()

    def _find(self, name: str) -> Found:
        *parents, last = PurePosixPath(name).parts
        folder, how = self._folder, ""
        for part in parents:
            listing = self._listing(folder)
            match = _Match(part) if listing is None else listing.find(folder, part, ())
            how = how or match.how
            if not match.name:
                return Found(name, self._folder / name, False, "", match.problem)
            folder = folder / match.name
        suffixes = () if is_image_name(last) else IMAGE_SUFFIXES
        listing = self._listing(folder)
        if listing is None:  # it may still be possible to open what is in it
            tried = [last] if not suffixes else [last + s for s in suffixes]
            there = [t for t in tried if os.path.exists(folder / t)]
            return Found(name, folder / (there or tried)[0], bool(there))
        match = listing.find(folder, last, suffixes)
        if not match.name:
            missing = folder / (last + (suffixes[0] if suffixes else ""))
            return Found(name, missing, False, "", match.problem)
        return Found(name, folder / match.name, True, how or match.how)

    def _listing(self, folder: Path) -> _Listing | None:
        """List a folder once; return None if that is not possible."""
        if folder not in self._listings:
            try:
                self._listings[folder] = _Listing(os.listdir(folder))
            except FileNotFoundError:
                self._listings[folder] = _Listing(())
            except (OSError, ValueError):
                self._listings[folder] = None
        return self._listings[folder]


class _Match(NamedTuple):
    """The name in a folder that fits, with its spelling if that is another one."""

    name: str
    how: str = ""
    problem: str = ""


class _Listing:
    """The names in a folder, also by their folded spellings."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return _by_key(sorted(self.names), _fold)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _by_key(filter(is_image_name, sorted(self.names)), _fold_stem)

    def find(self, folder: Path, name: str, suffixes: Sequence[str]) -> _Match:
        """Find a name, to which one of the suffixes may have to be added."""
        if not self.names:
            return _Match("")
        if name in self.names and not (suffixes and os.path.isdir(folder / name)):
            return _Match(name)
        for suffix in suffixes:
            for spelling in (name + suffix, name + suffix.upper()):
                if spelling in self.names:
                    return _Match(spelling)
        for wanted in (name, *(name + suffix for suffix in suffixes)):
            similar = self._folded.get(_fold(wanted), [])
            if suffixes:
                similar = [n for n in similar if not os.path.isdir(folder / n)]
            same = [n for n in similar if _nfc(n) == _nfc(wanted)]
            if len(same) == 1 or len(similar) == 1:
                match = (same or similar)[0]
                return _Match(match, match)
            if similar:
                return _Match("", "", f"there are {' and '.join(map(repr, similar))}")
        in_bytes = os.fsdecode(name.encode("cp1252", errors="replace"))
        if in_bytes in self.names:
            return _Match(in_bytes, in_bytes)
        others = self._stems.get(_fold_stem(name), [])
        return _Match("", "", f"there is {others[0]!r}" if others else "")


def _by_key(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    table = defaultdict(list)
    for name in names:
        table[key(name)].append(name)
    return table


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    return _nfc(_nfc(name).casefold())


def _fold_stem(name: str) -> str:
    return _fold(os.path.splitext(name)[0])
