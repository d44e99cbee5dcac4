"""The loop learns, counts, stops and says so."""

import copy

import pytest
import torch
import torch.nn.functional as F

from bench.results.store import TrialFolder
from bench.training.loop import initial_model, predict
from bench.training.summary import curve_metrics, prediction_metrics


def test_one_epoch_of_erm_is_a_plain_pytorch_loop(make_trial, run, prepared):
    """The same steps written by hand, with torch's own optimiser and scheduler, give the same weights."""
    from bench.training.seeding import stream

    trial = make_trial(epochs=2, momentum=0.9, nesterov=True, weight_decay=1e-3)
    data = prepared(trial)
    model = initial_model(trial, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    pixels = data.images[data.train].float() / 255
    x_all = (pixels - pixels.mean()) / pixels.std(correction=0)
    y_all = data.labels[data.train]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * 15)
    for epoch in range(2):
        order = torch.from_numpy(stream(trial.seed, "order", epoch).permutation(900))
        for rows in order.split(64):
            loss = F.cross_entropy(model(x_all[rows]), y_all[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    trained = run(trial)
    for ours, theirs in zip(trained.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_it_learns(make_trial, run):
    trained = run(make_trial(epochs=15, model={"name": "mlp"}))
    assert trained.diverged is None
    assert len(trained.curve) == 15
    assert trained.curve[0]["test_error"] > 0.1
    assert trained.curve[-1]["test_error"] < 0.06
    assert trained.curve[-1]["train_loss"] < trained.curve[0]["train_loss"]


@pytest.mark.parametrize("method", [{"name": "erm"}, {"name": "mixup", "alpha": 1}], ids=["erm", "mixup"])
def test_a_loss_that_is_not_finite_ends_as_diverged(make_trial, run, tmp_path, method):
    trained = run(make_trial(lr=1e12, momentum=0, schedule="constant", method=method), "boom")
    assert trained.diverged is not None
    assert trained.diverged["epoch"] == 1
    assert 2 <= trained.diverged["step"] <= 15
    line = TrialFolder(tmp_path / "boom").epochs()[-1]
    assert line["train_loss"] is None
    assert "test_error" not in line


def test_weights_that_the_last_step_breaks_are_diverged(make_trial, run, tmp_path):
    """One step: its own loss is finite, and no loss on the weights that it leaves."""
    trained = run(make_trial(lr=1e30, momentum=0, epochs=1, batch_size=900), "broken")
    line = TrialFolder(tmp_path / "broken").epochs()[-1]
    assert (line["train_loss"] is not None, line["test_nll"]) == (True, None)
    assert trained.diverged == {"epoch": 1, "step": 1}


def test_without_validation_there_is_no_selection(make_trial, run):
    trained = run(make_trial(val_fraction=0))
    assert all("val_error" not in line for line in trained.curve)
    assert "test_error_val_selected" not in curve_metrics(trained.curve)


def test_a_last_batch_of_one_is_left_out(make_trial, run):
    """900 training images in batches of 31 leave one, which BatchNorm could not take."""
    trained = run(make_trial(batch_size=31, epochs=1, model={"name": "timm/test_resnet"}))
    assert trained.diverged is None


def test_a_batch_larger_than_the_data_is_one_step(make_trial, run):
    assert len(run(make_trial(batch_size=5000, epochs=2)).curve) == 2


def test_options_that_change_the_bits_train_alike(make_trial, run):
    """channels_last and bf16 give other bits and the same lesson."""
    options = {"epochs": 12, "model": {"name": "timm/test_resnet"}}
    plain = run(make_trial(**options)).curve[-1]["test_error"]
    for changed in ({"channels_last": True}, {"precision": "bf16"}, {"threads": 2}):
        assert abs(run(make_trial(**options, **changed)).curve[-1]["test_error"] - plain) < 0.05, changed


def test_evaluation_leaves_batch_norm_alone(make_trial, run, prepared):
    trial = make_trial(epochs=1, model={"name": "timm/test_resnet"})
    data, trained = prepared(trial), run(trial)
    before = copy.deepcopy(trained.model.state_dict())
    predict(trained.model, data, data.test_images, trial=trial)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def curve(test, val=None):
    other = {"train_error_mixed": 0.5, "weight_norm": 10.0}
    lines = [{"epoch": i + 1, "test_error": e, "train_loss": 1.0 / (i + 1), **other} for i, e in enumerate(test)]
    for line, (error, nll) in zip(lines, val or [], strict=val is not None):
        line |= {"val_error": error, "val_nll": nll}
    return lines


def test_the_three_ways_to_report_an_error():
    """By hand: validation ties at epochs 2 and 3, where NLL decides for 3; the oracle sees the test set's best, 4."""
    lines = curve([0.5, 0.30, 0.35, 0.2, 0.4], [(0.5, 1.0), (0.3, 0.9), (0.3, 0.8), (0.4, 0.1), (0.6, 0.2)])
    metrics = curve_metrics(lines)
    assert metrics["test_error_last"] == 0.4
    assert (metrics["test_error_val_selected"], metrics["epoch_val_selected"]) == (0.35, 3)
    assert (metrics["test_error_oracle"], metrics["epoch_oracle"]) == (0.2, 4)
    assert metrics["test_error_median10"] == 0.35
    assert metrics["val_error_best"] == 0.3
    assert metrics["val_error_last"] == 0.6


def test_median_is_over_the_last_ten():
    assert curve_metrics(curve([0.9] * 90 + [0.1] * 6 + [0.3] * 4))["test_error_median10"] == 0.1


def test_memorisation_counts_clean_and_wrong_labels_apart():
    """By hand: 4 examples with right labels, of which 1 is missed; 2 with wrong labels, of which 1 is learnt."""
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    true = torch.tensor([0, 0, 1, 1, 0, 1])
    predicted = torch.tensor([0, 0, 1, 0, 1, 1])
    test_logits = F.one_hot(torch.tensor([0, 1, 1, 0]), 2).float()
    metrics = prediction_metrics(
        test_logits=test_logits,
        test_labels=torch.tensor([0, 1, 0, 1]),
        train_logits=F.one_hot(predicted, 2).float(),
        labels=labels,
        true_labels=true,
    )
    assert metrics["train_error"] == pytest.approx(2 / 6)
    assert metrics["train_error_clean_labels"] == pytest.approx(1 / 4)
    assert metrics["train_error_wrong_labels"] == pytest.approx(1 / 2)
    assert metrics["generalisation_gap"] == pytest.approx(2 / 4 - 1 / 4)
    assert "test_error_last_top5" not in metrics


def test_top5_only_beyond_ten_classes():
    logits = torch.eye(12)
    metrics = prediction_metrics(
        test_logits=logits,
        test_labels=torch.arange(12),
        train_logits=logits,
        labels=torch.arange(12),
        true_labels=torch.arange(12),
    )
    assert metrics["test_error_last_top5"] == 0.0
