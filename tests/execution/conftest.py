"""Runs of the tiny suite in real processes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest

from bench.execution import supervisor
from bench.execution.devices import Slot
from bench.execution.local import LocalEngine
from bench.execution.packing import FixedSlots
from bench.execution.task import DataPaths
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.training.policy import CheckpointPolicy

SLOTS = [Slot("CPU 0"), Slot("CPU 1")]


class Watcher:
    """Calls `act` with every state it is shown."""

    def __init__(self, act=lambda _: None):
        self.act = act

    def update(self, state):
        self.act(state)


@pytest.fixture
def run(tiny_suite, tmp_path):
    def run_plan(
        *overrides,
        act=lambda _: None,
        results="results",
        checkpoint_epochs=None,
        keep_weights=True,
        slots=SLOTS,
        **options,
    ):
        plan = make_plan(load_suite(tiny_suite, overrides=overrides))
        store = Store(tmp_path / results)
        settings = supervisor.Settings(
            data=DataPaths(tmp_path / "data", tmp_path / "cache"),
            policy=CheckpointPolicy(60, checkpoint_epochs),
            keep_weights=keep_weights,
            estimates={planned.trial_id: 1.0 for planned in plan.trials},
            **options,
        )
        with closing(LocalEngine(FixedSlots(slots))) as engine:
            return plan, store, supervisor.run(plan, store, engine, settings, Watcher(act))

    return run_plan


@pytest.fixture
def start_run(tiny_suite, tmp_path, bench_environment):
    """`bench run` on the tiny suite in the background, with overrides."""

    def start(*overrides: str, new_session: bool = False) -> subprocess.Popen[str]:
        options = ["--no-mlflow", "--no-report", "--devices", "cpu"]
        for override in overrides:
            options += ["--set", override]
        return subprocess.Popen(
            [sys.executable, "-m", "bench", "run", str(tiny_suite), *options],
            cwd=tmp_path,
            env=bench_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=new_session,
        )

    return start
