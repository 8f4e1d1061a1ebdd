"""The portable backend: the ONNX graph in ONNX Runtime, on the CPU or a GPU."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from fishing.backends.devices import (
    CPU_BATCH,
    check_tf32,
    find_gpu,
    fitting_batch,
    parse_device,
)
from fishing.backends.interface import stopped
from fishing.backends.onnx.builder import DATA, TAU, Graph
from fishing.backends.onnx.export import external_tensor
from fishing.backends.onnx.graph import gradient_graph, graph_bytes
from fishing.errors import BackendError
from fishing.nets import NetSpec
from fishing.processes import usable_cores
from fishing.side_effects import no_telemetry

with no_telemetry():
    import onnxruntime

_CUDA = "CUDAExecutionProvider"


class OnnxBackend:
    """A net in ONNX Runtime; implements `fishing.backends.Backend`."""

    n_at_once = 1

    def __init__(
        self,
        spec: NetSpec,
        *,
        temperature: float,
        batch_size: int | None,
        device: str,
        tf32: bool = False,
    ) -> None:
        providers = _providers(device, tf32=tf32)
        graph = gradient_graph(spec)
        self.batch_size = graph.batch or batch_size or CPU_BATCH
        self._fixed_batch = graph.batch
        if device != "cpu" and not batch_size:
            fixed, per_image = graph_bytes(graph)
            free = find_gpu(device).free
            self.batch_size = fitting_batch(free, fixed, per_image, device)
        self.widths: dict[str, int] = graph.widths
        self._tau = np.array(temperature, np.float32)
        self._session: Any = open_session(graph, providers)

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch; see `fishing.backends.Backend.run`."""
        names, n = list(self.widths), len(data)
        if self._fixed_batch is not None:  # fill up the last batch
            data = np.resize(data, (self._fixed_batch, *data.shape[1:]))
        try:
            found = self._session.run(names, {DATA: data, TAU: self._tau})
        except Exception as error:  # its errors have no common base
            raise stopped("ONNX Runtime", error) from None
        return {name: rows[:n] for name, rows in zip(names, found, strict=True)}

    def close(self) -> None:
        """Release the net and its memory."""
        self._session = None


def _providers(device: str, *, tf32: bool) -> list[Any]:
    """List the execution providers for a device, the preferred one first."""
    (device,) = parse_device(device)
    if device == "cpu":
        return ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if _CUDA not in available:
        raise BackendError(
            f"expected an ONNX Runtime with CUDA for --device {device}, found one with "
            f"{' '.join(available)}; install onnxruntime-gpu in place of onnxruntime, "
            "or use --device cpu"
        )
    gpu = find_gpu(device)  # raises an error if there is no such GPU
    if tf32:
        check_tf32(gpu)
    if hasattr(onnxruntime, "preload_dlls"):
        # NVIDIA's wheels lie where no loader looks. What this prints must not mix with
        # the output of a command.
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    settings = {
        "device_id": int(device.removeprefix("gpu:")),
        # TF32 keeps 10 bits of a number, too few to agree with Caffe.
        "use_tf32": int(tf32),
        # The exhaustive search takes what is fastest at the moment. That changes the
        # order of sums, and needs gigabytes that the batch size does not allow for.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Allocate what is requested, and not the next power of two.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(_CUDA, settings), "CPUExecutionProvider"]


def open_session(graph: Graph, providers: list[Any]) -> Any:
    """Load a graph into ONNX Runtime, which reads the weights from numpy's arrays.

    `providers` are execution providers by ONNX Runtime's names, the preferred one
    first. If that one does not start, a BackendError says so.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    large = {name: a for name, a in graph.initializers.items() if a.nbytes >= 1024}
    tensors = [
        external_tensor(name, array, location=name)
        if name in large
        else numpy_helper.from_array(array, name)
        for name, array in graph.initializers.items()
    ]
    # ONNX Runtime copies these while it loads, so that they need not be aligned.
    arrays = [np.require(array, requirements="C") for array in large.values()]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    options.add_external_initializers(list(large), values)
    model = graph.model(tensors).SerializeToString()
    try:
        # It must not fall back to the CPU, neither now nor in the middle of a run.
        session = onnxruntime.InferenceSession(
            model, options, providers, enable_fallback=0
        )
    except Exception as error:
        raise stopped("ONNX Runtime", error) from None
    first = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    if first not in session.get_providers():
        raise BackendError(
            f"expected {first} to start, found that ONNX Runtime could not load it; "
            "read its warnings, run `pip install 'onnxruntime-gpu[cuda,cudnn]'`, or "
            "use --device cpu"
        )
    return session
