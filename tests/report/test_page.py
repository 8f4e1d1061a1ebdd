"""The page in a real browser: what it shows, and that it works."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import chromium
import h5py
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from conftest import make_split, write_file
from fishing.errors import DataError, EvaluationError
from fishing.evaluate import cross_validate, evaluate, write_results
from fishing.extract import extract, temper
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.report import write_report
from fishing.report.page import _commands
from fishing.store import ExtractionSettings

HOSTILE = "<i>\"&'</script>"


@pytest.fixture(scope="module")
def results(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate real features of two classes, at two temperatures."""
    folder = tmp_path_factory.mktemp("report")
    features = folder / "features.h5"
    lists = read_splits(devkit, ["trainval", "test"])
    settings = ExtractionSettings(load_net("tinyalexnet"))
    extract(settings, lists, features, data=devkit)
    (other,) = temper(features, folder / "t4.h5", [4.0])
    for path, target in ((features, "results"), (other, "results/tau-4")):
        write_results(evaluate(path), folder / target)
    return folder / "results"


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    return write_report(results, results.parent / "report")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = chromium.find()
    if binary is None:
        pytest.skip(f"there is no Chromium; as root: {chromium.LINE}")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    for argument in (
        *("headless", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update"),
        *("disable-sync", "force-prefers-reduced-motion", "window-size=1200,900"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
        *(() if os.geteuid() else ("no-sandbox",)),
    ):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options)
    yield driver
    driver.quit()


def _open(browser: webdriver.Chrome, page: Path) -> None:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # drop the messages of earlier pages
    browser.get(page.resolve().as_uri())


def _texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_no_request_and_no_error(browser: webdriver.Chrome, page: Path) -> None:
    _open(browser, page)
    Select(browser.find_element(By.ID, "choice")).select_by_visible_text("warm")
    events = [
        json.loads(e["message"])["message"] for e in browser.get_log("performance")
    ]
    urls = [
        e["params"]["request"]["url"]
        for e in events
        if e["method"] == "Network.requestWillBeSent"
    ]
    assert urls[0] == page.resolve().as_uri()
    assert all(url.startswith("data:") for url in urls[1:])
    assert browser.get_log("browser") == []
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert str(page.parent.parent) not in text


def test_it_says_what_results_say(browser: webdriver.Chrome, page: Path) -> None:
    record = json.loads((page.parent.parent / "results" / "results.json").read_text())
    _open(browser, page)
    assert browser.title == "tinyalexnet on VOC2007"
    rows = [row.split() for row in _texts(browser, "#features tbody tr")]
    expected = {f: f"{100 * r['mAP']:.1f}" for f, r in record["features"].items()}
    assert {row[0]: row[1] for row in rows} == expected
    assert record["source"]["weights_sha256"] in page.read_text()
    assert "--temperature 2" in browser.find_element(By.TAG_NAME, "pre").text
    shown = browser.find_elements(By.CSS_SELECTOR, "#gradients svg")
    assert len(shown) == 2  # temperatures, norms
    assert len(browser.find_elements(By.CSS_SELECTOR, "#similarities image")) >= 3


@pytest.fixture(scope="module")
def random_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the page of random features that say they are AlexNet's of VOC 2007."""
    folder = tmp_path_factory.mktemp("random")
    rng = np.random.default_rng(3)
    splits = {s: make_split(rng, 30) for s in ("trainval", "test")}
    path = write_file(folder / "f.h5", **splits)
    with h5py.File(path, "a") as file:
        file.attrs["net"] = "alexnet"
    write_results(evaluate(path), folder / "results")
    return write_report(folder / "results", folder / "report")


def test_sorting(browser: webdriver.Chrome, random_page: Path) -> None:
    _open(browser, random_page)
    names = _texts(browser, "#features tbody th")
    feature, mean = browser.find_elements(By.CSS_SELECTOR, "#features thead button")[:2]
    mean.click()
    values = [float(t) for t in _texts(browser, "#features tbody td:nth-child(2)")]
    assert values == sorted(values, reverse=True)
    assert _texts(browser, "#features tbody th") != names
    heading = browser.find_elements(By.CSS_SELECTOR, "#features thead th")[1]
    assert heading.get_attribute("aria-sort") == "descending"
    mean.send_keys(Keys.ENTER)
    values = [float(t) for t in _texts(browser, "#features tbody td:nth-child(2)")]
    assert values == sorted(values)
    assert heading.get_attribute("aria-sort") == "ascending"
    feature.click()
    assert _texts(browser, "#features tbody th") == names
    assert heading.get_attribute("aria-sort") is None


def test_choice_of_a_class(browser: webdriver.Chrome, page: Path, devkit: Path) -> None:
    _open(browser, page)
    (images,) = read_splits(devkit, ["test"])
    for column, name in enumerate(("cold", "warm")):
        Select(browser.find_element(By.ID, "choice")).select_by_visible_text(name)
        titles = [t for t in _texts(browser, "#class figure h3") if t]
        assert titles == [f"Precision over recall: {name}"]
        shown = [
            e
            for e in browser.find_elements(By.CSS_SELECTOR, "#class li")
            if e.is_displayed()
        ]
        assert len(shown) >= 24
        for item in shown:
            picture = item.find_element(By.TAG_NAME, "img")
            assert picture.get_property("naturalWidth") == 104
            place = images.image_id.index(picture.get_attribute("alt"))
            is_right = images.labels[place, column] > 0
            assert ("right" in item.get_attribute("class")) == is_right
    browser.find_element(By.LINK_TEXT, "cold").click()
    assert "cold" in next(t for t in _texts(browser, "#class figure h3") if t)


def test_choice_of_curves(browser: webdriver.Chrome, page: Path) -> None:
    _open(browser, page)

    def drawn() -> set[str]:
        found = browser.find_elements(By.CSS_SELECTOR, '#class g[id*="-curve-"]')
        ids = [e.get_attribute("id") for e in found if e.is_displayed()]
        return {i.split("-curve-")[1] for i in ids}

    assert drawn() == {"x7", "dW7"}
    for feature in ("x6+x7", "x7"):
        browser.find_element(By.CSS_SELECTOR, f'[data-curve="{feature}"]').click()
    assert drawn() == {"x6+x7", "dW7"}


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_sticks_out(browser: webdriver.Chrome, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        _open(browser, page)
        found = browser.execute_script("return document.documentElement.scrollWidth")
        assert found == width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark(browser: webdriver.Chrome, page: Path) -> None:
    script = """
        const paint = (e, key) => getComputedStyle(e)[key];
        return [paint(document.body, "backgroundColor"),
                paint(document.querySelector("#norms-text_1 text, svg text"), "fill")];
    """
    brightness = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        _open(browser, page)
        colours = browser.execute_script(script)
        brightness[scheme] = [
            sum(map(int, re.findall(r"\d+", c)[:3])) / 3 for c in colours
        ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    ground, ink = brightness["light"]
    assert ground > 200 > 60 > ink
    ground, ink = brightness["dark"]
    assert ground < 60 < 200 < ink


def test_names_that_are_hostile(browser: webdriver.Chrome, tmp_path: Path, rng) -> None:
    """The page has odd class names, no images, a class without AP and an own sum."""
    classes = ("cat", "dog", HOSTILE.replace("/", "|"))
    splits = {
        s: make_split(rng, 30, classes, failed=(2,)) for s in ("trainval", "test")
    }
    splits["test"].labels[:, 1] = splits["test"].failed_labels[:, 1] = -1
    path = write_file(tmp_path / "f.h5", **splits)
    features = ["x7", "dW6+dW7"]
    write_results(evaluate(path, features=features), tmp_path / "results")
    page = write_report(tmp_path / "results", tmp_path / "report")
    _open(browser, page)
    assert browser.get_log("browser") == []
    options = [t.strip() for t in _texts(browser, "#choice option")]
    assert options == [classes[0], classes[2]]
    Select(browser.find_element(By.ID, "choice")).select_by_index(1)
    (title,) = (t for t in _texts(browser, "#class figure h3") if t)
    assert title == f"Precision over recall: {classes[2]}"
    assert "im00" in browser.find_element(By.CSS_SELECTOR, "#class").text
    assert "name their data set with --data" in page.read_text()


def test_the_papers_figures_stand_beside_ours(
    browser: webdriver.Chrome, random_page: Path
) -> None:
    _open(browser, random_page)
    rows = {r.split()[0]: r.split() for r in _texts(browser, "#features tbody tr")}
    assert rows["x7"][3] == "79.4"
    assert rows["dW7"][3] == "80.9"
    assert rows["x5"][3] == "71.0"
    ours = float(rows["dW7"][1])
    assert float(rows["dW7"][4].replace("−", "-")) == pytest.approx(  # noqa: RUF001
        ours - 80.9, abs=0.06
    )
    by_class = _texts(browser, "#by-class thead th")[-2:]
    assert by_class == ["paper x7", "paper dW7"]


def test_the_papers_figures_by_class_and_published(
    browser: webdriver.Chrome, tmp_path: Path, rng
) -> None:
    classes = ("bus", "cat", "zebra")
    splits = {s: make_split(rng, 30, classes) for s in ("trainval", "test")}
    path = write_file(tmp_path / "f.h5", **splits)
    with h5py.File(path, "a") as file:
        file.attrs["net"] = "vgg16"
    write_results(evaluate(path, features=["x7", "dW7"]), tmp_path / "results")
    _open(browser, write_report(tmp_path / "results", tmp_path / "report"))
    rows = {r.split()[0]: r.split() for r in _texts(browser, "#by-class tbody tr")}
    assert rows["bus"][-2:] == ["92.8", "93.8"]
    assert rows["zebra"][-2:] == ["–", "–"]  # noqa: RUF001
    # Table 2 prints another mean of x7 than table 1.
    assert _texts(browser, "#by-class tfoot td")[-2:] == ["89.3", "90.0"]
    rows = {r.split()[0]: r.split() for r in _texts(browser, "#features tbody tr")}
    assert rows["x7"][3] == "89.4"
    published = _texts(browser, "#means table:not(#features) tbody tr")
    assert published[0].split() == ["Proposed,", "AlexNet", "80.9", "76.5"]
    assert "Zeiler et al. 79.0" in [" ".join(row.split()) for row in published]
    # Missing figures stay at the end, whichever way the column is sorted.
    button = browser.find_elements(
        By.CSS_SELECTOR, "#means table:not(#features) thead button"
    )[1]
    for _ in range(2):
        button.click()
        rows = _texts(browser, "#means table:not(#features) tbody tr")
        assert rows[-1].startswith("Zeiler")


def test_intervals_have_whiskers(
    browser: webdriver.Chrome, results: Path, tmp_path: Path
) -> None:
    evaluation = evaluate(results.parent / "features.h5", n_resamples=40)
    write_results(evaluation, tmp_path / "results")
    page = write_report(tmp_path / "results", tmp_path / "report")
    _open(browser, page)
    assert browser.get_log("browser") == []
    assert browser.find_elements(By.CSS_SELECTOR, "#class img[src^='data:']")
    rows = {r.split()[0]: r for r in _texts(browser, "#features tbody tr")}
    low, high = evaluation.record["features"]["dW7"]["interval"]["mAP"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in rows["dW7"]
    assert rows["dW7"].count("[") == 2
    assert rows["x7"].count("[") == 1
    assert "95 % interval: [" in browser.find_element(By.CLASS_NAME, "lead").text
    assert "40 resamples" in browser.find_element(By.CSS_SELECTOR, "#means .note").text
    assert len(browser.find_elements(By.CSS_SELECTOR, "#means svg")) == 2
    assert (page.parent / "plots" / "means.svg").is_file()
    cell = browser.find_element(By.CSS_SELECTOR, "#by-class tbody td")
    assert cell.get_attribute("title").startswith("95 %: [")
    command = browser.find_element(By.TAG_NAME, "pre").text
    assert "--bootstrap 40 --reference x7" in command


def test_folds(browser: webdriver.Chrome, results: Path, tmp_path: Path) -> None:
    evaluation = cross_validate(
        results.parent / "features.h5", split="trainval", n_folds=3
    )
    write_results(evaluation, tmp_path / "results")
    _open(browser, write_report(tmp_path / "results", tmp_path / "report"))
    assert browser.get_log("browser") == []
    assert "in 3 folds" in browser.find_element(By.CSS_SELECTOR, "header").text
    rows = {r.split()[0]: r.split() for r in _texts(browser, "#features tbody tr")}
    spread = evaluation.record["features"]["x5"]["spread"]["mAP"]
    assert rows["x5"][2:4] == ["±", f"{100 * spread:.1f}"]
    command = browser.find_element(By.TAG_NAME, "pre").text
    assert "--split trainval --backend" in command
    assert "--split trainval --folds 3" in command
    assert browser.find_elements(By.CSS_SELECTOR, "#class img[src^='data:']")


def test_images_that_are_not_where_they_were(
    results: Path, devkit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The copy's relative path leads nowhere.
    moved = tmp_path / "a" / "b" / "c"
    shutil.copytree(results.parent, moved)
    page = write_report(moved / "results", tmp_path / "report")
    (message,) = caplog.messages
    assert message.startswith("the page has no pictures: expected a folder of images")
    assert "--data" in message
    assert "name their data set with --data" in page.read_text()
    assert "data:image/jpeg" not in page.read_text()
    page = write_report(moved / "results", tmp_path / "report", data=devkit)
    assert "data:image/jpeg" in page.read_text()
    assert len(caplog.messages) == 1
    # Other images are not mistaken for them.
    record = json.loads((moved / "results" / "results.json").read_text())
    record["data"] = str(devkit / "JPEGImages")
    (moved / "results" / "results.json").write_text(json.dumps(record))
    write_report(moved / "results", tmp_path / "report")
    assert caplog.messages[-1].startswith("the page has no pictures: ")


def test_plots_as_files(page: Path) -> None:
    names = {p.stem for p in (page.parent / "plots").glob("*.svg")}
    assert names == {
        *("differences", "gram-backward", "gram-forward", "gram-product", "norms"),
        *("precision-recall-0", "precision-recall-1", "temperatures"),
    }


def test_equal_results_give_an_equal_page(
    page: Path, results: Path, devkit: Path, tmp_path: Path
) -> None:
    again = write_report(results, tmp_path / "again", data=devkit)
    assert again.read_bytes() == page.read_bytes()
    moved = tmp_path / "moved"
    shutil.copytree(results.parent, moved)
    (moved / "features.h5").rename(moved / "elsewhere.h5")
    with pytest.raises(Exception, match="expected a features file"):
        write_report(moved / "results", tmp_path / "r", data=devkit)
    found = write_report(
        moved / "results", tmp_path / "r", data=devkit, features=moved / "elsewhere.h5"
    )
    assert found.read_bytes() == page.read_bytes()


def test_mistakes(results: Path, devkit: Path, tmp_path: Path, rng) -> None:
    with pytest.raises(EvaluationError, match="`fishing evaluate` makes them"):
        write_report(tmp_path, tmp_path / "report")
    other = tmp_path / "kit"
    shutil.copytree(devkit, other)
    main = other / "ImageSets" / "Main"
    for file in main.glob("*_test.txt"):
        file.unlink()
    shutil.copy(main / "trainval.txt", main / "test.txt")
    with pytest.raises(DataError, match="found another list; name their data set"):
        write_report(results, tmp_path / "report", data=other)
    split = make_split(rng, 8)
    with pytest.raises(EvaluationError, match="with other settings"):
        write_report(
            results,
            tmp_path / "report",
            features=write_file(tmp_path / "f.h5", trainval=split, test=split),
        )
    assert not (tmp_path / "report").exists()
    (tmp_path / "report").touch()
    with pytest.raises(EvaluationError, match="choose another --output"):
        write_report(results, tmp_path / "report")


def test_results_at_other_temperatures_only_of_the_same(
    results: Path, tmp_path: Path
) -> None:
    shutil.copytree(results.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "results"
    path = copy / "tau-4" / "results.json"
    record = json.loads(path.read_text())
    record["C"] = 10.0
    path.write_text(json.dumps(record))
    write_report(copy, tmp_path / "report")
    assert not (tmp_path / "report" / "plots" / "temperatures.svg").exists()
    assert np.isfinite(record["features"]["dW7"]["mAP"])


def test_the_commands_say_what_determines_the_values() -> None:
    record = {
        "source": {
            **{"net": "vgg16", "backend": "caffe", "temperature": 4.0},
            **{"gpu_math": "tf32", "dtype": "float16"},
        },
        **{"train": "train", "test": "val", "protocol": "voc2012", "C": 1.0},
        "features_file": "../my f.h5",
    }
    extract_command, evaluate_command = _commands(record)
    for option in ("--temperature 4", "--dtype float16", "--device gpu:0 --tf32"):
        assert option in extract_command
    assert extract_command.endswith("--output 'my f.h5'")
    assert "--train train --test val --protocol voc2012 -C 1" in evaluate_command
    assert "--landmarks" not in evaluate_command


def test_the_commands_of_a_compressed_file_and_of_landmarks() -> None:
    projection = {"dimensions": 64, "splits": ["train"], "rows": 9}
    record = {
        "source": {
            **{"net": "vgg16", "backend": "onnx", "temperature": 2.0},
            **{"dtype": "int8", "projection": projection},
        },
        **{"train": "train", "test": "val", "protocol": "voc2012", "C": 1.0},
        **{"features_file": "small.h5", "landmarks": 100},
    }
    extract_command, compress_command, evaluate_command = _commands(record)
    assert "--dtype" not in extract_command
    assert extract_command.endswith("--output extracted.h5")
    assert compress_command == (
        "fishing compress extracted.h5 --output small.h5 --dimensions 64 --dtype int8 "
        "--split train"
    )
    assert evaluate_command.endswith("--landmarks 100")
