"""The processor that this process may use: its name, and the CPU time that its control groups grant.

Imports nothing heavy.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path


def processor_name() -> str:
    """The processor's name as Linux has it, elsewhere the architecture's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time per time that the process's control groups grant, in cores; None without a limit, or without groups.

    The least along the hierarchy: a container's limit may stand on a group above the process's own. Version 2 says it
    in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us; a machine may have both versions mounted.
    root: where proc and sys are looked for.
    """
    found = [quota for group in _groups(root) if (quota := _own_quota(group)) is not None]
    return min(found, default=None)


def _own_quota(group: Path) -> float | None:
    """What one group grants; None for "max" in version 2, -1 in version 1, and for what is no number."""
    try:
        if (group / "cpu.max").exists():
            quota, period = map(float, (group / "cpu.max").read_text().split())
        else:
            quota, period = (float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that limit this process's CPU time, from its own up, in each hierarchy."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, own = membership.split(":", 2)
        for top, mounted in _mounts(mounts, controllers):
            # A container without a namespace of its own has its group's path from the host, and only that mounted.
            inner = own.removeprefix(top if own == top or own.startswith(f"{top}/") else "").strip("/")
            group = root / mounted.strip("/") / inner
            yield from [group, *group.parents][: len(Path(inner).parts) + 1]


def _mounts(mounts: list[str], controllers: str) -> Iterator[tuple[str, str]]:
    """(group at the top, mount point) where a hierarchy with the CPU controller is mounted; "" names version 2's."""
    for line in mounts:
        fields, _, kind = line.partition(" - ")
        system, *_, options = kind.split()  # the source between them may be empty
        if controllers:
            fits = system == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
        else:
            fits = system == "cgroup2"
        if fits:
            top, mounted = (_unescaped(field) for field in fields.split()[3:5])
            yield ("" if top == "/" else top), mounted


def _unescaped(field: str) -> str:
    r"""A path as mountinfo writes it: a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
