"""Settings: what determines the values of a features file, and how it stores them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fishing.errors import StoreError, printable
from fishing.files import write_whole
from fishing.nets import NetSpec, check_weights, weights_path

_MAX_RECORD = 2**20  # bytes


@dataclass(frozen=True)
class ExtractionSettings:
    """What determines an extraction: equal settings and images give equal bytes.

    A features file records the settings, and an interrupted extraction goes on only
    under the same ones.

    Attributes
    ----------
    net : NetSpec
    backend : str
        ``auto`` or one of `fishing.backends.BACKENDS`; see `choose_backend` there.
    temperature : float
        tau of eq. 10.
    tf32 : bool
        Whether a GPU multiplies in TF32, which is faster and less exact.
    dtype, compression : str
        How the file stores the blobs; see `storage_settings`.
    stored : tuple of str
        The names of the blobs that are stored; all of them if it is empty.
    """

    net: NetSpec
    backend: str = "auto"
    temperature: float = 2.0
    tf32: bool = False
    dtype: str = "float32"
    compression: str = "none"
    stored: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Describe the settings as the attributes of a features file.

        Raises
        ------
        NetError
            If the weights are missing, or are not those on record.
        StoreError
            If the dtype or the compression is unknown.
        """
        net = self.net
        return {
            "net": net.name,
            "net_sha256": net.net_sha256,
            "weights_sha256": check_weights(net, weights_path(net)),
            "backend": self.backend,
            "blobs": dict(net.blobs),
            "temperature": float(self.temperature),
            "label": "uniform",
            "preprocess": net.preprocess.describe(),
            **({"gpu_math": "tf32"} if self.tf32 else {}),
            **({"stored": " ".join(self.stored)} if self.stored else {}),
            **storage_settings(self.dtype, self.compression),
        }


#: The choices of how blobs are stored, each with its default first.
STORAGE = {"dtype": ("float32", "float16"), "compression": ("none", "gzip")}


def storage_settings(
    dtype: str = "float32", compression: str = "none"
) -> dict[str, str]:
    """Build the settings that record how a features file stores its blobs.

    Parameters
    ----------
    dtype : str
        ``float32``, or ``float16``: half the size, with 11 bits of each value.
    compression : str
        ``none`` or ``gzip``.

    Returns
    -------
    dict of str to str
        The two settings, without those that have their default value.

    Raises
    ------
    StoreError
        If one of them is unknown.

    Examples
    --------
    >>> storage_settings("float16")
    {'dtype': 'float16'}
    """
    found = {"dtype": dtype, "compression": compression}
    for key, value in found.items():
        if value not in STORAGE[key]:
            raise StoreError(
                f"expected a {key} of: {' '.join(STORAGE[key])}; found '{value}'"
            )
    return {key: v for key, v in found.items() if v != STORAGE[key][0]}


def with_storage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of `storage_settings` that settings leave out."""
    return {key: choices[0] for key, choices in STORAGE.items()} | dict(settings)


def check_same_settings(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    path: Path,
    advice: str = "choose another --output, or --overwrite",
) -> None:
    """Refuse to mix rows that were made or are stored in different ways.

    Raises a StoreError that names the first setting in which an extraction that is to
    run differs from the work found at a path.
    """
    expected, found = with_storage(expected), with_storage(found)
    for key in {**expected, **found}:
        if expected.get(key) != found.get(key):
            raise StoreError(
                printable(
                    f"{path} was made with another {key}: expected "
                    f"{expected.get(key)}, found {str(found.get(key))[:200]}; {advice}"
                )
            )


def write_record(
    record: Path, settings: Mapping[str, Any], replaced: list[int] | None
) -> None:
    """Record the settings of an extraction, in case it is interrupted.

    `replaced` identifies the features file that ``--overwrite`` will replace.
    """
    content = {"settings": dict(settings), "replaced": replaced}
    write_whole(record, json.dumps({**content, **_checksum(content)}).encode())


def read_record(record: Path) -> tuple[dict[str, Any], list[int] | None]:
    """Read the settings and the replaced file that `write_record` recorded.

    Raises StoreError if the record is damaged, or the file is of another kind.
    """
    try:
        with record.open("rb") as file:
            found = json.loads(file.read(_MAX_RECORD))
        content = {key: found[key] for key in ("settings", "replaced")}
        if found != {**content, **_checksum(content)}:
            raise ValueError
        return dict(found["settings"]), found["replaced"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(
            f"{record}: expected the settings of an interrupted extraction, found "
            "something else; start anew with --overwrite"
        ) from None


def _checksum(content: Mapping[str, Any]) -> dict[str, str]:
    return {"sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
