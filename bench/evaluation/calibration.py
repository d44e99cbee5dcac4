"""Calibration of a classifier's probabilities, and the temperature that mends most of it.

The figures take probs (n, K), rows that sum to 1, and labels (n,) int64 in [0, K), and raise ValueError for other
shapes and for n == 0.  Sums run in float64 on the host, so that reordering the examples changes nothing but a double's
last digits.  What each figure means, and what it cannot show, is in docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.evaluation.metrics import check_scores, nll

NUM_BINS = 15
"""As in Guo et al. 2017, sec. 5, and most papers since."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


class ReliabilityBin(TypedDict):
    """The examples whose confidence lies in (lower, upper]; the means are None where there are none."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class BrierDecomposition:
    """brier = reliability - resolution + uncertainty, each a sum over classes.

    reliability: squared distance of probability and frequency within bins, >= 0, lower is better.
    resolution: how far the predictions tell examples apart, higher is better; negative where they do worse than none.
    uncertainty: the Brier score of always predicting the frequencies of the labels, a property of these alone.
    """

    reliability: float
    resolution: float
    uncertainty: float


@dataclass(frozen=True)
class _Bins:
    """Yes-or-no forecasts in bins: forecast and outcome (0 or 1) are (n,) float64, and which is the bin of each.

    Of each bin: count, mean forecast, and frequency of the outcome; both are 0 where count is.
    """

    forecast: Tensor
    outcome: Tensor
    which: Tensor
    count: Tensor
    mean: Tensor
    frequency: Tensor


def ece(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error of the top-1 prediction, a fraction in [0, 1].

    Equal-width right-closed bins on (0, 1]; an empty bin contributes 0.
    Source: Guo et al. 2017, sec. 2 (their M is num_bins); Naeini et al. 2015.
    """
    return _mean_gap(_top1_bins(probs, labels, num_bins))


def adaptive_ece(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error of the top-1 prediction over bins with equally many examples, a fraction in [0, 1].

    The upper edge of bin i = 1..num_bins is the ceil(i n / num_bins)-th lowest confidence, and belongs to it.  Examples
    of one confidence share a bin, the lowest that would have held any of them, so that their order cannot matter; bins
    are then of unequal mass, and some may be empty.  With n <= num_bins, every confidence that occurs is its own bin.
    Source: Nguyen and O'Connor 2015 (adaptive binning); Nixon et al. 2019 bin so for each class instead.
    """
    confidence, correct = _top1(probs, labels)
    ranks = (torch.arange(1, num_bins) * len(labels) + num_bins - 1) // num_bins  # ceil, from 1 on
    edges = confidence.sort().values[ranks - 1]
    return _mean_gap(_bin(confidence, correct, edges))


def max_calibration_error(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Largest |accuracy - mean confidence| among the bins of `ece` that hold an example: one is enough to decide it.

    Source: Naeini et al. 2015 (MCE).
    """
    bins = _top1_bins(probs, labels, num_bins)
    return (bins.mean - bins.frequency).abs().max().item()


def classwise_ece(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Calibration error of all K probabilities: a fraction in [0, 1], but at most 2/K.

    For each class, all n examples are binned by that class's probability (equal-width right-closed bins; 0 falls in the
    first), and |frequency of the class - mean probability| is averaged over them; then the mean over classes.
    Source: Kull et al. 2019 (classwise-ECE), which is the SCE of Nixon et al. 2019.
    """
    check_scores(probs, labels)
    return sum(_mean_gap(bins) for bins in _class_bins(probs, labels, num_bins)) / probs.shape[1]


def overconfidence_error(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Over the bins of `ece`, the mean of confidence * max(confidence - accuracy, 0), weighted by examples, in [0, 1].

    Source: Thulasidasan et al. 2019 (OE).
    """
    bins = _top1_bins(probs, labels, num_bins)
    return (bins.count * bins.mean * (bins.mean - bins.frequency).relu()).sum().item() / len(labels)


def brier(probs: Tensor, labels: Tensor) -> float:
    """Squared distance of probs from the one-hot label, summed over classes, mean over examples: in [0, 2].

    Source: Brier 1950.  For two classes it is twice the form that looks at one class only.
    """
    check_scores(probs, labels)
    distance = probs.double() - F.one_hot(labels, probs.shape[1])
    return distance.square().sum(1).mean().item()


def brier_decomposition(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> BrierDecomposition:
    """The three parts of the Brier score; brier = reliability - resolution + uncertainty but for rounding.

    Each class is a yes-or-no forecast of its own, in equal-width right-closed bins of its probability, and the parts
    are summed over classes.  Murphy's parts add up only if all probabilities in a bin are equal.  What is missing
    otherwise, the variance of the probabilities within bins and their covariance with the outcome, counts towards the
    resolution here: resolution = Murphy's - variance + 2 covariance.
    Source: Murphy 1973; Stephenson et al. 2008, who call it the generalized resolution.
    """
    check_scores(probs, labels)
    reliability = resolution = uncertainty = 0.0
    for bins in _class_bins(probs, labels, num_bins):
        n, base = len(labels), bins.outcome.mean()
        within = bins.forecast - bins.mean[bins.which]
        covariance = (within * (bins.outcome - bins.frequency[bins.which])).sum()
        murphy = (bins.count * (bins.frequency - base).square()).sum()
        reliability += (bins.count * (bins.mean - bins.frequency).square()).sum().item() / n
        resolution += (murphy - within.square().sum() + 2 * covariance).item() / n
        uncertainty += (base * (1 - base)).item()
    return BrierDecomposition(reliability, resolution, uncertainty)


def reliability_bins(probs: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """The bins of `ece`, from low to high: mean confidence and accuracy of the top-1 prediction in each."""
    bins = _top1_bins(probs, labels, num_bins)
    return [
        {
            "lower": i / num_bins,
            "upper": (i + 1) / num_bins,
            "count": count,
            "confidence": mean if count else None,
            "accuracy": frequency if count else None,
        }
        for i, (count, mean, frequency) in enumerate(
            zip(bins.count.tolist(), bins.mean.tolist(), bins.frequency.tolist(), strict=True)
        )
    ]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [0.01, 100] for which softmax(logits / T) has the lowest mean NLL; the error does not depend on it.

    logits: (n, K), of examples that are not to be scored with it.  labels: (n,) int64 in [0, K).
    The NLL is convex in 1/T.  Where it falls all the way (every prediction right) T is the lower bound, where it rises
    all the way (every prediction wrong) the upper one, and 1 where T changes nothing (one class, or constant rows).
    Otherwise T is exact to about 12 digits.  Raises ValueError for other shapes, n == 0 and logits that are not finite.
    Source: Guo et al. 2017, sec. 4.2.
    """
    check_scores(logits, labels)
    if not logits.isfinite().all():
        raise ValueError("logits that are not finite: no temperature can be fitted to them")
    logits = logits.double()
    margins = logits - logits.gather(1, labels[:, None])  # to the label's logit: all <= 0 where the prediction is right
    if not margins.any():
        return 1.0
    low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)  # of log(1 / T)
    if _nll_slope(margins, math.exp(low))[0] >= 0:
        return MAX_TEMPERATURE
    if _nll_slope(margins, math.exp(high))[0] <= 0:
        return MIN_TEMPERATURE
    # Newton's method on the slope.  A step that leaves the bracket, or follows one that did not halve the slope, gives
    # way to bisection: so each pass halves the slope or the bracket, and about 45 halvings of the latter end it.
    x, previous = 0.0, math.inf
    while True:
        slope, curvature = _nll_slope(margins, math.exp(x))
        low, high = (low, x) if slope > 0 else (x, high)
        newton = x - slope / (curvature * math.exp(x)) if curvature > 0 else math.nan
        following = newton if low <= newton <= high and abs(slope) <= previous / 2 else (low + high) / 2
        if slope == 0 or abs(following - x) < 1e-13:
            return math.exp(-x)
        x, previous = following, abs(slope)


def calibration_record(
    test_logits: Tensor, test_labels: Tensor, *, val_logits: Tensor | None = None, val_labels: Tensor | None = None
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Metrics and detail of the evaluation `calibration`: the figures of this module at test, before and after scaling.

    All (n, K) and (n,).  The temperature is fitted on validation; without one, None or n == 0, there is neither a
    temperature nor any `_scaled` figure.  Raises ValueError for other shapes, or no test examples.
    """
    if (val_logits is None) != (val_labels is None):
        raise ValueError("validation needs both logits and labels, or neither")
    logits = test_logits.double()
    probs = logits.softmax(1)
    metrics: dict[str, float | None] = {f"test_{name}": value for name, value in _figures(probs, test_labels).items()}
    parts = asdict(brier_decomposition(probs, test_labels))
    metrics |= {f"test_brier_{part}": value for part, value in parts.items()}
    detail: dict[str, Any] = {
        "bins": reliability_bins(probs, test_labels),
        "bins_scaled": None,
        "temperature_fit": None,
    }
    if val_logits is not None and val_labels is not None and len(val_logits):
        temperature = fit_temperature(val_logits, val_labels)
        scaled = (logits / temperature).softmax(1)
        metrics |= {f"test_{name}_scaled": value for name, value in _figures(scaled, test_labels).items()}
        metrics |= {"temperature": temperature, "test_nll_scaled": nll(logits / temperature, test_labels)}
        detail |= {"bins_scaled": reliability_bins(scaled, test_labels), "temperature_fit": "validation"}
    return metrics, detail


def _figures(probs: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "ece": ece(probs, labels),
        "adaptive_ece": adaptive_ece(probs, labels),
        "max_ce": max_calibration_error(probs, labels),
        "classwise_ece": classwise_ece(probs, labels),
        "overconfidence": overconfidence_error(probs, labels),
        "brier": brier(probs, labels),
    }


def _top1(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The confidence of each prediction, and whether it is right: (n,) each, on the host."""
    check_scores(probs, labels)
    confidence, predicted = probs.max(1)
    return confidence.cpu(), (predicted == labels).cpu()


def _top1_bins(probs: Tensor, labels: Tensor, num_bins: int) -> _Bins:
    confidence, correct = _top1(probs, labels)
    return _bin(confidence, correct, _equal_width(num_bins, probs.dtype))


def _class_bins(probs: Tensor, labels: Tensor, num_bins: int) -> Iterator[_Bins]:
    """For each class in turn, its probability against whether the label is that class."""
    edges, labels = _equal_width(num_bins, probs.dtype), labels.cpu()
    for k, forecast in enumerate(probs.cpu().T.contiguous()):
        yield _bin(forecast, labels == k, edges)


def _equal_width(num_bins: int, dtype: torch.dtype) -> Tensor:
    """The inner edges, in the dtype of the probabilities: only then is a float32 0.2 on the edge 3/15, not above it."""
    return torch.arange(1, num_bins, dtype=dtype) / num_bins


def _bin(forecast: Tensor, outcome: Tensor, edges: Tensor) -> _Bins:
    which = torch.bucketize(forecast, edges)
    forecast, outcome = forecast.double(), outcome.double()
    num_bins = len(edges) + 1
    count = which.bincount(minlength=num_bins)
    filled = count.clamp(min=1)
    return _Bins(
        forecast,
        outcome,
        which,
        count=count,
        mean=which.bincount(forecast, minlength=num_bins) / filled,
        frequency=which.bincount(outcome, minlength=num_bins) / filled,
    )


def _mean_gap(bins: _Bins) -> float:
    """|mean forecast - frequency|, averaged over examples."""
    return (bins.count * (bins.mean - bins.frequency).abs()).sum().item() / len(bins.which)


def _nll_slope(margins: Tensor, inverse_temperature: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL by 1/T.  margins: (n, K), each logit less the label's."""
    probs = (margins * inverse_temperature).softmax(1)
    mean = (probs * margins).sum(1, keepdim=True)
    return mean.mean().item(), (probs * (margins - mean).square()).sum(1).mean().item()
