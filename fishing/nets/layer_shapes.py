"""The shapes of a layer's tops by Caffe's rules, and what a layer must fulfil.

All shapes are those of one image: they leave out the batch axis, which must stay the
first and of the same length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets import map_shapes
from fishing.nets.axes import Shape, canonical_axis, concat_axis, factor_axes
from fishing.nets.caffe_messages import TEST, EltwiseParameter
from fishing.nets.layers import check_settings, refusal

#: Layers that Caffe has and that are not converted for ONNX Runtime.
CAFFE_ALONE = frozenset(
    {
        *("AbsVal", "BNLL", "Clip", "Deconvolution", "Exp", "Log", "MVN", "Reduction"),
        *("SPP", "Swish", "Threshold", "Tile"),
    }
)
#: Layers of forks that patched Caffe does not have.
ONNX_ALONE = frozenset({"Axpy", "ShuffleChannel"})

# `read_net` has turned into an Input what it could.
_BRINGS_IMAGES = {
    *("Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData"),
}

#: The most values that a blob may have for one image: 256 MiB.
MOST_VALUES = 2**26


def layer_shapes(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Compute the shapes of a layer's tops from those of its bottoms.

    Raises
    ------
    NetError
        If the layer cannot be computed for one image at a time as Caffe does it.
    """
    if layer.type in _BRINGS_IMAGES:
        wanted = "an Input layer, or a crop_size that tells the size of an image"
        raise refusal(layer, wanted, "neither; use the net's deploy.prototxt")
    if layer.type not in _RULES:
        known = " ".join(sorted(_RULES))
        raise refusal(layer, f"a type of: {known}", f"'{layer.type}'")
    check_settings(layer)
    if layer.HasField("phase") and layer.phase != TEST:
        raise refusal(layer, "a layer of the TEST phase", "phase TRAIN")
    rule = _RULES[layer.type]
    if not rule.bottoms.fits(len(bottoms)) or not rule.tops.fits(len(layer.top)):
        wanted = f"{rule.bottoms.words('bottom')} and {rule.tops.words('top')}"
        raise refusal(layer, wanted, f"{len(bottoms)} and {len(layer.top)}")
    in_place = set(layer.bottom).intersection(layer.top)
    if in_place and layer.type not in _IN_PLACE:
        raise refusal(layer, "a top of its own", f"'{min(in_place)}' in place")
    shapes = rule.shapes(layer, bottoms)
    for top, shape in zip(layer.top, shapes, strict=True):
        if math.prod(shape) > MOST_VALUES:
            raise NetError(
                f"expected blobs of at most {MOST_VALUES} values an image, found "
                f"'{top}' of shape {list(shape)}"
            )
    return shapes


def _same(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    return [bottoms[0]] * len(layer.top)


def _batch_norm(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.batch_norm_param
    if p.HasField("use_global_stats") and not p.use_global_stats:
        raise refusal(layer, "stored statistics", "use_global_stats: false")
    return [bottoms[0]]


def _concat(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    axis = concat_axis(layer, bottoms[0])
    if len({(*x[: axis - 1], "", *x[axis:]) for x in bottoms}) > 1:
        found = " ".join(str(x) for x in bottoms)
        raise refusal(layer, f"bottoms that differ along axis {axis} alone", found)
    shape = list(bottoms[0])
    shape[axis - 1] = sum(x[axis - 1] for x in bottoms)
    return [tuple(shape)]


def _eltwise(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.eltwise_param
    if len(set(bottoms)) != 1:
        found = " ".join(str(x) for x in bottoms)
        raise refusal(layer, "two bottoms or more of one shape", found)
    kind = EltwiseParameter.EltwiseOp.Name(p.operation)
    if p.coeff and (kind != "SUM" or len(p.coeff) != len(bottoms)):
        found = f"{len(p.coeff)} for the {kind} of {len(bottoms)}"
        raise refusal(layer, "one coeff for each bottom of a SUM", found)
    return [bottoms[0]]


def _factors(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Check a Scale or a Bias, whose second bottom may take the place of parameters."""
    x = bottoms[0]
    if len(bottoms) == 1:
        factor_axes(layer, x)
        return [x]
    p = layer.scale_param if layer.type == "Scale" else layer.bias_param
    # The second bottom has a batch axis, too: it must meet that of the first.
    if p.axis not in (0, -len(x) - 1):
        raise refusal(layer, "two bottoms with axis 0", f"axis {p.axis}")
    if bottoms[1] != x[: len(bottoms[1])]:
        found = f"{bottoms[1]}"
        raise refusal(layer, f"a second bottom of the first axes of {x}", found)
    if layer.type == "Scale" and p.bias_term:
        raise refusal(layer, "no bias_term with two bottoms", "bias_term: true")
    return [x]


def _flatten(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p, x = layer.flatten_param, bottoms[0]
    start, end = (canonical_axis(layer, axis, x) for axis in (p.axis, p.end_axis))
    if end < start:
        raise refusal(layer, f"an end_axis of {start} or more", str(p.end_axis))
    return [(*x[: start - 1], math.prod(x[start - 1 : end]), *x[end:])]


def _inner_product(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.inner_product_param
    axis = canonical_axis(layer, p.axis, bottoms[0])
    if p.num_output < 1:
        raise refusal(layer, "a num_output of 1 or more", str(p.num_output))
    return [(*bottoms[0][: axis - 1], p.num_output)]


def _reduction(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    axis = canonical_axis(layer, layer.reduction_param.axis, bottoms[0])
    return [bottoms[0][: axis - 1]]


def _reshape(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Replace axes by those of `shape`; 0 copies an axis, and -1 takes what is left."""
    p, n_axes = layer.reshape_param, len(bottoms[0]) + 1
    dims = list(p.shape.dim)
    start = p.axis if p.axis >= 0 else p.axis + n_axes + 1
    end = n_axes if p.num_axes == -1 else start + p.num_axes
    batch = -2  # stands for the length of the batch axis, which is open
    bottom, count = [batch, *bottoms[0]], math.prod(bottoms[0])
    found = f"axis {p.axis}, num_axes {p.num_axes} and shape {dims}"
    copies = [start + i for i, dim in enumerate(dims) if dim == 0]
    if not 0 <= start <= end <= n_axes or any(i >= n_axes for i in copies):
        raise refusal(layer, f"axes of a blob of {n_axes}", found)
    if min(dims, default=0) < -1 or dims.count(-1) > 1:
        raise refusal(layer, "lengths, 0, and -1 once at most", found)
    dims = [bottom[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    shape = [*bottom[:start], *dims, *bottom[end:]]
    if -1 in shape:
        rest = math.prod(dim for dim in shape if dim > 0)
        is_batch = batch not in shape and rest == count
        shape[shape.index(-1)] = batch if is_batch else count // max(rest, 1)
    kept, *rest_of = shape
    if kept != batch or math.prod(rest_of) != count or min(rest_of, default=0) < 1:
        wanted = f"{count} values an image and a batch axis that stays the first"
        raise refusal(layer, wanted, found)
    return [tuple(rest_of)]


def _slice(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    x, n_tops = bottoms[0], len(layer.top)
    axis, points = concat_axis(layer, x), list(layer.slice_param.slice_point)
    length = x[axis - 1]
    if not points and length and length % n_tops == 0:
        points = list(range(length // n_tops, length, length // n_tops))
    ends = [0, *points, length]
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    if len(sizes) != n_tops or min(sizes) < 1:
        found = f"slice_point {points} for {n_tops} tops"
        raise refusal(layer, f"parts of {length} along axis {axis}", found)
    return [(*x[: axis - 1], size, *x[axis:]) for size in sizes]


def _softmax(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p = layer.softmax_param
    canonical_axis(layer, p.axis, bottoms[0])
    if not p.temperature > 0:
        raise refusal(layer, "a positive temperature", str(p.temperature))
    return [bottoms[0]]


def _tile(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    p, x = layer.tile_param, bottoms[0]
    axis = canonical_axis(layer, p.axis, x)
    if p.tiles < 1:
        raise refusal(layer, "tiles of 1 or more", str(p.tiles))
    return [(*x[: axis - 1], x[axis - 1] * p.tiles, *x[axis:])]


class _Number(NamedTuple):
    """How many bottoms or tops a layer may have."""

    least: int
    most: float

    def fits(self, n: int) -> bool:
        return self.least <= n <= self.most

    def words(self, noun: str) -> str:
        if self.most == math.inf:
            return f"{self.least} {noun}{'s' if self.least > 1 else ''} or more"
        if self.least == self.most:
            return f"{self.least} {noun}{'s' if self.least > 1 else ''}"
        return f"{self.least} to {self.most} {noun}s"


class _Rule(NamedTuple):
    """How the shapes of tops follow from those of bottoms."""

    shapes: Callable[[Any, Sequence[Shape]], list[Shape]]
    bottoms: _Number = _Number(1, 1)
    tops: _Number = _Number(1, 1)


_RULES = {
    "AbsVal": _Rule(_same),
    "Axpy": _Rule(map_shapes.axpy, bottoms=_Number(3, 3)),
    "BNLL": _Rule(_same),
    "BatchNorm": _Rule(_batch_norm),
    "Bias": _Rule(_factors, bottoms=_Number(1, 2)),
    "Clip": _Rule(_same),
    "Concat": _Rule(_concat, bottoms=_Number(1, math.inf)),
    "Convolution": _Rule(map_shapes.convolution),
    "Crop": _Rule(map_shapes.crop, bottoms=_Number(2, 2)),
    "Deconvolution": _Rule(map_shapes.deconvolution),
    "Dropout": _Rule(_same),
    "ELU": _Rule(_same),
    "Eltwise": _Rule(_eltwise, bottoms=_Number(2, math.inf)),
    "Exp": _Rule(_same),
    "Flatten": _Rule(_flatten),
    "InnerProduct": _Rule(_inner_product),
    "LRN": _Rule(map_shapes.lrn),
    "Log": _Rule(_same),
    "MVN": _Rule(_same),
    "PReLU": _Rule(_same),
    "Pooling": _Rule(map_shapes.pooling),
    "Power": _Rule(_same),
    "ReLU": _Rule(_same),
    "Reduction": _Rule(_reduction),
    "Reshape": _Rule(_reshape),
    "SPP": _Rule(map_shapes.spatial_pyramid),
    "Scale": _Rule(_factors, bottoms=_Number(1, 2)),
    "ShuffleChannel": _Rule(map_shapes.shuffle_channel),
    "Sigmoid": _Rule(_same),
    "Slice": _Rule(_slice, tops=_Number(1, math.inf)),
    "Softmax": _Rule(_softmax),
    "Split": _Rule(_same, tops=_Number(1, math.inf)),
    "Swish": _Rule(_same),
    "TanH": _Rule(_same),
    "Threshold": _Rule(_same),
    "Tile": _Rule(_tile),
}
# Layers that Caffe computes element by element, so that a top may replace its bottom.
_IN_PLACE = {
    *("BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Exp", "Log", "PReLU"),
    *("Power", "ReLU", "Scale", "Sigmoid", "Softmax", "TanH", "Threshold"),
}
