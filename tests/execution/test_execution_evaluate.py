"""Evaluations of trained networks in real processes: their numbers, what they cost, what they survive."""

from __future__ import annotations

import functools
import os
import signal

import numpy as np
import pytest
import torch

from bench.evaluation.metrics import top1_error
from bench.execution.preparation import load_arrays
from bench.execution.task import DataPaths, Task
from bench.execution.worker import run_trial
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.training.data import prepare
from bench.training.loop import initial_model, predict
from bench.training.policy import CheckpointPolicy

EVALUATE = (
    "evaluate=[clean, calibration,"
    " {name: corruptions, kinds: [gaussian_noise, contrast, saturate], severities: [1, 5]},"
    " {name: ood, against: gaussian_noise}, {name: adversarial, epsilon: [0, 16], steps: 3},"
    " {name: transfer, attacks: [fgsm], epsilon: [0, 32]}, {name: in_between, pairs: 100}]"
)
ONE_CELL = "matrix.label_noise=[{rate: 0}]"


@pytest.fixture
def run(run):
    """As everywhere here, but in one cell."""
    return functools.partial(run, ONE_CELL)


def records(store, planned):
    folder = store.trial(planned.trial_id)
    return {each.kind: folder.evaluation(each.key) for each in planned.evaluations}


def untimed(found):
    return {kind: {k: v for k, v in record.items() if k != "seconds"} for kind, record in found.items()}


def network(store, planned):
    """The kept network of a trial and its data, put together as a user of the results folder would."""
    arrays = load_arrays(DataPaths(store.root, store.root.parent / "cache"), planned.trial.dataset)
    data = prepare(planned.trial, arrays, device=torch.device("cpu"))
    model = initial_model(planned.trial, data)
    model.load_state_dict(torch.load(store.trial(planned.trial_id).weights, weights_only=True))
    return model.eval(), data


@pytest.fixture
def everything(run):
    plan, store, state = run(EVALUATE)
    assert (state.done, state.failed) == (4, [])
    return plan, store


def test_every_figure_that_the_plan_names_is_there(everything):
    plan, store = everything
    for planned in plan.trials:
        for evaluation in planned.evaluations:
            record = store.trial(planned.trial_id).evaluation(evaluation.key)
            assert set(record["metrics"]) == set(evaluation.config.metrics(validated=True)), evaluation.kind
            assert all(np.isfinite(value) for value in record["metrics"].values()), evaluation.kind
            assert record["options"] == evaluation.config.identity()


def test_corrupted_errors_are_those_of_the_kept_network_on_the_cached_images(everything):
    plan, store = everything
    planned = plan.trials[1]
    model, data = network(store, planned)
    record = records(store, planned)["corruptions"]
    errors = {}
    for file in (store.root.parent / "cache").glob("corrupted-v*/digits-*-test/*.npy"):
        kind, severity = file.stem.rsplit("-", 1)
        logits = predict(model, data, torch.from_numpy(np.load(file)), trial=planned.trial)
        errors.setdefault(kind, {})[severity] = top1_error(logits, data.test_labels)
    assert record["detail"]["errors"] == errors
    assert set(record["detail"]["source"].values()) == {"generated"}
    standard = [e for kind in ("gaussian_noise", "contrast") for e in errors[kind].values()]
    metrics, clean = record["metrics"], records(store, planned)["clean"]["metrics"]["test_error"]
    assert metrics["mean_corruption_error"] == pytest.approx(np.mean(standard))
    assert metrics["relative_corruption_error"] == pytest.approx(np.mean(standard) - clean)
    assert metrics["extra_corruption_error"] == pytest.approx(np.mean(list(errors["saturate"].values())))


def test_an_attack_of_radius_zero_gives_the_clean_error(everything):
    plan, store = everything
    for planned in plan.trials:
        found = records(store, planned)
        clean = found["clean"]["metrics"]["test_error"]
        for kind, prefix in (("adversarial", "adv_pgd"), ("transfer", "transfer_fgsm")):
            assert found[kind]["detail"]["clean_error"] == clean
            assert found[kind]["metrics"][f"{prefix}_linf_0_error"] == clean
        assert found["adversarial"]["metrics"]["adv_pgd_linf_16_error"] > clean


def test_a_transferred_attack_is_made_on_the_baseline_of_the_next_seed(everything):
    """By hand: FGSM on that network's own gradient, tested on this one."""
    plan, store = everything
    by_id = {planned.trial_id: planned for planned in plan.trials}
    for planned in plan.trials:
        record = records(store, planned)["transfer"]
        source = by_id[record["detail"]["source_trial"]]
        assert source.arm == "erm"
        assert source.trial.seed == 1 - planned.trial.seed
        assert source.cell == planned.cell
        error = transferred_error(network(store, source), network(store, planned), epsilon=32 / 255)
        assert record["metrics"]["transfer_fgsm_linf_32_error"] == pytest.approx(error, abs=2 / 797)


def transferred_error(source, victim, *, epsilon):
    """By FGSM on the source, each network with the normalisation of its own training split."""

    def logits(subject, pixels):
        model, data = subject
        return model(pixels * 255 * data.scale + data.shift)

    data = victim[1]
    x = (data.test_images.float() / 255).requires_grad_()
    torch.nn.functional.cross_entropy(logits(source, x), data.test_labels).backward()
    moved = (x + epsilon * x.grad.sign()).clamp(0, 1).detach()
    return top1_error(logits(victim, moved), data.test_labels)


def test_a_transfer_between_networks_of_different_make_and_normalisation(run):
    """Dropout changes the layers of an MLP, and a small training set its normalisation."""
    plan, store, state = run(
        "methods=[erm, {name: erm, dropout: 0.5}]",
        "dataset.train_size=60",
        "evaluate=[clean, {name: transfer, attacks: [fgsm], epsilon: [0, 24]}]",
    )
    assert (state.done, state.failed) == (4, [])
    by_id = {planned.trial_id: planned for planned in plan.trials}
    for planned in plan.trials:
        record = records(store, planned)["transfer"]
        source = by_id[record["detail"]["source_trial"]]
        assert not torch.equal(network(store, source)[1].scale, network(store, planned)[1].scale)
        error = transferred_error(network(store, source), network(store, planned), epsilon=24 / 255)
        assert record["metrics"]["transfer_fgsm_linf_24_error"] == pytest.approx(error, abs=2 / 797)


def test_a_network_that_is_damaged_when_another_trial_needs_it_is_made_again(run):
    options = ("methods=[erm]", ONE_CELL, "evaluate=[clean, {name: transfer, attacks: [fgsm], epsilon: [4]}]")
    plan, store, _ = run(*options)
    victim = plan.trials[0]
    expected = untimed(records(store, victim))
    source = store.trial(records(store, victim)["transfer"]["detail"]["source_trial"])
    key = next(each.key for each in victim.evaluations if each.kind == "transfer")
    (store.trial(victim.trial_id).path / "evaluations" / f"{key}.json").unlink()
    weights = source.weights.read_bytes()
    source.weights.write_bytes(weights[: len(weights) // 2])
    _, _, state = run(*options)
    assert (state.done, state.planned, state.failed) == (2, 2, [])
    assert untimed(records(store, victim)) == expected
    assert source.weights.read_bytes() == weights


def test_a_later_evaluation_gives_the_same_bits(run):
    recipe = ("seeds=1", "training.threads=2", "training.channels_last=true", "model=timm/test_resnet")
    evaluate = "evaluate=[clean, {name: ood, against: uniform_noise}, {name: in_between, pairs: 50}]"
    plan, at_once, _ = run(*recipe, evaluate, results="at-once")
    run(*recipe, "evaluate=[clean]", results="later")
    _, later, _ = run(*recipe, evaluate, results="later")
    for planned in plan.trials:
        assert untimed(records(at_once, planned)) == untimed(records(later, planned))


def test_an_evaluation_that_fails_costs_no_result(run, tmp_path):
    """The corrupted images are torn away under the run: the error is there, and so is the next evaluation."""
    overrides = ("seeds=1", "evaluate=[clean, {name: ood, against: mnist}, {name: in_between, pairs: 10}]")
    plan = make_plan(load_suite(tmp_path / "tiny.yaml", overrides=(ONE_CELL, *overrides)))
    store = Store(tmp_path / "results")
    planned = plan.trials[0]
    task = Task(
        record=planned.trial.record(),
        folder=store.trial(planned.trial_id).path,
        evaluations=planned.evaluations,
        keep_weights=True,
        attempt=1,
        device="cpu",
        visible_devices="",
        data=DataPaths(tmp_path / "nothing", tmp_path / "cache"),
        policy=CheckpointPolicy(60),
    )
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "mnist").write_text("a file where a folder should be")
    folder = store.trial(planned.trial_id)
    with pytest.raises(Exception, match="mnist"):
        run_trial(task, folder, lambda: False)
    assert folder.final()["metrics"]["test_error_last"] < 0.5
    assert folder.status(planned.evaluation_keys) == "unevaluated"
    assert records(store, planned)["in_between"]["metrics"]
    assert records(store, planned)["ood"] is None


def test_a_trial_trained_again_elsewhere_keeps_no_record_of_the_first_network(run):
    plan, store, _ = run("seeds=1", keep_weights=False)
    folder = store.trial(plan.trials[0].trial_id)
    with np.load(folder.logits) as kept:
        others = {name: kept[name] + (name == "test_logits") for name in kept.files}
    np.savez_compressed(folder.logits, **others)  # as if another machine had trained it
    stale = {**records(store, plan.trials[0])["clean"], "metrics": {"test_error": 0.5, "test_nll": 9.0}}
    folder.write_evaluation(plan.trials[0].evaluation_keys[0], stale)
    run("seeds=1", "evaluate=[clean, calibration, {name: in_between, pairs: 10}]")
    assert records(store, plan.trials[0])["clean"]["metrics"]["test_nll"] < 2


def test_both_arms_of_a_pair_see_the_same_foreign_images_and_pairs(everything):
    plan, store = everything
    seeds = {}
    for planned in plan.trials:
        found = records(store, planned)
        seeds.setdefault(planned.trial.seed, []).append(found["in_between"]["detail"]["num_pairs"])
        assert found["ood"]["detail"]["num_out"] == found["ood"]["detail"]["num_in"] == 797
    assert seeds == {0: [100, 100], 1: [100, 100]}


def test_an_evaluation_that_a_suite_gains_uses_the_kept_network(run):
    plan, store, _ = run("seeds=1")
    journal = store.trial(plan.trials[0].trial_id).events()[0]
    plan, store, state = run("seeds=1", "evaluate=[clean, {name: in_between, pairs: 10}]")
    assert (state.done, state.skipped) == (2, 0)
    later = store.trial(plan.trials[0].trial_id).events()[0][len(journal) :]
    assert [(event["event"], event["kind"]) for event in later] == [("evaluated", "in_between")]


def test_an_evaluation_trains_again_where_the_network_is_gone(run):
    overrides = ("seeds=1", "evaluate=[clean, {name: in_between, pairs: 10}]")
    plan, store, _ = run(*overrides)
    expected = untimed(records(store, plan.trials[0]))
    plan, store, _ = run("seeds=1", keep_weights=False, results="light")
    assert not store.trial(plan.trials[0].trial_id).weights.exists()
    plan, store, state = run(*overrides, keep_weights=False, results="light")
    assert state.done == 2
    assert untimed(records(store, plan.trials[0])) == expected
    assert not store.trial(plan.trials[0].trial_id).weights.exists()


def test_a_source_whose_network_is_gone_is_trained_again(run):
    run("evaluate=[clean]", keep_weights=False)
    plan, store, state = run("evaluate=[clean, {name: transfer, attacks: [fgsm], epsilon: [8]}]")
    assert (state.done, state.failed) == (4, [])
    for planned in plan.trials:
        assert records(store, planned)["transfer"]["metrics"]


def test_a_source_that_diverged_is_named(run):
    _, _, state = run(
        "evaluate=[clean, {name: transfer, attacks: [fgsm], epsilon: [8]}]", "training.lr=1e30", "training.epochs=2"
    )
    assert len(state.diverged) == 4, "a diverged trial is evaluated on nothing"
    assert state.failed == []


def test_an_attack_on_a_source_that_diverged_is_recorded_as_impossible(run):
    """Both ERM trials count as diverged: the attacks that they would have given are neither waited for nor failures."""
    evaluate = "evaluate=[clean, {name: transfer, attacks: [fgsm], epsilon: [8]}]"
    plan, store, _ = run("evaluate=[clean]")
    for planned in plan.trials:
        if planned.arm == "erm":
            folder = store.trial(planned.trial_id)
            folder.write_final({**folder.final(), "status": "diverged", "metrics": {}})
    plan, store, state = run(evaluate)
    assert (state.done, state.failed, len(state.diverged)) == (4, [], 2)
    for planned in plan.trials:
        if planned.arm != "erm":
            record = records(store, planned)["transfer"]
            assert record["metrics"] == {"transfer_fgsm_linf_8_error": None}
            assert "diverged" in record["detail"]["reason"]
    _, _, state = run(evaluate)
    assert (state.done, state.skipped) == (4, 4)


def test_a_kill_between_training_and_evaluation_costs_no_training(run, tiny_suite, tmp_path):
    """SIGKILL while a long evaluation runs: the next attempt finds the training done and the network there."""
    overrides = ("seeds=1", "evaluate=[clean, {name: adversarial, attacks: [pgd], steps: 60, restarts: 8}]")
    killed = []

    def kill(state):
        for attempt in state.running:
            evaluating = any(event["event"] == "evaluated" for event in attempt.folder.events()[0])
            if evaluating and not killed:
                os.kill(attempt.running.process.pid, signal.SIGKILL)
                killed.append(attempt.planned)

    _, store, state = run(*overrides, act=kill)
    assert killed, "the evaluation ended before it could be killed"
    assert (state.done, state.failed) == (2, [])
    events = store.trial(killed[0].trial_id).events()[0]
    names = [event["event"] for event in events]
    assert "epoch" not in names[names.index("failed") :], "it trained again"
    undisturbed, other, _ = run(*overrides, results="undisturbed")
    for planned in undisturbed.trials:
        assert untimed(records(store, planned)) == untimed(records(other, planned))
