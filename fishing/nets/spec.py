"""Read what the folder of a net, such as `models/vgg16/`, says about it.

The folder holds `net.toml`, the model (`deploy.prototxt` or `model.onnx`) and, if they
are small, the weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fishing.errors import NetError
from fishing.files import file_sha256
from fishing.images import Preprocess
from fishing.nets.blobs import LAST, head_names
from fishing.nets.net_toml import read_net_toml

#: The files that can be the model of a net.
MODELS = ("deploy.prototxt", "model.onnx")


@dataclass(frozen=True)
class Weights:
    """The weights file of a net, as `net.toml` records it."""

    file: str  # name, without a folder
    size: int | None  # bytes
    sha256: str | None  # 64 hexadecimal digits in lower case
    sources: tuple[str, ...]  # http(s) addresses that are known to have this file
    licence: str  # the terms of the weights
    sha1: str | None = None  # 40 digits, where a source publishes no SHA-256

    @property
    def checksum(self) -> tuple[str, str] | None:
        """The name and the digits of the checksum on record, SHA-256 before SHA-1."""
        if self.sha256 is not None:
            return "SHA-256", self.sha256
        return None if self.sha1 is None else ("SHA-1", self.sha1)


@dataclass(frozen=True)
class NetSpec:
    """A net: its files, its input and the names of its blobs."""

    name: str
    title: str  # a line that describes the net
    folder: Path
    model: Path  # the prototxt or the ONNX model
    preprocess: Preprocess  # how an image becomes an input of the net
    blobs: dict[str, str]  # names of `head_names` to those in the prototxt
    weights: Weights

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX model, and not a prototxt."""
        return self.model.suffix == ".onnx"

    @property
    def net_sha256(self) -> str:
        """SHA-256 of the model's bytes."""
        return file_sha256(self.model)


def load_net(net: str) -> NetSpec:
    """Read the description of a net.

    Parameters
    ----------
    net : str
        A name that `net_names` lists, or the path of a folder like those of models/. If
        the folder has the name of a known net, write it with a slash: `./vgg16`.

    Returns
    -------
    NetSpec

    Raises
    ------
    NetError
        If there is no such net, if a file is missing, or if `net.toml` is malformed.

    Examples
    --------
    >>> spec = load_net("vgg16")
    >>> spec.preprocess.shape, spec.blobs["x7"]
    ((3, 224, 224), 'fc7')
    """
    known = net_names()
    folder = models_folder() / net if net in known else Path(net)
    if not net or not os.path.isdir(folder):
        raise NetError(
            f"expected one of the nets {', '.join(known)} or the folder of a net, "
            f"found {net!r}; name one of these"
        )
    toml = folder / "net.toml"
    models = [path for name in MODELS if (path := folder / name).is_file()]
    if not toml.is_file() or len(models) != 1:
        found = [path.name for path in (toml, *models) if path.is_file()]
        raise NetError(
            f"expected net.toml and one of {' and '.join(MODELS)} in {folder}, found "
            f"{' and '.join(found) or 'neither'}; `fishing import` makes such a folder"
        )
    return _read(toml, models[0])


def net_names() -> list[str]:
    """List the nets that come with the project, in alphabetical order."""
    return sorted(path.parent.name for path in models_folder().glob("*/net.toml"))


def models_folder() -> Path:
    """Find models/ inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if folder.is_dir():
            return folder
    raise NetError(
        f"expected the folder models in {package} or {package.parent}, found neither; "
        "install fishing again"
    )


def _read(toml: Path, model: Path) -> NetSpec:
    """Make a NetSpec of what net.toml says."""
    found = read_net_toml(toml)
    weights = found["weights"]
    return NetSpec(
        name=found["name"],
        title=found["title"],
        folder=toml.parent,
        model=model,
        preprocess=_preprocess(toml, found["input"]),
        blobs={
            name: found["blobs"][name]
            for name in head_names(LAST)
            if name in found["blobs"]
        },
        weights=Weights(
            file=weights["file"],
            size=weights.get("size"),
            sha256=weights.get("sha256"),
            sources=tuple(weights.get("sources", ())),
            licence=weights.get("licence", ""),
            sha1=weights.get("sha1"),
        ),
    )


def _preprocess(toml: Path, table: dict[str, Any]) -> Preprocess:
    """Make a Preprocess of the table [input], in which defaults may be left out."""
    size, mean = table["size"], tuple(map(float, table["mean"]))
    height, width = size if isinstance(size, list) else (size, size)
    given = {key: v for key, v in table.items() if key not in ("size", "mean")}
    if isinstance(given.get("resize"), list):
        given["resize"] = tuple(given["resize"])
    scale = given.pop("scale", 1)
    scales = scale if isinstance(scale, list) else [scale] * len(mean)
    given["scale"] = tuple(map(float, scales))
    try:
        return Preprocess(height, width, mean=mean, **given)
    except NetError as error:
        raise NetError(f"{toml}: {error}") from None
