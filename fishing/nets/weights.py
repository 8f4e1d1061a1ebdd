"""Find the weights of a net, and check that they are the ones on record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from fishing.errors import NetError
from fishing.file_kinds import found_instead
from fishing.files import file_digest, file_sha256
from fishing.nets.spec import NetSpec, load_net, models_folder, net_names


def cache_folder() -> Path:
    """Name the folder of fetched files: FISHING_HOME, or else the user's cache.

    A NetError says that there is neither.
    """
    named = os.environ.get("FISHING_HOME")
    try:
        folder = Path(named or platformdirs.user_cache_dir("fishing")).expanduser()
    except (RuntimeError, KeyError):  # neither HOME nor a user is known
        folder = Path("~")
    if folder.parts[:1] == ("~",):
        raise NetError(
            "expected a folder for weights that are fetched, found neither "
            "FISHING_HOME nor a home folder; set FISHING_HOME"
        )
    return folder


def cached_weights(spec: NetSpec) -> Path:
    """Name the file in the cache that the weights are fetched to.

    Its folder is named by the checksum on record, or else by the sources, because files
    of two nets may have one name.
    """
    weights = spec.weights
    sources = hashlib.sha256("\n".join(weights.sources).encode()).hexdigest()
    _, digits = weights.checksum or ("", sources)
    return cache_folder() / "weights" / digits[:16] / weights.file


def weights_path(spec: NetSpec) -> Path:
    """Find the weights of a net, beside its `net.toml` or in the cache.

    Only weights with a checksum or sources on record are looked for in the cache.
    Otherwise, the file of another net with the same name could be taken for them.

    Parameters
    ----------
    spec : NetSpec

    Returns
    -------
    Path
        A file of the recorded size. Its checksum is not compared here.

    Raises
    ------
    NetError
        If there is no such file, or its size is not the recorded one.
    """
    weights, beside = spec.weights, spec.folder / spec.weights.file
    if beside.is_file():
        path = beside
    elif weights.checksum is None and not weights.sources:
        raise NetError(
            f"expected the weights of {spec.name} at {beside}, found nothing; put the "
            "file there"
        )
    else:
        path = cached_weights(spec)
        if not path.is_file():
            raise NetError(
                f"expected the weights of {spec.name} at {beside} or {path}, found "
                f"nothing; run `fishing fetch {_argument(spec)}`"
            )
    size = path.stat().st_size
    if weights.size is not None and size != weights.size:
        if instead := found_instead(path):
            raise NetError(f"{path}: expected weights of {spec.name}, found {instead}")
        raise NetError(
            f"expected {weights.size} bytes in {path}, found {size}; remove it and run "
            f"`fishing fetch {_argument(spec)}`"
        )
    return path


def check_weights(spec: NetSpec, path: Path) -> str:
    """Compare the checksum of a weights file with the one on record.

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
    sha256 = file_sha256(path)
    name, expected = spec.weights.checksum or ("SHA-256", sha256)
    found = sha256 if name == "SHA-256" else file_digest(path, name)
    if found != expected:
        raise NetError(
            f"expected {name} {expected} of {path}, found {found}; remove it and run "
            f"`fishing fetch {_argument(spec)}`"
        )
    return sha256


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
