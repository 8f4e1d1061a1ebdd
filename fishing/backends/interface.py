"""The interface of all backends, and the error of one that stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fishing.errors import BackendError


class Backend(Protocol):
    """A net that is loaded and ready to run.

    `open_backend` makes one. It describes the parameters and the errors of the classes
    that implement this interface, of which `OpenvinoBackend` alone takes no `tf32`.
    """

    @property
    def widths(self) -> Mapping[str, int]:
        """Values per image of each of `BLOBS`."""
        ...

    @property
    def batch_size(self) -> int:
        """The most images that one call of `run` takes."""
        ...

    @property
    def n_at_once(self) -> int:
        """How many threads may call `run` at the same time."""
        ...

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch forward and backward.

        Parameters
        ----------
        data : ndarray of float32, shape (n, channels, height, width)

        Returns
        -------
        dict of str to ndarray of float32, shape (n, widths[name])
            One entry for each of `BLOBS`. Row i depends on image i alone.

        Raises
        ------
        BackendError
            If the net cannot be run.
        """
        ...

    def close(self) -> None:
        """Release the net and its memory."""
        ...


def stopped(library: str, error: Exception) -> BackendError:
    """Make an error of an exception with which a library stopped."""
    words = " ".join(str(error).split())
    return BackendError(f"{library} stopped: {words or type(error).__name__}")
