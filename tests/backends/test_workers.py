"""Tests of several workers as one backend: the rows and their order stay the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fishing.backends import Backend, open_backend, run_ahead
from fishing.backends.caffe import CaffeBackend
from fishing.backends.workers import Workers
from fishing.errors import BackendError
from fishing.extract import extract
from fishing.extract import to_file as extraction
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.store import ExtractionSettings


class _Net:
    """A backend that doubles its images after a delay."""

    widths: dict[str, int] = {"x": 1}  # noqa: RUF012
    n_at_once = 1

    def __init__(self, delay: float = 0, batch_size: int = 4) -> None:
        self.delay, self.batch_size = delay, batch_size
        self.n_runs, self.closed = 0, False

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        self.n_runs += 1
        time.sleep(self.delay)
        if (data < 0).any():
            raise BackendError("expected no negative image")
        return {"x": 2 * data}

    def close(self) -> None:
        self.closed = True


def _batches(n: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for i in range(n):
        yield i, np.full((1, 1), i, np.float32)


def test_results_come_in_order_however_long_each_takes() -> None:
    nets = [_Net(0.02), _Net(0.001), _Net(0.005)]
    workers = Workers([partial(lambda net: net, net) for net in nets])
    with closing(run_ahead(workers, _batches(40))) as results:
        found = [(i, float(blobs["x"][0, 0])) for i, blobs in results]
    assert found == [(i, 2.0 * i) for i in range(40)]
    assert all(net.n_runs for net in nets)
    assert nets[0].n_runs < nets[1].n_runs  # a free worker takes the next batch
    workers.close()
    assert all(net.closed for net in nets)


def test_a_batch_without_images() -> None:
    empty = np.empty(0, np.float32)
    assert list(run_ahead(_Net(), [("a", empty)])) == [("a", {})]


def test_an_error_comes_after_the_results_before_it() -> None:
    workers = Workers([partial(_Net, 0.01), _Net])
    batches = [(i, np.full((1, 1), -(i == 5), np.float32)) for i in range(20)]
    with closing(run_ahead(workers, batches)) as results:
        assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(BackendError, match="no negative image"):
            next(results)


def test_batches_are_not_made_far_ahead() -> None:
    made = 0

    def batches() -> Iterator[tuple[int, NDArray[np.float32]]]:
        nonlocal made
        for batch in _batches(50):
            made += 1
            yield batch

    workers = Workers([_Net, _Net])
    with closing(run_ahead(workers, batches())) as results:
        for n_used, _ in enumerate(results):
            assert made <= n_used + 3  # one in use, and one for each worker


def test_the_net_runs_while_results_are_used() -> None:
    started = threading.Event()

    class Signal(_Net):
        def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            if data[0, 0] == 1:
                started.set()
            return super().run(data)

    with closing(run_ahead(Signal(), _batches(3))) as results:
        next(results)
        assert started.wait(10)  # although nobody asked for the second result


def test_opened_backends_are_closed_if_another_cannot_be_opened() -> None:
    first = _Net()

    def broken() -> Backend:
        raise BackendError("expected memory")

    with pytest.raises(BackendError, match="expected memory"):
        Workers([lambda: first, broken])
    assert first.closed


def test_all_take_the_smallest_batch() -> None:
    assert Workers([partial(_Net, 0, 64), partial(_Net, 0, 16)]).batch_size == 16


@pytest.mark.parametrize("backend", ["caffe", "onnx"])
def test_several_workers_write_the_bytes_of_one(
    devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(devkit, ["trainval", "test"])

    def several(name: str, *args: Any, **settings: Any) -> Workers:
        return Workers([partial(open_backend, name, *args, **settings)] * 3)

    extract(
        ExtractionSettings(spec, backend=backend),
        lists,
        tmp_path / "one.h5",
        batch_size=3,
    )
    monkeypatch.setattr(extraction, "open_backend", several)
    extract(
        ExtractionSettings(spec, backend=backend),
        lists,
        tmp_path / "three.h5",
        batch_size=3,
    )
    one = (tmp_path / "one.h5").read_bytes()
    assert one == (tmp_path / "three.h5").read_bytes()


def _kill(net: Any) -> None:
    """Kill the process of a worker, which may consist of several."""
    if not isinstance(net, Workers):
        net._process.kill()
        return
    one = net._free.get()
    _kill(one)
    net._free.put(one)


def test_a_killed_worker_ends_the_extraction_and_keeps_what_is_done(
    devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, lists = load_net("tinyalexnet"), read_splits(devkit, ["trainval"])
    extract(
        ExtractionSettings(spec, backend="caffe"),
        lists,
        tmp_path / "whole.h5",
        batch_size=2,
    )

    def several(name: str, *args: Any, **settings: Any) -> Workers:
        makers = [partial(CaffeBackend, *args, n_threads=1, **settings)] * 2
        found = Workers(makers)
        run, runs = found.run, []

        def dying(data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            runs.append(len(data))
            if len(runs) == 6:
                _kill(found)
            return run(data)

        monkeypatch.setattr(found, "run", dying)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "open_backend", several)
        with pytest.raises(BackendError, match=r"Caffe stopped: .*exit code -9"):
            extract(
                ExtractionSettings(spec, backend="caffe"),
                lists,
                tmp_path / "f.h5",
                batch_size=2,
            )
    assert not (tmp_path / "f.h5").exists()
    extract(
        ExtractionSettings(spec, backend="caffe"),
        lists,
        tmp_path / "f.h5",
        batch_size=2,
    )
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
