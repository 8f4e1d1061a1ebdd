"""Nets: what `models/<net>/` says about a net, and where its weights lie.

In goes the name of a net, or a folder of the same form: `deploy.prototxt`, `net.toml`
and, where they are small, the weights. Out come a `NetSpec`, checked key by key, and
the path of the weights.
"""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fishing.errors import NetError
from fishing.files import file_sha256
from fishing.nets.blobs import head_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_INPUT_SIZE = 2048
_MAX_TOML_BYTES = 2**16


@dataclass(frozen=True)
class Weights:
    """The weights file of a net, as `net.toml` records it."""

    file: str  # name, without a folder
    size: int | None  # bytes
    sha256: str | None  # 64 hexadecimal digits in lower case
    sources: tuple[str, ...]  # http(s) addresses known to hold the same bytes
    licence: str  # the terms of the weights


@dataclass(frozen=True)
class NetSpec:
    """A net: its files, its input and the names of its blobs."""

    name: str
    title: str  # a line that describes the net
    folder: Path
    prototxt: Path
    input_size: int  # pixels: the shortest side, and of the crop from the centre
    mean: tuple[float, float, float]  # of B, G and R, which run from 0 to 255
    blobs: dict[str, str]  # the paper's x5, x6, x7, y8, x8 to names in the prototxt
    weights: Weights

    @property
    def net_sha256(self) -> str:
        """SHA-256 of the prototxt's bytes."""
        return file_sha256(self.prototxt)


def load_net(net: str) -> NetSpec:
    """Read the description of a net.

    Parameters
    ----------
    net : str
        A name that `net_names` lists, or the path of a folder of the same form. A
        folder that shares its name with a known net is written with a slash: `./vgg16`.

    Returns
    -------
    NetSpec

    Raises
    ------
    NetError
        If there is no such net, a file is missing, or `net.toml` is malformed.

    Examples
    --------
    >>> spec = load_net("vgg16")
    >>> spec.input_size, spec.blobs["x7"]
    (224, 'fc7')
    """
    known = net_names()
    folder = models_folder() / net if net in known else Path(net)
    if not net or not os.path.isdir(folder):
        raise NetError(
            f"expected one of the nets {', '.join(known)} or the folder of a net, "
            f"found {net!r}; name one of these"
        )
    toml, prototxt = folder / "net.toml", folder / "deploy.prototxt"
    for path in (toml, prototxt):
        if not path.is_file():
            raise NetError(
                f"expected {path}, found no such file; a net's folder holds "
                "net.toml and deploy.prototxt"
            )
    return _read(toml, prototxt)


def net_names() -> list[str]:
    """List the nets that come with the project, in alphabetical order."""
    return sorted(path.parent.name for path in models_folder().glob("*/net.toml"))


def models_folder() -> Path:
    """Find models/: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if folder.is_dir():
            return folder
    raise NetError(
        f"expected the folder models in {package} or {package.parent}, found neither; "
        "install fishing again"
    )


def _read(toml: Path, prototxt: Path) -> NetSpec:
    try:
        with toml.open("rb") as file:
            text = file.read(_MAX_TOML_BYTES + 1)
        if len(text) > _MAX_TOML_BYTES:
            raise ValueError(f"more than {_MAX_TOML_BYTES} bytes")
        found = tomllib.loads(text.decode())
    # A number may have more digits than Python reads, or tables be too deep for it.
    except (ValueError, RecursionError) as error:
        raise NetError(f"expected TOML in {toml}, found {error}; correct it") from error
    except OSError as error:
        raise NetError(f"expected to read {toml}: {error.strerror}") from error
    _check_table(toml, "", found)
    weights = found["weights"]
    b, g, r = (float(value) for value in found["input"]["mean"])
    return NetSpec(
        name=found["name"],
        title=found["title"],
        folder=toml.parent,
        prototxt=prototxt,
        input_size=found["input"]["size"],
        mean=(b, g, r),
        blobs={blob: found["blobs"][blob] for blob in head_names()},
        weights=Weights(
            file=weights["file"],
            size=weights.get("size"),
            sha256=weights.get("sha256"),
            sources=tuple(weights.get("sources", ())),
            licence=weights.get("licence", ""),
        ),
    )


def _check_table(toml: Path, table: str, values: dict[str, Any]) -> None:
    """Hold one table of `net.toml`, and those in it, against `_KEYS`."""
    keys, prefix = _KEYS[table], f"{table}." if table else ""
    for key in values:
        if key not in keys:
            raise NetError(
                f"{toml}: expected only the keys {', '.join(keys)} here, found "
                f"`{prefix}{key[:100]}`; remove or correct it"
            )
    for key, kind in keys.items():
        if key not in values:
            if prefix + key in _OPTIONAL:
                continue
            raise NetError(
                f"{toml}: expected `{prefix}{key}`, {kind}, found no such key; add it"
            )
        if not _KINDS[kind](values[key]):
            raise NetError(
                f"{toml}: expected `{prefix}{key}` to be {kind}, found "
                f"{_shown(values[key])}; correct it"
            )
        if kind == "a table":
            _check_table(toml, key, values[key])


def _shown(value: object) -> str:
    """Show the beginning of a value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python writes
        return "a number without end"


def _is_mean(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) in (int, float) and 0 <= v <= 255 for v in value)
    )


def _is_sources(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, str) and re.fullmatch(r"https?://\S+", v) for v in value
    )


def _is_like(pattern: str) -> Callable[[object], bool]:
    return lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None


def _is_line(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= 1000
        and value.isprintable()
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a table": lambda v: isinstance(v, dict),
    "a text of one line": _is_line,
    "a whole number above 0": lambda v: type(v) is int and v > 0,
    f"a whole number from 1 to {MAX_INPUT_SIZE}": lambda v: (
        type(v) is int and 0 < v <= MAX_INPUT_SIZE
    ),
    "three numbers (B, G, R) from 0 to 255": _is_mean,
    # Anything but a plain name could point outside the folder.
    "a file name without a folder": _is_like(r"[A-Za-z0-9_][\w.+-]{0,199}"),
    "64 hexadecimal digits in lower case": _is_like(r"[0-9a-f]{64}"),
    "a list of http(s) addresses": _is_sources,
}
_KEYS: dict[str, dict[str, str]] = {
    "": {
        "name": "a text of one line",
        "title": "a text of one line",
        "input": "a table",
        "blobs": "a table",
        "weights": "a table",
    },
    "input": {
        "size": f"a whole number from 1 to {MAX_INPUT_SIZE}",
        "mean": "three numbers (B, G, R) from 0 to 255",
    },
    "blobs": dict.fromkeys(head_names(), "a text of one line"),
    "weights": {
        "file": "a file name without a folder",
        "size": "a whole number above 0",
        "sha256": "64 hexadecimal digits in lower case",
        "sources": "a list of http(s) addresses",
        "licence": "a text of one line",
    },
}
_OPTIONAL = {f"weights.{key}" for key in ("size", "sha256", "sources", "licence")}
