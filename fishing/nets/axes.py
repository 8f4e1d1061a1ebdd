"""The axes of a blob that a layer works on. The batch axis is the first, axis 0."""

from __future__ import annotations

from typing import Any

from fishing.nets.layers import refusal

Shape = tuple[int, ...]  # of a blob, without the batch axis


def canonical_axis(layer: Any, axis: int, shape: Shape) -> int:
    """Count an axis from the first, and refuse the batch axis and missing ones."""
    n_axes = len(shape) + 1
    found = axis + n_axes if axis < 0 else axis
    if not 1 <= found < n_axes:
        wanted = f"an axis from 1 to {n_axes - 1}, which leaves images apart"
        raise refusal(layer, wanted, f"axis {axis}")
    return found


def factor_axes(layer: Any, shape: Shape) -> tuple[int, int]:
    """Find the axes of a blob that the parameters of its Scale or Bias span."""
    p = layer.scale_param if layer.type == "Scale" else layer.bias_param
    start = canonical_axis(layer, p.axis, shape) - 1
    end = len(shape) if p.num_axes == -1 else start + p.num_axes
    if p.num_axes < -1 or end > len(shape):
        found = f"axis {p.axis} and num_axes {p.num_axes}"
        raise refusal(layer, f"axes of a blob of {len(shape) + 1}", found)
    return start, end


def crop_offsets(layer: Any, shape: Shape) -> list[int]:
    """Find where a Crop begins along each of the last axes, up to the last."""
    p = layer.crop_param
    n_axes = len(shape) + 1 - canonical_axis(layer, p.axis, shape)
    offsets = list(p.offset) or [0]
    if len(offsets) not in (1, n_axes):
        raise refusal(layer, f"1 offset or {n_axes}", f"{len(offsets)}")
    return offsets * n_axes if len(offsets) == 1 else offsets


def concat_axis(layer: Any, shape: Shape) -> int:
    """Find the axis of a Concat or a Slice, under its new or its old name."""
    is_concat = layer.type == "Concat"
    p = layer.concat_param if is_concat else layer.slice_param
    old = "concat_dim" if is_concat else "slice_dim"
    if p.HasField(old) and p.HasField("axis"):
        raise refusal(layer, f"axis or {old}", "both")
    return canonical_axis(layer, getattr(p, old) if p.HasField(old) else p.axis, shape)
