"""ONNX files that are damaged, hostile or no classifiers are refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fishing.errors import NetError
from fishing.nets import copy_onnx, read_onnx
from nets.onnx_models import CHANNELS, CLASSES, Model


def _proto() -> Any:
    model = Model()
    return model.proto(model.gemm(model.trunk(), "y8", CHANNELS, CLASSES))


def _cyclic(proto: Any) -> None:
    proto.graph.node[0].input[0] = "y8"


def _custom(proto: Any) -> None:
    proto.graph.node[1].domain = "com.example"


def _unknown(proto: Any) -> None:
    proto.graph.node[1].op_type = "Rely"


def _loop(proto: Any) -> None:
    proto.graph.node[1].op_type = "Loop"


def _two_inputs(proto: Any) -> None:
    value = helper.make_tensor_value_info("other", TensorProto.FLOAT, [1])
    proto.graph.input.append(value)


def _vector_input(proto: Any) -> None:
    del proto.graph.input[0].type.tensor_type.shape.dim[1:]


def _dynamic_rank(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def _bytes_input(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def _written_twice(proto: Any) -> None:
    proto.graph.node[1].output[0] = "conv"


def _too_few_inputs(proto: Any) -> None:
    del proto.graph.node[-1].input[:]


def _unnamed_input(proto: Any) -> None:
    proto.graph.node[-1].input[0] = ""


def _too_many_outputs(proto: Any) -> None:
    proto.graph.node[-1].output.append("more")


def _no_output(proto: Any) -> None:
    proto.graph.output[0].name = "nothing"


def _old_opset(proto: Any) -> None:
    proto.opset_import[0].version = 8


def _two_opsets(proto: Any) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 20))


def _functions(proto: Any) -> None:
    proto.functions.add(name="f", domain="")


def _negative_shape(proto: Any) -> None:
    proto.graph.initializer[0].dims[0] = -1


def _two_gigabytes(proto: Any) -> None:
    proto.graph.initializer[0].dims[0] = 2**31


def _cut_weights(proto: Any) -> None:
    proto.graph.initializer[0].raw_data = b"abc"


def _unknown_type(proto: Any) -> None:
    proto.graph.initializer[0].data_type = 99


def _outside(location: str, **where: str) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **where}.items():
            tensor.external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cyclic, "reads 'y8' before it is written"),
        (_custom, "the operator Relu of com.example, which is not ONNX's own"),
        (_unknown, "the operator 'Rely', which ONNX does not have"),
        (_loop, "a graph within the graph"),
        (_two_inputs, r"2 inputs \(image, other\) in place of one"),
        (_vector_input, r"an input of shape \[None\] in place of"),
        (_dynamic_rank, r"an input of shape \[\] in place of"),
        (_bytes_input, "not of float32"),
        (_written_twice, "'conv' written twice"),
        (_too_few_inputs, "a node '[^']+' with 0 inputs, which Gemm does not take"),
        (_unnamed_input, "inputs, which Gemm does not take"),
        (_too_many_outputs, "with 2 outputs, which Gemm does not take"),
        (_no_output, "no node that writes the output"),
        (_old_opset, "operators of version 8; export the model with an opset from 13"),
        (_two_opsets, "2 versions of ONNX's operators"),
        (_functions, "functions of its own"),
        (_negative_shape, r"a tensor 'W' of shape \[-1, 3, 3, 3\]"),
        (_two_gigabytes, "a tensor 'W' that is damaged"),
        (_cut_weights, "a tensor 'W' that is damaged"),
        (_unknown_type, "a tensor 'W' that is damaged"),
        (_outside("../W"), "not a file beside the model"),
        (_outside("/etc/passwd"), "not a file beside the model"),
        (_outside("link"), "not a file beside the model"),
        (_outside("missing"), "not a file beside the model"),
        (_outside("W", offset="4"), "540 bytes in W in place of 135 numbers"),
        (_outside("W", offset="-4"), "in place of 135 numbers"),
        (_outside("W", length="2"), "in place of 135 numbers"),
        (_outside("W", length="many"), "a tensor 'W' that is damaged"),
    ],
)
def test_refusals(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    (tmp_path / "W").write_bytes(bytes(540))
    (tmp_path / "link").symlink_to("/etc/passwd")
    proto = _proto()
    change(proto)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(NetError, match=message) as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"not a model", None])
def test_files_that_are_no_models(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_proto().SerializeToString()[:-50] if content is None else content)
    with pytest.raises(NetError, match=r"m\.onnx: expected an ONNX"):
        read_onnx(path)
    with pytest.raises(NetError, match="expected to read"):
        read_onnx(tmp_path / "missing.onnx")


def test_weights_outside_of_the_model_are_mapped_and_copied(tmp_path: Path) -> None:
    proto = _proto()
    proto.graph.node.insert(0, helper.make_node("Identity", ["spare"], ["spare2"]))
    spare = np.arange(1000, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(spare, "spare"))
    onnx.save(proto, tmp_path / "inside.onnx")
    inside = read_onnx(tmp_path / "inside.onnx")
    onnx.save_model(
        proto,
        tmp_path / "outside.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    outside = read_onnx(tmp_path / "outside.onnx")
    assert isinstance(outside.constants["W"], np.memmap)
    target = tmp_path / "net"
    target.mkdir()
    assert copy_onnx(tmp_path / "outside.onnx", target) == "model.onnx.data"
    assert sorted(os.listdir(target)) == ["model.onnx", "model.onnx.data"]
    copied = read_onnx(target / "model.onnx")
    for name, array in inside.constants.items():
        np.testing.assert_array_equal(array, outside.constants[name])
        np.testing.assert_array_equal(array, copied.constants[name])
