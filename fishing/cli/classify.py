"""`fishing classify` says which classes photographs show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.argument("photos", type=options.PATH, nargs=-1, required=True)
@click.option(
    "--train",
    default="trainval",
    show_default=True,
    help="Labelled split to learn the classes from.",
)
@options.feature
@click.option(
    "-C",
    "C",
    type=float,
    default=1.0,
    show_default=True,
    help="Regularisation parameter C of the SVMs.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Turn decision values into probabilities by Platt's method, cross-validated "
    "on the training split.",
)
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of classes to name for each photograph.",
)
@click.option(
    "--output", type=options.FILE, help="Write the values of all classes to a CSV file."
)
@click.option(
    "--sheet",
    type=options.FILE,
    help="Draw the photographs and their two best classes in this image file.",
)
@options.device
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Number of images that the net processes at once.",
)
@options.net_of_file
@options.threads
@options.as_json
def classify(
    features_file: Path,
    photos: tuple[Path, ...],
    train: str,
    feature: str | None,
    C: float,
    probabilities: bool,
    k: int,
    output: Path | None,
    sheet: Path | None,
    device: str,
    batch_size: int,
    net: str | None,
    as_json: bool,
) -> None:
    """Say which classes PHOTOS show.

    PHOTOS are image files, or folders of them. SVMs learn the classes from a labelled
    split of FEATURES_FILE, and the photographs get features like those of that file.
    What cannot be read is reported and left out.

    \b
    Example:
      fishing classify features.h5 holiday --output classes.csv --sheet sheet.png
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.nets import load_net
    from fishing.uses import (
        classify,
        format_classes,
        write_class_sheet,
        write_classes,
    )

    with ProgressBar() as progress:
        found = classify(
            *(features_file, photos),
            train=train,
            feature=feature,
            C=C,
            probabilities=probabilities,
            spec=load_net(net) if net else None,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    if as_json:
        print_json(_record(found))
    else:
        click.echo(format_classes(found, k))
    if output:
        write_classes(found, output)
    if sheet:
        write_class_sheet(found, sheet)
    for written in filter(None, (output, sheet)):
        click.echo(f"written to {written}", err=True)
    if found.failed:
        n = len(found.failed) + len(found.path)
        click.echo(f"{len(found.failed)} of {n} could not be read; left out", err=True)


def _record(found: Any) -> dict[str, Any]:
    """Make a record of what photographs show."""
    photographs = []
    for i, path in enumerate(found.path):
        one = {
            "path": str(path),
            "scores": dict(zip(found.classes, found.scores[i].tolist(), strict=True)),
        }
        if found.probabilities is not None:
            values = found.probabilities[i].tolist()
            one["probabilities"] = dict(zip(found.classes, values, strict=True))
        photographs.append(one)
    return {
        "feature": found.feature,
        "photographs": photographs,
        "failed": {str(path): reason for path, reason in found.failed.items()},
    }
