"""Read what the folder of a net, such as `models/vgg16/`, says about it.

The folder holds `deploy.prototxt`, `net.toml` and, if they are small, the weights.
"""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.files import file_sha256, read_at_most
from fishing.images import Preprocess
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
    sources: tuple[str, ...]  # http(s) addresses that are known to have this file
    licence: str  # the terms of the weights


@dataclass(frozen=True)
class NetSpec:
    """A net: its files, its input and the names of its blobs."""

    name: str
    title: str  # a line that describes the net
    folder: Path
    model: Path  # the prototxt
    preprocess: Preprocess  # how an image becomes an input of the net
    blobs: dict[str, str]  # the names of `head_names` to those in the prototxt
    weights: Weights

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
    """Find models/ inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parent / "models"):
        if folder.is_dir():
            return folder
    raise NetError(
        f"expected the folder models in {package} or {package.parent}, found neither; "
        "install fishing again"
    )


def _read(toml: Path, prototxt: Path) -> NetSpec:
    """Read and check net.toml."""
    try:
        found = tomllib.loads(read_at_most(toml, _MAX_TOML_BYTES).decode())
    # A number may have more digits than Python reads, or tables be too deep for it.
    except (ValueError, RecursionError) as error:
        raise NetError(f"expected TOML in {toml}, found {error}; correct it") from error
    except OSError as error:
        raise NetError(f"expected to read {toml}: {error.strerror}") from error
    _check_table(toml, "", found)
    weights = found["weights"]
    size = found["input"]["size"]
    mean = tuple(float(value) for value in found["input"]["mean"])
    return NetSpec(
        name=found["name"],
        title=found["title"],
        folder=toml.parent,
        model=prototxt,
        preprocess=Preprocess(size, size, mean=mean),
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
    """Check that a table of net.toml, and those in it, have the keys of `_KEYS`."""
    keys, prefix = _KEYS[table], f"{table}." if table else ""
    for key in values:
        if key not in keys:
            raise NetError(
                f"{toml}: expected only the keys {', '.join(keys)} here, found "
                f"`{prefix}{key[:100]}`; remove or correct it"
            )
    for key, kind in keys.items():
        if key not in values:
            if f"{prefix}{key}" in _OPTIONAL:
                continue
            raise NetError(
                f"{toml}: expected `{prefix}{key}`, {kind.words}, found no such key; "
                "add it"
            )
        if not kind.fits(values[key]):
            raise NetError(
                f"{toml}: expected `{prefix}{key}` to be {kind.words}, found "
                f"{_shown(values[key])}; correct it"
            )
        if kind is _TABLE:
            _check_table(toml, key, values[key])


def _shown(value: object) -> str:
    """Show the beginning of a value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python writes
        return "a number without end"


class _Kind(NamedTuple):
    """What a value of net.toml must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None


def _is_line(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= 1000
        and value.isprintable()
    )


def _is_mean(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) in (int, float) and 0 <= v <= 255 for v in value)
    )


def _is_sources(value: Any) -> bool:
    return isinstance(value, list) and all(map(_matches(r"https?://\S+"), value))


_TABLE = _Kind("a table", lambda v: isinstance(v, dict))
_LINE = _Kind("a text of one line", _is_line)
_KEYS = {
    "": {
        "name": _LINE,
        "title": _LINE,
        "input": _TABLE,
        "blobs": _TABLE,
        "weights": _TABLE,
    },
    "input": {
        "size": _Kind(
            f"a whole number from 1 to {MAX_INPUT_SIZE}",
            lambda v: type(v) is int and 0 < v <= MAX_INPUT_SIZE,
        ),
        "mean": _Kind("three numbers (B, G, R) from 0 to 255", _is_mean),
    },
    "blobs": dict.fromkeys(head_names(), _LINE),
    "weights": {
        # Anything but a plain name could point outside the folder.
        "file": _Kind(
            "a file name without a folder", _matches(r"[A-Za-z0-9_][\w.+-]{0,199}")
        ),
        "size": _Kind("a whole number above 0", lambda v: type(v) is int and v > 0),
        "sha256": _Kind(
            "64 hexadecimal digits in lower case", _matches(r"[0-9a-f]{64}")
        ),
        "sources": _Kind("a list of http(s) addresses", _is_sources),
        "licence": _LINE,
    },
}
_OPTIONAL = {"weights.size", "weights.sha256", "weights.sources", "weights.licence"}
