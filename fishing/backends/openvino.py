"""The fast backend for x86-64 processors: the ONNX graph in Intel's OpenVINO.

In bfloat16, which keeps 8 bits of a number, convolutions and inner products run on the
processor's matrix unit (AMX), if it has one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.devices import CPU_BATCH
from fishing.backends.interface import stopped
from fishing.backends.onnx.builder import DATA, TAU
from fishing.backends.onnx.export import write_graph
from fishing.backends.onnx.graph import gradient_graph
from fishing.errors import BackendError, needs_extra
from fishing.nets import NetSpec
from fishing.processes import usable_cores
from fishing.side_effects import no_telemetry

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenvinoBackend:
    """A net in OpenVINO on the CPU; implements `fishing.backends.Backend`.

    Products are computed in `precision`, ``float32`` or ``bfloat16``, which not every
    processor has. Blobs are always float32.
    """

    n_at_once = 1

    def __init__(
        self,
        spec: NetSpec,
        *,
        temperature: float,
        batch_size: int | None,
        device: str,
        precision: str = "float32",
    ) -> None:
        if device != "cpu":
            raise BackendError(
                f"expected --device cpu for OpenVINO, found '{device}'; --backend "
                "caffe and --backend onnx run on GPUs"
            )
        with needs_extra("openvino"), no_telemetry():
            import openvino
        core = openvino.Core()
        if precision == "bfloat16":
            _check_bfloat16(core)
        graph = gradient_graph(spec, native_lrn=True)
        self.widths: dict[str, int] = graph.widths
        self.batch_size = batch_size or CPU_BATCH
        self._tau = np.array(temperature, np.float32)
        settings = {
            # By default OpenVINO chooses the precision by the processor.
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": usable_cores(),
            "NUM_STREAMS": 1,
        }
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "net.onnx"
                write_graph(graph, path)
                compiled = core.compile_model(core.read_model(path), "CPU", settings)
            self._request: Any = compiled.create_infer_request()
        except (OSError, RuntimeError) as error:
            raise stopped("OpenVINO", error) from None

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch; see `fishing.backends.Backend.run`."""
        try:
            self._request.infer({DATA: data, TAU: self._tau})
        except RuntimeError as error:
            raise stopped("OpenVINO", error) from None
        return {
            # The tensor's memory is overwritten by the next pass.
            name: self._request.get_tensor(name).data.copy()
            for name in self.widths
        }

    def close(self) -> None:
        """Release the net and its memory."""
        self._request = None


def _check_bfloat16(core: Any) -> None:
    """Refuse a processor that has no instructions for bfloat16 or emulates them."""
    found = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in found:
        raise BackendError(
            "expected a processor with instructions for bfloat16 (AMX or AVX-512), "
            f"found one with {' '.join(sorted(found))}; use --backend openvino"
        )
