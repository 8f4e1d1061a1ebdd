"""`fishing export` writes a net and its gradients as one ONNX graph."""

from __future__ import annotations

from pathlib import Path

import click

from fishing.cli import options


@click.command()
@options.net
@click.argument("output", type=options.FILE)
def export(net: str, output: Path) -> None:
    """Write a net as one ONNX graph.

    The graph computes all activations and gradients in one call of ONNX Runtime, which
    works without this package. Its inputs are images and the temperature. Its metadata
    say how to prepare the images.

    \b
    Example:
      fishing export --net vgg16 vgg16-gradients.onnx
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.backends.onnx import export
    from fishing.nets import load_net

    export(load_net(net), output)
    click.echo(output)
