"""The protocol by which long-running functions report their progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callable that is told how far a piece of work has come."""

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        """Report progress.

        Parameters
        ----------
        label : str
            What is being worked on, such as the name of a split or of a file.
        done, total : int
            How much is done, and how much there is in all; None if that is unknown.
        unit : str
            What is counted, such as ``images`` or ``features``; ``B`` stands for bytes.
        """
        ...


def silent(label: str, done: int, total: int | None, unit: str) -> None:
    """Report nothing; this is the default of every function that takes a `Progress`."""
