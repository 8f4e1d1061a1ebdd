"""Progress on a terminal, as a user sees it, and in a log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from fishing.cli import progress as module
from fishing.cli.progress import ProgressBar

EXTRACT = ["-m", "fishing", "extract", "--net", "tinyalexnet", "--batch-size", "4"]
# Work that a user interrupts, and that reports bytes, other units, a label that goes on
# (as `evaluate` has it), and no total.
WORK = """
import logging, time
from fishing.cli.main import main
from fishing.cli.progress import ProgressBar
import click

@main.command()
@click.argument("end")
def work(end):
    with ProgressBar() as progress:
        for done in range(3):
            progress("weights", done * 10**6, 10**7, "B")
        logging.getLogger("fishing").info("a message")
        for done, name in enumerate(("x7", "dW7", "dW7")):
            progress(name, done, 2, "features")
        progress("no end", 7, None, "images")
        progress("tests", 3, 10, "images")
        if end == "error":
            raise OSError("the disk is gone")
        print("ready", flush=True)
        time.sleep(60)

main()
"""


def _on_a_terminal(
    arguments: list[str], interrupt: bool = False
) -> tuple[int, list[str]]:
    """Run Python with a terminal of 100 columns as stderr; return the lines it shows.

    A line is what stands between two line ends, with all that was drawn over.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *arguments], stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    assert process.stdout
    if interrupt:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    drawn = b""
    try:
        while chunk := os.read(ours, 1000):
            drawn += chunk
    except OSError:  # the other end is closed
        os.close(ours)
    process.stdout.close()
    return process.wait(), drawn.decode().rstrip().replace("\r\n", "\n").split("\n")


def test_a_bar_on_a_terminal(devkit: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(devkit), "--split", "trainval", "--split", "test"]
    arguments += ["--output", str(tmp_path / "f.h5")]
    code, lines = _on_a_terminal([*EXTRACT, *arguments])
    assert code == 0
    for split, n in (("trainval", 26), ("test", 14)):
        (line,) = (one for one in lines if f"{split}: 100%" in one)
        # Count, time, time left and rate.
        assert re.search(rf"\| {n}/{n} \[\d+:\d+<00:00, +[\d.]+ images/s\]$", line)


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("error", 2, "the disk is gone"),
        ("interrupt", 130, "interrupted; run the same command again"),
    ],
)
def test_the_bar_is_left_tidy(end: str, code: int, message: str) -> None:
    found, lines = _on_a_terminal(["-c", WORK, "work", end], end == "interrupt")
    assert (found, lines[-1]) == (code, f"fishing: {message}")
    ends = [line.rpartition("\r")[2].rstrip() for line in lines[:-1]]
    assert ends[0] == "fishing: a message"  # above the bar, not in it
    patterns = [
        r"weights: +20%\|.*\| 2.00M/10.0M \[.*B/s\]$",
        r"dW7: 100%\|.*\| 2/2 \[",
        r"no end: 7 images \[",
        r"tests: +30%\|.*\| 3/10 \[",
    ]
    for line, pattern in zip(ends[1:], patterns, strict=True):
        assert re.match(pattern, line)


def test_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with ProgressBar() as progress:
        for seconds in range(0, 25, 5):
            now = 100.0 + seconds
            progress("test", 20 * seconds, 1000, "images")
        assert capsys.readouterr().err.splitlines() == [
            "test: 200/1000 images, 20.00 images/s, 00:40 left",
            "test: 400/1000 images, 20.00 images/s, 00:30 left",
        ]
        # Other work has a rate of its own, which what is done already does not raise.
        now = 130.0
        progress("weights", 400_000_000, 553_000_000, "B")
        now = 140.0
        progress("weights", 430_000_000, 553_000_000, "B")
        progress("weights", 431_000_000, 553_000_000, "B")
        now = 150.0
        progress("no size", 5_000_000, None, "B")
        now = 160.0
        progress("no size", 7_000_000, None, "B")
    assert capsys.readouterr().err.splitlines() == [
        "weights: 430M/553MB, 3.00MB/s, 00:41 left",
        "no size: 7.00MB, 200kB/s",
    ]


def test_no_line_in_the_first_seconds(devkit: Path, tmp_path: Path) -> None:
    assert module._SECONDS == 10
    arguments = ["--data", str(devkit), "--split", "test"]
    arguments += ["--output", str(tmp_path / "f.h5")]
    done = subprocess.run(
        [sys.executable, *EXTRACT, *arguments], capture_output=True, text=True
    )
    assert done.stderr == "fishing: tinyalexnet runs on cpu, backend onnx\n"
