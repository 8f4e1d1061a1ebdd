"""What the machine is: the GPU and its driver, the processor, and Caffe's build."""

from __future__ import annotations

import json
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fishing.backends.devices import find_gpu


def describe_machine(device: str) -> dict[str, Any]:
    """Describe what is measured on.

    Raises
    ------
    BackendError
        If there is no such GPU.
    """
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
