"""A trial on a file system of a few MB that fills up. A program of its own, so that its mounts are nobody else's.

Run below `unshare -rm` as `full_disk.py MOUNT_POINT`; prints one JSON object for each attempt.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from worker_processes import CheckpointPolicy, die_at_name, found, make_task, names, planned_trial, run

from bench.results.store import TrialFolder

BLOCK = 4096
ATTEMPTS = {
    "train": (0, 1, 2, 4, 8, 16, 24, 27, 99),
    "resume": (0, 1, 7, 12, 99),
    "save at every step": (2, 9, 18, 27, 99),
    "data": (0, 8, 24, 48, 199),
}
"""What is done with how many blocks free: the last of each are enough."""


def fill(mount: Path, *, leave: int) -> None:
    """Take up all but so many blocks."""
    free = os.statvfs(mount).f_bavail
    with (mount / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave) * BLOCK)


def main(mount: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(mount)], check=True)
    elsewhere = mount.with_name("elsewhere")
    elsewhere.mkdir()
    planned = planned_trial(elsewhere)
    undisturbed = make_task(planned, elsewhere / "undisturbed", cache=elsewhere / "cache")
    assert run(undisturbed) == 0
    interrupted = make_task(planned, elsewhere / "interrupted", cache=elsewhere / "cache")
    assert run(interrupted, die_at_name, ".checkpoint.pt", 3) < 0
    for what, free in [(what, free) for what, frees in ATTEMPTS.items() for free in frees]:
        cache = (mount if what == "data" else elsewhere) / "cache"
        task = make_task(planned, mount / "results", cache=cache)
        if what == "resume":
            shutil.copytree(interrupted.folder, task.folder)
        if what == "save at every step":
            task = replace(task, policy=CheckpointPolicy(0.0))
        fill(mount, leave=free)
        status, folder = run(task), TrialFolder(task.folder)
        report = {
            "what": what,
            "free": free,
            "status": status,
            "half written": sorted(name for name in names(mount) if name.endswith(".tmp") or ".partial" in name),
            "finished": folder.final() is not None,
            "checkpoints": sorted(path.name for path in folder.path.glob("checkpoint*")),
            "reasons": [event["reason"] for event in folder.events()[0] if event["event"] == "failed"],
        }
        (mount / "filler").unlink()
        report["status with room"] = run(task)
        report["same numbers"] = found(task) == found(undisturbed)
        report["left"] = sorted(name for name in names(task.folder) if name.endswith(".tmp") or "checkpoint" in name)
        print(json.dumps(report), flush=True)
        shutil.rmtree(mount / "results")
        shutil.rmtree(mount / "cache", ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
