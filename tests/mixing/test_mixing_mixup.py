"""Input mixup against closed forms, torchvision and timm, and its options."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy import stats
from timm.data import Mixup as TimmMixup
from torchvision.transforms import v2
from toy_batches import CLASSES, Looking, batch, net, positions_shown

from bench.mixing import Erm, Mixup
from bench.mixing.mixup import mix_inputs, weighed_sum

PERM = np.array([6, 5, 4, 3, 2, 1, 0])


def loss_of(method, given, model=None, *, seed=8):
    return method.training_loss(model or net(), given, rng=np.random.default_rng(seed))


def one_hot(y: torch.Tensor) -> torch.Tensor:
    return F.one_hot(y, CLASSES).to(torch.float32)


def test_mix_inputs_at_the_ends_and_between():
    x = batch().x
    assert torch.equal(mix_inputs(x, x[PERM], 1.0), x)
    assert torch.equal(mix_inputs(x, x[PERM], 0.0), x[PERM])
    lam = torch.rand(7, generator=torch.Generator().manual_seed(0))
    mixed = mix_inputs(x, x[PERM], lam)
    for i in range(7):
        torch.testing.assert_close(mixed[i], lam[i] * x[i] + (1 - lam[i]) * x[PERM[i]])


def test_one_lam_keeps_the_batch_mean():
    """A permutation only reorders: the mean of lam x + (1 - lam) x[perm] is that of x, and so for the labels."""
    given = batch(40)
    perm = np.random.default_rng(0).permutation(40)
    torch.testing.assert_close(mix_inputs(given.x, given.x[perm], 0.3).mean(0), given.x.mean(0))
    labels = one_hot(given.y)
    torch.testing.assert_close(mix_inputs(labels, labels[perm], 0.3).mean(0), labels.mean(0))


def test_same_as_torchvision_for_its_lam_and_partner():
    """torchvision rolls the batch by one and draws lam itself."""
    given = batch()
    torch.manual_seed(11)
    theirs_x, theirs_y = v2.MixUp(alpha=0.4, num_classes=CLASSES)(given.x, given.y)
    perm = torch.arange(-1, 6) % 7
    different = (given.y != given.y[perm]).nonzero()[0].item()
    lam = theirs_y[different, given.y[different]].item()  # read off their labels
    onehot = one_hot(given.y)
    torch.testing.assert_close(mix_inputs(onehot, onehot[perm], lam), theirs_y)
    torch.testing.assert_close(mix_inputs(given.x, given.x[perm], lam), theirs_x)


def test_same_as_timm_for_its_lam_and_partner():
    """timm pairs a batch with its reverse, and weighs the unreversed image with lam, as we do."""
    given = batch(8)
    np.random.seed(4)  # noqa: NPY002  (timm draws from the global stream)
    theirs = TimmMixup(mixup_alpha=0.4, num_classes=CLASSES, label_smoothing=0)
    theirs_x, theirs_y = theirs(given.x.clone(), given.y)
    np.random.seed(4)  # noqa: NPY002
    lam = np.random.beta(0.4, 0.4) if np.random.rand() < 1.0 else 1.0  # noqa: NPY002  (its order of draws)
    onehot = one_hot(given.y)
    torch.testing.assert_close(mix_inputs(onehot, onehot.flip(0), float(lam)), theirs_y)
    torch.testing.assert_close(mix_inputs(given.x, given.x.flip(0), float(lam)), theirs_x)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("smoothing", [None, 0.2])
def test_two_label_loss_equals_soft_label_loss(per_sample, smoothing):
    """Two cross-entropies against torch's own on the mixed one-hot labels, in double precision."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 5, generator=generator, dtype=torch.float64) * 4
    y_a, y_b = torch.randint(0, 5, (2, 9), generator=generator)
    lam = torch.rand(9, generator=generator, dtype=torch.float64) if per_sample else 0.37
    column = lam[:, None] if per_sample else lam
    soft = column * F.one_hot(y_a, 5) + (1 - column) * F.one_hot(y_b, 5)
    ours = Mixup(label_smoothing=smoothing).mixed_cross_entropy(logits, [(y_a, lam), (y_b, 1 - lam)])
    torch.testing.assert_close(ours, F.cross_entropy(logits, soft, label_smoothing=smoothing or 0))


def test_the_loss_by_hand():
    """The whole step: draw lam and perm from a twin of the generator, mix, two cross-entropies."""
    given = batch()
    twin = np.random.default_rng(8)
    lam, perm = twin.beta(0.5, 0.5), torch.from_numpy(twin.permutation(7))
    model = net()
    log_probs = model(lam * given.x + (1 - lam) * given.x[perm]).log_softmax(1)
    expected = -(lam * log_probs[range(7), given.y] + (1 - lam) * log_probs[range(7), given.y[perm]]).mean()
    found = loss_of(Mixup(alpha=0.5), given, model)
    torch.testing.assert_close(found.loss, expected)
    assert found.lam == lam
    assert (found.partner_labels == given.labels[perm]).all()


def test_unmixed_labels_are_the_unpermuted_samples():
    given, model = batch(), net()
    perm = torch.from_numpy(np.random.default_rng(8).permutation(7))
    expected = F.cross_entropy(model(0.7 * given.x + 0.3 * given.x[perm]), given.y)
    torch.testing.assert_close(loss_of(Mixup(lam=0.7, labels="unmixed"), given, model).loss, expected)


@pytest.mark.parametrize("lam", [0.3, 0.5, 0.7])
def test_inputs_only_have_the_label_of_the_larger_weight(lam):
    given, model = batch(), net()
    perm = torch.from_numpy(np.random.default_rng(8).permutation(7))
    y = given.y if lam >= 0.5 else given.y[perm]
    expected = F.cross_entropy(model(lam * given.x + (1 - lam) * given.x[perm]), y)
    torch.testing.assert_close(loss_of(Mixup(lam=lam, only="inputs"), given, model).loss, expected)


def test_inputs_only_with_one_lam_per_sample():
    given, model = batch(), net()
    twin = np.random.default_rng(8)
    lam = torch.from_numpy(twin.beta(1, 1, 7)).float()
    perm = torch.from_numpy(twin.permutation(7))
    column = lam.view(-1, 1, 1, 1)
    y = torch.tensor([given.y[i] if lam[i] >= 0.5 else given.y[perm[i]] for i in range(7)])
    expected = F.cross_entropy(model(column * given.x + (1 - column) * given.x[perm]), y)
    assert 0 < (lam >= 0.5).sum() < 7
    torch.testing.assert_close(loss_of(Mixup(only="inputs", lam_per="sample"), given, model).loss, expected)


def test_labels_only_shows_the_images_as_they_are():
    given, model = batch(), Looking()
    found = loss_of(Mixup(lam=0.7, only="labels"), given, model)
    perm = torch.from_numpy(np.random.default_rng(8).permutation(7))
    assert model.seen[0] is given.x
    expected = F.cross_entropy(model(given.x), 0.7 * one_hot(given.y) + 0.3 * one_hot(given.y[perm]))
    torch.testing.assert_close(found.loss, expected)


def test_the_next_batch():
    given, model = batch(), Looking()
    loss_of(Mixup(lam=0, partner="next_batch"), given, model)
    assert (positions_shown(model.seen[0]) == given.training_set.order[7:14]).all()


def test_noise_is_added_to_partners_too():
    """A partner from elsewhere in the training set is perturbed as the batch is."""
    given, model = batch(), Looking()
    loss_of(Mixup(lam=0, partner="next_batch", cutout=4), given, model)
    following = given.training_set.take(given.training_set.order[7:14])[0]
    holes = (model.seen[0] == 0) & (following != 0)
    assert holes.flatten(1).any(1).all()
    assert torch.equal(model.seen[0][~holes], following[~holes])


@pytest.mark.parametrize("lam_per", ["batch", "sample"])
def test_three_examples_by_hand(lam_per):
    given, model = batch(), net()
    twin = np.random.default_rng(8)
    weights = twin.dirichlet([0.5] * 3, 7 if lam_per == "sample" else 1)
    weights = torch.from_numpy(np.broadcast_to(weights, (7, 3)).copy()).float()
    perms = [torch.arange(7), *(torch.from_numpy(twin.permutation(7)) for _ in range(2))]
    x = sum(weights[:, j].view(-1, 1, 1, 1) * given.x[perms[j]] for j in range(3))
    soft = sum(weights[:, j, None] * one_hot(given.y[perms[j]]) for j in range(3))
    found = loss_of(Mixup(alpha=0.5, examples=3, lam_per=lam_per), given, model)
    torch.testing.assert_close(found.loss, F.cross_entropy(model(x), soft))
    assert found.partner_labels.shape == (2, 7)


def test_two_examples_are_mixup():
    assert Mixup(examples=2) == Mixup()


def test_weighed_sum():
    x = [torch.full((2, 1), value) for value in (1.0, 10.0)]
    assert weighed_sum(x, [0.5, torch.tensor([1.0, 2.0])]).flatten().tolist() == [10.5, 20.5]


@pytest.mark.parametrize("alpha", [0.2, 1, 8])
def test_lam_follows_beta(alpha):
    lam = Mixup(alpha=alpha, lam_per="sample").draw_lam(np.random.default_rng(0), 4000)
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert abs(lam.mean() - 0.5) < 3 * 0.5 / np.sqrt(4000)
    assert abs(lam.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


@pytest.mark.parametrize(("alpha", "examples"), [(1, 3), (0.4, 4)])
def test_dirichlet_weights_have_beta_margins(alpha, examples):
    """Each weight of a symmetric Dirichlet is Beta(alpha, (m - 1) alpha)."""
    weights = Mixup(alpha=alpha, examples=examples, lam_per="sample").draw_weights(np.random.default_rng(0), 4000)
    for weight in weights:
        assert stats.kstest(weight, stats.beta(alpha, (examples - 1) * alpha).cdf).pvalue > 0.001


def test_lam_per_batch_is_one_number_and_per_sample_many():
    rng = np.random.default_rng(0)
    assert isinstance(Mixup(alpha=1).draw_lam(rng, 64), float)
    assert len(np.unique(Mixup(alpha=1, lam_per="sample").draw_lam(rng, 64))) == 64


def test_uniform_is_alpha_one():
    assert Mixup(lam="uniform") == Mixup(alpha=1)
    assert Mixup(lam="uniform", lam_per="sample") == Mixup(alpha=1, lam_per="sample")
    drawn = Mixup(lam="uniform", lam_per="sample").draw_lam(np.random.default_rng(0), 4000)
    assert stats.kstest(drawn, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"alpha": -0.1}, "greater than or equal to 0"),
        ({"alpha": float("nan")}, "finite"),
        ({"lam": 1.5}, "less than or equal to 1"),
        ({"alpha": 1, "lam": 0.5}, "give one of them"),
        ({"alpha": 1, "lam": "uniform"}, "lam uniform is alpha 1: give one of them"),
        ({"lam": "beta"}, "a number from 0 to 1, or uniform"),
        ({"lam": 0.5, "lam_per": "sample"}, "leave out lam_per"),
        ({"alfa": 1}, "Extra inputs"),
        ({"labels": "none"}, "mixed"),
        ({"only": "labels", "labels": "unmixed"}, "leave out only"),
        ({"k": 5}, "k belongs to partner neighbours"),
        ({"partner": "same_class", "k": 5}, "k belongs to partner neighbours"),
        ({"partner": "friend"}, "same_class"),
        ({"examples": 1}, "greater than or equal to 2"),
        ({"examples": 3, "lam": 0.5}, "draws its weights by alpha"),
        ({"examples": 3, "only": "inputs"}, "mixes inputs and labels"),
        ({"probability": 1.1}, "less than or equal to 1"),
        ({"off_epoch": 1.5}, "off_epoch 1.5: a whole number counts epochs, and a share is less than 1"),
        ({"off_epoch": 1.0}, "to mix to the end, leave it out"),
        ({"examples": 3, "partner": "next_batch"}, "leave out examples"),
        ({"warmup_epochs": -1}, "greater than or equal to 0"),
        ({"off_epoch": 0}, "greater than 0"),
        ({"label_smoothing": 1}, "less than 1"),
        ({"cutout": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_make_no_sense(options, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Mixup(**options)


def test_labels_of_arms():
    assert Erm().label == "erm"
    assert Mixup().label == "mixup alpha=1"
    assert Mixup(alpha=0.2).label == "mixup alpha=0.2"
    assert Mixup(lam=0.7, labels="unmixed").label == "mixup lam=0.7 labels=unmixed"
    assert Mixup(partner="permutation") == Mixup()
    assert Mixup(partner="neighbours").label == "mixup alpha=1 partner=neighbours"
    assert Mixup(partner="neighbours", k=20).label == "mixup alpha=1 partner=neighbours k=20"
    assert (
        Mixup(off_epoch=0.8, dropout=0.3, only="inputs").label == "mixup alpha=1 only=inputs off_epoch=0.8 dropout=0.3"
    )
