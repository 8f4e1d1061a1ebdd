"""The process that runs Caffe, at the other end of `fishing.backends.caffe`.

In come pickled messages on standard input, out go pickled answers on standard output:
first the settings of the net, answered by the widths of its blobs; then batches,
answered by their blobs. A failed Caffe check aborts this process and no other.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.caffe_files import fit_weights, read_weights
from fishing.errors import BackendError, FishingError


def main() -> None:
    """Serve the process at the other end of the pipe until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what C++ prints must not mix with the answers
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
                answer = net.widths
            else:
                answer = net.run(message)
        except FishingError as error:
            answer = error
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


class CaffeNet:
    """A gradient net in Caffe.

    Parameters
    ----------
    prototxt, weights : Path
        The deploy net and its caffemodel, in the current or the V1 format.
    blobs : dict of str to str
        The net's names of x5, x6, x7, y8 and x8.
    input_size, batch_size : int
    temperature : float
    device : str
        ``cpu`` or ``gpu:N``.

    Raises
    ------
    BackendError
        If patched Caffe cannot be imported or was not built for the device.
    NetError
        If the net or its weights do not fit.
    """

    def __init__(
        self,
        *,
        prototxt: Path,
        weights: Path,
        blobs: dict[str, str],
        input_size: int,
        batch_size: int,
        temperature: float,
        device: str,
    ) -> None:
        try:
            import caffe

            from fishing.backends.caffe_net import gradient_net, read_deploy
        except ImportError as error:
            raise BackendError(
                f"expected patched Caffe, found that it cannot be imported ({error}); "
                "run `make caffe-patched`"
            ) from None
        _set_device(caffe, device)
        self._derived = gradient_net(
            read_deploy(prototxt),
            blobs,
            temperature=temperature,
            batch_size=batch_size,
            input_size=input_size,
        )
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(str(self._derived.param))
            file.flush()
            self._net = caffe.Net(file.name, caffe.TEST)
        # Caffe would leave a layer that the file has not as it was made, and abort at
        # parameters of another shape.
        shapes = {
            name: [list(param.shape) for param in params]
            for name, params in self._net.params.items()
        }
        fit_weights(weights, read_weights(weights), shapes)
        self._net.copy_from(str(weights))
        self.widths = {
            name: int(np.prod(self._net.blobs[tap.blob].shape[1:]))
            for name, tap in self._derived.taps.items()
        }

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch; see `fishing.backends.Backend.run`."""
        source = self._net.blobs[self._derived.input]
        if source.shape[0] != len(data):
            source.reshape(*data.shape)
            self._net.reshape()
        source.data[...] = data
        self._net.forward()
        self._net.backward()
        return {
            # pycaffe hands out views of memory that the next pass overwrites
            name: getattr(self._net.blobs[tap.blob], tap.part)
            .reshape(len(data), -1)
            .copy()
            for name, tap in self._derived.taps.items()
        }


def _set_device(caffe: Any, device: str) -> None:
    """Choose the processor; Caffe itself would abort where there is none."""
    if device == "cpu":
        caffe.set_mode_cpu()
        return
    build = Path(caffe.__file__).with_name("build.json")
    if not build.is_file() or not json.loads(build.read_text())["cuda"]:
        raise BackendError(
            f"expected a Caffe with CUDA for --device {device}, found one built for "
            "the CPU only; run `make caffe-patched CUDA=1` or use --device cpu"
        )
    caffe.set_device(int(device.removeprefix("gpu:")))
    caffe.set_mode_gpu()
