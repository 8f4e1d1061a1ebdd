"""`fishing score` tells familiar images from outliers."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option(
    "--split",
    "splits",
    multiple=True,
    default=["test"],
    show_default=True,
    help="Split to score; may be repeated. Of two, the first is taken as familiar and "
    "the second as outliers, and it is measured how well they are told apart.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(["msp", "energy", "gradnorm", "knn"]),
    multiple=True,
    help="Maximum softmax probability, energy, norm of the gradient, or distance to "
    "the nearest neighbours; may be repeated. The default is all that the file allows.",
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="Temperature of the energy. That of gradnorm is the file's, which fishing "
    "temper changes.",
)
@click.option("--reference", help="Split of familiar images, which knn needs.")
@options.feature
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Which of the nearest neighbours counts for knn.",
)
@click.option(
    "--index",
    type=options.PATH,
    help="Index of the features file, made by fishing index, by which knn finds "
    "neighbours.",
)
@options.output(
    options.FILE, "scores.csv", "CSV or Parquet file to write, by its suffix."
)
@options.threads
@options.as_json
def score(
    features_file: Path,
    splits: tuple[str, ...],
    methods: tuple[str, ...],
    temperature: float,
    reference: str | None,
    feature: str | None,
    k: int,
    index: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Tell familiar images from outliers.

    Every image gets a score by each method; the larger, the more familiar it is to the
    net, or to the reference split. The output has a row for each image.

    \b
    Examples:
      fishing score features.h5 --split test --reference trainval
      fishing score features.h5 --split test --split strange --output s.parquet
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.uses import (
        check_scores_output,
        format_separations,
        scores,
        separations,
        write_scores,
    )

    check_scores_output(output)
    with ProgressBar() as progress:
        found = scores(
            *(features_file, splits),
            methods=methods,
            temperature=temperature,
            reference=reference,
            feature=feature,
            k=k,
            index=index,
            progress=progress,
        )
    write_scores(found, output)
    measured = (
        separations(found, *splits) if len(set(splits)) == len(splits) == 2 else {}
    )
    if as_json:
        print_json({"output": str(output), "separations": measured})
        return
    if measured:
        click.echo(f"{splits[0]} told from {splits[1]}, in per cent")
        click.echo(format_separations(measured))
    click.echo(f"written to {output}")
