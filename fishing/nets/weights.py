"""Find the weights of a net, and check that they are the ones on record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from fishing.errors import NetError
from fishing.files import file_sha256
from fishing.nets.spec import NetSpec, load_net, models_folder, net_names


def cache_folder() -> Path:
    """Name the folder of fetched files: FISHING_HOME, or else the user's cache."""
    home = os.environ.get("FISHING_HOME")
    return Path(home) if home else Path(platformdirs.user_cache_dir("fishing"))


def cached_weights(spec: NetSpec) -> Path:
    """Name the file in the cache that the weights are fetched to.

    Its folder is named by the SHA-256, because files of two nets may have one name.
    """
    folder = (spec.weights.sha256 or "unknown")[:16]
    return cache_folder() / "weights" / folder / spec.weights.file


def weights_path(spec: NetSpec) -> Path:
    """Find the weights of a net, beside its `net.toml` or in the cache.

    Only weights with a SHA-256 on record are looked for in the cache. Otherwise, the
    file of another net with the same name could be taken for them.

    Parameters
    ----------
    spec : NetSpec

    Returns
    -------
    Path
        A file of the recorded size. Its SHA-256 is not checked here.

    Raises
    ------
    NetError
        If there is no such file, or its size is not the recorded one.
    """
    weights, beside = spec.weights, spec.folder / spec.weights.file
    cached = cached_weights(spec)
    if beside.is_file():
        path = beside
    elif weights.sha256 is None:
        raise NetError(
            f"expected the weights of {spec.name} at {beside}, found nothing; put the "
            "file there"
        )
    elif cached.is_file():
        path = cached
    else:
        raise NetError(
            f"expected the weights of {spec.name} at {beside} or {cached}, found "
            f"nothing; run `fishing fetch {_argument(spec)}`"
        )
    size = path.stat().st_size
    if weights.size is not None and size != weights.size:
        raise NetError(
            f"expected {weights.size} bytes in {path}, found {size}; remove it and run "
            f"`fishing fetch {_argument(spec)}`"
        )
    return path


def check_weights(spec: NetSpec, path: Path) -> str:
    """Compare the SHA-256 of a weights file with the one on record.

    Parameters
    ----------
    spec : NetSpec
    path : Path

    Returns
    -------
    str
        The SHA-256 of the file. If none is on record, nothing is compared.

    Raises
    ------
    NetError
        If the two differ.
    """
    found = file_sha256(path)
    if spec.weights.sha256 not in (None, found):
        raise NetError(
            f"expected SHA-256 {spec.weights.sha256} of {path}, found {found}; remove "
            f"it and run `fishing fetch {_argument(spec)}`"
        )
    return found


def _argument(spec: NetSpec) -> str:
    """Name this net as the command line does: by its name or by its folder."""
    shipped = spec.folder == models_folder() / spec.folder.name
    return spec.folder.name if shipped else str(spec.folder)


def recorded_net(
    settings: Mapping[str, Any], path: Path, spec: NetSpec | None = None
) -> NetSpec:
    """Load the net that a features file was made with, and check that it is the same.

    Parameters
    ----------
    settings : mapping
        The settings that the features file records.
    path : Path
        The features file, named in messages.
    spec : NetSpec, optional
        By default the net of models/ that the settings name.

    Returns
    -------
    NetSpec

    Raises
    ------
    NetError
        If the settings name no net of models/, the net or its weights are missing, or
        the SHA-256 of the prototxt or of the weights is not the recorded one.
    """
    if spec is None:
        name, known = str(settings.get("net")), net_names()
        if name not in known:
            raise NetError(
                f"{path}: expected a net of: {' '.join(known)}; found '{name}'; name "
                "its folder with --net"
            )
        spec = load_net(name)
    caffemodel = weights_path(spec)
    for key, source, found in (
        ("net_sha256", spec.model, spec.net_sha256),
        ("weights_sha256", caffemodel, check_weights(spec, caffemodel)),
    ):
        expected = settings.get(key)
        if found != expected:
            raise NetError(
                f"{path} was made with another {key}: expected {expected}, found "
                f"{found} of {source}; use --net to name the net that it was made with"
            )
    return spec
