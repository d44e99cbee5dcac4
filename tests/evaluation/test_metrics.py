"""Metrics against scikit-learn, and calibration against cases worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve
from torch import Tensor

from bench.evaluation.metrics import brier, ece, nll, reliability_bins, top1_error, topk_error

ALL: dict[str, Callable[[Tensor, Tensor], float]] = {
    "top1_error": top1_error,
    "top2_error": lambda scores, labels: topk_error(scores, labels, 2),
    "nll": nll,
    "brier": brier,
    "ece": ece,
}


@pytest.fixture(params=[(2, 50), (3, 400), (20, 1000)], ids=lambda shape: f"K{shape[0]}-n{shape[1]}")
def predictions(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Logits (n, K) in float64, and labels that they predict better than chance."""
    num_classes, n = request.param
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(num_classes, size=n)
    logits = rng.normal(size=(n, num_classes)) * 2
    logits[np.arange(n), labels] += 1.5
    return torch.from_numpy(logits), torch.from_numpy(labels)


def two_class(confidences: list[float], correct: list[bool], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Probabilities whose top-1 class is always 0, with the given confidence; the label is 0 where correct."""
    top = torch.tensor(confidences, dtype=dtype)
    return torch.stack([top, 1 - top], dim=1), torch.tensor([0 if right else 1 for right in correct])


# Against scikit-learn


def test_errors_agree_with_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    classes = range(logits.shape[1])
    accuracy = sklearn_metrics.accuracy_score(labels, logits.argmax(1))
    assert top1_error(logits, labels) == pytest.approx(1 - accuracy, abs=1e-12)
    for k in range(1, len(classes)):
        if len(classes) > 2:
            in_top = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=classes)
            assert topk_error(logits, labels, k) == pytest.approx(1 - in_top, abs=1e-12)
    assert topk_error(logits, labels, len(classes)) == 0


def test_nll_agrees_with_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    expected = sklearn_metrics.log_loss(labels, logits.softmax(1), labels=range(logits.shape[1]))
    assert nll(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_of_two_classes_is_twice_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    positive, labels = rng.random(200), rng.integers(2, size=200)
    probs = torch.from_numpy(np.stack([1 - positive, positive], axis=1))
    expected = 2 * sklearn_metrics.brier_score_loss(labels, positive)
    assert brier(probs, torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-12)


def test_bins_agree_with_scikit_learns_calibration_curve(predictions: tuple[Tensor, Tensor]) -> None:
    """Whether the top class is right is a binary outcome, predicted by the confidence."""
    logits, labels = predictions
    probs = logits.softmax(1)
    confidence, predicted = probs.max(1)
    accuracies, confidences = calibration_curve(predicted == labels, confidence, n_bins=10)
    filled = [each for each in reliability_bins(probs, labels, num_bins=10) if each["count"]]
    assert [each["accuracy"] for each in filled] == pytest.approx(list(accuracies), rel=1e-12)
    assert [each["confidence"] for each in filled] == pytest.approx(list(confidences), rel=1e-12)


# By hand


def test_brier_of_three_classes_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    # (0.25 + 0.0625 + 0.0625), exactly right, and as wrong as can be
    assert brier(probs, torch.tensor([0, 2, 1])) == pytest.approx((0.375 + 0 + 2) / 3, rel=1e-12)


def test_nll_of_uniform_logits_is_log_k() -> None:
    assert nll(torch.zeros(5, 8), torch.arange(5)) == pytest.approx(math.log(8), rel=1e-12)


def test_nll_of_an_extreme_logit_is_finite() -> None:
    assert nll(torch.tensor([[0.0, 1e4]]), torch.tensor([0])) == pytest.approx(1e4)


def test_ties_go_to_the_first_class() -> None:
    logits, labels = torch.zeros(4, 4), torch.arange(4)
    assert top1_error(logits, labels) == 0.75
    assert [topk_error(logits, labels, k) for k in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 0]


def test_ece_by_hand() -> None:
    # In (0.6, 0.8]: 0.7 right, 0.75 wrong, so |1 - 1.45| = 0.45.  In (0.8, 1]: 0.9 and 0.95 right: 0.15.
    probs, labels = two_class([0.7, 0.75, 0.9, 0.95], [True, False, True, True], torch.float64)
    assert ece(probs, labels, num_bins=5) == pytest.approx((0.45 + 0.15) / 4, rel=1e-12)


def test_ece_with_one_bin_is_the_gap_between_mean_confidence_and_accuracy() -> None:
    probs, labels = two_class([0.7, 0.75, 0.9, 0.95], [True, False, True, True], torch.float64)
    assert ece(probs, labels, num_bins=1) == pytest.approx(0.825 - 0.75, rel=1e-12)


def test_over_and_underconfidence_cancel_within_a_bin_only() -> None:
    probs, labels = two_class([0.9, 0.9], [True, False], torch.float64)
    assert ece(probs, labels) == pytest.approx(0.9 - 0.5, rel=1e-12)
    probs, labels = two_class([0.55, 0.95], [True, False], torch.float64)
    assert ece(probs, labels) == pytest.approx((0.45 + 0.95) / 2, rel=1e-12)


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
    assert ece(probs, labels) == 0.25


def test_empty_bins_have_no_means() -> None:
    probs, labels = two_class([0.9], [True], torch.float64)
    bins = reliability_bins(probs, labels, num_bins=2)
    assert bins[0] == {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None}


def test_bins_hold_every_example_and_give_the_ece(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    bins = reliability_bins(logits.softmax(1), labels)
    assert sum(each["count"] for each in bins) == len(labels)
    gaps = [
        each["count"] * abs(each["confidence"] - each["accuracy"])
        for each in bins
        if each["confidence"] is not None and each["accuracy"] is not None
    ]
    assert ece(logits.softmax(1), labels) == pytest.approx(sum(gaps) / len(labels), rel=1e-12)


def test_perfectly_calibrated_predictions_have_no_ece() -> None:
    probs, labels = two_class([0.75] * 4, [True, True, True, False], torch.float32)
    assert ece(probs, labels) == 0


# Properties


@pytest.mark.parametrize("name", ALL)
def test_order_does_not_matter(name: str, predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    scores = logits.softmax(1).float()
    perm = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    assert ALL[name](scores[perm], labels[perm]) == pytest.approx(ALL[name](scores, labels), rel=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_no_examples_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="n = 0"):
        ALL[name](torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("labels", [torch.zeros(4, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)])
def test_labels_of_another_shape_are_an_error(name: str, labels: Tensor) -> None:
    """(n, 1) would broadcast against (n,) and give a number without a meaning."""
    with pytest.raises(ValueError, match=r"labels \(n,\)"):
        ALL[name](torch.zeros(4, 3), labels)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_classes_is_an_error(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        topk_error(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), k)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.dirichlet(np.ones(10), size=1000))
    labels = torch.from_numpy(rng.integers(10, size=1000))
    for metric in ALL.values():
        assert metric(scores.cuda(), labels.cuda()) == pytest.approx(metric(scores, labels), rel=1e-12)
