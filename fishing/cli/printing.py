"""The output of several commands: records as JSON and tables as text."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import click


def print_json(record: Any) -> None:
    """Print a record as one line of JSON."""
    click.echo(json.dumps(record))


def print_table(record: dict[str, Any]) -> None:
    """Print the average precisions of a record in the width of the terminal."""
    from fishing.evaluate import format_table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(format_table(record, width))
