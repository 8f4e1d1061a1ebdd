"""`fishing report`: results as a page of tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.progress import ProgressBar
from fishing.errors import needs_extra


@click.command()
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@options.output_folder(
    "report", "Folder for the page, index.html, and for its plots as SVG files."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="FISHING_VOC",
    help="The data set, as for `extract`, from which the page takes its images. By "
    "default FISHING_VOC; without either, the page lists images by name.",
)
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help="The features file, if it has been moved since it was evaluated.",
)
def report(
    results: Path, output: Path, data: Path | None, features: Path | None
) -> None:
    """Make a page of tables and pictures of RESULTS.

    RESULTS is a folder that `evaluate` wrote. Results at other temperatures are looked
    for in its subfolders.
    """
    with needs_extra("report"):
        from fishing.report import write_report

    with ProgressBar() as progress:
        page = write_report(
            results, output, data=data, features=features, progress=progress
        )
    click.echo(page)
