"""Compare a net of one inner product with its forward pass alone, and with PyTorch's.

    python tests/benchmarks/one_product.py FOLDER [--batch 32]   # needs torch

FOLDER is what `fishing import` made of Caffe's GoogLeNet. The contenders run in turns,
A B C A B C ..., and a figure is the median over the turns of a ratio within a turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from fishing.backends.onnx import OnnxBackend
from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.builder import DATA
from fishing.backends.onnx.graph import build_graph
from fishing.nets import load_net
from fishing.nets.prepare_net import prepare_net

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from torch_nets import torch_forward


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    spec = load_net(str(options.folder))
    rng = np.random.default_rng(1)
    data = rng.normal(0, 50, (options.batch, *spec.preprocess.shape))
    data = data.astype(np.float32)
    net = OnnxBackend(spec, temperature=2.0, batch_size=len(data), device="cpu")
    parts = prepare_net(spec)
    forward = build_graph(
        *(parts.layers, parts.weights, parts.caffemodel), outputs=parts.head.forward()
    )
    session = open_session(forward, ["CPUExecutionProvider"])
    theirs = torch_forward(spec, data)
    runs = {
        "both passes": lambda: net.run(data),
        "forward pass": lambda: session.run(list(forward.widths), {DATA: data}),
        "PyTorch's forward pass": theirs,
    }
    found, expected = net.run(data), theirs()
    for name, rows in expected.items():
        assert np.abs(found[name] - rows).max() <= 1e-5 * np.abs(rows).max(), name
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        ratio = median(
            b / a for a, b in zip(seconds, times["both passes"], strict=True)
        )
        rate = len(data) / median(seconds[1:])
        print(f"{name}: {rate:.1f} images/s; both passes take {ratio:.3f} of its time")


if __name__ == "__main__":
    main()
