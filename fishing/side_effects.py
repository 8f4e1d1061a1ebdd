"""Keeps libraries from telling others of this machine and from writing into HOME.

Modules that need such a library import it within one of these contexts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Import ONNX Runtime or OpenVINO in the block without their telemetry.

    ONNX Runtime would write an id of the machine and look up an address, and OpenVINO
    would report its import. Both would do so again in child processes.

    >>> with no_telemetry():
    ...     import onnxruntime
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None  # OpenVINO does without it
    yield
    if "onnxruntime" in modules:  # it may have been imported before
        modules["onnxruntime"].disable_telemetry_events()


@contextmanager
def no_configuration() -> Iterator[None]:
    """Import Matplotlib in the block without its files in HOME, unless they are there.

    It makes folders for its settings and for a list of fonts; here these lie in a
    folder that is removed at the end of the block.
    """
    is_set = "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules
    if is_set or all(map(os.path.isdir, _matplotlib_folders())):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def _matplotlib_folders() -> list[str]:
    """Name the folders in which Matplotlib keeps settings and the list of fonts."""
    places = (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache"))
    return [
        os.path.join(
            os.environ.get(variable) or os.path.expanduser(usual), "matplotlib"
        )
        for variable, usual in places
    ]
