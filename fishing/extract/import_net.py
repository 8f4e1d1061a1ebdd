"""Make the folder of a net from a published model, and try the net on images."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_products
from fishing.errors import NetError
from fishing.extract.in_memory import compute_blobs
from fishing.files import file_sha256, whole_folder
from fishing.images import Preprocess
from fishing.nets import (
    NetSpec,
    copy_onnx,
    find_onnx_head,
    image_shape,
    load_net,
    prepare_net,
    propose_blobs,
    propose_onnx_blobs,
    read_net,
    read_onnx,
)
from fishing.store import ExtractionSettings

# The photographs of scikit-learn, which are there wherever this package is.
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# What Caffe's nets of ImageNet subtract (B, G, R), by the number of channels.
_MEANS = {1: (0.0,), 3: (104.0, 117.0, 123.0)}


class ImportedNet(NamedTuple):
    """A net that was imported.

    Attributes
    ----------
    spec : NetSpec
    head : str
        The head in words, such as "1 inner product, fc1000 over pool5".
    blobs : dict of str to ndarray of float32, shape (n_images, d)
        By name, the blobs of the images on which the net was tried.
    """

    spec: NetSpec
    head: str
    blobs: dict[str, NDArray[np.float32]]


def import_onnx(
    model: Path,
    preprocess: Preprocess,
    folder: Path,
    *,
    name: str | None = None,
    images: Sequence[Path] = (),
) -> ImportedNet:
    """Make the folder of a net from a classifier in ONNX.

    The head is found by what the nodes compute. That its products are x W + b = y is
    checked on images before the folder gets its name.

    Parameters
    ----------
    model : Path
        Weights outside of the model must lie beside it; they are copied along.
    preprocess : Preprocess
        How images become inputs, which the file does not say.
    folder : Path
        It must not exist, or be empty.
    name : str, optional
        Name of the net; by default that of the folder.
    images : sequence of Path, optional
        Images to try the net on; by default two photographs.

    Returns
    -------
    ImportedNet

    Raises
    ------
    NetError
        If the model is no classifier with a head, or `folder` is not empty.
    DataError
        If an image cannot be read.
    """
    net = read_onnx(model)
    blobs = propose_onnx_blobs(net)
    head = find_onnx_head(net, blobs["y8"]).describe()
    with _new_folder(folder) as unfinished:
        weights = copy_onnx(model, unfinished)
        title = f"{model.stem}, imported from ONNX"
        _describe(unfinished, name or folder.name, title, preprocess, blobs, weights)
        spec = load_net(str(unfinished))
        paths = list(images) or default_images()
        check_products(spec, np.stack([preprocess(path) for path in paths]))
        found = _try(spec, paths)
    return ImportedNet(load_net(str(folder)), head, found)


def import_caffe(
    prototxt: Path,
    caffemodel: Path,
    folder: Path,
    *,
    mean: Sequence[float] | None = None,
    scale: float = 1.0,
    name: str | None = None,
    images: Sequence[Path] = (),
) -> ImportedNet:
    """Make the folder of a net from Caffe's files.

    Parameters
    ----------
    prototxt, caffemodel : Path
        Files of any of Caffe's formats; they are copied.
    folder : Path
        It must not exist, or be empty.
    mean : sequence of float, optional
        Values (0-255) to subtract from each channel. A warning says that 104 117 123
        are taken (B, G, R; 0 for a grey net) if it is left out.
    scale : float
        Factor of the differences.
    name, images
        See `import_onnx`.

    Returns
    -------
    ImportedNet

    Raises
    ------
    NetError
        If the net has no head, the files do not fit, or `folder` is not empty.
    DataError
        If an image cannot be read.
    """
    net = read_net(prototxt)
    blobs = propose_blobs(net.layer)
    preprocess = _caffe_preprocess(image_shape(net.layer), mean, scale)
    with _new_folder(folder) as unfinished:
        shutil.copyfile(prototxt, unfinished / "deploy.prototxt")
        shutil.copyfile(caffemodel, unfinished / caffemodel.name)
        title = f"{net.name or prototxt.stem}, imported from Caffe"
        _describe(
            unfinished, name or folder.name, title, preprocess, blobs, caffemodel.name
        )
        spec = load_net(str(unfinished))
        head = prepare_net(spec).head.describe()
        found = _try(spec, list(images) or default_images())
    return ImportedNet(load_net(str(folder)), head, found)


def default_images() -> list[Path]:
    """Find the photographs that nets are tried on if no others are named."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "images"
    return [folder / file for file in _PHOTOGRAPHS]


def _caffe_preprocess(
    shape: Sequence[int], mean: Sequence[float] | None, scale: float
) -> Preprocess:
    """Prepare images as Caffe does, for a net of 3 channels or a grey one."""
    n_channels, height, width = shape
    if n_channels not in _MEANS:
        raise NetError(
            f"expected a net of images of 3 channels or of 1, found {n_channels}"
        )
    if mean is None:
        mean = _MEANS[n_channels]
        logging.getLogger("fishing").warning(
            "nothing says which mean the net subtracts from its images; %s is taken "
            "(--mean names another)",
            " ".join(f"{value:g}" for value in mean),
        )
    if len(mean) != n_channels:
        raise NetError(
            f"expected a mean of {n_channels} channels, found one of {len(mean)}"
        )
    return Preprocess(
        height,
        width,
        channels="BGR" if n_channels == 3 else "grey",
        mean=tuple(float(value) for value in mean),
        scale=(scale,) * n_channels,
    )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder; an error of the system becomes a NetError."""
    try:
        with whole_folder(folder) as unfinished:
            yield unfinished
    except FileExistsError:
        raise NetError(
            f"expected to make the folder {folder}, found that it exists and is not "
            "empty; choose another --output"
        ) from None


def _try(spec: NetSpec, images: Sequence[Path]) -> dict[str, NDArray[np.float32]]:
    """Run images through the net, and check that all blobs are finite."""
    found = compute_blobs(ExtractionSettings(spec, "onnx"), images)
    for blob, rows in found.items():
        if not np.isfinite(rows).all():
            raise NetError(
                f"expected finite blobs of {spec.name}, found NaN or infinity in "
                f"{blob}; the weights or the preprocessing do not fit the net"
            )
    return found


def _describe(
    folder: Path,
    name: str,
    title: str,
    preprocess: Preprocess,
    blobs: Mapping[str, str],
    weights: str,
) -> None:
    """Write net.toml, with the size and the SHA-256 of the weights."""
    path = folder / weights
    tables = {
        "": {"name": name, "title": title},
        "input": preprocess.describe(),
        "blobs": blobs,
        "weights": {
            "file": weights,
            "size": path.stat().st_size,
            "sha256": file_sha256(path),
        },
    }
    lines = []
    for table, values in tables.items():
        lines += [f"\n[{table}]"] if table else []
        # JSON's texts, numbers, lists and booleans are written as those of TOML.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    (folder / "net.toml").write_text("\n".join([*lines, ""]), encoding="utf-8")
