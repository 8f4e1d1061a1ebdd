"""Small random nets that Caffe accepts, with all types of layers that are converted."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

ACTIVATIONS = ("ReLU", "LeakyReLU", "PReLU", "ELU", "Sigmoid", "TanH")


@dataclass
class RandomNet:
    """A random trunk and a random head of inner products.

    Attributes
    ----------
    text : str
        The prototxt; it ends with the tempered loss on the logits.
    shapes : dict
        Shapes of all blobs, without the batch axis.
    inputs : list of str
        The inputs of the inner products, from the lowest up, and then the logits.
    products : list of str
        The blobs that the inner products write.
    """

    seed: int
    tau: float = 1.0
    text: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.tau = float(self.pick([1, 2, 10]))
        channels, height, width = (
            self.number(1, 6),
            self.number(6, 21),
            self.number(6, 21),
        )
        self.shapes["in"] = (channels, height, width)
        self.text = self.pick(
            [
                'layer { name: "in" type: "Input" top: "in" input_param { shape { '
                f"dim: 3 dim: {channels} dim: {height} dim: {width} }} }} }}\n",
                f'input: "in" input_dim: 3 input_dim: {channels} input_dim: {height} '
                f"input_dim: {width}\n",
                f'input: "in" input_shape {{ dim: [3, {channels}, {height}, '
                f"{width}] }}\n",
            ]
        )
        for _ in range(self.number(2, 6)):
            self.trunk_layer()
        self.head()

    def pick(self, choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def add(
        self, kind: str, bottoms: list[str], shape: Any, settings: str, top: str = ""
    ) -> str:
        top = top or f"b{len(self.text)}"
        names = "".join(f' bottom: "{b}"' for b in bottoms)
        self.text += (
            f'layer {{ name: "l{len(self.text)}" type: "{kind}"{names} top: "{top}" '
            f"{settings} }}\n"
        )
        self.shapes[top] = tuple(int(n) for n in shape)
        return top

    def trunk_layer(self) -> None:
        recent = [b for b, s in self.shapes.items() if len(s) == 3][-3:]
        bottom = self.pick(recent)
        draw = self.pick(self.kinds())
        top = draw(bottom)
        if top and draw in (self.convolution, self.batch_norm) and self.chance(0.7):
            self.activation(top, in_place=self.chance(0.6))

    def kinds(self) -> list[Any]:
        return [
            *[self.convolution] * 3,
            *[self.pooling] * 3,
            *[self.lrn] * 2,
            self.activation,
            self.batch_norm,
            self.scale,
            self.eltwise,
            self.concat,
            self.softmax,
            self.reshape,
            self.flatten,
            self.inner_product,
        ]

    def convolution(self, bottom: str) -> str | None:
        channels, *size = self.shapes[bottom]
        group = self.pick([g for g in (1, 2, 3) if channels % g == 0])
        kernel, pad = [self.number(1, 4), self.number(1, 4)], [self.number(0, 2)] * 2
        stride, dilation = [self.number(1, 3)] * 2, [self.pick([1, 1, 2])] * 2
        if self.chance(0.5):
            kernel = kernel[:1] * 2
            words = f"kernel_size: {kernel[0]} "
        elif self.chance(0.5):
            words = f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
        else:
            words = f"kernel_size: {kernel[0]} kernel_size: {kernel[1]} "
        if self.chance(0.3):
            pad, stride = [self.number(0, 2), 0], [1, self.number(1, 3)]
            words += f"pad_h: {pad[0]} pad_w: 0 stride_h: 1 stride_w: {stride[1]} "
        else:
            words += f"pad: {pad[0]} stride: {stride[0]} "
        if self.chance(0.2):
            dilation = [1, 2]
            words += "dilation: 1 dilation: 2 "
        else:
            words += f"dilation: {dilation[0]} "
        out = []
        for n, k, s, p, d in zip(size, kernel, stride, pad, dilation, strict=True):
            reach = n + 2 * p - (d * (k - 1) + 1)
            if reach < 0:
                return None
            out.append(reach // s + 1)
        n_out = group * self.number(1, 4)
        words += f"num_output: {n_out} group: {group} "
        words += f"bias_term: {self.pick(['true', 'false'])}"
        settings = f"convolution_param {{ {words} }}"
        return self.add("Convolution", [bottom], [n_out, *out], settings)

    def pooling(self, bottom: str) -> str | None:
        channels, *size = self.shapes[bottom]
        pool, words = self.pick(["MAX", "AVE"]), ""
        if self.chance(0.1):
            settings = f"pooling_param {{ pool: {pool} global_pooling: true }}"
            return self.add("Pooling", [bottom], [channels, 1, 1], settings)
        kernel = [self.number(1, 4), self.number(1, 4)]
        stride, pad = [self.number(1, 4)] * 2, [self.number(0, 2)] * 2
        if self.chance(0.6):
            kernel = kernel[:1] * 2
            words += f"kernel_size: {kernel[0]} "
        else:
            words += f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
        if self.chance(0.3):
            stride, pad = [self.number(1, 3), 2], [0, self.number(0, 2)]
            words += f"stride_h: {stride[0]} stride_w: 2 pad_h: 0 pad_w: {pad[1]} "
        else:
            words += f"stride: {stride[0]} pad: {pad[0]} "
        is_ceil = self.chance(0.7)
        words += "" if is_ceil else "round_mode: FLOOR "
        out = []
        for n, k, s, p in zip(size, kernel, stride, pad, strict=True):
            if p >= k or n + 2 * p < k:
                return None
            starts = list(range(-p, n + p - k + 1, s))
            if is_ceil and starts[-1] + k < n + p:
                starts.append(starts[-1] + s)
            if any(pad) and starts[-1] >= n:
                starts.pop()
            if not starts or starts[-1] >= n:
                return None
            out.append(len(starts))
        settings = f"pooling_param {{ pool: {pool} {words} }}"
        return self.add("Pooling", [bottom], [channels, *out], settings)

    def lrn(self, bottom: str) -> str:
        region = self.pick(["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
        words = (
            f"local_size: {self.pick([1, 3, 5])} alpha: {self.rng.uniform(0.01, 2)} "
        )
        words += f"beta: {self.rng.uniform(0.3, 1)} k: {self.rng.uniform(0.5, 3)} "
        settings = f"lrn_param {{ {words} norm_region: {region} }}"
        return self.add("LRN", [bottom], self.shapes[bottom], settings)

    def activation(self, bottom: str, in_place: bool = False) -> str:
        kind, settings = self.pick(ACTIVATIONS), ""
        if kind == "LeakyReLU":
            # With a negative slope, an in-place layer of Caffe cannot tell y from x.
            slope = self.pick([0.1, 0.3] if in_place else [0.1, -0.2])
            kind, settings = "ReLU", f"relu_param {{ negative_slope: {slope} }}"
        elif kind == "PReLU" and len(self.shapes[bottom]) > 3:
            kind = "ReLU"  # Caffe's PReLU accepts at most 4 axes
        elif kind == "PReLU" and self.chance(0.4):
            settings = "prelu_param { channel_shared: true }"
        elif kind == "ELU":
            settings = f"elu_param {{ alpha: {self.rng.uniform(0.1, 2)} }}"
        top = bottom if in_place else ""
        return self.add(kind, [bottom], self.shapes[bottom], settings, top)

    def batch_norm(self, bottom: str) -> str:
        settings = self.pick(["", "batch_norm_param { eps: 0.01 }"])
        return self.add("BatchNorm", [bottom], self.shapes[bottom], settings)

    def scale(self, bottom: str) -> str:
        n_axes = len(self.shapes[bottom])
        axis = self.number(1, n_axes)
        num = self.pick([-1, *range(n_axes - axis + 2)])
        words = f"axis: {self.pick([axis, axis - n_axes - 1])} num_axes: {num} "
        settings = (
            f"scale_param {{ {words} bias_term: {self.pick(['true', 'false'])} }}"
        )
        return self.add("Scale", [bottom], self.shapes[bottom], settings)

    def eltwise(self, bottom: str) -> str:
        others = [self.activation(bottom) for _ in range(self.number(1, 2))]
        operation, words = self.pick(["PROD", "SUM", "MAX"]), ""
        if operation == "SUM" and self.chance(0.6):
            words = "coeff: -0.5 " + "coeff: 1 " * len(others)
        settings = f"eltwise_param {{ operation: {operation} {words} }}"
        return self.add("Eltwise", [bottom, *others], self.shapes[bottom], settings)

    def concat(self, bottom: str) -> str:
        axis, shape = self.number(1, 3), list(self.shapes[bottom])
        others = [self.activation(bottom) for _ in range(self.number(0, 2))]
        shape[axis - 1] *= 1 + len(others)
        name = self.pick(["axis", "concat_dim"])
        settings = f"concat_param {{ {name}: {axis} }}"
        return self.add("Concat", [bottom, *others], shape, settings)

    def softmax(self, bottom: str) -> str:
        words = f"axis: {self.pick([-1, 1, 2, 3])} temperature: {self.pick([1, 1.5])}"
        settings = f"softmax_param {{ {words} }}"
        return self.add("Softmax", [bottom], self.shapes[bottom], settings)

    def reshape(self, bottom: str) -> str:
        c, h, w = self.shapes[bottom]
        words, shape = self.pick(
            [
                ("shape { dim: 0 dim: -1 }", [c * h * w]),
                (f"shape {{ dim: 0 dim: {h} dim: {c} dim: 0 }}", [h, c, w]),
                (f"shape {{ dim: -1 dim: {c} dim: {h * w} }}", [c, h * w]),
                (
                    f"shape {{ dim: {w} dim: -1 }} axis: 1 num_axes: 2",
                    [w, c * h // w, w],
                ),
                ("shape { dim: 1 dim: 1 } axis: -1", [c, h, w, 1, 1]),
                ("shape { dim: -1 } axis: -3", [c, h * w]),
            ]
        )
        if np.prod(shape) != c * h * w:
            return self.flatten(bottom)
        settings = f"reshape_param {{ {words} }}"
        return self.add("Reshape", [bottom], shape, settings)

    def inner_product(self, bottom: str, axis: int | None = None) -> str:
        n_axes, n_out = len(self.shapes[bottom]), self.number(4, 12)
        written = axis
        if axis is None:
            axis = self.number(1, n_axes)
            written = self.pick([axis, axis - n_axes - 1])
        words = f"num_output: {n_out} axis: {written} "
        words += f"transpose: {self.pick(['true', 'false'])} "
        words += f"bias_term: {self.pick(['true', 'true', 'false'])}"
        shape = [*self.shapes[bottom][: axis - 1], n_out]
        settings = f"inner_product_param {{ {words} }}"
        return self.add("InnerProduct", [bottom], shape, settings)

    def flatten(self, bottom: str) -> str:
        shape = self.shapes[bottom]
        start, end = sorted([self.number(1, 3), self.number(1, 3)])
        flat = int(np.prod(shape[start - 1 : end]))
        new = [*shape[: start - 1], flat, *shape[end:]]
        axes = f"axis: {start} end_axis: {self.pick([end, end - 4])}"
        return self.add("Flatten", [bottom], new, f"flatten_param {{ {axes} }}")

    def head(self) -> None:
        x = list(self.shapes)[-1]
        n_products = self.number(1, 4)
        for i in range(n_products):
            self.inputs.append(x)
            if self.chance(0.2) and len(self.shapes[x]) == 3:
                x = self.flatten(x)
            elif self.chance(0.2):
                x = self.add("Dropout", [x], self.shapes[x], "")
            is_last = i == n_products - 1
            x = self.inner_product(x, 1)
            self.products.append(x)
            if not is_last:
                x = self.between(x)
        self.inputs.append(x)
        self.text += (
            f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{x}" top: "loss" '
            f"softmax_param {{ temperature: {self.tau} }} "
            "loss_param { uniform_label: true normalization: NONE } }\n"
        )

    def between(self, x: str) -> str:
        for draw in (self.batch_norm, self.scale):
            if self.chance(0.2):
                x = draw(x)
        if self.chance(0.1):
            return x
        in_place = x == self.products[-1] and self.chance(0.5)
        x = self.activation(x, in_place)
        if in_place and self.chance(0.5):
            x = self.add("Dropout", [x], self.shapes[x], "", top=x)
        return x


class MoreLayers(RandomNet):
    """A random net with layers of several tops, and those that combine two blobs."""

    def kinds(self) -> list[Any]:
        return [
            *[self.convolution, self.pooling],
            *[self.slice, self.split, self.crop, self.power] * 2,
            *[self.bias, self.two_bottoms, self.eltwise, self.concat],
        ]

    def tops(
        self, kind: str, bottom: str, shapes: list[tuple[int, ...]], settings: str
    ) -> str:
        """Add a layer with a top for each shape, and return one of them."""
        names = [f"b{len(self.text)}_{i}" for i in range(len(shapes))]
        tops = "".join(f' top: "{name}"' for name in names[1:])
        self.add(kind, [bottom], shapes[0], tops + settings, names[0])
        self.shapes |= zip(names, shapes, strict=True)
        return str(self.pick(names))

    def slice(self, bottom: str) -> str | None:
        axis, shape = self.number(1, 3), self.shapes[bottom]
        length = shape[axis - 1]
        if length < 2:
            return None
        inner = self.rng.permutation(range(1, length))[: self.number(1, 3)]
        points = sorted(int(i) for i in inner)
        words = "".join(f"slice_point: {point} " for point in points)
        if length % 2 == 0 and self.chance(0.3):
            points, words = [length // 2], ""
        ends = [0, *points, length]
        sizes = [end - start for start, end in pairwise(ends)]
        name = self.pick([f"axis: {axis}", f"axis: {axis - 4}", f"slice_dim: {axis}"])
        shapes = [(*shape[: axis - 1], size, *shape[axis:]) for size in sizes]
        settings = f" slice_param {{ {name} {words} }}"
        return self.tops("Slice", bottom, shapes, settings)

    def split(self, bottom: str) -> str:
        shapes = [self.shapes[bottom]] * self.number(1, 3)
        return self.tops("Split", bottom, shapes, "")

    def crop(self, bottom: str) -> str | None:
        like = self.convolution(bottom)
        if not like:
            return None
        x, small = self.shapes[bottom], self.shapes[like]
        axis = self.number(1, 3)
        room = [n - m for n, m in zip(x[axis - 1 :], small[axis - 1 :], strict=True)]
        if min(room) < 0:
            return None
        offsets = [self.number(0, n) for n in room]
        if self.chance(0.3):
            offsets = [min(room)]
        words = "".join(f"offset: {offset} " for offset in offsets)
        if not any(offsets) and self.chance(0.5):
            words = ""
        settings = f"crop_param {{ axis: {self.pick([axis, axis - 4])} {words} }}"
        shape = (*x[: axis - 1], *small[axis - 1 :])
        return self.add("Crop", [bottom, like], shape, settings)

    def power(self, bottom: str) -> str:
        power, shift = self.pick([(1, -0.5), (2, 0.3), (3, 0), (0, 1), (0.5, 0.2)])
        if power == 0.5:  # of values above zero
            bottom = self.add("Sigmoid", [bottom], self.shapes[bottom], "")
        scale = self.pick([1, 0.7, 0]) if power != 3 else 0.5
        words = f"power: {power} scale: {scale} shift: {shift}"
        shape = self.shapes[bottom]
        return self.add("Power", [bottom], shape, f"power_param {{ {words} }}")

    def bias(self, bottom: str) -> str:
        axis = self.number(1, 3)
        num = self.pick([-1, *range(4 - axis + 1)])
        words = f"axis: {self.pick([axis, axis - 4])} num_axes: {num}"
        settings = f"bias_param {{ {words} }}"
        return self.add("Bias", [bottom], self.shapes[bottom], settings)

    def two_bottoms(self, bottom: str) -> str:
        """Add a Scale or a Bias whose second bottom takes the place of parameters."""
        kind, shape = self.pick(["Scale", "Bias"]), self.shapes[bottom]
        n_axes = self.number(1, 3)
        if n_axes == 1:  # a vector over the channels, as in squeeze and excitation
            settings = f"inner_product_param {{ num_output: {shape[0]} }}"
            other = self.add("InnerProduct", [bottom], shape[:1], settings)
        elif n_axes == 2:
            settings = f"inner_product_param {{ num_output: {shape[1]} axis: 2 }}"
            other = self.add("InnerProduct", [bottom], shape[:2], settings)
        else:
            other = self.activation(bottom)
        axis = self.pick([0, -4])
        settings = f"{kind.lower()}_param {{ axis: {axis} }}"
        return self.add(kind, [bottom, other], shape, settings)
