"""How lists of images are cut into shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fishing.errors import DataError
from fishing.images import ImageList

_SHARD_IMAGES = 10_000  # of a shard, unless the number of shards is given


def default_n_shards(lists: Sequence[ImageList]) -> int:
    """Choose a number of shards, of about 10,000 images each.

    Examples
    --------
    >>> from pathlib import Path
    >>> images = ImageList("test", ("a",) * 26_000, (Path(),) * 26_000)
    >>> default_n_shards([images])
    3
    """
    return max(1, round(sum(map(len, lists)) / _SHARD_IMAGES))


def cut(
    lists: Sequence[ImageList], n_shards: int, batch_size: int
) -> list[dict[str, list[int]]]:
    """Cut lists into shards of whole batches, as equal as these allow.

    Returns
    -------
    list of dict of str to list of int
        For each shard, where its part of each split begins and ends.

    Raises
    ------
    DataError
        If there are more shards than batches.

    Examples
    --------
    >>> from pathlib import Path
    >>> images = ImageList("test", tuple("abcde"), (Path(),) * 5)
    >>> cut([images], 2, 2)
    [{'test': [0, 2]}, {'test': [2, 5]}]
    """
    batches = [
        (images.split, start, min(start + batch_size, len(images)))
        for images in lists
        for start in range(0, len(images), batch_size)
    ]
    n = len(batches)
    if not 1 <= n_shards <= n:
        raise DataError(
            f"expected 1 to {n} shards, since there are {n} batches of {batch_size} "
            f"images, found {n_shards}; choose another --shards or --batch-size"
        )
    shards: list[dict[str, list[int]]] = []
    for i in range(n_shards):
        parts: dict[str, list[int]] = {}
        for split, start, stop in batches[i * n // n_shards : (i + 1) * n // n_shards]:
            parts.setdefault(split, [start, stop])[1] = stop
        shards.append(parts)
    return shards


def n_images(part: Mapping[str, Sequence[int]]) -> int:
    """Count the images of a shard."""
    return sum(stop - start for start, stop in part.values())


def parts_of(
    lists: Sequence[ImageList], part: Mapping[str, Sequence[int]]
) -> list[ImageList]:
    """Take the parts of the lists that belong to a shard."""
    return [_part(one, *part[one.split]) for one in lists if one.split in part]


def _part(images: ImageList, start: int, stop: int) -> ImageList:
    """Take the images of a list from one place to another."""
    return dataclasses.replace(
        images,
        image_id=images.image_id[start:stop],
        path=images.path[start:stop],
        labels=None if images.labels is None else images.labels[start:stop],
        failed={
            i - start: why for i, why in images.failed.items() if start <= i < stop
        },
        left_alone={},
    )
