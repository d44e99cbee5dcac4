"""Methods of every kind in real processes, from a suite's line to a trial's record."""

from __future__ import annotations

import os
import signal

import pytest

from bench.plan.trial import Trial

ALL = """[erm, {name: mixup, partner: [neighbours, class_neighbours], k: 10}, {name: mixup, lam: uniform, examples: 3},
{name: manifold_mixup, layers: [1, [0, 1]]}, cutmix, mixup_or_cutmix, resizemix, fmix, regmixup, augmix,
{name: mixup, dropout: 0.2, label_smoothing: 0.1, gaussian_noise: 0.1, cutout: 2, weight_decay: 0.001}]"""


def result(store, planned):
    final = store.trial(planned.trial_id).final()
    return final["status"], final["metrics"], final["mixing"]


def test_a_suite_of_every_method(run):
    plan, store, state = run(f"methods={ALL}", "seeds=1", "matrix.label_noise=[{rate: 0.4}]")
    assert (state.failed, state.diverged) == ([], [])
    assert state.done == len(plan.trials) == 13
    for planned in plan.trials:
        status, metrics, mixing = result(store, planned)
        assert status == "completed"
        assert 0 < metrics["train_error_mixed"] < 1
        assert metrics["weight_norm"] > 0
        assert (mixing is None) == (planned.trial.method.name in ("erm", "augmix"))
        record = store.trial(planned.trial_id).record()
        assert Trial.model_validate(record["trial"]).trial_id == planned.trial_id, "read back, it is another trial"


def test_a_table_of_neighbours_serves_every_seed_and_arm(run, tmp_path):
    """One over all classes; one within the (right) classes, which the seed does not change either."""
    plan, store, state = run(
        "methods=[erm, {name: mixup, alpha: [0.5, 1], partner: [neighbours, class_neighbours], k: 10}]",
        "matrix.label_noise=[{rate: 0}]",
    )
    assert (state.done, state.failed) == (10, [])
    assert len(list(tmp_path.glob("cache/neighbours-v*/digits-*.npy"))) == 2
    within = [planned for planned in plan.trials if "class_neighbours" in planned.arm]
    assert [result(store, planned)[2]["equal_class_share"] for planned in within] == [1.0] * 4


def test_wrong_labels_and_small_sets_have_tables_of_their_own(run, tmp_path):
    *_, state = run(
        "methods=[erm, {name: mixup, partner: [neighbours, class_neighbours], k: 10}]",
        "dataset.train_size=300",
        "matrix.label_noise=[{rate: 0.4}]",
    )
    assert (state.done, state.failed) == (6, [])
    assert len(list(tmp_path.glob("cache/neighbours-v*/digits-*.npy"))) == 4  # two seeds choose two subsets


@pytest.mark.parametrize(
    "method",
    [
        "{name: mixup, partner: class_neighbours, k: 20}",
        "{name: manifold_mixup, layers: [[0, 1]], gaussian_noise: 0.1}",
    ],
)
def test_killed_and_tried_again_it_gives_the_same(run, method):
    """SIGKILL after an epoch: it goes on from its checkpoint, and records what it would have recorded."""
    recipe = (f"methods=[erm, {method}]", "training.epochs=80", "seeds=1", "matrix.label_noise=[{rate: 0.4}]")
    plan, whole, _ = run(*recipe, results="whole")
    killed: list[int] = []

    def kill_once(state):
        for attempt in state.running:
            if not killed and attempt.planned.arm != "erm" and attempt.epoch >= 5:
                os.kill(attempt.running.process.pid, signal.SIGKILL)
                killed.append(attempt.running.process.pid)

    _, parts, state = run(*recipe, results="parts", act=kill_once, checkpoint_epochs=2)
    assert killed
    assert state.failed == []
    for planned in plan.trials:
        assert result(parts, planned) == result(whole, planned)
        assert parts.trial(planned.trial_id).events()[0][-1]["event"] in ("finished", "evaluated")
