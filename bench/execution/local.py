"""The supervisor: every trial in a process of its own, on this machine.

Processes are forked from a forkserver that has torch and timm loaded. A process that dies costs one attempt at one
trial. The same call again is how one resumes: finished trials are skipped, an interrupted one goes on from its
checkpoint, and a trial that another supervisor works on is left to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Protocol

from bench.errors import UserError
from bench.execution.devices import Slot
from bench.execution.task import BUSY, INTERRUPTED, DataPaths, Needs, Task, start_preparing, start_trial
from bench.plan.plan import Plan, PlannedTrial
from bench.results.store import FINISHED, Store, TrialFolder
from bench.training.policy import CheckpointPolicy

ATTEMPTS = 2
TICK_SECONDS = 0.5
STOP_SECONDS = 8.0


class DataUnavailable(UserError):
    """A data set that cannot be had; the message says which file and what to do."""


@dataclass
class Attempt:
    """A running process."""

    planned: PlannedTrial
    folder: TrialFolder
    slot: Slot
    process: ForkServerProcess
    number: int
    began: int
    """The journal's length before it."""
    journal_offset: int
    epoch: int = 0


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
    interrupted: bool = False
    preparing: str = ""
    """What is being built before the trials start."""
    latest: str = ""


class Watcher(Protocol):
    """Shown every change of a run, at most a few times per second."""

    def update(self, state: RunState) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How to run, as opposed to what: none of it is part of a trial's identity."""

    slots: list[Slot]
    data: DataPaths
    policy: CheckpointPolicy
    keep_weights: bool
    estimates: dict[str, float]
    """Estimated seconds by trial_id, to weigh the time left."""


def run(plan: Plan, store: Store, settings: Settings, watcher: Watcher) -> RunState:
    """Bring every trial of the plan to its end; returns when all are finished or failed, or a Ctrl-C stopped the run.

    Raises DataUnavailable before anything trains when a data set cannot be had.
    """
    state = RunState(planned=len(plan.trials))
    pending: deque[PlannedTrial] = deque()
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        if _status(planned, folder) in FINISHED:
            _count_finished(state, planned, folder, plan.suite.report.metric)
        else:
            pending.append(planned)
    state.skipped = state.done
    if pending:
        context = forkserver()
        supervisor = _Supervisor(plan, store, settings, state, pending, context, watcher)
        with _sigterm_as_interrupt():
            try:
                _prepare_data(context, settings, pending, state, watcher)
                supervisor.loop()
            except KeyboardInterrupt:
                state.interrupted = True
            finally:  # whatever happened: at its exit this process would wait for every trial that still runs
                supervisor.stop()
    watcher.update(state)
    return state


@dataclass
class _Supervisor:
    plan: Plan
    store: Store
    settings: Settings
    state: RunState
    pending: deque[PlannedTrial]
    context: ForkServerContext
    watcher: Watcher
    attempts: dict[str, int] = field(default_factory=dict)
    elsewhere: list[PlannedTrial] = field(default_factory=list)
    waiting: list[PlannedTrial] = field(default_factory=list)
    """Trained, but an evaluation needs the network of a trial that has none yet."""
    started: float = field(default_factory=time.monotonic)

    def loop(self) -> None:
        free = list(reversed(self.settings.slots))
        while self.pending or self.state.running or self.elsewhere or self.waiting:
            while free and self.pending:
                self._launch(self.pending.popleft(), free.pop())
            connection.wait([attempt.process.sentinel for attempt in self.state.running], timeout=TICK_SECONDS)
            for attempt in [a for a in self.state.running if not a.process.is_alive()]:
                self.state.running.remove(attempt)
                free.append(attempt.slot)
                self._ended(attempt)
            self._look_elsewhere()
            self._look_at_sources()
            self._follow()
            self.watcher.update(self.state)

    def stop(self) -> None:
        """Ask every trial to write its checkpoint and end; after a few seconds, or a second Ctrl-C, do not ask."""
        for attempt in self.state.running:
            attempt.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for attempt in self.state.running:
                attempt.process.join(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            pass
        for attempt in self.state.running:
            if attempt.process.is_alive():
                attempt.process.kill()
                attempt.process.join()
            if attempt.process.exitcode == 0 and _status(attempt.planned, attempt.folder) in FINISHED:
                self._finished(attempt.planned, attempt.folder)
        self.state.running.clear()

    def _launch(self, planned: PlannedTrial, slot: Slot) -> None:
        folder = self.store.trial(planned.trial_id)
        folder.create(planned.trial.record())
        number = self.attempts[planned.trial_id] = self.attempts.get(planned.trial_id, 0) + 1
        offset = folder.events()[1]
        process = self.context.Process(target=start_trial, args=(self._task(planned, folder, slot, number),))
        process.start()
        self.state.running.append(Attempt(planned, folder, slot, process, number, offset, offset))

    def _task(self, planned: PlannedTrial, folder: TrialFolder, slot: Slot, attempt: int) -> Task:
        return Task(
            record=planned.trial.record(),
            folder=folder.path,
            evaluations=planned.evaluations,
            is_source=planned.is_source,
            keep_weights=self.settings.keep_weights,
            attempt=attempt,
            device=slot.device,
            visible_devices=slot.visible,
            data=self.settings.data,
            policy=self.settings.policy,
        )

    def _ended(self, attempt: Attempt) -> None:
        planned, folder, code = attempt.planned, attempt.folder, attempt.process.exitcode
        attempt.process.close()
        if code == 0 and _status(planned, folder) not in FINISHED:  # for want of another trial's network
            self.attempts[planned.trial_id] -= 1
            self.waiting.append(planned)
        elif code == 0:
            self._finished(planned, folder)
        elif code == BUSY:
            self.attempts[planned.trial_id] -= 1
            self.elsewhere.append(planned)
        elif code == INTERRUPTED:  # somebody else's SIGTERM: the checkpoint is there, go on from it
            self.attempts[planned.trial_id] -= 1
            self.pending.appendleft(planned)
        else:
            self._died(attempt, code)

    def _died(self, attempt: Attempt, code: int | None) -> None:
        """One attempt is gone. A worker that could not say why itself was killed, and the journal says by what."""
        planned, folder = attempt.planned, attempt.folder
        said = [event["reason"] for event in folder.events(offset=attempt.began)[0] if event["event"] == "failed"]
        if said:
            reason = said[-1]
        else:
            reason = f"killed by {_signal_name(code)}" if code is not None and code < 0 else f"exit status {code}"
            folder.append("failed", attempt=attempt.number, reason=reason, traceback="")
        if attempt.number < ATTEMPTS:
            self.pending.appendleft(planned)
            self.state.latest = f"{trial_name(planned)}: {reason}; trying again"
        else:
            self.state.failed.append((planned, reason))
            self.state.latest = f"{trial_name(planned)}: failed: {reason}"

    def _finished(self, planned: PlannedTrial, folder: TrialFolder) -> None:
        _count_finished(self.state, planned, folder, self.plan.suite.report.metric)

    def _look_elsewhere(self) -> None:
        """Trials that another supervisor had: finished there, or free again because it was stopped."""
        for planned in list(self.elsewhere):
            folder = self.store.trial(planned.trial_id)
            if folder.is_claimed():
                continue
            self.elsewhere.remove(planned)
            if _status(planned, folder) in FINISHED:
                self._finished(planned, folder)
            else:
                self.pending.append(planned)
        self.state.elsewhere = len(self.elsewhere)

    def _look_at_sources(self) -> None:
        """Trials with an evaluation that needs another trial's network: on with those that can go on, or never will."""
        for planned in list(self.waiting):
            missing = self._missing_sources(planned)
            coming = {other.trial_id for other in [*self.pending, *self.elsewhere]}
            coming |= {attempt.planned.trial_id for attempt in self.state.running}
            if not missing:
                self.waiting.remove(planned)
                self.pending.append(planned)
            elif lost := missing - coming:
                self.waiting.remove(planned)
                if all(self.store.trial(source).status() == "diverged" for source in missing):
                    self._give_up(planned, missing)
                    continue
                reason = f"not evaluated: trial {min(lost)}, whose network it needs, has none"
                self.state.failed.append((planned, reason))
                self.state.latest = f"{trial_name(planned)}: {reason}"

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
        estimates = self.settings.estimates
        done = sum(estimates.values())
        for planned in [*self.pending, *self.elsewhere]:
            done -= estimates.get(planned.trial_id, 0.0)
        for attempt in self.state.running:
            events, attempt.journal_offset = attempt.folder.events(offset=attempt.journal_offset)
            attempt.epoch = max([attempt.epoch, *(e["epoch"] for e in events if e["event"] in ("epoch", "resumed"))])
            left = 1 - attempt.epoch / attempt.planned.trial.training.epochs
            done -= estimates.get(attempt.planned.trial_id, 0.0) * left
        total, spent = sum(estimates.values()), (time.monotonic() - self.started) * len(self.settings.slots)
        prior = max(0.1 * total, 10.0)  # slot-seconds for which the estimate is trusted beside what was measured
        self.state.seconds_left = (total - done) / len(self.settings.slots) * (spent + prior) / (done + prior)


def _status(planned: PlannedTrial, folder: TrialFolder) -> str:
    return folder.status(planned.evaluation_keys, with_weights=planned.is_source)


def _count_finished(state: RunState, planned: PlannedTrial, folder: TrialFolder, metric: str) -> None:
    final = folder.final()
    assert final is not None
    state.done += 1
    if final["status"] == "diverged":
        state.diverged.append(planned)
    else:  # a report by a figure of an evaluation has no error of its own
        error = final["metrics"].get(metric, final["metrics"]["test_error_last"])
        state.errors.setdefault(planned.arm, []).append(error)


def forkserver() -> ForkServerContext:
    """The context whose processes start with torch and timm loaded, one OpenMP thread each until they say otherwise."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # Whoever asks for CUDA while the forkserver imports must not initialise it there: no fork could then use a GPU.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execution.preload", "bench.cli"])  # cli: every child imports __main__
    return context


def _prepare_data(
    context: ForkServerContext, settings: Settings, trials: Iterable[PlannedTrial], state: RunState, watcher: Watcher
) -> None:
    """Build the data caches in one process, before workers would wait for each other or fail one by one."""
    answer, worker_end = context.Pipe(duplex=False)
    arguments = (settings.data, _needs(trials), len(settings.slots), worker_end)
    process = context.Process(target=start_preparing, args=arguments)
    process.start()
    worker_end.close()
    try:
        word, text = answer.recv()
        while word == "doing":
            state.preparing = text
            watcher.update(state)
            word, text = answer.recv()
    except EOFError:
        process.join()
        raise DataUnavailable(f"preparing the data sets ended with exit status {process.exitcode}") from None
    except BaseException:
        process.terminate()  # it may be in the middle of a download, and this process waits for it at its exit
        raise
    process.join()
    state.preparing = ""
    if text:
        raise DataUnavailable(text)


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


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def trial_name(planned: PlannedTrial) -> str:
    """A trial in words."""
    return f"{planned.arm}, {planned.cell}, seed {planned.trial.seed}"
