from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from campaigns.forked_index import Forks, index_here
from fishing.nets import BLOBS
from fishing.store import Split, index_process, write_features
from forked_caffe import ForkedCaffe
from forked_commands import ForkedCommands

ROOT = Path(__file__).parent.parent

# Commands in a shell's background ignore Ctrl-C, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files whose tests take long; workers that run files begin with them, and end together.
_LONG = ("test_docs.py", "test_fuzz.py", "test_each_command.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Find the folder of test data beside the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.fail(f"this test needs the shared test data in {folder}")
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Take back how the command line prints messages, if a test ran it in here."""
    yield
    logger = logging.getLogger("fishing")
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    """Give a `fishing` and a `python` that are spared their imports."""
    with ForkedCommands(tmp_path_factory.mktemp("forked"), os.environ) as commands:
        yield commands


# Tests of the process that indexes features files, and of files that may crash it.
_ABOUT_THE_PROCESS = ("test_index_process.py", "test_fuzz.py")
_CRASHING = ("test_hostile_files.py", "test_hostile_readers.py")


@pytest.fixture(scope="session")
def _forks() -> Forks:
    return Forks(index_process.CPU_SECONDS)


@pytest.fixture(autouse=True)
def _index_in_process(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spare tests the start of a process for each features file that they open."""
    if request.path.name in _CRASHING:
        forks = request.getfixturevalue("_forks")
        monkeypatch.setattr(index_process, "start", forks.start)
    elif request.path.name not in _ABOUT_THE_PROCESS:
        monkeypatch.setattr(index_process, "run", index_here)


# Tests of the process that runs Caffe: how it is started, and what becomes of it.
_ABOUT_CAFFE = ("test_caffe_aborts.py", "test_processes.py", "test_workers.py")


@pytest.fixture(autouse=True)
def _fork_caffe(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spare tests the time in which a process imports Caffe."""
    if request.path.name not in _ABOUT_CAFFE:
        monkeypatch.setattr("fishing.backends.caffe.backend.start_python", ForkedCaffe)


class MarkerNet:
    """A net that hands out the grey of each image, and may break off."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.widths = dict.fromkeys(BLOBS, 2)
        self.batch_size, self.n_at_once = 32, 1
        self.batches: list[int] = []
        self.stop_after = stop_after
        self.closed = False

    def run(self, data: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(data))
        if len(self.batches) > self.stop_after:
            raise KeyboardInterrupt
        grey = data.reshape(len(data), -1).mean(axis=1, keepdims=True)
        return {b: np.repeat(grey + k, 2, axis=1) for k, b in enumerate(BLOBS)}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a devkit of 26 + 14 small images in two classes."""
    folder = tmp_path_factory.mktemp("VOCdevkit") / "VOC2007"
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    rng = np.random.default_rng(1)
    for split, n in (("trainval", 26), ("test", 14)):
        ids = [f"{split}_{i:03d}" for i in range(n)]
        warm = np.arange(n) % 2 == 0
        for image_id, is_warm in zip(ids, warm, strict=True):
            image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            image[..., 2 if is_warm else 0] //= 4
            cv2.imwrite(str(folder / "JPEGImages" / f"{image_id}.jpg"), image)
        (main / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        for name, positive in (("cold", ~warm), ("warm", warm)):
            lines = zip(ids, np.where(positive, 1, -1), strict=True)
            text = "".join(f"{i} {label:2d}\n" for i, label in lines)
            (main / f"{name}_{split}.txt").write_text(text)
    return folder


def make_split(
    rng: np.random.Generator,
    n: int,
    classes: tuple[str, ...] = ("cat", "dog"),
    failed: tuple[int, ...] = (),
    width: int = 6,
    **changes: object,
) -> Split:
    """Make a split with random blobs, `n` rows and rows missing at `failed`."""
    places = np.delete(np.arange(n + len(failed)), failed)
    labels = rng.choice(np.array([-1, 1], np.int8), (n + len(failed), len(classes)))
    fields = {
        "image_id": tuple(f"im{i:04d}" for i in places),
        "labels": labels[places],
        "classes": classes,
        "blobs": {b: rng.normal(size=(n, width)).astype(np.float32) for b in BLOBS},
        "failed_id": tuple(f"im{i:04d}" for i in failed),
        "failed_reason": ("empty file",) * len(failed),
        "failed_index": np.array(failed, np.int64),
        "failed_labels": labels[list(failed)],
        "devkit": "VOC2007",
        "list_sha256": "0" * 64,
    }
    return Split(**{**fields, **changes})  # type: ignore[arg-type]


def explicit_features(split: Split, feature: str) -> np.ndarray:
    """Write out the feature of each image in full, of unit norm, in float64; (n, D)."""

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    blobs = {name: unit(rows) for name, rows in split.blobs.items()}
    parts = []
    for part in feature.split("+"):
        if part.startswith("dW"):  # eq. 9
            k = int(part[2:])
            x, g = blobs[f"forward/x{k - 1}"], blobs[f"backward/y{k}"]
            parts.append(np.einsum("ni,nj->nij", x, g).reshape(len(x), -1))
        else:
            product = np.ones((len(split), 1))
            for factor in part.split("*"):
                rows = blobs[f"forward/{factor}"]
                product = np.einsum("ni,nj->nij", product, rows).reshape(len(rows), -1)
            parts.append(product)
    return unit(np.concatenate(parts, axis=1))


def skip_without_bfloat16() -> None:
    import openvino  # here, because few tests need it

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        pytest.skip("this processor has no instructions for bfloat16")


SETTINGS = {
    "net": "tinyalexnet",
    "net_sha256": "1" * 64,
    "weights_sha256": "2" * 64,
    "backend": "caffe",
    "temperature": 2.0,
    "label": "uniform",
    "preprocess": {"size": 64, "mean": [104.0, 117.0, 123.0]},
}


def write_file(path: Path, **splits: Split) -> Path:
    write_features(path, SETTINGS, splits)
    return path
