"""How many cores this process may really use: its CPU affinity and the quotas of its control groups (v1 and v2).

In a container `os.cpu_count()` is the machine's count; a scorer with that many threads under a quota of two is throttled
for most of every period.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Returns how many threads can run at once: the affinity mask, cut to the smallest quota above this process; at least 1.

    A quota of 2.5 cores gives 2: a third thread would be throttled, and the rest serves the event loop.

    Args:
        root: where `proc` and `sys` are; another directory than `/` only to read a recorded machine.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores(root)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def quota_cores(root: Path) -> float | None:
    """Returns the smallest quota from this process's control groups up to the root, in cores; None without one."""
    quotas: list[float | None] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(directory) for directory in _way_up(root / "sys/fs/cgroup", group)]
        elif "cpu" in controllers.split(","):
            for mount in ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"):
                quotas += [_quota_v1(directory) for directory in _way_up(root / mount, group)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _way_up(mount: Path, group: str) -> list[Path]:
    # Inside a container the group is often the host's name for it and not under the mount; the mount itself has the quota then.
    inside = PurePosixPath(group.lstrip("/"))
    return [mount / inside, *(mount / parent for parent in inside.parents)]


def _quota_v2(directory: Path) -> float | None:
    words = _read(directory / "cpu.max").split()
    return float(words[0]) / float(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(directory: Path) -> float | None:
    quota, period = _read(directory / "cpu.cfs_quota_us").strip(), _read(directory / "cpu.cfs_period_us").strip()
    return float(quota) / float(period) if quota and period and float(quota) > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):  # absent outside Linux, and where a container hides it: then no quota is known
        return ""
