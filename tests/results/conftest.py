"""A small plan, and trials written into a store as a worker writes them, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.plan.plan import Plan, PlannedTrial, make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store, TrialFolder

SUITE = """\
name: digits
version: 3
question: Does mixup help?
seeds: 2
base:
  dataset: {name: digits}
  model: {name: mlp}
  training: {epochs: 4, lr: 0.1, weight_decay: 5e-4}
methods:
  - erm
  - {name: mixup, alpha: [0.2, 1]}
matrix:
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
evaluate: [clean, calibration, corruptions]
"""

T0 = 1_700_000_000.0
"""When every trial began, unix seconds."""


def epoch_event(epoch: int, *, seconds: float | None = None, **changes: Any) -> dict[str, Any]:
    """The journal's line of one epoch: epoch n at T0 + n, with values that tell the epochs apart."""
    return {
        "event": "epoch",
        "time": T0 + (epoch if seconds is None else seconds),
        "epoch": epoch,
        "lr": 0.1,
        "train_loss": 2.0 / epoch,
        "val_error": 0.5 / epoch,
        "val_nll": 1.5 / epoch,
        "test_error": 0.6 / epoch,
        "test_nll": 1.6 / epoch,
        "train_seconds": 0.75,
        "eval_seconds": 0.25,
        **changes,
    }


POINTS_PER_EPOCH = 8

DATA = {"sha256": "0123456789abcdef" * 4, "n_train": 900, "n_val": 100, "n_test": 797, "num_classes": 10}
"""What every trial was trained on."""


class Worker:
    """Writes one trial's folder, at times of its own choosing."""

    def __init__(self, folder: TrialFolder, planned: PlannedTrial) -> None:
        self.folder, self.planned = folder, planned
        folder.create(planned.trial.record())

    def log(self, event: str, *, seconds: float = 0.0, **fields: Any) -> None:
        self.write({"event": event, "time": T0 + seconds, **fields})

    def write(self, *events: dict[str, Any]) -> None:
        with (self.folder.path / "journal.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    def start(self, *, attempt: int = 1, seconds: float = 0.0) -> None:
        self.log("started", seconds=seconds, attempt=attempt, host="box", pid=1, device="cpu", threads=1)

    def epochs(self, first: int, last: int, **changes: Any) -> None:
        self.write(*(epoch_event(epoch, **changes) for epoch in range(first, last + 1)))

    def finish(self, *, seconds: float = 100.0, status: str = "completed", **metrics: float) -> None:
        self.log("finished", seconds=seconds, status=status)
        self.folder.write_final({"status": status, "metrics": metrics, "total_seconds": 9.5, "data": DATA})

    def complete(self, *, epochs: int = 4) -> None:
        """The whole life of a trial that nothing disturbs."""
        self.start()
        self.epochs(1, epochs)
        self.finish(test_error_last=0.15, test_error_val_selected=0.16, test_error_oracle=0.14, train_loss_last=0.5)
        self.evaluate("clean", test_error=0.15, test_nll=0.4)
        self.evaluate("calibration", test_ece=0.05)

    def evaluate(self, kind: str, **metrics: float) -> None:
        """Write the record of the plan's evaluation of this kind."""
        [evaluation] = [each for each in self.planned.evaluations if each.kind == kind]
        self.folder.write_evaluation(evaluation.key, {"kind": kind, "metrics": metrics})


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Twelve trials: three arms, two cells, two seeds."""
    path = tmp_path_factory.mktemp("suite") / "digits.yaml"
    path.write_text(SUITE)
    return make_plan(load_suite(path))


@pytest.fixture(scope="session")
def small_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The same suite with one seed, whose six trials are among the plan's twelve."""
    path = tmp_path_factory.mktemp("suite") / "digits.yaml"
    path.write_text(SUITE)
    return make_plan(load_suite(path, overrides=["seeds=1"]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def worker(store: Store) -> Callable[[PlannedTrial], Worker]:
    return lambda planned: Worker(store.trial(planned.trial_id), planned)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; making one takes two seconds, copying it none."""
    from bench.results.mlflow import create_database

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    create_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(store: Store, empty_database: Path) -> Path:
    """The results folder's own database, empty."""
    store.root.mkdir()
    return Path(shutil.copy(empty_database, store.root / "mlflow.db"))
