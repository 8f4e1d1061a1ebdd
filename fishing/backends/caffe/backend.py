"""The reference backend: patched Caffe in a separate process.

A failed check of Caffe aborts its process; here it becomes an error with Caffe's own
message. pycaffe holds Python's lock while it computes; in a separate process it leaves
this one free to read images.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.devices import parse_device
from fishing.errors import BackendError, FishingError
from fishing.nets import NetSpec, weights_path
from fishing.processes import python_command

_START = "from fishing.backends.caffe.process import main; main()"
# A fatal line of glog: F0131 12:34:56.789012 4711 net.cpp:313] Check failed: ...
_FATAL = re.compile(r"^F\d{4,8} .*?\] (.*)$", re.MULTILINE)


class CaffeBackend:
    """A net in patched Caffe; implements `fishing.backends.Backend`.

    OpenBLAS uses `n_threads` threads, or by default as many as it chooses.
    """

    n_at_once = 1

    def __init__(
        self,
        spec: NetSpec,
        *,
        temperature: float,
        batch_size: int | None,
        device: str,
        tf32: bool = False,
        n_threads: int | None = None,
    ) -> None:
        (device,) = parse_device(device)
        settings = {
            "prototxt": spec.model,
            "weights": weights_path(spec),
            "blobs": dict(spec.blobs),
            "input_shape": spec.preprocess.shape,
            "batch_size": batch_size,
            "temperature": temperature,
            "device": device,
            "tf32": tf32,
        }
        # This file receives Caffe's last message if Caffe stops, but no warnings.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            python_command(_START),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                "GLOG_minloglevel": "2",
                **({"CAFFE_TF32": "1"} if tf32 else {}),
                **({"OPENBLAS_NUM_THREADS": str(n_threads)} if n_threads else {}),
            },
        )
        try:
            self.widths: dict[str, int]
            self.batch_size: int
            self.widths, self.batch_size = self._ask(settings)
        except BaseException:
            self.close()
            raise

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch; see `fishing.backends.Backend.run`."""
        answer: dict[str, NDArray[np.float32]] = self._ask(data)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _ask(self, message: Any) -> Any:
        """Send one message to the process, and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise BackendError(f"Caffe stopped: {self._last_words()}") from None
        if isinstance(answer, FishingError):
            raise answer
        return answer

    def _last_words(self) -> str:
        """Find the message with which Caffe stopped, in one line."""
        code = self._process.wait()
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace")
        fatal = _FATAL.findall(text)
        lines = fatal or text.strip().splitlines()[-1:] or ["it said nothing"]
        return f"{lines[0].strip()} (exit code {code})"
