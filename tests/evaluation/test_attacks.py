"""Attacks against closed forms for linear networks, against Foolbox, and on a small trained network."""

from __future__ import annotations

import copy
import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.evaluation.attacks import Attack, Norm, adversarial_record, perturb

Digits = tuple[nn.Module, nn.Module, Tensor, Tensor]

ROUNDING = 2**-24  # of a float32 in [0, 1], with some room: half the spacing below 1 is 2^-25


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pgd(norm: Norm, epsilon: float, steps: int = 10, **options: Any) -> Attack:
    return Attack("pgd", norm, epsilon, steps, **options)


class Affine(nn.Module):
    """logits = weight @ pixels + bias, computed in float64."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight.double(), bias.double()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight.T + self.bias


class Logits(nn.Module):
    """A network from a function of one pixel: its margin for class 0 over class 1."""

    def __init__(self, margin: Any) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        margin = self.margin(x.flatten(1)[:, 0])
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def two_classes(n: int, *, low: float = 0.0, high: float = 1.0) -> tuple[Affine, Tensor, Tensor]:
    """A two-class affine network on 3x4x5 pixels in [low, high], and labels that are half right."""
    draw = rng(1)
    d = 3 * 4 * 5
    weight, bias = torch.from_numpy(draw.normal(size=(2, d))), torch.tensor([0.3, -0.2])
    x = torch.from_numpy(draw.uniform(low, high, size=(n, 3, 4, 5)).astype(np.float32))
    return Affine(weight, bias).eval(), x, torch.from_numpy(draw.integers(2, size=n))


def margins(model: Affine, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logit of the label minus the other class's, and the direction in pixel space that lowers it fastest."""
    weight, bias = model.weight.numpy(), model.bias.numpy()
    labels, pixels = y.numpy(), x.flatten(1).double().numpy()
    towards_other = weight[1 - labels] - weight[labels]
    return bias[labels] - bias[1 - labels] - (towards_other * pixels).sum(1), towards_other


def small_network(*, channels: int = 2, classes: int = 3) -> nn.Sequential:
    """Convolution, BatchNorm with statistics of its own, dropout: everything that training mode would change."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    )
    network(torch.rand(32, channels, 5, 5))
    return network.eval()


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Two networks trained from different weights on 1200 digits, and the 597 others, uint8, with labels."""
    torch.set_num_threads(1)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels)
    return _trained(images[:1200], y[:1200], 0), _trained(images[:1200], y[:1200], 1), images[1200:], y[1200:]


def _trained(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    hidden = (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images / 255), labels).backward()
        optimizer.step()
    return model.eval()


def white_box(digits: Digits, *attacks: Attack, **options: Any) -> list[float]:
    model, _, images, labels = digits
    metrics, _ = adversarial_record(model, images, labels, attacks, prefix="adv", seed=0, **options)
    return list(metrics.values())


# Closed forms


@pytest.mark.parametrize("attack", [Attack("fgsm", "linf", 12, 1), Attack("pgd", "linf", 12, 10)], ids=lambda a: a.name)
def test_linf_attacks_on_a_two_class_linear_network_find_the_worst_of_the_box(attack: Attack) -> None:
    """The box is cut by [0, 1], and the worst corner is still where each pixel goes as far as it may."""
    model, x, y = two_classes(2000)
    images = torch.round(x * 255).byte()
    x = images.float() / 255
    margin, direction = margins(model, x, y)
    pixels = x.flatten(1).double().numpy()
    room = np.where(direction > 0, np.minimum(1 - pixels, 12 / 255), np.minimum(pixels, 12 / 255))
    worst = margin - (np.abs(direction) * room).sum(1)
    assert np.abs(worst).min() > 1e-5  # no example whose outcome rounding could decide
    assert (margin > 0).mean() > (worst > 0).mean() + 0.1
    assert margins(model, perturb(model, x, y, attack, rng=rng()), y)[0] == pytest.approx(worst, abs=1e-5)
    metrics, detail = adversarial_record(model, images, y, [attack], prefix="adv", seed=0)
    assert metrics[f"adv_{attack.key}_error"] == pytest.approx((worst < 0).mean(), abs=1e-12)
    assert detail["clean_error"] == pytest.approx((margin < 0).mean(), abs=1e-12)


@pytest.mark.parametrize(
    "attack",
    [
        Attack("fgsm", "l2", 40, 1),
        Attack("i_fgsm", "l2", 40, 8),
        # From any start, a step as long as the radius halves what is left across the gradient, or better.
        Attack("pgd", "l2", 40, 30, step_size=40),
    ],
    ids=lambda attack: attack.name,
)
def test_l2_attacks_on_a_two_class_linear_network_go_straight_to_the_other_class(attack: Attack) -> None:
    model, x, y = two_classes(500, low=0.3, high=0.7)  # 40 / 255 < 0.3: no pixel reaches 0 or 1
    margin, direction = margins(model, x, y)
    lengths = np.linalg.norm(direction, axis=1, keepdims=True)
    x_adv = perturb(model, x, y, attack, rng=rng())
    offset = (x_adv.double() - x.double()).flatten(1).numpy()
    assert offset == pytest.approx(40 / 255 * direction / lengths, abs=1e-6)
    assert margins(model, x_adv, y)[0] == pytest.approx(margin - 40 / 255 * lengths[:, 0], abs=1e-5)


def test_the_direction_is_that_of_the_cross_entropy_of_all_classes() -> None:
    """With K classes and logits = weight @ x + bias it is weight^T (p - e_y)."""
    draw = rng(2)
    model = Affine(torch.from_numpy(draw.normal(size=(6, 60)) / 8), torch.from_numpy(draw.normal(size=6))).eval()
    x = torch.from_numpy(draw.uniform(0.3, 0.7, size=(100, 3, 4, 5)).astype(np.float32))
    y = torch.from_numpy(draw.integers(6, size=100))
    pixels, weight = x.flatten(1).double().numpy(), model.weight.numpy()
    probs = special.softmax(pixels @ weight.T + model.bias.numpy(), axis=1)
    gradient = (probs - np.eye(6)[y]) @ weight
    expected = 40 / 255 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    x_adv = perturb(model, x, y, Attack("fgsm", "l2", 40, 1), rng=rng())
    assert (x_adv - x).flatten(1).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_i_fgsm_takes_its_steps_one_by_one(norm: Norm) -> None:
    """Three of the ten steps of a linear ascent are three tenths of the way."""
    model, x, y = two_classes(50, low=0.3, high=0.7)
    part = perturb(model, x, y, Attack("i_fgsm", norm, 40, 3, step_size=4), rng=rng())
    whole = perturb(model, x, y, Attack("i_fgsm", norm, 40, 10), rng=rng())
    assert (part - x).numpy() == pytest.approx(0.3 * (whole - x).numpy(), abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_a_gradient_the_image_stays_as_it_is(norm: Norm) -> None:
    flat = Logits(lambda pixel: 0 * pixel).eval()
    x = torch.rand(20, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    for attack in (Attack("fgsm", norm, 30, 1), Attack("i_fgsm", norm, 30, 4)):
        assert torch.equal(perturb(flat, x, torch.zeros(20, dtype=torch.int64), attack, rng=rng()), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fgsm", "i_fgsm", "pgd"])
def test_confidence_does_not_hide_the_gradient(name: Any, norm: Norm) -> None:
    """Scaling the logits of two classes scales every gradient, even where p rounds to 1 in float32 and in float64."""
    model, x, y = two_classes(100)
    attack = Attack(name, norm, 20, 1 if name == "fgsm" else 5)
    expected = perturb(model, x, y, attack, rng=rng())
    for scale in (1e-3, 1e3):
        scaled = Affine(scale * model.weight, scale * model.bias).eval()
        assert perturb(scaled, x, y, attack, rng=rng()).numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        single = nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).eval()
        single.load_state_dict({"1.weight": scaled.weight.float(), "1.bias": scaled.bias.float()})
        assert perturb(single, x, y, attack, rng=rng()).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_gradient_whose_square_underflows_still_has_a_direction() -> None:
    faint = Logits(lambda pixel: 1e-30 * pixel).eval()
    x = torch.full((1, 1, 2, 2), 0.5)
    x_adv = perturb(faint, x, torch.tensor([0]), Attack("fgsm", "l2", 51, 1), rng=rng())
    assert x_adv.flatten().tolist() == pytest.approx([0.3, 0.5, 0.5, 0.5], abs=1e-7)


def test_pgd_starts_uniformly_in_the_box() -> None:
    flat, x = Logits(lambda pixel: 0 * pixel).eval(), torch.full((500, 2, 3, 4), 0.5)
    x_adv = perturb(flat, x, torch.zeros(500, dtype=torch.int64), pgd("linf", 51), rng=rng(3))
    offset = (x_adv - x).double().flatten() / 0.2
    assert stats.kstest(offset, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_pgd_starts_uniformly_in_the_l2_ball() -> None:
    """In d dimensions radius^d is uniform, and (1 + a coordinate) / 2 is Beta distributed, both with (d + 1) / 2."""
    flat, d = Logits(lambda pixel: 0 * pixel).eval(), 24
    x = torch.full((4000, 2, 3, 4), 0.5)
    x_adv = perturb(flat, x, torch.zeros(4000, dtype=torch.int64), pgd("l2", 51), rng=rng(3))
    offset = (x_adv - x).double().flatten(1) / 0.2
    assert stats.kstest(offset.norm(dim=1) ** d, stats.uniform.cdf).pvalue > 1e-3
    for coordinate in (0, 11, 23):
        projected = (offset[:, coordinate] + 1) / 2
        assert stats.kstest(projected, stats.beta((d + 1) / 2, (d + 1) / 2).cdf).pvalue > 1e-3


def test_an_example_is_broken_if_any_restart_breaks_it() -> None:
    """From left of the middle the ascent leads over the edge, from right of it it ends short: a coin per restart."""
    radius = 0.2

    def margin(pixel: Tensor) -> Tensor:
        u = (pixel - 0.5) / radius
        return torch.where(u < 0, 1 + 2 * u, 1 - 0.5 * u)

    model, n = Logits(margin).eval(), 2000
    x, y = torch.full((n, 1, 1, 1), 0.5), torch.zeros(n, dtype=torch.int64)
    broken = {}
    for restarts in (1, 2, 4):
        x_adv = perturb(model, x, y, pgd("linf", 51, restarts=restarts), rng=rng(5))
        broken[restarts] = model(x_adv).argmax(1) != y
        assert stats.binomtest(int(broken[restarts].sum()), n, 1 - 0.5**restarts).pvalue > 1e-3
    assert bool((broken[1] <= broken[2]).all())
    assert bool((broken[2] <= broken[4]).all())


def test_unbroken_examples_keep_the_restart_of_highest_loss() -> None:
    def margin(pixel: Tensor) -> Tensor:
        u = (pixel - 0.5) / 0.2
        return torch.where(u < 0, 1 + 0.8 * u, 1 - 0.5 * u)

    model = Logits(margin).eval()
    x, y = torch.full((300, 1, 1, 1), 0.5), torch.zeros(300, dtype=torch.int64)
    x_adv = perturb(model, x, y, pgd("linf", 51, restarts=20), rng=rng(5))  # 2^-20 never start left
    assert x_adv.flatten().tolist() == pytest.approx([0.3] * 300, abs=1e-6)


def test_a_broken_example_beats_a_later_unbroken_one_of_any_loss() -> None:
    """Three classes: one side breaks the label at a low loss, the other raises the loss more and breaks nothing."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            u = (x.flatten(1)[:, 0] - 0.5) / 0.2
            left, right = (-u).clamp(min=0), u.clamp(min=0)
            # left: the first rival passes the label, all others vanish.  right: a hundred rivals stay just below it.
            rivals = (-20 + 19.9 * right)[:, None].expand(-1, 100)
            return torch.cat([torch.zeros(len(u), 1), (-1 + 1.1 * left - 20 * right)[:, None], rivals], dim=1)

    model = Model().eval()
    x, y = torch.full((300, 1, 1, 1), 0.5), torch.zeros(300, dtype=torch.int64)
    x_adv = perturb(model, x, y, pgd("linf", 51, restarts=20), rng=rng(5))
    assert bool((model(x_adv).argmax(1) != y).all())
    ends = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1)
    losses = F.cross_entropy(model(ends), y[:2], reduction="none")
    assert losses[1] > losses[0] + 1  # so that loss alone would have chosen the other side


# Bounds


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.just(2), st.integers(2, 5), st.integers(2, 5)),
    norm=st.sampled_from(["linf", "l2"]),
    name=st.sampled_from(["fgsm", "i_fgsm", "pgd"]),
    epsilon=st.one_of(st.floats(0, 255), st.sampled_from([0, 1e-6, 0.5, 4, 255])),
    steps=st.integers(1, 4),
    step_size=st.one_of(st.none(), st.floats(0.01, 600)),
    edge=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_adversarial_examples_stay_in_the_ball_and_in_range(
    shape: tuple[int, ...],
    norm: Norm,
    name: str,
    epsilon: float,
    steps: int,
    step_size: float | None,
    edge: bool,
    seed: int,
) -> None:
    attack = Attack(
        name,  # type: ignore[arg-type]
        norm,
        epsilon,
        1 if name == "fgsm" else steps,
        step_size=None if name == "fgsm" else step_size,
        restarts=2 if name == "pgd" else 1,
    )
    draw = rng(seed)
    pixels = draw.integers(2, size=shape) if edge else draw.random(shape)
    x = torch.from_numpy(pixels.astype(np.float32))
    y = torch.from_numpy(draw.integers(3, size=shape[0]))
    x_adv = perturb(small_network(), x, y, attack, rng=draw)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert not x_adv.requires_grad
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    offset = (x_adv.double() - x.double()).flatten(1)
    if norm == "linf":
        assert float(offset.abs().max()) <= epsilon / 255 + ROUNDING
    else:
        bound = epsilon / 255 * (1 + 1e-6) + ROUNDING * math.sqrt(offset.shape[1])
        assert float(offset.norm(dim=1).max()) <= bound


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fgsm", "i_fgsm", "pgd"])
def test_with_epsilon_0_the_image_comes_back_bit_for_bit(name: Any, norm: Norm) -> None:
    x = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    attack = Attack(name, norm, 0, 1, restarts=3 if name == "pgd" else 1)
    x_adv = perturb(small_network(), x, torch.zeros(4, dtype=torch.int64), attack, rng=rng())
    assert torch.equal(x_adv, x)


# Side effects and randomness


def test_the_model_and_grad_mode_are_left_as_they_were() -> None:
    model = small_network()
    model[0].weight.requires_grad_(False)  # a caller's choice
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    images = torch.from_numpy(rng().integers(256, size=(20, 2, 5, 5), dtype=np.uint8))
    labels = torch.from_numpy(rng().integers(3, size=20))
    attacks = [pgd("linf", 8, restarts=2), pgd("l2", 60)]
    with torch.no_grad():
        adversarial_record(model, images, labels, attacks, prefix="adv", seed=0)
        assert not torch.is_grad_enabled()
    adversarial_record(model, images, labels, attacks, prefix="transfer", seed=0, victim=small_network())
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_the_global_generators_play_no_part(digits: Digits) -> None:
    state = torch.get_rng_state()
    first = white_box(digits, pgd("linf", 16, steps=2))
    torch.manual_seed(99)
    assert white_box(digits, pgd("linf", 16, steps=2)) == first
    torch.set_rng_state(state)


def test_starts_are_the_same_for_every_model_epsilon_and_number_of_steps() -> None:
    """On a flat network an example stays where it started; those that are not attacked shift no other's start."""
    seen: dict[str, Tensor] = {}

    class Flat(nn.Module):
        """Remembers the last batch; predicts 0, the label, for all but the first `wrong` of a batch of 6."""

        def __init__(self, name: str, wrong: int) -> None:
            super().__init__()
            self.name, self.wrong = name, wrong

        def forward(self, x: Tensor) -> Tensor:
            seen[self.name] = x.detach().clone()
            predicted = (torch.arange(len(x)) < self.wrong).long()
            return F.one_hot(predicted, 2) + 0 * x.flatten(1)[:, :2]

    images = torch.full((6, 1, 3, 3), 128, dtype=torch.uint8)
    labels = torch.zeros(6, dtype=torch.int64)
    runs = {"all": (0, 4.0, 3), "four": (2, 4.0, 3), "twice": (0, 8.0, 5)}
    for name, (wrong, epsilon, steps) in runs.items():
        adversarial_record(
            Flat(name, wrong).eval(), images, labels, [pgd("linf", epsilon, steps)], prefix="adv", seed=3
        )
    offset = {name: x - 128 / 255 for name, x in seen.items()}
    assert len(offset["four"]) == 4
    assert torch.equal(offset["four"], offset["all"][2:])
    assert offset["twice"].numpy() == pytest.approx(2 * offset["all"].numpy(), abs=1e-7)
    adversarial_record(Flat("other", 0).eval(), images, labels, [pgd("linf", 4.0, 3)], prefix="adv", seed=4)
    assert not torch.equal(seen["other"], seen["all"])


def test_examples_of_different_batches_start_differently() -> None:
    flat, starts = Logits(lambda pixel: 5 + 0 * pixel).eval(), []
    flat.register_forward_hook(lambda _, inputs, __: starts.append(inputs[0].detach().clone()))
    images, labels = torch.full((4, 1, 3, 3), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    adversarial_record(flat, images, labels, [pgd("linf", 8, 1)], prefix="adv", seed=0, batch_size=2)
    assert not torch.equal(starts[2], starts[5])  # each batch: clean, one step, the outcome


# The record


def test_the_record_has_the_agreed_form(digits: Digits) -> None:
    model, victim, images, labels = digits
    attacks = [Attack("fgsm", "linf", 4, 1), pgd("l2", 0.5, 3, restarts=2)]
    metrics, detail = adversarial_record(model, images, labels, attacks, prefix="adv", seed=0)
    assert list(metrics) == ["adv_fgsm_linf_4_error", "adv_pgd_l2_0.5_error"]
    assert detail["num_examples"] == 597
    assert [list(entry) for entry in detail["errors"]] == [
        ["attack", "norm", "epsilon", "steps", "restarts", "error"]
    ] * 2
    assert [entry["error"] for entry in detail["errors"]] == list(metrics.values())
    transferred, _ = adversarial_record(model, images, labels, attacks, prefix="transfer", seed=0, victim=victim)
    assert list(transferred) == ["transfer_fgsm_linf_4_error", "transfer_pgd_l2_0.5_error"]


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_epsilon_0_gives_the_clean_error(digits: Digits, batch_size: int) -> None:
    model, victim, images, labels = digits
    attacks = [Attack("fgsm", "linf", 0, 1), pgd("l2", 0)]
    for tested, options in ((model, {"prefix": "adv"}), (victim, {"prefix": "transfer", "victim": victim})):
        metrics, detail = adversarial_record(
            model,
            images,
            labels,
            attacks,
            seed=0,
            batch_size=batch_size,
            **options,  # type: ignore[arg-type]
        )
        with torch.no_grad():
            clean = (tested(images / 255).argmax(1) != labels).double().mean().item()
        assert detail["clean_error"] == pytest.approx(clean, abs=1e-12)
        assert set(metrics.values()) == {detail["clean_error"]}


def test_white_box_counts_every_example_that_is_wrong_as_it_is(
    digits: Digits,
) -> None:
    """Also those that the attack would have put right by accident."""
    model, _, images, labels = digits
    x = images.float() / 255
    attack = Attack("fgsm", "linf", 16, 1)
    with torch.no_grad():
        wrong = model(x).argmax(1) != labels
        broken = model(perturb(model, x, labels, attack, rng=rng())).argmax(1) != labels
    assert white_box(digits, attack) == [pytest.approx((wrong | broken).double().mean().item(), abs=1e-12)]


def test_transfer_attacks_every_example_and_counts_the_victims_errors(
    digits: Digits,
) -> None:
    model, victim, images, labels = digits
    attack = Attack("i_fgsm", "linf", 16, 10)
    metrics, detail = adversarial_record(
        model, images, labels, [attack], prefix="transfer", seed=0, victim=victim, batch_size=100
    )
    x_adv = perturb(model, images.float() / 255, labels, attack, rng=rng())
    with torch.no_grad():
        expected = (victim(x_adv).argmax(1) != labels).double().mean().item()
    assert metrics["transfer_i_fgsm_linf_16_error"] == pytest.approx(expected, abs=1e-12)
    assert detail["clean_error"] < expected


def test_a_transfer_may_put_an_example_right() -> None:
    """Away from the attacked model's class 0, the pixel crosses into where the victim is right."""
    attacked, victim = Logits(lambda pixel: 1 - pixel).eval(), Logits(lambda pixel: pixel - 0.55).eval()
    images, labels = torch.full((3, 1, 1, 1), 128, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    metrics, detail = adversarial_record(
        attacked, images, labels, [Attack("fgsm", "linf", 26, 1)], prefix="transfer", seed=0, victim=victim
    )
    assert detail["clean_error"] == 1
    assert metrics == {"transfer_fgsm_linf_26_error": 0}


# A trained network


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 12), ("l2", 60)])
def test_stronger_attacks_do_not_help_the_network(digits: Digits, norm: Norm, epsilon: float) -> None:
    clean, fgsm, i_fgsm, weak, strong = white_box(
        digits,
        Attack("fgsm", norm, 0, 1),
        Attack("fgsm", norm, epsilon, 1),
        Attack("i_fgsm", norm, epsilon, 20),
        pgd(norm, epsilon / 4, 20),
        pgd(norm, epsilon, 20),
    )
    (longer,) = white_box(digits, pgd(norm, epsilon, 100))
    (restarted,) = white_box(digits, pgd(norm, epsilon, 20, restarts=4))
    noise = 3 / 597  # three examples
    assert clean < weak
    assert weak + 0.05 < strong
    assert clean + 0.05 < fgsm
    assert i_fgsm >= fgsm - noise
    assert strong >= fgsm - noise
    assert longer >= strong - noise
    assert restarted >= strong  # the first of four runs is the only one of one


def test_a_large_enough_ball_breaks_everything(digits: Digits) -> None:
    """An attack that could not would be broken itself (Carlini et al. 2019)."""
    assert white_box(digits, pgd("linf", 128, 20), pgd("l2", 1000, 20)) == [1, 1]


def test_white_box_is_stronger_than_transfer_and_transfer_than_noise(
    digits: Digits,
) -> None:
    model, victim, images, labels = digits
    attack = pgd("linf", 16)
    (white,) = adversarial_record(victim, images, labels, [attack], prefix="adv", seed=0)[0].values()
    (black,) = adversarial_record(model, images, labels, [attack], prefix="adv", seed=0, victim=victim)[0].values()
    noise = torch.from_numpy(rng().choice([-16, 16], size=images.shape)) / 255
    with torch.no_grad():
        random = (victim((images / 255 + noise).clamp(0, 1).float()).argmax(1) != labels).double().mean().item()
    assert white > black + 0.02
    assert black > random + 0.02


# Another library


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Foolbox 3.3.4 imports scipy.ndimage.filters, which SciPy deprecates
        return pytest.importorskip("foolbox", reason="Foolbox is not installed")


class Doubled(nn.Module):
    """The network in float64 on float32 pixels, where Foolbox's cross-entropy does not saturate on our network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.double())
        return logits


def foolbox_attack(foolbox: ModuleType, attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Foolbox's projected gradient descent on cross-entropy, of which FGSM and I-FGSM are special cases."""
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[attack.norm]
    theirs = kind(abs_stepsize=attack.step / 255, steps=attack.steps, random_start=attack.name == "pgd")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    x_adv: Tensor = theirs.run(wrapped, x, y, epsilon=attack.epsilon / 255)
    return x_adv


@pytest.mark.parametrize(
    "attack",
    [
        *(Attack("fgsm", norm, epsilon, 1) for norm in ("linf", "l2") for epsilon in (16, 60)),
        *(Attack("i_fgsm", norm, epsilon, 10) for norm in ("linf", "l2") for epsilon in (16, 60)),
        # Steps that leave the ball, so that the projection has something to do.
        *(
            Attack("i_fgsm", norm, epsilon, 10, step_size=0.25 * epsilon)
            for norm in ("linf", "l2")
            for epsilon in (16, 60)
        ),
    ],
    ids=lambda attack: f"{attack.key}-{attack.step:g}",
)
def test_every_pixel_agrees_with_foolbox(foolbox: ModuleType, digits: Digits, attack: Attack) -> None:
    model, x, y = Doubled(digits[0]).eval(), digits[2].float() / 255, digits[3]
    expected = foolbox_attack(foolbox, attack, model, x, y)
    apart = (perturb(model, x, y, attack, rng=rng()) - expected).flatten(1).abs().amax(1)
    assert float(apart.median()) < 1e-6
    assert int((apart > 1e-5).sum()) <= 1  # a pixel whose gradient is almost 0 may change its sign


@pytest.mark.parametrize("attack", [pgd("linf", 16, 20), pgd("l2", 60, 20)], ids=lambda attack: attack.key)
def test_pgd_is_as_strong_as_foolbox(foolbox: ModuleType, digits: Digits, attack: Attack) -> None:
    model, x, y = Doubled(digits[0]).eval(), digits[2].float() / 255, digits[3]
    torch.manual_seed(0)
    ends = perturb(model, x, y, attack, rng=rng()), foolbox_attack(foolbox, attack, model, x, y)
    with torch.no_grad():
        error, their_error = ((model(each).argmax(1) != y).double().mean().item() for each in ends)
        loss, their_loss = (F.cross_entropy(model(each), y).item() for each in ends)
    assert error == pytest.approx(their_error, abs=3 / 597)
    assert loss == pytest.approx(their_loss, rel=0.01)


# Refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "cw"}, "'cw': must be one of fgsm, i_fgsm, pgd"),
        ({"norm": "l1"}, "'l1' must be one of linf, l2"),
        ({"epsilon": -1}, "at least 0"),
        ({"epsilon": math.nan}, "finite"),
        ({"epsilon": 256}, "in 1/255"),
        ({"steps": 0}, "steps = 0"),
        ({"restarts": 0}, "restarts = 0"),
        ({"step_size": 0}, "step_size = 0"),
        ({"step_size": math.inf}, "finite"),
        ({"name": "fgsm"}, "one step"),
        ({"name": "fgsm", "steps": 1, "step_size": 4}, "one step"),
        ({"name": "i_fgsm", "restarts": 2}, "take pgd"),
    ],
)
def test_values_that_make_no_attack_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Attack(**({"name": "pgd", "norm": "linf", "epsilon": 4, "steps": 10} | options))


@pytest.mark.parametrize(
    ("attack", "key", "step"),
    [
        (Attack("fgsm", "linf", 4, 1), "fgsm_linf_4", 4),
        (Attack("i_fgsm", "linf", 4.0, 10), "i_fgsm_linf_4", 0.4),
        (Attack("pgd", "l2", 127.5, 20), "pgd_l2_127.5", 15.9375),
        (Attack("pgd", "linf", 8, 7, step_size=2), "pgd_linf_8", 2),
    ],
)
def test_keys_and_default_steps(attack: Attack, key: str, step: float) -> None:
    assert attack.key == key
    assert attack.step == pytest.approx(step, rel=1e-12)


def test_a_model_that_trains_is_refused_down_to_its_parts() -> None:
    model, x, y = small_network(), torch.rand(2, 2, 5, 5), torch.zeros(2, dtype=torch.int64)
    model[1].train()
    with pytest.raises(ValueError, match="its module 1 is in training mode"):
        perturb(model, x, y, pgd("linf", 4), rng=rng())
    images = torch.zeros(2, 2, 5, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the model is in training mode"):
        adversarial_record(
            small_network(), images, y, [pgd("linf", 4)], prefix="transfer", seed=0, victim=small_network().train()
        )


def test_inference_mode_is_refused_and_no_grad_is_not() -> None:
    model, x, y = small_network(), torch.rand(2, 2, 5, 5), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        assert not torch.equal(perturb(model, x, y, pgd("linf", 4), rng=rng()), x)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        perturb(model, x, y, pgd("linf", 4), rng=rng())


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (torch.zeros(2, 2, 5, 5, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "float32"),
        (torch.zeros(2, 50), torch.zeros(2, dtype=torch.int64), r"\(B, C, H, W\)"),
        (torch.zeros(2, 2, 5, 5), torch.zeros(2, 1, dtype=torch.int64), r"labels \(B,\)"),
        (torch.full((2, 2, 5, 5), 1.5), torch.zeros(2, dtype=torch.int64), r"in \[0, 1\]"),
        (torch.full((2, 2, 5, 5), -0.1), torch.zeros(2, dtype=torch.int64), r"in \[0, 1\]"),
        (torch.full((2, 2, 5, 5), math.nan), torch.zeros(2, dtype=torch.int64), r"in \[0, 1\]"),
    ],
)
def test_what_is_no_batch_of_pixels_is_refused(x: Tensor, y: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        perturb(small_network(), x, y, pgd("linf", 4), rng=rng())


@pytest.mark.parametrize(
    ("images", "labels", "attacks", "match"),
    [
        (torch.zeros(0, 2, 5, 5, dtype=torch.uint8), torch.zeros(0).long(), [pgd("linf", 4)], "at least one image"),
        (torch.zeros(2, 2, 5, 5), torch.zeros(2).long(), [pgd("linf", 4)], "uint8"),
        (torch.zeros(2, 2, 5, 5, dtype=torch.uint8), torch.zeros(3).long(), [pgd("linf", 4)], r"labels \(3,\)"),
        (torch.zeros(2, 2, 5, 5, dtype=torch.uint8), torch.zeros(2).long(), [], "no attacks"),
        (
            torch.zeros(2, 2, 5, 5, dtype=torch.uint8),
            torch.zeros(2).long(),
            [pgd("linf", 4), pgd("linf", 4, 20)],
            "share the name pgd_linf_4",
        ),
    ],
)
def test_a_record_of_nothing_or_twice_the_same_is_refused(
    images: Tensor, labels: Tensor, attacks: list[Attack], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        adversarial_record(small_network(), images, labels, attacks, prefix="adv", seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_sees_the_same_starts_and_gives_the_same_errors(
    digits: Digits,
) -> None:
    model, _, images, labels = digits
    flat, x = Logits(lambda pixel: 0 * pixel).eval(), torch.full((50, 2, 3, 4), 0.5)
    y = torch.zeros(50, dtype=torch.int64)
    for norm in ("linf", "l2"):
        host = perturb(flat, x, y, pgd(norm, 51), rng=rng(3))
        device = perturb(flat, x.cuda(), y.cuda(), pgd(norm, 51), rng=rng(3))
        assert device.cpu().numpy() == pytest.approx(host.numpy(), abs=1e-6)
    attacks = [Attack("fgsm", "linf", 16, 1), pgd("linf", 16, restarts=2), pgd("l2", 60)]
    expected = white_box(digits, *attacks)
    try:
        metrics, _ = adversarial_record(model.cuda(), images.cuda(), labels.cuda(), attacks, prefix="adv", seed=0)
    finally:
        model.cpu()
    assert list(metrics.values()) == pytest.approx(expected, abs=3 / 597)
