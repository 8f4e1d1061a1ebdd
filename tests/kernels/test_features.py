from __future__ import annotations

from itertools import pairwise

import pytest

from fishing.errors import EvaluationError
from fishing.kernels import (
    FEATURES,
    available_features,
    choose_features,
    feature_blobs,
    in_order_of_depth,
    main_feature,
    parse_feature,
)
from fishing.nets import BLOBS
from fishing.nets.blobs import paired_blobs


def test_three_inner_products_have_the_papers_eleven() -> None:
    eleven = "x5 x6 x7 y8 x8 x5+x6 x6+x7 x7+y8 dW6 dW7 dW8"
    assert available_features(BLOBS) == FEATURES == tuple(eleven.split())
    assert available_features(sorted(BLOBS)) == FEATURES


@pytest.mark.parametrize(
    ("n", "expected", "main"),
    [
        (1, "x7 y8 x8 x7+y8 dW8", "dW8"),
        (2, "x6 x7 y8 x8 x6+x7 x7+y8 dW7 dW8", "dW8"),
        (
            4,
            f"x4 {' '.join(FEATURES[:5])} x4+x5 x5+x6 x6+x7 x7+y8 dW5 dW6 dW7 dW8",
            "dW6",
        ),
    ],
)
def test_other_heads(n: int, expected: str, main: str) -> None:
    assert available_features(paired_blobs(n)) == tuple(expected.split())
    assert main_feature(paired_blobs(n)) == main


def test_blobs_that_are_only_some() -> None:
    assert available_features(["forward/x6", "backward/y7"]) == ("x6", "dW7")
    assert main_feature(["forward/x6", "backward/y7"]) == "dW7"
    assert main_feature(["forward/x6", "forward/x7", "forward/y8"]) == "x7"
    assert main_feature(["forward/y8"]) == "y8"
    assert available_features(["backward/y8"]) == ()
    with pytest.raises(EvaluationError, match="expected blobs to make features from"):
        main_feature([])


def test_the_choice_of_features() -> None:
    assert choose_features([], BLOBS) == list(FEATURES)
    assert choose_features(["dW7", "x6+dW7", "dW7"], BLOBS) == ["dW7", "x6+dW7"]
    with pytest.raises(
        EvaluationError,
        match=r"expected backward/y6, which dW6 is .* a feature of x6 x7 y8 x8 x6",
    ):
        choose_features(["x7", "dW6"], paired_blobs(2))


@pytest.mark.parametrize("n", range(1, 9))
def test_the_order_of_depth_keeps_two_blobs_at_a_time(n: int) -> None:
    features = available_features(paired_blobs(n))
    inputs = [name for name in features if name[0] == "x" and name[1:].isdigit()]
    products = (f"{a}*{b}" for a, b in pairwise(inputs[:-1]))
    features = (*features, *products, "x7*x7", "x7*y8")
    order = in_order_of_depth(features)
    assert sorted(order) == sorted(features)
    seen: set[str] = set()
    for i, feature in enumerate(order):
        seen |= feature_blobs(feature)
        assert len(seen & set().union(*map(feature_blobs, order[i:]))) <= 2


@pytest.mark.parametrize(
    "name",
    ["x9", "y7", "dW9", "dW0", "", "x6+", "dw7", "x6*", "*", "x6**x7", "x6 * x7"],
)
def test_unknown_features(name: str) -> None:
    with pytest.raises(EvaluationError, match="expected a feature such as x7"):
        parse_feature(name)


@pytest.mark.parametrize(
    "name", ["x6*dW7", "dW6*dW7", "x6*y7", "x6*dE/dy7", "x5+x6*dW7"]
)
def test_a_gradient_is_no_factor(name: str) -> None:
    with pytest.raises(
        EvaluationError, match=r"dW7 \(the product of x6 and dE/dy7\), a product of act"
    ):
        parse_feature(name)


def test_products_bind_before_sums() -> None:
    x5, x6, x7 = (f"forward/x{k}" for k in (5, 6, 7))
    assert parse_feature("x6*x7") == [(x6, x7)]
    assert parse_feature("x7*x7") == [(x7, x7)]
    assert parse_feature("x5+x7*x6+dW7") == [(x5,), (x6, x7), (x6, "backward/y7")]
    assert parse_feature("x8*x5*y8") == [(x5, "forward/y8", "forward/x8")]
    assert feature_blobs("x5*x7+x7*x7") == {x5, x7}


def test_the_order_of_factors_does_not_matter() -> None:
    chosen = choose_features(["x7*x6", "x6*x7", "x7+x6", "y8*x7+dW7"], BLOBS)
    assert chosen == ["x6*x7", "x7+x6", "x7*y8+dW7"]


def test_activations_without_gradients() -> None:
    """A head of one product, in whose file net.toml named two activations below it."""
    blobs = ["forward/x5", "forward/x6", *paired_blobs(1)]
    assert available_features(blobs) == (
        *("x5", "x6", "x7", "y8", "x8", "x5+x6", "x6+x7", "x7+y8", "dW8"),
    )
    assert main_feature(blobs) == "dW8"
    assert choose_features(["x6*x7", "x6+dW8"], blobs) == ["x6*x7", "x6+dW8"]
    with pytest.raises(
        EvaluationError, match=r"expected backward/y7, which dW7 is .* x6"
    ):
        choose_features(["dW7"], blobs)
    with pytest.raises(EvaluationError, match=r"expected forward/x4, which x4\*x7 is"):
        choose_features(["x7*x4"], blobs)
    # Activations may lie apart, too.
    assert available_features(["forward/x3", *paired_blobs(1)])[:2] == ("x3", "x7")
