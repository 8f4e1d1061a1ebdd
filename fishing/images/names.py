"""What may be the name of an image, a class or a split: one rule for all places.

A name is a text of one line. Lists and results hold one name a line, so control
characters and line separators are forbidden, and so is what UTF-8 cannot hold. All else
is allowed; `fishing.errors.printable` escapes it where it is printed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from fishing.errors import escape

MAX_ID_BYTES = 1000
MAX_CLASSES = 4000  # more names might not fit into an attribute of HDF5
MAX_CLASS_BYTES = 200  # the name of a class becomes part of a file name
_MAX_SPLIT_BYTES = 100
# Controls, separators of lines and paragraphs, and bytes that are no UTF-8.
_FORBIDDEN = {"Cc", "Zl", "Zp", "Cs"}


def is_name(text: str) -> bool:
    r"""Tell whether a text has only characters that a name may have.

    Examples
    --------
    >>> [is_name(text) for text in ("a b.jpg", "5.12\u202fPM.png", "a\nb", "caf\udce9")]
    [True, True, False, False]
    """
    return text.isprintable() or not any(map(_is_forbidden, text))


def why_no_id(text: str) -> str:
    """Say why a text cannot be the id of an image; return "" if it can be."""
    if any(unicodedata.category(c) == "Cs" for c in text):
        return "its name is not in UTF-8; rename it"
    if not is_name(text):
        return "its name has control characters or line separators; rename it"
    if len(text.encode()) > MAX_ID_BYTES:
        return f"its name has more than {MAX_ID_BYTES} bytes; rename it"
    return ""


def as_id(text: str) -> str:
    r"""Escape what an id may not contain, and cut it to the length of one.

    Examples
    --------
    >>> print(as_id("caf\udce9\n.jpg"))
    caf\xe9\n.jpg
    """
    id_ = "".join(escape(c) if _is_forbidden(c) else c for c in text)
    return id_.encode()[:MAX_ID_BYTES].decode(errors="ignore")


def is_split_name(name: str) -> bool:
    """Tell whether a split may have this name, which becomes part of file names."""
    return (
        bool(name)
        and is_name(name)
        and "/" not in name
        and name[0] not in ".-"
        and len(name.encode()) <= _MAX_SPLIT_BYTES
    )


def check_class_names(classes: Sequence[str], where: object) -> None:
    """Check that files can be named after all classes.

    Parameters
    ----------
    classes : sequence of str
    where : object
        The file or split that names them, for the message.

    Raises
    ------
    ValueError
        If there are too many classes, or a name is unsuitable or occurs twice.
    """
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{where}: expected at most {MAX_CLASSES} classes, found {len(classes)}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"{where}: expected each class once, found one twice")
    for name in classes:
        if not is_class_name(name):
            raise ValueError(
                f"{where}: expected names of classes without '/' and control "
                f"characters, of 1 to {MAX_CLASS_BYTES} bytes, found {name[:300]!a}"
            )


def is_class_name(name: str) -> bool:
    """Tell whether files can be named after a class."""
    return (
        bool(name)
        and is_name(name)
        and "/" not in name
        and len(name.encode()) <= MAX_CLASS_BYTES
    )


def _is_forbidden(character: str) -> bool:
    return unicodedata.category(character) in _FORBIDDEN
