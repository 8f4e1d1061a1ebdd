"""Names for the tensors of an ONNX classifier, as net.toml records them."""

from __future__ import annotations

from fishing.nets.blobs import LAST
from fishing.nets.onnx_files import OnnxNet
from fishing.nets.onnx_head import channels, find_onnx_head, find_onnx_logits
from fishing.nets.onnx_products import ACTIVATIONS, Product

# Operators whose outputs are the maps between blocks.
_BETWEEN_BLOCKS = {*ACTIVATIONS, "Add", "Concat", "Mul"}


def propose_onnx_blobs(net: OnnxNet) -> dict[str, str]:
    """Find the blobs of a classifier, whatever its nodes are called.

    Parameters
    ----------
    net : OnnxNet

    Returns
    -------
    dict of str to str
        The tensors of the model by the paper's names, from the lowest up. If the head
        has one inner product, x6 is the map that enters the last block.

    Raises
    ------
    NetError
        If the model does not end in one inner product.
    """
    logits, softmax = find_onnx_logits(net)
    head = find_onnx_head(net, logits)
    lowest = LAST - len(head.products)
    products = reversed(head.products)
    blobs = {f"x{k}": product.x for k, product in enumerate(products, lowest)}
    if len(head.products) == 1:
        below = last_block_input(net, head.products[0])
        if below is not None:
            blobs = {f"x{LAST - 2}": below, **blobs}
    blobs[f"y{LAST}"] = logits
    if softmax is not None:
        blobs[f"x{LAST}"] = softmax
    return blobs


def last_block_input(net: OnnxNet, product: Product) -> str | None:
    """Find the map that enters the last block of convolutions below a product.

    It is the first tensor on the way down through which everything passes, which is a
    sum, a concatenation or an activation, which a convolution separates from the
    product, and which has another number of channels than the product's input.
    """
    order = {o: i for i, n in enumerate(net.model.graph.node) for o in n.output}
    frontier, has_convolution = {product.x}, False
    while frontier:
        last = max(frontier, key=lambda tensor: order.get(tensor, -1))
        node = net.writers.get(last)
        if node is None:
            return None
        is_cut = has_convolution and len(frontier) == 1
        if is_cut and node.op_type in _BETWEEN_BLOCKS:
            width = channels(net, last)
            if width not in (None, product.weights.shape[1]):
                return last
        frontier.remove(last)
        has_convolution |= node.op_type == "Conv"
        frontier.update(i for i in node.input if i and not net.is_constant(i))
    return None
