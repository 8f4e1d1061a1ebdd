"""Small nets with heads of every kind, and their loss in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from numpy.typing import NDArray

from fishing.nets import NetSpec, load_net

Array = NDArray[np.float64]

INPUT = (
    'layer { name: "data" type: "Input" top: "data" '
    "input_param { shape { dim: 1 dim: 3 dim: 10 dim: 10 } } }\n"
)


def layer(kind: str, name: str, bottom: str, top: str = "", settings: str = "") -> str:
    bottoms = "".join(f' bottom: "{b}"' for b in bottom.split())
    tops = "".join(f' top: "{t}"' for t in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}"{bottoms}{tops} {settings} }}\n'


def product(name: str, bottom: str, n: int, more: str = "") -> str:
    settings = (
        f"inner_product_param {{ num_output: {n} {more} "
        'weight_filler { type: "gaussian" std: 0.4 } '
        'bias_filler { type: "gaussian" std: 0.3 } }'
    )
    return layer("InnerProduct", name, bottom, settings=settings)


def convolution(name: str, bottom: str, n: int, kernel: int, more: str = "") -> str:
    settings = (
        f"convolution_param {{ num_output: {n} kernel_size: {kernel} {more} "
        'weight_filler { type: "gaussian" std: 0.3 } '
        'bias_filler { type: "gaussian" std: 0.3 } }'
    )
    return layer("Convolution", name, bottom, settings=settings)


def mean(name: str, bottom: str, settings: str = "global_pooling: true") -> str:
    settings = f"pooling_param {{ pool: AVE {settings} }}"
    return layer("Pooling", name, bottom, settings=settings)


def relu(blob: str) -> str:
    return layer("ReLU", f"relu_{blob}", blob, blob)


TRUNK = (
    INPUT
    + convolution("conv1", "data", 6, 3, "stride: 2")
    + relu("conv1")
    + convolution("conv2", "conv1", 5, 1)
    + relu("conv2")
)  # conv2 is a map of 5 x 4 x 4
PROB = layer("Softmax", "prob", "fc8")


@dataclass(frozen=True)
class HeadNet:
    """A net, its table [blobs], and what `temper` says of it."""

    text: str
    blobs: str  # such as "x7=pool y8=fc8"
    n_products: int
    describe: str
    refusal: str = ""  # by temper

    @property
    def table(self) -> dict[str, str]:
        return dict(pair.split("=") for pair in self.blobs.split())


HEADS = {
    "one product": HeadNet(
        TRUNK + mean("pool", "conv2") + product("fc8", "pool", 7) + PROB,
        "x7=pool y8=fc8 x8=prob",
        1,
        "1 inner product, fc8 over pool",
    ),
    "one product without a mean, a bias or a softmax": HeadNet(
        TRUNK + product("fc8", "conv2", 7, "bias_term: false"),
        "x7=conv2 y8=fc8",
        1,
        "1 inner product, fc8 over conv2",
    ),
    "a convolution after the mean": HeadNet(
        TRUNK
        + mean("pool", "conv2", "kernel_size: 4")
        + layer("Dropout", "drop", "pool", "pool")
        + convolution("fc8", "pool", 7, 1)
        + layer("Flatten", "flat", "fc8")
        + layer("Softmax", "prob", "flat"),
        "x6=conv1 x7=pool y8=fc8 x8=prob",
        1,
        "1 inner product, fc8 over pool",
    ),
    "a convolution before the mean": HeadNet(
        TRUNK
        + convolution("conv8", "conv2", 7, 1)
        + mean("fc8", "conv8")
        + layer("Reshape", "r", "fc8", settings="reshape_param {shape {dim: 0 dim: 7}}")
        + layer("Softmax", "prob", "r"),
        "x6=data x7=conv2 y8=r x8=prob",
        1,
        "1 inner product, conv8 over the mean of conv2",
    ),
    "convolutions over a whole map": HeadNet(
        TRUNK
        + convolution("fc6", "conv2", 8, 4)
        + layer("PReLU", "prelu", "fc6", "fc6", "prelu_param {filler {value: 0.2}}")
        + convolution("fc7", "fc6", 9, 3, "pad: 1 stride: 2")
        + relu("fc7")
        + convolution("fc8", "fc7", 7, 1, "bias_term: false"),
        "x5=conv2 x6=fc6 x7=fc7 y8=fc8",
        3,
        "3 inner products, fc6, fc7 and fc8 over conv2",
    ),
    "maxout": HeadNet(
        TRUNK
        + mean("pool", "conv2")
        + convolution("fc7", "pool", 12, 1)
        + layer("Slice", "slice", "fc7", "a b c")
        + layer("Eltwise", "max", "c a b", settings="eltwise_param {operation: MAX}")
        + layer("Dropout", "drop", "max", "max")
        + product("fc8", "max", 7)
        + PROB,
        "x6=pool x7=max y8=fc8 x8=prob",
        2,
        "2 inner products, fc7 and fc8 over pool",
        refusal="found 'max' (Eltwise), 'slice' (Slice)",
    ),
    "statistics between products": HeadNet(
        TRUNK
        + product("fc6", "conv2", 8)
        + layer("BatchNorm", "bn6", "fc6", "fc6")
        + layer("Scale", "scale6", "fc6", "fc6", "scale_param { bias_term: true }")
        + relu("fc6")
        + layer("Dropout", "drop6", "fc6", "fc6")
        + product("fc7", "fc6", 9, "transpose: true")
        + layer("BatchNorm", "bn7", "fc7", "bn7")
        + product("fc8", "bn7", 7)
        + PROB,
        "x5=conv2 x6=fc6 x7=bn7 y8=fc8 x8=prob",
        3,
        "3 inner products, fc6, fc7 and fc8 over conv2",
    ),
    "four products": HeadNet(
        TRUNK
        + product("fc5", "conv2", 8)
        + layer("Bias", "bias5", "fc5", "b5")
        # Caffe's own backward pass is wrong where this layer works in place.
        + layer("Power", "p5", "b5", "x5", "power_param { scale: 0.5 shift: 0.1 }")
        + layer("TanH", "tanh5", "x5", "x5")
        + product("fc6", "x5", 9)
        + layer("ELU", "elu6", "fc6", "x6", "elu_param { alpha: 0.7 }")
        + product("fc7", "x6", 8)
        + layer("Sigmoid", "sigmoid7", "fc7", "fc7")
        + product("fc8", "fc7", 7)
        + PROB,
        "x4=conv2 x5=x5 x6=x6 x7=fc7 y8=fc8 x8=prob",
        4,
        "4 inner products, fc5, fc6, fc7 and fc8 over conv2",
    ),
    "a power": HeadNet(
        TRUNK
        + product("fc7", "conv2", 8)
        + layer("Power", "p", "fc7", "x7", "power_param {power: 2 scale: 0.5 shift: 1}")
        + product("fc8", "x7", 7)
        + PROB,
        "x6=conv2 x7=x7 y8=fc8 x8=prob",
        2,
        "2 inner products, fc7 and fc8 over conv2",
        refusal="found 'p' (Power)",
    ),
    "several heads and branches": HeadNet(
        TRUNK
        + product("fc6", "conv2", 8)
        + relu("fc6")
        + product("fc7", "fc6", 9)
        + layer("Sigmoid", "gate", "fc7", "gate")
        + product("other7", "fc6", 4)
        + layer("ReLU", "relu7", "fc7", "x7")
        + product("fc8", "x7", 7)
        + product("other8", "x7", 3)
        + PROB
        + layer("Softmax", "other", "other8"),
        "x4=gate x5=conv2 x6=fc6 x7=x7 y8=fc8",
        3,
        "3 inner products, fc6, fc7 and fc8 over conv2",
    ),
}


def write_net(folder: Path, text: str, table: dict[str, str]) -> NetSpec:
    """Write the folder of a net, with weights that keep its blobs alive."""
    folder.mkdir(exist_ok=True)
    (folder / "deploy.prototxt").write_text(text)
    lines = "".join(f'{name} = "{blob}"\n' for name, blob in table.items())
    (folder / "net.toml").write_text(
        'name = "own"\ntitle = "A small net"\n[input]\nsize = 10\n'
        f'mean = [104.0, 117.0, 123.0]\n[blobs]\n{lines}[weights]\nfile = "w"\n'
    )
    caffe.set_random_seed(5)
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST)
    rng = np.random.default_rng(5)
    for name, params in net.params.items():
        if net.layer_dict[name].type in ("BatchNorm", "Scale", "Bias"):
            for param in params:
                param.data[...] = rng.uniform(0.5, 2, param.data.shape)
    net.save(str(folder / "w"))
    return load_net(str(folder))


def own_gradients(spec: NetSpec, y8: str, tau: float) -> Any:
    """Open the published net in Caffe with a loss, so that all of it is learnt."""
    param = text_format.Parse(spec.model.read_text(), caffe_pb2.NetParameter())
    loss = param.layer.add(
        name="loss", type="SoftmaxWithLoss", bottom=[y8], top=["loss"]
    )
    loss.softmax_param.temperature = tau
    loss.loss_param.uniform_label = True
    loss.loss_param.normalization = caffe_pb2.LossParameter.NONE
    param.force_backward = True
    path = spec.folder / "loss.prototxt"
    path.write_text(str(param))
    return caffe.Net(str(path), str(spec.folder / "w"), caffe.TEST)


class Float64:
    """The layers of a published net above a blob, in float64 and for one image."""

    def __init__(self, spec: NetSpec) -> None:
        text = spec.model.read_text()
        self.layers = text_format.Parse(text, caffe_pb2.NetParameter()).layer
        net = caffe.Net(str(spec.model), str(spec.folder / "w"), caffe.TEST)
        self.params = {
            name: [p.data.astype(np.float64) for p in params]
            for name, params in net.params.items()
        }

    def loss(
        self,
        data: Array,
        y8: str,
        tau: float,
        at: str = "",
        change: Array | None = None,
    ) -> float:
        """Compute E, with a change added to what the layer `at` computes."""
        values: dict[str, Array] = {"data": data}
        for one in self.layers[1:]:
            found = self._layer(one, [values[bottom] for bottom in one.bottom])
            if one.name == at:
                assert change is not None
                found = [found[0] + change.reshape(found[0].shape)]
            values |= zip(one.top, found, strict=True)
        z = values[y8].ravel() / tau
        return float(-np.mean(z - z.max() - np.log(np.exp(z - z.max()).sum())))

    def _layer(self, one: Any, xs: list[Array]) -> list[Array]:
        x, w = xs[0], self.params.get(one.name, [])
        if one.type == "InnerProduct":
            matrix = w[0].T if one.inner_product_param.transpose else w[0]
            return [matrix @ x.ravel() + (w[1] if len(w) > 1 else 0)]
        if one.type == "Convolution":
            return [_convolved(one.convolution_param, x, *w)]
        if one.type == "Pooling":
            return [x.mean(axis=(1, 2), keepdims=True)]
        if one.type == "PReLU":
            return [np.where(x > 0, x, x * w[0].reshape(-1, 1, 1))]
        if one.type == "BatchNorm":
            variance = w[1] / w[2]
            return [(x - w[0] / w[2]) / np.sqrt(variance + one.batch_norm_param.eps)]
        if one.type == "Scale":
            return [x * w[0] + w[1]]
        if one.type == "Bias":
            return [x + w[0]]
        if one.type == "Power":
            p = one.power_param
            return [(p.shift + p.scale * x) ** p.power]
        if one.type == "ELU":
            return [np.where(x > 0, x, one.elu_param.alpha * (np.exp(x) - 1))]
        if one.type == "Slice":
            return np.split(x, len(one.top))
        if one.type == "Eltwise":
            return [np.max(xs, axis=0)]
        if one.type == "Softmax":
            return [np.exp(x - x.max()) / np.exp(x - x.max()).sum()]
        simple = {
            "ReLU": lambda x: np.maximum(x, 0),
            "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "TanH": np.tanh,
        }
        return [simple.get(one.type, lambda x: x)(x)]  # Dropout, Flatten, Reshape


def _convolved(p: Any, x: Array, w: Array, b: Any = 0.0) -> Array:
    pad, stride = (list(p.pad) or [0])[0], (list(p.stride) or [1])[0]
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, w) + np.reshape(b, (-1, 1, 1))
