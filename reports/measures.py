"""Every figure that a trial can have: what it is called, its unit, and whether less of it is better.

The one place for all of this. To add a figure: a line in MEASURES, or a pattern where its name has parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reports.formats import number

Better = Literal["lower", "higher", "neither"]
Unit = Literal["%", "nats", ""]

SCALED = "_scaled"
"""What ends the names of figures after temperature scaling."""

ROUNDING = 1e-12
"""A smaller spread is none, but for rounding."""

ATTACKS = {"fgsm": "FGSM", "i_fgsm": "I-FGSM", "pgd": "PGD"}
NORMS = {"linf": "L\N{INFINITY}", "l2": "L2"}
SCORES = {"msp": "MSP", "energy": "energy"}
SCORES_IN_WORDS = "MSP is the probability of the predicted class, energy the log-sum-exp of the logits"


@dataclass(frozen=True)
class Measure:
    """One figure.

    title: as tables and axes have it.  phrase: as a sentence has it.  unit: "%" stands for a fraction in [0, 1], shown
    in percent, whose differences are in percentage points.  better: which way is good; some have no good way.
    """

    name: str
    title: str
    phrase: str
    unit: Unit = "%"
    better: Better = "lower"

    @property
    def scale(self) -> int:
        """What to multiply a value by to show it."""
        return 100 if self.unit == "%" else 1

    @property
    def label(self) -> str:
        """Title and unit, for axes and the heads of columns."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def points(self) -> str:
        """What a difference is counted in, in a sentence after a number; "" for a plain number."""
        return "points" if self.unit == "%" else self.unit

    @property
    def difference_label(self) -> str:
        """As `label`, for a difference."""
        unit = "percentage points" if self.unit == "%" else self.unit
        return f"difference in {self.title} ({unit})" if unit else f"difference in {self.title}"

    def digits(self, spread: float) -> int:
        """Decimals that leave this spread (sd or half an interval) two digits: 1 to 3 in percent, else 2 to 4."""
        least = 1 if self.unit == "%" else 2
        if not spread > ROUNDING:
            return least + 1
        return min(least + 2, max(least, 1 - math.floor(math.log10(self.scale * spread))))

    def text(self, value: float, digits: int, *, signed: bool = False) -> str:
        """A value or a difference without its unit."""
        return number(self.scale * value, digits, signed=signed)

    def amount(self, value: float, digits: int) -> str:
        """A value with its unit, such as "4.3 %" or "0.21 nats"."""
        return " ".join(filter(None, [self.text(value, digits), self.unit]))


def measure(name: str) -> Measure:
    """What is known of the figure of this name. Raises ValueError where nothing is."""
    if name in MEASURES:
        return MEASURES[name]
    if name.endswith(SCALED) and (name.removesuffix(SCALED)) in MEASURES:
        plain = MEASURES[name.removesuffix(SCALED)]
        after = "after temperature scaling"
        return Measure(name, f"{plain.title}, scaled", f"{plain.phrase}, {after}", plain.unit, plain.better)
    for pattern, made in PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            return made(match)
    raise ValueError(f"{name!r} is no known figure; it needs a line in MEASURES or PATTERNS")


def _listed(*measures: Measure) -> dict[str, Measure]:
    return {each.name: each for each in measures}


MEASURES = _listed(
    Measure("test_error_last", "test error", "test error after the last epoch"),
    Measure("test_error_val_selected", "test error", "test error at the epoch that validation selects"),
    Measure("test_error_median10", "test error", "median test error of the last ten epochs"),
    Measure(
        "test_error_oracle",
        "test error",
        "test error at the epoch that is best on the test set (oracle: chosen on test data)",
    ),
    Measure("test_error", "test error", "test error of the final weights"),
    Measure("test_top5_error", "top-5 test error", "top-5 test error of the final weights"),
    Measure("val_error_last", "validation error", "validation error after the last epoch"),
    Measure("val_error_best", "validation error", "validation error at the epoch that validation selects"),
    Measure("train_error_mixed", "training error, as trained", "training error on the batches that were trained on"),
    Measure("weight_norm", "weight norm", "L2 norm of all parameters", "", "neither"),
    Measure("lam_mean", "mean lam", "mean of the mixing weights lam", "", "neither"),
    Measure("mixed_share", "mixed batches", "share of the batches that were mixed", "%", "neither"),
    Measure("equal_class_share", "pairs of one class", "share of mixed pairs whose labels are equal", "%", "neither"),
    Measure("train_error", "training error", "training error of the final weights"),
    Measure("train_error_clean_labels", "training error, right labels", "training error on rightly labelled images"),
    Measure("train_error_wrong_labels", "training error, wrong labels", "training error on wrongly labelled images"),
    Measure("test_nll", "NLL", "mean negative log-likelihood (NLL) on the test set", "nats"),
    Measure("test_ece", "ECE", "expected calibration error (ECE)"),
    Measure("test_adaptive_ece", "adaptive ECE", "adaptive calibration error"),
    Measure("test_max_ce", "maximum CE", "maximum calibration error"),
    Measure("test_classwise_ece", "classwise ECE", "classwise calibration error"),
    Measure("test_overconfidence", "overconfidence", "overconfidence error"),
    Measure("test_brier", "Brier score", "Brier score", ""),
    Measure("test_brier_reliability", "Brier reliability", "reliability part of the Brier score", ""),
    Measure("test_brier_resolution", "Brier resolution", "resolution part of the Brier score", "", "higher"),
    Measure("test_brier_uncertainty", "Brier uncertainty", "uncertainty part of the Brier score", "", "neither"),
    Measure("temperature", "temperature", "fitted temperature", "", "neither"),
    Measure("mean_corruption_error", "mean corruption error", "mean corruption error (unnormalised)"),
    Measure(
        "relative_corruption_error",
        "relative corruption error",
        "relative corruption error (mean corruption error minus clean error)",
    ),
    Measure(
        "extra_corruption_error",
        "error on extra corruptions",
        "mean error on the extra corruptions (for validation only)",
    ),
    Measure("in_between_miss_half", "misses at lam 1/2", "share of misses halfway between two images"),
    Measure(
        "in_between_gradient_half",
        "gradient norm at lam 1/2",
        "gradient norm halfway between two images",
        "",
    ),
)


def _ood(match: re.Match[str]) -> Measure:
    other, figure, score = match["set"], match["figure"], SCORES[match["score"]]
    title = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR95"}[figure]
    against = f"against {other.replace('_', ' ')}"
    better: Better = "lower" if figure == "fpr95" else "higher"
    return Measure(match[0], f"{title} {against}, {score}", f"{title} {against} by {score}", "%", better)


def _attack(match: re.Match[str]) -> Measure:
    """The radius is in 1/255 of the pixels' range, whatever the norm."""
    attack = f"{ATTACKS[match['attack']]} {NORMS[match['norm']]} {match['epsilon']}/255"
    transferred = "transferred " if match["prefix"] == "transfer" else ""
    return Measure(match[0], f"error under {transferred}{attack}", f"test error under {transferred}{attack}")


PATTERNS: tuple[tuple[str, Callable[[re.Match[str]], Measure]], ...] = (
    (r"ood_(?P<set>.+)_(?P<figure>auroc|aupr|fpr95)_(?P<score>msp|energy)", _ood),
    (r"(?P<prefix>adv|transfer)_(?P<attack>fgsm|i_fgsm|pgd)_(?P<norm>linf|l2)_(?P<epsilon>[\d.e+-]+)_error", _attack),
)
