"""What is worth saying about an image that was read, collected by whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Note(NamedTuple):
    """A remark on an image, and whether it says that the image may be damaged."""

    text: str
    is_damage: bool = False


_notes: ContextVar[list[Note] | None] = ContextVar("notes", default=None)


@contextmanager
def collect_notes() -> Iterator[list[Note]]:
    """Collect the notes on the images that are read in the block, in this thread.

    >>> with collect_notes() as notes:
    ...     take_note("16 bits a channel")
    >>> notes
    [Note(text='16 bits a channel', is_damage=False)]
    """
    notes: list[Note] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def take_note(text: str, is_damage: bool = False) -> None:
    """Note something about the image that is being read, if anybody collects it."""
    notes = _notes.get()
    if notes is not None:
        notes.append(Note(text, is_damage))
