"""The command line: parses, calls one library function, and prints."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from fishing import __version__
from fishing.errors import FishingError, printable

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """A group whose commands end in one line, whatever the user's mistake."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except (FishingError, OSError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise  # the reader of our output left early: click ends quietly
            click.echo(f"fishing: {printable(str(error))}", err=True)
            ctx.exit(2)
        except MemoryError as error:
            click.echo(f"fishing: out of memory {printable(str(error))}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("fishing: interrupted; run the same command again", err=True)
            ctx.exit(130)


class _Formatter(logging.Formatter):
    """Writes a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return printable(super().format(record))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fishing")
def main() -> None:
    """Gradient features from deep nets.

    The gradient of the cross-entropy between the class probabilities that a net
    predicts for an image and a uniform label represents that image (Gordo, Gaidon and
    Perronnin, BMVC 2015). Extract these features with patched Caffe, then train and
    measure classifiers on them:

    \b
      fishing fetch vgg16
      fishing extract --net vgg16 --split trainval --split test
      fishing evaluate features.h5
    """  # noqa: D301, click takes the line of a backspace for verbatim text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("fishing: %(message)s"))
    logger = logging.getLogger("fishing")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    # What matters in these becomes an error of ours.
    warnings.filterwarnings("ignore", module="PIL")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


_SETTINGS = ("backend", "temperature", "tf32", "dtype", "compression")
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text."
)
_backend = click.option(
    "--backend",
    type=click.Choice(["auto", "caffe", "onnx", "openvino", "openvino-bfloat16"]),
    default="auto",
    show_default=True,
    help="What runs the net: patched Caffe, ONNX Runtime or OpenVINO; auto takes Caffe "
    "where it is installed and a GPU is asked for, else ONNX Runtime.",
)
_device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, a GPU as gpu:0, or several as gpu:0,1.",
)
_batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    show_default="32 on the CPU, what memory allows on a GPU",
    help="Images that go through the net at once.",
)


@main.command()
@click.argument("net")
@click.option(
    "--from",
    "source",
    metavar="URL-OR-PATH",
    help="Take the weights from here instead of the known sources.",
)
def fetch(net: str, source: str | None) -> None:
    """Fetch the weights of NET and check their SHA-256.

    A download that broke off is taken up where it was. The weights go into the folder
    that FISHING_HOME names, or else into the user's cache.
    """
    from fishing.nets import fetch_weights, load_net

    with _Progress() as progress:
        path = fetch_weights(load_net(net), source, progress)
    click.echo(path)


@main.command()
@click.option("--net", required=True, help="A net under models/, or a folder like one.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="A split of the data; may be repeated. Without one, all images of a folder.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="FISHING_VOC",
    default="VOCdevkit/VOC2007",
    show_default="FISHING_VOC, else VOCdevkit/VOC2007",
    help="A VOC devkit, or a folder of images with lists <split>.txt.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="features.h5",
    show_default=True,
    help="The features file.",
)
@_backend
@_device
@_batch_size
@click.option(
    "--temperature", type=float, default=2.0, show_default=True, help="tau of eq. 10."
)
@click.option(
    "--tf32", is_flag=True, help="Multiply with 10 bits on a GPU: faster, less exact."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the stored values; float16 halves the file and keeps 11 bits.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip"]),
    default="none",
    show_default=True,
    help="Of the stored values, without loss; reading takes longer.",
)
@click.option("--overwrite", is_flag=True, help="Remove what is there and start anew.")
@click.option("--strict", is_flag=True, help="Stop at an image that cannot be read.")
@_json
def extract(
    net: str,
    splits: tuple[str, ...],
    data: Path,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Extract gradient features of images.

    Paired forward and backward blobs of each image go into one features file.

    Interrupted, the same command goes on where it was. Images that cannot be read are
    reported, recorded in the file, and left out.
    """
    from fishing.extract import extract
    from fishing.images import read_splits
    from fishing.nets import load_net
    from fishing.store import ExtractionSettings

    chosen = {key: options.pop(key) for key in _SETTINGS}
    with _Progress() as progress:
        outcome = extract(
            ExtractionSettings(load_net(net), **chosen),
            read_splits(data, splits),
            output,
            progress=progress,
            **options,
        )
    if as_json:
        record = {"output": str(output), "splits": [asdict(split) for split in outcome]}
        click.echo(json.dumps(record))
        return
    for split in outcome:
        click.echo(
            f"{output} {split.split}: {split.n_images - split.n_failed} of "
            f"{split.n_images} images, {split.n_failed} failed"
            + (" (was there already)" if split.was_there else "")
        )


@main.command()
@click.option("--net", required=True, help="A net under models/, or a folder like one.")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def export(net: str, output: Path) -> None:
    """Write a net as one ONNX graph.

    OUTPUT makes all paired blobs in one call of ONNX Runtime, without this package; its
    inputs are images and the temperature, its metadata say how images are prepared.
    """
    from fishing.backends.onnx import export
    from fishing.nets import load_net

    export(load_net(net), output)
    click.echo(output)


@main.command()
@click.argument(
    "features_files", type=click.Path(path_type=Path), nargs=-1, required=True
)
@click.option("--train", default="trainval", show_default=True, help="Split to learn.")
@click.option("--test", default="test", show_default=True, help="Split to rank.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="A feature such as x7, x6+x7 or dW7; may be repeated. By default the eleven "
    "of the paper.",
)
@click.option(
    "--protocol",
    type=click.Choice(["voc2007", "voc2012"]),
    help="Average precision at 11 points or as area. By default that of the devkit's "
    "year, and voc2007 for other data.",
)
@click.option(
    "-C", "C", type=float, default=1.0, show_default=True, help="C of the SVMs."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="results",
    show_default=True,
    help="Folder of results.json, the table and the VOC submission files.",
)
@_json
def evaluate(
    features_files: tuple[Path, ...],
    features: tuple[str, ...],
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train SVMs on features and measure them.

    Prints average precisions, and writes them with all decision values. Further files,
    as `fishing temper` makes them, give further rows of the table; their results go
    into folders of their names below that of the first.
    """
    from fishing.evaluate import by_temperature, evaluate, format_table, write_results
    from fishing.kernels import FEATURES

    with _Progress() as progress:
        evaluations = [
            evaluate(path, features=features or FEATURES, progress=progress, **options)
            for path in features_files
        ]
    records = [evaluation.record for evaluation in evaluations]
    record = by_temperature(records) if len(records) > 1 else records[0]
    folders = [output, *(output / path.stem for path in features_files[1:])]
    for evaluation, folder in zip(evaluations, folders, strict=True):
        write_results(evaluation, folder)
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(
        f"Average precision in per cent, {record['train']} to {record['test']}, "
        f"protocol {record['protocol']}, C = {record['C']:g}"
    )
    click.echo(format_table(record, _width()))
    click.echo(f"written to {output}")


@main.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="VOCdevkit",
    show_default=True,
    help="The folder of VOC2007 and VOC2012, or one data set as for `extract`.",
)
@click.option(
    "--net",
    "nets",
    multiple=True,
    required=True,
    help="A net under models/, or a folder like one; may be repeated.",
)
@click.option(
    "--year",
    "years",
    type=int,
    multiple=True,
    help="Of VOC; may be repeated. By default the years that are there.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="reproduction",
    show_default=True,
    help="Folder of the features, results and tables.",
)
@_backend
@_device
@_batch_size
@_json
def reproduce(
    data: Path, nets: tuple[str, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """Reproduce the paper's tables.

    Fetches weights, extracts, evaluates, and prints our figures beside the paper's.
    What was done before is not done again; interrupted, the same command goes on.
    """
    from fishing.nets import load_net
    from fishing.paper import format_tables, reproduce
    from fishing.store import ExtractionSettings

    backend = options.pop("backend")
    settings = [ExtractionSettings(load_net(net), backend) for net in nets]
    with _Progress() as progress:
        comparison = reproduce(data, settings, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(comparison))
        return
    click.echo(format_tables(comparison, "txt"))
    click.echo(f"written to {output}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="report",
    show_default=True,
    help="Folder of the page, index.html, and of the plots as SVG files.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="FISHING_VOC",
    help="The data set, as for `extract`, whose images the page shows. By default "
    "FISHING_VOC; without one the page names images instead.",
)
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help="The features file, where it is no longer where it was evaluated.",
)
def report(
    results: Path, output: Path, data: Path | None, features: Path | None
) -> None:
    """Make a page of tables and pictures of RESULTS.

    RESULTS is a folder that `evaluate` wrote. Results of other temperatures are looked
    for in the folders in it.
    """
    from fishing.report import write_report

    with _Progress() as progress:
        page = write_report(
            results, output, data=data, features=features, progress=progress
        )
    click.echo(page)


@main.command()
@click.argument("features_file", type=click.Path(path_type=Path))
@click.option(
    "--query", "photo", type=click.Path(path_type=Path), help="An image file."
)
@click.option("--query-id", "image_id", help="An image of the file, by its id.")
@click.option(
    "--evaluate",
    "as_evaluation",
    is_flag=True,
    help="Take every image of a labelled split as query, itself left out, and print "
    "mean average precision.",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="A feature such as x7, x6+x7 or dW7; may be repeated. By default dW7, and "
    "with --evaluate the eleven of the paper.",
)
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Images."
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Where to look; may be repeated. By default all splits, and with --evaluate "
    "test.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the query and what was found into this picture.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="FISHING_VOC",
    default="VOCdevkit/VOC2007",
    show_default="FISHING_VOC, else VOCdevkit/VOC2007",
    help="The devkit or folder of the images, for --sheet.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu, or gpu:0, for --query."
)
@click.option(
    "--net", help="The net of the file, where it is none of models/: its folder."
)
@_json
def search(
    features_file: Path,
    photo: Path | None,
    image_id: str | None,
    as_evaluation: bool,
    features: tuple[str, ...],
    splits: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Find the nearest images, or measure how well that works.

    The images of FEATURES_FILE are compared with a photo (--query), which goes through
    the same net and backend, or with one of themselves (--query-id), by the kernel of a
    feature.
    """
    if (photo is not None) + (image_id is not None) + as_evaluation != 1:
        raise click.UsageError("Name one of --query, --query-id and --evaluate.")
    if as_evaluation:
        if len(splits) > 1:
            raise click.UsageError("--evaluate takes one --split.")
        if options["sheet"]:
            raise click.UsageError("--evaluate draws no --sheet.")
        split = splits[0] if splits else "test"
        _evaluate_retrieval(features_file, split, features, as_json)
    else:
        _search(features_file, photo, image_id, features, splits, as_json, **options)


def _evaluate_retrieval(
    features_file: Path, split: str, features: tuple[str, ...], as_json: bool
) -> None:
    """Print mean average precisions of retrieval."""
    from fishing.evaluate import format_table
    from fishing.kernels import FEATURES
    from fishing.search import evaluate_retrieval

    with _Progress() as progress:
        record = evaluate_retrieval(
            features_file, split, features or FEATURES, progress
        )
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(
        f"Average precision of retrieval in per cent, {record['n_queries']} queries "
        f"of {split}"
    )
    click.echo(format_table(record, _width()))


def _search(
    features_file: Path,
    photo: Path | None,
    image_id: str | None,
    features: tuple[str, ...],
    splits: tuple[str, ...],
    as_json: bool,
    *,
    k: int,
    sheet: Path | None,
    data: Path,
    device: str,
    net: str | None,
) -> None:
    """Print the neighbours of an image, and draw them where that is asked for."""
    from fishing.images import find_image
    from fishing.nets import load_net
    from fishing.search import format_neighbours, search_id, search_photo, write_sheet

    names = tuple(dict.fromkeys(features)) or ("dW7",)
    with _Progress() as progress:
        if photo is not None:
            spec = load_net(net) if net else None
            found = search_photo(
                *(features_file, photo, names, k),
                splits=splits,
                spec=spec,
                device=device,
                progress=progress,
            )
        else:
            found = search_id(
                *(features_file, str(image_id), names, k),
                splits=splits,
                progress=progress,
            )
    if sheet:
        query = photo or find_image(data, str(image_id))
        write_sheet(sheet, query, found, data)
    if as_json:
        record = {
            "query": str(photo or image_id),
            "neighbours": {
                feature: [asdict(neighbour) for neighbour in neighbours]
                for feature, neighbours in found.items()
            },
        }
        click.echo(json.dumps(record))
        return
    click.echo(format_neighbours(found))
    if sheet:
        click.echo(f"drawn to {sheet}")


@main.command()
@click.argument("features_file", type=click.Path(path_type=Path))
@click.option(
    "--temperature",
    "temperatures",
    type=float,
    multiple=True,
    required=True,
    help="tau of eq. 10; may be repeated.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="t{tau}.h5",
    show_default=True,
    help="The features file to write; {tau} stands for the temperature.",
)
@click.option(
    "--net", help="The net of the file, where it is none of models/: its folder."
)
@_json
def temper(
    features_file: Path,
    temperatures: tuple[float, ...],
    output: Path,
    net: str | None,
    as_json: bool,
) -> None:
    """Make features of other temperatures.

    From those of FEATURES_FILE, without images: the activations are the same, and the
    gradients follow from them and the weights of the last two layers.
    """
    from fishing.extract import temper
    from fishing.nets import load_net

    with _Progress() as progress:
        paths = temper(
            features_file,
            output,
            temperatures,
            spec=load_net(net) if net else None,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({"outputs": [str(path) for path in paths]}))
        return
    for path in paths:
        click.echo(path)


@main.command()
@click.argument("features_file", type=click.Path(path_type=Path))
@click.option(
    "--verify",
    "verified",
    is_flag=True,
    help="Read all values and compare their checksums with those in the file.",
)
@_json
def info(features_file: Path, verified: bool, as_json: bool) -> None:
    """Say what is in a features file.

    And how it was made, which images failed, and whether its parts fit together.
    """
    from fishing.store import describe, verify

    if verified:
        with _Progress() as progress:
            verify(features_file, progress)
    record = {**describe(features_file), **({"verified": True} if verified else {})}
    if as_json:
        click.echo(json.dumps(record))
        return
    for key, value in record["settings"].items():
        click.echo(printable(f"{key:<17} {value}"))
    for name, split in record["splits"].items():
        click.echo(
            f"{name}: {split['n_images']} images, {split['n_failed']} failed, "
            f"{split['n_classes']} classes"
        )
        for blob, width in split["blobs"].items():
            click.echo(f"  {blob:<15} {width:>6} values an image")
        for image_id, reason in split["failed"].items():
            click.echo(printable(f"  failed: {image_id}: {reason}"))
    if verified:
        click.echo("verified: all checksums are right")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def photographs(folder: Path) -> None:
    """Make a small data set to try things on.

    FOLDER gets the layout of a VOC devkit: 1,200 small images cut from the photographs
    that scikit-image and scikit-learn carry; nothing is downloaded.
    """
    from fishing.images import write_photographs

    click.echo(write_photographs(folder))


def _width() -> int | None:
    """Columns of the terminal; none where there is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


class _Progress:
    """A bar on a terminal, and a plain line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._tty = sys.stderr.isatty()
        self._next_line = time.monotonic() + 10

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        if self._tty and total:
            if self._bar is None or label != self._label:
                self._end_bar()
                self._bar = click.progressbar(
                    length=total, label=label, file=sys.stderr
                )
                self._label = label
            self._bar.update(done - self._bar.pos)
        elif time.monotonic() >= self._next_line:
            scale, unit = (1e-6, "MB") if unit == "B" else (1, unit)
            of = f" of {total * scale:.0f}" if total else ""
            line = f"{label}: {done * scale:.0f}{of} {unit}"
            click.echo(line, err=True)
            self._next_line = time.monotonic() + 10

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
