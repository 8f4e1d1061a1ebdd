"""Measure how fast a net runs: images per second, share of the matrix rate, memory.

Patched Caffe runs alone and as the extractor drives it; ONNX Runtime and PyTorch run as
well, each in a separate process. Transfers are included. The matrix rate is that of
matrix products on the device, the larger one of Caffe's BLAS and PyTorch's.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from agreement import TAU, made_images
from children import in_child
from fishing.errors import FishingError
from fishing.nets import NetSpec, weights_path
from report import Section

SIDE, CHAIN = 4096, 8  # of the matrices, and how many products in a row


class Timing(NamedTuple):
    """Seconds of a run, and MiB of memory in use after it."""

    seconds: float
    memory: float


def measure_speed(
    spec: NetSpec, device: str, batches: Sequence[int], seconds: float
) -> Section:
    """Measure everything that can run here, and name what cannot."""
    side = SIDE if device != "cpu" else SIDE // 4
    rates = {"Caffe's BLAS": in_child(caffe_rate, device, side, seconds)}
    if find_spec("torch"):
        rates["PyTorch"] = in_child(torch_rate, device, side, seconds)
    rate = max(rates.values())
    work = in_child(multiply_adds, spec)
    contenders: list[tuple[str, Callable[..., Timing], int]] = [
        (f"patched Caffe, batch {n}", caffe_run, n) for n in batches
    ]
    largest = max(batches)
    contenders += [
        (f"patched Caffe as extracted with, batch {largest}", driven_run, largest),
        (f"ONNX Runtime, batch {largest}", onnx_run, largest),
        (f"PyTorch, batch {largest}", torch_run, largest),
    ]
    rows: list[list[Any]] = []
    missing = []
    for name, run, n in contenders:
        try:
            found = in_child(run, spec, device, n, seconds)
        except FishingError as error:
            missing.append(f"{name}: not run, {error}.")
            continue
        share = 100 * 2 * work * n / found.seconds / rate
        rows.append([name, f"{n / found.seconds:.1f}", f"{share:.0f} %",
                     f"{found.memory:.0f}"])  # fmt: skip
    text = " ".join(
        [
            f"{work / 1e9:.2f} billion multiply-adds an image; products of matrices: "
            + ", ".join(f"{v / 1e12:.3g} TFLOP/s in {k}" for k, v in rates.items())
            + ".",
            *missing,
        ]
    )
    head = ["", "images/s", "of the matrix rate", "MiB"]
    return Section("", "measured", text, head, rows)


def repeated(run: Callable[[], Any], seconds: float) -> float:
    """Return the median time of runs, after two that do not count."""
    times: list[float] = []
    while len(times) < 5 or sum(times) <= seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times[2:])


def memory(device: str) -> float:
    """Return the MiB in use: on the card by all processes, or in our largest one."""
    if device == "cpu":
        processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return max(resource.getrusage(who).ru_maxrss for who in processes) / 1024
    from fishing.backends.devices import find_gpu

    gpu = find_gpu(device)
    return (gpu.total - gpu.free) / 2**20


def caffe_net(spec: NetSpec, device: str, batch: int) -> Any:
    """Open a net in this process."""
    from fishing.backends.caffe.process import CaffeNet

    return CaffeNet(
        prototxt=spec.model,
        weights=weights_path(spec),
        blobs=dict(spec.blobs),
        input_shape=spec.preprocess.shape,
        batch_size=batch,
        temperature=TAU,
        device=device,
    )


def caffe_run(spec: NetSpec, device: str, batch: int, seconds: float) -> Timing:
    """Time patched Caffe alone."""
    net, data = (
        caffe_net(spec, device, batch),
        made_images(batch, spec.preprocess.height),
    )
    return Timing(repeated(lambda: net.run(data), seconds), memory(device))


def driven_run(spec: NetSpec, device: str, batch: int, seconds: float) -> Timing:
    """Time Caffe as the extractor drives it: workers, and batches sent ahead."""
    from fishing.backends import open_backend, run_ahead

    data = made_images(batch, spec.preprocess.height)
    net = open_backend("caffe", spec, temperature=TAU, batch_size=batch, device=device)
    n = 4 * net.n_at_once
    try:

        def run() -> None:
            for _ in run_ahead(net, repeat((None, data), n)):
                pass

        found = Timing(repeated(run, seconds) / n, memory(device))
    finally:
        net.close()
    # The peak of a process is known once it has ended; the card's memory is free then.
    return found._replace(memory=max(found.memory, memory(device)))


def onnx_run(spec: NetSpec, device: str, batch: int, seconds: float) -> Timing:
    """Time ONNX Runtime."""
    from fishing.errors import BackendError

    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        raise BackendError("it is not in this Python")
    from fishing.backends.onnx import OnnxBackend

    net = OnnxBackend(spec, temperature=TAU, batch_size=batch, device=device)
    data = made_images(batch, spec.preprocess.height)
    return Timing(repeated(lambda: net.run(data), seconds), memory(device))


def torch_run(spec: NetSpec, device: str, batch: int, seconds: float) -> Timing:
    """Time PyTorch and its autograd."""
    from fishing.errors import BackendError

    if find_spec("torch") is None:
        raise BackendError("it is not in this Python")
    from torch_nets import torch_net

    run = torch_net(spec, made_images(batch, spec.preprocess.height), device)
    return Timing(repeated(run, seconds), memory(device))


def torch_rate(device: str, side: int, seconds: float) -> float:
    """Multiply matrices in PyTorch in full float32; return operations per second."""
    import importlib

    torch: Any = importlib.import_module("torch")
    torch.backends.cuda.matmul.allow_tf32 = False
    where = "cpu" if device == "cpu" else device.replace("gpu", "cuda")
    a = torch.rand(side, side, device=where)

    def run() -> float:
        y = a
        for _ in range(CHAIN):
            y = a @ y
        return float(y[0, 0])  # waits for the device

    return 2 * CHAIN * side**3 / repeated(run, seconds)


def caffe_rate(device: str, side: int, seconds: float) -> float:
    """Multiply matrices in Caffe's inner products; return operations per second."""
    import caffe

    from fishing.backends.caffe.process import set_device

    set_device(caffe, device)
    layer = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" '
        "inner_product_param {{ num_output: {2} bias_term: false }} }}\n"
    )
    text = (
        'layer { name: "d" type: "Input" top: "d" '
        f"input_param {{ shape {{ dim: {side} dim: {side} }} }} }}\n"
    )
    for i in range(CHAIN):
        text += layer.format(f"p{i}", f"p{i - 1}" if i else "d", side)
    # Reading one number for each image waits for the device.
    text += layer.format("end", f"p{CHAIN - 1}", 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.prototxt"
        path.write_text(text)
        net = caffe.Net(str(path), caffe.TEST)

    def run() -> float:
        net.forward()
        return float(net.blobs["end"].data[0, 0])

    return 2 * CHAIN * side**3 / repeated(run, seconds)


def multiply_adds(spec: NetSpec) -> int:
    """Count the operations for one image, forward and backward."""
    net = caffe_net(spec, "cpu", 1).net
    total, products = 0, []
    for name, params in net.params.items():
        size = params[0].data.size
        top = net.blobs[net.top_names[name][0]]
        total += size * int(np.prod(top.shape[2:]))
        if net.layer_dict[name].type == "InnerProduct":
            products.append(size)
    return total + sum(products[1:])  # the backward pass ends at y6
