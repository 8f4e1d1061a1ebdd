"""Gradients at other temperatures, against those that Caffe makes anew."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe
import h5py
import numpy as np
import pytest

from conftest import SETTINGS, make_split
from fishing.errors import FishingError, NetError, StoreError
from fishing.extract import extract, temper
from fishing.files import file_sha256
from fishing.images import read_splits
from fishing.nets import BLOBS, NetSpec, load_net
from fishing.store import ExtractionSettings, FeaturesFile, write_features

DEPLOY = """
layer {{ name: "data" type: "Input" top: "data"
        input_param {{ shape {{ dim: 1 dim: 3 dim: 16 dim: 16 }} }} }}
layer {{ name: "pool5" type: "Convolution" bottom: "data" top: "pool5"
        convolution_param {{ num_output: 3 kernel_size: 4 stride: 4
            weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "fc6" type: "InnerProduct" bottom: "pool5" top: "fc6"
        inner_product_param {{ num_output: 20
            weight_filler {{ type: "gaussian" std: 0.005 }} }} }}
{middle6}
layer {{ name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" }}
layer {{ name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
        inner_product_param {{ num_output: 20 transpose: {transpose}
            weight_filler {{ type: "gaussian" std: 0.5 }} }} }}
{middle7}
layer {{ name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8"
        inner_product_param {{ num_output: 5 bias_term: false
            weight_filler {{ type: "gaussian" std: 3 }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }}
"""
NET_TOML = """
name = "own"
title = "A head on one convolution"
input = { size = 16, mean = [104.0, 117.0, 123.0] }
blobs = { x5 = "pool5", x6 = "fc6", x7 = "fc7", y8 = "fc8", x8 = "prob" }
weights = { file = "own.caffemodel" }
"""


def _middle(k: int, kind: str, extra: str = "") -> str:
    return (
        f'layer {{ name: "{kind.lower()}{k}" type: "{kind}" bottom: "fc{k}" '
        f'top: "fc{k}" {extra} }}\n'
    )


def _own_net(folder: Path, *kinds: tuple[str, str], transpose: bool = False) -> NetSpec:
    """Write a net with these layers between its inner products."""
    folder.mkdir(exist_ok=True)
    middle = ["".join(_middle(k, *kind) for kind in kinds) for k in (6, 7)]
    prototxt = DEPLOY.format(
        middle6=middle[0], middle7=middle[1], transpose=str(transpose).lower()
    )
    (folder / "deploy.prototxt").write_text(prototxt)
    (folder / "net.toml").write_text(NET_TOML)
    caffe.set_random_seed(3)
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST)
    net.save(str(folder / "own.caffemodel"))
    return load_net(str(folder))


def _extract(spec: NetSpec, devkit: Path, output: Path, tau: float) -> Path:
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(spec, backend="caffe", temperature=tau), lists, output)
    return output


def _made_up(spec: NetSpec, path: Path, **changes: Any) -> Path:
    """Write a features file of random values that names a net as its own."""
    widths = dict(zip(BLOBS, (48, 20, 20, 5, 5, 20, 20, 5), strict=True))
    rng = np.random.default_rng(4)
    blobs = {b: rng.normal(size=(7, d)).astype(np.float32) for b, d in widths.items()}
    settings = {
        **SETTINGS,
        "net_sha256": spec.net_sha256,
        "weights_sha256": file_sha256(spec.folder / spec.weights.file),
        **changes,
    }
    write_features(path, settings, {"all": make_split(rng, 7, blobs=blobs)})
    return path


def _assert_same(found: Path, expected: Path) -> None:
    """Check that a file equals a fresh one, up to rounding in the gradients."""
    with FeaturesFile(found) as ours, FeaturesFile(expected) as theirs:
        assert ours.settings == theirs.settings
        assert list(ours.splits) == list(theirs.splits) == ["trainval", "test"]
        for name, split in theirs.splits.items():
            same = ours.split(name)
            assert same.image_id == split.image_id
            assert same.list_sha256 == split.list_sha256
            np.testing.assert_array_equal(same.labels, split.labels)
            for blob in BLOBS:
                a, b = same.blobs[blob][:], split.blobs[blob][:]
                if blob.startswith("forward"):
                    np.testing.assert_array_equal(a, b)
                else:
                    assert np.linalg.norm(b) > 0
                    assert np.linalg.norm(a - b) <= 2e-6 * np.linalg.norm(b), blob


@pytest.mark.parametrize(
    "kinds",
    [
        (("ReLU", ""),),
        (("ReLU", "relu_param { negative_slope: 0.1 }"), ("Dropout", "")),
        (("Sigmoid", ""),),
        (("TanH", ""),),
        (("ELU", "elu_param { alpha: 0.5 }"),),
        (("PReLU", "prelu_param { filler { value: 0.2 } }"),),
        (("Power", "power_param { scale: 0.5 shift: 1 }"), ("Sigmoid", "")),
        (),
    ],
)
def test_equals_a_fresh_extraction(tmp_path: Path, devkit: Path, kinds) -> None:
    spec = _own_net(tmp_path / "net", *kinds, transpose=len(kinds) == 1)
    source = _extract(spec, devkit, tmp_path / "source.h5", 3.0)
    taus = (1.0, 2.0, 10.0)
    found = temper(source, tmp_path / "t{tau}.h5", taus, spec=spec)
    assert found == [tmp_path / f"t{tau:g}.h5" for tau in taus]
    for path, tau in zip(found, taus, strict=True):
        fresh = _extract(spec, devkit, tmp_path / f"fresh{tau}.h5", tau)
        _assert_same(path, fresh)


def test_tinyalexnet_equals_a_fresh_extraction(tmp_path: Path, devkit: Path) -> None:
    source = _extract(load_net("tinyalexnet"), devkit, tmp_path / "source.h5", 5.0)
    for tau in (1.0, 2.0, 10.0):
        (path,) = temper(source, tmp_path / f"t{tau}.h5", [tau])
        fresh = tmp_path / f"fresh{tau}.h5"
        _assert_same(path, _extract(load_net("tinyalexnet"), devkit, fresh, tau))


@pytest.fixture
def net(tmp_path: Path) -> NetSpec:
    return _own_net(tmp_path / "net", ("ReLU", ""))


def test_same_work_same_bytes(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    a, b = temper(source, tmp_path / "{tau}.h5", [4, 0.1, 4], spec=net)
    assert (a.name, b.name) == ("4.h5", "0.1.h5")
    (again,) = temper(source, tmp_path / "again" / "4.h5", [4], spec=net)
    assert again.read_bytes() == a.read_bytes() != b.read_bytes()


def test_only_the_activations_count(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    at_2, at_8 = temper(source, tmp_path / "{tau}.h5", [2, 8], spec=net)
    (again,) = temper(at_8, tmp_path / "again.h5", [2], spec=net)
    assert again.read_bytes() == at_2.read_bytes()


def test_compression_is_kept(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5", compression="gzip")
    (path,) = temper(source, tmp_path / "t.h5", [4], spec=net)
    with h5py.File(path) as file:
        assert file.attrs["compression"] == b"gzip"
        assert file["all/backward/y6"].compression == "gzip"


def test_what_is_there_is_left_alone(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    (path,) = temper(source, tmp_path / "t.h5", [4], spec=net)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    assert temper(source, tmp_path / "t.h5", [4], spec=net) == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    with pytest.raises(StoreError, match=r"found another; remove it"):
        temper(source, tmp_path / "t.h5", [8], spec=net)
    with pytest.raises(StoreError, match=r"found another; remove it"):
        temper(source, source, [8], spec=net)
    (tmp_path / "holiday.jpg").write_bytes(b"a picture")
    with pytest.raises(StoreError, match=r"found another; remove it"):
        temper(source, tmp_path / "holiday.jpg", [8], spec=net)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"a picture"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_a_link_is_followed(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    (tmp_path / "t.h5").symlink_to(tmp_path / "disk" / "real.h5")
    temper(source, tmp_path / "t.h5", [4], spec=net)
    assert (tmp_path / "t.h5").is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["real.h5"]


def test_progress(tmp_path: Path, net: NetSpec) -> None:
    calls: list[tuple[str, int, int, str]] = []
    source = _made_up(net, tmp_path / "f.h5")
    temper(
        source, tmp_path / "t.h5", [4], spec=net, progress=lambda *c: calls.append(c)
    )
    assert calls[0][0] == "f.h5"  # the source is verified first
    calls = [call for call in calls if call[0] != "f.h5"]
    assert [done for _, done, *_ in calls] == sorted(done for _, done, *_ in calls)
    assert calls[-1] == ("t.h5", 4 * 7 * 143, 4 * 7 * 143, "B")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_what_broke_off(
    tmp_path: Path, net: NetSpec, error: type[BaseException]
) -> None:
    def stop(label: str, done: int, total: int, unit: str) -> None:
        if label == "t.h5" and done > total / 2:
            raise error(5, "Input/output error")

    source = _made_up(net, tmp_path / "f.h5")
    (tmp_path / "out").mkdir()
    expected = StoreError if error is OSError else error
    with pytest.raises(expected, match="Input/output error"):
        temper(source, tmp_path / "out" / "t.h5", [4], spec=net, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        with pytest.raises(StoreError, match=r"t.h5 cannot be made of .*: File too"):
            temper(source, tmp_path / "out" / "t.h5", [4], spec=net)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "out").iterdir()) == []


# --- what does not fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([("PReLU", "prelu_param { filler { value: -1 } }")], "slope of 0 or more"),
        ([("ReLU", ""), ("Sigmoid", "")], r"'relu7' \(ReLU\)"),
        ([("ReLU", ""), ("BatchNorm", "")], r"'batchnorm7' \(BatchNorm\), 'relu7'"),
        ([("ReLU", "relu_param { negative_slope: -0.1 }")], "negative_slope of 0 or"),
        ([("ELU", "elu_param { alpha: -1 }")], "alpha of 0 or more, found -1"),
    ],
)
def test_heads_whose_derivative_is_not_stored(tmp_path: Path, kinds, message) -> None:
    spec = _own_net(tmp_path / "net", *kinds)
    source = _made_up(spec, tmp_path / "f.h5")
    with pytest.raises(NetError, match=message) as caught:
        temper(source, tmp_path / "t.h5", [4], spec=spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights_sha256": "0" * 64}, NetError, "with another weights_sha256"),
        ({"net_sha256": "0" * 64}, NetError, "with another net_sha256"),
        ({"dtype": "float16"}, StoreError, "blobs of float32, found float16"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, net: NetSpec, change, error, message: str
) -> None:
    source = _made_up(net, tmp_path / "f.h5", **change)
    with pytest.raises(error, match=message):
        temper(source, tmp_path / "t.h5", [4], spec=net)
    assert not (tmp_path / "t.h5").exists()


def test_nets_are_found_by_name(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")  # in the name of tinyalexnet
    with pytest.raises(NetError, match="with another net_sha256"):
        temper(source, tmp_path / "t.h5", [4])
    source = _made_up(net, tmp_path / "own.h5", net="own")
    with pytest.raises(NetError, match=r"found 'own'; name its folder with --net"):
        temper(source, tmp_path / "t.h5", [4])


@pytest.mark.parametrize("tau", [0, -1, float("nan"), float("inf"), 1e-46, 1e39])
def test_temperatures_that_are_none(tmp_path: Path, net: NetSpec, tau: float) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    with pytest.raises(NetError, match="expected a positive temperature"):
        temper(source, tmp_path / "t.h5", [tau], spec=net)


def test_a_temperature_that_float32_cannot_divide_by(
    tmp_path: Path, net: NetSpec
) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    with pytest.raises(StoreError, match="expected finite gradients at temperature 2e"):
        temper(source, tmp_path / "t.h5", [2e-38], spec=net)
    assert not (tmp_path / "t.h5").exists()


def test_outputs_are_told_apart(tmp_path: Path, net: NetSpec) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    with pytest.raises(StoreError, match=r"expected {tau} in the name"):
        temper(source, tmp_path / "t.h5", [2, 4], spec=net)
    assert not (tmp_path / "t.h5").exists()


def _no_file(path: Path) -> None:
    path.unlink()


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_no_file, _torn])
def test_sources_that_are_not_whole(
    tmp_path: Path, net: NetSpec, damage: Callable[[Path], None]
) -> None:
    source = _made_up(net, tmp_path / "f.h5")
    damage(source)
    with pytest.raises(FishingError):
        temper(source, tmp_path / "t.h5", [2], spec=net)
