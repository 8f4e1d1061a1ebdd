"""Features by name: the blobs that each is made from."""

from __future__ import annotations

from collections.abc import Iterable

from fishing.errors import EvaluationError

#: The eleven features, in the order of the paper's table 1.
FEATURES = (
    "x5",
    "x6",
    "x7",
    "y8",
    "x8",
    "x5+x6",
    "x6+x7",
    "x7+y8",
    "dW6",
    "dW7",
    "dW8",
)


#: The blobs whose Gram matrices are multiplied for one summand of a feature.
FACTORS = {
    "x5": ("forward/x5",),
    "x6": ("forward/x6",),
    "x7": ("forward/x7",),
    "y8": ("forward/y8",),
    "x8": ("forward/x8",),
    "dW6": ("forward/x5", "backward/y6"),
    "dW7": ("forward/x6", "backward/y7"),
    "dW8": ("forward/x7", "backward/y8"),
}


# Evaluated in this order, features share what they share within few steps.
_DEPTH = (
    "forward/x8",
    "forward/x5",
    "backward/y6",
    "forward/x6",
    "backward/y7",
    "forward/x7",
    "backward/y8",
    "forward/y8",
)


def parse_feature(name: str) -> list[tuple[str, ...]]:
    """Split the name of a feature into summands, each a product of blobs.

    Raises
    ------
    EvaluationError
        If a part of it is unknown.

    Examples
    --------
    >>> parse_feature("x6+x7")
    [('forward/x6',), ('forward/x7',)]
    >>> parse_feature("dW7")
    [('forward/x6', 'backward/y7')]
    """
    parts = name.split("+")
    unknown = [part for part in parts if part not in FACTORS]
    if unknown:
        raise EvaluationError(
            f"expected a feature of {' '.join(FACTORS)} or a sum such as x6+x7, "
            f"found '{name}'"
        )
    return [FACTORS[part] for part in parts]


def feature_blobs(name: str) -> set[str]:
    """Name the blobs that a feature is made from."""
    return {blob for factors in parse_feature(name) for blob in factors}


def in_order_of_depth(features: Iterable[str]) -> list[str]:
    """Sort features such that few Gram matrices are needed at a time.

    For the eleven of table 1 those of two blobs.

    Examples
    --------
    >>> in_order_of_depth(["x6", "x7", "x5+x6", "dW7"])
    ['x6', 'x5+x6', 'dW7', 'x7']
    """

    def deepest_first(feature: str) -> list[int]:
        return sorted(map(_DEPTH.index, feature_blobs(feature)), reverse=True)

    return sorted(features, key=deepest_first)
