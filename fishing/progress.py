"""The one protocol by which long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callable that is told how far some work has come."""

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        """Report progress.

        Parameters
        ----------
        label : str
            What is being done, such as the name of a split or of a file.
        done, total : int
            How much is done, and how much there is; None where that is unknown.
        unit : str
            What is counted: ``images``, ``features``, ``classes``, or ``B`` for bytes.
        """
        ...


def silent(label: str, done: int, total: int | None, unit: str) -> None:
    """Report nothing: the default of every function that takes a `Progress`."""
