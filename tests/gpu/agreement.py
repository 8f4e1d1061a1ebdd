"""Compare the device with the CPU: blobs, and the table of caltech20."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends import open_backend
from fishing.errors import FishingError
from fishing.nets import BLOBS, NetSpec, load_net
from report import NotRunError, Section

Blobs = Mapping[str, NDArray[np.float32]]

TAU = 2.0
#: A share of the largest value of a blob, for float32 sums in another order.
TOLERANCE = 1e-4
#: The share of images that may have a unit which is active on one device alone.
MOST_FLIPPED = 0.5
#: In points of mean average precision.
TABLE_TOLERANCE = 0.3
N_IMAGES = 8


def made_images(n: int, size: int) -> NDArray[np.float32]:
    """Make smooth random images in the range of real ones minus the mean."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(-120, 130, (n, 3, 8, 8))
    fine = coarse.repeat(-(-size // 8), 2).repeat(-(-size // 8), 3)[..., :size, :size]
    return (fine + rng.normal(0, 10, fine.shape)).astype(np.float32)


def caffe_blobs(spec: NetSpec, device: str, *, tf32: bool = False) -> Blobs:
    """Run a few images through patched Caffe."""
    data = made_images(N_IMAGES, spec.preprocess.height)
    net = open_backend(
        "caffe", spec, temperature=TAU, batch_size=len(data), device=device, tf32=tf32
    )
    try:
        return net.run(data)
    finally:
        net.close()


def compare_blobs(spec: NetSpec, device: str) -> Section:
    """Compare all blobs of a few images, and measure the effect of TF32 on them."""
    cpu = caffe_blobs(spec, "cpu")
    section = compare(cpu, caffe_blobs(spec, device))
    if device == "cpu":
        return section
    try:
        rough = compare(cpu, caffe_blobs(spec, device, tf32=True))
    except FishingError as error:
        return section._replace(text=f"{section.text} TF32 not tried: {error}.")
    rows = [[*a, b[1]] for a, b in zip(section.rows, rough.rows, strict=True)]
    return section._replace(head=[*section.head, "with TF32"], rows=rows)


def compare(a: Blobs, b: Blobs) -> Section:
    """Compare the blobs of two backends.

    Gradients are compared only for images whose ReLUs agree. A unit that is zero up to
    rounding may be active in one backend and inactive in the other, and then its
    gradient passes or does not.
    """
    flipped = np.zeros(len(a[BLOBS[0]]), bool)
    for name in ("forward/x6", "forward/x7"):
        flipped |= ((a[name] > 0) != (b[name] > 0)).any(axis=1)
    rows: list[list[Any]] = []
    good = flipped.mean() <= MOST_FLIPPED
    for name in BLOBS:
        keep = ~flipped if name.startswith("backward") else np.ones_like(flipped)
        x, y = a[name][keep].astype(float), b[name][keep].astype(float)
        error = np.abs(x - y).max() / np.abs(x).max() if len(x) else np.nan
        rows.append([name, f"{error:.1e}", f"{TOLERANCE:.0e}"])
        good &= bool(error <= TOLERANCE) or not len(x)
    text = (
        f"Largest difference of {len(flipped)} images by the largest value; in "
        f"{flipped.sum()} of them a ReLU flips, whose gradients are left out."
    )
    status = "passed" if good else "failed"
    return Section("", status, text, ["blob", "difference", "allowed"], rows)


def table(data: Path | None, device: str, folder: Path) -> Section:
    """Compare mean average precisions on caltech20 with the reference.

    Raises
    ------
    NotRunError
        If the data or a library is missing.
    """
    beside = Path(__file__).resolve().parent.parent.parent.parent  # of a checkout
    data = data or beside / "shared" / "data" / "caltech20"
    if not data.is_dir():
        raise NotRunError(f"no data in {data}; name the folder with --data")
    missing = [name for name in ("cv2", "h5py", "sklearn") if find_spec(name) is None]
    if missing:
        raise NotRunError(f"no {' '.join(missing)} in this Python")
    spec = load_net("tinyalexnet")
    reference = reference_table(spec)
    found = {"found": mean_precisions(spec, data, device, folder / "caltech20.h5")}
    text = ""
    if device != "cpu":
        try:
            found["with TF32"] = mean_precisions(
                spec, data, device, folder / "tf32.h5", tf32=True
            )
        except FishingError as error:
            text = f"TF32 not tried: {error}."
    head = ["feature", "reference", *found]
    rows = [
        [name, f"{value:.1f}", *(f"{column[name]:.1f}" for column in found.values())]
        for name, value in reference.items()
    ]
    far = max(abs(found["found"][name] - value) for name, value in reference.items())
    status = "passed" if far <= TABLE_TOLERANCE else "failed"
    return Section("", status, text, head, rows)


def reference_table(spec: NetSpec) -> dict[str, float]:
    """Read the figures of an independent implementation."""
    text = (spec.folder / "PROVENANCE.md").read_text()
    figures = re.findall(r"((?:[xyd]W?\d\+?)+) (\d+\.\d)[,.]", text)
    return {name: float(value) for name, value in figures}


def mean_precisions(
    spec: NetSpec, data: Path, device: str, output: Path, *, tf32: bool = False
) -> dict[str, float]:
    """Extract with Caffe, evaluate, and return mean average precisions in per cent."""
    from fishing.evaluate import evaluate
    from fishing.extract import extract
    from fishing.images import read_splits
    from fishing.store import ExtractionSettings

    lists = read_splits(data, ["trainval", "test"])
    extract(
        ExtractionSettings(spec, backend="caffe", tf32=tf32),
        lists,
        output,
        device=device,
    )
    record = evaluate(output, protocol="voc2007").record
    return {name: 100 * r["mAP"] for name, r in record["features"].items()}
