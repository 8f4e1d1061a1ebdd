"""A net in PyTorch, with autograd from the loss down to y6."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
        values: dict[str, Any] = {}
        products: list[Any] = []
        for layer in net.layer:
            kind = layer.type
            x: Any = values[layer.bottom[0]] if layer.bottom else None
            if kind == "Input":
                y = images.to(where)
            elif kind == "Convolution":
                p = layer.convolution_param
                stride, pad = (list(p.stride) or [1])[0], (list(p.pad) or [0])[0]
                w, b = weights[layer.name]
                y = functional.conv2d(x, w, b.ravel(), stride, pad, groups=p.group)
            elif kind == "ReLU":
                y = functional.relu(x)
            elif kind == "Pooling":
                q = layer.pooling_param
                y = functional.max_pool2d(x, q.kernel_size, q.stride, ceil_mode=True)
            elif kind == "LRN":
                r = layer.lrn_param
                y = functional.local_response_norm(
                    x, r.local_size, r.alpha, r.beta, r.k
                )
            elif kind == "InnerProduct":
                w, b = weights[layer.name]
                y = functional.linear(x.flatten(1), w, b.ravel())
                if not products:  # nothing below y6 needs a gradient
                    y = y.detach().requires_grad_()
                products.append(y)
            elif kind == "Softmax":
                y = functional.softmax(x, 1)
            else:
                assert kind == "Dropout", kind
                y = x
            values[layer.top[0]] = y
        logs = functional.log_softmax(products[-1] / TAU, 1)
        found = torch.autograd.grad(-logs.mean(1).sum(), products)
        blobs = [values[spec.blobs[key]].detach().flatten(1) for key in head_names()]
        both = zip(BLOBS, [*blobs, *found], strict=True)
        return {name: blob.cpu().numpy() for name, blob in both}

    return run
