"""Processes of our own: how they are started, and what they see."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python_command(work: str) -> list[str]:
    """Make the command of a process that sees the modules that this one sees.

    But for those of the current folder, which may hold anything.

    Parameters
    ----------
    work : str
        Statements to run, the imports of `fishing` among them.
    """
    entries = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p)]
    entries.append(str(Path(__file__).parents[1]))
    return [sys.executable, "-c", f"import sys; sys.path[:] = {entries!r}; {work}"]
