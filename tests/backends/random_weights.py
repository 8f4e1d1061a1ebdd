"""Random weights for any net, with which all of its blobs have a scale of about 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.builder import Builder, Value
from fishing.backends.onnx.layers import convert
from fishing.nets import LayerWeights, parameter_shapes

Array = NDArray[np.float32]
Shape = tuple[int, ...]


def random_weights(
    layers: Sequence[Any], input_shape: Sequence[int], seed: int = 0
) -> LayerWeights:
    """Draw the parameters of a net, layer by layer, for two random images.

    The weights of a product are scaled so that its top has a variance of 1, and the
    statistics of a BatchNorm are about those of its bottom, so that neither depth nor
    sums of many branches make blobs vanish or overflow. The layers are run by ONNX
    Runtime, which has all of them.
    """
    rng = np.random.default_rng(seed)
    blobs: dict[str, Array] = {}
    weights: LayerWeights = {}
    last_use = {b: i for i, layer in enumerate(layers) for b in layer.bottom}
    for i, layer in enumerate(layers):
        if layer.type == "Input":
            blobs[layer.top[0]] = _normal(rng, (2, *input_shape))
            continue
        bottoms = [blobs[bottom] for bottom in layer.bottom]
        shapes = parameter_shapes(layer, [x.shape[1:] for x in bottoms])
        drawn = _draw(layer, bottoms, shapes, rng) if shapes else []
        tops = _run(layer, bottoms, drawn)
        if layer.type in ("Convolution", "InnerProduct"):
            scale = tops[0].std() or np.float32(1)
            drawn[0] /= scale
            tops[0] /= scale
            if len(drawn) == 2:
                drawn[1] += _normal(rng, drawn[1].shape) / 5
                is_map = layer.type == "Convolution"
                tops[0] += drawn[1][:, None, None] if is_map else drawn[1]
        if drawn:
            weights[layer.name] = drawn
        blobs |= zip(layer.top, tops, strict=True)
        for bottom in layer.bottom:
            if last_use[bottom] == i and bottom not in layer.top:
                del blobs[bottom]
    return weights


def write_caffemodel(path: Path, weights: Mapping[str, Sequence[Array]]) -> None:
    """Write parameters as a caffemodel, without a copy of them in protobuf."""
    with path.open("wb") as file:
        for name, arrays in weights.items():
            pieces = list(_layer(name, arrays))
            file.write(_tag(100, sum(map(len, pieces))))
            file.writelines(pieces)


def _draw(
    layer: Any, bottoms: Sequence[Array], shapes: Sequence[Shape], rng: Any
) -> list[Array]:
    """Draw a layer's parameters; those of products are scaled afterwards."""
    if layer.type in ("Convolution", "InnerProduct"):
        return [_normal(rng, shapes[0]), *(np.zeros(s, np.float32) for s in shapes[1:])]
    if layer.type == "BatchNorm":
        x = np.moveaxis(bottoms[0], 1, 0).reshape(shapes[0][0], -1)
        spread = np.float32(x.std() or 1)
        mean = x.mean(axis=1) / 10 + spread / 10 * _normal(rng, shapes[0])
        square = (x - mean[:, None]).var(axis=1) + (x.mean(axis=1) - mean) ** 2
        variance = (square + spread**2 / 20) * rng.uniform(0.8, 1.3, shapes[0])
        factor = np.float32(rng.uniform(0.5, 2))
        stored = (mean * factor, variance * factor, np.full(1, factor))
        return [np.asarray(values, np.float32) for values in stored]
    if layer.type == "PReLU":
        return [np.asarray(rng.uniform(0.1, 0.4, shapes[0]), np.float32)]
    if layer.type == "Scale":
        factors = np.asarray(rng.uniform(0.6, 1.4, shapes[0]), np.float32)
        # Without this mean, and with all of the mean above taken away, each layer would
        # multiply rounding errors: those of Inception v3 by 100 on the way up.
        bias = [_normal(rng, shape) / 3 + np.float32(0.3) for shape in shapes[1:]]
        return [factors, *bias]
    return [_normal(rng, shape) / 3 for shape in shapes]


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return np.asarray(rng.standard_normal(tuple(shape), np.float32), np.float32)


def _run(layer: Any, bottoms: Sequence[Array], weights: list[Array]) -> list[Array]:
    """Run one layer."""
    build = Builder({layer.name: weights}, Path("random"))
    inputs = [Value(f"in{i}", x.shape[1:]) for i, x in enumerate(bottoms)]
    build.reserve(*(value.name for value in inputs))
    tops = convert(build, layer, inputs)
    outputs = {f"out{i}": top for i, top in enumerate(tops)}
    graph = build.finish({v.name: ["n", *v.shape] for v in inputs}, outputs)
    session = open_session(graph, ["CPUExecutionProvider"])
    feed = {value.name: x for value, x in zip(inputs, bottoms, strict=True)}
    used = {i.name for i in session.get_inputs()}
    found = session.run(list(outputs), {k: x for k, x in feed.items() if k in used})
    return [
        np.array(y).reshape(len(y), *top.shape)
        for y, top in zip(found, tops, strict=True)
    ]


def _layer(name: str, arrays: Sequence[Array]) -> Iterator[bytes]:
    """Write the fields of a LayerParameter: its name and its blobs."""
    yield _tag(1, len(name.encode())) + name.encode()
    for array in arrays:
        dims = b"".join(map(_varint, array.shape))
        shape = _tag(1, len(dims)) + dims
        start = _tag(7, len(shape)) + shape + _tag(5, array.nbytes)
        yield _tag(7, len(start) + array.nbytes) + start
        yield array.astype("<f4").tobytes()


def _tag(number: int, length: int) -> bytes:
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])
