"""The line between two images: against closed forms, finite differences, and cases worked out by hand."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special, stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.evaluation.in_between import draw_pairs, in_between_record

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


def random_pairs(m: int, shape: tuple[int, int, int] = (2, 3, 4), *, num_classes: int = 3) -> Pairs:
    draw = np.random.default_rng(0)
    x_i, x_j = (torch.from_numpy(draw.integers(256, size=(m, *shape), dtype=np.uint8)) for _ in range(2))
    y_i, y_j = (torch.from_numpy(draw.integers(num_classes, size=m)) for _ in range(2))
    return x_i, y_i, x_j, y_j


class Affine(nn.Module):
    """logits = weight @ pixels + bias in float64, with random weights of a given size."""

    def __init__(self, d: int, num_classes: int, *, size: float = 1.0) -> None:
        super().__init__()
        draw = np.random.default_rng(1)
        self.weight = torch.from_numpy(draw.normal(size=(num_classes, d)) * size)
        self.bias = torch.from_numpy(draw.normal(size=num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight.T + self.bias


class Thirds(nn.Module):
    """Of one pixel: class 0 below a third, class 1 above two thirds, class 2 between."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, 0]
        return torch.stack([1 / 3 - pixel, pixel - 2 / 3, 0 * pixel], dim=1)


def smooth_network() -> nn.Sequential:
    """In float64, convolution and BatchNorm with statistics of its own, and no kinks to spoil a finite difference."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 3)
    ).double()
    network(torch.rand(32, 2, 3, 4, dtype=torch.float64))
    return network.eval()


class Doubled(nn.Module):
    """A float64 network on float32 pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


# Closed forms


@pytest.mark.parametrize("size", [0.01, 1.0, 20.0])
def test_a_linear_network_by_the_formula(size: float) -> None:
    """The gradient is weight^T (p - lam e_i - (1 - lam) e_j); at size 20 most p round to 1 in float32."""
    model, (x_i, y_i, x_j, y_j) = Affine(24, 5, size=size).eval(), random_pairs(200, num_classes=5)
    metrics, detail = in_between_record(model, x_i, y_i, x_j, y_j, batch_size=64)
    weight, bias = model.weight.numpy(), model.bias.numpy()
    first, second = (images.flatten(1).numpy() / 255 for images in (x_i, x_j))
    one_hot_i, one_hot_j = np.eye(5)[y_i], np.eye(5)[y_j]
    for k, lam in enumerate(np.arange(21) / 20):
        logits = (lam * first + (1 - lam) * second) @ weight.T + bias
        residual = special.softmax(logits, axis=1) - lam * one_hot_i - (1 - lam) * one_hot_j
        norm = np.sqrt(((residual @ weight) ** 2).sum(1)).mean()
        predicted = logits.argmax(1)
        assert detail["lam"][k] == pytest.approx(lam, abs=1e-15)
        assert detail["gradient_norm"][k] == pytest.approx(norm, rel=1e-5)
        assert detail["miss"][k] == np.mean((predicted != y_i.numpy()) & (predicted != y_j.numpy()))
    assert metrics["in_between_miss_half"] == detail["miss"][10]
    assert metrics["in_between_gradient_half"] == detail["gradient_norm"][10]
    assert detail["num_pairs"] == 200


@pytest.mark.parametrize("slope", [1.0, 1e-12])
@pytest.mark.parametrize("margin", [1.0, 20.0, 30.0])
def test_confidence_does_not_hide_the_gradient(margin: float, slope: float) -> None:
    """Two classes in float32: (1 - p) times the distance of their weights, however small the one or the other is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    weight, bias = torch.tensor([[slope, 0, 0, 0], [0, slope, 0, 0]]), torch.tensor([margin, 0])
    model.load_state_dict({"1.weight": weight, "1.bias": bias})
    grey, label = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8), torch.tensor([0])
    metrics, _ = in_between_record(model, grey, label, grey, label)
    expected = special.expit(-margin) * slope * np.sqrt(2)
    assert metrics["in_between_gradient_half"] == pytest.approx(expected, rel=1e-3, abs=0)


def test_gradients_against_finite_differences() -> None:
    network, pairs = smooth_network(), random_pairs(4)
    _, detail = in_between_record(Doubled(network).eval(), *pairs, num_lam=5)
    x_i, y_i, x_j, y_j = pairs
    h = 1e-5
    for k, lam in enumerate([0, 0.25, 0.5, 0.75, 1]):

        def loss(x: Tensor, row: int, lam: float = lam) -> float:
            log_probs = network(x[None]).log_softmax(1)[0]
            return -(lam * log_probs[y_i[row]] + (1 - lam) * log_probs[y_j[row]]).item()

        norms = []
        for row in range(4):
            x = (lam * x_i[row].double() + (1 - lam) * x_j[row].double()) / 255
            steps = h * torch.eye(24, dtype=torch.float64).view(24, 2, 3, 4)
            slopes = [(loss(x + step, row) - loss(x - step, row)) / (2 * h) for step in steps]
            norms.append(np.linalg.norm(slopes))
        assert detail["gradient_norm"][k] == pytest.approx(np.mean(norms), rel=1e-5)


def test_misses_by_hand() -> None:
    """From a black image of class 0 to a white one of class 1, the middle third is predicted to be of class 2."""
    black, white = torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    zero, one, two = (torch.tensor([label]) for label in range(3))
    model = Thirds().eval()
    metrics, detail = in_between_record(model, white, one, black, zero)
    # 1 - lam from 0 to 1 by 0.05 lies between a third and two thirds for lam = 0.35 to 0.65
    assert detail["miss"] == [0] * 7 + [1] * 7 + [0] * 7
    assert metrics["in_between_miss_half"] == 1
    assert in_between_record(model, white, one, black, two)[1]["miss"] == [1] * 7 + [0] * 14
    both = in_between_record(model, *map(torch.cat, ([white, white], [one, one], [black, black], [zero, two])))
    assert both[1]["miss"] == [0.5] * 7 + [0.5] * 7 + [0] * 7


def test_both_orders_of_a_pair_give_the_same_line_reversed() -> None:
    model, (x_i, y_i, x_j, y_j) = Doubled(smooth_network()).eval(), random_pairs(30)
    there, back = (in_between_record(model, *pairs)[1] for pairs in ((x_i, y_i, x_j, y_j), (x_j, y_j, x_i, y_i)))
    assert back["miss"] == there["miss"][::-1]
    assert back["gradient_norm"] == pytest.approx(there["gradient_norm"][::-1], rel=1e-6)


def test_a_memorised_training_set_has_its_gradients_and_misses_between_the_images() -> None:
    """As in the paper's figure 2 for plain training: next to nothing at the ends, the most in the middle."""
    torch.set_num_threads(1)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels[:500] * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels[:500])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(images / 255), y).backward()
        optimizer.step()
    i, j = draw_pairs(500, 500, np.random.default_rng(0))
    metrics, detail = in_between_record(model.eval(), images[i], y[i], images[j], y[j])
    assert detail["miss"][0] == detail["miss"][-1] == 0
    assert metrics["in_between_miss_half"] > 0.02
    ends = max(detail["gradient_norm"][0], detail["gradient_norm"][-1])
    assert ends < 0.05 * metrics["in_between_gradient_half"]


# Batches, side effects, refusals


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_batches_do_not_matter(batch_size: int) -> None:
    model, pairs = Doubled(smooth_network()).eval(), random_pairs(30)
    whole, parts = in_between_record(model, *pairs), in_between_record(model, *pairs, batch_size=batch_size)
    assert parts[1]["miss"] == whole[1]["miss"]
    assert parts[1]["gradient_norm"] == pytest.approx(whole[1]["gradient_norm"], rel=1e-6)


def test_the_model_and_grad_mode_are_left_as_they_were() -> None:
    model = Doubled(smooth_network()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        in_between_record(model, *random_pairs(5))
        assert not torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_what_has_no_gradient_or_no_meaning_is_refused() -> None:
    model, (x_i, y_i, x_j, y_j) = Affine(24, 3).eval(), random_pairs(4)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        in_between_record(model, x_i, y_i, x_j, y_j)
    with pytest.raises(ValueError, match="training mode"):
        in_between_record(Affine(24, 3), x_i, y_i, x_j, y_j)
    with pytest.raises(ValueError, match="uint8"):
        in_between_record(model, x_i / 255, y_i, x_j, y_j)
    with pytest.raises(ValueError, match=r"labels \(m,\)"):
        in_between_record(model, x_i, y_i, x_j, y_j[:, None])
    with pytest.raises(ValueError, match="as many x_i as x_j"):
        in_between_record(model, x_i, y_i, x_j[:3], y_j[:3])
    with pytest.raises(ValueError, match="at least one"):
        in_between_record(model, x_i[:0], y_i[:0], x_j[:0], y_j[:0])
    for num_lam in (1, 20):
        with pytest.raises(ValueError, match=f"num_lam = {num_lam}"):
            in_between_record(model, x_i, y_i, x_j, y_j, num_lam=num_lam)


# Pairs


@pytest.mark.parametrize(("n", "num_pairs"), [(2, 2), (3, 1), (100, 60), (1000, 1000)])
def test_pairs_are_of_two_examples_and_no_line_starts_twice(n: int, num_pairs: int) -> None:
    i, j = draw_pairs(n, num_pairs, np.random.default_rng(0))
    assert i.shape == j.shape == (num_pairs,)
    assert len(set(i.tolist())) == num_pairs
    assert np.all(i != j)
    assert np.all((j >= 0) & (j < n))


def test_every_pair_is_as_likely_as_every_other() -> None:
    rng = np.random.default_rng(0)
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    for _ in range(6000):
        i, j = draw_pairs(4, 1, rng)
        counts[int(i[0]), int(j[0])] += 1
    assert len(counts) == 12
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_the_generator_decides_the_pairs() -> None:
    first, same, other = (draw_pairs(50, 20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "num_pairs"), [(1, 1), (5, 6), (5, 0)])
def test_pairs_that_cannot_be_drawn_are_refused(n: int, num_pairs: int) -> None:
    with pytest.raises(ValueError, match=f"num_pairs = {num_pairs} of n = {n}"):
        draw_pairs(n, num_pairs, np.random.default_rng(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same() -> None:
    model, pairs = Doubled(smooth_network()).eval(), random_pairs(100)
    _, host = in_between_record(model, *pairs)
    _, device = in_between_record(model.cuda(), *(each.cuda() for each in pairs))
    assert device["miss"] == host["miss"]
    assert device["gradient_norm"] == pytest.approx(host["gradient_norm"], rel=1e-5)
