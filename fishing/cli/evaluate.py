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
@click.option("--train", show_default="trainval", help="Split to train on.")
@click.option("--test", show_default="test", help="Split to test on.")
@click.option(
    "--split",
    help="Split to cross-validate on, instead of --train and --test: the images of "
    "each fold are ranked by SVMs that were trained on the other folds.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    show_default="5",
    help="Number of folds for --split.",
)
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
@options.bootstrap(0)
@click.option(
    "--reference",
    help="Feature that --bootstrap compares the others with. The default is x7, or "
    "else the first feature.",
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
@options.threads
@options.as_json
def evaluate(
    features_files: tuple[Path, ...],
    train: str | None,
    test: str | None,
    split: str | None,
    folds: int | None,
    reference: str | None,
    landmarks: int | None,
    output: Path,
    as_json: bool,
    **protocol: Any,
) -> None:
    """Train SVMs on features and evaluate them.

    Average precisions are printed, and written to the output folder with all decision
    values. Further files, made by `fishing temper`, add rows of other temperatures to
    the table; the results of each are written to a subfolder that is named after it.

    With --bootstrap, each value gets a 95 % interval, and so does its difference to
    that of a reference feature.

    \b
    Examples:
      fishing evaluate features.h5
      fishing evaluate features.h5 --feature x7 --feature dW7 --bootstrap 1000
      fishing evaluate features.h5 --split all --folds 5
      fishing evaluate features.h5 --feature dW7 --landmarks 4096
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.evaluate import (
        by_temperature,
        cross_validate,
        evaluate,
        write_results,
    )

    if split and (train or test):
        raise click.UsageError("Give either --split, or --train and --test.")
    if folds and not split:
        raise click.UsageError("--folds needs --split.")
    if landmarks and split:
        raise click.UsageError("--landmarks needs --train and --test.")
    if reference and not protocol["n_resamples"]:
        raise click.UsageError("--reference needs --bootstrap.")
    with ProgressBar() as progress:
        run = {**protocol, "reference": reference, "progress": progress}
        evaluations = [
            cross_validate(path, split=split, n_folds=folds or 5, **run)
            if split
            else evaluate(
                path,
                train=train or "trainval",
                test=test or "test",
                landmarks=landmarks,
                **run,
            )
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
    splits = f"{record['train']} to {record['test']}"
    if split:
        splits = f"{record['folds']} folds of {split}"
    how = "as an area" if record["protocol"] == "voc2012" else "at 11 points"
    taken = record.get("landmarks")
    kernels = f"{taken} landmarks" if taken else "exact kernels"
    click.echo(
        f"Average precision in per cent, {splits}, protocol {record['protocol']}, "
        f"C = {record['C']:g}; {how}, because {record['protocol_because']} ({kernels})"
    )
    print_table(record)
    click.echo(f"written to {output}")
