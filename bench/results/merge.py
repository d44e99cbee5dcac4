"""Joins results folders of machines that share nothing: `bench merge` brings their trials into one.

A trial is taken whole or not at all. It is copied beside the target's trials under a temporary name and then renamed,
so that a merge that is killed, or finds the disk full, leaves no half of one; the same command goes on. Of two finished
trials with the same results the target's stays, and gets the evaluations, weights and logits that it lacks. Two that
differ are a conflict, which is reported and never decided here.

Imports neither torch nor MLflow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.results.mlflow_trial import durable_epochs
from bench.results.store import FINISHED, Busy, Json, Store, TrialFolder, exclusive, is_no_space, read_json, sync_folder

NEW, OLD = ".merge-new-", ".merge-old-"
"""Before a trial's id: a copy that is not whole yet, and the unfinished trial that one replaces."""

PATHS = {("dataset", "root"), ("label_noise", "file"), ("label_noise", "order")}
"""Options in trial.json that say where files are on one machine, and are no part of the trial."""

CLASSES = {
    "copied": "copied: not here before",
    "replaced": "replaced: finished there, unfinished here",
    "further on": "replaced: unfinished in both, further on there",
    "completed": "completed: the same results, with {files} file{s} that were missing here",
    "the same": "the same here and there",
    "kept": "kept: finished or further on here",
    "unreadable": "left out: no trial.json that can be read and names this trial",
    "in use": "left out: a process works on it; merge again when it is done",
    "conflict": "in conflict: left as it is here",
}
"""What can happen to a trial, in the order in which it is told."""


@dataclass(frozen=True)
class Conflict:
    """One trial of which two results folders say different things.

    source: the other folder.  differences: what differs, its value here, its value there.
    here, there: on which machine and with which versions.
    """

    trial_id: str
    source: Path
    differences: tuple[tuple[str, Any, Any], ...]
    here: str
    there: str


@dataclass
class Merged:
    """What a merge did, or, with a dry run, would do.

    in_use: folders of trials that some process works on.  damaged: folders of a source whose final.json cannot be read.
    """

    counts: Counter[str] = field(default_factory=Counter)
    files: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    in_use: list[Path] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether the target now holds all that there is to be had."""
        return not self.conflicts and not self.in_use


def merge(sources: Sequence[Path], into: Path, *, dry_run: bool = False) -> Merged:
    """Bring the trials of `sources` into the results folder `into`, which is made where it is not there.

    Raises UserError, before anything is copied, for a source that cannot be one; later where the disk is full or a
    file cannot be read. What was merged until then stays, and is whole.
    """
    try:
        for source in sources:
            _check(source, into)
        if dry_run:
            return _Merger(Store(into), dry_run=True).all_of(sources)
        with exclusive(into / "merge.lock"):
            _clean(into / "trials")
            return _Merger(Store(into), dry_run=False).all_of(sources)
    except Busy:
        raise UserError(f"another merge works on {into}") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        remedy = "make room; " if is_no_space(error) else ""
        message = f"merging into {into}: {error.strerror or error}{where}; {remedy}the same command goes on from here"
        raise UserError(message) from None


def merged_lines(merged: Merged, into: Path, *, dry_run: bool = False) -> Iterator[str]:
    """What `bench merge` prints."""
    yield f"{'would merge' if dry_run else 'merged'} into {into}"
    if not merged.counts:
        yield "  no trials"
    for name, text in CLASSES.items():
        if count := merged.counts[name]:
            yield f"  {count:>7}  {text.format(files=merged.files, s='s' * (merged.files != 1))}"
    yield "cache/, data/ and mlflow.db are not merged: caches are made again, `bench publish SUITE` fills MLflow"
    for path in merged.damaged:
        yield f"damaged   {path / 'final.json'} cannot be read: unfinished, so that the next run does it again"
    for path in merged.in_use:
        yield f"in use    {path}"
    for conflict in merged.conflicts:
        yield f"conflict  {conflict.trial_id}  with {conflict.source}"
        yield f"          here  {conflict.here}"
        yield f"          there {conflict.there}"
        for what, here, there in conflict.differences[:5]:
            yield f"          {what}: {_shown(here)} here, {_shown(there)} there"
        if (more := len(conflict.differences) - 5) > 0:
            yield f"          and {more} more"


@dataclass
class _Merger:
    target: Store
    dry_run: bool
    merged: Merged = field(default_factory=Merged)
    coming: dict[str, TrialFolder] = field(default_factory=dict)
    """With a dry run: by trial_id, the folder that an earlier source would have brought."""
    brought: set[Path] = field(default_factory=set)
    """With a dry run: the files that an earlier source would have brought."""

    def all_of(self, sources: Sequence[Path]) -> Merged:
        for source in sources:
            store = Store(source)
            for trial_id in store.trial_ids():
                there, here = store.trial(trial_id), self.coming.get(trial_id, self.target.trial(trial_id))
                try:
                    with _at_rest(there):
                        outcome = self._one(here, there)
                except Busy:
                    self.merged.in_use.append(there.path if there.is_claimed() else here.path)
                    outcome = "in use"
                self.merged.counts[outcome] += 1
                if (there.path / "final.json").exists() and _final(there) is None:
                    self.merged.damaged.append(there.path)
        return self.merged

    def _one(self, here: TrialFolder, there: TrialFolder) -> str:
        """Merge one trial; the name of what happened, one of CLASSES. Raises Busy where some process works on it."""
        record = there.record()
        if record is None or record.get("trial_id") != there.trial_id:
            return "unreadable"
        if not here.path.exists():
            self._take(there, here)
            return "copied"
        if here.is_claimed():
            raise Busy(f"{here.path} is held by another process")
        own, final = _final(here), _final(there)
        own_record = here.record()
        if own_record is not None and (differences := list(_record_differences(own_record, record))):
            return self._conflict(here, there, differences)
        if final is None:
            further = -1 if own is not None else _progress(there) - _progress(here)
            if further > 0:
                self._take(there, here)
            return "further on" if further > 0 else "the same" if not further else "kept"
        if own is None:
            self._take(there, here)
            return "replaced"
        differences = [*_result_differences(here, there, own, final), *_evaluation_differences(here, there)]
        if differences:
            return self._conflict(here, there, differences)
        lacking = [name for name in _additions(there) if not self._has(here, name)]
        if not lacking:
            return "the same"
        self._add(lacking, here, there)
        return "completed"

    def _conflict(self, here: TrialFolder, there: TrialFolder, differences: Sequence[tuple[str, Any, Any]]) -> str:
        conflict = Conflict(there.trial_id, there.path.parents[1], tuple(differences), _origin(here), _origin(there))
        self.merged.conflicts.append(conflict)
        return "conflict"

    def _take(self, there: TrialFolder, here: TrialFolder) -> None:
        """Make `here` what `there` is, in one step as far as anybody can see."""
        if self.dry_run:
            self.coming[there.trial_id] = there
            return
        trials = self.target.root / "trials"
        trials.mkdir(parents=True, exist_ok=True)
        new, old = trials / f"{NEW}{there.trial_id}", trials / f"{OLD}{there.trial_id}"
        try:
            _copy_trial(there.path, new)
            if _final(there) is None:
                (new / "final.json").unlink(missing_ok=True)
            if here.path.exists():
                with here.claim():
                    here.path.rename(old)
                    _rename(new, here.path)
                shutil.rmtree(old)
            else:
                _rename(new, here.path)
            sync_folder(trials)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _has(self, here: TrialFolder, name: str) -> bool:
        path = here.path / name
        there = read_json(path) is not None if path.suffix == ".json" else path.exists()
        return there or path in self.brought

    def _add(self, names: Sequence[str], here: TrialFolder, there: TrialFolder) -> None:
        if self.dry_run:
            self.brought |= {here.path / name for name in names}
        else:
            with here.claim():
                for name in names:
                    _copy_atomically(there.path / name, here.path / name)
        self.merged.files += len(names)


def _check(source: Path, into: Path) -> None:
    """Raise UserError where `source` is none from which trials could be taken."""
    trials = source / "trials"
    if not trials.is_dir():
        hint = "; give the folder that holds trials/" if source.name == "trials" else ""
        raise UserError(f"{source} is no results folder: it has no folder trials/{hint}")
    if into.exists() and not into.is_dir():
        raise UserError(f"{into} is a file: results go to a folder")
    whence, where = source.resolve(), into.resolve()
    if whence == where or (into.exists() and source.samefile(into)):
        raise UserError(f"{source} is the results folder that is merged into")
    if where in whence.parents or whence in where.parents:
        inner, outer = (source, into) if where in whence.parents else (into, source)
        raise UserError(f"{inner} lies inside {outer}: merge folders that lie beside each other")
    for path in [trials, *_entries(trials)]:
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link: give the results folder that holds the trials themselves")


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below a trials folder that is a link, and might be: real files of a trial are never links."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _entries(Path(entry.path))


def _clean(trials: Path) -> None:
    """Undo what a killed merge was in the middle of: its copies go, the trial that it was replacing comes back."""
    for old in trials.glob(f"{OLD}*"):
        own = trials / old.name.removeprefix(OLD)
        if own.exists():
            shutil.rmtree(old)
        else:
            old.rename(own)
    for new in trials.glob(f"{NEW}*"):
        shutil.rmtree(new)


@contextlib.contextmanager
def _at_rest(folder: TrialFolder) -> Iterator[None]:
    """Keep workers out of a trial while it is read; Busy where one is in already.

    A shared lock, as TrialFolder.is_claimed takes: it needs no right to write, and a worker that meets it comes later.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            file = stack.enter_context((folder.path / "lock").open("rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{folder.path} is held by another process") from None
        yield


def _final(folder: TrialFolder) -> Json | None:
    """final.json of a trial that is finished; one that is damaged counts as none."""
    final = folder.final()
    return final if final is not None and final.get("status") in FINISHED and "metrics" in final else None


def _progress(folder: TrialFolder) -> int:
    """The last epoch that an unfinished trial will not do again."""
    events, _ = folder.events()
    epochs = durable_epochs(events, finished=False) if folder.checkpoint.exists() else []
    return int(epochs[-1]["epoch"]) if epochs else 0


def _record_differences(own: Json, other: Json) -> Iterator[tuple[str, Any, Any]]:
    """What two trial.json of one id say differently of the trial itself."""
    yield from _differences("trial.json", _identity(own), _identity(other), strict=True)


def _identity(record: Json) -> Json:
    """A record without what Trial.identity leaves out: options without a value, and where files are."""
    trial = {}
    for section, options in record["trial"].items():
        kept = _with_values(options)
        if isinstance(kept, dict):
            kept = {key: value for key, value in kept.items() if (section, key) not in PATHS}
        trial[section] = kept
    own = trial.get("method", {}).pop("weight_decay", None)
    if own is not None:  # the same training as under a recipe with that weight decay
        trial["training"]["weight_decay"] = own
    return {"numerics_version": record.get("numerics_version"), **trial}


def _with_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_values(item) for key, item in value.items() if item is not None}
    return value


def _result_differences(
    here: TrialFolder, there: TrialFolder, own: Json, other: Json
) -> Iterator[tuple[str, Any, Any]]:
    """What two finished trainings of one trial gave differently; when, where and how long is no result.

    A figure that only one of them recorded, as versions do that came later, is no difference.
    """
    if own == other:  # one is a copy of the other
        return
    for name in ("status", "epochs", "metrics", "data", "mixing", "diverged"):
        yield from _differences(name, own.get(name), other.get(name))
    curves = [{f"epoch {line['epoch']}": _results(line) for line in folder.epochs()} for folder in (here, there)]
    yield from _differences("journal", *curves)


def _evaluation_differences(here: TrialFolder, there: TrialFolder) -> Iterator[tuple[str, Any, Any]]:
    for key in _evaluation_keys(there):
        own, other = here.evaluation(key), there.evaluation(key)
        if own is not None and other is not None and own != other:
            yield from _differences(f"evaluations/{key}", _results(own), _results(other))


def _results(line: Json) -> Json:
    """A journal's line or a record without times."""
    return {
        key: value for key, value in line.items() if key not in ("time", "seconds") and not key.endswith("_seconds")
    }


def _differences(name: str, own: Any, other: Any, *, strict: bool = False) -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ. strict: also those that only one of them has."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*own, *other]):
            if strict or (key in own and key in other):
                yield from _differences(f"{name} {key}", own.get(key), other.get(key), strict=strict)
    elif own != other and (strict or not (name == "mixing" and None in (own, other))):
        yield name, own, other


def _evaluation_keys(folder: TrialFolder) -> list[str]:
    return sorted(path.stem for path in (folder.path / "evaluations").glob("*.json"))


def _additions(there: TrialFolder) -> list[str]:
    """What a finished trial may have beside its results, by path below its folder."""
    records = [f"evaluations/{key}.json" for key in _evaluation_keys(there) if there.evaluation(key) is not None]
    return [*records, *(name for name in ("logits.npz", "weights.pt") if (there.path / name).exists())]


def _origin(folder: TrialFolder) -> str:
    """Where a trial ran, and with which versions."""
    final = folder.final() or {}
    started = [event for event in folder.events()[0] if event["event"] == "started"]
    provenance: Mapping[str, Any] = final.get("provenance") or (started[-1] if started else {})
    versions = [f"{name} {version}" for name, version in provenance.get("versions", {}).items()]
    facts = [provenance.get("host"), provenance.get("hardware"), provenance.get("device"), *versions]
    return ", ".join(str(fact) for fact in facts if fact) or "not known"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _copy_trial(source: Path, target: Path) -> None:
    """Copy a trial's folder to one that is not there, without what a worker that was killed left behind."""
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir():
                _copy_trial(Path(entry.path), target / entry.name)
            elif entry.is_file() and entry.name != "lock" and not entry.name.endswith(".tmp"):
                _copy(Path(entry.path), target / entry.name)
    sync_folder(target)


def _copy(source: Path, target: Path) -> None:
    """The content alone: what may be read there may be written here."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:  # a rename must not get to the disk before it
        os.fsync(file.fileno())


def _copy_atomically(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f".{target.name}.merge.tmp")
    try:
        _copy(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(new: Path, path: Path) -> None:
    """Raises Busy where somebody, a run that began meanwhile, has made `path`."""
    try:
        new.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Busy(f"{path} was made meanwhile") from None
        raise
