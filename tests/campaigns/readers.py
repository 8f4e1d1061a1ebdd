"""The readers that a campaign feeds, each with valid files to start from."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image

from fishing.backends import check_products
from fishing.backends.onnx import OnnxBackend
from fishing.backends.openvino import OpenvinoBackend
from fishing.errors import NetError, StoreError
from fishing.evaluate import evaluate, format_table, read_results, write_results
from fishing.extract import compress
from fishing.images import ImageList, Preprocess, is_name, read_splits
from fishing.kernels import Kernels
from fishing.nets import (
    BLOBS,
    blob_shapes,
    check_layers,
    load_net,
    read_net,
    read_weights,
)
from fishing.nets.layers import check_settings
from fishing.processes import use_threads
from fishing.report import sections as contents
from fishing.report import write_report
from fishing.search import build_index, indexing
from fishing.search.index import Index
from fishing.search.ranking import rank_images
from fishing.store import (
    FeaturesFile,
    FeaturesWriter,
    Split,
    index_process,
    storage_settings,
    write_features,
)

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "nets"))
from onnx_models import CHANNELS, CLASSES, Model, spec_of

from forked_index import index_here, use_forks
from hdf5_checksums import Block, find_blocks

MEMORY_DISK = Path("/dev/shm")


class Reader:
    """Something that reads files.

    Attributes
    ----------
    name : str
    seeds : list of bytes
        Valid inputs.
    tokens : list of bytes
        What to sprinkle over them.
    is_text : bool
    """

    name = ""
    is_text = False
    tokens: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        self.seeds = self.make_seeds()

    def make_seeds(self) -> list[bytes]:
        """Make valid inputs."""
        raise NotImplementedError

    def guarded(self, seed: bytes) -> list[Block]:
        """Name the parts of a valid input that have checksums."""
        return []

    def run(self, folder: Path, data: bytes) -> None:
        """Read one input; `folder` is for files."""
        raise NotImplementedError

    @contextmanager
    def opened(self) -> Iterator[Callable[[bytes], None]]:
        """Give what reads one input after another."""
        parent = MEMORY_DISK if MEMORY_DISK.is_dir() else None
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            self.prepare(Path(folder))
            yield lambda data: self.run(Path(folder), data)

    def prepare(self, folder: Path) -> None:
        """Write what stays the same for all inputs."""


_NET = """name: "n"
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 pad: 1 stride: 2 group: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }
layer { name: "n" type: "LRN" bottom: "c" top: "n" lrn_param { local_size: 3 } }
layer { name: "p" type: "Pooling" bottom: "n" top: "p"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
"""
_HEAD = """
layer { name: "fc6" type: "InnerProduct" bottom: "p" top: "fc6"
  inner_product_param { num_output: 4 } }
layer { name: "r6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
  inner_product_param { num_output: 3 } }
layer { name: "r7" type: "ReLU" bottom: "fc7" top: "fc7" include { phase: TEST } }
layer { name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8"
  inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""
_OLD_NET = """layers { name: "c" type: CONVOLUTION bottom: "data" top: 'c' # old
  blobs_lr: 1 param: "w" convolution_param < num_output: 2, kernel_size: [3] > }
input: "data" input_shape { dim: [1, 3, 8, 8] } state { phase: TEST stage: "a" }
unknown { a: [1, 2]; b { c: "\\x41\\101\\n" 'joined' } } layers { type: 18 top: "r" }
"""
_SHAPES = {
    "c": [(2, 3, 3, 3), (2,)],
    "fc6": [(4, 18), (4,)],
    "fc7": [(3, 4), (3,)],
    "fc8": [(2, 3), (2,)],
}
_NET_OF_2013 = """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 group: 1 stride: 2
                 biasterm: false } bottom: "pad" top: "c" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 }
         bottom: "c" top: "p" }
layers { layer { name: "n" type: "lrn" local_size: 3 alpha: 1 beta: 0.5 }
         bottom: "p" top: "n" }
layers { layer { name: "both" type: "concat" concat_dim: 1 }
         bottom: "p" bottom: "n" top: "both" }
layers { layer { name: "fc" type: "innerproduct" num_output: 5 }
         bottom: "both" top: "fc" }
"""
_MORE = """
layer { name: "d" type: "Data" top: "data" top: "label" transform_param {
        crop_size: 8 } }
layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" top: "c"
        slice_param { axis: 1 slice_point: [1, 2] } }
layer { name: "dw" type: "ConvolutionDepthwise" bottom: "data" top: "dw"
        convolution_param { num_output: 3 kernel_size: 3 dilation: 2 pad: 1 } }
layer { name: "p" type: "Pooling" bottom: "dw" top: "p"
        pooling_param { kernel_h: 2 kernel_w: 3 stride: 2 ceil_mode: false } }
layer { name: "crop" type: "Crop" bottom: "data" bottom: "p" top: "crop"
        crop_param { axis: 2 offset: 1 offset: 0 } }
layer { name: "g" type: "Pooling" bottom: "crop" top: "g" pooling_param {
        global_pooling: true pool: AVE } }
layer { name: "f" type: "Flatten" bottom: "g" top: "f" }
layer { name: "sc" type: "Scale" bottom: "crop" bottom: "f" top: "sc"
        scale_param { axis: 0 } }
layer { name: "ax" type: "Axpy" bottom: "g" bottom: "sc" bottom: "crop" top: "ax" }
layer { name: "sh" type: "ShuffleChannel" bottom: "ax" top: "sh"
        shuffle_channel_param { group: 3 } }
layer { name: "pw" type: "Power" bottom: "sh" top: "pw" power_param { shift: 1 } }
layer { name: "r" type: "Reshape" bottom: "pw" top: "r" reshape_param {
        shape { dim: 0 dim: -1 } axis: 0 num_axes: -1 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "r" bottom: "label" }
"""


def small_model(form: str = "current", *, packed: bool = True) -> bytes:
    """Write a caffemodel for `_NET` and `_HEAD`, with protobuf's bytes by hand.

    `form` is ``current``, ``V1`` or ``V0``, the format of 2013.
    """
    rng = np.random.default_rng(3)

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def blob(shape: tuple[int, ...]) -> bytes:
        values = rng.normal(0, 0.3, shape).astype("<f4")
        data = (
            field(5, values.tobytes())
            if packed
            else b"".join(b"\x2d" + v.tobytes() for v in values.ravel())
        )
        if form == "current":
            return field(7, field(1, b"".join(map(varint, shape)))) + data
        sides = (1,) * (4 - len(shape)) + shape
        return b"".join(bytes([i << 3, n]) for i, n in enumerate(sides, 1)) + data

    net = field(1, b"n")
    for name, shapes in _SHAPES.items():
        blobs = [blob(shape) for shape in shapes]
        if form == "V0":
            parts = [field(1, name.encode()), field(2, b"innerproduct")]
            inner = b"".join([*parts, *(field(50, b) for b in blobs)])
            net += field(2, field(1, inner))
        elif form == "V1":
            parts = [field(4, name.encode()), bytes([5 << 3, 14])]
            net += field(2, b"".join([*parts, *(field(6, b) for b in blobs)]))
        else:
            parts = [field(1, name.encode()), field(2, b"InnerProduct")]
            net += field(100, b"".join([*parts, *(field(7, b) for b in blobs)]))
    return net


class Prototxt(Reader):
    """deploy.prototxt, as the ONNX backend and `fishing temper` read it."""

    name = "prototxt"
    is_text = True
    tokens = (
        b"{", b"}", b"<", b">", b"[", b"]", b":", b",", b'"', b"'", b"\\", b"#", b"\n",
        b"layer {", b"layers {", b"input_dim: ", b"input_param { shape { dim: ",
        b"include { phase: TRAIN stage: ", b"blobs { shape { dim: 4 } data: [",
        b"state { level: ", b"exclude {", b"true", b"type: ", b"0x", b"-", b"\\x",
        b"\x08", b"\x00", b"convolution_param {", b"param { name: ", b"blobs {",
        b"layers { layer {", b"0", b"-1", b"4294967295", b"bottom: ", b"top: ",
    )  # fmt: skip

    def make_seeds(self) -> list[bytes]:
        texts = [t.encode() for t in (_NET, _HEAD, _OLD_NET, _NET_OF_2013, _MORE)]
        return [*texts, small_model()[:150], small_model("V0")[:150]]

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "n.prototxt").write_bytes(data)
        layers = read_net(folder / "n.prototxt").layer
        for layer in layers:
            with suppress(NetError):
                check_settings(layer)
        for shape in blob_shapes(layers, (3, 8, 8)).values():
            assert all(type(length) is int for length in shape)
        with suppress(NetError):
            check_layers(layers, (3, 8, 8))


class Caffemodel(Reader):
    """A caffemodel, as all of the project reads it."""

    name = "caffemodel"

    def make_seeds(self) -> list[bytes]:
        return [
            small_model(form, packed=packed)
            for form in ("current", "V1", "V0")
            for packed in (True, False)
        ]

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "n.caffemodel").write_bytes(data)
        weights = read_weights(folder / "n.caffemodel")
        assert all(a.dtype == np.float32 for blobs in weights.values() for a in blobs)


class Graph(Reader):
    """deploy.prototxt as a graph, and ONNX Runtime, where a graph comes out."""

    name = "graph"
    backend: ClassVar[Any] = OnnxBackend
    is_text = True
    tokens = Prototxt.tokens

    def make_seeds(self) -> list[bytes]:
        return [(_NET + _HEAD).encode()]

    def prepare(self, folder: Path) -> None:
        (folder / "mine.caffemodel").write_bytes(small_model())
        text = Toml.TEXT.replace("size = 32", "size = 8").replace("pool5", "p")
        (folder / "net.toml").write_text(text)

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "deploy.prototxt").write_bytes(data)
        net = self.backend(
            load_net(str(folder)), temperature=2.0, batch_size=1, device="cpu"
        )
        pixels = np.ones((1, 3, 8, 8), np.float32)
        for name, values in net.run(pixels).items():
            assert values.shape == (1, net.widths[name])


class OpenvinoGraph(Graph):
    """deploy.prototxt as a graph, and OpenVINO, where a graph comes out."""

    name = "openvino"
    backend = OpenvinoBackend


class OnnxModel(Reader):
    """A classifier in ONNX, as `fishing import` and the backend read it."""

    name = "onnx"

    def make_seeds(self) -> list[bytes]:
        plain, deep = Model(), Model()
        y = plain.gemm(plain.trunk(), "y8", CHANNELS, CLASSES)
        x = deep.node("HardSwish", [deep.gemm(deep.trunk(), "y7", CHANNELS, 7)], "x7")
        weights = deep.node("Transpose", [deep.random("W8", 4, 7)], "W8/T")
        logits = deep.node("Add", [deep.node("MatMul", [x, weights], "p"), "b"], "y8")
        deep.random("b", 4)
        prob = deep.node("Softmax", [logits], "prob", axis=1)
        return [m.proto(o).SerializeToString() for m, o in ((plain, y), (deep, prob))]

    def run(self, folder: Path, data: bytes) -> None:
        path = folder / "model.onnx"
        path.write_bytes(data)
        spec = spec_of(path)
        pixels = np.ones((2, *spec.preprocess.shape), np.float32)
        check_products(spec, pixels)
        net = OnnxBackend(spec, temperature=2.0, batch_size=2, device="cpu")
        for name, values in net.run(pixels).items():
            assert values.shape == (2, net.widths[name])


class Toml(Reader):
    """net.toml, with the folder that it describes."""

    name = "toml"
    is_text = True
    tokens = (
        b"[", b"]", b"[[", b"]]", b"=", b"'''", b'"""', b"\\u0000", b".",
        b"../", b"/etc/passwd", b"{", b"}", b"a.b.c = 1\n", b"inf", b"nan", b"true",
        b"1979-05-27T07:32:00Z", b"0xff", b"1_000", b"\\n", b"#", b"\n", b"[weights]\n",
        b"x = [[[[[[[[", b"sources = ['file:///etc/passwd']\n", b"sha256 = ",
    )  # fmt: skip
    TEXT = """name = "mine"
title = "A net of mine"
[input]
size = 32
mean = [1, 2.5, 3]
[blobs]
x5 = "pool5"
x6 = "fc6"
x7 = "fc7"
y8 = "fc8"
x8 = "prob"
[weights]
file = "mine.caffemodel"
"""
    _MORE = f"""size = 12
sha256 = "{"0" * 64}"
sources = ["https://example.org/mine.caffemodel"]
licence = "none"
"""

    def make_seeds(self) -> list[bytes]:
        return [self.TEXT.encode(), (self.TEXT + self._MORE).encode()]

    def prepare(self, folder: Path) -> None:
        (folder / "deploy.prototxt").write_text("")

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "net.toml").write_bytes(data)
        spec = load_net(str(folder))
        assert (folder / spec.weights.file).parent == folder
        assert len(f"{spec.name}\0".encode()) < 1000
        assert np.isfinite(np.array(spec.preprocess.mean, np.float32)).all()


class Lists(Reader):
    """The list of a split and a label file of a devkit, and a list of a folder."""

    name = "lists"
    tokens = (
        b"../", b"/etc/passwd", b" 1", b" -1", b" 0", b"\n", b"\r\n", b"\r", b"\x1b",
        b"\xef\xbb\xbf", b"\xff", b"\xe2\x80\xa8", b" ", b"\t", b"%%", b"a/../b", b".",
        b"\xc2\x85", b"\xed\xa0\x80", b"000001 1\n", b" cat dog", b"x" * 300,
    )  # fmt: skip

    def make_seeds(self) -> list[bytes]:
        return [
            b"a\nb\nc\n%%a 1\nb -1\nc 0\n%%a cat\nb.jpg dog cat\nsub/c\n",
            b"000001\r\n000002\r\n%%000001 -1\r\n000002  1\r\n%%x\ny\nz\n",
        ]

    def prepare(self, folder: Path) -> None:
        (folder / "voc" / "ImageSets" / "Main").mkdir(parents=True)
        (folder / "list").mkdir()

    def run(self, folder: Path, data: bytes) -> None:
        split, labels, names, *_ = (*data.split(b"%%"), b"", b"")
        main = folder / "voc" / "ImageSets" / "Main"
        (main / "t.txt").write_bytes(split)
        (main / "cat_t.txt").write_bytes(labels)
        (folder / "list" / "t.txt").write_bytes(names)
        refused = None
        for data_folder in ("voc", "list"):
            try:
                (images,) = read_splits(folder / data_folder, ["t"])
            except Exception as error:
                refused = error
                continue
            inside = (folder / data_folder).resolve()
            for path in images.path:
                assert path.is_absolute()
                assert ".." not in path.parts
                assert inside in path.parents
            if images.labels is not None:
                assert images.labels.shape == (len(images), len(images.classes))
                assert set(np.unique(images.labels)) <= {-1, 0, 1}
            for text in (*images.image_id, *images.classes):
                assert is_name(text)
        if refused:
            raise refused


class Features(Reader):
    """features.h5, all of it, up to a kernel."""

    name = "features"

    def prepare(self, folder: Path) -> None:
        use_forks()

    def make_seeds(self) -> list[bytes]:
        rng = np.random.default_rng(1)
        seeds = []
        for n, dtype, compression in (
            (5, "float32", "none"),
            (5, "float16", "gzip"),
            (300, "float32", "gzip"),  # of several chunks
        ):
            splits = {"train": _split(rng, n), "test": _split(rng, 3)}
            settings = {
                "net": "n",
                "temperature": 2.0,
                "preprocess": {"size": 8},
                **storage_settings(dtype, compression),
            }
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "f.h5"
                write_features(path, settings, splits)
                seeds.append(path.read_bytes())
                if (n, dtype) == (5, "float32"):
                    seeds += map(_compressed, (path, path), ("int8", "int4"))
        return seeds

    def guarded(self, seed: bytes) -> list[Block]:
        return find_blocks(seed)

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "f.h5").write_bytes(data)
        with FeaturesFile(folder / "f.h5") as file:
            for split in file.splits.values():
                assert len(set(split.classes)) == len(split.classes)
            train, *_, test = file.splits.values()
            for feature in ("x5", "dW7", "x7+y8", "dW8", "x8", "dW6"):
                K, _ = Kernels(train, test)(feature)
                assert np.isfinite(K).all()


def _compressed(path: Path, dtype: str) -> bytes:
    output = path.with_name(f"{dtype}.h5")
    compress(path, output, dimensions=2, dtype=dtype, splits=["train"])
    return output.read_bytes()


def _split(rng: np.random.Generator, n: int) -> Split:
    labels = rng.choice(np.array([-1, 0, 1], np.int8), (n + 1, 2))
    return Split(
        image_id=tuple(f"im{i}" for i in range(n)),
        labels=labels[:-1],
        classes=("cat", "dog"),
        blobs={b: rng.normal(size=(n, 2)).astype(np.float32) for b in BLOBS},
        failed_id=("bad",),
        failed_reason=("empty file",),
        failed_index=np.array([1], np.int64),
        failed_labels=labels[-1:],
        devkit="VOC2007",
        list_sha256="0" * 64,
    )


class IndexFiles(Reader):
    """An index of features, up to a search; each input gets the right checksum."""

    name = "index"

    def make_seeds(self) -> list[bytes]:
        settings = {"net": "n", "temperature": 2.0, "preprocess": {"size": 8}}
        seeds = []
        use_threads(1)  # OpenMP's threads do not outlive a fork
        with tempfile.TemporaryDirectory() as folder:
            path, index = Path(folder) / "f.h5", Path(folder) / "i.faiss"
            write_features(path, settings, {"t": _split(np.random.default_rng(5), 300)})
            self._features = path.read_bytes()
            for most_sq8 in (indexing._MOST_SQ8, 0):  # SQ8, and then PQ
                with patch.object(indexing, "_MOST_SQ8", most_sq8):
                    build_index(path, index, feature="dW7")
                seeds.append(index.read_bytes()[:-32])
                index.unlink()
        use_threads(None)
        return seeds

    def prepare(self, folder: Path) -> None:
        use_threads(1)
        (folder / "f.h5").write_bytes(self._features)
        self._file = FeaturesFile(folder / "f.h5")

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "i.faiss").write_bytes(data + hashlib.sha256(data).digest())
        index = Index(folder / "i.faiss", self._file)
        split = self._file.split("t")
        query = {blob: rows[7:8] for blob, rows in split.blobs.items()}
        blocks = index.candidates(query, 10, {"t": split})
        found = rank_images(query, [index.feature], 10, blocks, ())
        assert all(np.isfinite(n.similarity) for n in found["dW7"])


class Interrupted(Reader):
    """The folder of an interrupted extraction, up to the features file it becomes."""

    name = "interrupted"
    tokens = (
        b'"done": 3', b'"rows": 2', b'"failed": {"1": "x"}', b"\n", b"{}", b"[" * 9999,
        b'"replaced": [1, 2, 3]', b"%%%%", b"null", b"-1", b"true", b'"sha256": ""',
    )  # fmt: skip
    _SETTINGS: ClassVar = {"net": "n", "temperature": 2.0, "preprocess": {"size": 8}}
    _FILES = "settings.json", "t.journal", "t.rows"
    _BATCHES = ((3, (0, 2)), (4, (3,)), (7, (4, 5, 6)))  # images done, those with rows

    def make_seeds(self) -> list[bytes]:
        seeds = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "f.h5"
            for n in range(1, 4):
                with self._writer(path) as writer:
                    self._go_on(writer, n)
                parts = [path.with_name("f.h5.partial") / name for name in self._FILES]
                seeds.append(b"%%%%".join(part.read_bytes() for part in parts))
            with self._writer(path) as writer:
                self._go_on(writer, 3)
                writer.publish()
            self._whole = path.read_bytes()
        return seeds

    def _writer(self, path: Path) -> FeaturesWriter:
        return FeaturesWriter(path, self._SETTINGS)

    def _go_on(self, writer: FeaturesWriter, n_batches: int) -> None:
        """Append what is missing of the first batches."""
        ids = tuple(f"im{i}" for i in range(7))
        images = ImageList(
            "t",
            ids,
            tuple(map(Path, ids)),
        )
        start = writer.open_split(images, dict.fromkeys(BLOBS, 2))
        before = 0
        for done, kept in self._BATCHES[:n_batches]:
            if done > start:
                assert before >= start
                rows = np.float32([[i, i + 0.5] for i in kept])
                failed = sorted({*range(before, done)} - {*kept})
                reasons = dict.fromkeys(failed, "empty file")
                writer.append("t", done, dict.fromkeys(BLOBS, rows), reasons)
            before = done

    def run(self, folder: Path, data: bytes) -> None:
        path, work = folder / "f.h5", folder / "f.h5.partial"
        shutil.rmtree(work, ignore_errors=True)
        path.unlink(missing_ok=True)
        work.mkdir()
        for name, content in zip(self._FILES, data.split(b"%%%%"), strict=False):
            (work / name).write_bytes(content)
        for is_last in (False, True):
            try:
                with self._writer(path) as writer:
                    self._go_on(writer, 3)
                    writer.publish()
                break
            except StoreError as error:
                if is_last or "goes on from there" not in str(error):
                    raise
        assert path.read_bytes() == self._whole


class Results(Reader):
    """A folder of results, up to the page of a report without its plots."""

    name = "results"
    is_text = True
    tokens = (
        b"%%", b"[" * 9999, b"{}", b"[]", b"null", b"NaN", b"true", b'"AP": {}',
        b"im0 1\n", b'"../../x"', b"\\ud800", b"\\u0000", b'"x7+x7"', b"im0 nan\n",
        b"\n", b"-1", b"2", b"1e999", b'"dW7"', b'"mAP": 0.5',
    )  # fmt: skip

    def make_seeds(self) -> list[bytes]:
        rng = np.random.default_rng(4)
        splits = {"train": _split(rng, 9), "test": _split(rng, 7)}
        settings = {
            **dict.fromkeys(("net", "backend", "label"), "n"),
            **dict.fromkeys(("net_sha256", "weights_sha256"), "0" * 64),
            **{"temperature": 2.0, "preprocess": {"size": 8}},
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "f.h5"
            write_features(path, settings, splits)
            self._features = path.read_bytes()
            evaluation = evaluate(path, train="train", features=("x7", "dW7", "x5+x6"))
            write_results(evaluation, Path(folder) / "r")
            self._others = {
                f"{file.parent.name}/{file.name}": file.read_bytes()
                for file in (Path(folder) / "r").glob("*/*.txt")
            }
            record = (Path(folder) / "r" / "results.json").read_bytes()
        self._scores = next(iter(self._others))
        return [record + b"%%" + self._others[self._scores]]

    def prepare(self, folder: Path) -> None:
        index_process.run = index_here
        contents.PrecisionRecallPlots = lambda: lambda _: "<svg></svg>"
        for name in vars(contents):
            if name.endswith("_plot") or name == "for_page":  # slow, and read nothing
                setattr(contents, name, lambda *_: "<svg></svg>")
        (folder / "f.h5").write_bytes(self._features)
        for name, content in self._others.items():
            for part in (folder / "r", folder / "r" / "t4"):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).write_bytes(content)

    def run(self, folder: Path, data: bytes) -> None:
        record, scores, *_ = (*data.split(b"%%"), b"")
        other = record.replace(b'"temperature": 2.0', b'"temperature": 4.0')
        (folder / "r" / "results.json").write_bytes(record)
        (folder / "r" / "t4" / "results.json").write_bytes(other)
        (folder / "r" / self._scores).write_bytes(scores)
        found = read_results(folder / "r").record
        format_table(found)
        write_report(folder / "r", folder / "page", features=folder / "f.h5")


class Images(Reader):
    """Image files of every format that may be met."""

    name = "images"

    def make_seeds(self) -> list[bytes]:
        rng = np.random.default_rng(2)
        picture = rng.integers(0, 256, (12, 10, 3), np.uint8)
        seeds = []
        for suffix in ("jpg", "png", "bmp", "tiff", "webp", "ppm", "jp2", "gif", "hdr"):
            pixels = np.float32(picture) if suffix == "hdr" else picture
            if suffix == "jp2":  # of so few pixels none can be made
                pixels = np.kron(picture, np.ones((6, 6, 1), np.uint8))
            try:
                done, encoded = cv2.imencode(f".{suffix}", pixels)
            except cv2.error:
                continue
            if done:
                seeds.append(encoded.tobytes())
        image = Image.fromarray(picture)
        for form, options in (
            ("JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0"}),
            ("GIF", {"save_all": True, "append_images": [image]}),
            ("PNG", {"save_all": True, "append_images": [image]}),
            ("WEBP", {"save_all": True, "append_images": [image]}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "jpeg"}),
            ("TIFF", {"compression": "packbits"}),
            ("ICO", {}),
            ("TGA", {}),
            ("PCX", {}),
            ("SGI", {}),
            ("IM", {}),
            ("DDS", {}),
            ("AVIF", {}),
        ):
            buffer = io.BytesIO()
            try:
                image.save(buffer, form, **options)
            except (KeyError, OSError):  # not every Pillow writes every format
                continue
            seeds.append(buffer.getvalue())
        cmyk = io.BytesIO()
        image.convert("CMYK").save(cmyk, "JPEG")
        return [*seeds, cmyk.getvalue()]

    def run(self, folder: Path, data: bytes) -> None:
        (folder / "image").write_bytes(data)
        pixels = Preprocess(8, 8, mean=(1.0, 2.0, 3.0))(folder / "image")
        assert pixels.shape == (3, 8, 8)
        assert np.isfinite(pixels).all()


READERS: dict[str, type[Reader]] = {
    kind.name: kind
    for kind in (
        *(
            Prototxt,
            Caffemodel,
            Graph,
            OpenvinoGraph,
            OnnxModel,
            Toml,
            Lists,
            Features,
            IndexFiles,
            Interrupted,
        ),
        *(Results, Images),
    )
}
