"""Real processes of one small trial, for tests that kill them, starve them of disk space, or set their clock."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.execution.task import DataPaths, Task, start_trial
from bench.plan.plan import PlannedTrial, make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store, TrialFolder
from bench.training.policy import CheckpointPolicy

SUITE = """\
name: durable
question: Is it still there?
seeds: 1
base:
  dataset: digits
  model: {name: mlp, hidden: [16]}
  training: {epochs: 3, batch_size: 300, lr: 0.1}
  label_noise: {kind: uniform, rate: 0.4}
methods:
  - erm
  - {name: mixup, alpha: 1}
evaluate: [clean, calibration, {name: in_between, pairs: 50}]
"""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bench.execution.preload"])
os.environ.setdefault("OMP_NUM_THREADS", "1")

_PROCESSES = threading.Lock()
"""Starting a process asks after all others, and of two threads that ask after one only the first is told (3.11)."""

Prepare = Callable[..., None]
"""Called in the process before it works, with the task and further arguments."""


def planned_trial(folder: Path) -> PlannedTrial:
    path = folder / "durable.yaml"
    path.write_text(SUITE)
    [planned] = [each for each in make_plan(load_suite(path)).trials if each.trial.method.name == "mixup"]
    return planned


def make_task(planned: PlannedTrial, root: Path, *, cache: Path, policy: CheckpointPolicy | None = None) -> Task:
    """A checkpoint after each of the three epochs, unless the policy says otherwise."""
    folder = Store(root).trial(planned.trial_id)
    paths = DataPaths(cache / "data", cache)
    policy = policy or CheckpointPolicy(float("inf"), 1)
    return Task(planned.trial.record(), folder.path, planned.evaluations, True, 1, paths, policy)


def start(task: Task, prepare: Prepare | None = None, *arguments: Any) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=_work, args=(task, prepare, arguments))
    with _PROCESSES:
        process.start()
    return process


def run(task: Task, prepare: Prepare | None = None, *arguments: Any) -> int:
    """The exit status; a signal's number, negative. May be called from several threads."""
    process = start(task, prepare, *arguments)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with _PROCESSES:
            status = process.exitcode
        if status is not None:
            return status
        time.sleep(0.005)
    process.kill()
    raise TimeoutError("the worker did not end")


def _work(task: Task, prepare: Prepare | None, arguments: tuple[Any, ...]) -> None:
    if prepare is not None:
        prepare(task, *arguments)
    start_trial(task)


def found(task: Task) -> dict[str, Any]:
    """Every number that the trial gave: the bytes of its arrays, its figures and its learning curve."""
    folder = TrialFolder(task.folder)
    final = folder.final()
    assert final is not None
    records = {each.key: folder.evaluation(each.key) for each in task.evaluations}
    assert all(records.values()), records
    return {
        "status": folder.status(tuple(records), with_weights=True),
        "metrics": final["metrics"],
        "mixing": final["mixing"],
        "data": final["data"],
        "curve": [untimed(line) for line in folder.epochs()],
        "records": {key: untimed(record) for key, record in records.items() if record},
        "files": {name: (task.folder / name).read_bytes() for name in ("logits.npz", "weights.pt", "label_noise.json")},
    }


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "time" and "seconds" not in name}


def names(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _changes_to_files(root: Path, act: Callable[[str, str], None]) -> None:
    """Call `act` before every system call that makes, renames or removes something below root: (event, path)."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | Path) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime"):
            return
        if str(arguments[0]).startswith(str(root)):
            act(event, str(arguments[0]))

    sys.addaudithook(hook)


def die_at(task: Task, k: int) -> None:
    """SIGKILL at the k-th change below the trial's folder, from 1."""
    count = itertools.count(1)

    def act(event: str, path: str) -> None:
        if next(count) == k:
            os.kill(os.getpid(), signal.SIGKILL)

    _changes_to_files(task.folder, act)


def die_at_name(task: Task, name: str, k: int) -> None:
    """SIGKILL when a file whose name begins so is opened for writing the k-th time."""
    count = itertools.count(1)

    def act(event: str, path: str) -> None:
        if event == "open" and Path(path).name.startswith(name) and next(count) == k:
            os.kill(os.getpid(), signal.SIGKILL)

    _changes_to_files(task.folder, act)


def die_after(task: Task, seconds: float) -> None:
    """SIGKILL at some moment, whatever it does then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # its default action ends a process as SIGKILL does


def log_order(task: Task, log: Path) -> None:
    """Write to a file what is synced, renamed and appended to the journal, one a line."""
    fsync, replace, append = os.fsync, Path.replace, TrialFolder.append

    def note(what: str, path: Path) -> None:
        with log.open("a") as file:
            file.write(f"{what} {path.name}\n")

    def noted_append(folder: TrialFolder, event: str, **fields: Any) -> Any:
        note("append", folder.path / event)
        return append(folder, event, **fields)

    def noted_fsync(descriptor: int) -> None:
        note("sync", Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> Path:
        note("rename", new)
        return replace(old, new)

    os.fsync, Path.replace, TrialFolder.append = noted_fsync, noted_replace, noted_append


def jump_clock(task: Task, first: float, second: float) -> None:
    """The wall clock goes wrong by `first` seconds, and from its fifth reading on by `second`."""
    real, count = time.time, itertools.count(1)
    time.time = lambda: real() + (first if next(count) < 5 else second)


def jump_clock_and_die(task: Task, first: float, second: float) -> None:
    """In the middle of the third epoch's checkpoint."""
    jump_clock(task, first, second)
    die_at_name(task, ".checkpoint.pt", 3)


def hang(task: Task, orphan_seconds: float) -> None:
    """Training is one call that takes forever."""
    from bench.execution import worker

    worker.ORPHAN_SECONDS = orphan_seconds
    worker.train = lambda *_, **__: time.sleep(600)


def take_long(task: Task) -> None:
    """Every step takes a while."""
    from bench.training import loop

    real = loop.lr_at
    loop.lr_at = lambda *a, **k: (time.sleep(0.4), real(*a, **k))[1]
