"""Devices: the names that users give, the GPUs that exist, and what fits into them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from fishing.errors import BackendError
from fishing.processes import usable_cores

#: Images in a batch: the default on the CPU, and the most on a GPU.
CPU_BATCH, MAX_BATCH = 32, 256
#: The most processes of Caffe on the CPU, since each holds its own weights and blobs.
CAFFE_PROCESSES = 4
#: Workers on one GPU: while one transfers a batch, the other computes.
PER_GPU = 2

_TF32 = 80
# The share of free memory that nets may fill. The rest is for whatever is not counted.
_SHARE = 0.8
_DEVICES = re.compile(r"cpu|gpu:\d+(,\d+)*")
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_..., ..._COMPUTE_MODE; CU_COMPUTEMODE_...
_MAJOR, _MINOR, _MODE, _EXCLUSIVE_PROCESS = 75, 76, 20, 3


class Gpu(NamedTuple):
    """What the driver says of a GPU."""

    name: str
    capability: int  # ten times the compute capability: 90 for 9.0
    free: int  # bytes of memory
    total: int
    driver: tuple[int, int]  # the newest CUDA that the driver knows, such as (13, 0)
    exclusive: bool  # accepts one process at a time (the mode EXCLUSIVE_PROCESS)


def parse_device(device: str) -> list[str]:
    """Split a device into those that a single worker runs on.

    Parameters
    ----------
    device : str
        ``cpu``, ``gpu:0``, or several GPUs: ``gpu:0,1``.

    Returns
    -------
    list of str

    Raises
    ------
    BackendError
        If `device` is none of these, or names a GPU twice.

    Examples
    --------
    >>> parse_device("gpu:0,2")
    ['gpu:0', 'gpu:2']
    """
    if not _DEVICES.fullmatch(device):
        raise BackendError(
            f"expected a device 'cpu', 'gpu:0' or 'gpu:0,1', found '{device}'"
        )
    if device == "cpu":
        return ["cpu"]
    numbers = [int(number) for number in device.removeprefix("gpu:").split(",")]
    if len(set(numbers)) < len(numbers):
        raise BackendError(f"expected each GPU once, found '{device}'")
    return [f"gpu:{number}" for number in numbers]


def find_gpu(device: str) -> Gpu:
    """Ask the driver about the GPU of a device ``gpu:N``.

    CUDA numbers the GPUs that CUDA_VISIBLE_DEVICES lets it see. A BackendError says
    that there is no driver or no such GPU, or that it cannot be used.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendError(
            f"expected an NVIDIA GPU for --device {device}, found no NVIDIA driver "
            "(no libcuda.so.1); use --device cpu"
        ) from None

    def call(name: str, *arguments: Any) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            cuda.cuGetErrorName(code, ctypes.byref(words))
            reason = (words.value or b"no name").decode()
            raise BackendError(
                f"expected a working GPU for --device {device}, found that the driver "
                f"answers {name} with error {code} ({reason}); check nvidia-smi and "
                "CUDA_VISIBLE_DEVICES, or use --device cpu"
            )

    number = int(device.removeprefix("gpu:"))
    call("cuInit", 0)
    version, count, handle = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    if number >= count.value:
        there = "1 GPU" if count.value == 1 else f"{count.value} GPUs"
        raise BackendError(
            f"expected a GPU of number {number} for --device {device}, found {there}, "
            "counted from 0; check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    call("cuDeviceGet", ctypes.byref(handle), number)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), handle)
    major, minor, mode = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for value, attribute in ((major, _MAJOR), (minor, _MINOR), (mode, _MODE)):
        call("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
    free, total = _memory(cuda, call, handle)
    return Gpu(
        name.value.decode(errors="replace"),
        10 * major.value + minor.value,
        free,
        total,
        (version.value // 1000, version.value % 1000 // 10),
        mode.value == _EXCLUSIVE_PROCESS,
    )


def _memory(
    cuda: Any, call: Callable[..., None], handle: ctypes.c_int
) -> tuple[int, int]:
    """Ask for the bytes of free and of all memory, which takes a context."""
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    # This is the context that CUDA's runtime will use; it is released below.
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    try:
        call("cuCtxPushCurrent_v2", context)
        try:
            call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(handle)
    return free.value, total.value


def count_workers(device: str, *, processes: bool) -> int:
    """Choose the number of workers on a device, each of which may be a process.

    On the CPU, two processes of one thread each are 1.6 times as fast as one of two
    threads. A GPU may be set to accept only one process.
    """
    if device == "cpu":
        return min(usable_cores(), CAFFE_PROCESSES) if processes else 1
    if processes:
        # If anything else is wrong with the GPU, its worker reports it.
        with suppress(BackendError):
            return 1 if find_gpu(device).exclusive else PER_GPU
    return PER_GPU


def check_tf32(gpu: Gpu) -> None:
    """Refuse a GPU without TF32, which would multiply in float32."""
    if gpu.capability < _TF32:
        raise BackendError(
            f"expected a GPU of compute capability {_TF32 / 10} or later for TF32, "
            f"found {gpu.name} of {gpu.capability / 10}; leave out --tf32"
        )


def fitting_batch(free: int, fixed: int, per_image: int, device: str) -> int:
    """Choose the batch size with which `PER_GPU` nets fit into free memory (bytes).

    A net takes `fixed` bytes, and `per_image` for each image of a batch. The batch size
    is a power of two, so that a little more or less free memory changes nothing, and at
    most `MAX_BATCH`. If not even one image fits, a BackendError says so.

    >>> fitting_batch(16 << 30, 1 << 30, 100 << 20, "gpu:0")
    32
    """
    share = _SHARE / PER_GPU
    n_images = int((share * free - fixed) // per_image)
    if n_images < 1:
        raise BackendError(
            f"expected {(fixed + per_image) / share / 2**20:.0f} MiB of free memory on "
            f"{device} for this net, found {free / 2**20:.0f}; end other programs that "
            "use it, or use --device cpu"
        )
    return min(1 << (n_images.bit_length() - 1), MAX_BATCH)
