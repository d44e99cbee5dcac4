"""The contract of every method, and mixup against closed forms and torchvision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy import stats
from torch import nn
from torchvision.transforms import v2

from bench.mixing import METHODS, Erm, Mixup
from bench.mixing.mixup import mix_inputs, mixed_cross_entropy

EVERY = [
    *(method() for method in METHODS.values()),
    Mixup(alpha=0.2),
    Mixup(alpha=4, lam_per="sample"),
    Mixup(lam=0.7),
    Mixup(lam=0.7, labels="unmixed"),
    Mixup(alpha=1, labels="unmixed"),
]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def batch(size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(size, 3, 2, 2, generator=generator), torch.randint(0, 5, (size,), generator=generator)


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.label)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_contract(method, size):
    x, y = batch(size)
    before = x.clone(), y.clone()
    loss = method.training_loss(net(), x, y, rng=np.random.default_rng(5))
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert torch.equal(x, before[0]), "the images were changed in place"
    assert torch.equal(y, before[1]), "the labels were changed in place"
    again = method.training_loss(net(), x, y, rng=np.random.default_rng(5))
    assert torch.equal(loss, again), "the same generator state gave another loss"


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.label)
def test_draws_only_from_its_generator(method):
    x, y = batch()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global state is what must stay untouched)
    model, torch_before, numpy_before = net(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    method.training_loss(model, x, y, rng=np.random.default_rng(5))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@pytest.mark.parametrize("lam_per", ["batch", "sample"])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_alpha_zero_is_erm_bit_for_bit(lam_per, size):
    """Loss and every gradient, not merely close."""
    x, y = batch(size)
    models = net(), net()
    losses = [
        Erm().training_loss(models[0], x, y, rng=np.random.default_rng(0)),
        Mixup(alpha=0, lam_per=lam_per).training_loss(models[1], x, y, rng=np.random.default_rng(0)),
    ]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for erm, mixup in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(erm.grad, mixup.grad)


def test_mix_inputs_at_the_ends_and_between():
    x, _ = batch()
    perm = torch.tensor([6, 5, 4, 3, 2, 1, 0])
    assert torch.equal(mix_inputs(x, 1.0, perm), x)
    assert torch.equal(mix_inputs(x, 0.0, perm), x[perm])
    lam = torch.rand(7, generator=torch.Generator().manual_seed(0))
    mixed = mix_inputs(x, lam, perm)
    for i in range(7):
        torch.testing.assert_close(mixed[i], lam[i] * x[i] + (1 - lam[i]) * x[perm[i]])


def test_one_lam_keeps_the_batch_mean():
    """A permutation only reorders: the mean of lam x + (1 - lam) x[perm] is that of x, and so for the labels."""
    x, y = batch(64)
    labels = F.one_hot(y, 5).float()
    perm, lam = torch.from_numpy(np.random.default_rng(0).permutation(64)), 0.3
    torch.testing.assert_close(mix_inputs(x, lam, perm).mean(0), x.mean(0))
    torch.testing.assert_close(mix_inputs(labels, lam, perm).mean(0), labels.mean(0))


def test_same_as_torchvision_for_one_lam():
    """torchvision rolls the batch by one and draws lam itself; given its lam and partner we mix alike."""
    x, y = batch()
    torch.manual_seed(11)
    theirs_x, theirs_y = v2.MixUp(alpha=0.4, num_classes=5)(x, y)
    perm = torch.arange(-1, 6) % 7
    lam = ((theirs_x - x[perm]) / (x - x[perm])).mean()
    torch.testing.assert_close(mix_inputs(x, lam.item(), perm), theirs_x)
    onehot = F.one_hot(y, 5).float()
    torch.testing.assert_close(lam * onehot + (1 - lam) * onehot[perm], theirs_y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_two_label_loss_equals_soft_label_loss(per_sample):
    """Against torch's own cross-entropy on the mixed one-hot labels, in double precision."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 5, generator=generator, dtype=torch.float64) * 4
    y_a, y_b = torch.randint(0, 5, (2, 9), generator=generator)
    lam = torch.rand(9, generator=generator, dtype=torch.float64) if per_sample else 0.37
    column = lam[:, None] if per_sample else lam
    soft = column * F.one_hot(y_a, 5) + (1 - column) * F.one_hot(y_b, 5)
    torch.testing.assert_close(mixed_cross_entropy(logits, y_a, y_b, lam), F.cross_entropy(logits, soft))


def test_mixup_loss_by_hand():
    """The whole step with a linear model: draw lam and perm from a twin of the generator, mix, two cross-entropies."""
    x, y = batch()
    twin = np.random.default_rng(8)
    lam, perm = twin.beta(0.5, 0.5), torch.from_numpy(twin.permutation(7))
    model = net()
    logits = model(lam * x + (1 - lam) * x[perm])
    log_probs = logits.log_softmax(1)
    expected = -(lam * log_probs[range(7), y] + (1 - lam) * log_probs[range(7), y[perm]]).mean()
    loss = Mixup(alpha=0.5).training_loss(model, x, y, rng=np.random.default_rng(8))
    torch.testing.assert_close(loss, expected)


def test_unmixed_labels_are_the_unpermuted_samples():
    x, y = batch()
    perm = torch.from_numpy(np.random.default_rng(8).permutation(7))
    model = net()
    expected = F.cross_entropy(model(0.7 * x + 0.3 * x[perm]), y)
    loss = Mixup(lam=0.7, labels="unmixed").training_loss(model, x, y, rng=np.random.default_rng(8))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("alpha", [0.2, 1, 8])
def test_lam_follows_beta(alpha):
    lam = Mixup(alpha=alpha, lam_per="sample").draw_lam(np.random.default_rng(0), 4000)
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert abs(lam.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_lam_per_batch_is_one_number_and_per_sample_many():
    rng = np.random.default_rng(0)
    assert isinstance(Mixup(alpha=1).draw_lam(rng, 64), float)
    assert len(np.unique(Mixup(alpha=1, lam_per="sample").draw_lam(rng, 64))) == 64


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"alpha": -0.1}, "greater than or equal to 0"),
        ({"alpha": float("nan")}, "finite"),
        ({"lam": 1.5}, "less than or equal to 1"),
        ({"alpha": 1, "lam": 0.5}, "give one of them"),
        ({"lam": 0.5, "lam_per": "sample"}, "leave out lam_per"),
        ({"alfa": 1}, "Extra inputs"),
        ({"labels": "none"}, "mixed"),
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
