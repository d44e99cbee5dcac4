"""Paired comparisons with the baseline, and how sure they are.

Every arm is compared with the baseline of its cell over the seeds that both finished. All comparisons of a suite are
one family. The verdict goes by the paired t test, Holm-adjusted over the family as it was planned: a comparison that
cannot be made yet counts with p = 1, so that a failed trial never makes the others look better. Beside it stands the
exact sign-flip test, which assumes nothing about how differences are distributed but has a floor of 2/2^n.

Where the suite names the smallest effect that matters, a comparison is *practically equal* when two one-sided t tests
put the true difference on the near side of it both ways. Both questions, whether there is a difference and whether it
is one that matters, share one family and its 5 %: see `adjust` in bench/plan/sequential.py.

Figures that are not the suite's question are judged by `judge`: each is a family of its own, by the t test alone.

Where the suite adds seeds until a comparison is clear, their number depends on what they showed, and a t test of what
is there in the end would find too much. Then `rule` says when it was looked at: p and interval are those of
bench/plan/sequential.py, which hold at whatever look one stops. That is as true of a figure by which nobody decided to
stop. The sign-flip test has no such form here and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import special

from bench.plan.power import SIGNIFICANCE_LEVEL, seeds_needed, sign_flip_floor, smallest_holm_sign_flip_p
from bench.plan.sequential import (
    ROUNDING,
    Evidence,
    adjust,
    holm,
    look_level,
    paired_differences,
    progress,
    sequential_equality_p,
    sequential_evidence,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from bench.plan.plan import Plan
    from bench.plan.suite_file import StoppingRule

__all__ = [
    "BETTER",
    "NO_CLEAR_DIFFERENCE",
    "PRACTICALLY_EQUAL",
    "TOO_FEW_PAIRS",
    "WORSE",
    "Comparison",
    "Judgement",
    "PairedT",
    "Pairs",
    "compare",
    "detectable_effect",
    "equality_p",
    "holm",
    "interval_half_width",
    "judge",
    "paired_t",
    "pairs_of",
    "seeds_for_equality",
    "seeds_for_power",
    "seeds_needed",
    "settled_pairs",
    "sign_flip_p",
    "smallest_holm_sign_flip_p",
]

BETTER = "better"
WORSE = "worse"
PRACTICALLY_EQUAL = "practically equal"
NO_CLEAR_DIFFERENCE = "no clear difference"
TOO_FEW_PAIRS = "too few pairs"

CONFIDENCE = 0.95
POWER = 0.8
MAX_SEEDS = 1000
"""A difference that would take more seeds than this counts as none."""

EXACT_PAIRS = 32
"""Up to so many pairs the sign-flip test is exact: two halves of 2^16 sums each, matched by a sorted search."""

MONTE_CARLO_DRAWS = 99_999


@dataclass(frozen=True)
class Pairs:
    """What one arm and the baseline reached in one cell: the seeds that both finished, in the same order.

    goes_on: whether seeds are still being added to it.
    """

    cell: str
    arm: str
    errors: NDArray[np.float64]
    baseline_errors: NDArray[np.float64]
    planned: int
    goes_on: bool = False

    @property
    def differences(self) -> NDArray[np.float64]:
        """Arm minus baseline, 0 where they are equal but for rounding."""
        return paired_differences(self.errors, self.baseline_errors)


@dataclass(frozen=True)
class PairedT:
    """Mean and sd (n - 1) of the differences, 95 % interval of the mean, two-sided p; NaN where undefined."""

    mean: float
    sd: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline in one cell. Differences are arm minus baseline: below zero the arm is better.

    difference, difference_sd, low, high: over the pairs, in the metric's unit; low and high bound the 95 % t interval.
    t_p, holm_p: two-sided, before and after Holm's adjustment over the family. With a stopping rule t_p is the
        sequential p, the interval is that of its look, and there are no sign-flip p values.
    sign_flip_floor, sign_flip_holm_floor: the smallest values that the two above them can take with this many pairs.
    smallest_effect: the smallest difference that matters, in the metric's unit; NaN where the suite names none.
    equal_p, equal_holm_p: of the hypothesis that the true difference is at least this, one way or the other; the larger
        of two one-sided p values, before and after the adjustment that it shares with t_p. NaN without such an effect.
    verdict: better | worse, by holm_p at 0.05; else practically equal, by equal_holm_p at 0.05; else no clear
        difference; too few pairs where fewer than two exist.
    sign_flip: "agrees", "disagrees", or "cannot agree" where its floor alone is above 0.05; "" without a verdict, and
        where that is practically equal, of which the test can tell nothing.
    spread: "" as a rule; "identical" where every pair is equal, "constant" where all differ by the same amount. Then
        the t test is undefined and the sign-flip p takes its place in the family.
    seeds_for_clear_answer: for an unclear difference, how many seeds in all a t test of 80 % power would take if mean
        and sd stay as observed, or two one-sided ones. None where more than 1,000, where undefined, and where the
        verdict is clear.
    detectable_difference: for an unclear difference, the true one that so many pairs would find in 80 % of cases if
        the sd is as observed, in the metric's unit, at the level at which the family's open comparisons are tested.
        With a stopping rule that of the last look alone, so an upper bound. NaN where the verdict is clear.
    goes_on: as in Pairs.
    """

    cell: str
    arm: str
    planned: int
    pairs: int
    mean: float
    sd: float
    baseline_mean: float
    baseline_sd: float
    difference: float
    difference_sd: float
    low: float
    high: float
    t_p: float
    holm_p: float
    sign_flip_p: float
    sign_flip_floor: float
    sign_flip_holm_p: float
    sign_flip_holm_floor: float
    smallest_effect: float
    equal_p: float
    equal_holm_p: float
    verdict: str
    sign_flip: str
    spread: str
    seeds_for_clear_answer: int | None
    detectable_difference: float
    goes_on: bool

    @property
    def left_out(self) -> int:
        """Planned pairs of which one half or both did not finish."""
        return self.planned - self.pairs

    @property
    def has_faded(self) -> bool:
        """Whether the verdict rests on an earlier look, and the interval of the last one does not bear it out."""
        if self.verdict == PRACTICALLY_EQUAL:
            is_sequential = np.isnan(self.sign_flip_p)
            return bool(is_sequential and max(-self.low, self.high) >= self.smallest_effect)
        return bool((self.verdict == BETTER and self.high >= 0) or (self.verdict == WORSE and self.low <= 0))

    @property
    def is_negligible(self) -> bool:
        """Whether there is a clear difference, and as clearly one that does not matter."""
        return self.verdict in (BETTER, WORSE) and self.equal_holm_p <= SIGNIFICANCE_LEVEL

    @property
    def pair_mean(self) -> float:
        """The mean, by the name that it has in a Judgement."""
        return self.mean


@dataclass(frozen=True)
class Judgement:
    """One arm against the baseline in one cell, in a figure that is not the suite's question.

    difference, low, high: arm minus baseline over the pairs, with the 95 % t interval.  p, holm_p: two-sided, before
    and after Holm's adjustment over this figure's comparisons.  verdict: as in Comparison; "" where neither more nor
    less is better, and then there is no p.
    """

    cell: str
    arm: str
    planned: int
    pairs: int
    pair_mean: float
    baseline_mean: float
    difference: float
    low: float
    high: float
    p: float
    holm_p: float
    verdict: str

    @property
    def left_out(self) -> int:
        """Planned pairs of which one half or both have no result."""
        return self.planned - self.pairs

    @property
    def spread(self) -> str:
        """As in Comparison."""
        if self.pairs < 2 or self.verdict == TOO_FEW_PAIRS or not np.isnan(self.low):
            return ""
        return "constant" if self.difference else "identical"


def pairs_of(
    trials: pd.DataFrame, metric: str, *, cells: Sequence[str], arms: Sequence[str], baseline: str
) -> list[Pairs]:
    """Every planned comparison, cell by cell, in the order of `cells` and `arms`.

    trials: one row per planned trial with cell, arm, seed and the metric; NaN where there is no result. An arm or a
    baseline that a cell does not plan makes no comparison there; a seed counts as planned when both plan it.
    """
    conditions: dict[tuple[str, str], dict[int, float]] = {}
    columns = (trials[name].tolist() for name in ("cell", "arm", "seed", metric))
    for cell, arm, seed, value in zip(*columns, strict=True):
        conditions.setdefault((cell, arm), {})[seed] = value
    found = []
    for cell in cells:
        reference = conditions.get((cell, baseline))
        for arm in arms:
            errors = conditions.get((cell, arm))
            if arm == baseline or reference is None or errors is None:
                continue
            both = [(errors[seed], reference[seed]) for seed in sorted(errors.keys() & reference.keys())]
            values = np.asarray(both, dtype=np.float64).reshape(-1, 2)
            finished = values[~np.isnan(values).any(axis=1)]
            found.append(Pairs(cell, arm, finished[:, 0], finished[:, 1], planned=len(both)))
    return found


def settled_pairs(plan: Plan, metric_of: Mapping[str, float | None]) -> list[Pairs]:
    """The comparisons of a suite that adds seeds until they are clear, with the pairs by which that is decided."""
    return [
        Pairs(
            cell=each.cell,
            arm=each.arm,
            errors=np.asarray(each.values, dtype=np.float64),
            baseline_errors=np.asarray(each.baseline_values, dtype=np.float64),
            planned=len(each.wanted),
            goes_on=each.goes_on,
        )
        for each in progress(plan, metric_of)
    ]


def compare(
    family: Sequence[Pairs], *, rule: StoppingRule | None = None, smallest_effect: float | None = None
) -> list[Comparison]:
    """Judge all comparisons of a family together, in the order given.

    rule: of a suite that adds seeds until a comparison is clear.  smallest_effect: the smallest difference that
    matters, in the metric's unit.
    """
    tests = [paired_t(pairs.differences, rule=rule) for pairs in family]
    flips = [np.nan if rule else sign_flip_p(pairs.differences) for pairs in family]
    floors = [np.nan if rule else _reachable_floor(len(pairs.errors)) for pairs in family]
    evidence = [_evidence(pairs, test, rule=rule) for pairs, test in zip(family, tests, strict=True)]
    equal_ps = [_equality(pairs, rule=rule, smallest_effect=smallest_effect) for pairs in family]
    adjusted = adjust([each.p for each in evidence], equal_ps if smallest_effect else None)
    open_level = SIGNIFICANCE_LEVEL * adjusted.difference_share  # the step at which Holm stands now
    equal_level = SIGNIFICANCE_LEVEL * adjusted.equality_share
    flip_holm_ps = holm(flips)
    holm_floors = holm(floors)
    comparisons = []
    for index, (pairs, test) in enumerate(zip(family, tests, strict=True)):
        holm_p, equal_holm_p = float(adjusted.differences[index]), float(adjusted.equalities[index])
        verdict = _verdict(evidence[index].direction, holm_p=holm_p, equal_holm_p=equal_holm_p)
        n, is_unclear = len(pairs.errors), verdict == NO_CLEAR_DIFFERENCE and test.sd > 0
        test_level = look_level(n, rule, level=open_level) if rule and is_unclear else open_level
        comparisons.append(
            Comparison(
                cell=pairs.cell,
                arm=pairs.arm,
                planned=pairs.planned,
                pairs=len(pairs.errors),
                mean=_mean(pairs.errors),
                sd=_sd(pairs.errors),
                baseline_mean=_mean(pairs.baseline_errors),
                baseline_sd=_sd(pairs.baseline_errors),
                difference=test.mean,
                difference_sd=test.sd,
                low=test.low,
                high=test.high,
                t_p=evidence[index].p if rule else test.p,
                holm_p=holm_p,
                sign_flip_p=flips[index],
                sign_flip_floor=floors[index],
                sign_flip_holm_p=float(flip_holm_ps[index]),
                sign_flip_holm_floor=float(holm_floors[index]),
                smallest_effect=smallest_effect or np.nan,
                equal_p=equal_ps[index],
                equal_holm_p=equal_holm_p,
                verdict=verdict,
                sign_flip=""
                if rule
                else _agreement(verdict, p=float(flip_holm_ps[index]), floor=float(holm_floors[index])),
                spread="" if test.sd != 0 else "constant" if test.mean else "identical",
                seeds_for_clear_answer=_seeds_for_clear_answer(
                    test, n, level=open_level, smallest_effect=smallest_effect, equal_level=equal_level
                )
                if is_unclear
                else None,
                detectable_difference=test.sd * detectable_effect(n, level=test_level) if is_unclear else np.nan,
                goes_on=pairs.goes_on,
            )
        )
    return comparisons


def judge(
    family: Sequence[Pairs], *, better: Literal["lower", "higher", "neither"], rule: StoppingRule | None = None
) -> list[Judgement]:
    """Judge the comparisons of one secondary figure together, in the order given.

    p is the paired t test's, and the sign-flip test's where all pairs differ by the same amount.

    rule: as in `compare`.
    """
    tests = [paired_t(pairs.differences, rule=rule) for pairs in family]
    evidence = [_evidence(pairs, test, rule=rule) for pairs, test in zip(family, tests, strict=True)]
    ps = [np.nan if better == "neither" else each.p for each in evidence]
    sign = -1 if better == "higher" else 1
    return [
        Judgement(
            cell=pairs.cell,
            arm=pairs.arm,
            planned=pairs.planned,
            pairs=len(pairs.errors),
            pair_mean=_mean(pairs.errors),
            baseline_mean=_mean(pairs.baseline_errors),
            difference=test.mean,
            low=test.low,
            high=test.high,
            p=p,
            holm_p=float(holm_p),
            verdict="" if better == "neither" else _verdict(sign * each.direction, holm_p=float(holm_p)),
        )
        for pairs, test, each, p, holm_p in zip(family, tests, evidence, ps, holm(ps), strict=True)
    ]


def paired_t(differences: ArrayLike, *, rule: StoppingRule | None = None) -> PairedT:
    """The paired t test of the hypothesis that the mean difference is zero, with its 95 % interval.

    differences: (n,) float.  n = 0 gives NaN throughout, n = 1 a mean alone. Differences that are equal but for
    rounding have sd 0 and neither interval nor p: without spread there is nothing to measure the mean against.
    rule: makes the interval one of a series of which all hold the true mean in 95 % of cases; none before the first
    look. p stays that of n pairs that nobody looked at before.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = _mean(values)
    if n < 2:
        return PairedT(mean, np.nan, np.nan, np.nan, np.nan)
    if np.ptp(values) <= ROUNDING * max(1.0, abs(mean)):
        return PairedT(mean if abs(mean) > ROUNDING else 0.0, 0.0, np.nan, np.nan, np.nan)
    sd = _sd(values)
    half = interval_half_width(sd, n, level=look_level(n, rule, level=1 - CONFIDENCE) if rule else 1 - CONFIDENCE)
    t = mean / (sd / np.sqrt(n))
    return PairedT(mean, sd, mean - half, mean + half, float(2 * special.stdtr(n - 1, -abs(t))))


def interval_half_width(sd: float, n: int, *, level: float = 1 - CONFIDENCE) -> float:
    """Half the t interval of a mean that misses it with probability `level`; NaN for n < 2."""
    return float(special.stdtrit(n - 1, 1 - level / 2) * sd / np.sqrt(n)) if n > 1 else np.nan


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided p of the sign-flip test: the share of all 2^n sign assignments whose mean is as far from zero.

    differences: (n,) float.  Exact up to 32 pairs. Above, 99,999 assignments drawn from a generator of its own, with
    the observed one counted among them, so that p is never 0. NaN for n = 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) == 0:
        return np.nan
    # Errors are multiples of 1 / n_test, so sums tie often, and equal sums must count as equal in spite of rounding.
    threshold = abs(values.sum()) - ROUNDING * np.abs(values).sum()
    if threshold <= 0 or (np.ptp(values) <= ROUNDING and abs(values.mean()) <= ROUNDING):  # as `paired_t` has it
        return 1.0
    if len(values) <= EXACT_PAIRS:
        left = _signed_sums(values[: len(values) // 2])
        right = np.sort(_signed_sums(values[len(values) // 2 :]))
        below = np.searchsorted(right, threshold - left, side="left").sum()
        return float(2 * (len(left) * len(right) - below) / 2 ** len(values))
    extreme = np.count_nonzero(np.abs(_drawn_signs(len(values)) @ values) >= threshold)
    return float((1 + extreme) / (1 + MONTE_CARLO_DRAWS))


def seeds_for_power(effect: float, *, level: float, power: float = POWER) -> int | None:
    """The smallest n with which a two-sided paired t test reaches `power`; None above 1,000.

    effect: mean difference over the sd of differences.  level: the test's own level, after any correction.
    Power is the noncentral t's mass beyond the critical value on the side of the effect.
    """

    if not np.isfinite(effect) or effect == 0:
        return None
    return _fewest_seeds(lambda n: 1 - _missed(abs(effect), n, one_sided_level=level / 2) >= power)


def seeds_for_equality(effect: float, margin: float, *, level: float, power: float = POWER) -> int | None:
    """The smallest n with which two one-sided t tests reach `power` to put the difference within the margin.

    effect, margin: true mean difference, and the smallest that matters, over the sd of differences.  None above 1,000.
    Counts the misses of both tests, of which the second is next to none unless the effect is near zero: so power is
    never less than `power`, and hardly more.
    """
    if not abs(effect) < margin:
        return None
    edges = (margin - effect, margin + effect)
    return _fewest_seeds(lambda n: 1 - sum(_missed(edge, n, one_sided_level=level) for edge in edges) >= power)


def detectable_effect(n: int, *, level: float, power: float = POWER) -> float:
    """The true mean difference, in sd, that a two-sided paired t test of n pairs finds with probability `power`."""
    low, high = 0.0, 1.0
    while 1 - _missed(high, n, one_sided_level=level / 2) < power:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        enough = 1 - _missed(middle, n, one_sided_level=level / 2) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def equality_p(differences: ArrayLike, *, smallest_effect: float) -> float:
    """p of the hypothesis that the true mean difference is at least `smallest_effect`, one way or the other.

    The larger p of the two one-sided t tests against its two ends; where all differences are equal, that of the
    one-sided sign-flip tests. NaN for n < 2.
    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".
    """
    test, n = paired_t(differences), len(np.asarray(differences))
    if n < 2:
        return np.nan
    to_the_edge = smallest_effect - abs(test.mean)
    if test.sd == 0:
        return float(2.0**-n) if to_the_edge > ROUNDING else 1.0
    return float(special.stdtr(n - 1, -to_the_edge / (test.sd / np.sqrt(n))))


def _missed(effect: float, n: int, *, one_sided_level: float) -> float:
    """How often a t test of n pairs does not find an effect, in sd, on its own side."""
    critical = special.stdtrit(n - 1, 1 - one_sided_level)
    missed = float(special.nctdtr(n - 1, effect * math.sqrt(n), critical))
    return 0.0 if math.isnan(missed) else missed  # scipy's NaN: a miss of less than 1e-200


def _fewest_seeds(reached: Callable[[int], bool]) -> int | None:
    """The smallest number of pairs for which `reached` holds; None above 1,000."""
    if not reached(MAX_SEEDS):
        return None
    low, high = 1, MAX_SEEDS  # invariant: low seeds are too few, high are enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


@lru_cache(maxsize=1)
def _drawn_signs(n: int) -> NDArray[np.float64]:
    """(99,999, n) of -1 and 1, always the same: the comparisons of a family share their n as a rule."""
    return np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(MONTE_CARLO_DRAWS, n))


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """All 2^n sums of the values, each with either sign."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _reachable_floor(n: int) -> float:
    return max(sign_flip_floor(n), 1 / (1 + MONTE_CARLO_DRAWS) if n > EXACT_PAIRS else 0.0)


def _evidence(pairs: Pairs, test: PairedT, *, rule: StoppingRule | None) -> Evidence:
    """The p that enters Holm's adjustment, NaN with too few pairs, and the sign of the difference that gave it."""
    if rule:
        return sequential_evidence(pairs.differences, rule)
    if len(pairs.errors) < 2:
        return Evidence(np.nan, 0.0)
    return Evidence(sign_flip_p(pairs.differences) if test.sd == 0 else test.p, float(np.sign(test.mean)))


def _equality(pairs: Pairs, *, rule: StoppingRule | None, smallest_effect: float | None) -> float:
    """The p of "a difference that matters" that enters the adjustment; NaN where nothing says what matters."""
    if smallest_effect is None:
        return np.nan
    if rule:
        return sequential_equality_p(pairs.differences, rule, smallest_effect=smallest_effect)
    return equality_p(pairs.differences, smallest_effect=smallest_effect)


def _verdict(direction: float, *, holm_p: float, equal_holm_p: float = np.nan) -> str:
    """direction: below zero where the arm is better."""
    if np.isnan(holm_p):
        return TOO_FEW_PAIRS
    if holm_p > SIGNIFICANCE_LEVEL:
        return PRACTICALLY_EQUAL if equal_holm_p <= SIGNIFICANCE_LEVEL else NO_CLEAR_DIFFERENCE
    return BETTER if direction < 0 else WORSE


def _agreement(verdict: str, *, p: float, floor: float) -> str:
    if verdict in (TOO_FEW_PAIRS, PRACTICALLY_EQUAL):
        return ""
    clear = verdict != NO_CLEAR_DIFFERENCE
    if clear == (p <= SIGNIFICANCE_LEVEL):
        return "agrees"
    return "cannot agree" if clear and floor > SIGNIFICANCE_LEVEL else "disagrees"


def _seeds_for_clear_answer(
    test: PairedT, n: int, *, level: float, smallest_effect: float | None, equal_level: float
) -> int | None:
    effect = test.mean / test.sd
    seeds = [seeds_for_power(effect, level=level)]
    seeds += [seeds_for_equality(effect, smallest_effect / test.sd, level=equal_level)] if smallest_effect else []
    fewest = min((each for each in seeds if each is not None), default=None)
    return fewest and max(fewest, n + 1)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else np.nan


def _sd(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan
