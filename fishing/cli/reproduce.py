"""`fishing reproduce`: the paper's tables."""

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
    type=click.Path(path_type=Path),
    default="VOCdevkit",
    show_default=True,
    help="The folder of VOC2007 and VOC2012, or one data set as for `extract`.",
)
@options.nets
@click.option(
    "--year",
    "years",
    type=int,
    multiple=True,
    help="A year of VOC, such as 2007; may be repeated. By default every year found in "
    "--data.",
)
@options.output_folder("reproduction", "Folder for the features, results and tables.")
@options.settings
@options.device
@options.batch_size
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

    Weights are fetched, features extracted and evaluated, and the results printed
    beside the paper's. Steps that are already done are not repeated, so an interrupted
    run is resumed by the same command.
    """
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
