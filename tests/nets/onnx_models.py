"""Small classifiers in ONNX, written node by node as exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fishing.images import Preprocess
from fishing.nets import NetSpec, Weights, propose_onnx_blobs, read_onnx

SIZE, CHANNELS, HIDDEN, CLASSES = 6, 5, 7, 4


class Model:
    """A model of a convolution, a mean over positions, and what is added to it."""

    def __init__(self, seed: int = 0, opset: int = 20) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.batch: int | str = "n"

    def constant(self, name: str, array: Any) -> str:
        self.arrays[name] = np.asarray(array)
        return name

    def random(self, name: str, *shape: int) -> str:
        return self.constant(name, self.rng.normal(0, 0.7, shape).astype(np.float32))

    def node(
        self, operator: str, inputs: Sequence[str], output: str, **settings: Any
    ) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **settings))
        return output

    def trunk(self) -> str:
        """Add the convolution and the pooling; return a tensor of (n, CHANNELS)."""
        weights = self.random("W", CHANNELS, 3, 3, 3)
        y = self.node("Conv", ["image", weights], "conv", kernel_shape=[3, 3])
        y = self.node("Relu", [y], "maps")
        y = self.node("GlobalAveragePool", [y], "mean")
        return self.node("Flatten", [y], "x6")

    def gemm(self, x: str, y: str, d_in: int, d_out: int) -> str:
        weights = self.random(f"{y}/W", d_out, d_in)
        bias = self.random(f"{y}/b", d_out)
        return self.node("Gemm", [x, weights, bias], y, transB=1)

    def proto(self, *outputs: str) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "model",
            [
                helper.make_tensor_value_info(
                    "image", TensorProto.FLOAT, [self.batch, 3, SIZE, SIZE]
                )
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                for name in outputs
            ],
            [numpy_helper.from_array(a, name) for name, a in self.arrays.items()],
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=9)

    def save(self, path: Path, *outputs: str) -> Path:
        onnx.save(self.proto(*outputs), path)
        return path


def spec_of(path: Path, **blobs: str) -> NetSpec:
    """Describe a model as `fishing import` does, by these blobs or by its own."""
    return NetSpec(
        name="model",
        title="A model",
        folder=path.parent,
        model=path,
        preprocess=Preprocess(SIZE, SIZE),
        blobs=blobs or propose_onnx_blobs(read_onnx(path)),
        weights=Weights(path.name, None, None, (), ""),
    )


def images(n: int, seed: int = 3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)
