"""`fishing reproduce` computes the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@click.option(
    "--data",
    type=options.PATH,
    default="VOCdevkit",
    show_default=True,
    help="Folder that contains VOC2007 and VOC2012, or one data set as for `extract`.",
)
@options.nets
@click.option(
    "--year",
    "years",
    type=int,
    multiple=True,
    help="Year of VOC, such as 2007; may be repeated. The default is every year found "
    "in --data.",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Feature to evaluate beside those of table 1, such as the product 'x6*x7'; "
    "may be repeated.",
)
@options.output(
    options.FOLDER, "reproduction", "Folder for the features, results and tables."
)
@options.settings
@options.device
@options.batch_size
@options.bootstrap(1000)
@options.as_json
def reproduce(
    data: Path,
    nets: tuple[str, ...],
    output: Path,
    settings: dict[str, Any],
    as_json: bool,
    **run: Any,
) -> None:
    """Reproduce the paper's tables.

    The command fetches weights, extracts and evaluates features, and prints the results
    beside the paper's. Steps that are already done are not repeated, so the same
    command resumes an interrupted run.

    \b
    Example:
      fishing reproduce --net alexnet --net vgg16 --data VOCdevkit
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.nets import load_net
    from fishing.paper import format_tables, reproduce
    from fishing.store import ExtractionSettings

    each = [ExtractionSettings(load_net(net), **settings) for net in nets]
    with ProgressBar() as progress:
        comparison = reproduce(data, each, output, progress=progress, **run)
    if as_json:
        print_json(comparison)
        return
    click.echo(format_tables(comparison, "txt"))
    click.echo(f"written to {output}")
