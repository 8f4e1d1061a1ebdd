"""The net that a features file was made with.

In goes an open features file, out comes its net, held to it by SHA-256.
"""

from __future__ import annotations

from fishing.errors import NetError, StoreError
from fishing.nets import NetSpec, check_weights, load_net, net_names, weights_path
from fishing.store import FeaturesFile


def net_of(file: FeaturesFile, spec: NetSpec | None = None) -> NetSpec:
    """Load the net of a features file and hold it to be the same.

    Parameters
    ----------
    file : FeaturesFile
    spec : NetSpec, optional
        By default the net of models/ that the file names.

    Returns
    -------
    NetSpec

    Raises
    ------
    NetError
        If the file names no net of models/, or the net or its weights are missing.
    StoreError
        If the SHA-256 of prototxt or weights is not that of the file.
    """
    spec = spec or _named(file)
    caffemodel = weights_path(spec)
    for key, source, found in (
        ("prototxt_sha256", spec.prototxt, spec.prototxt_sha256),
        ("weights_sha256", caffemodel, check_weights(spec, caffemodel)),
    ):
        expected = file.settings.get(key)
        if found != expected:
            raise StoreError(
                f"{file.path} was made with another {key}: expected {expected}, found "
                f"{found} of {source}; name the net that it was made with by --net"
            )
    return spec


def _named(file: FeaturesFile) -> NetSpec:
    """Load the net that a features file names."""
    name = str(file.settings.get("net"))
    if name not in net_names():
        raise NetError(
            f"{file.path}: expected a net of: {' '.join(net_names())}; found '{name}'; "
            "name its folder with --net"
        )
    return load_net(name)
