"""Error and likelihood against scikit-learn, and cases worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from bench.evaluation.metrics import nll, top1_error, topk_error

ALL: dict[str, Callable[[Tensor, Tensor], float]] = {
    "top1_error": top1_error,
    "top2_error": lambda scores, labels: topk_error(scores, labels, 2),
    "nll": nll,
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


# By hand


def test_nll_of_uniform_logits_is_log_k() -> None:
    assert nll(torch.zeros(5, 8), torch.arange(5)) == pytest.approx(math.log(8), rel=1e-12)


def test_nll_of_an_extreme_logit_is_finite() -> None:
    assert nll(torch.tensor([[0.0, 1e4]]), torch.tensor([0])) == pytest.approx(1e4)


def test_ties_go_to_the_first_class() -> None:
    logits, labels = torch.zeros(4, 4), torch.arange(4)
    assert top1_error(logits, labels) == 0.75
    assert [topk_error(logits, labels, k) for k in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 0]


# Properties


@pytest.mark.parametrize("name", ALL)
def test_order_does_not_matter(name: str, predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    scores = logits.float()
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
