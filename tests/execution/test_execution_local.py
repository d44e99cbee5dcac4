"""Trials in real processes: killed, interrupted, shared between two runs, and none the worse for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import epochs_of_running, finals, numbers, untimed, wait_for

from bench.execution.engine import DataUnavailable
from bench.execution.task import DataPaths
from bench.results.store import Store


def kill_once(trial_at_epoch: int, signals: list[int]):
    """Sends SIGKILL to the first running trial that has reached the epoch, once."""

    def act(state):
        for attempt in state.running:
            if not signals and attempt.epoch >= trial_at_epoch:
                os.kill(attempt.running.process.pid, signal.SIGKILL)
                signals.append(attempt.running.process.pid)

    return act


LONG = ("training.epochs=150", "seeds=1", "matrix.label_noise=[{rate: 0.4}]")


def test_a_run_leaves_everything_behind(run):
    plan, store, state = run()
    assert (state.done, state.failed, state.interrupted) == (8, [], False)
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        assert folder.status(planned.evaluation_keys) == "completed"
        assert folder.weights.exists()
        assert folder.logits.exists()
        assert not folder.checkpoint.exists()
        final = folder.final()
        assert final["epochs"] == 4
        assert final["data"]["n_train"] + final["data"]["n_val"] == 1000
        assert final["provenance"]["versions"]["torch"]
        assert 0 < final["peak_rss_bytes"] < 1e9
        noisy = planned.trial.label_noise.rate > 0
        assert ("train_error_wrong_labels" in final["metrics"]) == noisy
        assert (
            0.3 < final["data"]["label_noise_realised"] < 0.42 if noisy else final["data"]["label_noise_realised"] == 0
        )


def test_the_errors_are_those_of_the_kept_logits(run):
    """The stored logits, scored by numpy alone, give the stored error."""
    import numpy as np

    plan, store, _ = run("seeds=1")
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        with np.load(folder.logits) as kept:
            error = (kept["test_logits"].argmax(1) != kept["test_labels"]).mean()
            assert kept["test_logits"].dtype == np.float32
        assert folder.final()["metrics"]["test_error_last"] == pytest.approx(error)
        assert folder.evaluation(planned.evaluation_keys[0])["metrics"]["test_error"] == pytest.approx(error)


def test_kept_weights_give_the_kept_logits(run):
    import numpy as np
    import torch

    from bench.execution.preparation import load_arrays
    from bench.training.data import prepare
    from bench.training.loop import initial_model, predict

    plan, store, _ = run("seeds=1")
    planned = plan.trials[0]
    folder = store.trial(planned.trial_id)
    arrays = load_arrays(DataPaths(Path("unused"), store.root.parent / "cache"), planned.trial.dataset)
    data = prepare(planned.trial, arrays, device=torch.device("cpu"))
    model = initial_model(planned.trial, data)
    model.load_state_dict(torch.load(folder.weights, weights_only=True))
    with np.load(folder.logits) as kept:
        logits = predict(model, data, data.test_images, trial=planned.trial)
        np.testing.assert_allclose(logits.numpy(), kept["test_logits"], atol=1e-4)


def test_a_second_run_trains_nothing(run):
    _, store, _ = run()
    before = {i: (store.trial(i).path / "final.json").stat().st_mtime_ns for i in store.trial_ids()}
    _, _, state = run()
    assert (state.done, state.skipped) == (8, 8)
    assert {i: (store.trial(i).path / "final.json").stat().st_mtime_ns for i in store.trial_ids()} == before


def test_an_evaluation_that_is_gone_is_made_again_without_training(run):
    plan, store, _ = run("seeds=1")
    folder = store.trial(plan.trials[0].trial_id)
    key = plan.trials[0].evaluation_keys[1]
    lost = folder.evaluation(key)
    (folder.path / "evaluations" / f"{key}.json").unlink()
    started = len(folder.events()[0])
    run("seeds=1")
    assert untimed(folder.evaluation(key)) == untimed(lost)
    assert [event["event"] for event in folder.events()[0][started:]] == ["evaluated"], "it trained again"


def test_a_killed_trial_is_tried_again_and_gives_the_same_numbers(run):
    plan, store, state = run(*LONG, results="undisturbed")
    expected = numbers(store, plan)
    killed: list[int] = []
    plan, store, state = run(*LONG, act=kill_once(5, killed), checkpoint_epochs=2)
    assert killed, "the trial ended before it could be killed"
    assert (state.done, state.failed) == (2, [])
    assert numbers(store, plan) == expected
    events = [e for i in store.trial_ids() for e in store.trial(i).events()[0]]
    assert [e["reason"] for e in events if e["event"] == "failed"] == ["killed by SIGKILL"]
    assert any(e["event"] == "resumed" and e["epoch"] >= 2 for e in events), "it began from the beginning"


def test_a_trial_killed_twice_is_a_failure_and_others_do_not_notice(run):
    victim: list[str] = []

    def kill_the_first(state):
        for attempt in state.running:
            if not victim:
                victim.append(attempt.planned.trial_id)
            if attempt.planned.trial_id == victim[0]:
                os.kill(attempt.running.process.pid, signal.SIGKILL)

    _, store, state = run(*LONG, act=kill_the_first)
    assert state.done == 1
    assert [(planned.trial_id, reason) for planned, reason in state.failed] == [(victim[0], "killed by SIGKILL")]
    folder = store.trial(victim[0])
    assert folder.status() == "failed"
    assert folder.final() is None
    _, _, state = run(*LONG)
    assert (state.done, state.failed) == (2, []), "the next run tries a failure again"


def test_an_exception_in_training_is_a_failure_with_its_traceback(run):
    """LeNet cannot take 8x8 images, which only building it shows."""
    plan, store, state = run("model={name: lenet}", "seeds=1", "matrix.label_noise=[{rate: 0}]", "methods=[erm]")
    ((_, reason),) = state.failed
    assert "lenet needs images of at least 28x28" in reason
    failure = store.trial(plan.trials[0].trial_id).last_failure()
    assert "Traceback (most recent call last)" in failure["traceback"]
    assert failure["attempt"] == 2


def test_a_diverged_trial_is_finished_and_not_tried_again(run):
    options = ("training.lr=1e12", "training.momentum=0", "seeds=1", "matrix.label_noise=[{rate: 0}]", "methods=[erm]")
    plan, store, state = run(*options)
    assert (state.done, len(state.diverged), state.failed) == (1, 1, [])
    final = store.trial(plan.trials[0].trial_id).final()
    assert final["status"] == "diverged"
    assert final["diverged"]["epoch"] == 1
    _, _, state = run(*options)
    assert (state.done, state.skipped) == (1, 1)


def test_a_death_is_not_taken_for_the_failure_before_it(run):
    """The processes cannot even open their output, so that the journal's last word is an older run's."""
    options = ("seeds=1", "matrix.label_noise=[{rate: 0}]", "methods=[erm]")
    plan, store, _ = run(*options, results="elsewhere")
    planned = plan.trials[0]
    folder = Store(store.root.with_name("results")).trial(planned.trial_id)
    folder.create(planned.trial.record())
    folder.append("failed", attempt=2, reason="ValueError: from long ago", traceback="")
    (folder.path / "output.log").mkdir()
    _, _, state = run(*options)
    assert [reason for _, reason in state.failed] == ["exit status 1"]
    assert [event["attempt"] for event in folder.events()[0]] == [2, 1, 2]


def test_an_error_of_the_supervisor_leaves_no_trial_behind(run, tmp_path):
    """A terminal that went away, say: at its exit the supervisor would wait for what still runs."""

    def fail(state):
        if any(attempt.epoch >= 3 for attempt in state.running):
            raise BrokenPipeError("nobody reads this any more")

    with pytest.raises(BrokenPipeError):
        run("training.epochs=20000", "seeds=1", act=fail)
    store = Store(tmp_path / "results")
    assert not any(store.trial(i).is_claimed() for i in store.trial_ids())
    assert all(store.trial(i).checkpoint.exists() for i in store.trial_ids() if store.trial(i).epochs())


def test_a_data_set_that_cannot_be_had_stops_before_training(run, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match=r"mnist|MNIST"):
        run("dataset.name=mnist", "seeds=1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_within_seconds_and_keeps_what_is_finished(run, start_run, tmp_path, number):
    process = start_run(*LONG, "seeds=2")
    store = Store(tmp_path / "results")
    wait_for(lambda: len(finals(store)) >= 1 and any(n >= 3 for n in epochs_of_running(store)))
    kept = finals(store)
    process.send_signal(number)
    started = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "the same command goes on from here" in output
    assert set(kept) <= set(finals(store))
    stopped = [store.trial(i) for i in store.trial_ids() if not store.trial(i).final() and store.trial(i).epochs()]
    assert any(folder.checkpoint.exists() for folder in stopped)
    plan, _, state = run(*LONG, "seeds=2")
    assert (state.done, state.failed) == (4, [])
    _, undisturbed, _ = run(*LONG, "seeds=2", results="undisturbed")
    assert numbers(store, plan) == numbers(undisturbed, plan)


def test_a_signal_ends_a_run_that_still_prepares_its_data(start_run, tmp_path):
    """The data are pipes that nobody writes to, as slow as a download can be."""
    raw = tmp_path / "results" / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        os.mkfifo(raw / f"{name}-ubyte")
    process = start_run("dataset.name=mnist")
    cache_lock = tmp_path / "results" / "cache" / "data" / "mnist-v1.lock"
    wait_for(cache_lock.exists)
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped with 0 of 8 trials done" in output


def test_two_runs_at_once_share_the_work(start_run, tmp_path):
    both = [start_run("training.epochs=40", "seeds=3") for _ in range(2)]
    outputs = [process.communicate(timeout=150)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    store = Store(tmp_path / "results")
    assert len(finals(store)) == 12
    for trial_id in store.trial_ids():
        events = [event["event"] for event in store.trial(trial_id).events()[0]]
        assert events.count("started") == events.count("finished") == 1, trial_id
    assert all("12/12 done" in output for output in outputs)


def test_workers_end_when_their_supervisor_is_killed(start_run, tmp_path):
    process = start_run("training.epochs=2000", "seeds=1")
    store = Store(tmp_path / "results")
    wait_for(lambda: any(n >= 2 for n in epochs_of_running(store)))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not any(store.trial(i).is_claimed() for i in store.trial_ids()), seconds=20)
    folders = [store.trial(i) for i in store.trial_ids() if store.trial(i).epochs()]
    assert folders
    assert all(folder.status() == "interrupted" for folder in folders)
    assert all(folder.checkpoint.exists() for folder in folders), "they wrote a checkpoint before they ended"


def test_a_failed_trial_gives_exit_status_1_and_says_why(start_run, tmp_path):
    """The process of the only trial is killed, and so is that of its second attempt."""
    process = start_run("training.epochs=20000", "seeds=1", "methods=[erm]", "matrix.label_noise=[{rate: 0}]")
    store = Store(tmp_path / "results")

    def started() -> list[int]:
        events = [event for i in store.trial_ids() for event in store.trial(i).events()[0]]
        return [event["pid"] for event in events if event["event"] == "started"]

    for attempt in (1, 2):
        wait_for(lambda attempt=attempt: len(started()) == attempt)
        os.kill(started()[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "killed by SIGKILL" in output
    assert f"bench trial {store.trial_ids()[0][:8]}" in output


def test_the_forkserver_leaves_cuda_alone():
    """A process that has initialised CUDA cannot fork children that use it."""
    code = "import bench.execution.preload, torch; print(torch.cuda.is_initialized())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "False", result.stderr
