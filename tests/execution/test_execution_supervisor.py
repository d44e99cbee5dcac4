"""What a supervisor decides: order, budgets, and what an attempt's end costs its trial."""

from __future__ import annotations

import math
import os
import signal
import time

import numpy as np
import pytest

from bench.execution import supervisor
from bench.execution.engine import LOST, Running
from bench.execution.supervisor import Stop
from bench.execution.task import NO_SPACE, OUT_OF_MEMORY, DataPaths
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.training.policy import CheckpointPolicy

LONG = ("training.epochs=150", "seeds=1", "matrix.label_noise=[{rate: 0.4}]")


class ScriptedEngine:
    """Attempts end at once, as `outcomes` says by the number of the attempt begun; afterwards they finish."""

    def __init__(self, store, *, places=1, outcomes=(), error_of=lambda _: 0.1):
        self.store, self.capacity, self.outcomes, self.error_of = store, places, list(outcomes), error_of
        self.begun, self.tasks, self.running = [], [], []

    def prepare(self, data, needs, *, say, stop):
        pass

    def has_room(self):
        return len(self.running) < self.capacity

    def start(self, planned, task):
        if not self.has_room():
            return None
        self.begun.append(planned)
        self.tasks.append(task)
        self.running.append(Running("nowhere"))
        return self.running[-1]

    def wait(self, seconds):
        ended, self.running = self.running, []
        for running, planned in zip(ended, self.begun[-len(ended) :], strict=True):
            running.exit_status = self.outcomes.pop(0) if self.outcomes else 0
            if running.exit_status == 0:
                folder = self.store.trial(planned.trial_id)
                for key in planned.evaluation_keys:
                    folder.write_evaluation(key, {"kind": "clean", "metrics": {}, "seconds": 0.0})
                folder.write_final({"status": "completed", "metrics": {"test_error_last": self.error_of(planned)}})
        return ended

    def terminate(self, running):
        pass

    kill = terminate

    def close(self):
        pass


class Silent:
    def update(self, state):
        pass


@pytest.fixture
def scripted(tiny_suite, tmp_path):
    def run_plan(*overrides, places=1, outcomes=(), error_of=lambda _: 0.1, **options):
        plan = make_plan(load_suite(tiny_suite, overrides=overrides))
        store = Store(tmp_path / "results")
        engine = ScriptedEngine(store, places=places, outcomes=outcomes, error_of=error_of)
        paths = DataPaths(tmp_path / "data", tmp_path / "cache")
        settings = supervisor.Settings(paths, CheckpointPolicy(), False, {}, **options)
        return plan, engine, supervisor.run(plan, store, engine, settings, Silent())

    return run_plan


def test_pairs_complete_early(scripted):
    """After any number of trials all but one seed of one cell have all their arms or none."""
    plan, engine, _ = scripted("seeds=3")
    assert engine.begun == list(plan.trials)
    for count in range(1, len(engine.begun) + 1):
        arms: dict[tuple[int, str], int] = {}
        for planned in engine.begun[:count]:
            arms[planned.trial.seed, planned.cell] = arms.get((planned.trial.seed, planned.cell), 0) + 1
        assert sum(number < len(plan.arms) for number in arms.values()) <= 1


@pytest.mark.parametrize("status", [LOST, OUT_OF_MEMORY])
def test_what_is_no_fault_of_a_trial_costs_it_no_attempt(scripted, status):
    _, engine, state = scripted("seeds=1", outcomes=[status] * 5)
    assert (state.done, state.failed) == (4, [])
    assert len({planned.trial_id for planned in engine.begun[:6]}) == 1, "it comes before what waits"
    assert [task.attempt for task in engine.tasks[:6]] == [1] * 6


def test_a_trial_that_is_lost_for_ever_is_given_up(scripted):
    _, engine, state = scripted("seeds=1", outcomes=[LOST] * 22)
    assert len(engine.begun) == 22 + 3
    assert [reason for _, reason in state.failed] == ["lost 21 times with what it ran on"]


def test_a_death_costs_an_attempt_and_two_of_them_the_trial(scripted):
    _, engine, state = scripted("seeds=1", outcomes=[-signal.SIGSEGV, 1])
    assert [reason for _, reason in state.failed] == ["exit status 1"]
    assert [task.attempt for task in engine.tasks[:3]] == [1, 2, 1]
    assert state.done == 3


def test_no_space_stops_the_run_and_counts_against_nobody(scripted):
    _, engine, state = scripted("seeds=1", outcomes=[0, NO_SPACE])
    assert state.stop is Stop.NO_SPACE
    assert "no space left to write" in state.stop_reason
    assert (state.done, len(engine.begun)) == (1, 2)
    _, _, state = scripted("seeds=1")
    assert (state.done, state.skipped, state.stop) == (4, 1, None)


def test_so_many_trials_and_no_more(scripted):
    _, engine, state = scripted("seeds=2", places=3, outcomes=[0, 0, -signal.SIGKILL], max_trials=5)
    assert (state.stop, state.stop_reason) == (Stop.BUDGET, "5 trials were run")
    assert state.done == 5, "one that was begun is tried again"
    assert len({planned.trial_id for planned in engine.begun}) == 5
    _, _, state = scripted("seeds=2", max_trials=3)
    assert (state.done, state.stop) == (8, None), "what is done does not count, and three were left"


def test_a_budget_of_trials_gets_on_where_one_needs_the_network_of_another(run):
    """The next seed's, which the budget alone would never let begin."""
    small = ("evaluate=[transfer]", "matrix.label_noise=[{rate: 0}]", "training.epochs=1")
    done = [0]
    while done[-1] < 4:
        _, _, state = run(*small, max_trials=1)
        assert state.done > done[-1], f"done after each run: {done}"
        done.append(state.done)
    assert done[1] <= 2, "and no more than the budget and what it takes"


def test_a_run_out_of_hours_saves_everything(run):
    run("seeds=1", results="first")  # the forkserver is there now
    started = time.monotonic()
    _, store, state = run("training.epochs=20000", "seeds=1", max_seconds=6.0)
    assert state.stop is Stop.BUDGET
    assert time.monotonic() - started < 6 + supervisor.STOP_SECONDS + 10
    begun = [store.trial(i) for i in store.trial_ids() if store.trial(i).epochs()]
    assert begun
    assert all(folder.checkpoint.exists() and folder.status() == "interrupted" for folder in begun)


def test_a_trial_that_hangs_is_killed_and_tried_again(run):
    """A stopped process is as still as one that hangs in a driver, and only SIGKILL ends it."""
    _, store, _ = run(*LONG, results="undisturbed")
    expected = {i: store.trial(i).final()["metrics"] for i in store.trial_ids()}
    hung: list[int] = []

    def stop_one(state):
        for attempt in state.running:
            if not hung and attempt.epoch >= 5:
                hung.append(attempt.running.process.pid)
                os.kill(hung[0], signal.SIGSTOP)

    _, store, state = run(*LONG, act=stop_one, checkpoint_epochs=2, stall_seconds=6.0)
    assert hung, "the trial ended before it could be stopped"
    assert (state.done, state.failed) == (2, [])
    events = [event for i in store.trial_ids() for event in store.trial(i).events()[0]]
    assert [e["reason"] for e in events if e["event"] == "failed"] == ["no progress for 0.1 minutes"]
    assert any(event["event"] == "resumed" for event in events)
    assert {i: store.trial(i).final()["metrics"] for i in store.trial_ids()} == expected


def test_no_limits_are_the_default():
    settings = supervisor.Settings(DataPaths(None, None), CheckpointPolicy(), False, {})
    assert (settings.max_seconds, settings.max_trials, settings.stall_seconds) == (math.inf,) * 3


def test_seeds_are_added_until_every_comparison_is_clear(scripted):
    """mixup is better by 5 points in one cell, and in the other by nothing but noise."""
    rng = np.random.default_rng(5)
    plan, engine, state = scripted(
        "seeds={min: 3, max: 12}",
        places=2,
        error_of=lambda planned: (
            0.3
            + 0.01 * rng.standard_normal()
            - 0.05 * (planned.trial.method.name == "mixup" and planned.trial.label_noise.is_noisy)
        ),
    )
    seeds = {
        (cell, arm): sorted(p.trial.seed for p in engine.begun if (p.cell, p.arm) == (cell, arm))
        for cell in plan.cells
        for arm in plan.arms
    }
    noisy, clean = sorted(plan.cells, key=lambda cell: len(seeds[cell, "erm"]))
    assert [*range(12)] == seeds[clean, "erm"] == seeds[clean, "mixup alpha=1"]
    assert 3 <= len(seeds[noisy, "erm"]) <= 7
    assert [*range(len(seeds[noisy, "erm"]))] == seeds[noisy, "erm"]
    assert state.done == state.planned == len(engine.begun) == sum(map(len, seeds.values()))
    assert engine.begun[:12] == list(plan.trials[:12]), "the first seeds of all come first"
    _, engine, state = scripted("seeds={min: 3, max: 12}")
    assert (engine.begun, state.done, state.stop) == ([], state.planned, None), "a resumed run wants the same"


def test_an_attempt_that_no_kill_ends_does_not_hold_the_run(scripted, monkeypatch):
    """As a process does that is stuck in the kernel."""
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.5)
    monkeypatch.setattr(ScriptedEngine, "wait", lambda _, seconds: time.sleep(seconds) or [])
    started = time.monotonic()
    _, _, state = scripted("seeds=1", max_seconds=0.1)
    assert state.stop is Stop.BUDGET
    assert time.monotonic() - started < 10
