"""Calibration against torchmetrics, scikit-learn and scipy, and against cases worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from bench.evaluation.calibration import (
    adaptive_ece,
    brier,
    brier_decomposition,
    calibration_record,
    classwise_ece,
    ece,
    fit_temperature,
    max_calibration_error,
    overconfidence_error,
    reliability_bins,
)
from bench.evaluation.metrics import nll, top1_error

FIGURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "ece": ece,
    "adaptive_ece": adaptive_ece,
    "max_calibration_error": max_calibration_error,
    "classwise_ece": classwise_ece,
    "overconfidence_error": overconfidence_error,
    "brier": brier,
    "reliability": lambda probs, labels: brier_decomposition(probs, labels).reliability,
    "resolution": lambda probs, labels: brier_decomposition(probs, labels).resolution,
    "uncertainty": lambda probs, labels: brier_decomposition(probs, labels).uncertainty,
}


def draw_logits(n: int, num_classes: int, *, sharpness: float = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, K) in float64, and labels that they predict better than chance."""
    rng = np.random.default_rng([seed, n, num_classes])
    labels = rng.integers(num_classes, size=n)
    logits = rng.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += 1
    return torch.from_numpy(logits * sharpness), torch.from_numpy(labels)


@pytest.fixture(params=[(1, 3), (10, 2), (50, 2), (400, 3), (797, 10), (1000, 20)], ids=lambda p: f"n{p[0]}-K{p[1]}")
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=[0.2, 2.0, 10.0], ids=lambda sharpness: f"sharpness{sharpness:g}")
def sharpness(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(params=["float64", "float32", "bfloat16"])
def predictions(request: pytest.FixtureRequest, size: tuple[int, int], sharpness: float) -> tuple[Tensor, Tensor]:
    """Probabilities of logits that came in each precision: few hundred values, and many ties, for bfloat16.

    None is on an inner edge of a bin, where torchmetrics and we differ: see the tests of edges.
    """
    logits, labels = draw_logits(*size, sharpness=sharpness)
    return logits.to(getattr(torch, request.param)).double().softmax(1), labels


@pytest.fixture
def probs_and_labels() -> tuple[Tensor, Tensor]:
    logits, labels = draw_logits(500, 7)
    return logits.softmax(1), labels


def two_class(
    confidences: list[float], correct: list[bool], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Probabilities whose top-1 class is always 0, with the given confidence; the label is 0 where correct."""
    top = torch.tensor(confidences, dtype=dtype)
    return torch.stack([top, 1 - top], dim=1), torch.tensor([0 if right else 1 for right in correct])


def below_one(probs: Tensor, by: float = 2**-53) -> Tensor:
    """Torchmetrics has a bin of its own for 1, which is what a confident softmax rounds to."""
    return probs.clamp(max=1 - by)


# Against other libraries


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_and_mce_agree_with_torchmetrics(predictions: tuple[Tensor, Tensor], num_bins: int) -> None:
    probs, labels = predictions
    confidence, predicted = below_one(probs).max(1)
    correct = (predicted == labels).long()
    for ours, norm in ((ece, "l1"), (max_calibration_error, "max")):
        figure = ours(probs, labels, num_bins=num_bins)
        assert figure == pytest.approx(binary_calibration_error(confidence, correct, num_bins, norm).item(), abs=1e-12)
        # in float32 whatever it is given
        multiclass = multiclass_calibration_error(below_one(probs, 1e-7), labels, probs.shape[1], num_bins, norm)
        assert figure == pytest.approx(multiclass.item(), abs=2e-6)


def test_classwise_ece_is_the_mean_of_torchmetrics_binary_error(predictions: tuple[Tensor, Tensor]) -> None:
    probs, labels = predictions
    one_against_rest = [
        binary_calibration_error(column.contiguous(), (labels == k).long(), n_bins=15).item()
        for k, column in enumerate(below_one(probs).T)
    ]
    assert classwise_ece(probs, labels) == pytest.approx(np.mean(one_against_rest), abs=1e-12)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_on_an_edge_torchmetrics_bins_are_closed_on_the_other_side(num_bins: int) -> None:
    """Theirs are [lower, upper), and 1 has a bin of its own; just below the edge they agree with ours."""
    confidences, correct = [0.6, 0.65, 0.8, 0.85, 0.97, 1.0, 1.0], [False, True, True, False, False, True, True]
    probs, labels = two_class(confidences, correct)
    theirs = partial(binary_calibration_error, target=torch.tensor(correct).long(), n_bins=num_bins)
    for ours, norm in ((ece, "l1"), (max_calibration_error, "max")):
        on_edge, beside = (theirs(torch.tensor(confidences).double() - by, norm=norm).item() for by in (0, 1e-7))
        assert ours(probs, labels, num_bins=num_bins) == pytest.approx(beside, abs=1e-6)
        assert on_edge != pytest.approx(beside, abs=1e-3)


def test_bins_agree_with_scikit_learns_calibration_curve(predictions: tuple[Tensor, Tensor]) -> None:
    """Whether the top class is right is a binary outcome, predicted by the confidence."""
    probs, labels = predictions
    confidence, predicted = probs.max(1)
    accuracies, confidences = calibration_curve(predicted == labels, confidence, n_bins=15)
    filled = [each for each in reliability_bins(probs, labels) if each["count"]]
    assert [each["accuracy"] for each in filled] == pytest.approx(list(accuracies), rel=1e-12)
    assert [each["confidence"] for each in filled] == pytest.approx(list(confidences), rel=1e-12)


def test_overconfidence_from_scikit_learns_calibration_curve(predictions: tuple[Tensor, Tensor]) -> None:
    probs, labels = predictions
    confidence, predicted = (each.numpy() for each in probs.max(1))
    accuracies, confidences = calibration_curve(predicted == labels.numpy(), confidence, n_bins=15)
    counts = np.unique(np.ceil(confidence * 15), return_counts=True)[1]
    expected = np.average(confidences * np.maximum(confidences - accuracies, 0), weights=counts)
    assert overconfidence_error(probs, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 2, 8, 16])  # powers of two, whose quantiles numpy computes without rounding
def test_adaptive_ece_agrees_with_numpys_quantiles(predictions: tuple[Tensor, Tensor], num_bins: int) -> None:
    probs, labels = predictions
    confidence, predicted = (each.numpy() for each in probs.max(1))
    correct = predicted == labels.numpy()
    edges = np.quantile(confidence, np.arange(1, num_bins) / num_bins, method="inverted_cdf")
    which = np.digitize(confidence, edges, right=True)
    gaps = [abs(np.sum(confidence[which == i]) - np.sum(correct[which == i])) for i in range(num_bins)]
    assert adaptive_ece(probs, labels, num_bins=num_bins) == pytest.approx(sum(gaps) / len(labels), abs=1e-12)


def test_adaptive_ece_cuts_the_sorted_confidences_into_equal_parts() -> None:
    logits, labels = draw_logits(15 * 40, 5)
    confidence, predicted = (each.numpy() for each in logits.softmax(1).max(1))
    order = np.argsort(confidence)
    parts = np.array_split(np.stack([confidence, predicted == labels.numpy()])[:, order], 15, axis=1)
    expected = np.mean([abs(np.mean(part[0]) - np.mean(part[1])) for part in parts])
    assert adaptive_ece(logits.softmax(1), labels) == pytest.approx(expected, abs=1e-12)


def test_brier_agrees_with_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    probs, labels = predictions
    probs = probs / probs.sum(1, keepdim=True)
    expected = sklearn_metrics.brier_score_loss(labels, probs, labels=range(probs.shape[1]), scale_by_half=False)
    assert brier(probs, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_of_two_classes_is_twice_the_one_of_the_positive_class() -> None:
    rng = np.random.default_rng(0)
    positive, labels = rng.random(200), rng.integers(2, size=200)
    probs = torch.from_numpy(np.stack([1 - positive, positive], axis=1))
    expected = 2 * sklearn_metrics.brier_score_loss(labels, positive)
    assert brier(probs, torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-12)


# The decomposition of the Brier score


def test_the_parts_add_up_to_scikit_learns_brier_score(predictions: tuple[Tensor, Tensor]) -> None:
    probs, labels = predictions
    probs = probs / probs.sum(1, keepdim=True)
    expected = sklearn_metrics.brier_score_loss(labels, probs, labels=range(probs.shape[1]), scale_by_half=False)
    for num_bins in (1, 3, 15):
        parts = brier_decomposition(probs, labels, num_bins=num_bins)
        assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(expected, abs=1e-12)


def test_the_parts_follow_the_terms_of_stephenson(probs_and_labels: tuple[Tensor, Tensor]) -> None:
    probs, labels = (each.numpy() for each in probs_and_labels)
    reliability = resolution = uncertainty = 0.0
    for k in range(probs.shape[1]):
        p, y = probs[:, k], (labels == k).astype(float)
        which = np.ceil(p * 15)
        for b in np.unique(which):
            share, p_bin, y_bin = np.mean(which == b), p[which == b], y[which == b]
            reliability += share * (p_bin.mean() - y_bin.mean()) ** 2
            (variance, covariance), _ = np.cov(p_bin, y_bin, bias=True)
            resolution += share * ((y_bin.mean() - y.mean()) ** 2 - variance + 2 * covariance)
        uncertainty += np.var(y)
    parts = brier_decomposition(*probs_and_labels)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx(
        (reliability, resolution, uncertainty), abs=1e-13
    )


def test_the_decomposition_by_hand() -> None:
    # 4 of 5 right at 0.8, on either side of 1/2: calibrated.  Per class (0.8 - 0.5)^2 = 0.09 and 0.5 x 0.5 = 0.25.
    top = torch.tensor([0.8] * 5 + [0.2] * 5, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    probs = torch.stack([top, 1 - top], dim=1)
    parts = brier_decomposition(probs, labels)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx((0, 0.18, 0.5), abs=1e-15)
    assert brier(probs, labels) == pytest.approx(0.32)


def test_the_decomposition_of_perfect_predictions() -> None:
    labels = torch.arange(8) % 4
    for num_bins in (1, 15):  # in one bin it is the terms within bins that tell the classes apart
        parts = brier_decomposition(torch.eye(4)[labels], labels, num_bins=num_bins)
        assert (parts.reliability, parts.resolution, parts.uncertainty) == (0, 0.75, 0.75)


def test_predicting_the_frequencies_is_reliable_and_resolves_nothing() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    parts = brier_decomposition(torch.tensor([[0.5, 0.25, 0.25]]).expand(4, 3), labels)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == (0, 0, 0.625)


def test_misleading_predictions_have_negative_resolution() -> None:
    """In one bin with the right mean, and the wrong way round."""
    probs, labels = two_class([0.9, 0.1], [False, True])
    parts = brier_decomposition(probs, labels, num_bins=1)
    assert parts.reliability == pytest.approx(0, abs=1e-15)
    assert parts.resolution == pytest.approx(0.5 - 2 * 0.81)


# By hand


def test_brier_of_three_classes_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    # (0.25 + 0.0625 + 0.0625), exactly right, and as wrong as can be
    assert brier(probs, torch.tensor([0, 2, 1])) == pytest.approx((0.375 + 0 + 2) / 3, rel=1e-12)


def test_binned_errors_by_hand() -> None:
    # In (0.6, 0.8]: 0.7 right, 0.75 wrong, so |1 - 1.45| = 0.45 too confident.  In (0.8, 1]: 0.9 and 0.95 right: 0.15.
    probs, labels = two_class([0.7, 0.75, 0.9, 0.95], [True, False, True, True])
    assert ece(probs, labels, num_bins=5) == pytest.approx((0.45 + 0.15) / 4, rel=1e-12)
    assert max_calibration_error(probs, labels, num_bins=5) == pytest.approx(0.45 / 2, rel=1e-12)
    assert overconfidence_error(probs, labels, num_bins=5) == pytest.approx(0.725 * 0.225 / 2, rel=1e-12)
    # The second class' probabilities lie in (0.2, 0.4] and (0, 0.2], with the same gaps.
    assert classwise_ece(probs, labels, num_bins=5) == pytest.approx((0.45 + 0.15) / 4, rel=1e-12)


def test_ece_with_one_bin_is_the_gap_between_mean_confidence_and_accuracy() -> None:
    probs, labels = two_class([0.7, 0.75, 0.9, 0.95], [True, False, True, True])
    for figure in (ece, adaptive_ece, max_calibration_error):
        assert figure(probs, labels, num_bins=1) == pytest.approx(0.825 - 0.75, rel=1e-12)


def test_over_and_underconfidence_cancel_within_a_bin_only() -> None:
    assert ece(*two_class([0.9, 0.9], [True, False])) == pytest.approx(0.9 - 0.5, rel=1e-12)
    apart = two_class([0.55, 0.95], [True, False])
    assert ece(*apart) == pytest.approx((0.45 + 0.95) / 2, rel=1e-12)
    assert max_calibration_error(*apart) == pytest.approx(0.95, rel=1e-12)
    assert overconfidence_error(*apart) == pytest.approx(0.95 * 0.95 / 2, rel=1e-12)


@pytest.mark.parametrize("name", FIGURES)
def test_perfect_predictions(name: str) -> None:
    labels = torch.arange(10) % 5
    expected = 0.8 if name in ("resolution", "uncertainty") else 0
    assert FIGURES[name](torch.eye(5)[labels], labels) == pytest.approx(expected, abs=0, rel=1e-15)


@pytest.mark.parametrize("num_classes", [2, 3, 5, 10])  # 1/3 and 1/5 are edges
def test_uniform_predictions_of_balanced_classes_are_calibrated(num_classes: int) -> None:
    labels = torch.arange(4 * num_classes) % num_classes
    probs = torch.full((len(labels), num_classes), 1 / num_classes, dtype=torch.float64)
    for name in ("ece", "adaptive_ece", "max_calibration_error", "classwise_ece", "overconfidence_error"):
        assert FIGURES[name](probs, labels) == pytest.approx(0, abs=1e-15)
    assert brier(probs, labels) == pytest.approx(1 - 1 / num_classes)


def test_one_wrong_example() -> None:
    probs, labels = torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64), torch.tensor([1])
    assert ece(probs, labels) == adaptive_ece(probs, labels) == max_calibration_error(probs, labels) == 0.75
    assert overconfidence_error(probs, labels) == 0.75**2
    assert classwise_ece(probs, labels) == (0.75 + 0.75 + 0) / 3


def test_underconfidence_is_not_overconfidence() -> None:
    probs, labels = two_class([0.6, 0.7, 0.9], [True, True, True])
    assert overconfidence_error(probs, labels) == 0
    assert ece(probs, labels) == pytest.approx((0.4 + 0.3 + 0.1) / 3)


def test_a_class_that_is_neither_predicted_nor_there_only_dilutes_the_classwise_error() -> None:
    probs, labels = two_class([0.7, 0.75, 0.9, 0.95], [True, False, True, True])
    wider = torch.cat([probs, torch.zeros(4, 2)], dim=1)
    assert classwise_ece(wider, labels) == pytest.approx(classwise_ece(probs, labels) / 2, rel=1e-12)
    assert brier_decomposition(wider, labels) == brier_decomposition(probs, labels)


def test_a_class_that_is_never_predicted_counts_in_the_classwise_error() -> None:
    """Always 0 with certainty, where a quarter is class 1."""
    probs, labels = two_class([1.0] * 4, [True, True, True, False])
    assert classwise_ece(probs, labels) == 0.25


def test_adaptive_bins_keep_equal_confidences_together() -> None:
    # Split after the second: {0.6, 0.7} and {0.7, 0.9} without regard to ties.  Together, 0.7 is in the lower bin.
    confidences, correct = [0.6, 0.7, 0.7, 0.9], [True, True, False, False]
    probs, labels = two_class(confidences, correct)
    assert adaptive_ece(probs, labels, num_bins=2) == pytest.approx((0 + 0.9) / 4, abs=1e-12)


def test_with_fewer_examples_than_bins_every_confidence_is_a_bin() -> None:
    probs, labels = two_class([0.6, 0.7, 0.7, 0.9], [True, True, False, False])
    assert adaptive_ece(probs, labels, num_bins=15) == pytest.approx((0.4 + 0.4 + 0.9) / 4, rel=1e-12)


@pytest.mark.parametrize("n", [1, 14, 15])
def test_with_as_many_bins_as_examples_adaptive_ece_is_the_mean_distance_to_the_outcome(n: int) -> None:
    logits, labels = draw_logits(n, 4)
    confidence, predicted = logits.softmax(1).max(1)
    expected = (confidence - (predicted == labels).double()).abs().mean().item()
    assert adaptive_ece(logits.softmax(1), labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [5, 10, 15])
def test_a_confidence_on_an_edge_belongs_below_it(dtype: torch.dtype, num_bins: int) -> None:
    # 0.6 = 3/5 = 6/10 = 9/15 and 0.8 = 4/5 = 8/10 = 12/15: edges of each of the three.
    probs, labels = two_class([0.6, 0.8], [True, True], dtype)
    filled = [each for each in reliability_bins(probs, labels, num_bins=num_bins) if each["count"]]
    assert [each["upper"] for each in filled] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_just_above_an_edge_belongs_above_it(dtype: torch.dtype) -> None:
    above = torch.nextafter(torch.tensor(0.6, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    probs = torch.stack([above, 1 - above])[None]
    filled = [each for each in reliability_bins(probs, torch.tensor([0]), num_bins=5) if each["count"]]
    assert [each["lower"] for each in filled] == pytest.approx([0.6])


def test_confidence_one_falls_in_the_last_bin() -> None:
    probs, labels = two_class([1.0, 1.0, 1.0, 1.0], [True, True, True, False], torch.float32)
    bins = reliability_bins(probs, labels)
    assert [each["count"] for each in bins] == [0] * 14 + [4]
    assert bins[-1] == {"lower": 14 / 15, "upper": 1.0, "count": 4, "confidence": 1.0, "accuracy": 0.75}
    assert ece(probs, labels) == adaptive_ece(probs, labels) == max_calibration_error(probs, labels) == 0.25


def test_empty_bins_have_no_means() -> None:
    probs, labels = two_class([0.9], [True])
    bins = reliability_bins(probs, labels, num_bins=2)
    assert bins[0] == {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None}


def test_bins_hold_every_example_and_give_the_ece(predictions: tuple[Tensor, Tensor]) -> None:
    probs, labels = predictions
    bins = reliability_bins(probs, labels)
    assert sum(each["count"] for each in bins) == len(labels)
    gaps = [
        each["count"] * abs(each["confidence"] - each["accuracy"])
        for each in bins
        if each["confidence"] is not None and each["accuracy"] is not None
    ]
    assert ece(probs, labels) == pytest.approx(sum(gaps) / len(labels), rel=1e-12)


def test_perfectly_calibrated_predictions_have_no_ece() -> None:
    probs, labels = two_class([0.75] * 4, [True, True, True, False], torch.float32)
    assert ece(probs, labels) == adaptive_ece(probs, labels) == max_calibration_error(probs, labels) == 0


# The temperature


def scipys_temperature(logits: Tensor, labels: Tensor) -> float:
    z, y = logits.double().numpy(), labels.numpy()

    def loss(log_temperature: float) -> float:
        scaled = z / math.exp(log_temperature)
        return float(np.mean(special.logsumexp(scaled, axis=1) - scaled[np.arange(len(y)), y]))

    bounds = math.log(0.01), math.log(100)
    return math.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "num_classes"), [(20, 2), (400, 3), (797, 10), (1000, 100)])
def test_the_temperature_agrees_with_scipy(
    n: int, num_classes: int, dtype: torch.dtype, sharpness: float, seed: int
) -> None:
    logits, labels = draw_logits(n, num_classes, sharpness=sharpness, seed=seed)
    logits = logits.to(dtype)
    # a minimum is flat: scipy, which only compares losses, finds it to half of a double's digits
    assert fit_temperature(logits, labels) == pytest.approx(scipys_temperature(logits, labels), rel=1e-5)


@pytest.mark.parametrize("margin", [0.05, 1, 30, 90])
@pytest.mark.parametrize("right", [0.51, 0.6, 0.75, 0.99])
def test_the_temperature_of_one_margin_in_closed_form(margin: float, right: float) -> None:
    """With two classes whose logits always differ by the same, confidence must become accuracy."""
    labels = (torch.arange(100) >= round(100 * right)).long()
    logits = torch.tensor([[margin, 0]], dtype=torch.float64).repeat(100, 1)
    expected = margin / math.log(right / (1 - right))
    assert fit_temperature(logits, labels) == pytest.approx(min(expected, 100), rel=1e-12)


def test_outside_the_bounds_the_nearer_one_is_the_temperature() -> None:
    labels = (torch.arange(100) >= 60).long()
    for margin, bound in ((1e3, 100), (1e-3, 0.01)):
        assert fit_temperature(torch.tensor([[margin, 0.0]]).repeat(100, 1), labels) == bound


@pytest.mark.parametrize("margin", [1e-6, 1, 1e4])
def test_the_temperature_where_all_are_right_or_all_wrong(margin: float) -> None:
    logits = torch.tensor([[margin, 0.0, 0.0], [0.0, 0.0, margin]])
    assert fit_temperature(logits, torch.tensor([0, 2])) == 0.01
    assert fit_temperature(logits, torch.tensor([1, 1])) == 100


def test_one_wrong_among_many_right_keeps_the_temperature_inside() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    logits = torch.tensor([[20.0, 0.0]]).repeat(1000, 1)
    logits[0] = torch.tensor([0.0, 0.1])
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(scipys_temperature(logits, labels), rel=1e-5)
    assert 0.01 < temperature < 100


@pytest.mark.parametrize("logits", [torch.zeros(3, 1), torch.full((3, 1), 5.0), torch.zeros(3, 4), torch.ones(3, 4)])
def test_where_the_temperature_changes_nothing_it_is_one(logits: Tensor) -> None:
    assert fit_temperature(logits, torch.zeros(3, dtype=torch.int64)) == 1


def test_without_examples_there_is_no_temperature() -> None:
    with pytest.raises(ValueError, match="n = 0"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_have_no_temperature(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(torch.tensor([[0.0, value], [1.0, 0.0]]), torch.tensor([0, 0]))


finite_logits = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
    )
)


@settings(max_examples=200, deadline=None)
@given(finite_logits)
def test_no_other_temperature_has_a_lower_nll(example: tuple[list[list[float]], list[int]]) -> None:
    logits, labels = torch.tensor(example[0], dtype=torch.float64), torch.tensor(example[1])
    temperature = fit_temperature(logits, labels)
    assert 0.01 <= temperature <= 100
    best = nll(logits / temperature, labels)
    for other in (0.01, 0.1, 1, 10, 100, temperature * 1.01, temperature / 1.01):
        if 0.01 <= other <= 100:
            assert best <= nll(logits / other, labels) * (1 + 1e-12) + 1e-12


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.05, 20))
def test_scaled_logits_have_the_scaled_temperature(seed: int, factor: float) -> None:
    logits, labels = draw_logits(100, 4, seed=seed)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(example=finite_logits, temperature=st.floats(0.01, 100))
def test_a_temperature_never_changes_the_error(
    example: tuple[list[list[float]], list[int]], temperature: float
) -> None:
    logits, labels = torch.tensor(example[0], dtype=torch.float32), torch.tensor(example[1])
    assert top1_error(logits.double() / temperature, labels) == top1_error(logits, labels)


# The record

PLAIN = {
    "test_ece",
    "test_adaptive_ece",
    "test_max_ce",
    "test_classwise_ece",
    "test_overconfidence",
    "test_brier",
    "test_brier_reliability",
    "test_brier_resolution",
    "test_brier_uncertainty",
}
SCALED = {
    "temperature",
    "test_ece_scaled",
    "test_adaptive_ece_scaled",
    "test_max_ce_scaled",
    "test_classwise_ece_scaled",
    "test_overconfidence_scaled",
    "test_brier_scaled",
    "test_nll_scaled",
}


def test_the_record_without_validation() -> None:
    logits, labels = draw_logits(300, 5)
    nothing = {"val_logits": torch.zeros(0, 5), "val_labels": torch.zeros(0, dtype=torch.int64)}
    for validation in ({}, nothing):
        metrics, detail = calibration_record(logits, labels, **validation)
        assert set(metrics) == PLAIN
        assert detail == {
            "bins": reliability_bins(logits.softmax(1), labels),
            "bins_scaled": None,
            "temperature_fit": None,
        }


def test_the_record_with_validation() -> None:
    logits, labels = draw_logits(300, 5, sharpness=6)
    val_logits, val_labels = draw_logits(200, 5, sharpness=6, seed=1)
    metrics, detail = calibration_record(logits.float(), labels, val_logits=val_logits, val_labels=val_labels)
    assert set(metrics) == PLAIN | SCALED
    assert json.loads(json.dumps([metrics, detail], allow_nan=False)) == [metrics, detail]
    assert metrics["temperature"] == fit_temperature(val_logits, val_labels)
    scaled = (logits.float().double() / metrics["temperature"]).softmax(1)
    assert metrics["test_ece_scaled"] == ece(scaled, labels)
    assert metrics["test_nll_scaled"] == nll(scaled.log(), labels)
    assert detail["temperature_fit"] == "validation"
    assert detail["bins_scaled"] == reliability_bins(scaled, labels)
    # Sixfold logits are far too sure, and a temperature mends it.
    assert metrics["temperature"] > 3
    assert metrics["test_ece_scaled"] < metrics["test_ece"] / 3
    assert metrics["test_overconfidence_scaled"] < metrics["test_overconfidence"] / 3


def test_scaling_moves_the_confidence_but_not_the_accuracy() -> None:
    logits, labels = draw_logits(300, 5, sharpness=6)
    _, detail = calibration_record(logits, labels, val_logits=logits, val_labels=labels)
    right = [sum(each["count"] * (each["accuracy"] or 0) for each in detail[key]) for key in ("bins", "bins_scaled")]
    assert right == pytest.approx([300 * (1 - top1_error(logits, labels))] * 2)


def test_the_temperature_of_the_record_does_not_see_the_test_set() -> None:
    validation = dict(zip(("val_logits", "val_labels"), draw_logits(200, 5, seed=1), strict=True))
    temperatures = {calibration_record(*draw_logits(50, 5, seed=s), **validation)[0]["temperature"] for s in range(3)}
    assert len(temperatures) == 1


def test_validation_is_given_whole() -> None:
    logits, labels = draw_logits(10, 3)
    with pytest.raises(ValueError, match="both"):
        calibration_record(logits, labels, val_logits=logits)


# Properties


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 100), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_order_does_not_matter(seed: int, n: int, dtype: torch.dtype) -> None:
    """Nor does it among ties, of which bfloat16 has many."""
    logits, labels = draw_logits(n, 4, seed=seed)
    probs = logits.to(dtype).double().softmax(1)
    perm = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    for name, figure in FIGURES.items():
        assert figure(probs[perm], labels[perm]) == pytest.approx(figure(probs, labels), rel=1e-12, abs=1e-15), name
    assert fit_temperature(logits[perm], labels[perm]) == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 100))
def test_the_names_of_the_classes_do_not_matter(seed: int, n: int) -> None:
    logits, labels = draw_logits(n, 5, seed=seed)
    renamed = torch.from_numpy(np.random.default_rng(seed).permutation(5))
    probs = logits.softmax(1)
    for name, figure in FIGURES.items():
        assert figure(probs[:, renamed], renamed.argsort()[labels]) == pytest.approx(figure(probs, labels)), name


@pytest.mark.parametrize("name", FIGURES)
def test_no_examples_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="n = 0"):
        FIGURES[name](torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("labels", [torch.zeros(4, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)])
def test_labels_of_another_shape_are_an_error(name: str, labels: Tensor) -> None:
    """(n, 1) would broadcast against (n,) and give a number without a meaning."""
    with pytest.raises(ValueError, match=r"labels \(n,\)"):
        FIGURES[name](torch.zeros(4, 3), labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same() -> None:
    logits, labels = draw_logits(1000, 10)
    for name, figure in FIGURES.items():
        probs = logits.softmax(1)
        assert figure(probs.cuda(), labels.cuda()) == pytest.approx(figure(probs, labels), rel=1e-12), name
    assert fit_temperature(logits.cuda(), labels.cuda()) == pytest.approx(fit_temperature(logits, labels), rel=1e-9)
