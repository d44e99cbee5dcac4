"""The result store: one folder per trial, readable with `cat`, mergeable by copying.

    <root>/trials/<trial_id>/
        trial.json          the resolved trial
        journal.jsonl       append-only: one JSON object per event (started, epoch, checkpoint, failed, finished, ...)
        checkpoint.pt       while it trains, and checkpoint.previous.pt, the one before it
        heartbeat           while a process works on it: touched as the work goes on, at most once a second
        final.json          written last, under a temporary name and renamed: its presence means "finished"
        evaluations/*.json  one record per evaluation, named after its kind and a hash of its options
        label_noise.json    the realised transition matrix, where labels are noisy
        logits.npz          test and validation logits of the last epoch, and their labels
        weights.pt          final weights, where they are kept
    <root>/cache/           data sets, their corrupted versions, network facts: rebuilt when missing

Imports neither torch nor MLflow, so that planning, status and reports start at once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError

Json = dict[str, Any]

FINISHED = ("completed", "diverged")
"""The statuses of a trial that no run has to do anything about."""


class Busy(Exception):
    """Another process holds the lock."""


def write_atomically(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write `content` so that `path` holds either its old content or all of the new, even after a power loss.

    When this returns the new content is on disk.  keep: the name that a file which is there now gets, beside `path`;
    after a crash between the two renames there is no `path`, and `keep` holds what it held.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_durably(temporary, content)
        if keep is not None and path.exists():
            path.replace(keep)
        try:
            temporary.replace(path)
        except FileNotFoundError:  # a worker that began at this moment took it for a leftover
            _write_durably(temporary, content)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the folder's names on disk: renames and new files survive a power loss only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it, so that they survive a power loss."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_json(path: Path, value: Json) -> None:
    """Write one JSON object atomically; a number that is not finite becomes null."""
    write_atomically(path, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Json | None:
    """One JSON object, or None where the file is missing or torn."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_intact(path: Path, *, thoroughly: bool = True) -> bool:
    """Whether a zip file (.pt, .npz) is there and whole.

    thoroughly: read all of it and compare its checksums, which torch.load does not do.  Else the list at its end, which
    a file that was cut short or never reached the disk lacks.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                return not thoroughly or archive.testzip() is None
        except Exception:  # zipfile and the decompressors below it raise half a dozen kinds on what is no zip
            return False


def is_no_space(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that is full, or a quota that is used up."""
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
            if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):
                return True  # NumPy's own words for a short write; it gives no number (2.4)
        error = error.__cause__ or error.__context__
    return False


_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _let_go() -> None:
    """In a process that is forked: it would hold its parent's locks for as long as it lives, also after the parent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _held:
        os.dup2(nowhere, descriptor, inheritable=False)  # not closed: its number would be given to another file
    os.close(nowhere)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def exclusive(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold an flock on `path`; the kernel frees it when the process dies, however it dies.

    Raises Busy when another process still holds it after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = _is_the_same(path, file.fileno())
            except BlockingIOError:
                held = False
            if held:
                _held.add(file.fileno())
                try:
                    yield
                finally:
                    _held.discard(file.fileno())
                return
        if time.monotonic() >= deadline:
            raise Busy(f"{path} is held by another process")
        time.sleep(0.05)


def _is_the_same(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name: a lock on one that was replaced keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class TrialFolder:
    """One trial's folder. Reading never fails on a missing or torn file; writing is atomic or append-only.

    What is written is on disk when the call returns, but for the journal: see sync_journal.
    """

    path: Path

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoint.previous.pt"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def weights(self) -> Path:
        return self.path / "weights.pt"

    @property
    def logits(self) -> Path:
        return self.path / "logits.npz"

    def create(self, record: Json) -> None:
        """Make the folder and write trial.json, unless it is there."""
        make_folder(self.path)
        if self.record() is None:
            write_json(self.path / "trial.json", record)

    def remove_leftovers(self) -> None:
        """Remove what killed writers left under temporary names. Only for the process that has claimed the trial."""
        for pattern in (".*.tmp", "evaluations/.*.tmp"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        self.checkpoint.unlink(missing_ok=True)
        self.previous_checkpoint.unlink(missing_ok=True)

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

    def append(self, event: str, **fields: Any) -> Json:
        """Add one line to the journal in a single write; a torn last line is closed first. Gives the line as it stands.

        It says when: `time`, unix seconds of a clock that may be set, and `uptime_seconds` of one that nobody sets, for
        differences within an attempt. A line that is written again brings its `time`, and has no `uptime_seconds`.
        """
        clocks = {} if "time" in fields else {"time": time.time(), "uptime_seconds": round(time.monotonic(), 3)}
        text = json.dumps(_finite({"event": event, **clocks, **fields}), allow_nan=False)
        line = f"{text}\n".encode()
        descriptor = os.open(self.path / "journal.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            while line:  # a second time only where the disk is nearly full
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)
        written: Json = json.loads(text)
        return written

    def sync_journal(self) -> None:
        """Have every line of the journal on disk, before something is written that relies on it."""
        with suppress(FileNotFoundError), (self.path / "journal.jsonl").open("rb") as file:
            os.fsync(file.fileno())

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
        return [event for event in _parsed(whole.splitlines()) if _is_event(event)], offset + len(whole)

    def epochs(self) -> list[Json]:
        """The epoch lines in order of epoch; of an epoch that was done again after a resume, the last."""
        return last_per_epoch(self.events()[0])

    def write_final(self, final: Json) -> None:
        write_json(self.path / "final.json", final)

    def close(self, final: Json) -> None:
        """Do what is left once final.json is there, and what a process that was killed just then left to the next."""
        ends = [event["event"] for event in self.events()[0] if event["event"] in ("started", "finished")]
        if ends[-1:] != ["finished"]:
            self.append("finished", status=final["status"])
        self.remove_checkpoints()

    def final(self) -> Json | None:
        """final.json, or None while the trial is not finished."""
        final = read_json(self.path / "final.json")
        return final if final is not None and final.get("status") in FINISHED else None

    def write_evaluation(self, key: str, record: Json) -> None:
        make_folder(self.path / "evaluations")
        write_json(self.path / "evaluations" / f"{key}.json", record)

    def evaluation(self, key: str) -> Json | None:
        """The record of one evaluation: its kind, options and version make the key."""
        record = read_json(self.path / "evaluations" / f"{key}.json")
        return record if record is not None and isinstance(record.get("metrics"), dict) else None

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
            lacking |= with_weights and not is_intact(self.weights, thoroughly=False)
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

    def check_writable(self) -> None:
        """Make a file where results go, lock and remove it. UserError where that cannot be, before anything trains."""
        for folder in (self.root, self.root / "trials", self.cache):
            probe = folder / f".writable.{os.getpid()}.tmp"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(b"?")
                probe.unlink(missing_ok=True)  # a run on another machine may have this process's id
            except OSError as error:
                with suppress(OSError):
                    probe.unlink(missing_ok=True)
                remedy = (
                    "make room there"
                    if is_no_space(error)
                    else "make it writable for this user, or choose another folder with --results (BENCH_RESULTS)"
                )
                raise UserError(f"nothing can be written to {folder}: {error.strerror}; {remedy}") from None
        try:
            with exclusive(self.root / "trials" / f".locks.{os.getpid()}.tmp"):
                pass
        except Busy:  # of a run on another machine, so they work
            pass
        except OSError as error:
            remedy = "mount it with flock, or choose another folder with --results (BENCH_RESULTS)"
            raise UserError(f"files cannot be locked in {self.root / 'trials'}: {error.strerror}; {remedy}") from None
        finally:
            with suppress(OSError):
                (self.root / "trials" / f".locks.{os.getpid()}.tmp").unlink(missing_ok=True)

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


def _parsed(lines: list[bytes]) -> Iterator[Any]:
    """What the lines hold, without those that do not parse."""
    lines = [line for line in lines if line.strip()]
    try:  # all at once, in half the time
        together = json.loads(b"[" + b",".join(lines) + b"]")
        if len(together) == len(lines):
            yield from together
            return
    except (ValueError, RecursionError):
        pass
    for line in lines:
        with suppress(ValueError, RecursionError):
            yield json.loads(line)


def _is_event(line: Any) -> bool:
    if not isinstance(line, dict) or "event" not in line:
        return False
    return line["event"] != "epoch" or isinstance(line.get("epoch"), int)


def _finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
