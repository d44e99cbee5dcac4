"""Frames read from a store that the real trial folders wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up_trials import HARDWARE, VERSIONS, World

from reports.load import load


def test_a_finished_trial(make_world: Callable[..., World]) -> None:
    world = make_world(epochs=3)
    planned = world.trial("uniform 40 %", "mixup alpha=0.2", 4)
    world.finish(planned, 0.125)
    results = load(world.plan, world.store)
    row = results.trials.set_index("trial_id").loc[planned.trial_id]
    assert (row["cell"], row["arm"], row["alpha"], row["seed"]) == ("uniform 40 %", "mixup alpha=0.2", 0.2, 4)
    assert (row["status"], row["test_error_last"], row["test_ece"]) == ("completed", 0.125, 0.0625)
    assert (row["train_seconds"], row["num_train"], row["label_noise_realised"]) == (16.0, 900, pytest.approx(0.36))
    assert results.curves["epoch"].tolist() == [1, 2, 3]
    assert results.curves["test_error"].iloc[-1] == 0.125
    assert len(results.bins) == 15
    assert len(results.trials) == len(world.plan.trials)


def test_alpha_is_0_for_erm_and_missing_for_a_fixed_lam(make_world: Callable[..., World]) -> None:
    world = make_world(
        seeds=1, methods="[erm, {name: mixup, alpha: 4}, {name: mixup, lam: 0.7}]", label_noise="[{rate: 0}]"
    )
    alphas = load(world.plan, world.store).trials["alpha"].tolist()
    assert alphas[:2] == [0.0, 4.0]
    assert math.isnan(alphas[2])


def test_an_epoch_done_again_counts_once_and_as_it_went_last(make_world: Callable[..., World]) -> None:
    world = make_world(epochs=2)
    planned = world.plan.trials[0]
    world.finish(planned, 0.2)
    folder = world.store.trial(planned.trial_id)
    folder.append("epoch", epoch=1, lr=0.1, train_loss=1.0, test_error=0.5, test_nll=1.0)
    with (folder.path / "journal.jsonl").open("a") as journal:
        journal.write('{"event": "epoch", "epoch": 2, "test_err')  # torn by a crash
    assert load(world.plan, world.store).curves["test_error"].tolist() == [0.5, 0.2]


def test_what_became_of_each_trial(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=6, label_noise="[{rate: 0}]", methods="[erm]")
    finished, failed, diverged, interrupted, unevaluated, new = world.plan.trials
    world.finish(finished, 0.2)
    world.fail(failed, "killed by SIGKILL")
    world.diverge(diverged)
    world.start(interrupted)
    world.finish(unevaluated, 0.3, evaluations=False)
    trials = load(world.plan, world.store).trials.set_index("trial_id")
    status = trials["status"]
    assert status[finished.trial_id] == "completed"
    assert status[failed.trial_id] == "failed"
    assert trials.loc[failed.trial_id, "reason"] == "killed by SIGKILL"
    assert status[diverged.trial_id] == "diverged"
    assert trials.loc[diverged.trial_id, "reason"] == "loss not finite at epoch 2, step 17"
    assert math.isnan(trials.loc[diverged.trial_id, "test_error_last"])
    assert status[interrupted.trial_id] == "interrupted"
    assert status[unevaluated.trial_id] == "unevaluated"
    assert trials.loc[unevaluated.trial_id, "test_error_last"] == 0.3
    assert status[new.trial_id] == "new"


def test_a_trial_that_a_process_holds_is_running(make_world: Callable[..., World]) -> None:
    world = make_world()
    planned = world.plan.trials[0]
    world.start(planned)
    with world.store.trial(planned.trial_id).claim():
        assert load(world.plan, world.store).trials["status"].iloc[0] == "running"


def test_nothing_finished(make_world: Callable[..., World]) -> None:
    results = load((world := make_world()).plan, world.store)
    assert set(results.trials["status"]) == {"new"}
    assert results.curves.empty
    assert results.column("test_error_last").isna().all()
    assert not results.provenance


def test_a_metric_that_was_not_finite_is_missing(make_world: Callable[..., World]) -> None:
    world = make_world()
    planned = world.plan.trials[0]
    world.finish(planned, 0.2)
    folder = world.store.trial(planned.trial_id)
    record = folder.evaluation("clean")
    assert record is not None
    folder.write_evaluation("clean", record | {"metrics": {"test_error": 0.2, "test_nll": math.inf}})
    column = load(world.plan, world.store).column("test_nll")
    assert column.dtype == np.float64
    assert column.isna().all()


def test_provenance_counts_trials_by_value(make_world: Callable[..., World]) -> None:
    world = make_world()
    for planned in world.plan.trials[:3]:
        world.finish(planned, 0.2)
    world.finish(world.plan.trials[3], 0.2, hardware="GPU", versions=VERSIONS | {"torch": "2.11.0"})
    provenance = load(world.plan, world.store).provenance
    assert provenance["hardware"] == {HARDWARE: 3, "GPU": 1}
    assert provenance["torch"] == {"2.15.0": 3, "2.11.0": 1}
    assert provenance["numpy"] == {"2.4.6": 4}


def test_each_file_of_a_finished_trial_is_read_once(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(seeds=2)
    for planned in world.plan.trials:
        world.finish(planned, 0.2)
    opened: Counter[Path] = Counter()
    original = Path.open

    def counting(path: Path, *args: object, **options: object) -> object:
        opened[path] += 1
        return original(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    load(world.plan, world.store)
    assert len(opened) == 4 * len(world.plan.trials)  # final, journal, two evaluations
    assert set(opened.values()) == {1}
