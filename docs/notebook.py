"""Run a notebook without Jupyter, and write it as a page.

`make tutorial` runs docs/tutorial.ipynb and stores its outputs. A test compares them
with those of a run of its own, and the site shows the page.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(notebook: dict[str, Any]) -> None:
    """Run the cells one after the other in this process, and store their outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        value = None
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
            if isinstance(last, ast.Expr):
                code = compile(ast.Expression(last.value), f"cell {number}", "eval")
                value = eval(code, names)
        cell["execution_count"] = number
        cell["outputs"] = [
            *_printed(stdout.getvalue()),
            *(_shown(value, number) if value is not None else []),
        ]


def _printed(text: str) -> list[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    return [{"output_type": "stream", "name": "stdout", "text": lines}] if text else []


def _shown(value: Any, number: int) -> list[dict[str, Any]]:
    """Store the value of a cell as Jupyter would: Pillow's images as PNG."""
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if png := getattr(value, "_repr_png_", None):
        picture = base64.b64encode(png()).decode()
        data = {"image/png": picture, "text/plain": [f"<{type(value).__name__}>"]}
    shown = {"output_type": "execute_result", "execution_count": number}
    return [{**shown, "data": data, "metadata": {}}]


def page(notebook: dict[str, Any]) -> str:
    """Write the cells and their outputs as a page in Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![](data:image/png;base64,{data['image/png']})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def main(path: Path, output: Path) -> None:
    """Run a notebook in a folder of its own."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    output = output.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(notebook)
        os.chdir("/")
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[-1]))
