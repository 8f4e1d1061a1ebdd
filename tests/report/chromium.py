"""Chromium, in which the tests of the report's page run; `make test` calls this script.

If it is missing, apt installs it. If that cannot be done, for want of root rights, of
apt or of a network, the reason is printed, and the tests of the page skip. If the
variable CI is set, as in continuous integration, that is an error.
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
    """Install the browser unless it is there; return the exit code."""
    reason = None if find() else _install()
    if reason is None:
        return 0
    print(f"chromium: {reason}; the tests of the page skip", file=sys.stderr)
    return 2 if os.environ.get("CI") else 0


def _install() -> str | None:
    """Install the browser; return the reason if that fails."""
    if os.geteuid() or not shutil.which("apt-get"):
        return f"not installed, and only root can run `{LINE}`"
    print(f"chromium: {LINE}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", LINE):
        done = subprocess.run(
            command.split(), env=environment, capture_output=True, text=True
        )
        if done.returncode:
            return f"`{command}` failed:\n{done.stderr[-2000:]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
