"""Run the public nets of `../shared/zoo` with random weights by both backends.

    python tests/backends/zoo.py [--folder FOLDER] [NAME ...]

It prints a line for each net: its head, what each backend did, and the largest
difference between their blobs in relation to the maximum of a blob. Then it counts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from random_weights import random_weights, write_caffemodel

from fishing.backends import Backend
from fishing.backends.caffe import CaffeBackend
from fishing.backends.onnx import OnnxBackend
from fishing.backends.onnx.graph import build_graph
from fishing.errors import FishingError, NetError
from fishing.images import Preprocess
from fishing.nets import (
    LayerWeights,
    NetSpec,
    Weights,
    ancestors,
    blob_shapes,
    parameter_shapes,
    propose_blobs,
    read_net,
)
from fishing.nets.inner_products import product_weights
from fishing.nets.prepare_net import prepare_layers

ZOO = Path(__file__).parents[3] / "shared" / "zoo"
TAU = 2.0


def names(folder: Path = ZOO) -> list[str]:
    """List the nets of the zoo."""
    return sorted(path.stem for path in folder.glob("*.prototxt"))


def convert(prototxt: Path) -> str:
    """Make the gradient graph of a net with weights of zero, and describe its head.

    A NetError says why the net is refused.
    """
    net, shape = _net_and_shape(prototxt)
    blobs = propose_blobs(net.layer)
    shapes = blob_shapes(net.layer, shape)
    weights: LayerWeights = {}
    for layer in ancestors(net.layer, list(blobs.values())):
        if all(bottom in shapes for bottom in layer.bottom):
            found = parameter_shapes(layer, [shapes[b] for b in layer.bottom])
            weights[layer.name] = [np.broadcast_to(np.float32(0), s) for s in found]
    layers, head, _, kernels = prepare_layers(net.layer, blobs, shape)
    weights = product_weights(weights, kernels)
    build_graph(layers, weights, prototxt, outputs=head.forward(), head=head)
    return head.describe()


def make_net(prototxt: Path, folder: Path) -> NetSpec:
    """Give a net random weights and the blobs that it is proposed to have."""
    net, shape = _net_and_shape(prototxt)
    blobs = propose_blobs(net.layer)
    used = ancestors(net.layer, list(blobs.values()))
    write_caffemodel(folder / "random.caffemodel", random_weights(used, shape))
    return spec_of(prototxt, folder, blobs, "random.caffemodel")


def spec_of(
    prototxt: Path, folder: Path, blobs: dict[str, str], weights: str
) -> NetSpec:
    """Describe a net whose folder has weights of this name."""
    channels, height, width = _net_and_shape(prototxt)[1]
    if channels not in (1, 3):
        raise NetError(f"expected images of 1 or 3 channels, found {channels}")
    shutil.copy(prototxt, folder / "deploy.prototxt")
    preprocess = Preprocess(
        height,
        width,
        channels="BGR" if channels == 3 else "grey",
        mean=(0.0,) * channels,
        scale=(1.0,) * channels,
    )
    return NetSpec(
        name=prototxt.stem,
        title=prototxt.stem,
        folder=folder,
        model=folder / "deploy.prototxt",
        preprocess=preprocess,
        blobs=blobs,
        weights=Weights(weights, None, None, (), ""),
    )


def run(
    backend: Callable[..., Backend], spec: NetSpec, n: int = 3
) -> dict[str, NDArray[np.float32]]:
    """Run random images through a backend."""
    rng = np.random.default_rng(7)
    data = rng.standard_normal((n, *spec.preprocess.shape)).astype(np.float32)
    opened = backend(spec, temperature=TAU, batch_size=n, device="cpu")
    try:
        return opened.run(data)
    finally:
        opened.close()


def difference(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
) -> float:
    """Return the largest difference in relation to the maximum of a blob."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert np.isfinite(values).all(), name
        assert np.ptp(values) > 0, name
    return max(
        float(np.abs(found[name] - values).max() / np.abs(values).max())
        for name, values in expected.items()
    )


def _net_and_shape(prototxt: Path) -> tuple[Any, list[int]]:
    net = read_net(prototxt)
    inputs = [layer for layer in net.layer if layer.type == "Input"]
    return net, list(inputs[0].input_param.shape[0].dim)[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ZOO)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    counts = {"converted": 0, "ONNX Runtime": 0, "Caffe": 0, "within 1e-5": 0}
    chosen = arguments.names or names(arguments.folder)
    for name in chosen:
        started, words = time.monotonic(), []
        with tempfile.TemporaryDirectory() as folder:
            prototxt = arguments.folder / f"{name}.prototxt"
            try:
                words.append(convert(prototxt))
                counts["converted"] += 1
                spec = make_net(prototxt, Path(folder))
                found = run(OnnxBackend, spec)
                counts["ONNX Runtime"] += 1
                expected = run(CaffeBackend, spec)
                counts["Caffe"] += 1
                error = difference(found, expected)
                counts["within 1e-5"] += error < 1e-5
                words.append(f"both run, {error:.1e} apart")
            except FishingError as refused:
                words.append(str(refused))
        seconds = time.monotonic() - started
        print(f"{name}: {'; '.join(words)} ({seconds:.0f} s)", flush=True)
    print(f"of {len(chosen)}: {counts}")


if __name__ == "__main__":
    main()
