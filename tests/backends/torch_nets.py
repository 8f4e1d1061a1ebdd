"""A net in PyTorch, with autograd from the loss down to y6."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.nets import BLOBS, NetSpec, read_net, read_weights, weights_path
from fishing.nets.blobs import head_names
from fishing.nets.layers import separate_in_place

TAU = 2.0


def torch_net(
    spec: NetSpec, data: NDArray[np.float32], device: str = "cpu"
) -> Callable[[], dict[str, NDArray[np.float32]]]:
    """Load a net. A call of the result transfers the images, and returns the blobs."""
    # Imported by name, since the project and its type checks do not need PyTorch.
    torch: Any = importlib.import_module("torch")
    functional: Any = importlib.import_module("torch.nn.functional")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    where = torch.device(device.replace("gpu", "cuda"))
    net = read_net(spec.model)
    separate_in_place(net.layer, spec.blobs["x5"])
    weights = {
        name: [torch.from_numpy(np.array(array)).to(where) for array in arrays]
        for name, arrays in read_weights(weights_path(spec)).items()
    }
    images = torch.from_numpy(data)

    def run() -> dict[str, NDArray[np.float32]]:
        values, products = _forward(net.layer, weights, images.to(where))
        logs = functional.log_softmax(products[-1] / TAU, 1)
        found = torch.autograd.grad(-logs.mean(1).sum(), products)
        blobs = [values[spec.blobs[key]].detach().flatten(1) for key in head_names()]
        both = zip(BLOBS, [*blobs, *found], strict=True)
        return {name: blob.cpu().numpy() for name, blob in both}

    return run


def torch_forward(
    spec: NetSpec, data: NDArray[np.float32]
) -> Callable[[], dict[str, NDArray[np.float32]]]:
    """Load a net for the forward pass alone, on the CPU."""
    torch: Any = importlib.import_module("torch")
    net = read_net(spec.model)
    weights = {
        name: [torch.from_numpy(np.array(array)) for array in arrays]
        for name, arrays in read_weights(weights_path(spec)).items()
    }
    images = torch.from_numpy(data)

    def run() -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            values, _ = _forward(net.layer, weights, images)
        names = {"y8": spec.blobs["y8"], "x7": spec.blobs["x7"]}
        return {
            f"forward/{name}": values[blob].flatten(1).numpy()
            for name, blob in names.items()
        }

    return run


def _forward(
    layers: Iterable[Any], weights: Mapping[str, list[Any]], images: Any
) -> tuple[dict[str, Any], list[Any]]:
    """Compute all blobs, and the outputs of the inner products."""
    functional: Any = importlib.import_module("torch.nn.functional")
    values: dict[str, Any] = {}
    products: list[Any] = []
    for layer in layers:
        kind = layer.type
        x: Any = values[layer.bottom[0]] if layer.bottom else None
        if kind == "Input":
            y = images
        elif kind == "Convolution":
            p = layer.convolution_param
            stride, pad = (list(p.stride) or [1])[0], (list(p.pad) or [0])[0]
            w, b = weights[layer.name]
            y = functional.conv2d(x, w, b.ravel(), stride, pad, groups=p.group)
        elif kind == "ReLU":
            y = functional.relu(x)
        elif kind == "Pooling":
            q = layer.pooling_param
            pool = functional.avg_pool2d if q.pool else functional.max_pool2d
            y = pool(x, q.kernel_size, q.stride, q.pad, ceil_mode=True)
        elif kind == "LRN":
            r = layer.lrn_param
            y = functional.local_response_norm(x, r.local_size, r.alpha, r.beta, r.k)
        elif kind == "Concat":
            y = importlib.import_module("torch").cat(
                [values[bottom] for bottom in layer.bottom], 1
            )
        elif kind == "InnerProduct":
            w, b = weights[layer.name]
            y = functional.linear(x.flatten(1), w.reshape(len(w), -1), b.ravel())
            if not products:  # nothing below the first needs a gradient
                y = y.detach().requires_grad_(not y.is_inference())
            products.append(y)
        elif kind == "Softmax":
            y = functional.softmax(x, 1)
        else:
            assert kind == "Dropout", kind
            y = x
        values[layer.top[0]] = y
    return values, products
