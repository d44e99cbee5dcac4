"""Error and likelihood of a classifier's predictions.

Every function takes logits (n, K) and labels (n,) int64 in [0, K), and raises ValueError for other shapes and for
n == 0.  Sums run in float64, so that reordering the examples changes nothing but a double's last digit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def top1_error(logits: Tensor, labels: Tensor) -> float:
    """Fraction of examples whose largest logit is not the label's; among equals the first class counts."""
    check_scores(logits, labels)
    return (logits.argmax(1) != labels).double().mean().item()


def topk_error(logits: Tensor, labels: Tensor, k: int) -> float:
    """Fraction of examples whose label is not among the k largest logits; among equals the first classes count.

    Raises ValueError unless 1 <= k <= K.
    """
    check_scores(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k = {k}: must lie between 1 and the number of classes, {logits.shape[1]}")
    # A stable sort, because topk may break ties differently on each device, and bf16 logits do tie.
    top = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return (top != labels[:, None]).all(1).double().mean().item()


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the label under softmax(logits), in nats."""
    check_scores(logits, labels)
    return F.cross_entropy(logits.double(), labels).item()


def check_scores(scores: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless scores, logits or probabilities, are (n, K) and labels (n,), with n >= 1."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"expected scores (n, K) and labels (n,), got {tuple(scores.shape)} and {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("no examples (n = 0): the mean over none is undefined")
