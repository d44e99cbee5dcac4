"""Frames read from a store that the real trial folders wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import EVERYTHING, HARDWARE, VERSIONS, World

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
    assert results.bins["scaled"].tolist() == [0] * 15 + [1] * 15
    assert len(results.trials) == len(world.plan.trials)


def test_alpha_is_0_for_erm_and_missing_for_a_fixed_lam(make_world: Callable[..., World]) -> None:
    world = make_world(
        seeds=1, methods="[erm, {name: mixup, alpha: 4}, {name: mixup, lam: 0.7}]", label_noise="[{rate: 0}]"
    )
    alphas = load(world.plan, world.store).trials["alpha"].tolist()
    assert alphas[:2] == [0.0, 4.0]
    assert math.isnan(alphas[2])


def test_erm_with_companions_is_no_mixup_at_alpha_0(make_world: Callable[..., World]) -> None:
    methods = "[erm, {name: erm, label_smoothing: 0.1}, {name: manifold_mixup, alpha: 2}, resizemix]"
    world = make_world(seeds=1, methods=methods, label_noise="[{rate: 0}]")
    trials = load(world.plan, world.store).trials.set_index("arm")["alpha"]
    assert trials["erm"] == 0
    assert math.isnan(trials["erm label_smoothing=0.1"])
    assert trials.filter(like="manifold_mixup").tolist() == [2]
    assert math.isnan(trials["resizemix"])


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
    world.rewrite(planned, "clean", metrics={"test_error": 0.2, "test_nll": math.inf})
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
    world = make_world(seeds=2, evaluate=EVERYTHING)
    for planned in world.plan.trials:
        world.finish(planned, 0.2)
    opened: Counter[Path] = Counter()
    original = Path.open

    def counting(path: Path, *args: object, **options: object) -> object:
        opened[path] += 1
        return original(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    load(world.plan, world.store)
    noisy_seeds = 2  # label_noise.json of one arm stands for all
    assert len(opened) == (2 + 8) * len(world.plan.trials) + noisy_seeds  # final, journal, eight evaluations
    assert set(opened.values()) == {1}


def test_details_of_every_evaluation(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, evaluate=EVERYTHING)
    planned = world.trial("uniform 40 %", "erm", 1)
    world.finish(planned, 0.25)
    results = load(world.plan, world.store)
    assert len(results.corruptions) == 1 + 19 * 5  # clean, and every kind and severity
    assert len(results.attacks) == 2 * 3 * (1 + 4)
    assert len(results.in_between) == 21
    assert results.ood["set"].tolist() == ["gaussian_noise", "mnist"]
    attack = results.attacks.set_index(["transfer", "attack", "epsilon"])["error"]
    assert attack[False, "pgd", 0] == 0.25
    assert attack[True, "pgd", 2] == pytest.approx(0.25 + 0.5 * 0.1 * 2)
    (noise,) = results.label_noise
    assert (noise.cell, noise.seed, noise.kind, noise.nominal_rate) == ("uniform 40 %", 1, "uniform", 0.4)
    assert noise.matrix.sum() == 900
    assert results.measured["corruptions"] == (
        "mean_corruption_error",
        "relative_corruption_error",
        "extra_corruption_error",
    )
    assert len(results.measured["ood"]) == 12


def test_two_evaluations_of_one_kind_share_the_clean_error(make_world: Callable[..., World]) -> None:
    evaluate = (
        "[{name: adversarial, attacks: [pgd], epsilon: [1, 2]}, {name: adversarial, attacks: [pgd], epsilon: [8]}]"
    )
    world = make_world(seeds=1, evaluate=evaluate)
    world.finish(world.plan.trials[0], 0.25)
    assert load(world.plan, world.store).attacks["epsilon"].tolist() == [0, 1, 2, 8]


def test_numbers_that_are_missing_in_a_record_are_missing_in_the_frames(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=1, evaluate="[clean, in_between]", label_noise="[{rate: 0}]")
    planned = world.plan.trials[0]
    world.finish(planned, 0.25)
    nothing = [None] * 21
    detail = {"lam": [each / 20 for each in range(21)], "miss": nothing, "gradient_norm": nothing, "num_pairs": 1000}
    world.rewrite(planned, "in_between", detail=detail, metrics={"in_between_miss_half": None})
    results = load(world.plan, world.store)
    assert results.in_between["miss"].isna().all()
    assert results.column("in_between_miss_half").isna().all()
    assert results.measured["in_between"] == ("in_between_miss_half",)


def test_what_training_saw(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=1, label_noise="[{rate: 0}]")
    erm, mixup, _ = world.plan.trials
    world.finish(erm, 0.2)
    world.finish(mixup, 0.2)
    results = load(world.plan, world.store)
    final = world.store.trial(mixup.trial_id).final()
    assert final is not None
    assert set(results.lam["arm"]) == {"mixup alpha=0.2"}  # erm has no lam
    assert results.lam["count"].tolist() == final["mixing"]["lam_histogram"]
    assert results.lam["lower"].tolist() == pytest.approx([index / 20 for index in range(20)])
    assert results.lam["upper"].iloc[-1] == 1
    rows = results.trials.set_index("trial_id")
    names = ["lam_mean", "mixed_share", "equal_class_share", "train_error_mixed", "weight_norm"]
    assert rows.loc[mixup.trial_id, names].tolist() == pytest.approx([0.5, 1.0, 0.1, 0.45, 14])
    assert rows.loc[erm.trial_id, ["lam_mean", "mixed_share", "equal_class_share"]].isna().all()
    own = results.curves[results.curves["arm"] == "erm"]
    assert own["weight_norm"].tolist() == [11, 12, 13, 14]
    assert own["train_error_mixed"].tolist() == own["test_error"].tolist()


def test_results_of_before_mixing_was_recorded(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=1)
    for planned in world.plan.trials:
        world.finish(planned, 0.2)
        world.forget_mixing(planned)
    results = load(world.plan, world.store)
    assert results.lam.empty
    assert results.curves[["train_error_mixed", "weight_norm"]].isna().all(axis=None)
    assert results.column("lam_mean").isna().all()
    assert results.column("test_error_last").notna().all()


def test_rows_that_come_in_parts_give_the_same_frames(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a column has a value in some parts only: the errors on wrong labels, of the noisy cell."""
    world = make_world(seeds=2, evaluate=EVERYTHING)
    for planned in world.plan.trials:
        world.finish(planned, 0.1)
    whole = load(world.plan, world.store)
    monkeypatch.setattr("reports.load.ROWS_AT_ONCE", 3)
    parts = load(world.plan, world.store)
    for name in ("curves", "lam", "bins", "corruptions", "attacks", "in_between", "ood"):
        pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name))
