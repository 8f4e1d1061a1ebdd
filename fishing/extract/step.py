"""One step down the head of a net, when gradients follow from stored activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]


class Step(NamedTuple):
    """A step down the head, from one inner product to the next."""

    blob: str  # the activation x_k below the inner product, such as "forward/x7"
    weights: _Array  # W_{k+1} of the inner product, of shape (d_above, d)
    derivative: Callable[[_Array], _Array]  # from x_k to f'(y_k)
