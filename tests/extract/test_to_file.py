from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import MarkerNet
from fishing.errors import BackendError, DataError, NetError, StoreError
from fishing.extract import extract
from fishing.extract import to_file as module
from fishing.images import ImageList, Preprocess, read_splits
from fishing.nets import BLOBS, load_net
from fishing.nets.blobs import paired_blobs
from fishing.store import ExtractionSettings, FeaturesFile
from forked_commands import ForkedCommands

BAD = {
    "empty.jpg": b"",
    "text.png": b"this is no image\n" * 20,
    "cut.jpg": None,  # filled from a whole one
}


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """Make a folder of 23 images, of one grey each, with bad files among them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        image = np.full((70, 80, 3), 10 * i, np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), image)
    whole = cv2.imencode(".jpg", np.zeros((70, 80, 3), np.uint8))[1].tobytes()
    for name, place in zip(BAD, (3, 4, 19), strict=True):
        content = BAD[name]
        file = folder / f"{place:02d}_{name}"
        file.write_bytes(whole[:-40] if content is None else content)
    return folder


@pytest.fixture
def net(monkeypatch) -> MarkerNet:
    marker = MarkerNet()
    _open(monkeypatch, repeat(marker))
    return marker


def _open(monkeypatch, nets) -> None:
    """Have extractions open these nets, one after the other."""

    def open_backend(*_, batch_size, **__) -> MarkerNet:
        net = next(nets)
        net.batch_size = batch_size or net.batch_size
        return net

    monkeypatch.setattr(module, "open_backend", open_backend)


def _grey(split, blob: int) -> list[int]:
    mean = np.mean([104, 117, 123])
    return [round((v + mean - blob) / 10) for v in split.blobs[BLOBS[blob]][:, 0]]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 20, 32])
def test_each_row_belongs_to_the_id_beside_it(
    marked: Path, tmp_path: Path, net: MarkerNet, batch_size: int
) -> None:
    path = tmp_path / "f.h5"
    lists = read_splits(marked, [])
    (outcome,) = extract(
        ExtractionSettings(load_net("tinyalexnet")), lists, path, batch_size=batch_size
    )
    assert (outcome.n_images, outcome.n_failed, outcome.was_there) == (23, 3, False)
    assert max(net.batches) <= batch_size
    assert sum(net.batches) == 20
    assert net.closed
    with FeaturesFile(path) as file:
        split = file.split("all")
        assert split.image_id == tuple(f"{i:02d}.png" for i in range(20))
        for blob in range(len(BLOBS)):
            assert _grey(split, blob) == list(range(20))
        assert dict(zip(split.failed_id, split.failed_reason, strict=True)) == {
            "03_empty.jpg": "empty file",
            "04_text.png": "not an image that OpenCV can decode",
            "19_cut.jpg": "truncated JPEG: no end-of-image marker",
        }
        assert split.failed_index.tolist() == [4, 6, 22]


@pytest.mark.parametrize("stop_after", range(9))
def test_interrupted_work_gives_the_same_bytes(
    marked: Path, tmp_path: Path, monkeypatch, stop_after: int
) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(marked, [])
    nets = [MarkerNet(), MarkerNet(stop_after), MarkerNet()]
    _open(monkeypatch, iter(nets))
    extract(ExtractionSettings(spec), lists, tmp_path / "whole.h5", batch_size=3)
    last = nets[-1]
    if stop_after < 8:
        with pytest.raises(KeyboardInterrupt):
            extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=3)
        assert not (tmp_path / "f.h5").exists()
    extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=3)
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    if stop_after < 8:
        done = sum(nets[1].batches[:stop_after])
        assert sum(last.batches) == 20 - done


def test_batches_end_at_places_of_the_list(
    marked: Path, tmp_path: Path, net: MarkerNet
) -> None:
    """A part of the list has the batches of the whole, whatever can be read before."""
    lists = read_splits(marked, [])
    settings = ExtractionSettings(load_net("tinyalexnet"))
    extract(settings, lists, tmp_path / "f.h5", batch_size=7)
    assert net.batches == [5, 7, 7, 1]  # images 4, 6 and 22 cannot be read


def test_only_some_blobs_are_stored(
    marked: Path, tmp_path: Path, net: MarkerNet
) -> None:
    path, lists = tmp_path / "f.h5", read_splits(marked, [])
    stored = ("backward/y7", "forward/x6")
    settings = ExtractionSettings(load_net("tinyalexnet"), stored=stored)
    extract(settings, lists, path)
    extract(ExtractionSettings(load_net("tinyalexnet")), lists, tmp_path / "all.h5")
    with FeaturesFile(path) as file, FeaturesFile(tmp_path / "all.h5") as whole:
        blobs = file.split("all").blobs
        assert set(blobs) == set(stored)
        for blob in stored:
            assert (blobs[blob][:] == whole.split("all").blobs[blob][:]).all()
    with pytest.raises(StoreError, match="made with another stored"):
        extract(ExtractionSettings(load_net("tinyalexnet")), lists, path)
    other = ExtractionSettings(load_net("tinyalexnet"), stored=("backward/y2",))
    with pytest.raises(NetError, match=r"backward/y2 among .* tinyalexnet has"):
        extract(other, lists, tmp_path / "new.h5")
    assert not (tmp_path / "new.h5.partial").exists()


def test_failures_are_reported_once(marked: Path, tmp_path: Path, net, caplog) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(marked, [])
    net.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=3)
    net.stop_after = 100
    extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=3)
    again = extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=3)
    assert again[0].was_there
    assert again[0].n_failed == 3
    for name in BAD:
        assert sum(name in record.message for record in caplog.records) == 1


def test_one_inner_product_gets_advice(
    marked: Path, tmp_path: Path, net, caplog
) -> None:
    caplog.set_level("INFO", "fishing")
    lists, settings = (
        read_splits(marked, []),
        ExtractionSettings(load_net("tinyalexnet")),
    )
    said = {}
    for name, n, more in (("three", 3, ()), ("one", 1, ()), ("x6", 1, ("forward/x6",))):
        net.widths = dict.fromkeys([*more, *paired_blobs(n)], 2)
        net.run = lambda data: {b: np.ones((len(data), 2), "f4") for b in net.widths}
        caplog.clear()
        extract(settings, lists, tmp_path / f"{name}.h5")
        said[name] = [m for m in caplog.messages if "one inner product" in m]
    assert said["three"] == []
    (line,) = said["x6"]
    assert "at temperature 2, dW8 does not beat x7; x6*x7 does" in line
    (line,) = said["one"]
    assert line.endswith("once net.toml names such an x6")


def test_strict_stops_and_keeps_what_is_done(marked: Path, tmp_path: Path, net) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(marked, [])
    with pytest.raises(DataError, match=r"03_empty.jpg: empty file; --strict"):
        extract(
            ExtractionSettings(spec),
            lists,
            tmp_path / "f.h5",
            batch_size=2,
            strict=True,
        )
    net.batches.clear()
    extract(ExtractionSettings(spec), lists, tmp_path / "f.h5", batch_size=2)
    assert sum(net.batches) == 16  # the first two batches were there


def test_nothing_readable(tmp_path: Path, net) -> None:
    (tmp_path / "a.jpg").touch()
    spec, lists = load_net("tinyalexnet"), read_splits(tmp_path, [])
    with pytest.raises(DataError, match="none of 1 can be read"):
        extract(ExtractionSettings(spec), lists, tmp_path / "f.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((70, 80, 3), np.uint8))
    assert extract(ExtractionSettings(spec), lists, tmp_path / "f.h5")[0].n_failed == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(marked: Path, tmp_path: Path, net, bad) -> None:
    run = net.run
    net.run = lambda data: {**run(data), "backward/y7": np.full((len(data), 2), bad)}
    with pytest.raises(BackendError, match="in backward/y7 of the batch that"):
        extract(
            ExtractionSettings(load_net("tinyalexnet")),
            read_splits(marked, []),
            tmp_path / "f.h5",
        )
    assert not (tmp_path / "f.h5").exists()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"temperature": 0.0}, {}, "positive temperature"),
        ({"temperature": float("nan")}, {}, "positive temperature"),
        ({"temperature": 1e-40}, {}, "positive temperature that float32 holds"),
        ({"temperature": 1e39}, {}, "positive temperature that float32 holds"),
        ({}, {"batch_size": 0}, "batch size of 1 or more"),
    ],
)
def test_bad_options(
    marked: Path, tmp_path: Path, settings, options, message: str
) -> None:
    lists = read_splits(marked, [])
    with pytest.raises(NetError, match=message):
        extract(
            ExtractionSettings(load_net("tinyalexnet"), **settings),
            lists,
            tmp_path / "f.h5",
            **options,
        )
    assert list(tmp_path.iterdir()) == [marked]


def test_another_temperature_is_refused(marked: Path, tmp_path: Path, net) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(marked, [])
    extract(ExtractionSettings(spec), lists, tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    with pytest.raises(StoreError, match=r"another temperature: expected 4.0, found 2"):
        extract(ExtractionSettings(spec, temperature=4.0), lists, tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_bytes() == before
    extract(
        ExtractionSettings(spec, temperature=4.0),
        lists,
        tmp_path / "f.h5",
        overwrite=True,
    )
    with FeaturesFile(tmp_path / "f.h5") as file:
        assert file.settings["temperature"] == 4.0


def test_images_are_not_read_far_ahead(tmp_path: Path, net, monkeypatch) -> None:
    """Memory must not grow with the number of images."""
    read = 0

    def count(self, path):
        nonlocal read
        read += 1
        return np.zeros((3, 64, 64), np.float32)

    monkeypatch.setattr(Preprocess, "__call__", count)
    ahead = []
    run = net.run
    net.run = lambda data: ahead.append(read - sum(net.batches)) or run(data)
    paths = tuple(tmp_path / f"{i}.png" for i in range(500))
    ids = tuple(p.name for p in paths)
    lists = [ImageList("all", ids, paths)]
    extract(
        ExtractionSettings(load_net("tinyalexnet")),
        lists,
        tmp_path / "f.h5",
        batch_size=5,
    )
    # The batch that runs, the next one, and those that are read ahead of it.
    assert max(ahead) <= 5 + 5 + 2 * 5 + 1


@pytest.mark.parametrize("backend", ["caffe", "onnx"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_real_command_is_killed_and_taken_up(
    forked: ForkedCommands,
    devkit: Path,
    tmp_path: Path,
    how: signal.Signals,
    backend: str,
) -> None:
    """Kill an extraction at work, twice, and compare the bytes."""
    extract = ["extract", "--net", "tinyalexnet", "--data", str(devkit)]
    extract += ["--batch-size", "2", "--backend", backend]
    extract += ["--split", "trainval", "--split", "test", "--output"]
    command = [sys.executable, "-m", "fishing", *extract]
    subprocess.run([forked.fishing, *extract, tmp_path / "whole.h5"], check=True)
    path = tmp_path / "f.h5"
    journal = tmp_path / "f.h5.partial" / "trainval.journal"
    for n_lines in (3, 7):
        process = subprocess.Popen([*command, path], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= n_lines):
            assert process.poll() is None
            assert time.monotonic() < deadline
        os.kill(process.pid, how)
        _, said = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        assert b"Traceback" not in said
        assert not path.exists()
    subprocess.run([forked.fishing, *extract, path], check=True)
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not journal.parent.exists()
