"""`fishing extract` computes the features of images and writes them to a file."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar
from fishing.errors import printable

_N_KINDS = 6  # of suffixes that are named
# Variables in which SLURM and Kubernetes tell a task of an array job its number.
_TASK_OF_JOB = "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"


class _NumberOfShards(click.IntRange):
    """A number of shards, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, *rest: Any) -> Any:
        return value if value == "auto" else super().convert(value, *rest)


@click.command()
@options.net
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split to extract; may be repeated. Without it, all images of a plain folder "
    "are extracted.",
)
@options.data(
    "VOC devkit, or folder of images with lists <split>.txt or .csv, or with "
    "subfolders <split>/<class>/."
)
@click.option(
    "--output",
    type=options.PATH,
    show_default="features.h5, or the folder features with --shards",
    help="Features file to write, or folder of shards.",
)
@options.settings
@options.device
@options.batch_size
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Store only the blobs that this feature needs, such as dW7 or 'x6*x7'; may be "
    "repeated.",
)
@click.option(
    "--shards",
    "n_shards",
    metavar="N",
    type=_NumberOfShards(),
    help="Write a folder of N shards, each a features file of a part of the lists; "
    "auto makes shards of about 10,000 images.",
)
@click.option(
    "--shard",
    metavar="I",
    type=click.IntRange(min=0),
    show_default=f"{' or '.join(_TASK_OF_JOB)}, or else all shards",
    help="Make only this one of the shards, which count from 0.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Let the workers of a Dask scheduler make the shards: its address, such as "
    "tcp://host:8786, a scheduler file, or local for processes of this machine.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an existing file and start anew."
)
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@options.threads
@options.as_json
def extract(
    net: str,
    splits: tuple[str, ...],
    data: Path,
    output: Path | None,
    settings: dict[str, Any],
    features: tuple[str, ...],
    n_shards: int | Literal["auto"] | None,
    shard: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
    **run: Any,
) -> None:
    """Extract gradient features of images.

    The activations and the backpropagated gradients of each image are written to one
    features file.

    The same command resumes an interrupted extraction. Images that cannot be read are
    reported, recorded in the file, and left out. What is no image is left alone and
    counted.

    \b
    Examples:
      fishing extract --net vgg16 --split trainval --split test
      fishing extract --net tinyalexnet --data photos --output photos.h5
      fishing extract --net vgg16 --data photos --shards 64 --output photos
      fishing extract --net vgg16 --data photos --shards 64 --scheduler local
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.extract import (
        default_n_shards,
        extract,
        extract_on_cluster,
        extract_shards,
    )
    from fishing.images import read_splits
    from fishing.kernels import feature_blobs
    from fishing.nets import load_net
    from fishing.store import ExtractionSettings

    if n_shards is None and shard is not None:
        raise click.UsageError("--shard needs --shards.")
    if n_shards is None and scheduler is not None:
        raise click.UsageError("--scheduler needs --shards.")
    if shard is not None and scheduler is not None:
        raise click.UsageError("--scheduler makes all shards; leave out --shard.")
    if n_shards is not None and overwrite:
        raise click.UsageError("To make shards anew, remove their folder.")
    stored = {blob for name in features for blob in feature_blobs(name)}
    chosen = ExtractionSettings(load_net(net), **settings, stored=tuple(sorted(stored)))
    lists = read_splits(data, splits)
    if n_shards == "auto":
        n_shards = default_n_shards(lists)
    with ProgressBar() as progress:
        run |= {"data": data, "progress": progress}
        if n_shards is None:
            output = output or Path("features.h5")
            outcome = extract(chosen, lists, output, overwrite=overwrite, **run)
        elif scheduler is None:
            output = output or Path("features")
            run["shard"] = _task_of_job() if shard is None else shard
            outcome = extract_shards(chosen, lists, output, n_shards, **run)
        else:
            output = output or Path("features")
            outcome = extract_on_cluster(
                chosen, lists, output, n_shards, scheduler, **run
            )
    if as_json:
        print_json({"output": str(output), "splits": [asdict(one) for one in outcome]})
        return
    for one in outcome:
        click.echo(
            f"{printable(f'{output} {one.split}')}: {one.n_images - one.n_failed} of "
            f"{one.n_images} images, {one.n_failed} failed"
            + (f", {one.n_damaged} may be damaged" if one.n_damaged else "")
            + (" (was there already)" if one.was_there else "")
        )
        if one.left_alone:
            click.echo(printable(f"left alone: {_kinds(one.left_alone)}"))


def _task_of_job() -> int | None:
    """Return the number of this task of an array job, which counts from 0."""
    for name in _TASK_OF_JOB:
        number = os.environ.get(name)
        if number is not None:
            if not number.isdecimal():
                raise click.UsageError(
                    f"expected the number of a shard in {name}, found '{number}'; "
                    "choose the shard with --shard."
                )
            return int(number)
    return None


def _kinds(left_alone: dict[str, int]) -> str:
    """Count files, and the commonest of their suffixes."""
    n = sum(left_alone.values())
    kinds = sorted(left_alone.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{suffix} {count}" for suffix, count in kinds[:_N_KINDS]]
    rest = sum(count for _, count in kinds[_N_KINDS:])
    named += [f"others {rest}"] if rest else []
    return f"{n} file{'s' if n > 1 else ''} ({', '.join(named)})"
