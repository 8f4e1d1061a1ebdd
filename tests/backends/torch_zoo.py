"""Check imported ONNX nets against PyTorch: heads, activations and gradients.

    python tests/backends/torch_zoo.py export FOLDER    # needs torch, torchvision, timm
    python tests/backends/torch_zoo.py check FOLDER     # needs this package

The first command writes each net with random weights by both of PyTorch's exporters,
and what torch.autograd says of two images, in float64 and in float32. The second
imports the models and prints the largest difference of a blob from float64, as a part
of the blob's largest value, and beside it that of PyTorch's own float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

NETS = (
    *("resnet18", "resnet50", "vgg16", "alexnet", "densenet121", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t"),
    *("regnet_y_400mf", "inception_v3", "squeezenet1_1"),
    *("timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224"),
    *("timm:deit_tiny_distilled_patch16_224", "timm:mixer_s32_224", "timm:levit_128s"),
    *("timm:mobilenetv3_small_100", "timm:resnet18"),
)
EXPORTERS = ("torchscript", "dynamo")
TAU = 2.0
# Of a blob's largest value; twice what PyTorch's own float32 differs, if that is more.
TOLERANCE = 1e-5


def main() -> int:
    """Export or check, and return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["export", "check"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--net", nargs="+", default=NETS)
    options = parser.parse_args()
    run = export if options.what == "export" else check
    options.folder.mkdir(exist_ok=True)
    faults = [run(name, options.folder) for name in options.net]
    return int(any(faults))


def export(name: str, folder: Path) -> bool:
    """Write one net by both exporters, and its blobs and gradients by autograd."""
    import timm
    import torch
    import torchvision

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    library, _, short = name.rpartition(":")
    make = timm.create_model if library else torchvision.models.get_model
    net = make(short)
    size = 299 if name == "inception_v3" else 224
    data = torch.randn(2, 3, size, size)
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None
            # With a gain of 1, random layers blow up what rounding leaves.
            torch.nn.init.constant_(module.weight, 0.5)
        if hasattr(module, "inplace"):
            module.inplace = False  # autograd must see y_k as it was
    with torch.no_grad():  # gathers the statistics of batch normalisation
        net(torch.randn(4, 3, size, size))
    net.eval()
    _spread_logits(net, data)
    path = folder / name.replace(":", "-")
    for exporter in EXPORTERS:
        file = folder / f"{path.name}.{exporter}.onnx"
        settings: dict[str, Any] = (
            {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("n")},)}
            if exporter == "dynamo"
            else {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}}
        )
        torch.onnx.export(net, (data,), file, input_names=["x"], **settings)
        print(name, exporter, flush=True)
    own = {f"own-{key}": rows for key, rows in _autograd(net, data).items()}
    found = _autograd(net.double(), data.double())
    np.savez(path.with_suffix(".npz"), data=data, **found, **own)
    return False


def _spread_logits(net: Any, data: Any) -> None:
    """Scale the last layer until logits differ as those of trained nets do.

    With random weights, softmax is 1/P in all digits but the last few of float32.
    """
    import torch

    last: list[Any] = []
    kinds = torch.nn.Linear | torch.nn.Conv2d
    hooks = [
        module.register_forward_hook(lambda m, *_: last.append(m))
        for module in net.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        net(data)
        for hook in hooks:
            hook.remove()
        last[-1].reset_parameters()  # some nets begin with a head of zeros
        factor = 3 / net(data).std(dim=1).mean()
        for parameter in last[-1].parameters():
            parameter *= factor


def _autograd(net: Any, data: Any) -> dict[str, Any]:
    """Compute inputs and gradients of the layers of products, by order of use."""
    import torch

    calls: list[tuple[Any, Any]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        output.retain_grad()
        calls.append((inputs[0], output))

    kinds = torch.nn.Linear | torch.nn.Conv2d
    hooks = [
        module.register_forward_hook(note)
        for module in net.modules()
        if isinstance(module, kinds)
    ]
    logits = net(data)
    # The cross-entropy with the uniform label, summed over images.
    (-torch.log_softmax(logits / TAU, 1).mean(1)).sum().backward()
    for hook in hooks:
        hook.remove()
    found = {"y8": logits.detach().numpy()}
    for i, (x, y) in enumerate(reversed(calls[-3:])):
        if y.grad is None or x.flatten(1).shape[1] > 50_000:
            break
        found[f"x{7 - i}"] = x.detach().flatten(1).numpy()
        found[f"dy{8 - i}"] = y.grad.flatten(1).numpy()
    return found


def check(name: str, folder: Path) -> bool:
    """Import both models of a net, and compare their blobs with autograd's."""
    from fishing.backends.onnx import OnnxBackend
    from fishing.errors import FishingError
    from fishing.extract import import_onnx
    from fishing.images import Preprocess

    expected = dict(np.load(folder / f"{name.replace(':', '-')}.npz"))
    data, is_wrong = expected.pop("data"), False
    rounded = {key: expected.pop(f"own-{key}") for key in [*expected] if "-" not in key}
    for exporter in EXPORTERS:
        model = folder / f"{name.replace(':', '-')}.{exporter}.onnx"
        with tempfile.TemporaryDirectory() as target:
            try:
                preprocess = Preprocess(*data.shape[2:], channels="RGB")
                found = import_onnx(model, preprocess, Path(target) / "net")
            except FishingError as error:
                print(f"{name} {exporter}: refused: {error}", flush=True)
                continue
            net = OnnxBackend(found.spec, temperature=TAU, batch_size=2, device="cpu")
            blobs = net.run(data)
        ours, own = {}, {}
        for key, rows in expected.items():
            stored = f"backward/{key[1:]}" if key[0] == "d" else f"forward/{key}"
            if stored in blobs and blobs[stored].shape == rows.shape:
                ours[key] = float(np.abs(blobs[stored] - rows).max())
                own[key] = float(np.abs(rounded[key] - rows).max())
                for errors in (ours, own):
                    errors[key] /= float(np.abs(rows).max())
        worst, its_own = max(ours.values()), max(own.values())
        is_wrong |= worst > max(TOLERANCE, 2 * its_own)
        is_wrong |= not {"x7", "y8", "dy8"} <= {*ours}
        text = f"{' '.join(ours)}: {worst:.1e} (PyTorch {its_own:.1e})"
        print(f"{name} {exporter}: {found.head}: {text}", flush=True)
    return is_wrong


if __name__ == "__main__":
    sys.exit(main())
