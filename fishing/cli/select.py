"""`fishing select` chooses the images to label next."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option("--split", required=True, help="Split to choose from.")
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Number of images to choose.",
)
@click.option("--labelled", help="Split of the images that have labels already.")
@click.option(
    "--method",
    type=click.Choice(["badge", "kcenter", "random"]),
    default="badge",
    show_default=True,
    help="By the gradient for the predicted class (badge), by the farthest from all "
    "chosen ones under a feature (kcenter), or at random.",
)
@options.feature
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random choices; equal seeds give equal choices.",
)
@options.output(options.FILE, "ids.txt", "List to write, with an id in each line.")
@options.threads
@options.as_json
def select(
    features_file: Path,
    split: str,
    k: int,
    labelled: str | None,
    method: str,
    feature: str | None,
    seed: int,
    output: Path,
    as_json: bool,
) -> None:
    """Choose the images to label next.

    The ids of the chosen images are written in the order in which they were chosen, so
    the first ones of the list are a choice of fewer images.

    \b
    Example:
      fishing select features.h5 --split pool -k 100 --output ids.txt
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.uses import select, write_output

    with ProgressBar() as progress:
        ids = select(
            *(features_file, split, k),
            labelled=labelled,
            method=method,
            feature=feature,
            seed=seed,
            progress=progress,
        )
    write_output(output, "".join(f"{image_id}\n" for image_id in ids))
    if as_json:
        print_json({"output": str(output), "image_id": ids})
        return
    click.echo(f"{len(ids)} images of {split} written to {output}")
