"""What lies in place of a file is named, with what to do about it."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import ROOT
from fishing.backends import open_backend
from fishing.errors import FishingError, NetError
from fishing.file_kinds import found_instead
from fishing.images import read_image
from fishing.nets import (
    fetch_weights,
    load_net,
    read_net,
    read_onnx,
    read_weights,
    weights_path,
)
from fishing.store import FeaturesFile

TINY = ROOT / "models" / "tinyalexnet"
LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 553432081\n"
)


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.pkl", "x")
    return packed.getvalue()


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return packed.getvalue()


def _hdf5() -> bytes:
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file["data"] = np.ones(3)
    return packed.getvalue()


KINDS = {
    "Git LFS pointer .* `git lfs pull`": LFS,
    "Git LFS pointer": b"version https://hawser.github.com/spec/v1\noid sha256:1\n",
    "git-annex pointer .* `git annex get`": b"/annex/objects/SHA256E-s9--4d7a",
    "git-annex pointer": b"../../.git/annex/objects/xX/SHA256E-s9--4d7a",
    "web page .* download it again": b"<!DOCTYPE html>\n<html><body>Log in</body>",
    "web page": b"\n  <html lang='en'>404</html>",
    "web page in": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "ZIP archive": _zip(),
    "a compressed file; unpack it": b"\x1f\x8b\x08\0rest",
    "a compressed file": b"BZh91AY",
    "compressed file": b"\x28\xb5\x2f\xfdrest",
    "a tar archive; unpack it": _tar(),
    "an HDF5 file": _hdf5(),
    "a pickle of Python's": pickle.dumps({"fc6": 1}),
    "safetensors": b'\x20\0\0\0\0\0\0\0{"fc6.weight":{}}',
    "an empty file": b"",
    "nothing but zeros": bytes(5000),
}


@pytest.mark.parametrize("words", KINDS)
def test_kinds_in_place_of_weights(tmp_path: Path, words: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(KINDS[words])
    with pytest.raises(NetError, match=f"expected a caffemodel, found .*{words}"):
        read_weights(path)


@pytest.mark.parametrize("words", KINDS)
def test_kinds_in_place_of_a_prototxt(tmp_path: Path, words: str) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_bytes(KINDS[words])
    if KINDS[words]:  # an empty text is a net without layers, and refused later
        with pytest.raises(NetError, match=f"expected a deploy net, found .*{words}"):
            read_net(path)


def _net(folder: Path, weights: bytes, recorded: bool = True) -> Path:
    folder.mkdir()
    text = (TINY / "net.toml").read_text()
    if not recorded:
        before, after = text.split("[weights]")
        text = f"{before}[weights]" + re.sub(r"(?m)^(size|sha256) = .*\n", "", after)
    (folder / "net.toml").write_text(text)
    (folder / "deploy.prototxt").write_bytes((TINY / "deploy.prototxt").read_bytes())
    (folder / "tinyalexnet.caffemodel").write_bytes(weights)
    return folder


@pytest.mark.parametrize("content", [LFS, b"<html>log in</html>"])
def test_a_pointer_is_named_wherever_weights_are_looked_for(
    tmp_path: Path, content: bytes
) -> None:
    words = "Git LFS pointer" if content == LFS else "web page"
    recorded = load_net(str(_net(tmp_path / "recorded", content)))
    for use in (weights_path, fetch_weights):
        with pytest.raises(NetError, match=words) as caught:
            use(recorded)
        assert "fishing fetch" not in str(caught.value)
    own = load_net(str(_net(tmp_path / "own", content, recorded=False)))
    for backend in ("onnx", "openvino", "caffe"):
        with pytest.raises(NetError, match=words):
            open_backend(backend, own, temperature=2, batch_size=1, device="cpu")


def test_a_pointer_in_place_of_a_download(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "home"))
    net = _net(tmp_path / "net", b"")
    (net / "tinyalexnet.caffemodel").unlink()
    (tmp_path / "pointer").write_bytes(LFS)
    with pytest.raises(NetError, match="Git LFS pointer"):
        fetch_weights(load_net(str(net)), str(tmp_path / "pointer"))


@pytest.mark.parametrize("words", ["Git LFS pointer", "a web page", "a compressed"])
def test_kinds_in_place_of_other_files(tmp_path: Path, words: str) -> None:
    content = next(KINDS[key] for key in KINDS if words.removeprefix("a ") in key)
    readers = {"f.h5": FeaturesFile, "a.jpg": read_image, "m.onnx": read_onnx}
    for name, read in readers.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FishingError, match=words):
            read(tmp_path / name)


def test_good_files_are_of_no_such_kind() -> None:
    for file in TINY.iterdir():
        assert found_instead(file) is None
    assert found_instead(TINY) is None
    assert found_instead(TINY / "nothing") is None


SOLVERS = {
    "a solver": 'net: "train_val.prototxt"\ntest_iter: 1000\nbase_lr: 0.01\n',
    "a solver, which": '# a comment\nbase_lr: 0.01\ntrain_net: "train.prototxt"',
}


@pytest.mark.parametrize("words", SOLVERS)
def test_solvers_are_told_apart(tmp_path: Path, words: str) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_text(SOLVERS[words])
    with pytest.raises(NetError, match=f"{words}.*deploy.prototxt") as caught:
        read_net(path)
    assert "{}" not in str(caught.value)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "caffe"])
def test_a_training_net_of_a_whole_folder(tmp_path: Path, backend: str) -> None:
    weights = (TINY / "tinyalexnet.caffemodel").read_bytes()
    net = _net(tmp_path / "net", weights)
    text = (net / "deploy.prototxt").read_text()
    text = re.sub(r'(?s)layer \{[^{}]*"Input".*?\n\}\n', "", text, count=1)
    text = re.sub(r"(?m)^input.*\n", "", text)
    (net / "deploy.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" }\n' + text
    )
    spec = load_net(str(net))
    with pytest.raises(NetError, match=r"'data' \(Data\).*use the net's deploy"):
        open_backend(backend, spec, temperature=2, batch_size=1, device="cpu")
