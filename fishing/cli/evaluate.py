"""`fishing evaluate` trains SVMs on features and measures average precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fishing.cli import options
from fishing.cli.printing import print_json, print_table
from fishing.cli.progress import ProgressBar


@click.command()
@click.argument("features_files", type=options.PATH, nargs=-1, required=True)
@click.option(
    "--train", default="trainval", show_default=True, help="Split to train on."
)
@click.option("--test", default="test", show_default=True, help="Split to test on.")
@options.features
@click.option(
    "--protocol",
    type=click.Choice(["voc2007", "voc2012"]),
    help="Definition of average precision: at 11 points (voc2007) or as an area "
    "(voc2012). The default is that of the devkit's year, and voc2007 for other data.",
)
@click.option(
    "-C",
    "C",
    type=float,
    default=1.0,
    show_default=True,
    help="Regularisation parameter C of the SVMs.",
)
@click.option(
    "--landmarks",
    type=click.IntRange(min=1),
    help="Number of training images that approximate the kernels (Nystroem's method), "
    "so that time and memory grow with the number of images. The default is exact "
    "kernels, or 4096 landmarks where those would not fit into memory.",
)
@options.output(
    options.FOLDER,
    "results",
    "Folder for results.json, the table and the VOC submission files.",
)
@options.as_json
def evaluate(
    features_files: tuple[Path, ...],
    features: tuple[str, ...],
    output: Path,
    as_json: bool,
    **protocol: Any,
) -> None:
    """Train SVMs on features and evaluate them.

    Average precisions are printed, and written to the output folder with all decision
    values. Further files, made by `fishing temper`, add rows of other temperatures to
    the table; the results of each are written to a subfolder that is named after it.

    \b
    Example, for more images than exact kernels allow:
      fishing evaluate features.h5 --feature dW7 --landmarks 4096
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.evaluate import by_temperature, evaluate, write_results

    with ProgressBar() as progress:
        evaluations = [
            evaluate(path, features=features, progress=progress, **protocol)
            for path in features_files
        ]
    records = [evaluation.record for evaluation in evaluations]
    record = by_temperature(records) if len(records) > 1 else records[0]
    folders = [output, *(output / path.stem for path in features_files[1:])]
    for evaluation, folder in zip(evaluations, folders, strict=True):
        write_results(evaluation, folder)
    if as_json:
        print_json(record)
        return
    landmarks = record.get("landmarks")
    kernels = f"{landmarks} landmarks" if landmarks else "exact kernels"
    click.echo(
        f"Average precision in per cent, {record['train']} to {record['test']}, "
        f"protocol {record['protocol']}, C = {record['C']:g}, {kernels}"
    )
    print_table(record)
    click.echo(f"written to {output}")
