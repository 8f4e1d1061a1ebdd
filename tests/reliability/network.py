"""Processes that are watched: whom they tell anything, and what they leave in HOME.

`network.c` is preloaded into each process, so what C and C++ libraries do counts too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_HIDDEN = re.compile("FISHING_|XDG_|MPL|ORT_|USER|LOGNAME|PYTEST|DO_NOT_TRACK")


def build(folder: Path) -> Path:
    """Compile network.c."""
    library = folder / "network.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, _HERE / "network.c"]
    subprocess.run([*map(str, command), "-ldl"], check=True)
    return library


class Ended:
    """How a process ended, what it told the network, and what it left in HOME."""

    def __init__(self, library: Path, folder: Path, home: Path, *command: str) -> None:
        home.mkdir()
        log = home.with_name("network.log")
        self.process = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={
                **{k: v for k, v in os.environ.items() if not _HIDDEN.match(k)},
                "HOME": str(home),
                "LD_PRELOAD": str(library),
                "NETWORK_LOG": str(log),
                "FISHING_VOC": "VOC2007",
                "PYTHONPATH": str(_HERE.parents[1]),
            },
            capture_output=True,
            text=True,
        )
        self.told = log.read_text().splitlines() if log.exists() else []
        self.left = [str(p.relative_to(home)) for p in home.rglob("*")]
