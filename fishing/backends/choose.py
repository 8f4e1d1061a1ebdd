"""Choose the backend that runs a net, and open it.

Every backend turns preprocessed images into the paired blobs of each image, under the
names that they have in a features file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fishing.backends.devices import count_workers, parse_device
from fishing.backends.interface import Backend
from fishing.backends.workers import Workers
from fishing.errors import BackendError, NetError
from fishing.nets import NetSpec
from fishing.processes import usable_cores

#: What `open_backend` opens. All but the last agree to about 1e-5.
BACKENDS = ("caffe", "onnx", "openvino", "openvino-bfloat16")


def choose_backend(name: str, device: str = "cpu") -> str:
    """Find the backend that ``auto`` stands for, and check any other name.

    ``auto`` stands for patched Caffe if the device is a GPU and Caffe is installed, and
    for ONNX Runtime otherwise.

    Parameters
    ----------
    name : str
        ``auto`` or one of `BACKENDS`.
    device : str
        ``cpu``, ``gpu:0``, or several GPUs: ``gpu:0,1``.

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
    # A folder that happens to have this name has no origin.
    return "caffe" if caffe is not None and caffe.origin else "onnx"


def check_run(temperature: float, batch_size: int | None) -> None:
    """Refuse settings with which no backend can run, by a NetError.

    These are a temperature (tau of eq. 10) that is not a positive float32, and a batch
    size below 1.
    """
    limits = np.finfo(np.float32)
    if not float(limits.tiny) <= temperature <= float(limits.max):
        raise NetError(
            f"expected a positive temperature that float32 holds, found {temperature}"
        )
    if batch_size is not None and batch_size < 1:
        raise NetError(f"expected a batch size of 1 or more, found {batch_size}")


def open_backend(
    name: str,
    spec: NetSpec,
    *,
    temperature: float,
    batch_size: int | None,
    device: str,
    tf32: bool = False,
) -> Backend:
    """Load a net into the backend of that name, on each of the devices.

    Parameters
    ----------
    name : str
        What `choose_backend` returns.
    spec : NetSpec
    temperature : float
        tau of eq. 10; positive.
    batch_size : int, optional
        The most images that one call of `Backend.run` takes; by default 32 on the CPU,
        and on a GPU as many as its memory allows.
    device : str
        ``cpu``, ``gpu:0``, or several GPUs: ``gpu:0,1``.
    tf32 : bool
        Multiply in TF32 on the GPU.

    Returns
    -------
    Backend

    Raises
    ------
    BackendError
        If there is no such device, or if the backend cannot load the net.
    DependencyError
        If OpenVINO is not installed.
    NetError
        If the weights are missing, or if the net has no head that fits.
    """
    if name == "caffe" and spec.is_onnx:
        raise BackendError(
            f"expected a deploy.prototxt for --backend caffe, found {spec.model}, "
            "which Caffe cannot run; use --backend onnx or openvino"
        )
    # Only the chosen backend is imported, since the others' libraries may be missing.
    maker: Callable[..., Backend]
    if name == "caffe":
        from fishing.backends.caffe.backend import CaffeBackend

        maker = CaffeBackend
    elif name.startswith("openvino"):
        from fishing.backends.openvino import OpenvinoBackend

        maker = OpenvinoBackend
        if name == "openvino-bfloat16":
            maker = partial(OpenvinoBackend, precision="bfloat16")
    else:
        from fishing.backends.onnx.backend import OnnxBackend

        maker = OnnxBackend
    devices = parse_device(device)
    settings: dict[str, Any] = {"temperature": temperature, "batch_size": batch_size}
    if tf32:
        if device == "cpu" or name.startswith("openvino"):
            raise BackendError(
                "expected Caffe or ONNX Runtime on a GPU for TF32, found --backend "
                f"{name} and --device {device}; leave out --tf32"
            )
        settings["tf32"] = True
    processes = name == "caffe"
    counts = {one: count_workers(one, processes=processes) for one in devices}
    if processes:
        settings["n_threads"] = max(1, usable_cores() // sum(counts.values()))
    makers = [
        partial(maker, spec, device=one, **settings)
        for one in devices
        for _ in range(counts[one])
    ]
    return makers[0]() if len(makers) == 1 else Workers(makers)
