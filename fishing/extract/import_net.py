"""Make the folder of a net from a published model, and try the net on images."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.backends import check_products
from fishing.errors import NetError
from fishing.extract.in_memory import compute_blobs
from fishing.files import file_sha256, whole_folder
from fishing.images import Preprocess
from fishing.nets import (
    NetSpec,
    blob_shapes,
    copy_onnx,
    find_onnx_head,
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
        weights = copy_onnx(net, unfinished)
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
    preprocess: Preprocess,
    folder: Path,
    *,
    name: str | None = None,
    images: Sequence[Path] = (),
) -> ImportedNet:
    """Make the folder of a net from Caffe's files.

    Parameters
    ----------
    prototxt, caffemodel : Path
        Files of any of Caffe's formats; they are copied.
    preprocess : Preprocess
        Its height and width do not count, since the net has its own.
    folder, name, images
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
    raise NotImplementedError


def default_images() -> list[Path]:
    """Find the photographs that nets are tried on if no others are named."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "images"
    return [folder / file for file in _PHOTOGRAPHS]
