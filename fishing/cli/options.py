"""Options and arguments that several commands take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

features_file = click.argument("features_file", type=click.Path(path_type=Path))

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text."
)
net = click.option(
    "--net", required=True, help="A net under models/, or the folder of another net."
)
nets = click.option(
    "--net",
    "nets",
    multiple=True,
    required=True,
    help="A net under models/, or the folder of another net; may be repeated.",
)
net_of_file = click.option(
    "--net",
    help="Folder of the net that the file was made with, if it is not under models/.",
)
features = click.option(
    "--feature",
    "features",
    multiple=True,
    help="A feature such as x7, x6+x7 or dW7; may be repeated. By default all of "
    "the paper's table 1 that the file has.",
)
device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, one GPU (gpu:0) or several GPUs (gpu:0,1).",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    show_default="32 on the CPU, as many as fit into memory on a GPU",
    help="Number of images that go through the net at once.",
)


def data(help: str) -> Callable[[F], F]:
    """Make the option that names a data set and heeds FISHING_VOC."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        envvar="FISHING_VOC",
        default="VOCdevkit/VOC2007",
        show_default="FISHING_VOC, or else VOCdevkit/VOC2007",
        help=help,
    )


def output_folder(default: str, help: str) -> Callable[[F], F]:
    """Make the option that names the folder to write to."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        show_default=True,
        help=help,
    )


def output_file(default: str, help: str) -> Callable[[F], F]:
    """Make the option that names the file to write."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default,
        show_default=True,
        help=help,
    )


#: Each option is a field of `fishing.store.ExtractionSettings`.
_SETTINGS = {
    "backend": click.option(
        "--backend",
        type=click.Choice(["auto", "caffe", "onnx", "openvino", "openvino-bfloat16"]),
        default="auto",
        show_default=True,
        help="The library that runs the net: patched Caffe, ONNX Runtime or OpenVINO. "
        "auto is Caffe if it is installed and --device names a GPU, and ONNX Runtime "
        "otherwise.",
    ),
    "temperature": click.option(
        "--temperature",
        type=float,
        default=2.0,
        show_default=True,
        help="Temperature of the softmax: tau in eq. 10 of the paper.",
    ),
    "tf32": click.option(
        "--tf32",
        is_flag=True,
        help="Let a GPU multiply in TF32, which is faster and less exact.",
    ),
    "dtype": click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        show_default=True,
        help="Type of the stored values; float16 halves the file and keeps 11 bits.",
    ),
    "compression": click.option(
        "--compression",
        type=click.Choice(["none", "gzip"]),
        default="none",
        show_default=True,
        help="Lossless compression; slower to read.",
    ),
}


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that determine the values of an extraction.

    The command gets them as one dict, ``settings``.
    """

    @functools.wraps(command)
    def with_settings(**options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _SETTINGS}
        return command(settings=chosen, **options)

    for option in reversed(_SETTINGS.values()):
        option(with_settings)
    return with_settings
