"""A net of PyTorch as the folder of a net: exported to ONNX and imported."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fishing.errors import NetError, needs_extra
from fishing.extract.import_net import import_onnx
from fishing.images import Preprocess, read_preprocess
from fishing.nets import NetSpec


def from_torch(
    model: Any,
    preprocess: Preprocess | str,
    folder: Path | str | None = None,
    *,
    images: Sequence[Path] = (),
) -> NetSpec:
    """Make the folder of a net from a classifier in PyTorch.

    The model is exported to ONNX by PyTorch's exporter and imported, which checks its
    head on images.

    Parameters
    ----------
    model : torch.nn.Module
        It takes images (n, 3, height, width) and returns logits, or an object with
        ``logits`` as Hugging Face's models do. It is exported in evaluation mode.
    preprocess : Preprocess or str
        How images become inputs, or what `fishing.images.read_preprocess` takes: the
        path of timm's ``config.json`` or Hugging Face's ``preprocessor_config.json``,
        or ``torchvision``.
    folder : Path or str, optional
        It must not exist, or be empty. By default it is named by the model's class, in
        lower case, in the current folder.
    images : sequence of Path, optional
        Images to try the net on; by default two photographs.

    Returns
    -------
    NetSpec
        Its folder can be used as ``--net``.

    Raises
    ------
    DependencyError
        If PyTorch is not installed.
    NetError
        If the model cannot be exported, or has no head.

    Examples
    --------
    >>> from torchvision.models import resnet50  # doctest: +SKIP
    >>> net = fishing.from_torch(resnet50(), "torchvision")  # doctest: +SKIP
    """
    with needs_extra("torch"):
        import onnxscript  # noqa: F401 - the exporter needs it
        import torch
    if isinstance(preprocess, str):
        preprocess = read_preprocess(preprocess)
    target = Path(folder or type(model).__name__.lower())

    class Logits(torch.nn.Module):  # type: ignore[misc]
        """The model, whatever object it returns its logits in."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            found = self.model(images)
            return getattr(found, "logits", found)

    was_training = model.training
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{target.name}.onnx"
        device = next(iter(model.parameters())).device
        try:
            torch.onnx.export(
                Logits().eval(),
                (torch.zeros(2, *preprocess.shape, device=device),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
        except Exception as error:  # whatever the model does that cannot be exported
            words = " ".join(str(error).split())[:300]
            raise NetError(
                f"expected a model that PyTorch can export to ONNX, found {words}; "
                "export it by hand and use `fishing import`"
            ) from error
        finally:
            model.train(was_training)
        return import_onnx(path, preprocess, target, images=images).spec
