"""Options and arguments that several commands take."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fishing.processes import use_threads

F = TypeVar("F", bound=Callable[..., Any])


class _Path(click.Path):
    """A path; ``~`` stands for the home folder, which shells leave to us in =~/x."""

    def convert(self, value: Any, *rest: Any) -> Any:
        return super().convert(os.path.expanduser(value), *rest)


PATH = _Path(path_type=Path)
FILE = _Path(path_type=Path, dir_okay=False)
FOLDER = _Path(path_type=Path, file_okay=False)

features_file = click.argument("features_file", type=PATH)

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text."
)
net = click.option(
    "--net", required=True, help="Name of a net under models/, or folder of a net."
)
nets = click.option(
    "--net",
    "nets",
    multiple=True,
    required=True,
    help="Name of a net under models/, or folder of a net; may be repeated.",
)
net_of_file = click.option(
    "--net",
    help="Folder of the net that the file was made with, if it is not under models/.",
)
features = click.option(
    "--feature",
    "features",
    multiple=True,
    help="Name of a feature, such as x7, dW7, the product 'x6*x7' or the sum x6+x7; "
    "may be repeated. The default is every feature of the paper's table 1 that the "
    "file allows.",
)
feature = click.option(
    "--feature",
    help="Name of a feature, such as x7, dW7, the product 'x6*x7' or the sum x6+x7. "
    "The default is dW7, the gradient of the second inner product, for the paper's "
    "nets.",
)
device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where the net runs: cpu, one GPU (gpu:0) or several GPUs (gpu:0,1).",
)
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=lambda _, __, n: use_threads(n),
    show_default="what affinity, control groups and OMP_NUM_THREADS allow",
    help="Number of threads that each library and pool of threads may use.",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    show_default="32; on a GPU as many as fit into memory, but for shards",
    help="Number of images that the net processes at once.",
)


def data(help: str) -> Callable[[F], F]:
    """Make the option that names a data set, by default the one in FISHING_VOC."""
    return click.option(
        "--data",
        type=PATH,
        envvar="FISHING_VOC",
        default="VOCdevkit/VOC2007",
        show_default="FISHING_VOC, or else VOCdevkit/VOC2007",
        help=help,
    )


def bootstrap(default: int) -> Callable[[F], F]:
    """Make the option that asks for intervals."""
    return click.option(
        "--bootstrap",
        "n_resamples",
        metavar="N",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        help="Number of resamples of the test images, for 95 % intervals; 0 for none.",
    )


def output(kind: click.Path, default: str, help: str) -> Callable[[F], F]:
    """Make the option that names the file or folder to write."""
    return click.option(
        "--output", type=kind, default=default, show_default=True, help=help
    )


#: Each option is a field of `fishing.store.ExtractionSettings`.
_SETTINGS = {
    "backend": click.option(
        "--backend",
        type=click.Choice(["auto", "caffe", "onnx", "openvino", "openvino-bfloat16"]),
        default="auto",
        show_default=True,
        help="Library that runs the net: patched Caffe, ONNX Runtime or OpenVINO. auto "
        "chooses Caffe if it is installed and --device names a GPU, and ONNX Runtime "
        "otherwise.",
    ),
    "temperature": click.option(
        "--temperature",
        type=float,
        default=2.0,
        show_default=True,
        help="Temperature of the softmax, tau in eq. 10 of the paper.",
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
        help="Type of the stored values; float16 halves the file and keeps 11 bits of "
        "precision.",
    ),
    "compression": click.option(
        "--compression",
        type=click.Choice(["none", "gzip"]),
        default="none",
        show_default=True,
        help="Lossless compression of the stored values, which makes reading slower.",
    ),
}


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `_SETTINGS`, which the command gets as a dict ``settings``."""

    @functools.wraps(command)
    def with_settings(**options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _SETTINGS}
        return command(settings=chosen, **options)

    for option in reversed(_SETTINGS.values()):
        option(with_settings)
    return with_settings
