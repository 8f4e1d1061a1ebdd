"""Features files of other temperatures, made without images and convolutions.

Activations do not depend on the temperature. Gradients at another temperature follow
from them and from the weights of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_run
from fishing.errors import StoreError
from fishing.extract.derived_file import (
    Compute,
    check_not_projected,
    finite,
    was_derived,
    write_derived,
)
from fishing.extract.head_gradient import gradient, read_steps
from fishing.extract.step import Step
from fishing.nets import NetSpec, recorded_net
from fishing.nets.blobs import LAST, backward_blob, forward_blob, head_names
from fishing.progress import Progress, silent
from fishing.store import (
    FeaturesFile,
    Split,
    remember_data,
    remembered_data,
    with_storage,
)

# How many steps of eq. 10 lead from the logits to each gradient.
_DEPTHS = {backward_blob(k): LAST - k for k in range(1, LAST + 1)}


def temper(
    path: Path,
    output: Path | str,
    temperatures: Sequence[float],
    *,
    spec: NetSpec | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Write features files of other temperatures from an existing one.

    Each equals, up to rounding, the file that an extraction at that temperature writes.
    Outputs that exist already are left alone.

    Parameters
    ----------
    path : Path
        The features file. Its values must be of float32.
    output : Path or str
        The file to write. ``{tau}`` in it stands for the temperature, and is required
        if there are several temperatures.
    temperatures : sequence of float
        Positive values of tau in eq. 10.
    spec : NetSpec, optional
        The net of the features file. By default, the one under models/ that it names.
    progress : Progress
        Counts bytes: those that are verified, then those of each output.

    Returns
    -------
    list of Path
        One output for each temperature.

    Raises
    ------
    StoreError
        If the features file is missing, damaged, of float16, or lacks blobs of the
        head; or if an output is another file, or cannot be written.
    NetError
        If a temperature is not allowed; if the net or its weights are missing, or are
        not those of the features file; or if activations of the head do not determine
        f'.
    """
    outputs = _outputs(str(output), temperatures)
    with FeaturesFile(path) as file:
        _check_values(file)
        todo = {
            target: tau
            for target, tau in outputs.items()
            if not was_derived(target, _settings(tau, file), file)
        }
        if todo:
            spec = recorded_net(file.settings, file.path, spec)
            file.verify(progress)  # damage must not get new checksums
            steps = read_steps(spec, _widths(file))
            for target, tau in todo.items():
                settings, compute = _settings(tau, file), _tempered(tau, steps)
                write_derived(target, settings, file, compute, progress)
                if data := remembered_data(path):
                    remember_data(target, data)
    return list(outputs)


def _outputs(pattern: str, temperatures: Sequence[float]) -> dict[Path, float]:
    """Name the output of each temperature."""
    outputs: dict[Path, float] = {}
    for tau in temperatures:
        check_run(tau, None)
        name = repr(float(tau)).removesuffix(".0")
        path = Path(pattern.replace("{tau}", name))
        if outputs.setdefault(path, float(tau)) != tau:
            raise StoreError(
                "expected {tau} in the name of the outputs, to stand for each of the "
                f"temperatures, found '{pattern}'; name them t{{tau}}.h5, for example"
            )
    return outputs


def _settings(tau: float, file: FeaturesFile) -> dict[str, Any]:
    return {**file.settings, "temperature": tau}


def _check_values(file: FeaturesFile) -> None:
    """Refuse projected values, and rounded logits: the softmax magnifies errors."""
    check_not_projected(file)
    dtype = with_storage(file.settings)["dtype"]
    if dtype != "float32":
        raise StoreError(
            f"{file.path}: expected blobs of float32, found {dtype}, which is too "
            "coarse for the softmax; extract anew with --temperature"
        )


def _widths(file: FeaturesFile) -> dict[str, int]:
    """Count the values per image of each blob; refuse a file that lacks one."""
    split = next(iter(file.splits.values()))
    widths = {name: rows.shape[1] for name, rows in split.blobs.items()}
    depths = [_DEPTHS[name] for name in widths if name in _DEPTHS]
    needed = map(forward_blob, head_names(max(depths) + 1)[1:-1]) if depths else ()
    missing = [name for name in needed if name not in widths]
    if missing or not depths:
        raise StoreError(
            f"{file.path}: expected {missing[0] if missing else 'gradients'}, found "
            f"{' '.join(widths)}; extract all features, or extract anew with "
            "--temperature"
        )
    return widths


def _tempered(tau: float, steps: Sequence[Step]) -> Compute:
    """Compute blobs at another temperature."""

    def compute(split: Split, blob: str, key: Any) -> NDArray[np.float32]:
        if blob not in _DEPTHS:
            return finite(split.blobs[blob][key], blob, "extract anew")
        return finite(
            gradient(split.blobs, steps[: _DEPTHS[blob]], tau, key),
            f"gradients at temperature {tau:g}",
            "choose another temperature",
        )

    return compute
