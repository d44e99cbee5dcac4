"""What MLflow is told of a trial, from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.plan.plan import Plan, PlannedTrial, make_plan
from bench.plan.suite import load_suite
from bench.results.mlflow_trial import TrialRun, durable_epochs, plan_naming, read_trial
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker

MakeWorker = Callable[[PlannedTrial], "Worker"]
T0_MS = 1_700_000_000_000


def read(store: Store, plan: Plan, planned: PlannedTrial) -> TrialRun:
    run = read_trial(planned, plan, store.trial(planned.trial_id), naming=plan_naming(plan))
    assert run is not None
    return run


def arm(plan: Plan, label: str) -> PlannedTrial:
    return next(planned for planned in plan.trials if planned.arm == label and "uniform" in planned.cell)


def finals(run: TrialRun) -> dict[str, float]:
    return {point.key: point.value for point in run.finals}


def log(*steps: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"event": event, "epoch": epoch, "line": line} for line, (event, epoch) in enumerate(steps)]


def test_a_trial_that_has_not_started_has_no_run(store: Store, plan: Plan) -> None:
    assert read_trial(plan.trials[0], plan, store.trial(plan.trials[0].trial_id), naming=plan_naming(plan)) is None


def test_parameters_are_what_a_user_compares(store: Store, plan: Plan, worker: MakeWorker) -> None:
    planned = arm(plan, "mixup alpha=0.2")
    worker(planned).complete()
    run = read(store, plan, planned)
    assert run.params == {
        "method": "mixup",
        "alpha": "0.2",
        "lam_per": "batch",
        "labels": "mixed",
        "dataset": "digits",
        "model": "mlp",
        "label_noise": "uniform",
        "label_noise_rate": "0.4",
        "epochs": "4",
        "batch_size": "128",
        "optimizer": "sgd",
        "lr": "0.1",
        "weight_decay": "0.0005",
        "seed": "0",
    }
    assert run.name == run.tags["given_name"] == "mixup a=0.2 | uniform 40 % | seed 0"
    assert run.tags["condition"] == "mixup a=0.2 | uniform 40 %"
    assert run.tags["trial_id"] == planned.trial_id
    assert (run.tags["suite"], run.tags["suite_version"], run.tags["role"]) == ("digits", "3", "trial")
    assert (run.tags["arm"], run.tags["cell"]) == ("mixup alpha=0.2", planned.cell)
    assert (run.tags["device"], run.tags["hostname"]) == ("cpu", "box")


def test_erm_stands_at_alpha_zero(store: Store, plan: Plan, worker: MakeWorker) -> None:
    worker(arm(plan, "erm")).complete()
    params = read(store, plan, arm(plan, "erm")).params
    assert (params["method"], params["alpha"]) == ("erm", "0")


def test_a_fixed_lam_has_no_alpha_and_a_swept_option_is_a_parameter(
    store: Store, tmp_path: Path, worker: MakeWorker
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: s\nquestion: q\nseeds: 1\n"
        "base: {dataset: {name: digits}, model: {name: mlp}, training: {epochs: 2}}\n"
        "methods: [erm, {name: mixup, lam: 0.7}]\n"
        "matrix: {training.momentum: [0, 0.9], dataset.val_fraction: [0, 0.1]}\n"
    )
    plan = make_plan(load_suite(path))
    planned = plan.trials[-1]
    worker(planned).complete()
    params = read(store, plan, planned).params
    assert (params["lam"], params["momentum"], params["dataset.val_fraction"]) == ("0.7", "0.9", "0.1")
    assert "alpha" not in params


def test_final_scalars_of_training_and_evaluations(store: Store, plan: Plan, worker: MakeWorker) -> None:
    worker(plan.trials[0]).complete()
    run = read(store, plan, plan.trials[0])
    assert finals(run) == {
        "final/test_error": 0.15,
        "final/test_error_val_selected": 0.16,
        "final/test_error_oracle": 0.14,
        "final/train_loss": 0.5,
        "final/test_nll": 0.4,
        "final/test_ece": 0.05,
        "time/total_seconds": 9.5,
    }
    assert {point.ms for point in run.finals} == {T0_MS + 100_000}
    assert (run.status, run.start_ms, run.end_ms) == ("FINISHED", T0_MS, T0_MS + 100_000)


def test_a_finished_trial_names_the_data_it_saw(store: Store, plan: Plan, worker: MakeWorker) -> None:
    trial = worker(plan.trials[0])
    trial.start()
    assert read(store, plan, plan.trials[0]).inputs == ()
    trial.finish()
    train, test = read(store, plan, plan.trials[0]).inputs
    assert (train.name, train.digest, train.context) == ("digits train n=900", "0123456789ab", "training")
    assert (test.name, test.digest, test.context) == ("digits test n=797", "0123456789ab", "testing")
    assert json.loads(train.profile) == {"n_train": 900, "num_classes": 10}
    assert json.loads(test.profile) == {"n_test": 797, "num_classes": 10}
    trial.folder.write_final({"status": "completed", "metrics": {}})  # of a version that did not say
    assert read(store, plan, plan.trials[0]).inputs == ()


def test_each_epoch_is_stamped_by_the_journal(store: Store, plan: Plan, worker: MakeWorker) -> None:
    worker(plan.trials[0]).complete(epochs=2)
    first, second = read(store, plan, plan.trials[0]).epochs
    assert (first[0], second[0]) == (1, 2)
    assert {(point.ms, point.step) for point in second[1]} == {(T0_MS + 2000, 2)}
    assert {point.key: point.value for point in second[1]} == {
        "train/loss": 1.0,
        "train/lr": 0.1,
        "val/error": 0.25,
        "val/nll": 0.75,
        "test/error": 0.3,
        "test/nll": 0.8,
        "time/train_seconds": 0.75,
        "time/eval_seconds": 0.25,
    }


def test_a_number_that_is_not_finite_never_becomes_a_metric(store: Store, plan: Plan, worker: MakeWorker) -> None:
    trial = worker(plan.trials[0])
    trial.start()
    trial.epochs(1, 1)
    trial.folder.append("epoch", epoch=2, train_loss=float("inf"), test_error=float("nan"), train_seconds=1.0)
    trial.finish(status="diverged")
    run = read(store, plan, plan.trials[0])
    assert (run.status, run.tags["status"], run.tags["diverged"]) == ("FINISHED", "diverged", "true")
    assert [point.key for point in run.epochs[-1][1]] == ["time/train_seconds"]
    assert finals(run) == {"time/total_seconds": 9.5}


@pytest.mark.parametrize(
    ("events", "durable"),
    [
        pytest.param([("epoch", 1), ("epoch", 2)], [], id="no checkpoint"),
        pytest.param([("epoch", 1), ("epoch", 2), ("checkpoint", 2), ("epoch", 3)], [0, 1], id="up to the checkpoint"),
        pytest.param(
            [("epoch", 1), ("checkpoint", 1), ("epoch", 2), ("resumed", 1), ("epoch", 2)], [0], id="not yet done again"
        ),
        pytest.param(
            [("epoch", 1), ("checkpoint", 1), ("epoch", 2), ("resumed", 1), ("epoch", 2), ("checkpoint", 2)],
            [0, 4],
            id="done again",
        ),
        pytest.param([("epoch", 1), ("epoch", 2), ("resumed", 2)], [0, 1], id="the checkpoint's own line was lost"),
        pytest.param(
            [("epoch", 1), ("epoch", 2), ("checkpoint", 2), ("epoch", 1)], [], id="the checkpoint itself was lost"
        ),
        pytest.param(
            [("epoch", 1), ("epoch", 2), ("checkpoint", 2), ("epoch", 1), ("checkpoint", 1)], [3], id="and began again"
        ),
    ],
)
def test_an_epoch_is_durable_once_a_checkpoint_covers_it(events: list[tuple[str, int]], durable: list[int]) -> None:
    assert [event["line"] for event in durable_epochs(log(*events), finished=False)] == durable


def test_every_epoch_of_a_finished_trial_is_durable() -> None:
    events = log(("epoch", 1), ("checkpoint", 1), ("epoch", 2), ("resumed", 1), ("epoch", 2), ("epoch", 3))
    assert [event["line"] for event in durable_epochs(events, finished=True)] == [0, 4, 5]


def test_the_status_follows_a_trials_life(store: Store, plan: Plan, worker: MakeWorker) -> None:
    planned = plan.trials[0]
    trial = worker(planned)
    with trial.folder.claim():
        trial.start()
        trial.epochs(1, 1)
        run = read(store, plan, planned)
        assert (run.status, run.end_ms, run.tags["status"]) == ("RUNNING", None, "running")
    run = read(store, plan, planned)
    assert (run.status, run.end_ms, run.tags["status"]) == ("KILLED", T0_MS + 1000, "interrupted")
    trial.log("failed", seconds=5, attempt=1, reason="ValueError: bad", traceback="Traceback: " + "x" * 9000 + "end")
    run = read(store, plan, planned)
    assert (run.status, run.end_ms) == ("FAILED", T0_MS + 5000)
    assert run.tags["failure"] == "ValueError: bad"
    assert run.tags["traceback"].endswith("xend")
    assert len(run.tags["traceback"]) <= 5000
    with trial.folder.claim():
        trial.start(attempt=2, seconds=10)
        run = read(store, plan, planned)
        assert run.status == "RUNNING"
        assert not {"failure", "traceback"} & run.tags.keys()
        trial.finish()
    run = read(store, plan, planned)
    assert (run.status, run.tags["status"], run.start_ms) == ("FINISHED", "completed", T0_MS)
