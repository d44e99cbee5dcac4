"""The kinds of evaluation that a suite may ask for. Each is a record of its own in the trial's folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from bench.evaluation.metrics import brier, ece, nll, reliability_bins, top1_error, topk_error

Record = dict[str, Any]


def clean(logits: Tensor, labels: Tensor) -> Record:
    """Error and NLL on the test images as they are. logits: (n, K).  labels: (n,)."""
    metrics = {"test_error": top1_error(logits, labels), "test_nll": nll(logits, labels)}
    if logits.shape[1] > 10:
        metrics["test_top5_error"] = topk_error(logits, labels, 5)
    return {"version": 1, "options": {}, "metrics": metrics, "detail": {}}


def calibration(logits: Tensor, labels: Tensor) -> Record:
    """ECE with 15 equal-width bins, Brier score, and the bins of the reliability diagram."""
    probs = logits.double().softmax(1)
    metrics = {"test_ece": ece(probs, labels), "test_brier": brier(probs, labels)}
    return {
        "version": 1,
        "options": {"num_bins": 15},
        "metrics": metrics,
        "detail": {"bins": reliability_bins(probs, labels)},
    }


EVALUATIONS: dict[str, Callable[[Tensor, Tensor], Record]] = {"clean": clean, "calibration": calibration}
