"""The errors that a user can cause.

Each says in one line what was expected, what was found and what to do next. The
command line prints that line on stderr and exits with code 2.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_LINE = 4000


class FishingError(Exception):
    """Base class of every error that a user can cause."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class NetError(FishingError):
    """A net, its prototxt or its weights are missing, malformed or inconsistent."""


class DataError(FishingError):
    """A data set, a list of images or a label file is missing or malformed."""


class ImageError(FishingError):
    """An image file cannot be turned into an input of the net."""


class BackendError(FishingError):
    """A backend is missing, cannot run the net, or stopped."""


class StoreError(FishingError):
    """A features file is missing, malformed or incompatible, or cannot be written."""


class InUseError(StoreError):
    """Another process writes to the same place."""


class EvaluationError(FishingError):
    """Features and labels do not allow the evaluation that was asked for."""


class DependencyError(FishingError):
    """An optional library is not installed."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Say which extra of this package to install if an import in the block fails.

    Parameters
    ----------
    extra : str
        The name in ``extras_require`` of setup.py.

    Raises
    ------
    DependencyError
        If a library is not installed, or cannot be loaded.

    Examples
    --------
    >>> with needs_extra("demo"):
    ...     import no_such_library
    Traceback (most recent call last):
    fishing.errors.DependencyError: expected the library 'no_such_library', found that \
it is not installed; run `pip install 'fishing[demo]'`
    """
    try:
        yield
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        found = "that it is not installed" if is_missing else str(error)
        raise DependencyError(
            f"expected the library '{error.name}', found {found}; run "
            f"`pip install 'fishing[{extra}]'`"
        ) from None


def printable(text: str) -> str:
    r"""Make a text one line of printable characters, which cannot steer a terminal.

    Spaces of all widths stay as they are; what cannot be printed is escaped.

    Examples
    --------
    >>> print(printable("layer 'a\x1b[2J\nb'"))
    layer 'a\x1b[2J b'
    """
    line = " ".join(text.splitlines())[:_MAX_LINE]
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else escape(c)
        for c in line
    )


def escape(character: str) -> str:
    """Write a character as Python does, and a byte that is no UTF-8 as that byte."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def one_line(error: BaseException) -> str:
    """Return the first line of an error of the operating system or of HDF5."""
    text = getattr(error, "strerror", None) or str(error).strip("'\"") or repr(error)
    return str(text.splitlines()[0])
