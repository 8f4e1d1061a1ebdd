"""The one table of the names of blobs, which count from the logits.

The logits are always y8, whatever the net calls them and however deep its head is: with
three inner products a net has x5 x6 x7 y8 x8, the paper's; with two it has x6 x7 y8 x8.
A blob of the forward pass is stored as ``forward/x7`` and the like, and the gradient
dE/dy_k of the backward pass as ``backward/y8`` and the like.
"""

from __future__ import annotations

#: The number that the paper gives to the last inner product, whose output is y8.
LAST = 8


def head_names(n_inner_products: int = 3) -> tuple[str, ...]:
    """Name the blobs of a head by the paper's letters, as net.toml does.

    Parameters
    ----------
    n_inner_products : int
        From 1 to 8.

    Returns
    -------
    tuple of str
        The inputs of the inner products from the lowest up, the logits, and their
        softmax.

    Examples
    --------
    >>> head_names(3)
    ('x5', 'x6', 'x7', 'y8', 'x8')
    >>> head_names(1)
    ('x7', 'y8', 'x8')
    """
    inputs = (f"x{k}" for k in range(LAST - n_inner_products, LAST))
    return (*inputs, f"y{LAST}", f"x{LAST}")


def forward_blob(name: str) -> str:
    """Name the blob that holds an activation: ``forward/x7`` for ``x7``."""
    return f"forward/{name}"


def backward_blob(k: int) -> str:
    """Name the blob that holds dE/dy_k: ``backward/y8`` for 8."""
    return f"backward/y{k}"


def paired_blobs(n_inner_products: int = 3) -> tuple[str, ...]:
    """Name all blobs of a net with such a head, in the order of a features file.

    Examples
    --------
    >>> paired_blobs(1)
    ('forward/x7', 'forward/y8', 'forward/x8', 'backward/y8')
    """
    forward = map(forward_blob, head_names(n_inner_products))
    first = LAST + 1 - n_inner_products
    return (*forward, *(backward_blob(k) for k in range(first, LAST + 1)))


#: The blobs of the paper's nets, whose heads have three inner products.
BLOBS = paired_blobs()
