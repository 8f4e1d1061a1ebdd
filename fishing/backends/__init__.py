"""Makers of blobs: one interface, whatever runs the net.

In go preprocessed images, out come the paired blobs of each image, by the names that
they have in a features file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fishing.errors import BackendError
from fishing.nets import NetSpec

#: x5, x6, x7, y8 and x8 of the paper, then dE/dy6, dE/dy7 and dE/dy8.
BLOBS = (
    "forward/pool5",
    "forward/fc6",
    "forward/fc7",
    "forward/fc8",
    "forward/prob",
    "backward/fc6",
    "backward/fc7",
    "backward/fc8",
)


#: What `open_backend` opens. All but the last make the same values up to rounding.
BACKENDS = ("caffe", "onnx", "openvino", "openvino-bfloat16")


class Backend(Protocol):
    """A net that is ready to run."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Values per image of each of `BLOBS`."""
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


def choose_backend(name: str, device: str = "cpu") -> str:
    """Find the backend that ``auto`` stands for; other names must be known ones.

    That is patched Caffe where a GPU is asked for and Caffe can be imported, and ONNX
    Runtime anywhere else.

    Parameters
    ----------
    name : str
        ``auto`` or one of `BACKENDS`.
    device : str
        ``cpu`` or ``gpu:N``.

    Returns
    -------
    str
        One of `BACKENDS`.

    Raises
    ------
    BackendError
        If there is no backend of that name.
    """
    if name not in ("auto", *BACKENDS):
        raise BackendError(
            f"expected a backend of: auto {' '.join(BACKENDS)}; found '{name}'"
        )
    if name != "auto":
        return name
    if device == "cpu":
        return "onnx"
    caffe = importlib.util.find_spec("caffe")
    # A mere folder of that name has no origin.
    return "caffe" if caffe is not None and caffe.origin else "onnx"


def open_backend(
    name: str, spec: NetSpec, *, temperature: float, batch_size: int, device: str
) -> Backend:
    """Load a net into the backend of that name.

    Parameters
    ----------
    name : str
        As `choose_backend` gives it.
    spec : NetSpec
    temperature : float
        tau of eq. 10; positive.
    batch_size : int
        The most images that one call of `Backend.run` will bring.
    device : str
        ``cpu`` or ``gpu:N``.

    Raises
    ------
    BackendError
        If there is no such device, or the backend cannot load the net.
    NetError
        If the weights are missing or the net has no head that fits.
    """
    # Each is imported where it is asked for: the other's libraries may be missing.
    maker: Callable[..., Backend]
    if name == "caffe":
        from fishing.backends.caffe import CaffeBackend

        maker = CaffeBackend
    elif name.startswith("openvino"):
        from fishing.backends.openvino import OpenvinoBackend

        maker = OpenvinoBackend
        if name == "openvino-bfloat16":
            maker = partial(OpenvinoBackend, precision="bfloat16")
    else:
        from fishing.backends.onnx import OnnxBackend

        maker = OnnxBackend
    return maker(spec, temperature=temperature, batch_size=batch_size, device=device)
