"""The numbers of an ONNX tensor, which lie in the model or in a file beside it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# The files of an imported net.
_MODEL, _DATA = "model.onnx", "model.onnx.data"


def read_tensor(tensor: Any, folder: Path) -> NDArray[Any]:
    """Read a tensor, whose numbers may lie in a file of the model's folder.

    Numbers outside of the model are mapped into memory, not read.

    Parameters
    ----------
    tensor : TensorProto
    folder : Path
        The folder of the model.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If the numbers are missing, lie outside of the folder, or are not as many as
        the shape says.
    """
    if any(length < 0 for length in tensor.dims):
        raise ValueError(f"a tensor '{tensor.name}' of shape {list(tensor.dims)}")
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder)
    try:
        # It compares the shape with the numbers that are there before it takes memory.
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"a tensor '{tensor.name}' that is damaged: {words}") from None


def copy_onnx(model: Path, folder: Path) -> str:
    """Copy a model into the folder of a net, and name the file with its weights.

    Weights outside of the model all go into one file beside it.

    Parameters
    ----------
    model : Path
        A file that `read_onnx` has read.
    folder : Path

    Returns
    -------
    str
        ``model.onnx``, or ``model.onnx.data``.
    """
    found = onnx.load_model(model, load_external_data=False)
    tensors = [*found.graph.initializer, *map(_value, found.graph.node)]
    if not any(t and t.data_location == TensorProto.EXTERNAL for t in tensors):
        shutil.copyfile(model, folder / _MODEL)
        return _MODEL
    onnx.load_external_data_for_model(found, str(model.parent))
    onnx.save_model(
        found,
        folder / _MODEL,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=_DATA,
        convert_attribute=True,
    )
    return _DATA if (folder / _DATA).exists() else _MODEL


def _value(node: Any) -> Any:
    """Return the tensor that a Constant node holds, or None."""
    return next((a.t for a in node.attribute if a.HasField("t")), None)


def external_file(tensor: Any, folder: Path) -> Path:
    """Name the file that holds a tensor's numbers.

    Raises ValueError if it is not a file of the model's folder.
    """
    where = {entry.key: entry.value for entry in tensor.external_data}
    name = where.get("location", "")
    path: Path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise ValueError(
            f"weights in '{name[:200]}', which is not a file beside the model; put "
            "the file there"
        )
    return path


def _external(tensor: Any, folder: Path) -> NDArray[Any]:
    where = {entry.key: entry.value for entry in tensor.external_data}
    path = external_file(tensor, folder)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        offset = int(where.get("offset", 0))
        n_values = math.prod(tensor.dims)
        length = int(where.get("length", n_values * dtype.itemsize))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"a tensor '{tensor.name}' that is damaged") from None
    size = path.stat().st_size
    if length != n_values * dtype.itemsize or not 0 <= offset <= size - length:
        raise ValueError(
            f"{size} bytes in {path.name} in place of {n_values} numbers of "
            f"'{tensor.name}' from byte {offset} on"
        )
    if not n_values:
        return np.zeros(tensor.dims, dtype)
    return np.memmap(path, dtype, "r", offset, tuple(tensor.dims))
