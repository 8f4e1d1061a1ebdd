"""Describe the machine: the GPU and its driver, the processor, and Caffe's build.

    python tests/gpu/machine.py gpu:0     # what `make gpu-check` runs before it builds

This prints in one line which GPU it is. If there is none, it says so with exit code 2.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fishing.backends import parse_device
from fishing.backends.devices import find_gpu
from fishing.errors import BackendError


def main(device: str) -> int:
    """Look for the device before the build; return 0 if it is there, else 2."""
    try:
        check_device(device)
        name = "cpu" if device == "cpu" else find_gpu(device).name
    except BackendError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    print(f"gpu-check: {device} is {name}", flush=True)
    return 0


def check_device(device: str) -> None:
    """Refuse anything but one device.

    Raises
    ------
    BackendError
        If it is not a device, or several.
    """
    if len(parse_device(device)) > 1:
        raise BackendError(f"expected one GPU to check, found '{device}'")


def describe_machine(device: str) -> dict[str, Any]:
    """Describe the machine that is measured.

    Raises
    ------
    BackendError
        If there is no such GPU.
    """
    check_device(device)
    found: dict[str, Any] = {
        "device": device,
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if device != "cpu":
        gpu = find_gpu(device)
        found |= {
            "gpu": gpu.name,
            "compute_capability": gpu.capability / 10,
            "memory_MiB": gpu.total >> 20,
            "driver_for_CUDA": f"{gpu.driver[0]}.{gpu.driver[1]}",
        }
    caffe = find_spec("caffe")
    if caffe and caffe.origin:
        build = json.loads(Path(caffe.origin).with_name("build.json").read_text())
        keys = ("cuda", "cuda_toolkit", "cuda_architectures", "gpu_blas", "compiler")
        found |= {f"caffe_{key}": build.get(key) for key in keys}
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {len(names)} cores"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
