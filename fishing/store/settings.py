"""What determines the values of a features file, and how it stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fishing.errors import StoreError
from fishing.images import Preprocess
from fishing.nets import NetSpec, check_weights, weights_path


@dataclass(frozen=True)
class ExtractionSettings:
    """What determines an extraction: equal settings and images give equal bytes.

    A features file records the settings, and an interrupted extraction goes on only
    with the same ones.

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
    """

    net: NetSpec
    backend: str = "auto"
    temperature: float = 2.0
    tf32: bool = False
    dtype: str = "float32"
    compression: str = "none"

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
            "preprocess": Preprocess(net.input_size, net.mean).describe(),
            **({"gpu_math": "tf32"} if self.tf32 else {}),
            **storage_settings(self.dtype, self.compression),
        }


#: The choices of how blobs are stored, each with its default first.
STORAGE = {"dtype": ("float32", "float16"), "compression": ("none", "lzf", "gzip")}


def storage_settings(
    dtype: str = "float32", compression: str = "none"
) -> dict[str, str]:
    """Say what the settings of a features file record of how it stores its blobs.

    Parameters
    ----------
    dtype : str
        ``float32``, or ``float16``: half the size, with 11 bits of each value.
    compression : str
        ``none``, ``lzf`` or ``gzip``.

    Returns
    -------
    dict of str to str
        Of the two, those that are not the default: a file of the default form records
        neither.

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
    """Complete settings by the defaults of how blobs are stored."""
    return {key: choices[0] for key, choices in STORAGE.items()} | dict(settings)
