"""The errors that a user can cause.

Each says in one line what was expected, what was found and what to do next. The
command line prints that line on stderr and exits with code 2.
"""

_MAX_LINE = 4000


class FishingError(Exception):
    """Base of every error that a user can cause."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class NetError(FishingError):
    """A net, its prototxt or its weights are missing or do not fit."""


class DataError(FishingError):
    """A data set, a list of images or a label file is missing or malformed."""


class ImageError(FishingError):
    """One image file cannot be turned into an input of the net."""


class BackendError(FishingError):
    """The maker of blobs is missing, does not fit, or stopped."""


class StoreError(FishingError):
    """A features file is missing, malformed, of another make, or cannot be written."""


class EvaluationError(FishingError):
    """Features and labels do not allow the evaluation that was asked for."""


def printable(text: str) -> str:
    r"""Make one line of a text: names in files must not steer a terminal.

    Examples
    --------
    >>> print(printable("layer 'a\x1b[2J\nb'"))
    layer 'a?[2J b'
    """
    line = " ".join(text.splitlines())[:_MAX_LINE]
    return "".join(c if c.isprintable() else "?" for c in line)


def one_line(error: BaseException) -> str:
    """Say in one line what the disk or HDF5 said in several."""
    text = getattr(error, "strerror", None) or str(error).strip("'\"") or repr(error)
    return str(text.splitlines()[0])
