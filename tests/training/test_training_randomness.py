"""What a pair shares, what it does not, and what is bit-identical."""

import itertools

import numpy as np
import pytest
import torch

from bench.results.store import TrialFolder
from bench.training import loop
from bench.training.data import draw_epoch
from bench.training.loop import Interrupted, initial_model
from bench.training.policy import CheckpointPolicy
from bench.training.seeding import stream, stream_seed

MIXUP = {"name": "mixup", "alpha": 1}
DROPOUT_NET = {"name": "timm/test_resnet", "drop_rate": 0.3}


def weights(trained):
    return trained.model.state_dict()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def numbers(trained):
    """The learning curve without what depends on the clock."""
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in trained.curve]


def test_streams_are_distinct_and_repeatable():
    draws = {
        (seed, name, epoch): tuple(stream(seed, name, epoch).integers(0, 2**62, 4))
        for seed, name, epoch in itertools.product((0, 1), ("split", "order", "mixing", "init"), (0, 1))
    }
    assert len(set(draws.values())) == len(draws)
    assert tuple(stream(1, "order", 1).integers(0, 2**62, 4)) == draws[1, "order", 1]
    assert 0 <= stream_seed(0, "init") < 2**63


def test_a_pair_shares_everything_but_the_method(make_trial, prepared):
    erm, mixup = (
        make_trial(rate=0.4, crop_padding=1, flip=True),
        make_trial(rate=0.4, crop_padding=1, flip=True, method=MIXUP),
    )
    a, b = prepared(erm), prepared(mixup)
    for name in ("labels", "train", "val", "scale", "shift", "test_labels"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert_same(initial_model(erm, a).state_dict(), initial_model(mixup, b).state_dict())
    for epoch in (0, 5):
        first, second = draw_epoch(erm, a, epoch), draw_epoch(mixup, b, epoch)
        assert (first.order == second.order).all()
        for name in ("index", "offsets", "flips"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_seeds_differ_in_everything(make_trial, prepared):
    first, second = make_trial(seed=0, rate=0.4), make_trial(seed=1, rate=0.4)
    a, b = prepared(first), prepared(second)
    assert not torch.equal(a.labels, b.labels)
    assert not torch.equal(a.val, b.val)
    assert not torch.equal(draw_epoch(first, a, 0).index, draw_epoch(second, b, 0).index)
    assert not torch.equal(initial_model(first, a)[1].weight, initial_model(second, b)[1].weight)
    assert torch.equal(a.test_images, b.test_images), "the test set is the same for every seed"


def test_epochs_differ_in_order_and_cover_every_example_once(make_trial, prepared):
    trial = make_trial()
    data = prepared(trial)
    first, second = draw_epoch(trial, data, 0).index, draw_epoch(trial, data, 1).index
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, data.train)


def test_the_same_trial_twice_is_bit_identical(make_trial, run):
    trial = make_trial(method=MIXUP, rate=0.4, crop_padding=1, flip=True)
    first, second = run(trial), run(trial)
    assert_same(weights(first), weights(second))
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize("lam_per", ["batch", "sample"])
def test_mixup_at_alpha_zero_is_erm_bit_for_bit(make_trial, run, lam_per):
    erm = run(make_trial(rate=0.4, crop_padding=1))
    mixup = run(make_trial(rate=0.4, crop_padding=1, method={"name": "mixup", "alpha": 0, "lam_per": lam_per}))
    assert_same(weights(erm), weights(mixup))
    assert numbers(erm) == numbers(mixup)


def test_mixup_at_alpha_one_is_not_erm(make_trial, run):
    erm, mixup = run(make_trial()), run(make_trial(method=MIXUP))
    assert numbers(erm) != numbers(mixup)


def stop_after(steps: int):
    asked = itertools.count(1)
    return lambda: next(asked) > steps


@pytest.mark.parametrize("model", [None, DROPOUT_NET], ids=["mlp", "dropout and batch norm"])
@pytest.mark.parametrize("steps", [1, 14, 25, 34])
def test_interrupted_and_resumed_is_bit_identical(make_trial, run, tmp_path, model, steps):
    """Stopped after any step, in the middle of an epoch or at its end, it goes on as if it had not been.

    It is asked at 15 steps and, evaluating, at 5 batches an epoch.
    """
    trial = make_trial(method=MIXUP, rate=0.4, crop_padding=1, flip=True, model=model, epochs=2)
    whole = run(trial)
    with pytest.raises(Interrupted):
        run(trial, "parts", stop_requested=stop_after(steps))
    resumed = run(trial, "parts")
    assert_same(weights(whole), weights(resumed))
    assert numbers(whole) == numbers(resumed)
    events = [event["event"] for event in TrialFolder(tmp_path / "parts").events()[0]]
    assert events.count("resumed") == 1


def test_resumed_many_times_is_bit_identical(make_trial, run):
    trial = make_trial(method={"name": "mixup", "alpha": 0.5, "lam_per": "sample"}, optimizer="adam", lr=1e-3)
    whole = run(trial)
    for _ in range(100):
        try:
            resumed = run(trial, "parts", stop_requested=stop_after(5))
            break
        except Interrupted:
            continue
    assert_same(weights(whole), weights(resumed))
    assert numbers(whole) == numbers(resumed)


def test_a_checkpoint_each_epoch_changes_nothing(make_trial, run, tmp_path):
    trial = make_trial(method=MIXUP)
    plain, saved = run(trial), run(trial, "saved", policy=CheckpointPolicy(seconds=float("inf"), epochs=1))
    assert numbers(plain) == numbers(saved)
    checkpoints = [e for e in TrialFolder(tmp_path / "saved").events()[0] if e["event"] == "checkpoint"]
    assert [event["epoch"] for event in checkpoints] == [1, 2, 3]


def test_a_torn_checkpoint_starts_from_the_beginning(make_trial, run, tmp_path):
    trial = make_trial(method=MIXUP)
    whole = run(trial)
    with pytest.raises(Interrupted):
        run(trial, "torn", stop_requested=stop_after(20))
    path = TrialFolder(tmp_path / "torn").checkpoint
    path.write_bytes(path.read_bytes()[:-100])
    assert numbers(run(trial, "torn")) == numbers(whole)


def test_nothing_draws_from_numpys_global_state(make_trial, run):
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(make_trial(method=MIXUP, rate=0.4, crop_padding=1, flip=True))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_evaluation_batches_do_not_change_predictions(make_trial, run, prepared, monkeypatch):
    trial = make_trial(model=DROPOUT_NET, epochs=1)
    data, trained = prepared(trial), run(trial)
    whole = loop.predict(trained.model, data, data.test_images, trial=trial)
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 100)
    parts = loop.predict(trained.model, data, data.test_images, trial=trial)
    torch.testing.assert_close(whole, parts)
