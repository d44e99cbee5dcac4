"""Error, likelihood and calibration of a classifier's predictions.

Every function takes scores (n, K), logits or probabilities, and labels (n,) int64 in [0, K), and raises
ValueError for other shapes and for n == 0.  Sums run in float64, so that reordering the examples changes
nothing but a double's last digit.
"""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor


class ReliabilityBin(TypedDict):
    """The examples whose confidence lies in (lower, upper]; the means are None where there are none."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


def top1_error(logits: Tensor, labels: Tensor) -> float:
    """Fraction of examples whose largest logit is not the label's; among equals the first class counts."""
    _check(logits, labels)
    return (logits.argmax(1) != labels).double().mean().item()


def topk_error(logits: Tensor, labels: Tensor, k: int) -> float:
    """Fraction of examples whose label is not among the k largest logits; among equals the first classes count.

    Raises ValueError unless 1 <= k <= K.
    """
    _check(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k = {k}: must lie between 1 and the number of classes, {logits.shape[1]}")
    # A stable sort, because topk may break ties differently on each device, and bf16 logits do tie.
    top = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return (top != labels[:, None]).all(1).double().mean().item()


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the label under softmax(logits), in nats."""
    _check(logits, labels)
    return F.cross_entropy(logits.double(), labels).item()


def brier(probs: Tensor, labels: Tensor) -> float:
    """Squared distance of probs from the one-hot label, summed over classes, mean over examples: in [0, 2].

    Source: Brier 1950.  For two classes it is twice the form that looks at one class only.
    """
    _check(probs, labels)
    distance = probs.double() - F.one_hot(labels, probs.shape[1])
    return distance.square().sum(1).mean().item()


def ece(probs: Tensor, labels: Tensor, *, num_bins: int = 15) -> float:
    """Expected calibration error of the top-1 prediction, a fraction in [0, 1].

    Equal-width right-closed bins on (0, 1]; an empty bin contributes 0.
    Source: Guo et al. 2017, sec. 2 (their M is num_bins).
    """
    _, confidence, correct = _bin_sums(probs, labels, num_bins)
    return (confidence - correct).abs().sum().item() / len(labels)


def reliability_bins(probs: Tensor, labels: Tensor, *, num_bins: int = 15) -> list[ReliabilityBin]:
    """The bins of `ece`, from low to high: mean confidence and accuracy of the top-1 prediction in each."""
    count, confidence, correct = (sums.tolist() for sums in _bin_sums(probs, labels, num_bins))
    return [
        {
            "lower": i / num_bins,
            "upper": (i + 1) / num_bins,
            "count": count[i],
            "confidence": confidence[i] / count[i] if count[i] else None,
            "accuracy": correct[i] / count[i] if count[i] else None,
        }
        for i in range(num_bins)
    ]


def _bin_sums(probs: Tensor, labels: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per bin, (num_bins,) each: the number of examples, their summed confidence, and how many are correct."""
    _check(probs, labels)
    confidence, predicted = (each.cpu() for each in probs.max(1))  # a weighted bincount on CUDA is not repeatable
    # Edges in the dtype of the confidence: only then is a float32 0.2 on the edge 3/15, and not above it.
    edges = torch.arange(1, num_bins, dtype=confidence.dtype) / num_bins
    which = torch.bucketize(confidence, edges)
    correct = (predicted == labels.cpu()).double()
    return (
        which.bincount(minlength=num_bins),
        which.bincount(confidence.double(), minlength=num_bins),
        which.bincount(correct, minlength=num_bins),
    )


def _check(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"expected scores (n, K) and labels (n,), got {tuple(scores.shape)} and {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("no examples (n = 0): the mean over none is undefined")
