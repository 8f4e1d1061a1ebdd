"""The process that runs Caffe, started by `fishing.backends.caffe.backend`.

It reads pickled messages from standard input and writes pickled answers to standard
output. The first message holds the settings of the net, and is answered by the widths
of its blobs and the batch size. Each further one is a batch, and is answered by its
blobs. A failed check of Caffe aborts only this process.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.caffe.net import gradient_net
from fishing.backends.devices import (
    CPU_BATCH,
    Gpu,
    check_tf32,
    find_gpu,
    fitting_batch,
)
from fishing.errors import BackendError, FishingError
from fishing.nets import fit_weights, read_net, read_weights

# Bytes that a new net may take in addition to its parameters.
_ROOM = 2**28


def main() -> None:
    """Answer the process at the other end of the pipe until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks handles Ctrl-C
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what C++ prints apart from the answers
    net: CaffeNet | None = None
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Any
        try:
            if net is None:
                net = CaffeNet(**message)
                answer = net.widths, net.batch_size
            else:
                answer = net.run(message)
        except FishingError as error:
            answer = error
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


class CaffeNet:
    """A gradient net in Caffe.

    `prototxt` and `weights` are files of the current or the V1 format. The other
    parameters are those of `NetSpec` and of `fishing.backends.Backend`. TF32 is only
    checked here: the environment variable CAFFE_TF32 turns it on.
    """

    def __init__(
        self,
        *,
        prototxt: Path,
        weights: Path,
        blobs: dict[str, str],
        input_shape: tuple[int, int, int],
        batch_size: int | None,
        temperature: float,
        device: str,
        tf32: bool = False,
    ) -> None:
        try:
            import caffe
            from caffe.proto import caffe_pb2
        except ImportError as error:
            raise BackendError(
                f"expected patched Caffe, found that it cannot be imported ({error}); "
                "run `make caffe-patched`"
            ) from None
        if not hasattr(caffe_pb2.SoftmaxParameter(), "temperature"):
            raise BackendError(
                "expected Caffe with the patch of this project, found a Caffe whose "
                "SoftmaxWithLoss has no temperature; run `make caffe-patched`"
            )
        gpu = set_device(caffe, device, tf32=tf32)
        self._derived = gradient_net(
            read_net(prototxt),
            blobs,
            temperature=temperature,
            batch_size=batch_size or 1,
            input_shape=input_shape,
        )
        # The file has no name, so that nothing remains of it if Caffe aborts.
        with tempfile.TemporaryFile("w+") as file:
            file.write(str(self._derived.param))
            file.seek(0)
            is_limited = device == "cpu" and sys.platform == "linux"
            if is_limited:  # a new net holds parameters and little else
                _limit_memory(_memory_used() + 2 * weights.stat().st_size + _ROOM)
            self.net = caffe.Net(f"/dev/fd/{file.fileno()}", caffe.TEST)
            if is_limited:
                _limit_memory(os.sysconf("SC_PHYS_PAGES") * resource.getpagesize())
        # Caffe would leave a layer untrained that the file lacks, and abort if the file
        # has parameters of another shape.
        shapes = {
            name: [list(param.shape) for param in params]
            for name, params in self.net.params.items()
        }
        fit_weights(weights, read_weights(weights), shapes)
        self.net.copy_from(str(weights))
        self.widths = {
            name: int(np.prod(self.net.blobs[tap.blob].shape[1:]))
            for name, tap in self._derived.taps.items()
        }
        self.batch_size = batch_size or CPU_BATCH
        if gpu and not batch_size:
            fixed, per_image = _net_bytes(self.net)
            self.batch_size = fitting_batch(gpu.free, fixed, per_image, device)

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch; see `fishing.backends.Backend.run`."""
        source = self.net.blobs[self._derived.input]
        if source.shape[0] != len(data):
            source.reshape(*data.shape)
            self.net.reshape()
        source.data[...] = data
        self.net.forward()
        self.net.backward()
        return {
            # pycaffe returns views of memory that the next pass overwrites
            name: getattr(self.net.blobs[tap.blob], tap.part)
            .reshape(len(data), -1)
            .copy()
            for name, tap in self._derived.taps.items()
        }


def _limit_memory(most: int) -> None:
    """Limit the memory of this process; Caffe aborts if it needs more."""
    kind = resource.RLIMIT_DATA
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _memory_used() -> int:
    """Return how many bytes of the limited kind of memory this process has taken."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[5]) * resource.getpagesize()


def set_device(caffe: Any, device: str, *, tf32: bool = False) -> Gpu | None:
    """Make Caffe use the CPU (then None is returned) or a GPU.

    A BackendError says that there is no such GPU, or that Caffe was not built for it.
    Caffe itself would abort.
    """
    if device == "cpu":
        caffe.set_mode_cpu()
        return None
    file = Path(caffe.__file__).with_name("build.json")
    build = json.loads(file.read_text()) if file.is_file() else {"cuda": False}
    if not build["cuda"]:
        raise BackendError(
            f"expected a Caffe with CUDA for --device {device}, found one built for "
            "the CPU only; run `make caffe-patched CUDA=1` or use --device cpu"
        )
    gpu = find_gpu(device)
    _check_build(build, gpu, device, tf32=tf32)
    caffe.set_device(int(device.removeprefix("gpu:")))
    caffe.set_mode_gpu()
    return gpu


def _check_build(build: dict[str, Any], gpu: Gpu, device: str, *, tf32: bool) -> None:
    """Check that Caffe was built for the driver and the GPU that are there."""
    wanted = tuple(map(int, build["cuda_toolkit"].split(".")[:2]))
    if gpu.driver[0] < wanted[0]:
        raise BackendError(
            f"expected a driver for CUDA {wanted[0]} or later, found one for "
            f"{gpu.driver[0]}.{gpu.driver[1]}; update the driver, or build Caffe with "
            "an older toolkit: `make caffe-patched CUDA=1 CUDA_HOME=...`"
        )
    oldest = min(map(int, build["cuda_architectures"].split()))
    if gpu.capability < oldest:
        raise BackendError(
            f"expected a GPU of compute capability {oldest / 10} or later, found "
            f"{gpu.name} of {gpu.capability / 10}; build Caffe for it with "
            f"`make caffe-patched CUDA=1 CUDA_ARCH={gpu.capability}`"
        )
    if tf32:
        if build["gpu_blas"] != "cuBLAS":
            raise BackendError(
                f"expected a Caffe with cuBLAS for TF32, found {build['gpu_blas']}"
            )
        check_tf32(gpu)


def _net_bytes(net: Any) -> tuple[int, int]:
    """Bound the bytes that a net takes in any case, and for each image.

    Caffe keeps the values of each blob and at most as much again: gradients of some
    blobs, places of maxima, the scale of LRN. Each convolution unfolds one image at a
    time.
    """
    weights = sum(p.data.size for layer in net.params.values() for p in layer)
    unfolded = 0
    for name, params in net.params.items():
        if net.layer_dict[name].type in ("Convolution", "Deconvolution"):
            bottom, top = net.bottom_names[name][0], net.top_names[name][0]
            window = int(np.prod(params[0].shape[2:])) * net.blobs[bottom].shape[1]
            unfolded += window * int(np.prod(net.blobs[top].shape[2:]))
    values = sum(int(np.prod(blob.shape)) for blob in net.blobs.values())
    return 4 * (weights + unfolded), 8 * values
