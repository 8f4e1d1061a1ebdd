"""`fishing retrieval` measures how well a search finds images of the same class."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json, print_table
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option(
    "--split", default="test", show_default=True, help="Labelled split to search."
)
@options.features
@options.threads
@options.as_json
def retrieval(
    features_file: Path, split: str, features: tuple[str, ...], as_json: bool
) -> None:
    """Measure how well a search finds images of the same class.

    Every image of a labelled split is a query and ranks all others. The mean average
    precision is printed, over all queries and over those of each class.

    \b
    Example:
      fishing retrieval features.h5 --split test --feature x7 --feature dW7
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.search import evaluate_retrieval

    with ProgressBar() as progress:
        record = evaluate_retrieval(features_file, split, features, progress)
    if as_json:
        print_json(record)
        return
    click.echo(
        f"Average precision of retrieval in per cent, {record['n_queries']} queries "
        f"of {split}"
    )
    print_table(record)
