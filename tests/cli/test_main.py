from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner, Result

from fishing.backends import BACKENDS
from fishing.cli.main import main
from fishing.kernels import FEATURES
from fishing.store import ExtractionSettings, load

COMMANDS = [
    *("fetch", "extract", "evaluate", "export", "search", "retrieval", "temper"),
    *("classify", "score", "select", "info", "photographs", "reproduce", "report"),
    "compress",
    *("info", "photographs", "reproduce", "report"),
]


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="fishing")


@pytest.fixture(scope="module")
def features(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "features.h5"
    result = _run(
        *("extract", "--net", "tinyalexnet", "--data", devkit, "--output", path),
        *("--split", "trainval", "--split", "test"),
    )
    assert result.exit_code == 0, result.output
    assert f"{path} trainval: 26 of 26 images, 0 failed" in result.output
    return path


def test_help_names_the_commands() -> None:
    result = _run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output
    assert "\n    fishing evaluate features.h5\n" in result.output
    assert "..." not in result.output.split("Commands:")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("command", main.commands)
def test_help_has_an_example(command: str) -> None:
    """The examples name arguments and options that there are."""
    lines = _run(command, "--help").output.splitlines()
    examples = [line for line in lines if line.startswith("    fishing ")]
    assert examples
    for line in examples:
        _, name, *arguments = shlex.split(line)
        assert name == command
        main.commands[command].make_context(command, arguments)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fishing eval", "evaluate"),
        ("fishing evaluate --pro", "--protocol"),
        ("fishing evaluate --protocol voc2012 --feat", "--feature"),
        ("fishing extract --backend openvino-", "openvino-bfloat16"),
    ],
)
def test_completion_in_a_shell(words: str, expected: str) -> None:
    environment = {
        **os.environ,
        "_FISHING_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [str(Path(sys.executable).parent / "fishing")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == f"plain,{expected}\n"


def test_info(features: Path) -> None:
    result = _run("info", features)
    assert "net               tinyalexnet" in result.output
    assert "trainval: 26 images, 0 failed, 2 classes" in result.output
    record = json.loads(_run("info", features, "--json").output)
    assert record["splits"]["test"]["blobs"]["backward/y7"] == 768


def test_info_verifies(features: Path, tmp_path: Path) -> None:
    result = _run("info", features, "--verify")
    assert result.exit_code == 0
    assert result.output.endswith("verified: all checksums match\n")
    assert json.loads(_run("info", features, "--verify", "--json").output)["verified"]
    assert "verified" not in _run("info", features).output
    with h5py.File(features) as file:
        offset = file["test/backward/y7"].id.get_offset()
    damaged = bytearray(features.read_bytes())
    damaged[offset + 1000] ^= 16
    (tmp_path / "f.h5").write_bytes(damaged)
    assert _run("info", tmp_path / "f.h5").exit_code == 0
    result = _run("info", tmp_path / "f.h5", "--verify")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "found damage in test/backward/y7: other values than" in result.stderr


def test_evaluate(features: Path, tmp_path: Path) -> None:
    result = _run("evaluate", features, "--output", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "trainval to test, protocol voc2007, C = 1; at 11 points" in result.output
    rows = [line.split()[0] for line in result.output.splitlines()[2:-1]]
    assert rows == list(FEATURES)
    record = json.loads((tmp_path / "r" / "results.json").read_text())
    assert record["features"]["x7"]["mAP"] > 0.9  # warm against cold is easy
    assert (tmp_path / "r" / "dW7" / "comp1_cls_test_warm.txt").is_file()


def test_evaluate_json(features: Path, tmp_path: Path) -> None:
    result = _run(
        *("evaluate", features, "--output", tmp_path, "--json", "-C", 10),
        *("--feature", "dW7", "--feature", "x7", "--protocol", "voc2012"),
    )
    record = json.loads(result.stdout)
    assert list(record["features"]) == ["dW7", "x7"]
    assert (record["C"], record["protocol"]) == (10.0, "voc2012")


def test_evaluate_with_intervals(features: Path, tmp_path: Path) -> None:
    command = ["evaluate", features, "--output", tmp_path, "--bootstrap", 30]
    command += ["--feature", "x7", "--feature", "dW7"]
    result = _run(*command)
    assert result.exit_code == 0, result.output
    head, x7, dW7 = result.output.splitlines()[-4:-1]
    assert head.split() == ["mAP", "95", "%", "-", "x7", "95", "%", "above", "below"]
    assert x7.startswith("x7 ")
    assert len(dW7.split()) == 9
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["bootstrap"]["resamples"] == 30
    record = json.loads(_run(*command, "--reference", "dW7", "--json").stdout)
    assert record["bootstrap"]["reference"] == "dW7"
    assert "difference" in record["features"]["x7"]


def test_evaluate_in_folds(features: Path, tmp_path: Path) -> None:
    command = ["evaluate", features, "--split", "trainval", "--feature", "dW7"]
    result = _run(*command, "--folds", 4, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "per cent, 4 folds of trainval, protocol voc2007" in result.output
    assert result.output.splitlines()[-3].split() == ["mAP", "+/-"]
    record = json.loads(_run(*command, "--json", "--output", tmp_path).stdout)
    assert (record["folds"], record["test"]) == (5, "trainval")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "all", "--test", "test"], "either --split, or --train and --test"),
        (["--folds", "3"], "--folds needs --split"),
        (["--reference", "x7"], "--reference needs --bootstrap"),
        (["--split", "test", "--folds", "1"], "x>=2"),
        (["--bootstrap", "5", "--reference", "x4"], "expected a reference among"),
    ],
)
def test_evaluate_options_that_do_not_go_together(
    features: Path, options: list[str], message: str
) -> None:
    result = _run("evaluate", features, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_extract_json_of_a_folder(devkit: Path, tmp_path: Path) -> None:
    command = ["extract", "--net", "tinyalexnet", "--data", devkit / "JPEGImages"]
    command += ["--output", tmp_path / "f.h5", "--json"]
    for was_there in (False, True):
        record = json.loads(_run(*command).stdout)
        assert record["splits"] == [
            {
                **{"split": "all", "n_images": 40, "n_failed": 0, "n_damaged": 0},
                **{"was_there": was_there, "left_alone": {}},
            }
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "none.h5"], "expected a features file at 'none.h5', found none"),
        (["extract", "--net", "lenet", "--data", "."], "expected one of the nets"),
        (["extract", "--net", "tinyalexnet", "--data", "none"], "found none; name one"),
        (["fetch", "lenet"], "expected one of the nets alexnet, caffenet"),
        (["evaluate", "none.h5"], "`fishing extract` makes one"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[object], message: str) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("fishing: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("backend", "device"),
    [("auto", "gpu"), ("onnx", "gpu:0,0"), *((name, "gpu:98,99") for name in BACKENDS)],
)
def test_a_device_that_is_not_there_ends_in_one_line(
    devkit: Path, tmp_path: Path, backend: str, device: str
) -> None:
    arguments = ["extract", "--net", "tinyalexnet", "--data", devkit / "JPEGImages"]
    arguments += ["--output", tmp_path / "f.h5", "--backend", backend]
    test_mistakes_end_in_one_line([*arguments, "--device", device], "expected ")
    assert not list(tmp_path.iterdir())


def test_weights_that_were_not_fetched(devkit: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fishing", "extract", "--net", "vgg16"]
    command += ["--split", "trainval", "--data", str(devkit)]
    environment = {**os.environ, "FISHING_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 2
    assert b"run `fishing fetch vgg16`" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_data_come_from_the_environment(devkit: Path, tmp_path: Path) -> None:
    result = CliRunner(env={"FISHING_VOC": str(devkit)}).invoke(
        main,
        ["extract", "--net", "tinyalexnet", "--split", "nosplit"],
        prog_name="fishing",
    )
    assert "there are: test trainval" in result.stderr


def test_what_the_system_refuses_is_one_line(features: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (
        ["info", tmp_path],
        ["info", tmp_path / "file" / "f.h5"],
        ["info", tmp_path / ("x" * 300)],
        ["evaluate", features, "--feature", "x8", "--output", tmp_path / "file" / "r"],
        ["extract", "--net", "tinyalexnet", "--data", tmp_path / ("x" * 300)],
        ["extract", "--net", "tinyalexnet", "--output", "", "--data", features.parent],
    ):
        result = _run(*arguments)
        assert result.exit_code == 2, (arguments, result.output, result.exception)
        assert "Traceback" not in result.stderr


def test_a_full_standard_output(features: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fishing", "info", str(features)],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_early(features: Path) -> None:
    command = f"'{sys.executable}' -m fishing info '{features}' | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert done.stdout.startswith(b"backend ")
    assert done.stderr == b""


def test_search(features: Path, devkit: Path, tmp_path: Path) -> None:
    photo, sheet = devkit / "JPEGImages" / "test_005.jpg", tmp_path / "sheet.png"
    result = _run(
        *("search", features, "--query", photo, "-k", 3, "--split", "test"),
        *("--sheet", sheet, "--data", devkit),
    )
    assert result.exit_code == 0, result.output
    header, first, *_, last = result.stdout.splitlines()
    assert header.split() == ["dW7", "similarity", "split", "image", "classes"]
    assert first.split() == ["1", "1.0000", "test", "test_005", "cold"]
    assert last == f"drawn to {sheet}"
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_search_json(features: Path) -> None:
    arguments = ["search", features, "--query-id", "test_005", "--json", "-k", 4]
    record = json.loads(_run(*arguments, "--feature", "x7", "--feature", "x5").stdout)
    assert record["query"] == "test_005"
    assert list(record["neighbours"]) == ["x7", "x5"]
    for neighbours in record["neighbours"].values():
        assert len(neighbours) == 4
        assert "test_005" not in {n["image_id"] for n in neighbours}


def test_retrieval(features: Path) -> None:
    result = _run("retrieval", features, "--feature", "dW7")
    headline, classes, row = result.stdout.splitlines()
    assert headline.endswith("in per cent, 14 queries of test")
    assert classes.split() == ["mAP", "cold", "warm"]
    assert row.startswith("dW7 ")
    result = _run("retrieval", features, "--split", "trainval", "--json")
    record = json.loads(result.stdout)
    assert (record["split"], record["n_queries"]) == ("trainval", 26)
    assert list(record["features"]) == list(FEATURES)


def test_search_takes_one_kind_of_query(features: Path) -> None:
    for arguments in ([], ["--query", "photo.jpg", "--query-id", "test_005"]):
        result = _run("search", features, *arguments)
        assert result.exit_code == 2
        assert "exactly one of --query and --query-id" in result.stderr


def test_options_are_the_fields_of_the_settings() -> None:
    fields = {field.name for field in dataclasses.fields(ExtractionSettings)}
    for command in ("extract", "reproduce"):
        options = {option.name for option in main.commands[command].params}
        # What is stored follows from --feature.
        assert fields - {"net", "stored"} == options & fields - {"net"}


def test_reproduce_hands_the_settings_on(devkit: Path, tmp_path: Path) -> None:
    result = _run(
        *("reproduce", "--net", "tinyalexnet", "--data", devkit, "--output", tmp_path),
        *("--temperature", 4, "--dtype", "float16", "--compression", "gzip"),
    )
    assert result.exit_code == 0, result.output
    settings = load(tmp_path / "VOC2007-tinyalexnet.h5").settings
    expected = {"temperature": 4.0, "dtype": "float16", "compression": "gzip"}
    assert {key: settings[key] for key in expected} == expected
    record = json.loads((tmp_path / "VOC2007-tinyalexnet" / "results.json").read_text())
    assert record["source"] == settings


def test_reproduce_and_report(devkit: Path, tmp_path: Path) -> None:
    command = ["reproduce", "--net", "tinyalexnet", "--data", devkit]
    command += ["--output", tmp_path / "r"]
    result = _run(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Table 1 (left): mean average precision\n")
    assert result.stdout.rstrip().endswith(f"written to {tmp_path / 'r'}")
    comparison = json.loads(_run(*command, "--json").stdout)
    assert list(comparison["results"]["VOC2007"]) == ["tinyalexnet"]
    # The results remember where the images were.
    result = _run(
        *("report", tmp_path / "r" / "VOC2007-tinyalexnet"),
        *("--output", tmp_path / "page"),
    )
    assert result.stdout == f"{tmp_path / 'page' / 'index.html'}\n"
    assert "data:image/jpeg" in (tmp_path / "page" / "index.html").read_text()
