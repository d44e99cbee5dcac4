"""Methods in the real loop: what they are given, what a trial records of them, and that it can be interrupted."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from bench.data.neighbours import nearest_neighbours
from bench.mixing.batch import BatchLoss
from bench.training import loop
from bench.training.data import Extras, draw_epoch, prepare
from bench.training.diagnostics import LAM_BINS, Diagnostics, weight_norm
from bench.training.loop import Interrupted

KINDS = [
    {"name": "mixup", "alpha": 0.5, "lam_per": "sample", "partner": "different_class"},
    {"name": "mixup", "partner": "same_class", "examples": 3},
    {"name": "mixup", "partner": "next_batch", "probability": 0.5},
    {"name": "manifold_mixup", "layers": [0, 1]},
    {"name": "cutmix", "cutout": 2},
    {"name": "mixup_or_cutmix", "gaussian_noise": 0.1},
    {"name": "resizemix", "off_epoch": 1},
    {"name": "fmix", "warmup_epochs": 1},
    {"name": "regmixup", "label_smoothing": 0.1},
    {"name": "augmix"},
    {"name": "erm", "dropout": 0.3},
]


def outcome(trained):
    """Everything that a trial reports but its times."""
    curve = [{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in trained.curve]
    return curve, trained.mixing


@pytest.mark.parametrize("method", KINDS, ids=lambda m: " ".join(map(str, m.values())))
def test_interrupted_and_resumed_is_bit_identical(make_trial, run, method):
    """Stopped in the middle of each epoch, a training records what it would have recorded."""
    trial = make_trial(method=method, crop_padding=1, flip=True, epochs=2)
    whole = run(trial)
    for steps in (5, 12, 40):
        try:
            resumed = run(trial, "parts", stop_requested=stops_after(steps))
            break
        except Interrupted:
            continue
    assert outcome(resumed) == outcome(whole)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def stops_after(steps: int):
    asked = itertools.count(1)
    return lambda: next(asked) > steps


@pytest.mark.parametrize("method", [k for k in KINDS if k["name"] != "erm"], ids=lambda m: m["name"])
def test_at_probability_zero_a_training_is_erms(make_trial, run, method):
    alone = {key: value for key, value in method.items() if key in ("name", "layers", "partner")}
    erm, other = run(make_trial(epochs=2)), run(make_trial(epochs=2, method={**alone, "probability": 0}))
    assert outcome(erm) == outcome(other)
    for name, weight in erm.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


def test_a_methods_weight_decay_replaces_the_recipes(make_trial, run):
    """To the bit, the training with that weight decay in its recipe."""
    own = run(make_trial(method={"name": "erm", "weight_decay": 0.01}, weight_decay=1e-4))
    recipe = run(make_trial(weight_decay=0.01))
    assert outcome(own) == outcome(recipe)
    assert outcome(own) != outcome(run(make_trial(weight_decay=1e-4)))


def test_a_pair_sees_the_same_images_whatever_the_method(make_trial, prepared):
    """The batch that a method is given is the same; only what it does with it differs."""
    trials = [make_trial(crop_padding=1, flip=True, method=method) for method in KINDS]
    batches = [draw_epoch(trial, prepared(trial), 1).batch(slice(64, 128)) for trial in trials]
    for other in batches[1:]:
        assert torch.equal(batches[0].x, other.x)
        assert torch.equal(batches[0].pixels, other.pixels)
        assert torch.equal(batches[0].y, other.y)


def test_a_batch_holds_together(make_trial, prepared):
    trial = make_trial(crop_padding=1, flip=True)
    data = prepared(trial)
    batch = draw_epoch(trial, data, 3).batch(slice(64, 128))
    assert torch.equal(batch.x, batch.normalised(batch.pixels))
    assert (batch.labels == batch.y.numpy()).all()
    assert (data.classes.labels[batch.positions] == batch.labels).all()
    x, y = batch.training_set.take(batch.positions)
    assert torch.equal(x, batch.x), "an example taken alone is augmented otherwise than in its batch"
    assert torch.equal(y, batch.y)
    assert (batch.epoch, batch.epochs) == (3, 3)
    whole = data.normalised(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    torch.testing.assert_close(whole[1] - whole[0], batch.pixel_scale[0])


def test_channels_last_is_kept(make_trial, prepared):
    trial = make_trial(channels_last=True)
    batch = draw_epoch(trial, prepared(trial), 0).batch(slice(0, 64))
    assert batch.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("within", [False, True])
def test_neighbours_are_training_images_and_nearest(make_trial, arrays, within):
    """Against scikit-learn, among the images that the trial trains on: those that validate are nobody's partners."""
    method = {"name": "mixup", "partner": "class_neighbours" if within else "neighbours", "k": 5}
    trial = make_trial(method=method, rate=0.2)
    labels = prepare(make_trial(rate=0.2), arrays, device=torch.device("cpu")).labels.numpy()
    table = nearest_neighbours(arrays.train_images, k=60, labels=labels if within else None)
    data = prepare(trial, arrays, device=torch.device("cpu"), extras=Extras(neighbours=table))
    train = data.train.numpy()
    pixels = arrays.train_images[train].reshape(len(train), -1).astype(np.float64)
    assert data.neighbours.shape == (len(train), 5)
    for label in range(10) if within else [None]:
        rows = np.flatnonzero(data.classes.labels == label) if within else np.arange(len(train))
        distances, _ = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(pixels[rows]).kneighbors(pixels[rows])
        ours = np.linalg.norm(pixels[data.neighbours[rows]] - pixels[rows][:, None], axis=2)
        np.testing.assert_allclose(ours, distances[:, 1:], atol=1e-9)
        if within:
            assert (data.classes.labels[data.neighbours[rows]] == label).all()


def step(predicted, labels, weights, *, lam=None, partners=None) -> BatchLoss:
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
    targets = tuple((np.array(each), weight) for each, weight in zip(labels, weights, strict=True))
    return BatchLoss(torch.zeros(()), logits, np.array(labels[0]), targets, lam, partners)


def test_diagnostics_by_hand():
    """Three steps: plain; mixed at lam 0.75; mixed with a lam for each example, one of them 1."""
    diagnostics = Diagnostics()
    diagnostics.begin_epoch()
    diagnostics.note(step([0, 1], [[0, 0]], [1.0]))  # one of two missed
    diagnostics.note(
        step([0, 1], [[0, 0], [1, 1]], [0.75, 0.25], lam=0.75, partners=np.array([[1, 1]]))
    )  # misses 1/4 and 3/4
    lam = np.array([0.5, 1.0])
    diagnostics.note(step([2, 2], [[0, 2], [2, 2]], [lam, 1 - lam], lam=lam, partners=np.array([[2, 2]])))  # 1/2, 0
    assert diagnostics.train_error_mixed() == pytest.approx((1 + 1 + 0.5) / 6)
    summary = diagnostics.summary()
    assert summary["mixed_share"] == pytest.approx(2 / 3)
    assert summary["equal_class_share"] == pytest.approx(1 / 4)
    assert summary["lam_mean"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    counts = np.zeros(LAM_BINS, dtype=int)
    counts[[15, 10, 19]] = 1
    assert summary["lam_histogram"] == counts.tolist()


def test_an_epoch_begins_anew_and_the_training_goes_on():
    diagnostics = Diagnostics()
    diagnostics.begin_epoch()
    diagnostics.note(step([0], [[1], [2]], [0.5, 0.5], lam=0.5, partners=np.array([[2]])))
    assert diagnostics.train_error_mixed() == 1
    diagnostics.begin_epoch()
    diagnostics.note(step([1], [[1], [1]], [0.5, 0.5], lam=0.5, partners=np.array([[1]])))
    assert diagnostics.train_error_mixed() == 0
    assert sum(diagnostics.summary()["lam_histogram"]) == 2
    assert diagnostics.summary()["equal_class_share"] == 0.5


def test_diagnostics_are_restored_from_plain_numbers():
    diagnostics = Diagnostics()
    diagnostics.begin_epoch()
    diagnostics.note(step([0], [[1], [2]], [0.3, 0.7], lam=0.3, partners=np.array([[2]])))
    again = Diagnostics.restored(diagnostics.state())
    assert again.summary() == diagnostics.summary()
    assert again.train_error_mixed() == diagnostics.train_error_mixed()


def test_nothing_is_said_of_mixing_where_nothing_is_mixed(make_trial, run):
    assert run(make_trial(epochs=1)).mixing is None
    assert run(make_trial(epochs=1, method={"name": "augmix"})).mixing is None


def test_what_a_trial_says_of_its_mixing(make_trial, run):
    """15 steps an epoch; the last two of five epochs do not mix."""
    trained = run(make_trial(epochs=5, method={"name": "mixup", "alpha": 2, "off_epoch": 3}))
    assert sum(trained.mixing["lam_histogram"]) == 45
    assert trained.mixing["mixed_share"] == pytest.approx(3 / 5)
    assert 0.05 < trained.mixing["equal_class_share"] < 0.2
    mixed, plain = trained.curve[2]["train_error_mixed"], trained.curve[4]["train_error_mixed"]
    assert mixed > 0.15 > plain, "what cannot all be predicted was predicted, or what can be was not"


def test_the_unmixed_training_error_is_the_share_of_misses(make_trial, run, monkeypatch):
    """ERM's, against predictions caught at the loss."""
    hits = []
    original = loop.Diagnostics.note

    def noted(self, found):
        hits.extend((found.logits.argmax(1).numpy() == found.labels).tolist())
        original(self, found)

    monkeypatch.setattr(loop.Diagnostics, "note", noted)
    trained = run(make_trial(epochs=1))
    assert trained.curve[0]["train_error_mixed"] == pytest.approx(1 - np.mean(hits))


def test_weight_norm_is_that_of_all_parameters(make_trial, run):
    trained = run(make_trial(epochs=1))
    flat = torch.cat([weight.detach().flatten() for weight in trained.model.parameters()]).double()
    assert trained.curve[-1]["weight_norm"] == pytest.approx(flat.norm().item(), rel=1e-6)
    assert weight_norm(trained.model).item() == trained.curve[-1]["weight_norm"]


def test_a_note_does_not_keep_the_graph():
    logits = torch.zeros(2, 3, requires_grad=True) * 1
    found = replace(step([0, 1], [[0, 0]], [1.0]), logits=logits, loss=logits.sum())
    diagnostics = Diagnostics()
    diagnostics.note(found)
    kept = [diagnostics._logits[0], *(part for part in diagnostics._noted[0] if isinstance(part, torch.Tensor))]
    assert not any(tensor.requires_grad for tensor in kept)


def test_many_classes_are_not_kept(monkeypatch):
    """Counted the same whether predictions are found at once or a few steps at a time."""
    monkeypatch.setattr("bench.training.diagnostics.MOST_LOGITS", 6)
    few, many = Diagnostics(), Diagnostics()
    for number in range(5):
        found = step([number % 3, 1], [[0, 1], [1, 1]], [0.4, 0.6], lam=0.4, partners=np.array([[1, 1]]))
        few.note(found)
        assert len(few._logits) < 2
        monkeypatch.setattr("bench.training.diagnostics.MOST_LOGITS", 2**20)
        many.note(found)
        monkeypatch.setattr("bench.training.diagnostics.MOST_LOGITS", 6)
    assert len(many._logits) == 5
    assert few.train_error_mixed() == many.train_error_mixed()
    assert few.summary() == many.summary()
