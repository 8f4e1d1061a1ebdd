"""What a value in a file of settings must be, in words and as a test."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MAX_SIDE = 2048  # pixels of an input


class Kind(NamedTuple):
    """A kind of values: its words end the sentence "expected it to be ..."."""

    words: str
    fits: Callable[[Any], bool]


def one_of(choices: Iterable[Any], words: str = "") -> Kind:
    """Describe a choice, of which each value keeps its type."""
    known = [*choices]
    return Kind(
        words or f"one of {', '.join(map(str, known))}",
        lambda v: any(type(v) is type(known_v) and v == known_v for known_v in known),
    )


def number(low: float, high: float) -> Kind:
    """Describe a number of an interval; NaN is in none."""
    return Kind(
        f"a number from {low:g} to {high:g}",
        lambda v: type(v) in (int, float) and low <= v <= high,
    )


def numbers(low: float, high: float, lengths: Iterable[int]) -> Kind:
    """Describe a list of numbers of an interval, in which there are so many."""
    known, one = [*lengths], number(low, high)
    return Kind(
        f"a list of {' or '.join(map(str, known))} numbers from {low:g} to {high:g}",
        lambda v: isinstance(v, list) and len(v) in known and all(map(one.fits, v)),
    )


def either(*kinds: Kind) -> Kind:
    """Describe the values of several kinds."""
    words = " or ".join(kind.words for kind in kinds)
    return Kind(words, lambda v: any(kind.fits(v) for kind in kinds))


def text(pattern: str, words: str) -> Kind:
    """Describe a text that a regular expression matches as a whole."""
    return Kind(
        words, lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None
    )


def shown(value: object) -> str:
    """Show the beginning of a value in a message."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python writes
        return "a number without end"


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TABLE = Kind("a table", lambda v: isinstance(v, dict))
SIDE = Kind(
    f"a whole number from 1 to {MAX_SIDE}",
    lambda v: type(v) is int and 0 < v <= MAX_SIDE,
)
HEIGHT_WIDTH = Kind(
    "[height, width]",
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(SIDE.fits, v)),
)
