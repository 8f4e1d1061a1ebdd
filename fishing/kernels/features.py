"""The names of features: what each is made from, and which ones a file allows.

``x7``, ``y8`` and the like are activations, and ``dW7`` is the gradient of the loss
with respect to W_7. ``x6*x7`` is a product of activations, and ``x6*x7+dW7`` is a sum.
Names count from the logits, as those of blobs do: see `fishing.nets.blobs`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise

from fishing.errors import EvaluationError
from fishing.nets import BLOBS
from fishing.nets.blobs import LAST, backward_blob, forward_blob, head_names

# Every activation that a head may have, from the lowest up: x0 ... x7, y8 and x8.
_ACTIVATIONS = head_names(LAST)

#: The gradients that a head may have, from the lowest up.
GRADIENTS = tuple(f"dW{k}" for k in range(1, LAST + 1))

# The two blobs whose outer product is a gradient: eq. 9.
_PAIRS = {
    dW: (forward_blob(f"x{k - 1}"), backward_blob(k))
    for k, dW in enumerate(GRADIENTS, start=1)
}

# Evaluated in this order, features that share blobs follow each other closely.
_DEPTH = (
    forward_blob("x8"),
    *(blob for pair in _PAIRS.values() for blob in pair),
    forward_blob("y8"),
)


def parse_feature(name: str) -> list[tuple[str, ...]]:
    """Split the name of a feature into summands, each a product of blobs.

    Products bind before sums. A product may have any number of activations as factors,
    and one of them several times. Their order does not matter.

    Parameters
    ----------
    name : str
        Such as ``x7``, ``x6*x7``, ``dW7`` or ``x6*x7+dW7``.

    Returns
    -------
    list of tuple of str
        Blobs whose Gram matrices are multiplied, for each summand.

    Raises
    ------
    EvaluationError
        If a summand is neither an activation, nor a product of activations, nor a
        gradient.

    Examples
    --------
    >>> parse_feature("x6+x7")
    [('forward/x6',), ('forward/x7',)]
    >>> parse_feature("x7*x6+dW7")
    [('forward/x6', 'forward/x7'), ('forward/x6', 'backward/y7')]
    """
    return [
        _PAIRS.get(summand) or tuple(map(forward_blob, summand.split("*")))
        for summand in _canonical(name).split("+")
    ]


def _canonical(name: str) -> str:
    """Sort the factors of each product as table 1 does; raises as `parse_feature`."""
    summands = [summand.split("*") for summand in name.split("+")]
    if not all(
        set(factors) <= set(_ACTIVATIONS) or "*".join(factors) in GRADIENTS
        for factors in summands
    ):
        raise EvaluationError(
            "expected a feature such as x7, y8 or dW7 (the product of x6 and dE/dy7), "
            f"a product of activations such as x6*x7, or a sum of these, found '{name}'"
        )
    order = (*_ACTIVATIONS, *GRADIENTS).index
    return "+".join("*".join(sorted(factors, key=order)) for factors in summands)


def feature_blobs(name: str) -> set[str]:
    """Name the blobs that a feature is made from; raises as `parse_feature`."""
    return {blob for factors in parse_feature(name) for blob in factors}


def available_features(blobs: Collection[str]) -> tuple[str, ...]:
    """List the features of table 1 that some blobs allow, in its order.

    Parameters
    ----------
    blobs : collection of str
        Such as the blobs of a split.

    Returns
    -------
    tuple of str
        The activations from the lowest up, the sums of neighbours, and the gradients.
        The blobs of three inner products give the paper's eleven.

    Examples
    --------
    >>> from fishing.nets.blobs import paired_blobs
    >>> print(*available_features(paired_blobs(2)))
    x6 x7 y8 x8 x6+x7 x7+y8 dW7 dW8
    """
    *stack, _ = _ACTIVATIONS  # the softmax has no neighbour
    sums = (f"{below}+{above}" for below, above in pairwise(stack))
    return tuple(
        feature
        for feature in (*_ACTIVATIONS, *sums, *GRADIENTS)
        if feature_blobs(feature) <= set(blobs)
    )


def choose_features(features: Iterable[str], blobs: Collection[str]) -> list[str]:
    """Check that features can be made from some blobs; by default, choose table 1's.

    Parameters
    ----------
    features : iterable of str
        If there are none, all of `available_features`. Repeated ones count once.
    blobs : collection of str

    Returns
    -------
    list of str
        At least one feature. The factors of a product are in the order of table 1, so
        ``x7*x6`` is returned as ``x6*x7``.

    Raises
    ------
    EvaluationError
        If a feature is unknown, or needs a blob that is not there.
    """
    available = available_features(blobs)
    chosen = list(dict.fromkeys(map(_canonical, features))) or list(available)
    for feature in chosen:
        missing = sorted(feature_blobs(feature) - set(blobs))
        if missing:
            raise EvaluationError(
                f"expected {missing[0]}, which {feature} is made from, found "
                f"{' '.join(blobs) or 'no blobs'}; choose a feature of "
                f"{' '.join(available) or 'other images'}, a product of activations, "
                "or a sum of these"
            )
    if not chosen:
        raise EvaluationError("expected blobs to make features from, found none")
    return chosen


def main_feature(blobs: Collection[str]) -> str:
    """Name the feature that stands for all: the deepest gradient but one.

    With three inner products this is dW7, the paper's best. If there is only one
    gradient, it is that one; if there is none, the highest input of an inner product.

    Examples
    --------
    >>> from fishing.nets.blobs import paired_blobs
    >>> main_feature(paired_blobs(3)), main_feature(paired_blobs(1))
    ('dW7', 'dW8')
    """
    available = choose_features((), blobs)
    gradients = [name for name in available if name in GRADIENTS][:2]
    inputs = [name for name in available if name in _ACTIVATIONS[:LAST]]
    return (gradients or inputs or available)[-1]


def in_order_of_depth(features: Iterable[str]) -> list[str]:
    """Sort features so that few Gram matrices are needed at a time.

    The features of table 1 need those of two blobs at most.

    Examples
    --------
    >>> in_order_of_depth(["x6", "x7", "x5+x6", "dW7"])
    ['x6', 'x5+x6', 'dW7', 'x7']
    """

    def deepest_first(feature: str) -> list[int]:
        return sorted(map(_DEPTH.index, feature_blobs(feature)), reverse=True)

    return sorted(features, key=deepest_first)


#: The eleven features of the paper's table 1, in its order.
FEATURES = available_features(BLOBS)
