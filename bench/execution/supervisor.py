"""The supervisor: brings every trial of a plan to its end, on whichever engine runs the attempts.

What there is to do is read from the results folder alone. So the same call again is how one resumes: finished trials
are skipped, an interrupted one goes on from its checkpoint, and a trial that another supervisor works on is left to it.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, Self

from bench.execution.engine import LOST, Engine, Running, exit_in_words
from bench.execution.task import BUSY, INTERRUPTED, NO_SPACE, OUT_OF_MEMORY, DataPaths, Needs, Task
from bench.plan.plan import Plan, PlannedTrial
from bench.plan.sequential import metric_values, possible, wanted, wanted_now
from bench.results.store import FINISHED, Busy, Store, TrialFolder, is_no_space
from bench.training.policy import CheckpointPolicy

ATTEMPTS = 2
MOST_LOSSES = 20
"""So often an attempt may be lost at no cost to its trial: a trial may be what brings machines down."""
TICK_SECONDS = 0.5
STOP_SECONDS = 8.0
KILL_SECONDS = 20.0
"""A process that outlives SIGKILL for so long is stuck in the kernel, and not waited for."""


class Stop(Enum):
    """Why a run ended before its trials did. The same command goes on from there, each time."""

    INTERRUPTED = "interrupted"
    BUDGET = "budget"
    NO_SPACE = "no space"


@dataclass
class Attempt:
    """An attempt under way.

    began: the journal's length before it.  sign, signed_at: what was last seen of its progress, and when, on the
    monotonic clock.
    """

    planned: PlannedTrial
    folder: TrialFolder
    running: Running
    number: int
    began: int
    journal_offset: int
    epoch: int = 0
    sign: tuple[int, ...] = ()
    signed_at: float = field(default_factory=time.monotonic)
    stalled: bool = False

    @property
    def place(self) -> str:
        return self.running.place


@dataclass
class RunState:
    """What there is to see while a run goes on."""

    planned: int
    done: int = 0
    skipped: int = 0
    """Of those done, how many were done before the run began."""
    failed: list[tuple[PlannedTrial, str]] = field(default_factory=list)
    diverged: list[PlannedTrial] = field(default_factory=list)
    running: list[Attempt] = field(default_factory=list)
    elsewhere: int = 0
    errors: dict[str, list[float]] = field(default_factory=dict)
    """Finished trials' errors by arm."""
    seconds_left: float | None = None
    stop: Stop | None = None
    stop_reason: str = ""
    preparing: str = ""
    """What is being built before the trials start."""
    latest: str = ""

    @property
    def interrupted(self) -> bool:
        return self.stop is Stop.INTERRUPTED


class Watcher(Protocol):
    """Shown every change of a run, at most a few times per second."""

    def update(self, state: RunState) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How to run, as opposed to what: none of it is part of a trial's identity.

    estimates: estimated seconds by trial_id, to weigh the time left.
    max_seconds: after so long running trials are asked to write their checkpoint and end.
    max_trials: so many trials are begun, and brought to their end.
    stall_seconds: a trial that shows no progress for so long is killed, which costs it an attempt.
    """

    data: DataPaths
    policy: CheckpointPolicy
    keep_weights: bool
    estimates: dict[str, float]
    max_seconds: float = math.inf
    max_trials: float = math.inf
    stall_seconds: float = math.inf


def run(plan: Plan, store: Store, engine: Engine, settings: Settings, watcher: Watcher) -> RunState:
    """Bring every trial of the plan to its end; returns when all are finished or failed, or `state.stop` says why not.

    The engine is the caller's, who closes it. Raises DataUnavailable before anything trains when a data set cannot be
    had.
    """
    state = RunState(planned=0)
    supervisor = _Supervisor(plan, store, engine, settings, state, watcher)
    if supervisor.pending:
        with _Signals() as supervisor.signals:
            try:
                supervisor.prepare()
                supervisor.loop()
            except OSError as error:
                if not is_no_space(error):
                    raise
                supervisor.no_space(error.filename)
            finally:  # whatever happened: at its exit this process would wait for every trial that still runs
                supervisor.stop()
    watcher.update(state)
    return state


class _Signals:
    """Counts SIGINT and SIGTERM instead of raising wherever they happen to fall: in the middle of a fork, say."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in getattr(self, "_before", {}).items():
            signal.signal(number, handler)

    def _heard(self, *_: object) -> None:
        self.count += 1


class _Supervisor:
    def __init__(
        self, plan: Plan, store: Store, engine: Engine, settings: Settings, state: RunState, watcher: Watcher
    ) -> None:
        self.plan, self.store, self.engine, self.settings = plan, store, engine, settings
        self.state, self.watcher = state, watcher
        self.signals = _Signals()
        self.pending: deque[PlannedTrial] = deque()
        self.elsewhere: list[PlannedTrial] = []
        self.waiting: list[PlannedTrial] = []
        """Trained, but an evaluation needs the network of a trial that has none yet."""
        self.attempts: dict[str, int] = {}
        self.losses: dict[str, int] = {}
        self.begun: set[str] = set()
        self.beyond: set[str] = set()
        """Those begun beyond `max_trials`, because one within it needs their network to be brought to its end."""
        self.made_again: set[str] = set()
        self.counted: set[str] = set()
        self.started = time.monotonic()
        self.estimate = 0.0
        """Seconds, of all that was pending when the run began or was added since."""
        self.ended_estimate = 0.0
        self.metric_of, trials = wanted_now(plan, store)
        """Of the trials that have ended, where it decides which seeds are added."""
        self.known, self.weighed = {planned.trial_id for planned in trials}, 0
        for planned in trials:
            folder = store.trial(planned.trial_id)
            if _status(planned, folder) in FINISHED:
                self._finished(planned, folder)
                if folder.checkpoint.exists():
                    _close(folder)
            else:
                self.pending.append(planned)
        state.planned, state.skipped = len(trials), state.done
        self.estimate, self.ended_estimate = sum(self._estimate(planned) for planned in self.pending), 0.0

    def prepare(self) -> None:
        """Build the data caches, before workers would wait for each other or fail one by one."""

        def say(text: str) -> None:
            self.state.preparing = text
            self.watcher.update(self.state)

        trials: Iterable[PlannedTrial] = self.pending
        if self.plan.suite.stopping:  # for seeds that may yet be added, too
            done = self.known - {planned.trial_id for planned in self.pending}
            trials = [each for each in possible(self.plan, self.metric_of) if each.trial_id not in done]
        self.engine.prepare(
            self.settings.data, _needs(trials), say=say, stop=lambda: bool(self.signals.count) or self._is_late()
        )
        self.state.preparing = ""

    def loop(self) -> None:
        while self.pending or self.state.running or self.elsewhere or self.waiting:
            if self.signals.count:
                self.state.stop = Stop.INTERRUPTED
            elif self._is_late():
                self._stop_for_budget(f"{self.settings.max_seconds / 3600:g} hours are over")
            if self.state.stop is None:
                self._launch()
            if self.state.stop is not None:
                return
            self._collect(TICK_SECONDS)
            self._look_elsewhere()
            self._add_seeds()
            self._look_at_sources()
            self._follow()
            self._end_stalled()
            self.watcher.update(self.state)

    def stop(self) -> None:
        """Ask every trial to write its checkpoint and end; after a few seconds, or a second signal, do not ask."""
        for attempt in self.state.running:
            self.engine.terminate(attempt.running)
        deadline, asked = time.monotonic() + STOP_SECONDS, self.signals.count
        killed_at = math.inf
        while self.state.running and time.monotonic() - killed_at < KILL_SECONDS:
            if time.monotonic() > deadline or self.signals.count > asked:
                killed_at = min(killed_at, time.monotonic())
                for attempt in self.state.running:
                    self.engine.kill(attempt.running)
            for running in self.engine.wait(TICK_SECONDS / 2):
                attempt = self._taken_out(running)
                if running.exit_status == 0 and _status(attempt.planned, attempt.folder) in FINISHED:
                    self._finished(attempt.planned, attempt.folder)

    def no_space(self, path: str | Path | None) -> None:
        """Begin nothing more: whatever is started now would fail for the same reason."""
        self.state.stop = Stop.NO_SPACE
        self.state.stop_reason = f"no space left to write {path or self.store.root}"

    def _launch(self) -> None:
        """Start what there is room for, in the plan's order: whole pairs are what a report can use."""
        while self.pending and self.engine.has_room():
            planned = self.pending[0]
            folder = self.store.trial(planned.trial_id)
            if _status(planned, folder) in FINISHED:  # another run was quicker
                self.pending.popleft()
                self._finished(planned, folder)
            elif folder.is_claimed():
                self.pending.popleft()
                self.elsewhere.append(planned)
            elif self._is_over_budget(planned):
                if (source := self._awaited_source()) is not None:
                    self.beyond.add(source.trial_id)
                    self.pending.remove(source)
                    self.pending.appendleft(source)
                    continue
                if not self.state.running:
                    self._stop_for_budget(f"{self.settings.max_trials} trials were run")
                return
            else:
                folder.create(planned.trial.record())
                offset = folder.events()[1]
                number = self.attempts.get(planned.trial_id, 0) + 1
                running = self.engine.start(planned, self._task(planned, folder, number))
                if running is None:
                    return
                self.pending.popleft()
                self.attempts[planned.trial_id] = number
                self.begun.add(planned.trial_id)
                self.state.running.append(Attempt(planned, folder, running, number, offset, offset))

    def _is_over_budget(self, planned: PlannedTrial) -> bool:
        return (
            planned.trial_id not in self.begun | self.beyond
            and len(self.begun - self.beyond) >= self.settings.max_trials
        )

    def _awaited_source(self) -> PlannedTrial | None:
        """A trial still to be begun that one within the budget waits for: else the same would wait in every run."""
        waiting = [planned for planned in self.waiting if planned.trial_id not in self.beyond]
        missing = set[str]().union(*(self._missing_sources(planned) for planned in waiting))
        return next((planned for planned in self.pending if planned.trial_id in missing), None)

    def _task(self, planned: PlannedTrial, folder: TrialFolder, attempt: int) -> Task:
        return Task(
            record=planned.trial.record(),
            folder=folder.path,
            evaluations=planned.evaluations,
            is_source=planned.is_source,
            keep_weights=self.settings.keep_weights,
            attempt=attempt,
            data=self.settings.data,
            policy=self.settings.policy,
        )

    def _collect(self, seconds: float) -> None:
        for running in self.engine.wait(seconds):
            self._ended(self._taken_out(running))

    def _add_seeds(self) -> None:
        """Take up what has become wanted now that trials have ended, and drop what is wanted no longer."""
        if not self.plan.suite.stopping or self.state.done == self.weighed:
            return
        self.weighed = self.state.done
        trials = wanted(self.plan, self.metric_of)
        for planned in trials:
            if planned.trial_id not in self.known:
                self.known.add(planned.trial_id)
                self.pending.append(planned)
                self.estimate += self._estimate(planned)
        now = {planned.trial_id for planned in trials}
        for planned in [each for each in self.pending if each.trial_id not in now | self.begun]:
            self.pending.remove(planned)
            self.known.remove(planned.trial_id)
            self.estimate -= self._estimate(planned)
        self.state.planned = len(self.known)

    def _taken_out(self, running: Running) -> Attempt:
        attempt = next(attempt for attempt in self.state.running if attempt.running is running)
        self.state.running.remove(attempt)
        return attempt

    def _ended(self, attempt: Attempt) -> None:
        planned, folder, code = attempt.planned, attempt.folder, attempt.running.exit_status
        if code == 0 and _status(planned, folder) in FINISHED:
            self._finished(planned, folder)
        elif code == 0:  # for want of another trial's network
            self._uncount(attempt)
            self.waiting.append(planned)
        elif code == BUSY or folder.is_claimed():  # claimed: its parent died, or its machine, and it lives
            self._uncount(attempt)
            self.elsewhere.append(planned)
        elif code in (INTERRUPTED, OUT_OF_MEMORY) or (code == LOST and self._may_be_lost(planned)):
            # the checkpoint is there, go on from it
            self._uncount(attempt)
            self.pending.appendleft(planned)
            if code != INTERRUPTED:
                why = (
                    "its attempt was lost with what it ran on"
                    if code == LOST
                    else "out of memory beside its neighbours"
                )
                self.state.latest = f"{trial_name(planned)}: {why}; trying again"
        elif code == NO_SPACE:
            self._uncount(attempt)
            self.pending.appendleft(planned)
            self.no_space(folder.path)
        else:
            self._died(attempt, code)

    def _may_be_lost(self, planned: PlannedTrial) -> bool:
        self.losses[planned.trial_id] = self.losses.get(planned.trial_id, 0) + 1
        return self.losses[planned.trial_id] <= MOST_LOSSES

    def _uncount(self, attempt: Attempt) -> None:
        """An end that is no fault of the trial's costs it no attempt."""
        self.attempts[attempt.planned.trial_id] -= 1

    def _died(self, attempt: Attempt, code: int | None) -> None:
        """One attempt is gone. A worker that could not say why itself was killed, and the journal says by what."""
        planned, folder = attempt.planned, attempt.folder
        said = [event["reason"] for event in folder.events(offset=attempt.began)[0] if event["event"] == "failed"]
        if said:
            reason = said[-1]
        else:
            if attempt.stalled:
                reason = f"no progress for {self.settings.stall_seconds / 60:g} minutes"
            elif code == LOST:
                reason = f"lost {MOST_LOSSES + 1} times with what it ran on"
            else:
                reason = exit_in_words(code)
            folder.append("failed", attempt=attempt.number, reason=reason, traceback="")
        if attempt.number < ATTEMPTS:
            self.pending.appendleft(planned)
            self.state.latest = f"{trial_name(planned)}: {reason}; trying again"
        else:
            self._failed(planned, reason)

    def _failed(self, planned: PlannedTrial, reason: str) -> None:
        self.ended_estimate += self._estimate(planned)
        self.state.failed.append((planned, reason))
        self.state.latest = f"{trial_name(planned)}: failed: {reason}"

    def _finished(self, planned: PlannedTrial, folder: TrialFolder) -> None:
        final = folder.final()
        assert final is not None
        if planned.trial_id in self.counted:  # its network was lost, and made again
            return
        self.counted.add(planned.trial_id)
        self.ended_estimate += self._estimate(planned)
        self.state.done += 1
        if self.plan.suite.stopping:
            self.metric_of |= metric_values([planned], self.store, self.plan.suite.report.metric)
        if final["status"] == "diverged":
            self.state.diverged.append(planned)
        else:  # a report by a figure of an evaluation has no error of its own
            metrics = final.get("metrics", {})
            error = metrics.get(self.plan.suite.report.metric, metrics.get("test_error_last"))
            if error is not None:
                self.state.errors.setdefault(planned.arm, []).append(error)

    def _look_elsewhere(self) -> None:
        """Trials that another supervisor had: finished there, or free again because it was stopped."""
        for planned in list(self.elsewhere):
            folder = self.store.trial(planned.trial_id)
            if folder.is_claimed():
                continue
            self.elsewhere.remove(planned)
            if _status(planned, folder) in FINISHED:
                self._finished(planned, folder)
            elif planned.trial_id in self.begun:
                self.pending.appendleft(planned)
            else:
                self.pending.append(planned)
        self.state.elsewhere = len(self.elsewhere)

    def _look_at_sources(self) -> None:
        """Trials with an evaluation that needs another trial's network: on with those that can go on, or never will."""
        if not self.waiting:
            return
        coming = {other.trial_id for other in [*self.pending, *self.elsewhere]}
        coming |= {attempt.planned.trial_id for attempt in self.state.running}
        for planned in list(self.waiting):
            missing = self._missing_sources(planned)
            if not missing:
                self.waiting.remove(planned)
                self.pending.appendleft(planned)
                coming.add(planned.trial_id)
            elif (lost := missing - coming) and (again := self._lost_networks(lost)):
                self.pending += again
                coming |= {source.trial_id for source in again}
            elif lost:
                self.waiting.remove(planned)
                if all(self.store.trial(source).status() == "diverged" for source in missing):
                    self._give_up(planned, missing)
                    continue
                self._failed(planned, f"not evaluated: trial {min(lost)}, whose network it needs, has none")

    def _lost_networks(self, sources: set[str]) -> list[PlannedTrial]:
        """Those that were finished, and whose kept network turned out to be damaged: they are made again, once."""
        lost = [
            planned
            for planned in self.plan.trials
            if planned.trial_id in sources - self.made_again
            and _status(planned, self.store.trial(planned.trial_id)) == "unevaluated"
        ]
        self.made_again |= {planned.trial_id for planned in lost}
        return lost

    def _give_up(self, planned: PlannedTrial, diverged: set[str]) -> None:
        """Record that there is nothing to measure: the network that an evaluation needs diverged, and always will."""
        folder = self.store.trial(planned.trial_id)
        for evaluation in planned.evaluations:
            if evaluation.source in diverged and folder.evaluation(evaluation.key) is None:
                names = evaluation.config.metrics(validated=bool(planned.trial.dataset.val_fraction))
                detail = {"source_trial": evaluation.source, "reason": "its training diverged"}
                record = {"kind": evaluation.kind, "metrics": dict.fromkeys(names), "detail": detail, "seconds": 0.0}
                folder.write_evaluation(evaluation.key, record)
        self._finished(planned, folder)

    def _missing_sources(self, planned: PlannedTrial) -> set[str]:
        """The trials whose network an evaluation still needs and that have none yet."""
        folder = self.store.trial(planned.trial_id)
        lacking = {each.source for each in planned.evaluations if each.source and folder.evaluation(each.key) is None}
        return {source for source in lacking if self.store.trial(source).status(with_weights=True) != "completed"}

    def _follow(self) -> None:
        """Read how far the running trials are, and weigh the time left by what each was estimated to take."""
        done = self.ended_estimate
        for attempt in self.state.running:
            events, attempt.journal_offset = attempt.folder.events(offset=attempt.journal_offset)
            attempt.epoch = max([attempt.epoch, *(e["epoch"] for e in events if e["event"] in ("epoch", "resumed"))])
            done += self._estimate(attempt.planned) * attempt.epoch / attempt.planned.trial.training.epochs
        slots = self.engine.capacity
        spent = (time.monotonic() - self.started) * slots
        prior = max(
            0.1 * self.estimate, 10.0
        )  # slot-seconds for which the estimate is trusted beside what was measured
        self.state.seconds_left = (self.estimate - done) / slots * (spent + prior) / (done + prior)

    def _end_stalled(self) -> None:
        """Kill what shows no progress: neither a step, nor a pass of an evaluation, nor a line in its journal."""
        now = time.monotonic()
        for attempt in self.state.running:
            sign = _sign_of_progress(attempt.folder)
            if sign != attempt.sign or not attempt.running.began:
                attempt.sign, attempt.signed_at = sign, now
            elif now - attempt.signed_at > self.settings.stall_seconds:
                attempt.stalled = True
                self.engine.kill(attempt.running)

    def _is_late(self) -> bool:
        return time.monotonic() - self.started > self.settings.max_seconds

    def _stop_for_budget(self, reason: str) -> None:
        self.state.stop, self.state.stop_reason = Stop.BUDGET, reason

    def _estimate(self, planned: PlannedTrial) -> float:
        return self.settings.estimates.get(planned.trial_id, 0.0)


def _status(planned: PlannedTrial, folder: TrialFolder) -> str:
    return folder.status(planned.evaluation_keys, with_weights=planned.is_source)


def _close(folder: TrialFolder) -> None:
    """Do what a worker that was killed just after final.json could not, unless one is at it."""
    final = folder.final()
    with suppress(Busy, OSError), folder.claim():
        if final is not None:
            folder.close(final)


def _sign_of_progress(folder: TrialFolder) -> tuple[int, ...]:
    """Changes whenever the trial gets on: only compared with itself, so that no two clocks have to agree."""
    found: list[int] = []
    for path in (folder.heartbeat, folder.path / "journal.jsonl"):
        try:
            entry = path.stat()
        except OSError:
            continue
        found += (entry.st_mtime_ns, entry.st_size)
    return tuple(found)


def _needs(trials: Iterable[PlannedTrial]) -> list[Needs]:
    """One of the trials for each combination of data set, wrong labels and evaluations.

    And of what a table of neighbours depends on: whom it is of, the seed may say.
    """
    distinct: dict[str, Needs] = {}
    for planned in trials:
        trial = planned.trial
        configs = tuple(evaluation.config for evaluation in planned.evaluations)
        dataset = trial.dataset.model_copy(update={"train_size": None, "val_fraction": 0.0})
        key: tuple[object, ...] = (dataset, trial.label_noise, configs)
        if trial.method.neighbours is not None:
            key = (*key, trial.method.neighbours, trial.dataset, trial.seed)
        distinct.setdefault(repr(key), Needs(trial, configs))
    return list(distinct.values())


def trial_name(planned: PlannedTrial) -> str:
    """A trial in words."""
    return f"{planned.arm}, {planned.cell}, seed {planned.trial.seed}"
