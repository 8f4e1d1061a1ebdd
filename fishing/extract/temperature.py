"""Features files of other temperatures, made without images and convolutions.

Activations do not depend on the temperature. Gradients at another temperature follow
from them and from the weights of the head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_run
from fishing.errors import StoreError, one_line
from fishing.extract.head_gradient import gradient, read_steps
from fishing.extract.step import Step
from fishing.files import whole_file
from fishing.nets import NetSpec, recorded_net
from fishing.nets.blobs import LAST, backward_blob, forward_blob, head_names
from fishing.progress import Progress, silent
from fishing.store import (
    FeaturesFile,
    Rows,
    Split,
    remember_data,
    remembered_data,
    with_storage,
    write_features,
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
        _check_dtype(file)
        todo = {o: tau for o, tau in outputs.items() if not _is_there(o, tau, file)}
        if todo:
            spec = recorded_net(file.settings, file.path, spec)
            file.verify(progress)  # damage must not get new checksums
            steps = read_steps(spec, _widths(file))
            for target, tau in todo.items():
                _write(target, tau, file, steps, progress)
                if data := remembered_data(path):
                    remember_data(target, data)
    return list(outputs)


class _Computed:
    """Rows that are computed when they are sliced, as `fishing.store.Rows`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        compute: Callable[[Any], NDArray[np.float32]],
        report: Callable[[int], None],
    ) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._compute, self._report = compute, report

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        values = self._compute(key)
        self._report(values.nbytes)
        return values


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


def _is_there(output: Path, tau: float, file: FeaturesFile) -> bool:
    """Tell whether an output was made before; refuse to replace any other file."""
    if not output.exists():
        return False
    try:
        with FeaturesFile(output) as other:
            same_settings = other.settings == _settings(tau, file)
            is_same = same_settings and _lists(other) == _lists(file)
    except StoreError:
        is_same = False
    if not is_same:
        raise StoreError(
            f"expected no file at {output}, or the one made from {file.path} at "
            f"temperature {tau:g}, found another; remove it, or choose another --output"
        )
    return True


def _lists(file: FeaturesFile) -> dict[str, str]:
    return {name: split.list_sha256 for name, split in file.splits.items()}


def _check_dtype(file: FeaturesFile) -> None:
    """Refuse rounded logits, because the softmax magnifies their errors."""
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


def _write(
    output: Path,
    tau: float,
    file: FeaturesFile,
    steps: Sequence[Step],
    progress: Progress,
) -> None:
    """Write one output."""
    blobs = [rows for split in file.splits.values() for rows in split.blobs.values()]
    total = sum(4 * rows.shape[0] * rows.shape[1] for rows in blobs)
    done = 0

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(output.name, done, total, "B")

    splits = {
        name: _tempered(split, tau, steps, report)
        for name, split in file.splits.items()
    }
    try:
        with whole_file(output) as unfinished:
            write_features(unfinished, _settings(tau, file), splits)
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{output} cannot be made of {file.path}: {one_line(error)}; correct that "
            "and run the same command again"
        ) from None


def _tempered(
    split: Split, tau: float, steps: Sequence[Step], report: Callable[[int], None]
) -> Split:
    """View a split at another temperature."""

    def compute(name: str) -> Callable[[Any], NDArray[np.float32]]:
        if name not in _DEPTHS:
            return lambda key: _finite(split.blobs[name][key], name, "extract anew")
        return lambda key: _finite(
            gradient(split.blobs, steps[: _DEPTHS[name]], tau, key),
            f"gradients at temperature {tau:g}",
            "choose another temperature",
        )

    blobs: dict[str, Rows] = {
        name: _Computed(rows.shape, compute(name), report)
        for name, rows in split.blobs.items()
    }
    return dataclasses.replace(split, blobs=blobs)


def _finite(values: NDArray[np.float32], what: str, advice: str) -> NDArray[np.float32]:
    """Return values; refuse NaN and infinity, of which no kernel can be made."""
    if not np.isfinite(values).all():
        raise StoreError(f"expected finite {what}, found NaN or infinity; {advice}")
    return values
