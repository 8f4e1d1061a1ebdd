"""The manifest of a folder of shards: what they are made from, and what they hold.

docs/format.md describes ``manifest.json``. It may come from anywhere, so all that is
read from it is checked. It names no files: those of the shards follow from their
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fishing.errors import InUseError, StoreError, one_line
from fishing.files import is_unfinished, lock, read_at_most, write_whole
from fishing.images import is_split_name
from fishing.store.checks import check_settings
from fishing.store.places import BAD_INDEX
from fishing.store.settings import check_same_settings

MANIFEST = "manifest.json"
_FORMAT = {"format": "fishing-shards", "format_version": 1}
_LOCK = "lock"  # of whoever changes the manifest
_CLIENT_LOCK = "client.lock"  # of whoever hands out shards
_MAX_BYTES = 2**28
_DIGITS = set("0123456789abcdef")


@dataclass(frozen=True)
class Shard:
    """One shard in a manifest.

    Attributes
    ----------
    images : dict of str to list of int
        By split, where its part of the list begins and where it ends.
    rows : dict of str to int
        How many images of each split have a row; empty until the shard is made.
    sha256 : str
        That of the file; empty until the shard is made.
    """

    images: dict[str, list[int]]
    rows: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of all shards in a folder.

    Attributes
    ----------
    settings : dict
        Those of each shard, and of the folder as a whole.
    run : dict
        What else determines the last bits: batch size, threads, versions of libraries.
    lists : dict of str to str
        The SHA-256 of the whole list of each split.
    shards : list of Shard
    """

    settings: dict[str, Any]
    run: dict[str, Any]
    lists: dict[str, str]
    shards: list[Shard]


def shard_path(folder: Path, number: int) -> Path:
    """Name the features file of a shard, counted from 0.

    >>> shard_path(Path("features"), 7).as_posix()
    'features/shards/00007.h5'
    """
    return folder / "shards" / f"{number:05d}.h5"


def is_begun(folder: Path) -> bool:
    """Tell whether a folder has a manifest."""
    return (folder / MANIFEST).exists()


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder; raises StoreError."""
    path = folder / MANIFEST
    try:
        found = json.loads(read_at_most(path, _MAX_BYTES))
        if {key: found[key] for key in _FORMAT} != _FORMAT:
            raise ValueError("another format, or another version of it")
        shards = [_checked(Shard(**one), found["lists"]) for one in found["shards"]]
        manifest = Manifest(found["settings"], found["run"], found["lists"], shards)
        check_settings(manifest.settings)
        check_settings(manifest.run)
        if not shards or not all(map(is_split_name, manifest.lists)):
            raise ValueError("no shards, or other names than those of splits")
        for split, digest in manifest.lists.items():
            _check_parts(split, digest, shards)
    except FileNotFoundError:
        raise StoreError(
            f"expected a features file or a folder of shards at '{folder}', found "
            f"{f'a folder without {MANIFEST}' if folder.is_dir() else 'none'}; "
            "`fishing extract --shards` makes one"
        ) from None
    except (*BAD_INDEX, RecursionError) as error:
        raise StoreError(
            f"{path}: expected the manifest of a folder of shards, found "
            f"{one_line(error)}; take a copy of it, or extract into another folder"
        ) from None
    except OSError as error:
        raise StoreError(
            f"expected to read {path}, found: {one_line(error)}; name a folder that is "
            "there and can be read"
        ) from None
    return manifest


def _checked(shard: Shard, lists: Mapping[str, str]) -> Shard:
    """Check one entry of a manifest; raise ValueError."""
    fits = bool(shard.images) and isinstance(shard.rows, dict)
    fits = fits and shard.images.keys() <= lists.keys()
    for part in shard.images.values():
        start, stop = part
        fits = fits and type(start) is int and type(stop) is int and 0 <= start < stop
    if shard.sha256:
        fits = fits and _is_sha256(shard.sha256)
        fits = fits and shard.rows.keys() == shard.images.keys()
        fits = fits and all(type(n) is int and n >= 0 for n in shard.rows.values())
    if not fits or not isinstance(shard.sha256, str):
        raise ValueError("the entry of a shard that does not fit")
    return shard


def _check_parts(split: str, digest: Any, shards: list[Shard]) -> None:
    """Check that the parts of a split follow each other; raise ValueError."""
    end = 0
    for start, stop in (one.images[split] for one in shards if split in one.images):
        if start != end:
            raise ValueError(f"a gap between the shards of split '{split}'")
        end = stop
    if not end or not _is_sha256(digest):
        raise ValueError(f"no shards, or no SHA-256, of split '{split}'")


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= _DIGITS


def begin_shards(folder: Path, new: Manifest) -> Manifest:
    """Write the manifest of new work, or find that of the same work.

    Parameters
    ----------
    folder : Path
        It is made if it is not there.
    new : Manifest
        Without rows and checksums.

    Returns
    -------
    Manifest
        The one that is in the folder now.

    Raises
    ------
    StoreError
        If the folder cannot be written, or holds other files, or shards of other
        images, settings, versions or threads.
    """
    with _alone(folder):
        if is_begun(folder):
            found = read_manifest(folder)
            _check_same(new, found, folder)
            return found
        others = {file.name for file in folder.iterdir()} - {_LOCK, _CLIENT_LOCK}
        if others:
            raise StoreError(
                f"expected an empty folder, or one of shards, at '{folder}', found "
                f"'{min(others)}' in it; choose another --output"
            )
        _write(folder, new)
        return new


def record_shard(folder: Path, number: int, rows: dict[str, int], sha256: str) -> None:
    """Record what a shard holds, beside others who record theirs.

    Raises StoreError if the manifest is damaged or cannot be written.
    """
    with _alone(folder):
        found = read_manifest(folder)
        shards = list(found.shards)
        shards[number] = replace(shards[number], rows=rows, sha256=sha256)
        if shards != found.shards:
            _write(folder, replace(found, shards=shards))


def _check_same(new: Manifest, found: Manifest, folder: Path) -> None:
    """Refuse to mix shards of different work, and name the first difference."""
    advice = "choose another --output, or remove the folder"
    check_same_settings(new.settings, found.settings, folder, advice)
    for what, one, other in (
        *((k, new.run.get(k), found.run.get(k)) for k in {**new.run, **found.run}),
        ("number of shards", len(new.shards), len(found.shards)),
        ("splits", " ".join(new.lists), " ".join(found.lists)),
        *(
            (f"list of '{name}'", new.lists[name], found.lists[name])
            for name in new.lists
        ),
        ("cut of the lists", _cuts(new), _cuts(found)),
    ):
        if one != other:
            raise StoreError(
                f"{folder} was made with another {what}: expected {one}, found "
                f"{str(other)[:200]}; change that here, {advice}"
            )


def _cuts(manifest: Manifest) -> list[dict[str, list[int]]]:
    return [one.images for one in manifest.shards]


def _write(folder: Path, manifest: Manifest) -> None:
    content = {**_FORMAT, **asdict(manifest)}
    write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else changes the manifest; sweep what a crash left of one."""
    name = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(lock(name, lambda holder: None)):
            try:
                for file in folder.iterdir():
                    if is_unfinished(file.name):
                        file.unlink(missing_ok=True)
                yield
            finally:
                name.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None


@contextmanager
def one_client(folder: Path) -> Iterator[None]:
    """Be the only one who hands out the shards of a folder, which is made.

    The lock of a client that was killed is free. Raises InUseError if another client is
    at work, and StoreError if the folder cannot be written.
    """
    name = folder / _CLIENT_LOCK

    def refuse(holder: str) -> None:
        raise InUseError(
            f"expected to be alone in handing out the shards of {folder}, found that "
            f"{holder} does so; wait for it, or choose another --output"
        )

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(name, refuse)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with closing(held):
        try:
            yield
        finally:
            name.unlink(missing_ok=True)
            with suppress(OSError):  # it stays unless it is empty
                folder.rmdir()


def _cannot_write(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder} cannot be written: {one_line(error)}; once that is mended, the "
        "same command goes on"
    )
