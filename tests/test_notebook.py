"""The notebook of the tutorial: its cells run, and give the outputs that it shows."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
SCRIPT = ROOT / "docs" / "notebook.py"
NUMBER = re.compile(r"[-+]?\d+\.\d+")


def _cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "source": source.splitlines(keepends=True)}


def _run(notebook: Path, output: Path) -> list[dict[str, Any]]:
    """Run a notebook; return the outputs of its cells."""
    subprocess.run([sys.executable, SCRIPT, notebook, output], check=True)
    return _outputs(output)


def _outputs(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_the_notebook_gives_the_outputs_that_it_shows(tmp_path: Path) -> None:
    shown = _outputs(NOTEBOOK)
    given = _run(NOTEBOOK, tmp_path / "run.ipynb")
    assert len(given) == len(shown) > 6
    for ours, expected in zip(given, shown, strict=True):
        _compare(ours, expected)


def _compare(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ours["output_type"] == expected["output_type"]
    if "data" in expected:
        a, b = (_pixels(output["data"]["image/png"]) for output in (ours, expected))
        assert a.shape == b.shape
        assert np.abs(a - b).mean() < 4
        return
    a, b = ("".join(output["text"]) for output in (ours, expected))
    assert NUMBER.sub("#", a).split() == NUMBER.sub("#", b).split()
    assert [float(x) for x in NUMBER.findall(a)] == pytest.approx(
        [float(x) for x in NUMBER.findall(b)], abs=0.3
    )


def _pixels(png: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    return np.asarray(image, np.float32)


def test_cells_share_names_and_show_their_last_value(tmp_path: Path) -> None:
    cells = [_cell("x = 2\nprint(x)\nx + 1"), _cell("x *= 3"), _cell("x")]
    notebook = tmp_path / "small.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    printed, three, six = _run(notebook, tmp_path / "run.ipynb")
    assert printed["text"] == ["2\n"]
    assert [three["data"]["text/plain"], six["data"]["text/plain"]] == [["3"], ["6"]]


def test_a_cell_that_fails_is_an_error(tmp_path: Path) -> None:
    notebook = tmp_path / "wrong.ipynb"
    notebook.write_text(json.dumps({"cells": [_cell("1 / 0")]}))
    with pytest.raises(subprocess.CalledProcessError):
        _run(notebook, tmp_path / "run.ipynb")
    assert not (tmp_path / "run.ipynb").exists()


def test_other_outputs_are_found_out() -> None:
    def text(line: str) -> dict[str, Any]:
        return {"output_type": "stream", "text": [line]}

    _compare(text("dW7 68.3\n"), text("dW7 68.4\n"))
    for other in ("dW7 69.3\n", "dW6 68.3\n", "dW7 68.3 1.0\n"):
        with pytest.raises(AssertionError):
            _compare(text(other), text("dW7 68.3\n"))
