"""`fishing index` builds an index, with which `fishing search` is fast."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@options.feature
@options.output(options.FILE, "index.faiss", "Index file to write.")
@click.option(
    "--check",
    is_flag=True,
    help="Measure which share of the exact top 10 a search with the index finds.",
)
@options.threads
@options.as_json
def index(
    features_file: Path, feature: str | None, output: Path, check: bool, as_json: bool
) -> None:
    """Build an index of FEATURES_FILE for one feature.

    With fishing search --index, the query is compared with a few hundred images
    instead of all. An index that is there already is left alone.

    \b
    Examples:
      fishing index features.h5
      fishing index features.h5 --feature dW7 --output dW7.faiss --check
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.search import build_index, measure_index

    with ProgressBar() as progress:
        header = build_index(features_file, output, feature=feature, progress=progress)
        recall = measure_index(features_file, output, progress) if check else None
    n_bytes = output.stat().st_size
    if as_json:
        found = {"feature": header.feature, "n_images": header.n_images}
        checked = {} if recall is None else {"recall": recall}
        print_json({"output": str(output), **found, "bytes": n_bytes, **checked})
        return
    click.echo(
        f"{output}: {header.feature} of {header.n_images:,} images, {n_bytes:,} bytes"
    )
    if recall is not None:
        click.echo(f"finds {recall:.1%} of the exact top 10")
