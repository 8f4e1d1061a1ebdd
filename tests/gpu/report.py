"""Write the report, whose sections have a status and a table, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class NotRunError(Exception):
    """A step cannot be run here, for the reason given."""


class Section(NamedTuple):
    """What a step found.

    Attributes
    ----------
    title : str
    status : str
        ``passed``, ``failed``, ``measured`` or ``not run``.
    text : str
        Anything that the table does not say, such as a reason.
    head : list of str
    rows : list of lists
    """

    title: str
    status: str
    text: str
    head: list[str]
    rows: list[list[Any]]


def as_markdown(record: Mapping[str, Any]) -> str:
    """Write a record as Markdown.

    Parameters
    ----------
    record : mapping
        ``machine`` is a mapping; ``sections`` holds the fields of each `Section`.
    """
    lines = ["# GPU check", ""]
    lines += [f"- {key}: {value}" for key, value in record["machine"].items()]
    for section in record["sections"]:
        lines += ["", f"## {section['title']}: {section['status']}"]
        if section["text"]:
            is_log = "\n" in section["text"]
            fence = ["```"] if is_log else []
            lines += ["", *fence, section["text"].strip(), *fence]
        if section["rows"]:
            rows = [section["head"], ["---"] * len(section["head"]), *section["rows"]]
            lines += ["", *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n".join(lines) + "\n"


def write_report(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write report.md and report.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": as_markdown(record),
        "report.json": json.dumps(record, indent=1) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]
