"""A small real problem: scikit-learn's digits, an MLP, a few epochs."""

from pathlib import Path

import pytest
import torch

from bench.data import datasets
from bench.plan.trial import Trial
from bench.results.store import TrialFolder
from bench.training.data import TrialData, prepare
from bench.training.loop import Trained, train
from bench.training.policy import CheckpointPolicy

NEVER = CheckpointPolicy(seconds=float("inf"))


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    return datasets.load("digits", data_root=Path("unused"), cache_root=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def make_trial():
    def make(*, seed=0, method=None, rate=0.0, kind="uniform", model=None, val_fraction=0.1, **training) -> Trial:
        recipe = {"epochs": 3, "batch_size": 64, "lr": 0.1, **training}
        return Trial(
            dataset={"name": "digits", "val_fraction": val_fraction},
            label_noise={"kind": kind, "rate": rate},
            model=model or {"name": "mlp", "hidden": [16]},
            training=recipe,
            method=method or {"name": "erm"},
            seed=seed,
        )

    return make


@pytest.fixture
def prepared(arrays):
    def prepare_on_cpu(trial: Trial) -> TrialData:
        return prepare(trial, arrays, device=torch.device("cpu"))

    return prepare_on_cpu


@pytest.fixture
def run(prepared, tmp_path):
    """Train a trial in a folder of its own; `name` tells folders apart, or names one to resume in."""

    def run_trial(trial: Trial, name: str | None = None, *, policy=NEVER, stop_requested=lambda: False) -> Trained:
        folder = TrialFolder(tmp_path / (name or f"run{len(list(tmp_path.iterdir()))}"))
        folder.create(trial.record())
        return train(trial, prepared(trial), folder=folder, policy=policy, stop_requested=stop_requested)

    return run_trial
