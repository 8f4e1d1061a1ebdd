"""What every backend offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Backend(Protocol):
    """A net that is ready to run."""

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
        """How many calls of `run` can go on at the same time, in threads."""
        ...

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch forward and backward.

        Parameters
        ----------
        data : ndarray of float32, shape (n, 3, size, size)

        Returns
        -------
        dict of str to ndarray of float32, shape (n, widths[name])
            One entry for each of `BLOBS`; row i belongs to image i alone.

        Raises
        ------
        BackendError
            If the net cannot be run.
        """
        ...

    def close(self) -> None:
        """Let go of the net and its memory."""
        ...
