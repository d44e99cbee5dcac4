"""Two thousand finished trials: what planning, status and report take. Guards an order of magnitude."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_trials import World

from bench.results import store

ARMS = "[erm, {name: mixup, alpha: [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64]}]"
NOISE = f"[{{rate: 0}}, {', '.join(f'{{kind: uniform, rate: {rate}}}' for rate in (0.1, 0.2, 0.3, 0.4))}]"


MEASURED = """
import atexit, resource, sys
from pathlib import Path

def say():
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(usage.ru_utime + usage.ru_stime for usage in usages), int(peak.split()[1]) / 1024, file=sys.stderr)

atexit.register(say)
from bench.cli import main
main()
"""
"""Not by ru_maxrss: a process starts with that of the one that forked it, here of all tests before."""


def cost(folder: Path, *arguments: str) -> tuple[float, float]:
    """CPU seconds, which do not depend on who else is at work, and peak MB of a command that has to succeed.

    Seconds of all of its processes; MB of the first.
    """
    command = [sys.executable, "-P", "-c", MEASURED, *arguments, "--results", str(folder / "results")]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert arguments[0] == "report" or "2000 done" in result.stdout
    seconds, megabytes = map(float, result.stderr.splitlines()[-1].split())
    return seconds, megabytes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_trials_take_seconds(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one core of a busy virtualised server: 1.3, 1.3 and 14 s, 70 and 300 MB."""
    monkeypatch.setattr(store.os, "fsync", lambda _: None)  # made-up trials need not survive a power loss
    world = make_world(seeds=20, epochs=40, methods=ARMS, label_noise=NOISE)
    assert len(world.plan.trials) == 2000
    for planned in world.plan.trials:
        world.finish(planned, 0.05 + 0.002 * planned.trial.seed)
    for command in ("plan", "status"):
        seconds, megabytes = cost(tmp_path, command, "synthetic.yaml")
        assert seconds < 6
        assert megabytes < 250
    seconds, megabytes = cost(tmp_path, "report", "synthetic.yaml")
    assert seconds < 80
    assert megabytes < 900
