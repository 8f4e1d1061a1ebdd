"""`fishing import` makes the folder of a net from a published model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fishing.cli import options
from fishing.cli.printing import print_json

if TYPE_CHECKING:
    from fishing.extract import ImportedNet


@click.command("import")
@click.argument("model", type=options.FILE)
@click.argument("weights", type=options.FILE, required=False)
@click.option(
    "--preprocess",
    metavar="FILE|torchvision|caffe",
    help="How images are prepared for an ONNX model: timm's config.json, Hugging "
    "Face's preprocessor_config.json, or the way of torchvision or Caffe.",
)
@click.option(
    "--mean",
    metavar="B,G,R|FILE",
    help="Mean that a Caffe net subtracts from its images: numbers from 0 to 255, or a "
    "mean image (.binaryproto), whose mean over all pixels counts.  [default: "
    "104,117,123]",
)
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of a Caffe net's inputs, after the mean is subtracted.",
)
@click.option("--name", help="Name of the net.  [default: name of the folder]")
@click.option(
    "--output",
    type=options.FOLDER,
    help="Folder to make.  [default: the name of the weights, in the current folder]",
)
@click.option(
    "--image",
    "images",
    type=options.FILE,
    multiple=True,
    help="Image to try the net on; may be repeated.  [default: two photographs]",
)
@options.as_json
def import_net(
    model: Path,
    weights: Path | None,
    preprocess: str | None,
    mean: str | None,
    scale: float,
    name: str | None,
    output: Path | None,
    images: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Make the folder of a net from a published model.

    MODEL is a classifier in ONNX, or a deploy.prototxt of Caffe with its WEIGHTS. The
    head of the net is found by its layers, the net is tried on images, and the features
    that it gives are listed. The folder can then be used as --net.

    \b
      fishing import resnet50.onnx --preprocess torchvision
      fishing import deploy.prototxt weights.caffemodel --mean 104,117,123
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.extract import import_caffe, import_onnx
    from fishing.images import read_preprocess
    from fishing.nets import read_mean

    folder = output or Path(name or (weights or model).stem)
    if weights is None:
        if preprocess is None:
            raise click.UsageError(
                "an ONNX model does not say how images are prepared: add --preprocess "
                "with timm's config.json, Hugging Face's preprocessor_config.json, "
                "'torchvision' or 'caffe' (or name the .caffemodel of a Caffe net)"
            )
        found = import_onnx(
            model, read_preprocess(preprocess), folder, name=name, images=images
        )
    else:
        found = import_caffe(
            model,
            weights,
            folder,
            mean=None if mean is None else read_mean(mean),
            scale=scale,
            name=name,
            images=images,
        )
    _print(found, folder, as_json=as_json)


def _print(found: ImportedNet, folder: Path, *, as_json: bool) -> None:
    """Print the head, the widths of the blobs and the features that there will be."""
    from fishing.extract import one_product_advice
    from fishing.kernels import available_features

    widths = {name: rows.shape[1] for name, rows in found.blobs.items()}
    features = available_features(widths)
    if as_json:
        print_json(
            {
                "net": str(folder),
                "head": found.head,
                "blobs": found.spec.blobs,
                "widths": widths,
                "features": features,
            }
        )
        return
    click.echo(f"{folder}: {found.head}")
    for key, blob in found.spec.blobs.items():
        click.echo(f"  {key}  {widths[f'forward/{key}']:>6}  {blob}")
    click.echo(f"features: {' '.join(features)}")
    if advice := one_product_advice(found.spec.name, widths):
        click.echo(advice)
    click.echo(f"next: fishing extract --net {folder} --split trainval")
