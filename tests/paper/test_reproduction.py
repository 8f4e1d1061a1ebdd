"""The whole flow on a small devkit of two years, with weights from a server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from fishing.errors import DataError, EvaluationError, FishingError, StoreError
from fishing.kernels import FEATURES
from fishing.nets import NetSpec, load_net
from fishing.paper import reproduce
from fishing.paper import reproduction as module
from fishing.store import ExtractionSettings

IDS = {"VOC2007": "{:06d}", "VOC2012": "2008_{:06d}"}


@pytest.fixture(scope="module")
def voc(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out VOC2007 and VOC2012 as the devkits have them, label files and all."""
    folder = tmp_path_factory.mktemp("data") / "VOCdevkit"
    images = sorted((devkit / "JPEGImages").iterdir())  # 14 of test, 26 of trainval
    sizes = {
        "VOC2007": {"trainval": range(14, 40), "test": range(14)},
        "VOC2012": {"train": range(14, 27), "val": range(27, 40), "test": range(14)},
    }
    for year, splits in sizes.items():
        main = folder / year / "ImageSets" / "Main"
        main.mkdir(parents=True)
        (folder / year / "JPEGImages").mkdir()
        for split, numbers in splits.items():
            ids = [IDS[year].format(i) for i in numbers]
            for image_id, i in zip(ids, numbers, strict=True):
                target = folder / year / "JPEGImages" / f"{image_id}.jpg"
                shutil.copy(images[i], target)
            (main / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
            if (year, split) == ("VOC2012", "test"):
                continue  # their labels are the server's secret
            for name, parity in (("aeroplane", 0), ("train", 1)):
                labels = [1 if i % 2 == parity else -1 for i in numbers]
                labels[-1] = 0
                lines = zip(ids, labels, strict=True)
                text = "".join(f"{i} {label:2d}\r\n" for i, label in lines)
                (main / f"{name}_{split}.txt").write_bytes(text.encode())
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serve the weights of tinyalexnet on the loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=ROOT / "models" / "tinyalexnet")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/tinyalexnet.caffemodel"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def net(server: str, tmp_path_factory: pytest.TempPathFactory) -> NetSpec:
    """Describe a net whose weights are yet to be fetched."""
    source = ROOT / "models" / "tinyalexnet"
    folder = tmp_path_factory.mktemp("nets") / "alexnet"
    folder.mkdir()
    shutil.copy(source / "deploy.prototxt", folder)
    toml = (source / "net.toml").read_text().split("[weights]")[0]
    weights = (source / "tinyalexnet.caffemodel").read_bytes()
    (folder / "net.toml").write_text(
        toml.replace('name = "tinyalexnet"', 'name = "alexnet"')
        + '[weights]\nfile = "served.caffemodel"\n'
        + f'size = {len(weights)}\nsha256 = "{hashlib.sha256(weights).hexdigest()}"\n'
        + f'sources = ["{server}"]\n'
    )
    return load_net(str(folder))


@pytest.fixture(scope="module")
def done(
    voc: Path, net: NetSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, object]]]:
    output = tmp_path_factory.mktemp("reproduction") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FISHING_HOME", str(output.parent / "home"))
        yield output, reproduce(voc, [ExtractionSettings(net)], output)


def test_what_is_made(done: tuple[Path, dict[str, object]]) -> None:
    output, _ = done
    home = output.parent / "home" / "weights"
    assert list(home.glob("*/served.caffemodel"))
    assert sorted(p.name for p in output.iterdir()) == [
        *("VOC2007-alexnet", "VOC2007-alexnet.h5", "VOC2007-alexnet.h5.images"),
        *("VOC2012-alexnet", "VOC2012-alexnet-dW7.json", "VOC2012-alexnet-dW7.tar.gz"),
        *("VOC2012-alexnet-x7.json", "VOC2012-alexnet-x7.tar.gz", "VOC2012-alexnet.h5"),
        "VOC2012-alexnet.h5.images",
        *(f"tables.{suffix}" for suffix in ("json", "md", "tex", "txt")),
    ]


def test_the_protocols(done: tuple[Path, dict[str, object]]) -> None:
    output, comparison = done
    assert json.loads((output / "tables.json").read_text()) == comparison
    how = {
        year: tuple(nets["alexnet"][key] for key in ("train", "test", "protocol"))
        for year, nets in comparison["results"].items()
    }
    assert how == {
        "VOC2007": ("trainval", "test", "voc2007"),
        "VOC2012": ("train", "val", "voc2012"),
    }
    features = comparison["results"]["VOC2007"]["alexnet"]["features"]
    assert list(features) == list(FEATURES)
    mean = features["dW7"]["mAP"]
    assert mean["paper"] == 0.809
    assert mean["difference"] == mean["ours"] - 0.809
    assert mean["interval"][0] <= mean["interval"][1]
    results = json.loads((output / "VOC2007-alexnet" / "results.json").read_text())
    assert results["bootstrap"]["resamples"] == 1000
    assert results["features"]["dW7"]["mAP"] == mean["ours"]


def test_the_archive_for_the_server(done: tuple[Path, dict[str, object]]) -> None:
    output, _ = done
    with tarfile.open(output / "VOC2012-alexnet-dW7.tar.gz") as tar:
        names = tar.getnames()
        lines = tar.extractfile(names[0]).read().decode().splitlines()
    folder = "results/VOC2012/Main/comp2_cls_test"
    assert names == [f"{folder}_aeroplane.txt", f"{folder}_train.txt"]
    ids = [IDS["VOC2012"].format(i) for i in range(14)]
    assert [line.split()[0] for line in lines] == ids
    scores = [float(line.split()[1]) for line in lines]
    assert np.mean(scores[0::2]) > np.mean(scores[1::2])


def test_a_second_run_computes_nothing(
    done: tuple[Path, dict[str, object]],
    voc: Path,
    net: NetSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, first = done
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    stamps = {p: p.stat().st_mtime_ns for p in before if "tables" not in p.name}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "evaluate", refuse)
    monkeypatch.setattr("fishing.extract.to_file.open_backend", refuse)
    monkeypatch.setattr("fishing.paper.submission.decision_function", refuse)
    assert reproduce(voc, [ExtractionSettings(net)], output) == first
    assert {p: p.read_bytes() for p in before} == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_other_features_get_rows_when_they_are_asked_for(
    done: tuple[Path, dict[str, object]],
    voc: Path,
    net: NetSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, first = done
    shutil.copytree(output, tmp_path / "out")
    arguments = (voc, [ExtractionSettings(net)], tmp_path / "out")
    products = ("x7*x6", "x6*x7+dW7")
    found = reproduce(*arguments, features=products)["results"]["VOC2007"]["alexnet"]
    assert list(found["features"]) == [*FEATURES, "x6*x7", "x6*x7+dW7"]
    before = first["results"]["VOC2007"]["alexnet"]["features"]
    assert {f: found["features"][f] for f in FEATURES} == before
    assert found["features"]["x6*x7"]["mAP"]["paper"] is None
    rows = (tmp_path / "out" / "tables.txt").read_text().splitlines()
    assert [row.split()[0] for row in rows[5:18]] == list(found["features"])
    assert "| x6\\*x7+dW7 " in (tmp_path / "out" / "tables.md").read_text()
    monkeypatch.setattr(module, "evaluate", None)  # both are there now
    assert reproduce(*arguments) == first
    reproduce(*arguments, features=["x6*x7"])
    assert "x6*x7+" not in (tmp_path / "out" / "tables.txt").read_text()


def test_a_misspelt_feature_is_refused_at_once(net: NetSpec, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"expected a feature .* found 'x6xx7'"):
        reproduce(tmp_path, [ExtractionSettings(net)], tmp_path, features=["x6xx7"])


def test_interrupted_anywhere_it_goes_on(
    done: tuple[Path, dict[str, object]], voc: Path, net: NetSpec, tmp_path: Path
) -> None:
    """Stop at the first report of progress, then at the second, and so on."""
    output, first = done
    for n_calls in range(1, 60):
        calls = iter(range(n_calls))

        def interrupt(*_: object, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt

        try:
            found = reproduce(
                voc,
                [ExtractionSettings(net)],
                tmp_path / "out",
                years=[2012],
                progress=interrupt,
            )
        except KeyboardInterrupt:
            continue
        break
    assert 10 < n_calls < 59
    assert found["results"] == {"VOC2012": first["results"]["VOC2012"]}
    for name in ("VOC2012-alexnet.h5", "VOC2012-alexnet-dW7.tar.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (output / name).read_bytes()


def test_results_of_other_features_are_not_kept(
    done: tuple[Path, dict[str, object]], voc: Path, net: NetSpec, tmp_path: Path
) -> None:
    output, first = done
    shutil.copytree(output, tmp_path / "out")
    path = tmp_path / "out" / "VOC2007-alexnet" / "results.json"
    record = json.loads(path.read_text())
    record["source"]["temperature"] = 4.0
    record["features"]["x7"]["mAP"] = 0.123
    path.write_text(json.dumps(record))
    assert reproduce(voc, [ExtractionSettings(net)], tmp_path / "out") == first
    # Features of another list are refused, not mixed in.
    other = tmp_path / "VOC2007"
    shutil.copytree(voc / "VOC2007", other)
    file = other / "ImageSets" / "Main" / "test.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StoreError):
        reproduce(other, [ExtractionSettings(net)], tmp_path / "out")


def test_results_with_other_intervals_are_not_kept(
    done: tuple[Path, dict[str, object]], voc: Path, net: NetSpec, tmp_path: Path
) -> None:
    output, _ = done
    shutil.copytree(output, tmp_path / "out")
    for n_resamples in (0, 50):
        reproduce(
            voc,
            [ExtractionSettings(net)],
            tmp_path / "out",
            years=[2007],
            n_resamples=n_resamples,
        )
        path = tmp_path / "out" / "VOC2007-alexnet" / "results.json"
        found = json.loads(path.read_text()).get("bootstrap", {}).get("resamples", 0)
        assert found == n_resamples
        text = (tmp_path / "out" / "tables.txt").read_text()
        assert ("\nBootstrap: " in text) == bool(n_resamples)


def test_any_data_set(devkit: Path, net: NetSpec, tmp_path: Path) -> None:
    folder = tmp_path / "my_set"
    shutil.copytree(devkit, folder)
    comparison = reproduce(
        folder, [ExtractionSettings(load_net("tinyalexnet"))], tmp_path / "out"
    )
    assert list(comparison["results"]) == ["my_set"]
    assert "paper" not in (tmp_path / "out" / "tables.txt").read_text().lower()


def test_without_test_images_there_is_no_archive(
    done: tuple[Path, dict[str, object]], voc: Path, net: NetSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "VOC2012"
    shutil.copytree(voc / "VOC2012", folder)
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    reproduce(folder, [ExtractionSettings(net)], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar.gz"))


@pytest.mark.parametrize(
    ("folder", "years", "message"),
    [
        ("none", [], "name one with --data"),
        ("", [2011], "expected VOC2011 in .* found VOC2007 VOC2012; leave --year 2011"),
        ("VOC2007", [2007], "name the devkit's folder, or leave --year out"),
    ],
)
def test_mistakes(
    voc: Path, net: NetSpec, tmp_path: Path, folder: str, years: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        reproduce(
            voc / folder, [ExtractionSettings(net)], tmp_path / "out", years=years
        )
    assert not (tmp_path / "out").exists()


def test_weights_that_no_source_has(
    voc: Path, net: NetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "home"))
    folder = tmp_path / "net"
    shutil.copytree(net.folder, folder)
    toml = folder / "net.toml"
    toml.write_text(toml.read_text().replace("tinyalexnet.caffemodel", "none"))
    with pytest.raises(FishingError, match="found none that has it"):
        reproduce(voc, [ExtractionSettings(load_net(str(folder)))], tmp_path / "out")
    assert not (tmp_path / "out").exists()
