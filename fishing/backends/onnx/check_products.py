"""Check on images that the products of an ONNX model are what they seem to be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.interface import stopped
from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.builder import DATA
from fishing.backends.onnx.imported import products_graph
from fishing.errors import NetError
from fishing.nets import NetSpec

# Of the largest value: sums of thousands of products in another order differ by less.
_TOLERANCE = 1e-4


def check_products(spec: NetSpec, data: NDArray[np.float32]) -> None:
    """Check that x W^T + b = y for each inner product of the head.

    It also checks that the values of an image are the same wherever it stands in a
    batch, since some exporters write models in which they are not.

    Parameters
    ----------
    spec : NetSpec
        A net that is an ONNX model.
    data : ndarray of float32, shape (n, channels, height, width)
        Two images or more.

    Raises
    ------
    NetError
        If a product differs, a value is not finite, or images influence each other.
    BackendError
        If ONNX Runtime cannot run the model.
    """
    graph, head = products_graph(spec)
    session = open_session(graph, ["CPUExecutionProvider"])
    n = graph.batch or len(data)
    found = _run(session, list(graph.widths), np.resize(data, (n, *data.shape[1:])))
    for i, product in enumerate(head.products):
        x, y = found[f"x{i}"], found[f"y{i}"]
        if x.shape[1] != product.weights.shape[1] or len(x) != n or y.shape[:1] != (n,):
            raise NetError(
                f"{spec.model}: expected {product.weights.shape[1]} values of an image "
                f"as the input of the inner product '{product.y}', found an array of "
                f"shape {list(x.shape)} for {n} images"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise NetError(
                f"{spec.model}: expected finite values of '{product.y}', found NaN or "
                "infinity in them"
            )
        expected = x @ product.weights.T + product.bias
        if expected.shape != y.shape or not _agree(expected, y):
            raise NetError(
                f"{spec.model}: expected '{product.y}' to be x W + b of the inner "
                "product above its input, found other values"
            )
    if n > 1:
        _check_independence(spec, session, found, data[0])


def _check_independence(
    spec: NetSpec,
    session: Any,
    found: dict[str, NDArray[np.float32]],
    image: NDArray[np.float32],
) -> None:
    """Check that an image has the same values at each place, beside other images."""
    n = len(next(iter(found.values())))
    alone = _run(session, list(found), np.stack([image] * n))
    for name, rows in alone.items():
        if not _agree(rows, np.broadcast_to(found[name][0], rows.shape)):
            raise NetError(
                f"{spec.model}: expected the values of an image not to depend on "
                "others, found that they change with the rest of its batch; export the "
                "model with another exporter or opset"
            )


def _run(
    session: Any, names: list[str], data: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    try:
        return dict(zip(names, session.run(names, {DATA: data}), strict=True))
    except Exception as error:  # its errors have no common base
        raise stopped("ONNX Runtime", error) from None


def _agree(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    scale = float(max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)))
    return bool(np.abs(a - b).max(initial=0) <= _TOLERANCE * scale)
