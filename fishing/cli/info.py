"""`fishing info` describes a features file."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar
from fishing.errors import printable


@click.command()
@options.features_file
@click.option(
    "--verify",
    "verified",
    is_flag=True,
    help="Read all values and compare their checksums with those in the file.",
)
@options.threads
@options.as_json
def info(features_file: Path, verified: bool, as_json: bool) -> None:
    """Describe FEATURES_FILE.

    The output says how the file was made, what it contains and which images failed. A
    file whose parts do not fit together is refused.

    \b
    Example:
      fishing info features.h5 --verify
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.store import describe, verify

    if verified:
        with ProgressBar() as progress:
            verify(features_file, progress)
    record = {**describe(features_file), **({"verified": True} if verified else {})}
    if as_json:
        print_json(record)
        return
    for key, value in record["settings"].items():
        click.echo(printable(f"{key:<17} {value}"))
    for name, split in record["splits"].items():
        click.echo(
            f"{name}: {split['n_images']} images, {split['n_failed']} failed, "
            f"{split['n_classes']} classes"
        )
        for blob, width in split["blobs"].items():
            click.echo(f"  {blob:<15} {width:>6} values per image")
        for image_id, reason in split["failed"].items():
            click.echo(printable(f"  failed: {image_id}: {reason}"))
    if verified:
        click.echo("verified: all checksums match")
