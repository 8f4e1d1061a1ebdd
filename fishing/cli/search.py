"""`fishing search` finds the images that are nearest to one image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from fishing.cli import options
from fishing.cli.printing import print_json
from fishing.cli.progress import ProgressBar


@click.command()
@options.features_file
@click.option("--query", "photo", type=options.PATH, help="Image file to search for.")
@click.option("--query-id", "image_id", help="Id of an image of the features file.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Name of a feature, such as x7, dW7, the product 'x6*x7' or the sum x6+x7; "
    "may be repeated. The default is dW7, the gradient of the second inner product, "
    "for the paper's nets.",
)
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of images to find.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split to search; may be repeated. The default is all splits.",
)
@click.option(
    "--index",
    type=options.PATH,
    help="Index of the features file, made by fishing index: search a part of the "
    "images, by the feature of the index.",
)
@click.option(
    "--sheet",
    type=options.FILE,
    help="Draw the query and its neighbours as a contact sheet in this image file.",
)
@options.data("VOC devkit or folder of the images, for --sheet.")
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where the net runs for --query: cpu, or a GPU such as gpu:0.",
)
@options.net_of_file
@options.threads
@options.as_json
def search(
    features_file: Path,
    photo: Path | None,
    image_id: str | None,
    features: tuple[str, ...],
    k: int,
    splits: tuple[str, ...],
    index: Path | None,
    sheet: Path | None,
    data: Path,
    device: str,
    net: str | None,
    as_json: bool,
) -> None:
    """Find the images that are nearest to one image.

    The query is a photo (--query), whose features are computed as those of
    FEATURES_FILE were, or an image of that file (--query-id). Images are compared by
    the kernel of a feature.

    \b
    Examples:
      fishing search features.h5 --query photo.jpg --sheet nearest.png
      fishing search features.h5 --query photo.jpg --index dW7.faiss
      fishing search features.h5 --query-id 000012 --feature x7 --feature dW7
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    from fishing.nets import load_net
    from fishing.search import format_neighbours, search_id, search_photo

    if (photo is None) == (image_id is None):
        raise click.UsageError("Give exactly one of --query and --query-id.")
    with ProgressBar() as progress:
        if photo is not None:
            found = search_photo(
                *(features_file, photo, features, k),
                splits=splits,
                index=index,
                spec=load_net(net) if net else None,
                device=device,
                progress=progress,
            )
        else:
            found = search_id(
                *(features_file, str(image_id), features, k),
                splits=splits,
                index=index,
                progress=progress,
            )
    if sheet:
        from fishing.images import find_image
        from fishing.search import write_sheet

        write_sheet(sheet, photo or find_image(data, str(image_id)), found, data)
    if as_json:
        neighbours = {name: list(map(asdict, ones)) for name, ones in found.items()}
        print_json({"query": str(photo or image_id), "neighbours": neighbours})
        return
    click.echo(format_neighbours(found))
    if sheet:
        click.echo(f"drawn to {sheet}")
