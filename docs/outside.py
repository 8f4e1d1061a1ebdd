"""A hook of MkDocs that adds pages outside docs/ and the notebook, and adapts links."""

from __future__ import annotations

import json
import posixpath
import re
import runpy
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
#: Paths in the repository, and on the site.
PAGES = {
    "README.md": "index.md",
    "docs/tutorial.ipynb": "notebook.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    "NOTICE": "NOTICE.txt",
    "caffe_patch/README.md": "caffe_patch/README.md",
    "models/tinyalexnet/PROVENANCE.md": "models/tinyalexnet/PROVENANCE.md",
}
_notebook_page = runpy.run_path(str(ROOT / "docs" / "notebook.py"))["page"]
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/."""
    for path, uri in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            name = posixpath.basename(path)
            download = f'<a href="../{name}" download>This page as a notebook</a>'
            text = f"{_notebook_page(json.loads(text))}\n{download}\n"
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    uri = page.file.src_uri
    path = next((p for p, u in PAGES.items() if u == uri), f"docs/{uri}")

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        target = PAGES.get(target, target.removeprefix("docs/"))
        target = f"{target}/README.md" if f"{target}/README.md" in PAGES else target
        return "](" + posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _LINK.sub(site_link, markdown)
