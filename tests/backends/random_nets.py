"""Nets with the architectures of public ones and random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import caffe
import numpy as np

from fishing.nets import NetSpec, load_net


def random_net(name: str, folder: Path) -> NetSpec:
    """Write a net whose weights keep activations alive from layer to layer."""
    spec = load_net(name)
    net = caffe.Net(str(spec.model), caffe.TEST)
    rng = np.random.default_rng(5)
    for i, (weights, bias) in enumerate(net.params.values()):
        gain = 1 if i else 1 / 80  # inputs are of the order of 80
        scale = np.float32(gain * np.sqrt(2 / np.prod(weights.shape[1:])))
        weights.data[...] = scale * rng.standard_normal(weights.shape, dtype=np.float32)
        bias.data[...] = rng.normal(0, 0.05, bias.shape)
    net.save(str(folder / "random.caffemodel"))
    shutil.copy(spec.model, folder)
    mean = list(spec.preprocess.mean)
    blobs = "".join(f'{key} = "{blob}"\n' for key, blob in spec.blobs.items())
    (folder / "net.toml").write_text(
        f'name = "{name}"\ntitle = "{name} with random weights"\n'
        f"[input]\nsize = {spec.preprocess.height}\nmean = {mean}\n"
        f'[blobs]\n{blobs}[weights]\nfile = "random.caffemodel"\n'
    )
    return load_net(str(folder))
