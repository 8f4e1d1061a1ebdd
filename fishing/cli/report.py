"""`fishing report` shows results as a page of tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.progress import ProgressBar
from fishing.errors import needs_extra


@click.command()
@click.argument("results", type=options.FOLDER)
@options.output(
    options.FOLDER,
    "report",
    "Folder for the page, index.html, and for its plots as SVG files.",
)
@click.option(
    "--data",
    type=options.PATH,
    help="Data set that the page takes its images from, if it has been moved since "
    "they were extracted.",
)
@click.option(
    "--features",
    type=options.PATH,
    help="Features file, if it has been moved since it was evaluated.",
)
@options.threads
def report(
    results: Path, output: Path, data: Path | None, features: Path | None
) -> None:
    """Make a page of tables and pictures of RESULTS.

    RESULTS is a folder that `evaluate` wrote. If its subfolders contain results at
    other temperatures, the page shows them too.

    \b
    Example:
      fishing report results
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    with needs_extra("report"):
        from fishing.report import write_report

    with ProgressBar() as progress:
        page = write_report(
            results, output, data=data, features=features, progress=progress
        )
    click.echo(page)
