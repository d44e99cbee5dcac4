"""The result store: one folder per trial, readable with `cat`, mergeable by copying.

    <root>/trials/<trial_id>/
        trial.json          the resolved trial
        journal.jsonl       append-only: one JSON object per event (started, epoch, checkpoint, failed, finished, ...)
        checkpoint.pt       while it trains
        final.json          written last, under a temporary name and renamed: its presence means "finished"
        evaluations/*.json  one record per evaluation, named after its kind and a hash of its options
        label_noise.json    the realised transition matrix, where labels are noisy
        logits.npz          test and validation logits of the last epoch, and their labels
        weights.pt          final weights, where they are kept
    <root>/cache/           data sets, their corrupted versions, network facts: rebuilt when missing

Imports neither torch nor MLflow, so that planning, status and reports start at once.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError

Json = dict[str, Any]

FINISHED = ("completed", "diverged")
"""The statuses of a trial that no run has to do anything about."""


class Busy(Exception):
    """Another process holds the lock."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new, even after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Json) -> None:
    """Write one JSON object atomically; a number that is not finite becomes null."""
    write_atomically(path, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Json | None:
    """One JSON object, or None where the file is missing or torn."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def exclusive(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold an flock on `path`; the kernel frees it when the process dies, however it dies.

    Raises Busy when another process still holds it after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"{path} is held by another process") from None
                time.sleep(0.05)
        yield


@dataclass(frozen=True)
class TrialFolder:
    """One trial's folder. Reading never fails on a missing or torn file; writing is atomic or append-only."""

    path: Path

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.path / "weights.pt"

    @property
    def logits(self) -> Path:
        return self.path / "logits.npz"

    def create(self, record: Json) -> None:
        """Make the folder and write trial.json, unless it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.record() is None:
            write_json(self.path / "trial.json", record)

    def record(self) -> Json | None:
        """trial.json: {"trial_id", "numerics_version", "trial"}."""
        return read_json(self.path / "trial.json")

    def claim(self) -> Any:
        """The lock that a worker holds while it works on this trial; Busy when another one does."""
        return exclusive(self.path / "lock", wait_seconds=0.5)

    def is_claimed(self) -> bool:
        """Whether some live process works on this trial now."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: nobody takes a fellow observer for a worker
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def append(self, event: str, **fields: Any) -> None:
        """Add one line to the journal in a single write; a torn last line is closed first."""
        line = json.dumps(_finite({"event": event, "time": time.time(), **fields}), allow_nan=False) + "\n"
        with (self.path / "journal.jsonl").open("ab+") as file:
            if file.tell() and not _ends_with_newline(file.fileno(), file.tell()):
                line = "\n" + line
            file.write(line.encode())

    def events(self, *, offset: int = 0) -> tuple[list[Json], int]:
        """The journal's events from byte `offset` on, and the offset after the last whole line.

        A line that does not parse (torn by a crash) is skipped.
        """
        try:
            with (self.path / "journal.jsonl").open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            return [], offset
        whole = content[: content.rfind(b"\n") + 1]
        events = []
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
        return events, offset + len(whole)

    def epochs(self) -> list[Json]:
        """The epoch lines in order of epoch; of an epoch that was done again after a resume, the last."""
        return last_per_epoch(self.events()[0])

    def write_final(self, final: Json) -> None:
        write_json(self.path / "final.json", final)

    def final(self) -> Json | None:
        """final.json, or None while the trial is not finished."""
        return read_json(self.path / "final.json")

    def write_evaluation(self, key: str, record: Json) -> None:
        (self.path / "evaluations").mkdir(exist_ok=True)
        write_json(self.path / "evaluations" / f"{key}.json", record)

    def evaluation(self, key: str) -> Json | None:
        """The record of one evaluation: its kind, options and version make the key."""
        return read_json(self.path / "evaluations" / f"{key}.json")

    def last_failure(self) -> Json | None:
        """The last "failed" event, unless the trial started again after it."""
        events, _ = self.events()
        for event in reversed(events):
            if event["event"] == "failed":
                return event
            if event["event"] in ("started", "epoch", "finished"):
                return None
        return None

    def status(self, evaluations: tuple[str, ...] = (), *, with_weights: bool = False) -> str:
        """completed | diverged | unevaluated | running | failed | interrupted | new.

        evaluations: the keys of the records that have to be there.  with_weights: whether the final weights do.
        `unevaluated`: trained, but something of that is not there yet.
        """
        final = self.final()
        if final is not None:
            if final["status"] == "diverged":
                return "diverged"
            lacking = any(self.evaluation(key) is None for key in evaluations)
            lacking |= with_weights and not self.weights.exists()
            return "unevaluated" if lacking else "completed"
        if not (self.path / "journal.jsonl").exists():
            return "new"
        if self.is_claimed():
            return "running"
        return "failed" if self.last_failure() else "interrupted"


@dataclass(frozen=True)
class Store:
    """A results folder."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / trial_id)

    def trial_ids(self) -> list[str]:
        """Every trial that has a folder, sorted. A name with a dot in front is a merge's own."""
        trials = self.root / "trials"
        if not trials.is_dir():
            return []
        with os.scandir(trials) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())

    def find(self, prefix: str) -> TrialFolder:
        """The one trial whose id begins with `prefix`. UserError when there is none or more than one."""
        found = [trial_id for trial_id in self.trial_ids() if trial_id.startswith(prefix)]
        if len(found) != 1:
            amount = "no trial" if not found else f"{len(found)} trials ({', '.join(found[:5])})"
            raise UserError(f"{amount} below {self.root / 'trials'} whose id begins with {prefix!r}")
        return self.trial(found[0])


def last_per_epoch(events: list[Json]) -> list[Json]:
    """Epoch events in order of epoch, the last line of each."""
    by_epoch = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
