"""`fishing import` makes folders of nets that the other commands take."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import fishing
from fishing.cli.main import main
from fishing.errors import NetError
from fishing.extract import import_caffe, import_onnx
from fishing.images import Preprocess
from fishing.nets import load_net
from nets.onnx_models import CHANNELS, CLASSES, HIDDEN, SIZE, Model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    model = Model()
    y7 = model.gemm(model.trunk(), "y7", CHANNELS, HIDDEN)
    model.gemm(model.node("Relu", [y7], "x7"), "y8", HIDDEN, CLASSES)
    return model.save(tmp_path / "small.onnx", "y8")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    settings = {"input_size": [3, SIZE, SIZE], "crop_pct": 1.0}
    settings |= {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    settings |= {"interpolation": "bicubic"}
    path.write_text(json.dumps({"pretrained_cfg": settings}))
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    import cv2

    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return folder


def test_an_onnx_model_becomes_a_folder_that_commands_take(
    classifier: Path, config: Path, photographs: Path, tmp_path: Path
) -> None:
    net, features = tmp_path / "net", tmp_path / "features.h5"
    result = run("import", classifier, "--preprocess", config, "--output", net)
    assert result.exit_code == 0, result.output
    assert f"{net}: 2 inner products, y7 and y8 over x6" in result.output
    assert "features: x6 x7 y8 x8 x6+x7 x7+y8 dW7 dW8" in result.output
    spec = load_net(str(net))
    assert spec.is_onnx
    assert spec.blobs == {"x6": "x6", "x7": "x7", "y8": "y8"}
    assert spec.preprocess.channels == "RGB"
    assert spec.preprocess.mean == pytest.approx((102, 127.5, 153))
    command = ("extract", "--net", net, "--data", photographs, "--output", features)
    assert run(*command).exit_code == 0
    split = fishing.load(features)["all"]
    assert split.blobs["backward/y7"].shape == (4, HIDDEN)
    for backend in ("openvino", "caffe"):
        other = tmp_path / f"{backend}.h5"
        result = run(*command[:-1], other, "--backend", backend)
        if backend == "caffe":
            assert result.exit_code == 2
            assert "which Caffe cannot run" in result.output
            continue
        for name, rows in fishing.load(other)["all"].blobs.items():
            np.testing.assert_allclose(
                rows[:], split.blobs[name][:], rtol=1e-4, atol=1e-6
            )


def test_tempered_gradients_of_an_onnx_net_equal_extracted_ones(
    classifier: Path, config: Path, photographs: Path, tmp_path: Path
) -> None:
    net = tmp_path / "net"
    assert (
        run("import", classifier, "--preprocess", config, "--output", net).exit_code
        == 0
    )
    files = [tmp_path / f"{name}.h5" for name in ("two", "five", "tempered")]
    for file, tau in zip(files, (2, 5), strict=False):
        extract = ("extract", "--net", net, "--data", photographs, "--output", file)
        assert run(*extract, "--temperature", tau).exit_code == 0
    temper = (
        "temper",
        files[0],
        "--net",
        net,
        "--temperature",
        5,
        "--output",
        files[2],
    )
    result = run(*temper)
    assert result.exit_code == 0, result.output
    expected, found = (fishing.load(file)["all"].blobs for file in files[1:])
    for name in expected:
        np.testing.assert_allclose(
            found[name][:], expected[name][:], rtol=1e-4, atol=1e-7
        )


def test_a_caffe_net_becomes_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = load_net("tinyalexnet")
    weights = tiny.folder / tiny.weights.file
    with caplog.at_level(logging.WARNING):
        found = import_caffe(tiny.model, weights, tmp_path / "net")
    assert "104 117 123 is taken" in caplog.text
    assert found.head == "3 inner products, fc6, fc7 and fc8 over pool5"
    assert found.spec.blobs == tiny.blobs
    assert (
        found.spec.preprocess
        == Preprocess(64, 64, resize=64, mean=(104.0, 117.0, 123.0))
        or found.spec.preprocess == tiny.preprocess
    )
    assert found.spec.weights.sha256 == tiny.weights.sha256
    assert found.spec.model.read_bytes() == tiny.model.read_bytes()


def test_nothing_is_left_of_a_net_that_is_refused(tmp_path: Path) -> None:
    model = Model()
    model.trunk()
    path = model.save(tmp_path / "features.onnx", "x6")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(NetError, match="expected logits"):
        import_onnx(path, Preprocess(SIZE, SIZE), target / "net")
    y = model.gemm("x6", "y8", CHANNELS, CLASSES)
    model.arrays["W"][:] = np.float32(3e38)  # overflows in the middle
    path = model.save(tmp_path / "overflow.onnx", y)
    with pytest.raises(NetError, match="expected finite values"):
        import_onnx(path, Preprocess(SIZE, SIZE), target / "net")
    with pytest.raises(NetError, match="expected images of shape"):
        import_onnx(path, Preprocess(SIZE + 1, SIZE), target / "net")
    assert os.listdir(target) == []


def test_a_folder_that_is_there_stays_as_it_is(
    classifier: Path, tmp_path: Path
) -> None:
    net = tmp_path / "net"
    net.mkdir()
    (net / "mine").write_text("precious")
    for _ in range(2):
        with pytest.raises(NetError, match="exists and is not empty"):
            import_onnx(classifier, Preprocess(SIZE, SIZE), net)
    assert os.listdir(net) == ["mine"]


def test_images_that_influence_each_other_are_found(tmp_path: Path) -> None:
    model = Model()
    x = model.trunk()
    # The mean over the batch: what an exporter makes of a batch axis it mistook.
    axes = model.constant("axes", np.array([0]))
    mean = model.node("ReduceMean", [x, axes], "batch mean", keepdims=1)
    y = model.gemm(model.node("Sub", [x, mean], "x"), "y8", CHANNELS, CLASSES)
    path = model.save(tmp_path / "m.onnx", y)
    with pytest.raises(NetError, match="not to depend on others"):
        import_onnx(path, Preprocess(SIZE, SIZE), tmp_path / "net", images=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "does not say how images are prepared"),
        (["{model}", "--preprocess", "missing.json"], "missing.json"),
        (["missing.onnx", "--preprocess", "caffe"], "expected to read missing.onnx"),
        (["{model}", "{model}"], "expected a deploy net"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, classifier: Path) -> None:
    result = run("import", *(a.format(model=classifier) for a in arguments))
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ("1,2", "expected a mean of 3 channels, found one of 2"),
        ("1,2,300", "found '1,2,300': values such as 300"),
        ("nothing.binaryproto", "nothing.binaryproto"),
        ("", "expected a mean as numbers"),
    ],
)
def test_means_that_do_not_fit(mean: str, message: str, tmp_path: Path) -> None:
    tiny = load_net("tinyalexnet")
    weights = tiny.folder / tiny.weights.file
    result = run(
        "import", tiny.model, weights, "--mean", mean, "--output", tmp_path / "net"
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "net").exists()


def _top_1(net: Path, paths: list[Path]) -> list[int]:
    from fishing.extract import compute_blobs
    from fishing.store import ExtractionSettings

    blobs = compute_blobs(ExtractionSettings(load_net(str(net)), "onnx"), paths)
    return [int(i) for i in blobs["forward/y8"].argmax(axis=1)]


def test_real_nets_know_what_photographs_show(shared: Path, tmp_path: Path) -> None:
    models, photographs = shared / "models", shared / "data/caltech20/JPEGImages"
    classes = {  # the classes of ILSVRC 2012, from 0
        "accordion_0001": {401},
        "starfish_0001": {327},
        "grand_piano_0001": {579},
        "kangaroo_0002": {104},
        "butterfly_0001": {323},
    }
    paths = [photographs / f"{name}.jpg" for name in classes]
    config = tmp_path / "config.json"
    half = [127 / 255] * 3
    settings: dict[str, Any] = {"input_size": [3, 224, 224], "mean": half}
    settings |= {"std": [128 / 255] * 3, "interpolation": "bicubic", "crop_pct": 0.875}
    config.write_text(json.dumps(settings))
    lite = models / "efficientnet-lite0/efficientnet-lite0.onnx"
    google = models / "googlenet"
    for arguments in (
        (lite, "--preprocess", config),
        (google / "deploy.prototxt", google / "googlenet.caffemodel"),
    ):
        net = tmp_path / "net"
        result = run("import", *arguments, "--output", net)
        assert result.exit_code == 0, result.output
        found = _top_1(net, paths)
        assert all(i in c for i, c in zip(found, classes.values(), strict=True)), found
        shutil.rmtree(net)


def test_a_torch_model_is_exported_and_imported(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, CHANNELS, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(CHANNELS, CLASSES),
    )
    spec = fishing.from_torch(net, Preprocess(SIZE, SIZE), tmp_path / "net")
    assert list(spec.blobs) == ["x7", "y8"]
    assert net.training
