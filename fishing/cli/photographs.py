"""`fishing photographs` makes a small data set to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options


@click.command()
@click.argument("folder", type=options.PATH)
def photographs(folder: Path) -> None:
    """Make a small data set to try things on.

    FOLDER becomes a devkit with 20 classes, 600 images to train on and 600 to test on.
    They are made from photographs that scikit-image and scikit-learn contain; nothing
    is downloaded.

    \b
    Example:
      fishing photographs photographs
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.images import write_photographs

    click.echo(write_photographs(folder))
