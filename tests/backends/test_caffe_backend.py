"""Tests of the Caffe backend: its blobs against gradients computed in other ways."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from numpy.typing import NDArray
from random_nets import random_net
from same_blobs import assert_same_blobs, smooth_images

from fishing.backends import choose_backend
from fishing.backends.caffe import CaffeBackend
from fishing.backends.caffe.net import gradient_net
from fishing.backends.onnx import OnnxBackend
from fishing.backends.openvino import OpenvinoBackend
from fishing.errors import BackendError, NetError
from fishing.images import Preprocess
from fishing.nets import BLOBS, NetSpec, load_net, prepare_net, read_net

Array = NDArray[Any]
TAU = 2.0


def _open(spec: NetSpec, tau: float = TAU, batch_size: int = 8) -> CaffeBackend:
    return CaffeBackend(spec, temperature=tau, batch_size=batch_size, device="cpu")


def _softmax(y: Array) -> Array:
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["tinyalexnet", "alexnet", "vgg16"])
def spec(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> NetSpec:
    if request.param == "tinyalexnet":
        return load_net("tinyalexnet")
    return random_net(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def weights(spec: NetSpec) -> dict[str, tuple[Array, Array]]:
    net = caffe.Net(str(spec.model), str(spec.folder / spec.weights.file), caffe.TEST)
    return {
        layer: tuple(p.data.astype(np.float64) for p in net.params[layer])
        for layer in ("fc6", "fc7", "fc8")
    }


@pytest.fixture(scope="module")
def data(spec: NetSpec) -> NDArray[np.float32]:
    return smooth_images(np.random.default_rng(2), 3, spec.preprocess.height)


@pytest.fixture(scope="module")
def blobs(spec: NetSpec, data: NDArray[np.float32]) -> dict[str, Array]:
    backend = _open(spec)
    try:
        return backend.run(data)
    finally:
        backend.close()


def test_the_nets_are_alive(blobs: dict[str, Array]) -> None:
    assert list(blobs) == list(BLOBS)
    for name, values in blobs.items():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (np.abs(values).sum(axis=1) > 0).all(), name
    for name in ("forward/x6", "forward/x7", "backward/y6", "backward/y7"):
        assert 0.05 < (blobs[name] != 0).mean() < 0.95, name


def test_the_other_backends_make_the_same(
    spec: NetSpec, data: NDArray[np.float32], blobs: dict[str, Array]
) -> None:
    _compare_others(spec, data, blobs, TAU)
    for tau in (1.0, 10.0) if spec.name == "alexnet" else ():
        backend = _open(spec, tau)
        _compare_others(spec, data, backend.run(data), tau)
        backend.close()


def _compare_others(
    spec: NetSpec, data: NDArray[np.float32], blobs: dict[str, Array], tau: float
) -> None:
    for maker in (OnnxBackend, OpenvinoBackend):
        backend = maker(spec, temperature=tau, batch_size=len(data), device="cpu")
        assert_same_blobs(backend.run(data), blobs)
        assert {k: v.shape[1] for k, v in blobs.items()} == backend.widths
        backend.close()


def test_forward_blobs_equal_float64_algebra(
    blobs: dict[str, Array], weights: dict[str, tuple[Array, Array]]
) -> None:
    below = {"fc6": "forward/x5", "fc7": "forward/x6", "fc8": "forward/x7"}
    for layer, (W, b) in weights.items():
        y = blobs[below[layer]].astype(np.float64) @ W.T + b
        name, x = ("y8", y) if layer == "fc8" else (f"x{layer[-1]}", np.maximum(y, 0))
        np.testing.assert_allclose(
            blobs[f"forward/{name}"], x, atol=1e-5 * np.abs(x).max()
        )
    y8 = blobs["forward/y8"].astype(np.float64)
    np.testing.assert_allclose(blobs["forward/x8"], _softmax(y8), atol=1e-6)


def test_eq_10_back_propagation_in_float64(
    blobs: dict[str, Array], weights: dict[str, tuple[Array, Array]]
) -> None:
    y8 = blobs["forward/y8"].astype(np.float64)
    g8 = (_softmax(y8 / TAU) - 1 / y8.shape[1]) / TAU
    g7 = (g8 @ weights["fc8"][0]) * (blobs["forward/x7"] > 0)
    g6 = (g7 @ weights["fc7"][0]) * (blobs["forward/x6"] > 0)
    for layer, g in (("fc8", g8), ("fc7", g7), ("fc6", g6)):
        found = blobs[f"backward/y{layer[-1]}"]
        np.testing.assert_allclose(found, g, atol=1e-5 * np.abs(g).max())


def test_eq_10_is_the_derivative_of_the_loss(
    blobs: dict[str, Array], weights: dict[str, tuple[Array, Array]]
) -> None:
    """Move y6, y7 and y8 a little, and compute the loss in float64."""

    def loss(y: Array, layer: str) -> float:
        for above in {"fc6": ("fc7", "fc8"), "fc7": ("fc8",), "fc8": ()}[layer]:
            W, b = weights[above]
            y = np.maximum(y, 0) @ W.T + b
        return float(-np.log(_softmax(y / TAU)).mean(axis=1).sum())

    below = {"fc6": "forward/x5", "fc7": "forward/x6", "fc8": "forward/x7"}
    rng = np.random.default_rng(3)
    for layer, (W, b) in weights.items():
        y = blobs[below[layer]][:1].astype(np.float64) @ W.T + b
        g = blobs[f"backward/y{layer[-1]}"][0].astype(np.float64)
        for _ in range(5):
            direction = rng.normal(size=y.shape)
            step = 1e-7 * np.abs(y).max()
            ahead, behind = (
                loss(y + step * direction, layer),
                loss(y - step * direction, layer),
            )
            slope = (ahead - behind) / (2 * step)
            scale = np.linalg.norm(g) * np.linalg.norm(direction)
            assert slope == pytest.approx(float(direction[0] @ g), abs=2e-4 * scale)


def test_eq_9_caffes_own_weight_gradient(
    spec: NetSpec, data: NDArray[np.float32], blobs: dict[str, Array]
) -> None:
    """Let Caffe compute dE/dW itself, image by image."""
    derived = gradient_net(prepare_net(spec), temperature=TAU, batch_size=1)
    below = {"fc6": "forward/x5", "fc7": "forward/x6", "fc8": "forward/x7"}
    for layer in derived.param.layer:
        for param in layer.param if layer.name in below else ():
            param.lr_mult = 1
    net = _net(derived.param, spec)
    for i in range(2):
        for layer in below:
            net.params[layer][0].diff[...] = 0  # Caffe adds to what is there
        net.blobs["data"].data[...] = data[i]
        net.forward()
        net.backward()
        for layer, x in below.items():
            found = net.params[layer][0].diff
            outer = np.outer(blobs[f"backward/y{layer[-1]}"][i], blobs[x][i])
            assert found.shape == outer.shape
            assert np.isfinite(found).all()
            assert np.abs(found - outer).max() <= 2e-5 * np.abs(outer).max()


def _net(param: Any, spec: NetSpec) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(str(param))
        file.flush()
        return caffe.Net(file.name, str(spec.folder / spec.weights.file), caffe.TEST)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize("tau", [1.0, 2.0, 10.0])
def test_an_image_does_not_depend_on_its_batch(batch_size: int, tau: float) -> None:
    spec = load_net("tinyalexnet")
    data = smooth_images(np.random.default_rng(4), 37, 64)
    backend, single = _open(spec, tau, batch_size), _open(spec, tau, 1)
    try:
        batches = [data[i : i + batch_size] for i in range(0, 37, batch_size)]
        found = [backend.run(batch) for batch in batches]
        assert len(found[-1]["forward/x6"]) == len(batches[-1])
        alone = [single.run(data[i : i + 1]) for i in (0, 6, 31, 32, 36)]
    finally:
        backend.close()
        single.close()
    for name in BLOBS:
        rows = np.concatenate([blobs[name] for blobs in found])
        some = np.concatenate([blobs[name] for blobs in alone])
        np.testing.assert_allclose(
            rows[[0, 6, 31, 32, 36]], some, atol=1e-5 * np.abs(some).max()
        )


# --- deploy nets from elsewhere ---------------------------------------------------

TRUNK = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 10 dim: 3 dim: 16 dim: 16 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3
                            weight_filler { type: "gaussian" std: 0.02 } } }
layer { name: "pool5" type: "Pooling" bottom: "conv" top: "pool5"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
"""
HEAD = """
layer {{ name: "fc6" type: "InnerProduct" bottom: "pool5" top: "fc6"
        inner_product_param {{ num_output: 12 weight_filler {{ type: "xavier" }} }} }}
{between6}
layer {{ name: "fc7" type: "InnerProduct" bottom: "{x6}" top: "fc7"
        inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
{between7}
layer {{ name: "fc8" type: "InnerProduct" bottom: "{x7}" top: "fc8"
        inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }}
"""


def _layer(kind: str, bottom: str, top: str, extra: str = "") -> str:
    name = f"{kind.lower()}_{bottom}_{top}"
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" '
        f"{extra} }}"
    )


def _head(names: tuple[str, str], relu: str, *, in_place: bool) -> str:
    """Write a head; `names` are those of x6 and x7."""
    if in_place:
        between = [
            _layer(relu, fc, fc) + _layer("Dropout", fc, fc) for fc in ("fc6", "fc7")
        ]
    else:
        between = [_layer(relu, f"fc{k}", n) for k, n in zip("67", names, strict=True)]
    return HEAD.format(
        x6=names[0], x7=names[1], between6=between[0], between7=between[1]
    )


def _own_net(folder: Path, prototxt: str, x6: str = "fc6", x7: str = "fc7") -> NetSpec:
    """Write the folder of a net with weights that Caffe's fillers draw."""
    folder.mkdir(exist_ok=True)
    (folder / "deploy.prototxt").write_text(prototxt)
    (folder / "net.toml").write_text(
        f'name = "own"\ntitle = "A small net"\n'
        f"[input]\nsize = 16\nmean = [104.0, 117.0, 123.0]\n"
        f'[blobs]\nx5 = "pool5"\nx6 = "{x6}"\nx7 = "{x7}"\ny8 = "fc8"\nx8 = "prob"\n'
        f'[weights]\nfile = "own.caffemodel"\n'
    )
    caffe.set_random_seed(7)
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST)
    net.save(str(folder / "own.caffemodel"))
    return load_net(str(folder))


def _run(spec: NetSpec, n: int = 3) -> dict[str, Array]:
    backend = _open(spec, batch_size=n)
    try:
        return backend.run(smooth_images(np.random.default_rng(6), n, 16))
    finally:
        backend.close()


def test_in_place_or_not_is_the_same(tmp_path: Path) -> None:
    one = TRUNK + _head(("fc6", "fc7"), "ReLU", in_place=True)
    other = TRUNK + _head(("relu6", "relu7"), "ReLU", in_place=False)
    a = _run(_own_net(tmp_path / "a", one))
    b = _run(_own_net(tmp_path / "b", other, "relu6", "relu7"))
    for name in BLOBS:
        assert np.abs(a[name]).max() > 0
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("kind", "derivative"),
    [("Sigmoid", lambda x: x * (1 - x)), ("TanH", lambda x: 1 - x**2)],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_other_nonlinearities(tmp_path: Path, kind, derivative, in_place) -> None:
    names = ("fc6", "fc7") if in_place else ("act6", "act7")
    spec = _own_net(
        tmp_path / "n", TRUNK + _head(names, kind, in_place=in_place), *names
    )
    blobs = _run(spec)
    net = caffe.Net(str(spec.model), str(spec.folder / "own.caffemodel"), caffe.TEST)
    W7, W8 = (net.params[layer][0].data.astype(np.float64) for layer in ("fc7", "fc8"))
    g8 = (_softmax(blobs["forward/y8"].astype(np.float64) / TAU) - 1 / 5) / TAU
    g7 = (g8 @ W8) * derivative(blobs["forward/x7"].astype(np.float64))
    g6 = (g7 @ W7) * derivative(blobs["forward/x6"].astype(np.float64))
    for layer, g in (("fc8", g8), ("fc7", g7), ("fc6", g6)):
        found = blobs[f"backward/y{layer[-1]}"]
        np.testing.assert_allclose(found, g, atol=1e-5 * np.abs(g).max())


def test_old_input_forms_and_unused_layers(tmp_path: Path) -> None:
    head = _head(("fc6", "fc7"), "ReLU", in_place=True)
    plain = _run(_own_net(tmp_path / "a", TRUNK + head))
    rest = TRUNK.split("\n", 3)[3]
    side = _layer("Sigmoid", "conv", "unused")
    forms = [
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 16',
        'input: "data" input_shape { dim: 1 dim: 3 dim: 16 dim: 16 }',
    ]
    for i, form in enumerate(forms):
        blobs = _run(_own_net(tmp_path / str(i), f"{form}\n{rest}{side}{head}"))
        for name in BLOBS:
            np.testing.assert_array_equal(blobs[name], plain[name])


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("trunk", ["frozen", "none"])
def test_nothing_to_learn_below_the_head(tmp_path: Path, trunk, bias) -> None:
    """Caffe skips a backward pass that it considers unnecessary."""
    head = _head(("fc6", "fc7"), "ReLU", in_place=True)
    head = head.replace("num_output", f"bias_term: {bias} num_output")
    text = TRUNK
    if trunk == "none":
        start, end = (
            text.index('layer { name: "conv"'),
            text.index('layer { name: "pool5"'),
        )
        text = text[:start] + text[end:].replace('bottom: "conv"', 'bottom: "data"')
    plain = _own_net(tmp_path / "a", text + head)
    frozen = text.replace(
        'top: "conv"', 'top: "conv" param { lr_mult: 0 } param { lr_mult: 0 }'
    )
    spec = _own_net(tmp_path / "b", frozen + head)
    net = caffe.Net(str(plain.model), str(plain.folder / "own.caffemodel"), caffe.TEST)
    W7, W8 = (net.params[layer][0].data.astype(np.float64) for layer in ("fc7", "fc8"))
    blobs = _run(spec)
    g8 = (_softmax(blobs["forward/y8"].astype(np.float64) / TAU) - 1 / 5) / TAU
    g7 = (g8 @ W8) * (blobs["forward/x7"] > 0)
    g6 = (g7 @ W7) * (blobs["forward/x6"] > 0)
    for layer, g in (("fc8", g8), ("fc7", g7), ("fc6", g6)):
        found = blobs[f"backward/y{layer[-1]}"]
        assert np.abs(g).max() > 0
        np.testing.assert_allclose(found, g, atol=1e-5 * np.abs(g).max())


def test_no_needless_work(tmp_path: Path) -> None:
    """Caffe must not go below y6, nor compute gradients of weights."""
    spec = load_net("tinyalexnet")
    derived = gradient_net(prepare_net(spec), temperature=TAU, batch_size=2)
    net = _net(derived.param, spec)
    for name, blob in net.blobs.items():
        blob.diff[...] = 7 if name != "loss" else 1
    for params in net.params.values():
        for param in params:
            param.diff[...] = 7
    net.blobs["data"].data[...] = smooth_images(np.random.default_rng(6), 2, 64)
    net.forward()
    net.backward()
    for name in ("data", "conv1", "conv5", "pool5", "prob"):
        assert (net.blobs[name].diff == 7).all(), name
    for layer, params in net.params.items():
        for i, param in enumerate(params):
            if (layer, i) != ("fc6", 1):  # Caffe runs its backward pass for this bias
                assert (param.diff == 7).all(), layer
    assert (net.blobs["fc6@fc6"].diff != 7).all()


def test_v1_weights(tmp_path: Path) -> None:
    """The public caffemodels are in the format of before 2014."""
    spec = load_net("tinyalexnet")
    model = caffe_pb2.NetParameter()
    model.ParseFromString((spec.folder / spec.weights.file).read_bytes())
    kinds = caffe_pb2.V1LayerParameter.LayerType
    old = caffe_pb2.NetParameter(name="old")
    for layer in model.layer:
        if not layer.blobs:
            continue
        kind = "CONVOLUTION" if layer.type == "Convolution" else "INNER_PRODUCT"
        entry = old.layers.add(name=layer.name, type=kinds.Value(kind))
        for blob in layer.blobs:
            shape = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            fields = zip(("num", "channels", "height", "width"), shape, strict=True)
            entry.blobs.add(data=blob.data, **dict(fields))
    (tmp_path / "old.caffemodel").write_bytes(old.SerializeToString())
    weights = dataclasses.replace(
        spec.weights, file="old.caffemodel", size=None, sha256=None
    )
    v1 = dataclasses.replace(spec, folder=tmp_path, weights=weights)
    data = smooth_images(np.random.default_rng(6), 2, 64)
    expected, found = _run_on(spec, data), _run_on(v1, data)
    for name in BLOBS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_v1_prototxt(tmp_path: Path) -> None:
    """A deploy net in the format of before 2014 makes the same blobs."""
    spec = load_net("tinyalexnet")
    old = caffe_pb2.NetParameter(input=["data"], input_dim=[1, 3, 64, 64])
    for layer in read_net(spec.model).layer[1:]:
        kind = {"InnerProduct": "INNER_PRODUCT"}.get(layer.type, layer.type.upper())
        new = caffe_pb2.LayerParameter.FromString(layer.SerializeToString())
        entry = old.layers.add(name=new.name, bottom=new.bottom, top=new.top)
        entry.type = entry.LayerType.Value(kind)
        for field, value in new.ListFields():
            if field.name.endswith("_param"):
                getattr(entry, field.name).CopyFrom(value)
    (tmp_path / "v1.prototxt").write_text(str(old))
    v1 = dataclasses.replace(spec, model=tmp_path / "v1.prototxt")
    data = smooth_images(np.random.default_rng(6), 2, 64)
    expected, found = _run_on(spec, data), _run_on(v1, data)
    for name in BLOBS:
        np.testing.assert_array_equal(found[name], expected[name])


def _run_on(spec: NetSpec, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    backend = _open(spec)
    try:
        return backend.run(data)
    finally:
        backend.close()


# --- what does not fit ------------------------------------------------------------


def _refused(
    spec: NetSpec, error: type[Exception], message: str, **changes: Any
) -> None:
    settings = {"temperature": TAU, "batch_size": 2, "device": "cpu", **changes}
    with pytest.raises(error, match=message) as caught:
        CaffeBackend(spec, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x6": "nothing"}, "expected a blob 'nothing'"),
        ({"x6": "fc7", "x7": "fc6"}, "expected 'fc6' .x7. to feed"),
        ({"x8": "fc7"}, "expected x8 'fc7' to be the Softmax of y8 'fc8'"),
        ({"x5": "norm2"}, "expected 'norm2' .x5. to feed .* found 'pool5' .Pooling."),
    ],
)
def test_heads_that_do_not_fit(change: dict[str, str], message: str) -> None:
    spec = load_net("tinyalexnet")
    blobs = {**spec.blobs, **change}
    _refused(dataclasses.replace(spec, blobs=blobs), NetError, message)


def test_names_that_the_added_layers_would_have(tmp_path: Path) -> None:
    head = _head(("fc6", "fc7"), "ReLU", in_place=True)
    plain = _run(_own_net(tmp_path / "a", TRUNK + head))
    text = (TRUNK + head).replace('top: "prob"', 'top: "loss"')
    text = text.replace('name: "conv"', 'name: "data"').replace(
        'name: "data" type: "Input"', 'name: "in" type: "Input"'
    )
    toml = _own_net(tmp_path / "b", text).folder / "net.toml"
    toml.write_text(toml.read_text().replace('x8 = "prob"', 'x8 = "loss"'))
    blobs = _run(load_net(str(toml.parent)))
    for name in BLOBS:
        np.testing.assert_array_equal(blobs[name], plain[name])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('bottom: "fc8" top: "prob"', "", "axis 0"),
        ("num_output: 10", "axis: 2 num_output: 10", "axis 2"),
    ],
)
def test_axes_that_do_not_fit(tmp_path: Path, old, new, message) -> None:
    text = TRUNK + _head(("fc6", "fc7"), "ReLU", in_place=True)
    spec = _own_net(tmp_path / "n", text)
    new = new or f"{old} softmax_param {{ axis: 0 }}"
    spec.model.write_text(text.replace(old, new))
    _refused(spec, NetError, message)


def test_x5_that_is_no_input_of_the_head() -> None:
    """In-place layers share a name: the walk down must not go round in a circle."""
    spec = load_net("tinyalexnet")
    blobs = {**spec.blobs, "x5": "fc6"}
    message = "to feed the inner product above it, found 'pool5'"
    _refused(dataclasses.replace(spec, blobs=blobs), NetError, message)


def test_input_of_another_size() -> None:
    spec = dataclasses.replace(load_net("tinyalexnet"), preprocess=Preprocess(65, 65))
    _refused(spec, NetError, r"expected one input of shape \(N, 3, 65, 65\)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer {", "expected a deploy net"),
        (
            'layer { name: "a" type: "Split" bottom: "a" top: "a" }',
            "expected a blob 'pool5' in the net",
        ),
    ],
)
def test_prototxts_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "deploy.prototxt").write_text(text)
    spec = load_net("tinyalexnet")
    _refused(
        dataclasses.replace(spec, model=tmp_path / "deploy.prototxt"),
        NetError,
        message,
    )


def _model(spec: NetSpec) -> Any:
    model = caffe_pb2.NetParameter()
    model.ParseFromString((spec.folder / spec.weights.file).read_bytes())
    return model


def _with_model(folder: Path, content: bytes) -> NetSpec:
    spec = load_net("tinyalexnet")
    (folder / "bad.caffemodel").write_bytes(content)
    weights = dataclasses.replace(
        spec.weights, file="bad.caffemodel", size=None, sha256=None
    )
    return dataclasses.replace(spec, folder=folder, weights=weights)


def test_weights_without_a_layer(tmp_path: Path) -> None:
    model = _model(load_net("tinyalexnet"))
    for layer in model.layer:
        if layer.name == "fc7":
            layer.name = "fc7_finetuned"
    spec = _with_model(tmp_path, model.SerializeToString())
    _refused(spec, NetError, "for layer 'fc7', found none")


def test_weights_of_another_shape(tmp_path: Path) -> None:
    model = _model(load_net("tinyalexnet"))
    for layer in model.layer:
        if layer.name == "fc8":
            layer.blobs[0].shape.dim[0] = 100
            del layer.blobs[0].data[100 * 768 :]
    spec = _with_model(tmp_path, model.SerializeToString())
    _refused(spec, NetError, r"\[200, 768\].*'fc8', found \[\[100, 768\]")


def test_truncated_weights(tmp_path: Path) -> None:
    spec = load_net("tinyalexnet")
    content = (spec.folder / spec.weights.file).read_bytes()
    bad = _with_model(tmp_path, content[: len(content) // 2])
    _refused(bad, NetError, "expected a caffemodel, found")


def test_caffes_abort_becomes_an_error() -> None:
    message = "Caffe stopped: .*blob size exceeds"
    _refused(load_net("tinyalexnet"), BackendError, message, batch_size=10**9)


@pytest.mark.parametrize("device", ["gpu", "gpu:x", "cuda", ""])
def test_unknown_devices(device: str) -> None:
    spec = load_net("tinyalexnet")
    _refused(spec, BackendError, "expected a device 'cpu', 'gpu:0' or", device=device)


def test_a_gpu_that_is_not_there() -> None:
    """With either build, this is an error and not an abort."""
    message = "built for the CPU only|found no NVIDIA driver|expected a GPU of number"
    _refused(load_net("tinyalexnet"), BackendError, message, device="gpu:99")


def test_unknown_backends() -> None:
    with pytest.raises(BackendError, match="expected a backend of: auto caffe onnx"):
        choose_backend("theano")


def test_a_killed_worker_is_an_error() -> None:
    backend = _open(load_net("tinyalexnet"))
    backend._process.kill()
    with pytest.raises(BackendError, match=r"Caffe stopped: .*exit code -9"):
        backend.run(np.zeros((2, 3, 64, 64), np.float32))
    backend.close()


def test_the_current_folder_lends_no_modules(tmp_path: Path, monkeypatch) -> None:
    for name in ("caffe", "random", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    backend = _open(load_net("tinyalexnet"))
    assert backend.widths["forward/x6"] == 768
    backend.close()
