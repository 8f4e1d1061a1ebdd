"""`fishing photographs`: a small data set to try things on."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def photographs(folder: Path) -> None:
    """Make a small data set to try things on.

    FOLDER becomes a devkit with 20 classes and 600 + 600 images, made from the
    photographs that scikit-image and scikit-learn contain; nothing is downloaded.
    """
    from fishing.images import write_photographs

    click.echo(write_photographs(folder))
