"""Chromium for the tests of the report's page: installed by `make test`.

Where it is missing, apt installs it; without root rights the one line that does so is
printed, and the run ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LINE = "apt-get install -y --no-install-recommends chromium chromium-driver"


def find() -> str | None:
    """Find the browser on PATH."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def main() -> int:
    """Install the browser unless it is there; 0 where it is, in the end."""
    if find():
        return 0
    if os.geteuid() or not shutil.which("apt-get"):
        print(
            f"chromium: the tests need it; run as root, then try again:\n{LINE}",
            file=sys.stderr,
        )
        return 2
    print(f"chromium: {LINE}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", LINE):
        done = subprocess.run(
            command.split(), env=environment, capture_output=True, text=True
        )
        if done.returncode:
            print(f"{command} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
