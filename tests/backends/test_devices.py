"""Tests of devices, with a driver that answers as NVIDIA's would."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fishing.backends import devices, open_backend, parse_device
from fishing.backends.caffe.process import set_device
from fishing.backends.devices import Gpu, count_workers, find_gpu, fitting_batch
from fishing.backends.onnx.backend import _providers as cuda_providers
from fishing.backends.onnx.backend import open_session
from fishing.backends.onnx.graph import gradient_graph, graph_bytes
from fishing.errors import BackendError
from fishing.nets import load_net, weights_path

GIB = 1 << 30
CUDA = "CUDAExecutionProvider"


class _Driver:
    """A libcuda with GPUs of one kind, where the call `broken` returns an error."""

    def __init__(self) -> None:
        self.n_gpus, self.broken = 2, ""
        self.attributes = {75: 9, 76: 0, 20: 0}  # compute capability and mode
        self.retained = self.pushed = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            # Replace references by the objects that they refer to.
            args = [getattr(a, "_obj", a) for a in arguments]
            if name == self.broken:
                return 2
            answer = getattr(type(self), f"_{name.removesuffix('_v2')}", None)
            return (answer(self, *args) if answer else 0) or 0

        return call

    def _cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version.value = 13010

    def _cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count.value = self.n_gpus
        return 0 if self.n_gpus else 100

    def _cuDeviceGet(self, handle: Any, number: int) -> None:  # noqa: N802
        handle.value = 40 + number

    def _cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:  # noqa: N802
        name.value = f"GPU of handle {handle.value}".encode()

    def _cuDeviceGetAttribute(self, value: Any, which: int, handle: Any) -> None:  # noqa: N802
        value.value = self.attributes[which]

    def _cuDevicePrimaryCtxRetain(self, context: Any, handle: Any) -> None:  # noqa: N802
        self.retained += 1

    def _cuDevicePrimaryCtxRelease(self, handle: Any) -> None:  # noqa: N802
        self.retained -= 1

    def _cuCtxPushCurrent(self, context: Any) -> None:  # noqa: N802
        self.pushed += 1

    def _cuCtxPopCurrent(self, context: Any) -> None:  # noqa: N802
        self.pushed -= 1

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:  # noqa: N802
        free.value, total.value = 70 * GIB, 80 * GIB

    def _cuGetErrorName(self, code: int, words: Any) -> None:  # noqa: N802
        words.value = b"CUDA_ERROR_OUT_OF_MEMORY" if code == 2 else b"CUDA_ERROR"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> _Driver:
    found = _Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    return found


def test_parse_device() -> None:
    assert parse_device("cpu") == ["cpu"]
    assert parse_device("gpu:3") == ["gpu:3"]
    assert parse_device("gpu:1,0") == ["gpu:1", "gpu:0"]


@pytest.mark.parametrize("device", ["", "gpu", "gpu:", "gpu:x", "gpu:0,", "cpu,gpu:0"])
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(BackendError, match="expected a device 'cpu', 'gpu:0' or"):
        parse_device(device)


def test_a_gpu_twice() -> None:
    with pytest.raises(BackendError, match="each GPU once, found 'gpu:0,1,0'"):
        parse_device("gpu:0,1,0")


def test_the_driver_is_asked(driver: _Driver) -> None:
    gpu = find_gpu("gpu:1")
    assert gpu == Gpu("GPU of handle 41", 90, 70 * GIB, 80 * GIB, (13, 1), False)
    assert driver.retained == driver.pushed == 0


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BackendError, match=r"found no NVIDIA driver .*--device cpu"):
        find_gpu("gpu:0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_gpus": 1}, "number 2 for --device gpu:2, found 1 GPU, counted from 0"),
        ({"n_gpus": 0}, "answers cuDeviceGetCount with error 100"),
        ({"broken": "cuInit"}, r"cuInit with error 2 \(CUDA_ERROR_OUT_OF_MEMORY\)"),
        ({"broken": "cuMemGetInfo_v2"}, "cuMemGetInfo_v2 with error 2"),
    ],
)
def test_gpus_that_cannot_be_used(
    driver: _Driver, changes: dict[str, Any], message: str
) -> None:
    driver.n_gpus = 3
    vars(driver).update(changes)
    with pytest.raises(BackendError, match=message):
        find_gpu("gpu:2")
    assert driver.retained == driver.pushed == 0


def test_the_batch_that_fits() -> None:
    # Two workers share 80 % of the memory: 4 GiB each.
    share = {"fixed": GIB, "device": "gpu:0"}
    assert fitting_batch(10 * GIB, per_image=3 * GIB, **share) == 1
    assert fitting_batch(10 * GIB, per_image=3 * GIB // 63, **share) == 32
    assert fitting_batch(10 * GIB, per_image=3 * GIB // 64, **share) == 64
    assert fitting_batch(10 * GIB, per_image=1, **share) == 256
    with pytest.raises(BackendError, match=r"expected 10240 MiB .* found 9216;"):
        fitting_batch(9 * GIB, per_image=3 * GIB, **share)


def test_the_bytes_of_a_net_in_caffe() -> None:
    """The bytes that the batch size is chosen by are those computed by hand."""
    from fishing.backends.caffe.process import CaffeNet, _net_bytes

    spec = load_net("tinyalexnet")
    net = CaffeNet(
        prototxt=spec.model,
        weights=weights_path(spec),
        blobs=dict(spec.blobs),
        input_shape=(3, 64, 64),
        batch_size=1,
        temperature=2,
        device="cpu",
    )
    fixed, per_image = _net_bytes(net.net)
    weights = (48 * 75 + 48) + (96 * 24 * 9 + 96) + (160 * 96 * 9 + 160)
    weights += (160 * 80 * 9 + 160) + (128 * 80 * 9 + 128)
    weights += (768 * 2048 + 768) + (768 * 768 + 768) + (200 * 768 + 200)
    unfolded = 3 * 25 * 1024 + 48 * 9 * 256 + (96 + 160 + 160) * 9 * 64
    assert fixed == 4 * (weights + unfolded)
    # conv1 and norm1, then pool1, conv2 and norm2, pool2, conv3 to conv5, pool5
    values = 3 * 4096 + 2 * 48 * 1024 + 48 * 256 + 2 * 96 * 256 + 96 * 64
    values += (160 + 160 + 128) * 64 + 128 * 16
    assert values < per_image / 8 < values + 10_000  # and those of the head


def test_the_bytes_of_a_graph() -> None:
    graph = gradient_graph(load_net("tinyalexnet"))
    fixed, per_image = graph_bytes(graph)
    assert fixed == GIB + sum(a.nbytes for a in graph.initializers.values())
    # Convolutions and their ReLUs, pooling, and the outputs; LRN takes several nodes.
    least = 2 * (48 * 1024 + 96 * 256 + 448 * 64) + 48 * 256 + 96 * 64
    assert least + sum(graph.widths.values()) < per_image / 4 < 5 * least


# --- what Caffe was built for, and what is there ----------------------------------

BUILD = {
    "cuda": True,
    "cuda_toolkit": "13.0.88",
    "cuda_architectures": "75 80 90",
    "gpu_blas": "cuBLAS",
}


@pytest.mark.parametrize(
    ("build", "tf32", "message"),
    [
        ({"cuda": False}, False, "found one built for the CPU only"),
        (
            {"cuda_toolkit": "14.1.3"},
            False,
            "a driver for CUDA 14 .* found one for 13.1",
        ),
        ({"cuda_architectures": "100"}, False, "10.0 or later, found GPU of .* of 9.0"),
        ({"gpu_blas": "blas.cu"}, True, "with cuBLAS for TF32, found blas.cu"),
    ],
)
def test_builds_that_do_not_fit(
    driver: _Driver, tmp_path: Path, build: dict[str, Any], tf32: bool, message: str
) -> None:
    (tmp_path / "build.json").write_text(json.dumps({**BUILD, **build}))
    caffe = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    with pytest.raises(BackendError, match=message):
        set_device(caffe, "gpu:0", tf32=tf32)


def test_caffe_is_set_to_the_gpu(driver: _Driver, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(json.dumps(BUILD))
    calls: list[Any] = []
    caffe = SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        set_device=calls.append,
        set_mode_gpu=lambda: calls.append("gpu"),
    )
    gpu = set_device(caffe, "gpu:1", tf32=True)
    assert gpu is not None
    assert gpu.capability == 90
    assert calls == [1, "gpu"]


def test_tf32_wants_tensor_cores_that_have_it(driver: _Driver, tmp_path: Path) -> None:
    driver.attributes = {75: 7, 76: 5, 20: 0}
    (tmp_path / "build.json").write_text(json.dumps(BUILD))
    caffe = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    with pytest.raises(BackendError, match=r"8.0 or later for TF32, found GPU .* 7.5;"):
        set_device(caffe, "gpu:0", tf32=True)


@pytest.mark.parametrize("backend", ["caffe", "onnx", "openvino"])
def test_tf32_wants_a_gpu(backend: str) -> None:
    spec = load_net("tinyalexnet")
    with pytest.raises(BackendError, match="on a GPU for TF32, found --backend"):
        open_backend(
            backend, spec, temperature=2, batch_size=None, device="cpu", tf32=True
        )


def test_every_gpu_gets_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices and batch size are chosen, with a stand-in for the net."""
    opened: list[dict[str, Any]] = []

    def maker(spec: object, **settings: Any) -> SimpleNamespace:
        opened.append(settings)
        size = 64 if settings["device"] == "gpu:0" else 16
        return SimpleNamespace(widths={}, batch_size=size, close=lambda: None)

    monkeypatch.setattr("fishing.backends.caffe.backend.CaffeBackend", maker)
    net = open_backend(
        "caffe",
        load_net("tinyalexnet"),
        temperature=2,
        batch_size=None,
        device="gpu:0,1",
        tf32=True,
    )
    devices_of = [settings["device"] for settings in opened]
    assert devices_of == ["gpu:0"] * devices.PER_GPU + ["gpu:1"] * devices.PER_GPU
    assert all(settings["tf32"] for settings in opened)
    assert (net.batch_size, net.n_at_once) == (16, 4)


@pytest.mark.parametrize(("mode", "n_workers"), [(0, 2), (3, 1)])
def test_a_gpu_that_takes_one_process(
    driver: _Driver, mode: int, n_workers: int
) -> None:
    driver.attributes[20] = mode
    assert count_workers("gpu:0", processes=True) == n_workers
    assert count_workers("gpu:0", processes=False) == 2  # threads of one process
    driver.n_gpus = 0  # which a worker reports
    assert count_workers("gpu:0", processes=True) == 2


# --- ONNX Runtime's CUDA provider --------------------------------------------------


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, driver: _Driver) -> SimpleNamespace:
    """An ONNX Runtime with CUDA, which prints what the real one prints."""
    found = SimpleNamespace(
        get_available_providers=lambda: [CUDA, "CPUExecutionProvider"],
        preload_dlls=lambda: print("Failed to load libcublasLt.so.13"),
    )
    monkeypatch.setattr("fishing.backends.onnx.backend.onnxruntime", found)
    return found


def test_the_settings_of_the_cuda_provider(
    runtime: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (name, settings), last = cuda_providers("gpu:1", tf32=False)
    assert (name, last) == (CUDA, "CPUExecutionProvider")
    assert settings == {
        "device_id": 1,
        "use_tf32": 0,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert cuda_providers("gpu:1", tf32=True)[0][1]["use_tf32"] == 1
    output = capsys.readouterr()
    assert output.out == ""  # where a command answers
    assert "Failed to load" in output.err
    del runtime.preload_dlls  # as before 1.21
    assert cuda_providers("gpu:1", tf32=False)[0][1] == settings


def test_tf32_in_onnx_runtime_wants_a_gpu_that_has_it(
    runtime: SimpleNamespace, driver: _Driver
) -> None:
    driver.attributes = {75: 7, 76: 5, 20: 0}
    assert cuda_providers("gpu:0", tf32=False)
    with pytest.raises(BackendError, match=r"8.0 or later for TF32, found GPU .* 7.5;"):
        cuda_providers("gpu:0", tf32=True)


def test_a_provider_that_fails_is_no_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime alone would print a line on stdout and use the CPU."""
    graph = gradient_graph(load_net("tinyalexnet"))
    providers = [("CPUExecutionProvider", {"no such setting": 1}), 7]
    with pytest.raises(BackendError, match="ONNX Runtime stopped"):
        open_session(graph, providers)
    assert capsys.readouterr().out == ""
