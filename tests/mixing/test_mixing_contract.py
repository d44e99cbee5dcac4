"""What holds for every method, with every kind of option."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_batches import CLASSES, Looking, batch, net

from bench.mixing import COMPANIONS, METHODS, Erm, Mixing
from bench.mixing.augmix import AugMix
from bench.mixing.batch import BatchLoss
from bench.mixing.cutmix import CutMix
from bench.mixing.fmix import FMix
from bench.mixing.manifold import ManifoldMixup
from bench.mixing.mixup import Mixup
from bench.mixing.mixup_or_cutmix import MixupOrCutMix
from bench.mixing.regmixup import RegMixup
from bench.mixing.resizemix import ResizeMix

NEAR = (np.arange(40)[:, None] + np.arange(1, 4)).astype(np.int32) % 40

NEUTRAL = {
    "erm": [Erm()],
    "mixup": [
        *(Mixup(alpha=0, lam_per=per) for per in ("batch", "sample")),
        *(Mixup(alpha=0, only=only) for only in ("inputs", "labels")),
        *(Mixup(alpha=0, partner=partner) for partner in ("same_class", "different_class", "next_batch", "neighbours")),
        *(Mixup(alpha=0, examples=3, lam_per=per) for per in ("batch", "sample")),
        Mixup(alpha=0, labels="unmixed"),
        Mixup(lam=1),
        Mixup(alpha=1, probability=0),
    ],
    "manifold_mixup": [ManifoldMixup(alpha=0, layers=layer) for layer in (0, 1, "4", [0, 1, 2])],
    "cutmix": [CutMix(alpha=0)],
    "mixup_or_cutmix": [MixupOrCutMix(alpha=0, cutmix_alpha=0)],
    "resizemix": [ResizeMix(smallest=0, largest=0)],
    "fmix": [FMix(alpha=0)],
    "regmixup": [RegMixup(weight=0)],
    "augmix": [AugMix(width=0)],
}
"""Settings at which a method is ERM. A method that is added stands here too, or `test_every_method_is_here` fails."""

EVERY = [
    *(method() for method in METHODS.values()),
    Mixup(alpha=0.2),
    Mixup(alpha=4, lam_per="sample"),
    Mixup(lam=0.7),
    Mixup(lam=0.7, labels="unmixed"),
    Mixup(alpha=1, labels="unmixed"),
    Mixup(alpha=1, only="inputs", lam_per="sample"),
    Mixup(alpha=1, only="inputs"),
    Mixup(alpha=1, only="labels"),
    Mixup(alpha=1, examples=3),
    Mixup(alpha=1, examples=4, lam_per="sample", partner="same_class"),
    *(
        Mixup(partner=partner, k=3 if "neighbours" in partner else None)
        for partner in ("same_class", "different_class", "neighbours", "class_neighbours", "next_batch")
    ),
    Mixup(probability=0.5),
    Mixup(warmup_epochs=0.2, off_epoch=0.8),
    ManifoldMixup(layers=1),
    ManifoldMixup(layers="4"),
    CutMix(alpha=0.2),
    AugMix(consistency=0),
    Erm(label_smoothing=0.1),
    Erm(gaussian_noise=0.1),
    Erm(cutout=3),
    Mixup(alpha=1, label_smoothing=0.1, gaussian_noise=0.1, cutout=2),
    CutMix(label_smoothing=0.2, cutout=3),
    RegMixup(label_smoothing=0.1, gaussian_noise=0.2),
]


def loss_of(method, given, model=None, *, seed=5) -> BatchLoss:
    return method.training_loss(model or net(), given, rng=np.random.default_rng(seed))


def test_every_method_is_here():
    assert NEUTRAL.keys() == METHODS.keys()
    assert all(name == type(method()).model_fields["name"].default for name, method in METHODS.items())


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.label)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_contract(method, size):
    """One finite loss; nothing in the batch changed; the same generator state gives the same loss."""
    given = batch(size, neighbours=NEAR)
    before = copy.deepcopy((given.x, given.y, given.labels, given.pixels))
    found = loss_of(method, given)
    assert found.loss.shape == ()
    assert torch.isfinite(found.loss)
    assert found.logits.shape == (size, CLASSES)
    assert torch.equal(given.x, before[0]), "the images were changed in place"
    assert torch.equal(given.y, before[1]), "the labels were changed in place"
    assert (given.labels == before[2]).all(), "the labels on the host were changed in place"
    assert torch.equal(given.pixels, before[3]), "the pixels were changed in place"
    assert torch.equal(found.loss, loss_of(method, given).loss), "the same generator state gave another loss"


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.label)
def test_it_draws_only_from_its_generator(method):
    given, model = batch(neighbours=NEAR), net()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global state is what must stay untouched)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    loss_of(method, given, model)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.label)
@pytest.mark.parametrize("seed", range(8))
def test_labels_stay_a_distribution(method, seed):
    found = loss_of(method, batch(neighbours=NEAR), seed=seed)
    weights = [np.broadcast_to(weight, 7) for _, weight in found.targets]
    assert all((weight >= 0).all() for weight in weights)
    np.testing.assert_allclose(sum(weights), 1, rtol=1e-12)


@pytest.mark.parametrize("method", [m for m in EVERY if not isinstance(m, RegMixup | AugMix)], ids=lambda m: m.label)
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_the_targets_it_reports(method, seed):
    """Torch's own cross-entropy of the soft labels. RegMixup and AugMix add a term of their own: tested elsewhere."""
    found = loss_of(method, batch(neighbours=NEAR, dtype=torch.float64), net().double(), seed=seed)
    soft = sum(
        torch.from_numpy(np.broadcast_to(weight, 7).copy())[:, None] * F.one_hot(torch.from_numpy(labels), CLASSES)
        for labels, weight in found.targets
    )
    expected = F.cross_entropy(found.logits, soft, label_smoothing=method.label_smoothing or 0)
    torch.testing.assert_close(found.loss, expected)


@pytest.mark.parametrize("method", [m for ms in NEUTRAL.values() for m in ms], ids=lambda m: repr(m))
@pytest.mark.parametrize("size", [1, 7])
def test_neutral_is_erm_bit_for_bit(method, size):
    """Loss, logits and every gradient, not merely close; and a suite that names both is told so."""
    given = batch(size, neighbours=NEAR)
    models = net(), net()
    losses = [loss_of(Erm(), given, models[0]), loss_of(method, given, models[1])]
    for found in losses:
        found.loss.backward()
    assert torch.equal(losses[0].loss, losses[1].loss)
    assert torch.equal(losses[0].logits, losses[1].logits)
    for erm, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(erm.grad, other.grad)
    assert method.is_neutral


@pytest.mark.parametrize("method", [m for m in EVERY if m != Erm()], ids=lambda m: m.label)
def test_what_is_not_neutral_differs_from_erm(method):
    """Some seed of a few: a method at its default must do something."""
    plain = loss_of(Erm(), batch(neighbours=NEAR)).loss
    others = [loss_of(method, batch(neighbours=NEAR, epoch=5), seed=seed).loss for seed in range(5)]
    assert any(not torch.equal(plain, other) for other in others)
    if isinstance(method, Mixing):
        assert not method.is_neutral


@pytest.mark.parametrize("method", [m for m in EVERY if not m.layers_mixed], ids=lambda m: m.label)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_dtype(method, dtype):
    """What the network is shown keeps the dtype of the batch. Inside a network: below."""
    model = Looking()
    loss = loss_of(method, batch(neighbours=NEAR, dtype=dtype), model).loss
    assert {x.dtype for x in model.seen} == {dtype}
    assert torch.isfinite(loss)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_dtype_inside_a_network(dtype):
    loss = loss_of(ManifoldMixup(layers=1), batch(dtype=dtype), net().to(dtype)).loss
    assert torch.isfinite(loss)


@pytest.mark.gpu
@pytest.mark.parametrize("method", [m for m in EVERY if m.gaussian_noise is None], ids=lambda m: m.label)
def test_the_gpu_gives_what_the_cpu_gives(method):
    """Noise, which is drawn on the device, is another there."""
    given = batch(neighbours=NEAR)
    on_gpu = batch(neighbours=NEAR)
    moved = {name: getattr(on_gpu, name).cuda() for name in ("x", "y", "pixels", "pixel_scale")}
    take = on_gpu.training_set.take
    training_set = replace(on_gpu.training_set, take=lambda p: tuple(t.cuda() for t in take(p)))
    on_gpu = replace(on_gpu, **moved, training_set=training_set)
    torch.testing.assert_close(loss_of(method, on_gpu, net().cuda()).loss.cpu(), loss_of(method, given).loss)


@pytest.mark.parametrize("method", [Mixup(warmup_epochs=2), CutMix(off_epoch=2), FMix(warmup_epochs=0.5)], ids=repr)
def test_it_mixes_in_its_epochs_only(method):
    def mixes(epoch: int) -> bool:
        return loss_of(method, batch(epoch=epoch, epochs=4)).lam is not None

    wanted = {"mixup": [2, 3], "cutmix": [0, 1], "fmix": [2, 3]}[method.name]
    assert [epoch for epoch in range(4) if mixes(epoch)] == wanted == list(method.mixing_epochs(4))


def test_it_mixes_so_many_batches():
    method = CutMix(probability=0.3)
    mixed = [loss_of(method, batch(), Looking(), seed=seed).lam is not None for seed in range(600)]
    assert abs(np.mean(mixed) - 0.3) < 0.06  # 3 standard errors


@pytest.mark.parametrize("companion", COMPANIONS)
def test_companions_are_options_of_every_method(companion):
    value = {"cutout": 2}.get(companion, 0.1)
    for method in METHODS.values():
        made = method(**{companion: value})
        assert made.companions == {companion: value}
        assert made.label.endswith(f"{companion}={value}")


def test_a_companion_at_zero_is_none():
    assert Erm(label_smoothing=0, cutout=0, dropout=0) == Erm()
    assert Erm(weight_decay=0).label == "erm weight_decay=0"  # which is something else than the recipe's


def test_always_and_from_the_beginning_go_without_saying():
    assert Mixup(probability=1, warmup_epochs=0) == Mixup()
    assert Mixup(probability=0.5).label == "mixup alpha=1 probability=0.5"


def test_network_arguments():
    assert Erm().network_args("mlp") == {}
    assert Erm(dropout=0.3).network_args("preact_resnet18") == {"dropout": 0.3}
    both = Mixup(dropout=0.3, stochastic_depth=0.1).network_args("timm/test_resnet")
    assert both == {"drop_rate": 0.3, "drop_path_rate": 0.1}
    with pytest.raises(ValueError, match="preact_resnet18 has none"):
        Erm(stochastic_depth=0.1).network_args("preact_resnet18")


def test_gaussian_noise_has_its_standard_deviation_in_pixels():
    given, model = batch(40, side=24), Looking()
    loss_of(Erm(gaussian_noise=0.2), given, model)
    noise = (model.seen[0] - given.x) / (255 / 50)  # back to a range of 1
    assert abs(noise.std() - 0.2) < 0.002
    assert abs(noise.mean()) < 0.002


def test_label_smoothing_is_the_papers():
    """Table 5: eps / K for each wrong class, 1 - (K - 1) eps / K for the right one."""
    given, model, eps = batch(), net(), 0.2
    target = F.one_hot(given.y, CLASSES) * (1 - eps) + eps / CLASSES
    assert target.min() == pytest.approx(eps / CLASSES)
    expected = F.cross_entropy(model(given.x), target)
    torch.testing.assert_close(loss_of(Erm(label_smoothing=eps), given, model).loss, expected)


def test_the_same_partners_whatever_accompanies():
    """A network with dropout trains on the batches that the one without trains on."""
    models = Looking(), Looking()
    loss_of(Mixup(), batch(), models[0])
    loss_of(Mixup(dropout=0.5, weight_decay=0.1, label_smoothing=0.1), batch(), models[1])
    assert torch.equal(models[0].seen[0], models[1].seen[0])


def test_a_method_needs_no_gradient_of_the_images():
    class Counting(nn.Module):
        def forward(self, x):
            assert not x.requires_grad
            return x.flatten(1)[:, :CLASSES] * self.scale

        scale = torch.nn.Parameter(torch.ones(()))

    for method in EVERY:
        if not method.layers_mixed:
            assert loss_of(method, batch(neighbours=NEAR), Counting()).loss.requires_grad
