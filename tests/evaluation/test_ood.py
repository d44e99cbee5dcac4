"""OOD figures against scikit-learn, noise against its distribution, and resized images against Pillow."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import special, stats
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from bench.evaluation.ood import NOISE, aupr, auroc, fit_to, fpr_at_tpr, noise_images, ood_record, ood_scores


def fpr95(in_scores: Tensor, out_scores: Tensor) -> float:
    return fpr_at_tpr(in_scores, out_scores, tpr=0.95)


FIGURES: dict[str, Callable[[Tensor, Tensor], float]] = {"auroc": auroc, "aupr": aupr, "fpr95": fpr95}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def joined(in_scores: Tensor, out_scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """As scikit-learn wants them: what is in-distribution, and the scores."""
    return np.repeat([1, 0], [len(in_scores), len(out_scores)]), torch.cat([in_scores, out_scores]).double().numpy()


def scikit_learns_fpr(in_scores: Tensor, out_scores: Tensor, tpr: float) -> float:
    false, true, _ = sklearn_metrics.roc_curve(*joined(in_scores, out_scores), drop_intermediate=False)
    return float(false[true >= tpr].min())


@pytest.fixture(params=["distinct", "rounded", "bfloat16", "saturated"])
def ties(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    """What makes scores coincide: nothing, coarse rounding, few bits, or most of them at their upper end."""
    make: dict[str, Callable[[Tensor], Tensor]] = {
        "distinct": lambda scores: scores,
        "rounded": lambda scores: scores.round(),
        "bfloat16": lambda scores: scores.bfloat16(),
        "saturated": lambda scores: scores.clamp(max=0),
    }
    return make[request.param]


@pytest.fixture(
    params=[(1, 1), (1, 20), (20, 1), (19, 30), (100, 37), (797, 2000)], ids=lambda p: f"in{p[0]}-out{p[1]}"
)
def scores(request: pytest.FixtureRequest, ties: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(request.param)
    inside, outside = (torch.from_numpy(rng.normal(loc, 1.5, n)) for loc, n in zip((1, 0), request.param, strict=True))
    return ties(inside), ties(outside)


# Against scikit-learn


def test_auroc_agrees_with_scikit_learn(scores: tuple[Tensor, Tensor]) -> None:
    assert auroc(*scores) == pytest.approx(sklearn_metrics.roc_auc_score(*joined(*scores)), abs=1e-12)


def test_aupr_agrees_with_scikit_learn(scores: tuple[Tensor, Tensor]) -> None:
    assert aupr(*scores) == pytest.approx(sklearn_metrics.average_precision_score(*joined(*scores)), abs=1e-12)


@pytest.mark.parametrize("tpr", [0.05, 0.5, 0.8, 0.95, 1])
def test_fpr_agrees_with_scikit_learn(scores: tuple[Tensor, Tensor], tpr: float) -> None:
    assert fpr_at_tpr(*scores, tpr=tpr) == pytest.approx(scikit_learns_fpr(*scores, tpr), abs=1e-12)


few_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=25).map(lambda values: tensor(*values))


@settings(max_examples=300, deadline=None)
@given(few_scores, few_scores)
def test_the_figures_agree_with_scikit_learn_among_many_ties(inside: Tensor, outside: Tensor) -> None:
    both = joined(inside, outside)
    assert auroc(inside, outside) == pytest.approx(sklearn_metrics.roc_auc_score(*both), abs=1e-12)
    assert aupr(inside, outside) == pytest.approx(sklearn_metrics.average_precision_score(*both), abs=1e-12)
    assert fpr95(inside, outside) == pytest.approx(scikit_learns_fpr(inside, outside, 0.95), abs=1e-12)


# By hand


def test_the_figures_by_hand() -> None:
    inside, outside = tensor(3, 2, 1), tensor(2, 0)
    # of six pairs (3, 2) and all with 0 are in order, (2, 2) is a tie, (1, 2) the wrong way round
    assert auroc(inside, outside) == 4.5 / 6
    # precision 1 at 3, 2/3 at 2 together with the tie, 3/4 at 1
    assert aupr(inside, outside) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, rel=1e-15)
    # two thirds are kept at 2, and all only at 1
    assert fpr_at_tpr(inside, outside, tpr=0.5) == fpr95(inside, outside) == 0.5
    assert fpr_at_tpr(inside, outside, tpr=1 / 3) == 0


def test_the_figures_at_their_ends() -> None:
    low, high = tensor(*range(20)), tensor(*range(100, 140))
    assert [figure(high, low) for figure in FIGURES.values()] == [1, 1, 0]
    assert [auroc(low, high), fpr95(low, high)] == [0, 1]
    # the k-th of 20 to be found comes after 40 others
    assert aupr(low, high) == pytest.approx(np.mean([k / (40 + k) for k in range(1, 21)]), rel=1e-12)


def test_scores_that_are_all_equal_tell_nothing() -> None:
    inside, outside = torch.ones(30), torch.ones(10)
    assert [figure(inside, outside) for figure in FIGURES.values()] == [0.5, 0.75, 1]


@pytest.mark.parametrize("n", [20, 40, 100, 1_000, 10_000])
def test_exactly_95_percent_is_enough(n: int) -> None:
    """The lowest twentieth may go, and no example more."""
    inside, lost = torch.arange(n), n // 20
    assert fpr95(inside, tensor(lost - 1)) == 0
    assert fpr95(inside, tensor(lost)) == 1


def test_energy_and_msp_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 1e4], [-1e4, -1e4, -1e4, -1e4]])
    scores = ood_scores(logits)
    assert scores["msp"].tolist() == pytest.approx([0.25, 1, 0.25], rel=1e-12)
    assert scores["energy"].tolist() == pytest.approx([np.log(4), 1e4, np.log(4) - 1e4], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_energy_and_msp_agree_with_scipy(dtype: torch.dtype) -> None:
    logits = (torch.from_numpy(np.random.default_rng(0).normal(size=(50, 10))) * 5).to(dtype)
    scores, z = ood_scores(logits), logits.double().numpy()
    assert scores["msp"].numpy() == pytest.approx(special.softmax(z, axis=1).max(1), rel=1e-12)
    assert scores["energy"].numpy() == pytest.approx(special.logsumexp(z, axis=1), rel=1e-12)


# Properties


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores, st.randoms(use_true_random=False))
def test_order_does_not_matter(inside: Tensor, outside: Tensor, random: object) -> None:
    shuffled = []
    for each in (inside, outside):
        values = each.tolist()
        random.shuffle(values)
        shuffled.append(tensor(*values))
    for figure in FIGURES.values():
        assert figure(*shuffled) == figure(inside, outside)


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores)
def test_only_the_ranks_matter(inside: Tensor, outside: Tensor) -> None:
    for figure in FIGURES.values():
        assert figure(inside.exp(), outside.exp()) == figure(inside, outside)


@settings(max_examples=100, deadline=None)
@given(few_scores, few_scores)
def test_the_roc_is_symmetric(inside: Tensor, outside: Tensor) -> None:
    assert auroc(inside, outside) + auroc(outside, inside) == pytest.approx(1, abs=1e-15)
    assert auroc(-outside, -inside) == auroc(inside, outside)


# Errors


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_side_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ValueError, match=r"no in-distribution examples \(n = 0\)"):
        FIGURES[name](torch.zeros(0), torch.zeros(3))
    with pytest.raises(ValueError, match=r"no OOD examples \(n = 0\)"):
        FIGURES[name](torch.zeros(3), torch.zeros(0))


@pytest.mark.parametrize("name", FIGURES)
def test_scores_of_another_shape_or_without_an_order_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"OOD scores \(n,\)"):
        FIGURES[name](torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="in-distribution scores that are not a number"):
        FIGURES[name](tensor(1, np.nan), torch.zeros(3))


@pytest.mark.parametrize("tpr", [0, -0.1, 1.01])
def test_a_tpr_that_is_no_share_is_an_error(tpr: float) -> None:
    with pytest.raises(ValueError, match="tpr"):
        fpr_at_tpr(torch.ones(3), torch.ones(3), tpr=tpr)


def test_logits_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"logits \(n, K\)"):
        ood_scores(torch.zeros(3))


# The record


def test_the_record() -> None:
    rng = np.random.default_rng(0)
    inside, outside = (torch.from_numpy(rng.normal(size=(n, 10)) * scale) for n, scale in ((60, 3), (40, 1)))
    metrics, detail = ood_record(inside, outside, set_name="svhn")
    assert set(metrics) == {f"ood_svhn_{f}_{d}" for f in ("auroc", "aupr", "fpr95") for d in ("msp", "energy")}
    assert detail == {"set": "svhn", "num_in": 60, "num_out": 40}
    assert json.loads(json.dumps([metrics, detail], allow_nan=False)) == [metrics, detail]
    both = joined(inside.softmax(1).amax(1), outside.softmax(1).amax(1))
    assert metrics["ood_svhn_auroc_msp"] == pytest.approx(sklearn_metrics.roc_auc_score(*both), abs=1e-12)
    both = joined(inside.logsumexp(1), outside.logsumexp(1))
    assert metrics["ood_svhn_aupr_energy"] == pytest.approx(sklearn_metrics.average_precision_score(*both), abs=1e-12)


def test_a_set_against_itself_is_chance() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 5)))
    metrics, _ = ood_record(logits, logits, set_name="itself")
    for detector in ("msp", "energy"):
        assert metrics[f"ood_itself_auroc_{detector}"] == 0.5
        assert metrics[f"ood_itself_fpr95_{detector}"] == 0.95


# Noise


def levels(kind: str) -> np.ndarray:
    """How often each occurs among 12 million values: enough to tell rounding to the nearest from rounding down."""
    images = noise_images(kind, 1000, (3, 64, 64), np.random.default_rng(0))
    return np.bincount(images.ravel(), minlength=256)


def test_uniform_noise_has_every_level_equally_often() -> None:
    assert stats.chisquare(levels("uniform_noise")).pvalue > 1e-3


def test_gaussian_noise_has_mean_a_half_and_unit_variance_before_it_is_clipped() -> None:
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    observed, probabilities = levels("gaussian_noise"), np.diff(stats.norm(0.5, 1).cdf(edges))
    assert stats.chisquare(observed, observed.sum() * probabilities).pvalue > 1e-3
    for end in (0, 255):  # with nearly a third of the values each
        assert stats.binomtest(int(observed[end]), int(observed.sum()), probabilities[end]).pvalue > 1e-3


@pytest.mark.parametrize("kind", NOISE)
def test_noise_images_depend_on_the_generator_alone(kind: str) -> None:
    images, again, fewer, other = (
        noise_images(kind, n, (1, 8, 9), np.random.default_rng(seed)) for n, seed in ((5, 0), (5, 0), (2, 0), (5, 1))
    )
    assert images.shape == (5, 1, 8, 9)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert np.array_equal(images[:2], fewer)
    assert not np.array_equal(images, other)


@pytest.mark.parametrize("kind", NOISE)
def test_pixels_and_channels_of_noise_are_independent(kind: str) -> None:
    images = noise_images(kind, 2000, (3, 2, 2), np.random.default_rng(0)).reshape(2000, 12)
    correlations = np.corrcoef(images, rowvar=False)[np.triu_indices(12, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(2000)  # of 66, at 4.5 standard errors


def test_an_unknown_noise_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from gaussian_noise, uniform_noise"):
        noise_images("salt", 1, (1, 2, 2), np.random.default_rng(0))


# Images of another data set


def draw_images(n: int, channels: int, height: int, width: int) -> np.ndarray:
    """Smooth in part, as photographs are, with every level in use."""
    rng = np.random.default_rng([n, channels, height, width])
    coarse = rng.integers(256, size=(n, channels, (height + 3) // 4, (width + 3) // 4))
    smooth = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :height, :width]
    return np.clip(smooth + rng.integers(-40, 40, size=smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "to"), [((28, 28), (8, 8)), ((32, 32), (28, 28)), ((28, 28), (32, 32)), ((9, 7), (16, 5))]
)
def test_sizes_are_matched_as_pillow_does(channels: int, size: tuple[int, int], to: tuple[int, int]) -> None:
    images = draw_images(3, channels, *size)
    fitted = fit_to(images, shape=(channels, *to))
    assert fitted.dtype == np.uint8
    assert fitted.shape == (3, channels, *to)
    for image, ours in zip(images.reshape(-1, *size), fitted.reshape(-1, *to), strict=True):
        pillows = np.asarray(Image.fromarray(image).resize(to[::-1], Image.Resampling.BILINEAR))
        assert np.abs(pillows.astype(int) - ours).max() <= 1  # Pillow rounds between the two directions


def test_colour_becomes_grey_as_in_pillow() -> None:
    images = draw_images(4, 3, 20, 20)
    fitted = fit_to(images, shape=(1, 20, 20))
    for image, ours in zip(images, fitted[:, 0], strict=True):
        pillows = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
        assert np.abs(pillows.astype(int) - ours).max() <= 1
        assert np.mean(pillows == ours) > 0.99


def test_grey_as_colour_stays_as_it_is_in_both_directions() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    colour = fit_to(grey, shape=(3, 16, 16))
    assert np.array_equal(colour, grey.repeat(3, axis=1))
    assert np.array_equal(fit_to(colour, shape=(1, 16, 16)), grey)


def test_red_green_and_blue_have_the_luma_of_bt601() -> None:
    pure = np.zeros((3, 3, 1, 1), dtype=np.uint8)
    pure[[0, 1, 2], [0, 1, 2]] = 255
    assert fit_to(pure, shape=(1, 1, 1)).ravel().tolist() == [76, 150, 29]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_that_shape_stay_as_they_are(channels: int) -> None:
    images = draw_images(1001, channels, 4, 5)  # more than are converted at a time
    images.flags.writeable = False  # as memory-mapped ones are
    assert np.array_equal(fit_to(images, shape=(channels, 4, 5)), images)


def test_antialiasing_sees_every_pixel() -> None:
    """Without it, bilinear interpolation to a quarter of the size looks at the middle two of every four columns."""
    striped = np.tile(np.array([0, 254, 254, 0], dtype=np.uint8), (1, 1, 32, 8))
    assert fit_to(striped, shape=(1, 8, 8))[0, 0, 2:-2, 2:-2] == pytest.approx(127, abs=32)


@pytest.mark.parametrize(("have", "want"), [(2, 3), (4, 1), (3, 2)])
def test_other_numbers_of_channels_are_an_error(have: int, want: int) -> None:
    with pytest.raises(ValueError, match=f"cannot turn {have} channels into {want}"):
        fit_to(np.zeros((1, have, 4, 4), dtype=np.uint8), shape=(want, 4, 4))
