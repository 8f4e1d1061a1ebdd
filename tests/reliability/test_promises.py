"""What an extraction promises of any files, settings and machines, by real backends."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import MarkerNet
from fishing.backends import open_backend
from fishing.errors import StoreError
from fishing.extract import extract
from fishing.extract import to_file as module
from fishing.images import ImageList, read_splits
from fishing.nets import BLOBS, NetSpec, load_net
from fishing.store import ExtractionSettings, FeaturesFile
from fishing.store.settings import write_record

BACKENDS = ["caffe", "onnx", "openvino"]


# --- other settings are refused ---------------------------------------------------


@dataclasses.dataclass
class Work:
    """All that determines the bytes of a features file."""

    spec: NetSpec
    lists: list[ImageList]
    options: dict[str, Any]

    def run(self, path: Path) -> None:
        options = dict(self.options)
        chosen = {
            field.name: options.pop(field.name)
            for field in dataclasses.fields(ExtractionSettings)
            if field.name in options
        }
        settings = ExtractionSettings(self.spec, **chosen)
        extract(settings, self.lists, path, **options)


def _other_net(work: Work, folder: Path) -> None:
    work.spec = dataclasses.replace(work.spec, name="other")


def _other_prototxt(work: Work, folder: Path) -> None:
    prototxt = folder / "net" / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text() + "# a comment\n")


def _other_weights(work: Work, folder: Path) -> None:
    with (folder / "net" / "tinyalexnet.caffemodel").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    weights = dataclasses.replace(work.spec.weights, sha256=None)
    work.spec = dataclasses.replace(work.spec, weights=weights)


def _other_blobs(work: Work, folder: Path) -> None:
    blobs = {**work.spec.blobs, "x7": "fc6"}
    work.spec = dataclasses.replace(work.spec, blobs=blobs)


def _other_temperature(work: Work, folder: Path) -> None:
    work.options["temperature"] = np.nextafter(2.0, 3.0)


def _other_preprocess(work: Work, **settings: object) -> None:
    other = dataclasses.replace(work.spec.preprocess, **settings)
    work.spec = dataclasses.replace(work.spec, preprocess=other)


def _other_size(work: Work, folder: Path) -> None:
    _other_preprocess(work, height=63, width=63)


def _other_mean(work: Work, folder: Path) -> None:
    _other_preprocess(work, mean=(104.0, 117.0, 123.1))


def _other_scale(work: Work, folder: Path) -> None:
    _other_preprocess(work, scale=(1.0, 1.0, 1.001))


def _other_channels(work: Work, folder: Path) -> None:
    _other_preprocess(work, channels="RGB")


def _other_resize(work: Work, folder: Path) -> None:
    _other_preprocess(work, resize=(64, 64))


def _other_filter(work: Work, folder: Path) -> None:
    _other_preprocess(work, interpolation="bicubic")


def _other_antialias(work: Work, folder: Path) -> None:
    _other_preprocess(work, antialias=True)


def _other_rounding(work: Work, folder: Path) -> None:
    _other_preprocess(work, rounding="torchvision")


def _other_backend(work: Work, folder: Path) -> None:
    work.options["backend"] = "caffe"


def _other_gpu_math(work: Work, folder: Path) -> None:
    work.options["tf32"] = True


def _other_dtype(work: Work, folder: Path) -> None:
    work.options["dtype"] = "float16"


def _other_compression(work: Work, folder: Path) -> None:
    work.options["compression"] = "gzip"


def _other_format(work: Work, folder: Path) -> None:
    """Let the work that is found be that of another version."""
    record = folder / "f.h5.partial" / "settings.json"
    if record.exists():
        content = json.loads(record.read_text())
        content["settings"]["format_version"] = 1
        write_record(record, content["settings"], content["replaced"])
    else:
        with h5py.File(folder / "f.h5", "a") as file:
            file.attrs["format_version"] = 2


def _replace_list(work: Work, **changes: Any) -> None:
    work.lists = [dataclasses.replace(work.lists[0], **changes)]


def _another_image(work: Work, folder: Path) -> None:
    (images,) = work.lists
    _replace_list(work, image_id=(*images.image_id[:-1], "another"))


def _another_order(work: Work, folder: Path) -> None:
    (images,) = work.lists
    _replace_list(work, image_id=images.image_id[::-1], path=images.path[::-1])


def _another_class(work: Work, folder: Path) -> None:
    _replace_list(work, classes=("cold", "hot"))


def _another_label(work: Work, folder: Path) -> None:
    labels = work.lists[0].labels
    assert labels is not None
    labels = labels.copy()
    labels[7, 1] *= -1
    _replace_list(work, labels=labels)


LISTS = (_another_image, _another_order, _another_class, _another_label)
SETTINGS = {
    _other_net: "net",
    _other_prototxt: "net_sha256",
    _other_weights: "weights_sha256",
    _other_blobs: "blobs",
    _other_temperature: "temperature",
    _other_size: "preprocess",
    _other_mean: "preprocess",
    _other_scale: "preprocess",
    _other_channels: "preprocess",
    _other_resize: "preprocess",
    _other_filter: "preprocess",
    _other_antialias: "preprocess",
    _other_rounding: "preprocess",
    _other_backend: "backend",
    _other_gpu_math: "gpu_math",
    _other_dtype: "dtype",
    _other_compression: "compression",
    _other_format: "format_version",
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", [*SETTINGS, *LISTS])
def test_whatever_determines_the_output_may_not_change(
    devkit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Work, Path], None],
    finished: bool,
) -> None:
    shutil.copytree(load_net("tinyalexnet").folder, tmp_path / "net")
    spec = load_net(str(tmp_path / "net"))
    work = Work(spec, read_splits(devkit, ["test"]), {"batch_size": 4})
    net = MarkerNet(stop_after=10**9 if finished else 2)
    net.batch_size = 4
    monkeypatch.setattr(module, "open_backend", lambda *_, **__: net)
    path = tmp_path / "f.h5"
    try:
        work.run(path)
    except KeyboardInterrupt:
        assert not finished
    assert path.exists() == finished
    change(work, tmp_path)
    kept = {p: p.read_bytes() for p in tmp_path.glob("f.h5*/*.[jr]*")}
    said = "the images or labels of split 'test' differ"
    if change in SETTINGS:
        said = f"was made with another {SETTINGS[change]}: expected "
    if change is _other_format and finished:
        said = "found format 2, made by an earlier version of fishing"
    with pytest.raises(StoreError, match=said):
        work.run(path)
    assert kept == {p: p.read_bytes() for p in kept}
    assert path.exists() == finished


# --- every row belongs to the id beside it ----------------------------------------


def _alone(spec: NetSpec, backend: str, paths: list[Path]) -> list[dict[str, Any]]:
    """Run images one at a time, without any of the machinery between."""
    preprocess = spec.preprocess
    net = open_backend(backend, spec, temperature=2.0, batch_size=1, device="cpu")
    with closing(net):
        return [net.run(preprocess(path)[None]) for path in paths]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(2))
def test_marker_images_among_failures(tmp_path: Path, backend: str, seed: int) -> None:
    """Plant images of one colour each at random places of a list of bad files."""
    rng = np.random.default_rng(seed)
    n, n_markers = 60, 23
    names = [f"{i:02d}.png" for i in rng.permutation(n)]
    places = sorted(rng.choice(n, n_markers, replace=False))
    colours = rng.permutation(8**3)[:n_markers]
    for name in names:
        (tmp_path / name).write_bytes(b"nothing" * int(rng.integers(3)))
    for place, colour in zip(places, colours, strict=True):
        bgr = [36 * (int(colour) // 8**k % 8) for k in range(3)]
        cv2.imwrite(str(tmp_path / names[place]), np.full((70, 80, 3), bgr, np.uint8))
    (tmp_path / "mine.txt").write_text("".join(f"{name}\n" for name in names))
    spec, path = load_net("tinyalexnet"), tmp_path / "f.h5"
    lists = read_splits(tmp_path, ["mine"])
    extract(
        ExtractionSettings(spec, backend=backend),
        lists,
        path,
        batch_size=int(rng.integers(2, 9)),
    )
    markers = [names[place] for place in places]
    expected = _alone(spec, backend, [tmp_path / name for name in markers])
    with FeaturesFile(path) as file:
        split = file.split("mine")
        assert list(split.image_id) == markers
        assert split.failed_index.tolist() == sorted(set(range(n)) - set(places))
        assert list(split.failed_id) == [names[i] for i in split.failed_index]
        for blob in BLOBS:
            rows = split.blobs[blob][:]
            alone = np.concatenate([found[blob] for found in expected])
            distance = np.linalg.norm(rows[:, None] - alone[None], axis=2)
            assert (distance.argmin(axis=1) == np.arange(n_markers)).all(), blob
            assert distance.diagonal().max() < 1e-4 * np.linalg.norm(alone), blob


# --- files that are no good images ------------------------------------------------


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def _zoo(folder: Path) -> tuple[dict[str, str], dict[str, NDArray[np.uint8]]]:
    """Write every kind of file of docs/guide.md.

    Returns
    -------
    failed : dict of str to str
        What becomes of those that are no images.
    pictures : dict of str to ndarray of uint8, shape (height, width, 3)
        What the others have to be taken for, in BGR.
    """
    rng = np.random.default_rng(3)
    small = rng.integers(40, 216, (5, 6, 3), dtype=np.uint8)
    rgb = cv2.resize(small, (90, 80), interpolation=cv2.INTER_CUBIC)
    picture, bgr = Image.fromarray(rgb), np.ascontiguousarray(rgb[..., ::-1])
    grey = np.asarray(picture.convert("L"))
    deep = rgb.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    other = Image.new("RGB", (90, 80), "black")
    alpha = Image.fromarray(np.dstack([rgb, np.full((80, 90), 9, np.uint8)]))
    jpeg = _encoded(picture, "jpeg", quality=98)
    bad = {
        "cut.jpg": (jpeg[:-300], "truncated JPEG: no end-of-image marker"),
        "short.jpg": (jpeg[:-300] + b"\xff\xd9", "truncated JPEG: its data end"),
        "cut.png": (_encoded(picture, "png")[:-900], "truncated PNG"),
        "text.jpg": (b"no image at all\n" * 9, "not an image"),
        "empty.png": (b"", "empty file"),
        "huge.png": (_png_header(50_000, 50_000), "too large"),
        "needle.png": (
            _encoded(Image.new("RGB", (1, 40_000)), "png"),
            "too narrow: 1 x 40000 pixels",
        ),
    }
    good = {
        "plain.png": (_encoded(picture, "png"), bgr),
        "grey.png": (_encoded(Image.fromarray(grey), "png"), np.dstack([grey] * 3)),
        "cmyk.jpg": (_encoded(picture.convert("CMYK"), "jpeg", quality=98), bgr),
        "deep.png": (cv2.imencode(".png", deep[..., ::-1])[1].tobytes(), bgr),
        "alpha.png": (_encoded(alpha, "png"), bgr),
        "turned.jpg": (
            _encoded(picture, "jpeg", quality=98, exif=exif),
            np.rot90(bgr, -1),
        ),
        "pixel.png": (
            _encoded(picture.crop((0, 0, 1, 1)), "png"),
            np.tile(bgr[:1, :1], (64, 64, 1)),
        ),
        "animated.webp": (
            _encoded(
                picture, "webp", save_all=True, append_images=[other], lossless=True
            ),
            bgr,
        ),
        "pages.tif": (
            _encoded(picture, "tiff", save_all=True, append_images=[other]),
            bgr,
        ),
    }
    folder.mkdir()
    for name, (content, _) in (*bad.items(), *good.items()):
        (folder / name).write_bytes(content)
    failed = {name: reason for name, (_, reason) in bad.items()}
    return failed, {name: image for name, (_, image) in good.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_zoo(tmp_path: Path, backend: str) -> None:
    failed, pictures = _zoo(tmp_path / "zoo")
    command = [sys.executable, "-m", "fishing", "extract", "--net", "tinyalexnet"]
    command += ["--data", str(tmp_path / "zoo"), "--backend", backend]
    command += ["--batch-size", "4", "--output", str(tmp_path / "f.h5")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"{len(pictures)} of {len(failed) + len(pictures)} images" in done.stdout
    spec = load_net("tinyalexnet")
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    with FeaturesFile(tmp_path / "f.h5") as file:
        split = file.split("all")
        assert list(split.image_id) == sorted(pictures)
        assert list(split.failed_id) == sorted(failed)
        for name, reason in zip(split.failed_id, split.failed_reason, strict=True):
            assert reason.startswith(failed[name]), (name, reason)
            lines = [line for line in done.stderr.splitlines() if f"/{name}:" in line]
            assert len(lines) == 1, done.stderr
        # One line names the backend, one the picture of 16 bits.
        assert done.stderr.count("\n") == 2 + len(failed), done.stderr
        found = split.blobs["forward/x6"][:]
    paths = [folder / f"{name}.png" for name in split.image_id]
    alone = [blobs["forward/x6"][0] for blobs in _alone(spec, backend, paths)]
    for name, row, expected in zip(split.image_id, found, alone, strict=True):
        # JPEG and CMYK are not exact, but nearer than any mistake.
        error = np.linalg.norm(row - expected) / np.linalg.norm(expected)
        assert error < (0.1 if name.endswith(".jpg") else 1e-4), (name, error)


# --- workers, batches, backends and threads ---------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of 40 images of all sizes, every fifth of them bad."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(4)
    for i in range(40):
        height, width = rng.integers(20, 400, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), image)
        if i % 5 == 2:
            (folder / f"{i:02d}.png").write_bytes(b"")
    return folder


def _contents(path: Path) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    with FeaturesFile(path) as file:
        split = file.split("all")
        ids = (split.image_id, split.failed_id, split.failed_index.tolist())
        return ids, {blob: rows[:] for blob, rows in split.blobs.items()}


def test_readers_do_not_change_a_byte(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = set()
    for n_readers in (1, 2, 3, 8):
        monkeypatch.setattr(os, "cpu_count", lambda n=n_readers: n)
        path = tmp_path / f"{n_readers}.h5"
        extract(
            ExtractionSettings(load_net("tinyalexnet"), backend="onnx"),
            read_splits(mixed, []),
            path,
        )
        files.add(path.read_bytes())
    assert len(files) == 1


def test_batches_and_backends_change_no_row(mixed: Path, tmp_path: Path) -> None:
    found = {}
    for backend in BACKENDS:
        for batch_size in (1, 7, 32):
            path = tmp_path / f"{backend}{batch_size}.h5"
            lists = read_splits(mixed, [])
            settings = ExtractionSettings(load_net("tinyalexnet"), backend)
            extract(settings, lists, path, batch_size=batch_size)
            found[backend, batch_size] = _contents(path)
    ids, blobs = found["caffe", 1]
    assert list(ids[0]) == [f"{i:02d}.png" for i in range(40) if i % 5 != 2]
    for other_ids, other_blobs in found.values():
        assert other_ids == ids
        for blob, rows in blobs.items():
            error = np.linalg.norm(other_blobs[blob] - rows, axis=1)
            assert (error < 1e-5 * np.linalg.norm(rows, axis=1)).all()


_ON_ONE_CORE = (
    "import os, runpy; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
)
_ON_ONE_CORE += "runpy.run_module('fishing', run_name='__main__')"


@pytest.mark.parametrize("backend", BACKENDS)
def test_cores_and_threads_change_bytes_by_rounding_at_most(
    mixed: Path, tmp_path: Path, backend: str
) -> None:
    found = []
    for name, start in (("one", ["-c", _ON_ONE_CORE]), ("all", ["-m", "fishing"])):
        path = tmp_path / f"{name}.h5"
        command = [sys.executable, *start, "extract", "--net", "tinyalexnet"]
        command += ["--data", str(mixed), "--backend", backend, "--output", str(path)]
        threads = {"OPENBLAS_NUM_THREADS": "1" if name == "one" else "2"}
        subprocess.run(command, check=True, env={**os.environ, **threads})
        found.append(_contents(path))
    (ids, blobs), (other_ids, other_blobs) = found
    assert ids == other_ids
    for blob, rows in blobs.items():
        error = np.linalg.norm(other_blobs[blob] - rows, axis=1)
        assert (error <= 1e-6 * np.linalg.norm(rows, axis=1)).all()
