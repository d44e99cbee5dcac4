"""The quota of CPU time, from made-up control groups and from a real one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.execution import devices
from bench.execution.processor import cpu_quota

V1_MOUNT = "33 27 0:28 {top} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "34 27 0:29 {top} {at} rw,relatime - cgroup2 cgroup2 rw"


def machine(root: Path, *, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    """A made-up /proc and /sys."""
    own = root / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    other = "22 1 0:21 / /proc rw,nosuid - proc proc rw"
    (own / "mountinfo").write_text("\n".join([other, *mounts]) + "\n")
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = V2_MOUNT.format(top="/", at="/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}, 3.0),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "garbage\n"}, None),
        ({"a/b/cpu.max": "100000 0\n"}, None),
        ({"a/other/cpu.max": "100000 100000\n"}, None),
        ({}, None),
    ],
)
def test_version_2_takes_the_least_on_the_way_up(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    placed = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    assert cpu_quota(machine(tmp_path, cgroup="0::/a/b\n", mounts=[V2], files=placed)) == expected


def test_version_1_says_it_in_two_files(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
    }
    cgroup = "5:memory:/elsewhere\n4:cpu,cpuacct:/a/b\n0::/\n"
    mounts = [V1_MOUNT.format(top="/"), V2_MOUNT.format(top="/", at="/sys/fs/cgroup/unified")]
    assert cpu_quota(machine(tmp_path, cgroup=cgroup, mounts=mounts, files=files)) == 2.5


def test_a_container_that_sees_the_hosts_path_has_its_group_at_the_mount(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    mounts = [V1_MOUNT.format(top="/docker/abc")]
    assert cpu_quota(machine(tmp_path, cgroup="4:cpu,cpuacct:/docker/abc\n", mounts=mounts, files=files)) == 2.0


def test_a_mount_point_may_hold_a_space(tmp_path: Path) -> None:
    mounts = [V2_MOUNT.format(top="/", at="/sys/my\\040groups")]
    files = {"sys/my groups/a/cpu.max": "300000 100000\n"}
    assert cpu_quota(machine(tmp_path, cgroup="0::/a\n", mounts=mounts, files=files)) == 3.0


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1.0, 1), (1.5, 2), (2.0, 2), (64.0, 4), (None, 4)])
def test_the_quota_counts_beside_the_affinity(monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(devices, "cpu_quota", lambda: quota)
    assert devices.num_cores() == cores


def new_group() -> tuple[Path, str, dict[str, str]]:
    """A control group of this test's own, the file that takes members, and what sets its quota to a tenth of a core."""
    for top, quota in (
        (Path("/sys/fs/cgroup"), {"cpu.max": "10000 100000"}),
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "10000"}),
    ):
        group = top / f"bench-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if all((group / name).exists() for name in quota):
                return group, "cgroup.procs", quota
            group.rmdir()
    pytest.skip("no control group can be made here")


def test_a_process_in_a_real_group_knows_its_quota() -> None:
    group, members, quota = new_group()
    ask = "import os, sys; sys.stdin.read(1); from bench.execution.processor import cpu_quota; print(cpu_quota())"
    try:
        for name, value in quota.items():
            (group / name).write_text(value)
        child = subprocess.Popen([sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        (group / members).write_text(str(child.pid))
        answer, _ = child.communicate("x", timeout=60)
        assert answer.strip() == "0.1"
    finally:
        group.rmdir()
