"""Tests of nets that Caffe aborts on: one line is printed, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import caffe
import pytest
from caffe.proto import caffe_pb2
from click.testing import CliRunner
from google.protobuf import text_format

from conftest import SETTINGS, make_split, write_file
from fishing.cli.main import main

PROTOTXT = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm"
        lrn_param { local_size: 3 } }
layer { name: "pool5" type: "Pooling" bottom: "norm" top: "pool5"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool5" top: "fc6"
        inner_product_param { num_output: 6 } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
        inner_product_param { num_output: 5 } }
layer { name: "relu7" type: "ReLU" bottom: "fc7" top: "fc7" }
layer { name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8"
        inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""
# A part of the prototxt, its replacement, and a part of the message.
ABORTS = {
    "unknown layer": (
        '"LRN"',
        '"Normalise"',
        r"expected a type of: .*found 'Normalise'",
    ),
    "no layer type": ('type: "LRN"', "", r"expected a type of: .*found ''"),
    "unknown bottom": (
        'bottom: "norm"',
        'bottom: "n"',
        "a layer before it to write 'n'",
    ),
    "cycle": (
        'bottom: "data"',
        'bottom: "pool5"',
        "a layer before it to write 'pool5'",
    ),
    "no bottom": ('bottom: "conv"', "", "1 bottom and 1 top, found 0 and 1"),
    "two bottoms": ('bottom: "conv"', 'bottom: "conv" bottom: "conv"', "found 2 and 1"),
    "two tops": ('top: "norm"', 'top: "norm" top: "n2"', "found 1 and 2"),
    "blob written twice": (
        'layer { name: "norm"',
        'layer { name: "n2" type: "LRN" bottom: "data" top: "norm" }\n'
        'layer { name: "norm"',
        "a top of its own, found 'norm' of another layer",
    ),
    "no kernel size": ("kernel_size: 3 }", "}", "kernel"),
    "kernel of 0": (
        "kernel_size: 3 }",
        "kernel_size: 0 }",
        r"one kernel or two, found \[0\]",
    ),
    "kernel beyond image": (
        "kernel_size: 3 }",
        "kernel_size: 17 }",
        "expected an output",
    ),
    "kernel in two ways": (
        "kernel_size: 3 }",
        "kernel_size: 3 kernel_h: 3 kernel_w: 3 }",
        "kernel",
    ),
    "stride of 0": ("kernel_size: 3 }", "kernel_size: 3 stride: 0 }", "one stride"),
    "groups that do not divide": (
        "num_output: 4 k",
        "group: 2 num_output: 4 k",
        "channels in 2 groups",
    ),
    "no outputs": ("num_output: 4 k", "num_output: 0 k", "a num_output of 1"),
    "even LRN": ("local_size: 3", "local_size: 4", "an odd local_size"),
    "pad beyond kernel": ("stride: 2", "stride: 2 pad: 3", "a pad smaller"),
    "pooling without kernel": ("kernel_size: 3 stride", "stride", "kernel_size of 1"),
    "axis beyond": ("num_output: 5", "num_output: 5 axis: 7", "axis"),
    "softmax of no axis": (
        'top: "prob"',
        'top: "prob" softmax_param { axis: 9 }',
        "axis",
    ),
    "sum of two shapes": (
        'layer { name: "norm" type: "LRN" bottom: "conv"',
        'layer { name: "add" type: "Eltwise" bottom: "conv" bottom: "data" top: "a" }\n'
        'layer { name: "norm" type: "LRN" bottom: "a"',
        "bottoms or more of one shape",
    ),
    "2 GB of outputs": (
        "num_output: 6",
        "num_output: 2000000000",
        "at most 67108864 values",
    ),
    "memory for no weights": (
        "num_output: 6",
        "num_output: 9000000",
        r"expected parameters of shapes \[\[9000000, 196\], \[9000000\]\]",
    ),
    "kernel of gigabytes": (
        "num_output: 4 kernel_size: 3 }",
        "num_output: 100 kernel_size: 2000 pad: 1000 }",
        r"expected parameters of shapes \[\[100, 3, 2000, 2000\], \[100\]\]",
    ),
    "another shape": (
        "num_output: 5",
        "num_output: 9",
        r"expected parameters of shapes",
    ),
    "not closed": ("pool: MAX", "pool: MAX {", "expected a deploy net"),
    "unknown field": ("pool: MAX", "pole: MAX", "expected Caffe's own settings"),
    "unknown value": ("pool: MAX", "pool: MOST", "expected a deploy net"),
    "number too large": (
        "num_output: 6",
        "num_output: 99999999999",
        "expected a deploy",
    ),
    "a name twice": ('name: "norm"', 'name: "conv"', "'conv' once more"),
    "Python": (
        'type: "LRN" bottom: "conv"',
        'type: "Python" bottom: "conv" python_param { module: "os" layer: "x" }',
        r"expected a type of: .*found 'Python'",
    ),
    "HDF5": (
        'layer { name: "norm" type: "LRN" bottom: "conv"',
        'layer { name: "side" type: "HDF5Data" top: "side" '
        'hdf5_data_param { source: "/etc/passwd" batch_size: 1 } }\n'
        'layer { name: "cat" type: "Concat" bottom: "conv" bottom: "side" '
        'top: "cat" }\n'
        'layer { name: "norm" type: "LRN" bottom: "cat"',
        "'side' .HDF5Data.: expected an Input layer",
    ),
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    (folder / "deploy.prototxt").write_text(PROTOTXT)
    (folder / "net.toml").write_text(
        'name = "own"\ntitle = "A small net"\n'
        "[input]\nsize = 16\nmean = [104.0, 117.0, 123.0]\n"
        '[blobs]\nx5 = "pool5"\nx6 = "fc6"\nx7 = "fc7"\ny8 = "fc8"\nx8 = "prob"\n'
        '[weights]\nfile = "own.caffemodel"\n'
    )
    param = text_format.Parse(PROTOTXT, caffe_pb2.NetParameter())
    for layer in param.layer:
        for name in ("convolution_param", "inner_product_param"):
            if layer.HasField(name):
                getattr(layer, name).weight_filler.type = "xavier"
    (folder / "filled.prototxt").write_text(str(param))
    caffe.set_random_seed(7)
    filled = caffe.Net(str(folder / "filled.prototxt"), caffe.TEST)
    filled.save(str(folder / "own.caffemodel"))
    return folder


def _extract(net: Path, devkit: Path, output: Path, *more: str) -> tuple[int, str]:
    command = ["extract", "--net", str(net), "--data", str(devkit), "--split", "test"]
    command += ["--backend", "caffe", "--output", str(output), *more]
    result = CliRunner().invoke(main, command)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stderr


def _refused(net: Path, devkit: Path, folder: Path, *more: str) -> str:
    """Extract into a folder that is not empty, and return the line that is printed."""
    (folder / "kept.txt").write_bytes(b"kept")
    code, said = _extract(net, devkit, folder / "features.h5", *more)
    assert code == 2, said
    lines = [line for line in said.splitlines() if " runs on " not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("fishing: ")
    assert {file.name for file in folder.iterdir()} == {"kept.txt"}
    return lines[0]


def test_the_net_itself_is_good(net: Path, devkit: Path, tmp_path: Path) -> None:
    assert _extract(net, devkit, tmp_path / "features.h5")[0] == 0


@pytest.mark.parametrize("case", ABORTS)
def test_an_abort_is_one_line(
    net: Path, devkit: Path, tmp_path: Path, tmp_path_factory, monkeypatch, case: str
) -> None:
    old, new, message = ABORTS[case]
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    bad = tmp_path_factory.mktemp("bad")
    for file in net.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    assert old in PROTOTXT
    (bad / "deploy.prototxt").write_text(PROTOTXT.replace(old, new, 1))
    line = _refused(bad, devkit, tmp_path)
    assert re.search(message, line), line
    assert not any(temporary.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "gpu:0"), "CUDA for --device gpu:0"),
        (("--batch-size", "2000000000"), "blob size exceeds|allocation of size"),
    ],
)
def test_options_that_caffe_aborts_on(
    net: Path, devkit: Path, tmp_path: Path, options, message: str
) -> None:
    line = _refused(net, devkit, tmp_path, *options)
    assert any(part in line for part in message.split("|")), line


def test_rows_that_are_there_outlive_an_abort(
    net: Path, devkit: Path, tmp_path: Path, monkeypatch
) -> None:
    """Caffe dies in the second batch; the next run completes the same bytes."""
    from fishing.backends.caffe import CaffeBackend

    assert _extract(net, devkit, tmp_path / "whole.h5", "--batch-size", "4")[0] == 0
    run, calls = CaffeBackend.run, []

    def dying(self, data):
        calls.append(data)
        if len(calls) == 2:
            self._process.kill()
        return run(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(CaffeBackend, "run", dying)
        code, said = _extract(net, devkit, tmp_path / "f.h5", "--batch-size", "4")
    assert code == 2
    assert "Caffe stopped: " in said
    journal = (tmp_path / "f.h5.partial" / "test.journal").read_bytes()
    assert b'"rows": 4' in journal
    assert _extract(net, devkit, tmp_path / "f.h5", "--batch-size", "4")[0] == 0
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_features_file_outlives_an_abort(
    net: Path, devkit: Path, tmp_path: Path, rng
):
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    before = path.read_bytes()
    code, said = _extract(net, devkit, path)
    assert code == 2
    assert "was made with another" in said
    assert SETTINGS["net"] in said
    assert path.read_bytes() == before
