"""The head of an ONNX classifier: the chain of inner products down from the logits.

Exporters write an inner product in many ways, and names of nodes mean nothing.
Therefore the head is found by what the nodes compute. That each product is what it
seems to be, x W + b = y, is checked on images before a net is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fishing.errors import NetError
from fishing.nets.blobs import LAST
from fishing.nets.head import described
from fishing.nets.onnx_files import OnnxNet
from fishing.nets.onnx_products import (
    ELEMENTWISE,
    SAME_VALUES,
    Product,
    attributes,
    below_same_values,
    is_global_mean,
    is_pointwise,
    match_product,
)

_MAX_PRODUCTS = 8
# Operators whose output has the channels of their first input, or of both.
_SAME_CHANNELS = {
    *ELEMENTWISE,
    "AveragePool",
    "Cast",
    "Concat",
    "Dropout",
    "GlobalAveragePool",
    "Identity",
    "LRN",
    "MaxPool",
    "Mul",
}


@dataclass
class OnnxHead:
    """The products from the logits down, and the nodes between each and the next."""

    products: list[Product]
    between: list[list[Any]] = field(default_factory=list)  # in the order of the model

    def describe(self) -> str:
        """Describe the head: "1 inner product, logits over pooled"."""
        names = [product.y for product in self.products]
        return described(names, self.products[-1].x)


def find_onnx_logits(net: OnnxNet) -> tuple[str, str | None]:
    """Find the logits y8 of a classifier, and x8 if the model has their softmax.

    Raises
    ------
    NetError
        If the model does not end in one inner product.
    """
    found: dict[str, str | None] = {}
    for output in net.model.graph.output:
        tensor, softmax = output.name, None
        while True:
            tensor = below_same_values(net, tensor)
            node = net.writers.get(tensor)
            if node is None or node.op_type != "Softmax" or softmax:
                break
            softmax, tensor = output.name, node.input[0]
        product = match_product(net, tensor)
        if product:
            found[product.y] = softmax or found.get(product.y)
        elif len(net.model.graph.output) == 1:
            raise NetError(f"{net.path}: {_why_not(net, tensor)}")
    if len(found) != 1:
        names = " ".join(o.name for o in net.model.graph.output)
        raise NetError(
            f"{net.path}: expected one classifier, found {len(found)} in the outputs "
            f"{names}; export a model of one output"
        )
    return next(iter(found.items()))


def find_onnx_head(net: OnnxNet, logits: str) -> OnnxHead:
    """Walk down from the logits, as long as products follow each other.

    Raises
    ------
    NetError
        If the logits are not the output of an inner product.
    """
    product = match_product(net, below_same_values(net, logits))
    if product is None:
        raise NetError(f"{net.path}: {_why_not(net, logits)}")
    head = OnnxHead([product])
    while len(head.products) < _MAX_PRODUCTS and not product.is_pooled:
        step = _descend(net, product.x)
        if step is None or len(step[1].weights) != product.weights.shape[1]:
            break
        nodes, product = step
        if product.is_pooled:
            break
        head.between.append(nodes)
        head.products.append(product)
    return head


def named_onnx_head(
    net: OnnxNet, blobs: Mapping[str, str]
) -> tuple[OnnxHead, dict[str, str]]:
    """Find the head that the names of a net describe, and activations below it.

    Parameters
    ----------
    net : OnnxNet
    blobs : mapping of str to str
        The model's names of y8, of x7, of x6 and so on, and of x8 if it has one.

    Returns
    -------
    OnnxHead
        As deep as there are names.
    dict of str to str
        Names below the head, whose values have no gradient.

    Raises
    ------
    NetError
        If the model has no tensor of a name, or a name is not that of the head.
    """
    for name, tensor in blobs.items():
        if tensor not in net.writers and tensor != net.input:
            raise NetError(
                f"{net.path}: expected {name} '{tensor}' among its tensors, found none "
                "of that name; import the model again"
            )
    head = find_onnx_head(net, blobs[f"y{LAST}"])
    names = [f"x{k}" for k in range(LAST - 1, -1, -1) if f"x{k}" in blobs]
    for name, product in zip(names, head.products, strict=False):
        if blobs[name] != product.x:
            raise NetError(
                f"{net.path}: expected {name} to be '{product.x}', which the inner "
                f"product multiplies, found '{blobs[name]}'; import the model again"
            )
    n = len(head.products)
    below = {name: blobs[name] for name in reversed(names[n:])}
    depth = min(n, len(names))
    return OnnxHead(head.products[:depth], head.between[: depth - 1]), below


def _descend(net: OnnxNet, x: str) -> tuple[list[Any], Product] | None:
    """Find the one product below x, and the element-wise nodes between."""
    todo, seen, nodes = [x], set(), []
    base: Product | None = None
    while todo:
        tensor = todo.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        product = match_product(net, tensor)
        if product is not None:
            if base is not None:
                return None  # a sum or a product of two
            base = product
            continue
        node = net.writers.get(tensor)
        if node is None or node.op_type not in ELEMENTWISE | SAME_VALUES:
            return None
        data = [i for i in node.input if i and not net.is_constant(i)]
        if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
            data = data[:1]
        nodes.append(node)
        todo.extend(data)
    if base is None:
        return None
    order = {id(node): i for i, node in enumerate(net.model.graph.node)}
    return sorted(nodes, key=lambda node: order[id(node)]), base


def channels(net: OnnxNet, tensor: str) -> int | None:
    """Count the channels of a map by the weights that write it, None if unknown."""
    todo, known = [tensor], dict[str, int | None]()
    while todo:
        name = todo[-1]
        if name in known:
            todo.pop()
            continue
        product = match_product(net, name)
        node = net.writers.get(name)
        if product is not None:
            known[name] = len(product.weights)
        elif node is None:
            known[name] = net.shape[0] if name == net.input else None
        elif node.op_type == "Conv" and net.is_constant(node.input[1]):
            known[name] = len(net.constant(node.input[1]))
        elif node.op_type in _SAME_CHANNELS:
            data = [i for i in node.input if i and not net.is_constant(i)]
            data = data if node.op_type in ("Add", "Concat") else data[:1]
            missing = [i for i in data if i not in known]
            if missing:
                todo += missing
                continue
            counts = [known[i] for i in data]
            if node.op_type == "Concat":
                counts = [None if None in counts else sum(c or 0 for c in counts)]
                if attributes(node).get("axis") != 1:
                    counts = [None]
            known[name] = max((c for c in counts if c), default=None)
        else:
            known[name] = None
    return known[tensor]


def _why_not(net: OnnxNet, tensor: str) -> str:
    """Say why the logits are no inner product."""
    tensor = below_same_values(net, tensor)
    node = net.writers.get(tensor)
    what = f"{node.op_type} '{node.name}'" if node else f"the input '{tensor}'"
    reason = (
        f"expected logits from an inner product with constant weights, found {what}"
    )
    if node is None:
        return reason
    if node.op_type in ("Add", "Mean", "Sum", "Div", "Mul"):
        below = [_products_below(net, i) for i in node.input if not net.is_constant(i)]
        if sum(below) > 1:
            return f"expected one classifier, found the mean of {sum(below)}"
    if is_global_mean(net, node):
        below_node = net.writers.get(below_same_values(net, node.input[0]))
        if below_node is not None and _is_activated_product(net, below_node):
            return (
                "expected an inner product, found a convolution, "
                f"{below_node.op_type} and the mean over positions: its gradient is a "
                "sum of matrices of rank 1, one for each position"
            )
    return reason


def _is_activated_product(net: OnnxNet, node: Any) -> bool:
    """Tell whether a node is a non-linearity of a 1 x 1 convolution."""
    if node.op_type not in ELEMENTWISE:
        return False
    product = match_product(net, below_same_values(net, node.input[0]))
    node = net.writers[product.y] if product else node
    return node.op_type == "Conv" and is_pointwise(net, node)


def _products_below(net: OnnxNet, tensor: str) -> int:
    """Count the products that a sum of a few terms is made of."""
    if match_product(net, below_same_values(net, tensor)):
        return 1
    node = net.writers.get(below_same_values(net, tensor))
    if node is None or node.op_type not in ("Add", "Mean", "Sum", "Div", "Mul"):
        return 0
    return sum(_products_below(net, i) for i in node.input if not net.is_constant(i))
