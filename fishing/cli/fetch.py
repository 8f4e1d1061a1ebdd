"""`fishing fetch` downloads the weights of a net."""

from __future__ import annotations

import click

from fishing.cli.progress import ProgressBar


@click.command()
@click.argument("net")
@click.option(
    "--from",
    "source",
    metavar="URL-OR-PATH",
    help="Where to get the weights, instead of from the known sources.",
)
def fetch(net: str, source: str | None) -> None:
    """Fetch the weights of NET and check their checksum.

    The same command resumes an interrupted download. The weights are stored in the
    folder that FISHING_HOME names, or else in the user's cache.

    \b
    Examples:
      fishing fetch vgg16
      fishing fetch alexnet --from downloads/bvlc_alexnet.caffemodel
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.nets import fetch_weights, load_net

    with ProgressBar() as progress:
        path = fetch_weights(load_net(net), source, progress)
    click.echo(path)
