"""Tests of `fishing.nets.old_layers` against Caffe, which reads old formats itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.graph import build_graph
from fishing.nets import fit_weights, read_net, read_weights
from fishing.nets.caffe_messages import NetParameter, V1LayerParameter
from fishing.nets.old_layers import upgrade_inputs, upgrade_layers


def _upgraded(text: str) -> Any:
    net = text_format.Parse(text, NetParameter())
    upgrade_layers(net)
    upgrade_inputs(net)
    return net


def test_v1_types_are_those_of_caffe() -> None:
    """Each type has a name of its own, under which Caffe can make such a layer."""
    kinds = V1LayerParameter.LayerType
    names = list(kinds.keys())
    text = "".join(f"layers {{ type: {name} }}" for name in names)
    upgraded = {layer.type for layer in _upgraded(text).layer}
    assert len(upgraded) == len(names)
    known = set(caffe.layer_type_list())
    # Caffe is built without OpenCV, and so without the layers that read image files.
    assert upgraded - known == {"None", "ImageData", "WindowData"}


def test_v1_layers_keep_their_settings() -> None:
    text = """
    input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 9
    layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1
             weight_decay: 0 blob_share_mode: STRICT loss_weight: 0.5
             include { phase: TEST }
             convolution_param { num_output: 4 kernel_size: 3 } }
    layers { name: "p" type: 17 bottom: "c" top: "p" pooling_param { pool: AVE } }
    layers { name: "d" type: DECONVOLUTION bottom: "p" top: "d" param: "shared" }
    """
    new = """
    layer { name: "data" type: "Input" top: "data"
            input_param { shape { dim: [1, 3, 8, 9] } } }
    layer { name: "c" type: "Convolution" bottom: "data" top: "c" loss_weight: 0.5
            include { phase: TEST }
            convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE } }
    layer { name: "d" type: "Deconvolution" bottom: "p" top: "d"
            param { name: "shared" } }
    """
    assert _upgraded(text) == text_format.Parse(new, NetParameter())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layers { name: "a" } layer { name: "b" }', "both 'layer' and 'layers'"),
        ('layers { layer { type: "padding" } }', "padding layer without one bottom"),
        (
            'layers { bottom: "a" top: "b" layer { type: "padding" pad: 1 } }'
            'layers { bottom: "b" layer { name: "r" type: "relu" } }',
            "a padding layer before 'r' .ReLU.",
        ),
        ('input: "a"', "1 inputs with 0 shapes"),
        ('input: "a" input_shape {} input_dim: 1', "1 inputs with 2 shapes"),
    ],
)
def test_what_cannot_be_upgraded(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _upgraded(text)


V0 = """
name: "old"
input: "data" input_dim: 2 input_dim: 4 input_dim: 13 input_dim: 11
layers { layer { name: "padded" type: "padding" pad: 2 } bottom: "data" top: "padded" }
layers { layer { name: "conv1" type: "conv" num_output: 6 kernelsize: 3 stride: 2
                 group: 2 weight_filler { type: "gaussian" } blobs_lr: 1 }
         bottom: "padded" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1 }
         bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }
         bottom: "pool1" top: "norm1" }
layers { layer { name: "conv2" type: "conv" num_output: 5 kernelsize: 1
                 biasterm: false } bottom: "norm1" top: "conv2" }
layers { layer { name: "conv3" type: "conv" num_output: 5 kernelsize: 3 pad: 1 }
         bottom: "norm1" top: "conv3" }
layers { layer { name: "tanh3" type: "tanh" } bottom: "conv3" top: "tanh3" }
layers { layer { name: "both" type: "concat" concat_dim: 2 }
         bottom: "conv2" bottom: "tanh3" top: "both" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 }
         bottom: "both" top: "both" }
layers { layer { name: "flat" type: "flatten" } bottom: "both" top: "flat" }
layers { layer { name: "fc" type: "innerproduct" num_output: 7 } bottom: "flat"
         top: "fc" }
layers { layer { name: "sigmoid" type: "sigmoid" } bottom: "fc" top: "sigmoid" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
"""


def test_a_net_of_2013(tmp_path: Path) -> None:
    """Caffe reads the old files, and both forms of the new ones, to the same values."""
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(V0)
    net = read_net(old)
    new.write_text(str(net))
    rng = np.random.default_rng(0)
    reference = caffe.Net(str(old), caffe.TEST)
    model = caffe_pb2.NetParameter()
    for name, params in reference.params.items():
        layer = model.layers.add().layer
        layer.name, layer.type = (
            name,
            "conv" if name.startswith("conv") else "innerproduct",
        )
        for param in params:
            param.data[...] = rng.normal(0, 0.3, param.data.shape)
            shape = [*[1] * (4 - param.data.ndim), *param.data.shape]
            names = ("num", "channels", "height", "width")
            sides = dict(zip(names, shape, strict=True))
            layer.blobs.add(**sides, data=param.data.ravel())
    weights = tmp_path / "old.caffemodel"
    weights.write_bytes(model.SerializeToString())

    converted = caffe.Net(str(new), caffe.TEST)
    shapes = {n: [p.data.shape for p in ps] for n, ps in converted.params.items()}
    found = read_weights(weights)
    for name, arrays in fit_weights(weights, found, shapes).items():
        for param, array in zip(converted.params[name], arrays, strict=True):
            param.data[...] = array
    reference = caffe.Net(str(old), str(weights), caffe.TEST)
    data = rng.normal(size=(2, 4, 13, 11)).astype(np.float32)
    for one in (reference, converted):
        one.blobs["data"].data[...] = data
        one.forward()
    blobs = [blob for blob in reference.blobs if "_split_" not in blob]
    assert [b for b in converted.blobs if "_split_" not in b] == blobs
    graph = build_graph(net.layer, found, weights, outputs={b: b for b in blobs[1:]})
    values = open_session(graph, ["CPUExecutionProvider"]).run(
        blobs[1:], {"data": data}
    )
    for blob, of_onnx in zip(blobs[1:], values, strict=True):
        expected = reference.blobs[blob].data
        np.testing.assert_array_equal(converted.blobs[blob].data, expected)
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(of_onnx, expected.reshape(2, -1), atol=tolerance)


def test_binary_nets_of_2013(tmp_path: Path) -> None:
    text, binary = tmp_path / "text", tmp_path / "binary"
    text.write_text(V0)
    theirs = text_format.Parse(V0, caffe_pb2.NetParameter())
    binary.write_bytes(theirs.SerializeToString())
    assert read_net(binary) == read_net(text)


def test_settings_that_a_type_of_2013_has_not_are_dropped(tmp_path: Path) -> None:
    """Caffe reports them and goes on."""
    layers = 'layers { layer { name: "r" type: "relu" num_output: 3 pad: 1 } }'
    path = tmp_path / "net"
    path.write_text(layers + 'layers { layer { name: "o" type: "odd" stride: 2 } }')
    relu, odd = read_net(path).layer
    assert str(relu) == 'name: "r"\ntype: "ReLU"\n'
    assert str(odd) == 'name: "o"\ntype: "odd"\n'  # refused where it is used
