"""Manifold mixup: mixing inside a network; RegMixup and AugMix: a second term in the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from toy_batches import Looking, batch, net

from bench.mixing import METHODS, Erm, Mixup
from bench.mixing.augmix import AugMix, jensen_shannon
from bench.mixing.manifold import ManifoldMixup, forward_through
from bench.mixing.regmixup import RegMixup
from bench.models import build


def loss_of(method, given, model, *, seed=8):
    return method.training_loss(model, given, rng=np.random.default_rng(seed))


def gradients(method, model, given):
    model.zero_grad()
    found = loss_of(method, given, model)
    found.loss.backward()
    return found.loss, [weight.grad.clone() for weight in model.parameters()]


def test_layer_zero_is_input_mixup():
    """Loss and gradients, to the bit: the same draws in the same order."""
    given = batch()
    ours, theirs = (gradients(m, net(), given) for m in (ManifoldMixup(alpha=1, layers=0), Mixup(alpha=1)))
    assert torch.equal(ours[0], theirs[0])
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    assert ManifoldMixup(layers="input") == ManifoldMixup(layers=0)


@pytest.mark.parametrize("layer", [1, 2, "4"])
def test_mixing_inside_by_hand(layer):
    """The network cut in two at the layer, and autograd through both halves."""
    given = batch()
    module = {1: 2, 2: 4}.get(layer, int(layer))
    model = net()
    twin = np.random.default_rng(8)
    lam, perm = twin.beta(2, 2), torch.from_numpy(twin.permutation(7))
    hidden = model[: module + 1](given.x)
    logits = model[module + 1 :](lam * hidden + (1 - lam) * hidden[perm])
    expected = lam * F.cross_entropy(logits, given.y) + (1 - lam) * F.cross_entropy(logits, given.y[perm])
    expected.backward()
    by_hand = [weight.grad.clone() for weight in model.parameters()]
    loss, found = gradients(ManifoldMixup(alpha=2, layers=layer), model, given)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_reach_the_layers_below():
    _, found = gradients(ManifoldMixup(layers=2), net(), batch())
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_mixing_inside_keeps_the_memory_format():
    """A convolution that is given another one than its weights' converts, at each step."""
    torch.manual_seed(0)
    model = build("preact_resnet18", input_shape=(3, 16, 16), num_classes=5, width=8)
    model = model.to(memory_format=torch.channels_last)
    given = batch(4, side=16)
    given = given.with_x(given.x.contiguous(memory_format=torch.channels_last))
    seen = []
    model.stages[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss_of(ManifoldMixup(layers=2), given, model)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_set_of_layers_is_drawn_from_uniformly(monkeypatch):
    drawn = []

    def noted(model, x, *, layer, change):
        drawn.append(layer)
        return forward_through(model, x, layer=layer, change=change)

    monkeypatch.setattr("bench.mixing.manifold.forward_through", noted)
    model, given = net(), batch()
    for seed in range(300):
        loss_of(ManifoldMixup(layers=[0, 1, 2]), given, model, seed=seed)
    counts = [300 - len(drawn), drawn.count(1), drawn.count(2)]
    assert all(70 <= count <= 130 for count in counts), counts


def test_the_network_is_left_as_it_was():
    model, given = net(), batch()
    before = model(given.x)
    loss_of(ManifoldMixup(layers=1), given, model)
    assert torch.equal(model(given.x), before)
    with pytest.raises(RuntimeError, match="inside"):
        forward_through(model, given.x, layer=1, change=lambda _: (_ for _ in ()).throw(RuntimeError("inside")))
    assert torch.equal(model(given.x), before), "a hook stayed behind after an error"


def test_layers_that_cannot_be_mixed():
    model, x = net(), batch().x
    with pytest.raises(ValueError, match="no layer 3: it has 0 to 2, 2, 4"):
        forward_through(model, x, layer=3, change=lambda h: h)
    with pytest.raises(ValueError, match="no layer 'stage9'"):
        forward_through(model, x, layer="stage9", change=lambda h: h)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature_layers = ("linear",)
            self.linear = nn.Linear(108, 108)

        def forward(self, x):
            return self.linear(self.linear(x.flatten(1)))[:, :5]

    with pytest.raises(ValueError, match="runs 2 times in a forward pass"):
        forward_through(Twice(), x, layer="linear", change=lambda h: h)


@pytest.mark.parametrize("layers", [-1, True, [[1]], [1, 1], [], 1.5, [0, "input"]])
def test_layers_that_make_no_sense(layers):
    with pytest.raises(ValidationError):
        METHODS["manifold_mixup"].model_validate({"name": "manifold_mixup", "layers": layers}, strict=True)


@pytest.mark.parametrize(
    ("name", "size", "args", "count"),
    [
        ("mlp", 28, {}, 2),
        ("lenet", 28, {"dropout": 0.1}, 4),
        ("preact_resnet18", 16, {"width": 4}, 5),
        ("wrn_28_10", 16, {"depth": 10, "widen_factor": 1}, 4),
        ("timm/test_resnet", 32, {}, 5),
        ("timm/test_vit", 28, {"img_size": 28, "patch_size": 7}, 6),
        ("timm/test_efficientnet", 32, {}, 5),
        ("timm/resnet10t", 32, {"small_stem": True}, 5),
    ],
)
def test_every_layer_of_real_networks(name, size, args, count):
    """Each feature stage can be mixed, and at each the loss is another; at lam 1 all are ERM's.

    But for the stem of wrn_28_10: it is linear, so mixing after it is mixing before it.
    """
    torch.manual_seed(0)
    model = build(name, input_shape=(3, size, size), num_classes=5, **args).eval()
    assert len(model.feature_layers) == count
    with torch.no_grad():
        for weight in model.parameters():  # timm's blocks start as the identity
            weight += 0.1 * torch.randn(weight.shape)
    given = batch(4, side=size)
    losses = [loss_of(ManifoldMixup(layers=layer), given, model).loss.item() for layer in range(count + 1)]
    assert len({round(loss, 5) for loss in losses}) == count + (name != "wrn_28_10")
    plain = loss_of(Erm(), given, model).loss
    for layer in range(count + 1):
        assert torch.equal(loss_of(ManifoldMixup(alpha=0, layers=layer), given, model).loss, plain)


def test_the_papers_layers_of_preact_resnet18():
    """Table 5: before residual stage 1 to 4, or before pooling and classifier."""
    torch.manual_seed(0)
    model = build("preact_resnet18", input_shape=(3, 16, 16), num_classes=5, width=4).eval()
    given, perm = batch(4, side=16), torch.tensor([2, 3, 0, 1])

    def mixed(h):
        return 0.7 * h + 0.3 * h[perm]

    with torch.no_grad():
        for layer in range(1, 6):
            h = model.stem(given.x)
            for stage, module in enumerate(model.stages, start=1):
                h = module(mixed(h) if stage == layer else h)
            h = mixed(h) if layer == 5 else h
            expected = model.classifier(F.adaptive_avg_pool2d(h, 1).flatten(1))
            torch.testing.assert_close(forward_through(model, given.x, layer=layer, change=mixed), expected)


def test_regmixup_is_both_losses_of_one_batch():
    """Two separate passes give the same for a network without BatchNorm."""
    given, model = batch(), net()
    ours = loss_of(RegMixup(alpha=10, weight=0.5), given, model)
    mixed = loss_of(Mixup(alpha=10), given, model)
    torch.testing.assert_close(ours.loss, F.cross_entropy(model(given.x), given.y) + 0.5 * mixed.loss)
    torch.testing.assert_close(ours.logits, mixed.logits)
    assert ours.lam == mixed.lam


def test_regmixup_shows_the_network_one_batch():
    model = Looking()
    loss_of(RegMixup(), batch(), model)
    assert [len(x) for x in model.seen] == [14]


def test_jensen_shannon_by_hand():
    same = torch.randn(4, 5)
    assert jensen_shannon((same, same, same)).abs() < 1e-6
    certain = tuple(torch.where(torch.arange(3) == k, 50.0, -50.0)[None] for k in range(3))
    torch.testing.assert_close(jensen_shannon(certain), torch.tensor(3.0).log(), atol=1e-4, rtol=0)
    from scipy.spatial.distance import jensenshannon

    two = torch.randn(2, 1, 5, dtype=torch.float64)
    expected = jensenshannon(*two.softmax(2).squeeze(1).numpy()) ** 2
    assert jensen_shannon(tuple(two)).item() == pytest.approx(expected, rel=1e-5)


def test_augmix_loss_by_hand():
    given, model = batch(), Looking()
    found = loss_of(AugMix(consistency=12), given, model)
    views = model.seen[0].chunk(3)
    assert torch.equal(views[0], given.x)
    assert not torch.equal(views[1], views[2])
    logits = [view.flatten(1)[:, :5] * 3 for view in views]
    mean = torch.stack([each.softmax(1) for each in logits]).mean(0)
    divergence = sum((each.softmax(1) * (each.log_softmax(1) - mean.log())).sum(1).mean() for each in logits) / 3
    torch.testing.assert_close(found.loss, F.cross_entropy(logits[0], given.y) + 12 * divergence, rtol=1e-4, atol=1e-4)


def test_augmix_without_consistency_is_augmentation():
    given, model = batch(), Looking()
    found = loss_of(AugMix(consistency=0), given, model)
    assert model.seen[0].shape == given.x.shape
    assert not torch.equal(model.seen[0], given.x)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, given.y))


def test_augmix_keeps_the_images_range():
    """Views are mixtures of images with pixels in [0, 255]."""
    given, model = batch(7, side=16), Looking()
    loss_of(AugMix(severity=10), given, model)
    low, high = given.normalised(torch.tensor([0.0, 255.0]))
    assert model.seen[0].min() >= low - 1e-4
    assert model.seen[0].max() <= high + 1e-4
