"""`fishing compress` makes features files small."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Number of values of each blob to keep.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int8", "int4", "float16", "float32"]),
    default="int8",
    show_default=True,
    help="Type of the stored values: 8 or 4 bits with a scale for each direction, or "
    "floats.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split that determines the directions; may be repeated. The default is "
    "trainval, or all splits if there is none of that name.",
)
@options.output(options.FILE, "small.h5", "Features file to write.")
@options.threads
@options.as_json
def compress(
    features_file: Path,
    dimensions: int,
    dtype: str,
    splits: tuple[str, ...],
    output: Path,
    as_json: bool,
) -> None:
    """Make a small features file of FEATURES_FILE.

    Each blob is projected on its first principal directions, and its values are rounded
    to a few bits. The small file takes the place of the large one in evaluate, search,
    index, retrieval, classify and report; a photo that is searched for is projected
    too. What needs the values of the net itself refuses it: temper, select, and the
    methods of score but for knn.

    \b
    Examples:
      fishing compress features.h5
      fishing compress features.h5 --dimensions 128 --dtype int4 --output small.h5
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.extract import compress
    from fishing.store import stored_bytes

    with ProgressBar() as progress:
        compress(
            features_file,
            output,
            dimensions=dimensions,
            dtype=dtype,
            splits=splits,
            progress=progress,
        )
    sizes = [stored_bytes(path) for path in (features_file, output)]
    if as_json:
        print_json({"output": str(output), "bytes": sizes[1], "bytes_before": sizes[0]})
        return
    click.echo(f"{output}: {sizes[1]:,} bytes, before {sizes[0]:,}")
