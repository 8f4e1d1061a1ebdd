"""Compare the speed of ONNX Runtime, patched Caffe and PyTorch with a bound.

Each contender is a separate process. They run in turns, A B C A B C ..., and a figure
is the median over the turns of a ratio within a turn, because other load on the machine
then affects both sides. The bound is valid only on an idle machine; the record contains
the load. Nets have random weights, which cost the same as trained ones. All contenders
are first checked to give the same blobs. The results are printed as a table and written
as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112, glog spells it so; before caffe
import cv2
import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fishing.backends.onnx.builder import Graph
from fishing.backends.onnx.graph import gradient_graph
from fishing.images import read_splits
from fishing.nets import BLOBS, NetSpec, load_net
from fishing.store import ExtractionSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))

N_CORES = len(os.sched_getaffinity(0))
SIDE = 2048  # of the matrices whose product gives the rate of the bound
TAU = 2.0

Run = Callable[[], Any]
Seconds = dict[str, list[float]]


class Row(NamedTuple):
    """A line of the table. `target` is empty if there is none."""

    what: str
    against: str
    reached: float
    unit: str
    target: str


def main() -> None:
    """Run the benchmarks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="*", default=["alexnet", "vgg16"])
    parser.add_argument("--turns", type=int, default=9, help="of AlexNet; VGG16: half")
    parser.add_argument("--images", type=int, default=512, help="JPEG files")
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench/backends.json")
    )
    options = parser.parse_args()
    rows: list[Row] = []
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.nets:
            spec = made_net(name, Path(folder) / name)
            if name == "alexnet":
                rows += batches(spec, 32, options.turns, times)
                rows += one_at_a_time(spec, options.turns, times)
                rows += caffe_on_cores(spec, options.turns, times)
                rows += files(spec, Path(folder), options.images, times)
            else:
                rows += batches(spec, 8, max(3, options.turns // 2), times)
    libraries = ["numpy", "onnxruntime", "openvino", "opencv-python-headless"]
    libraries += ["torch"] if has_torch() else []
    record = {
        "machine": f"{platform.machine()}, {N_CORES} cores, {processor()}",
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
        "figures": [row._asdict() for row in rows],
        "milliseconds": times,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{'what':<44} {'against':<36} {'reached':>9}   target")
    for row in rows:
        figure = f"{row.reached:.2f} {row.unit}".strip()
        print(f"{row.what:<44} {row.against:<36} {figure:>9}   {row.target}")
    print(f"written to {options.output}")


def batches(
    spec: NetSpec, batch: int, turns: int, times: dict[str, float]
) -> list[Row]:
    """Compare the forward and backward passes of a batch in all contenders."""
    folder = str(spec.folder)
    makers: dict[str, tuple[Any, ...]] = {
        "numpy": (numpy_product,),
        "ORT MatMul": (onnx_product,),
        "onnx": (onnx_net, folder, batch),
        "forward": (onnx_net, folder, batch, True),
        "openvino": (openvino_net, folder, batch),
        "caffe": (caffe_net, folder, batch),
    }
    if has_bfloat16():
        makers["bfloat16"] = (openvino_net, folder, batch, "bfloat16")
    if has_torch():
        makers["torch"] = (torch_net, folder, batch)
    found = in_turns(makers, turns)
    keep(times, found, f"{spec.name}, batch {batch}, an image", batch)
    # The faster of the two gives the rate. Other load affects them unequally and would
    # flatter the net, so that the bound alone is a ratio of the least times.
    least = {name: min(seconds) for name, seconds in found.items()}
    rate = min(("numpy", "ORT MatMul"), key=least.__getitem__)
    flops = batch * multiply_adds(spec) / SIDE**3
    what = f"{spec.name}, forward+backward, batch {batch}, ONNX"
    bound, openvino_bound = (
        100 * flops * least[rate] / least[name] for name in ("onnx", "openvino")
    )
    extra = 100 * (ratio(found, "onnx", "forward") - 1)
    rows = [
        Row(what, f"the bound ({rate})", bound, "%", "85 %"),
        Row(what, f"patched Caffe, batch {batch}", ratio(found, "caffe", "onnx"), "x",
            "2 x"),
        Row(what, "forward alone", extra, "% more", "< 3 %"),
    ]  # fmt: skip
    if has_torch():
        against = ratio(found, "torch", "onnx")
        rows.append(Row(what, "PyTorch autograd", against, "x", "> 1 x"))
    other = "the same, OpenVINO"
    rows += [
        Row(other, f"the bound ({rate})", openvino_bound, "%", "85 %"),
        Row(other, "ONNX Runtime", ratio(found, "onnx", "openvino"), "x", ""),
    ]
    if has_bfloat16():
        against = ratio(found, "onnx", "bfloat16")
        rows.append(Row(f"{other}, bfloat16", "ONNX Runtime", against, "x", ""))
    return rows


def one_at_a_time(spec: NetSpec, turns: int, times: dict[str, float]) -> list[Row]:
    """Compare single images, and batches with Caffe's single images."""
    folder = str(spec.folder)
    found = in_turns(
        {
            "onnx": (onnx_net, folder, 1),
            "openvino": (openvino_net, folder, 1),
            "caffe": (caffe_net, folder, 1),
            "batch": (onnx_net, folder, 32),
        },
        turns,
        inner={"onnx": 8, "openvino": 8, "caffe": 4},
    )
    keep(times, found, f"{spec.name}, batch 1", 1, ("onnx", "openvino", "caffe"))
    name = f"{spec.name}, forward+backward"
    return [
        Row(f"{name}, batch 32, ONNX", "patched Caffe, batch 1",
            32 * ratio(found, "caffe", "batch"), "x", "4 x"),
        Row(f"{name}, batch 1, ONNX", "patched Caffe, batch 1",
            ratio(found, "caffe", "onnx"), "x", "2.5 x"),
        Row(f"{name}, batch 1, OpenVINO", "patched Caffe, batch 1",
            ratio(found, "caffe", "openvino"), "x", ""),
    ]  # fmt: skip


def caffe_on_cores(spec: NetSpec, turns: int, times: dict[str, float]) -> list[Row]:
    """Compare threads of OpenBLAS with a process for each core."""
    maker = (caffe_net, str(spec.folder), 32)
    found: Seconds = {"threads": [], "processes": [], "one thread": []}
    with Contender(maker) as threads:
        several = [Contender(maker, n_threads=1) for _ in range(N_CORES)]
        for _ in range(max(3, turns // 2)):
            found["threads"].append(threads.seconds())
            found["one thread"].append(several[0].seconds())
            for one in several:
                one.ask("run")
            slowest = max(float(one.answer()) for one in several)
            found["processes"].append(slowest / N_CORES)
        for one in several:
            one.close()
    keep(times, found, f"{spec.name}, patched Caffe, batch 32, an image", 32)
    what = f"{spec.name}, patched Caffe, batch 32, {N_CORES} threads"
    alone, others = "one thread", "processes"
    return [
        Row(what, "one thread", ratio(found, alone, "threads"), "x", ""),
        Row(f"the same, {N_CORES} processes of one thread", f"{N_CORES} threads",
            ratio(found, "threads", others), "x", ""),
    ]  # fmt: skip


def files(
    spec: NetSpec, folder: Path, n: int, times: dict[str, float], n_few: int = 64
) -> list[Row]:
    """Compare JPEG files to features.h5 with the net alone.

    Loading the net and its weights takes the same time for any number of files.
    Therefore the time of a further file is measured: the difference between many and a
    few.
    """
    images = folder / "images"
    write_images(images / "many", n + n_few)
    write_images(images / "few", n_few)
    arguments = (str(spec.folder), str(images), str(folder / "features.h5"))
    makers = {
        "net": (onnx_net, str(spec.folder), 32),
        "many": (extraction, *arguments, "many"),
        "few": (extraction, *arguments, "few"),
        "preparing": (preparation, str(spec.folder), str(images / "few")),
    }
    found = in_turns(makers, 5, inner={"net": 4})
    costs: Seconds = {
        "net": [t / 32 for t in found["net"]],
        "files": [
            (many - few) / n
            for many, few in zip(found["many"], found["few"], strict=True)
        ],
        "preparing": [t / n_few for t in found["preparing"]],
    }
    # Preparing an image takes a core for a while, which the net would have used.
    costs["sum"] = [
        net + one / N_CORES
        for net, one in zip(costs["net"], costs["preparing"], strict=True)
    ]
    keep(times, costs, f"{spec.name}, JPEG files, a file", 1)
    what = f"{spec.name}, JPEG files to features.h5, ONNX"
    return [
        Row(what, "the net alone", 100 * ratio(costs, "net", "files"), "%", "95 %"),
        Row(what, "the net and decoding, on all cores",
            100 * ratio(costs, "sum", "files"), "%", ""),
    ]  # fmt: skip


class Contender:
    """A process that prepares a function and runs it when asked.

    Parameters
    ----------
    maker : tuple
        A function that returns the function to run, and its arguments.
    n_threads : int
        Threads of OpenBLAS.
    inner : int
        Runs in one turn.
    """

    def __init__(
        self, maker: Sequence[Any], n_threads: int = N_CORES, inner: int = 1
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._inner = inner
        self._pipe, other = context.Pipe()
        os.environ["OPENBLAS_NUM_THREADS"] = str(n_threads)  # read as it starts
        self._process = context.Process(target=serve, args=(other, maker), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, what: str) -> None:
        self._pipe.send(what)

    def answer(self) -> Any:
        return self._pipe.recv()

    def result(self) -> Any:
        """Run once, and return the result."""
        self.ask("result")
        return self.answer()

    def seconds(self) -> float:
        """Run `inner` times, and return the seconds of one run."""
        # Threads of the previous contender may spin for a while after their work.
        time.sleep(0.05)
        found: list[float] = []
        for _ in range(self._inner):
            self.ask("run")
            found.append(self.answer())
        return sum(found) / len(found)

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def serve(pipe: Any, maker: Sequence[Any]) -> None:
    """Answer a `Contender` until it closes the pipe."""
    function, *arguments = maker
    run = function(*arguments)
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        pipe.send(result if what == "result" else seconds)


def in_turns(
    makers: Mapping[str, Sequence[Any]],
    turns: int,
    inner: Mapping[str, int] | None = None,
) -> Seconds:
    """Time contenders in turns, after one run of each that does not count."""
    counts = inner or {}
    contenders = {
        name: Contender(maker, inner=counts.get(name, 1))
        for name, maker in makers.items()
    }
    compared = {}
    for name, contender in contenders.items():
        result = contender.result()
        if isinstance(result, dict) and set(result) == set(BLOBS):
            compared[name] = result
    check_equal([blobs for blobs in compared.values() if len(blobs[BLOBS[0]])])
    found: Seconds = {name: [] for name in makers}
    for _ in range(turns):
        for name, contender in contenders.items():
            found[name].append(contender.seconds())
    for contender in contenders.values():
        contender.close()
    return found


def check_equal(found: Sequence[Mapping[str, NDArray[np.float32]]]) -> None:
    """Check that all contenders give the same blobs for the first image."""
    for blobs in found[1:]:
        for name in BLOBS:
            a, b = found[0][name][0], blobs[name][0]
            error = np.abs(a - b).max() / np.abs(a).max()
            assert error < 1e-3, f"{name}: expected equal blobs, found {error:.1e}"


def ratio(found: Seconds, a: str, b: str) -> float:
    """Return the median over the turns of a / b."""
    return median(x / y for x, y in zip(found[a], found[b], strict=True))


def keep(
    times: dict[str, float],
    found: Seconds,
    label: str,
    n: int,
    names: Sequence[str] = (),
) -> None:
    """Record the least milliseconds of each contender, beside the ratios."""
    for name in names or found:
        is_product = name in ("numpy", "ORT MatMul")
        key = f"product of side {SIDE}, {name}" if is_product else f"{label}: {name}"
        times[key] = round(1e3 * min(found[name]) / (1 if is_product else n), 3)


def numpy_product() -> Run:
    """Multiply matrices by numpy's OpenBLAS."""
    a = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    return lambda: (a @ a).shape


def onnx_product() -> Run:
    """Multiply matrices by ONNX Runtime's MatMul, one of them constant."""
    a = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name in "xy"
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = numpy_helper.from_array(a, "w")
    graph = helper.make_graph([node], "product", values[:1], values[1:], [weights])
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = N_CORES
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": a})[0].shape


def onnx_net(folder: str, batch: int, forward_only: bool = False) -> Run:
    """Run the backend, or its graph without the backward pass."""
    from fishing.backends.onnx import backend

    spec = load_net(folder)
    data = made_data(spec, batch)
    if not forward_only:
        net = backend.OnnxBackend(spec, temperature=TAU, batch_size=batch, device="cpu")
        return lambda: net.run(data)
    graph = forward_graph(gradient_graph(spec))
    session = backend.open_session(graph, ["CPUExecutionProvider"])
    return lambda: len(session.run(None, {"data": data}))


def openvino_net(folder: str, batch: int, precision: str = "float32") -> Run:
    """Run the OpenVINO backend."""
    from fishing.backends.openvino import OpenvinoBackend

    spec = load_net(folder)
    data = made_data(spec, batch)
    net = OpenvinoBackend(
        spec, temperature=TAU, batch_size=batch, device="cpu", precision=precision
    )
    if precision == "float32":
        return lambda: net.run(data)
    return lambda: len(net.run(data))  # not compared with the others


def has_bfloat16() -> bool:
    core = openvino.Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def forward_graph(graph: Graph) -> Graph:
    """Remove from a graph everything that only the backward pass needs."""
    outputs = [value for value in graph.outputs if value.name.startswith("forward/")]
    needed, nodes = {value.name for value in outputs}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    return replace(
        graph,
        nodes=nodes[::-1],
        initializers={k: a for k, a in graph.initializers.items() if k in needed},
        inputs=[value for value in graph.inputs if value.name in needed],
        outputs=outputs,
        widths={value.name: graph.widths[value.name] for value in outputs},
    )


def caffe_net(folder: str, batch: int) -> Run:
    """Run patched Caffe as its backend's worker does."""
    from fishing.backends.caffe.process import CaffeNet

    spec = load_net(folder)
    net = CaffeNet(
        prototxt=spec.model,
        weights=spec.folder / spec.weights.file,
        blobs=dict(spec.blobs),
        input_shape=spec.preprocess.shape,
        batch_size=batch,
        temperature=TAU,
        device="cpu",
    )
    data = made_data(spec, batch)
    return lambda: net.run(data)


def torch_net(folder: str, batch: int) -> Run:
    """Run PyTorch forward, and autograd from the loss down to y6."""
    from torch_nets import torch_net

    importlib.import_module("torch").set_num_threads(N_CORES)
    spec = load_net(folder)
    return torch_net(spec, made_data(spec, batch))


def extraction(folder: str, images: str, output: str, split: str) -> Run:
    """Run a whole extraction of a folder of JPEG files."""
    from fishing.extract import extract

    spec = load_net(folder)
    path = Path(output).with_suffix(f".{split}.h5")
    lists = read_splits(Path(images) / split, [])

    def run() -> int:
        done = extract(
            ExtractionSettings(spec, backend="onnx"), lists, path, overwrite=True
        )
        return done[0].n_images

    return run


def preparation(folder: str, images: str) -> Run:
    """Read and prepare JPEG files in one thread."""
    spec = load_net(folder)
    preprocess = spec.preprocess
    paths = sorted(Path(images).iterdir())
    cv2.setNumThreads(1)
    return lambda: sum(preprocess(path).size for path in paths)


def made_net(name: str, folder: Path) -> NetSpec:
    """Write a net with random weights, in a process that frees its memory by ending."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=write_net, args=(name, folder))
    process.start()
    process.join()
    return load_net(str(folder))


def write_net(name: str, folder: Path) -> None:
    from random_nets import random_net

    random_net(name, folder)


def made_data(spec: NetSpec, batch: int) -> NDArray[np.float32]:
    """Make random images. The first is the same in a batch of any size."""
    shape = (batch, *spec.preprocess.shape)
    return 60 * np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def write_images(folder: Path, n: int) -> None:
    """Write JPEG files of 500 x 375 with as much detail as photographs have."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    for i in range(n):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), image)


def multiply_adds(spec: NetSpec) -> int:
    """Count the operations for one image, forward and backward."""
    graph = gradient_graph(spec)
    total = 0
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm"):
            pixels = graph.shapes[node.output[0]][1:]
            total += graph.initializers[node.input[1]].size * int(np.prod(pixels))
    return total


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def processor() -> str:
    """Name the processor as Linux does."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    main()
