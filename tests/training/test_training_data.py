"""What a trial sees of its data set."""

import numpy as np
import torch


def test_validation_is_carved_after_label_noise(make_trial, prepared):
    data = prepared(make_trial(rate=0.5, kind="symmetric"))
    wrong = data.labels != data.true_labels
    assert 0.3 < wrong[data.val].float().mean() < 0.7
    assert data.summary["val_label_noise_realised"] == wrong[data.val].double().mean().item()
    assert data.summary["label_noise_realised"] == wrong[data.train].double().mean().item()
    assert len(set(data.train.tolist()) & set(data.val.tolist())) == 0
    assert len(data.train) + len(data.val) == 1000


def test_test_labels_are_never_corrupted(make_trial, prepared, arrays):
    data = prepared(make_trial(rate=1.0, kind="symmetric"))
    assert torch.equal(data.test_labels, torch.from_numpy(np.array(arrays.test_labels)))


def test_wrong_labels_depend_on_seed_kind_and_rate_alone(make_trial, prepared):
    """Not on split, batch size, network or method."""
    first = prepared(make_trial(rate=0.4))
    second = prepared(
        make_trial(rate=0.4, val_fraction=0, batch_size=7, model={"name": "mlp"}, method={"name": "mixup", "alpha": 2})
    )
    assert torch.equal(first.labels, second.labels)
    more = prepared(make_trial(rate=0.6))
    flipped = first.labels != first.true_labels
    assert torch.equal(first.labels[flipped], more.labels[flipped]), "wrong labels are nested in the rate"


def test_normalised_training_split_has_mean_zero_and_unit_variance(make_trial, prepared):
    data = prepared(make_trial())
    x = data.normalised(data.images[data.train]).double()
    assert abs(x.mean().item()) < 1e-5
    assert abs(x.std(correction=0).item() - 1) < 1e-5
