"""The processor time that control groups grant, as containers and batch systems do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fishing.mounts import Mount, read_mounts

# Where systemd and containers mount the groups, if mountinfo does not say it.
_USUAL = {"cgroup2": "sys/fs/cgroup", "cgroup": "sys/fs/cgroup/cpu"}


def quota_cores(root: Path = Path("/")) -> int | None:
    """Count the cores whose time a quota grants to this process, rounded up.

    The quotas of the process's control group and of all groups above it count, in the
    form of version 2 (``cpu.max``) and of version 1 (``cpu.cfs_quota_us``).

    Parameters
    ----------
    root : Path
        The root of the file system.

    Returns
    -------
    int or None
        None without any quota.
    """
    shares = [share for folder in _groups(root) for share in _shares(folder)]
    return max(1, math.ceil(min(shares))) if shares else None


def _groups(root: Path) -> Iterator[Path]:
    """List the folders of this process's groups, from its own up to the mount."""
    lines = _read(root / "proc/self/cgroup").splitlines()
    found = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    paths = {"cgroup2": "/", "cgroup": "/"}
    for number, controllers, path in found:
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    mounts = [
        mount
        for mount in read_mounts(root)
        if mount.kind == "cgroup2" or "cpu" in mount.options.split(",")
    ]
    for kind, usual in _USUAL.items():
        here = [m for m in mounts if m.kind == kind] or [Mount(kind, "/", usual, "")]
        for mount in here:
            below = _below(paths[kind], mount.top)
            for part in (below, *below.parents):
                yield root / mount.folder.lstrip("/") / part


def _below(path: str, top: str) -> PurePosixPath:
    """Give a group's path below the group that is mounted."""
    with suppress(ValueError):
        below = PurePosixPath(path).relative_to(top)
        if ".." not in below.parts:
            return below
    return PurePosixPath()  # in a namespace of its own, the group is the mount


def _shares(folder: Path) -> Iterator[float]:
    """Read the quotas of one group, in cores."""
    texts = [_read(folder / "cpu.max").split()]
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    texts.append([_read(folder / name).strip() for name in names])
    for text in texts:
        with suppress(ValueError, ZeroDivisionError):
            quota, period = map(int, text)
            if quota > 0 and period > 0:
                yield quota / period


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
