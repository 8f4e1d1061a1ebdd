"""`fishing temper` computes features at other temperatures, without images."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option(
    "--temperature",
    "temperatures",
    type=float,
    multiple=True,
    required=True,
    help="Temperature of the softmax, tau in eq. 10 of the paper; may be repeated.",
)
@options.output(
    options.FILE,
    "t{tau}.h5",
    "Features file to write; {tau} stands for the temperature.",
)
@options.net_of_file
@options.threads
@options.as_json
def temper(
    features_file: Path,
    temperatures: tuple[float, ...],
    output: Path,
    net: str | None,
    as_json: bool,
) -> None:
    """Compute the features of FEATURES_FILE at other temperatures.

    No images are needed: the activations stay the same, and the gradients follow from
    them and from the weights of the last layers.

    \b
    Example:
      fishing temper features.h5 --temperature 1 --temperature 4
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.extract import temper
    from fishing.nets import load_net

    with ProgressBar() as progress:
        paths = temper(
            features_file,
            output,
            temperatures,
            spec=load_net(net) if net else None,
            progress=progress,
        )
    if as_json:
        print_json({"outputs": [str(path) for path in paths]})
        return
    for path in paths:
        click.echo(path)
