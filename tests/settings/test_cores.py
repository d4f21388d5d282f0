"""How many cores there are, read from recorded machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attune.service.cores import quota_cores, usable_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return root


def test_a_container_with_its_own_view_of_version_2(tmp_path: Path) -> None:
    assert quota_cores(write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"})) == 2.5


def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod7/box\n",
        "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
        "sys/fs/cgroup/kubepods/pod7/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/kubepods/pod7/box/cpu.max": "max 100000\n",
    }
    assert quota_cores(write(tmp_path, files)) == 1.5


def test_version_1_under_either_name_of_its_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert quota_cores(write(tmp_path, files)) == 4.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
    ],
    ids=["no control groups", "version 2 without a limit", "version 1 without a limit"],
)
def test_without_a_quota_the_affinity_decides(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, files)
    assert quota_cores(root) is None
    assert usable_cores(root) == len(os.sched_getaffinity(0))


def test_a_quota_below_one_core_is_one_thread(tmp_path: Path) -> None:
    assert usable_cores(write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})) == 1


def test_a_quota_above_the_affinity_gives_no_more_threads(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000\n"})
    assert usable_cores(root) == len(os.sched_getaffinity(0))
