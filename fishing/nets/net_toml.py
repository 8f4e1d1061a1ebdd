"""Read `net.toml`, and check that it has the keys and the kinds of values it should."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fishing.errors import NetError
from fishing.files import read_at_most
from fishing.images.preprocess import CHANNELS, INTERPOLATIONS, ROUNDINGS
from fishing.images.setting_kinds import (
    FLAG,
    HEIGHT_WIDTH,
    SIDE,
    TABLE,
    Kind,
    either,
    number,
    numbers,
    one_of,
    shown,
    text,
)
from fishing.nets.blobs import LAST, head_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 2**16


def read_net_toml(toml: Path) -> dict[str, Any]:
    """Read and check a file `net.toml`, which may begin with a byte order mark.

    Parameters
    ----------
    toml : Path

    Returns
    -------
    dict
        Its tables, with the keys and the kinds of values that are documented.

    Raises
    ------
    NetError
        If it cannot be read, is not TOML, lacks a key, or has an unknown key or a value
        of another kind.
    """
    try:
        found = tomllib.loads(read_at_most(toml, _MAX_BYTES).decode("utf-8-sig"))
    # A number may have more digits than Python reads, or tables be too deep for it.
    except (ValueError, RecursionError) as error:
        raise NetError(f"expected TOML in {toml}, found {error}; correct it") from error
    except OSError as error:
        raise NetError(f"expected to read {toml}: {error.strerror}") from error
    _check_table(toml, "", found)
    _check_no_gap(toml, found["blobs"])
    return found


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
                f"{shown(values[key])}; correct it"
            )
        if kind is TABLE:
            _check_table(toml, key, values[key])


def _check_no_gap(toml: Path, blobs: dict[str, Any]) -> None:
    """Check that the names of activations go from x7 down without a gap."""
    names = [f"x{k}" for k in reversed(range(LAST))]
    n_given = sum(name in blobs for name in names)
    for name in names[:n_given]:
        if name not in blobs:
            lower = next(x for x in names[n_given:] if x in blobs)
            raise NetError(
                f"{toml}: expected `blobs.{name}` beside `blobs.{lower}`, found no "
                "such key; names go from x7 down without a gap"
            )


def _is_line(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= 1000
        and value.isprintable()
    )


def _are_sources(value: Any) -> bool:
    return isinstance(value, list) and all(map(_ADDRESS.fits, value))


_ADDRESS = text(r"https?://\S+", "an http(s) address")
_LINE = Kind("a text of one line", _is_line)
_SIZE = either(SIDE, HEIGHT_WIDTH)
_KEYS = {
    "": {
        "name": _LINE,
        "title": _LINE,
        "input": TABLE,
        "blobs": TABLE,
        "weights": TABLE,
    },
    "input": {
        "size": _SIZE,
        "resize": _SIZE,
        "interpolation": one_of(INTERPOLATIONS),
        "antialias": FLAG,
        "rounding": one_of(ROUNDINGS),
        "channels": one_of(CHANNELS),
        "mean": numbers(0, 255, (1, 3)),
        "scale": either(number(1e-9, 1e9), numbers(1e-9, 1e9, (1, 3))),
    },
    "blobs": dict.fromkeys(reversed(head_names(LAST)), _LINE),
    "weights": {
        # Anything but a plain name could point outside the folder.
        "file": text(r"[A-Za-z0-9_][\w.+-]{0,199}", "a file name without a folder"),
        "size": Kind("a whole number above 0", lambda v: type(v) is int and v > 0),
        "sha256": text(r"[0-9a-f]{64}", "64 hexadecimal digits in lower case"),
        "sha1": text(r"[0-9a-f]{40}", "40 hexadecimal digits in lower case"),
        "sources": Kind("a list of http(s) addresses", _are_sources),
        "licence": _LINE,
    },
}
_OPTIONAL = {
    *("blobs.x8", *(f"blobs.x{k}" for k in range(LAST - 1))),
    *(f"input.{key}" for key in _KEYS["input"] if key not in ("size", "mean")),
    *(f"weights.{key}" for key in _KEYS["weights"] if key != "file"),
}
