"""Numbers over all cells of a suite: of one arm against the baseline, over seeds; of all arms, over cells.

Two kinds of inference, which answer different questions. *Over seeds*: the cells are those of the suite and no others,
and another run of the suite would have other seeds. Cells that share a data set share its split and its order for one
seed, so that their differences go up and down together; so the seed, with all of its cells, is what repeats, and an
interval is a t interval over seeds of what each of them adds to the whole (the jackknife). *Over cells*: the cells are
a sample of conditions, and Friedman's test asks whether the arms rank alike in all of them.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (interquartile mean,
probability of improvement, performance profiles); Demsar 2006, "Statistical comparisons of classifiers over multiple
data sets" (Friedman, Nemenyi).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from reports.statistics import CONFIDENCE, paired_t

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from bench.plan.plan import Plan
    from bench.plan.suite_file import StoppingRule
    from reports.load import Results

FEWEST_BLOCKS = 5
"""With fewer cells a test over cells has next to no power, and its approximation is poor."""

FEWEST_METHODS = 3

RANK_LEVEL = 0.05

Statistic = Callable[["NDArray[np.float64]", "NDArray[np.float64]"], float]
"""Of an arm's and the baseline's errors, (C, S) each, the columns seeds."""


@dataclass(frozen=True)
class Block:
    """An arm and the baseline in all cells that have both, on the seeds that all of these cells have finished.

    errors, baseline_errors: (C, S).  planned_cells, planned_seeds: how many there will be once all has finished.
    """

    arm: str
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    errors: NDArray[np.float64]
    baseline_errors: NDArray[np.float64]
    planned_cells: int
    planned_seeds: int

    @property
    def improvements(self) -> NDArray[np.float64]:
        """(C, S) baseline minus arm: above zero the arm is better."""
        return self.baseline_errors - self.errors


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over seeds, whose ends are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """One arm against the baseline over all cells, every cell with the same weight.

    difference: mean error, arm minus baseline.  iqm, baseline_iqm: interquartile mean of the errors of all runs.
    iqm_difference: of these.  improvement: how probable it is that a run of the arm has a lower error than a run of the
    baseline in the same cell, each with a seed of its own, where a tie counts half.
    """

    block: Block
    difference: Estimate
    iqm: float
    baseline_iqm: float
    iqm_difference: Estimate
    improvement: Estimate


@dataclass(frozen=True)
class Ranking:
    """How the arms rank over cells.

    arms: from the best mean rank on.  mean_ranks: 1 is the best.  cells: the blocks.  left_out: cells that lack a
    result of some arm.  chi_square: Friedman's, corrected for ties.  p: of Iman and Davenport's F.
    critical_difference: by which two mean ranks have to differ, Nemenyi's at 5 % over all pairs.
    """

    arms: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    cells: tuple[str, ...]
    left_out: int
    chi_square: float
    p: float
    critical_difference: float

    @property
    def is_clear(self) -> bool:
        """Whether the arms differ at all; where not, the critical difference says nothing."""
        return self.p <= RANK_LEVEL

    @property
    def groups(self) -> list[tuple[int, int]]:
        """(first, last) places of the longest runs of arms that are within the critical difference of each other."""
        ranks, found = self.mean_ranks, list[tuple[int, int]]()
        for first in range(len(ranks)):
            last = max(i for i in range(first, len(ranks)) if ranks[i] - ranks[first] < self.critical_difference)
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


def blocks_of(results: Results, metric: str) -> list[Block]:
    """One for every arm but the baseline that has pairs in at least two cells; in the order of the plan."""
    plan = results.plan
    values: dict[tuple[str, str], dict[int, float]] = {}
    columns = (results.trials[name].tolist() for name in ("cell", "arm", "seed"))
    for cell, arm, seed, value in zip(*columns, results.column(metric).tolist(), strict=True):
        values.setdefault((cell, arm), {})[seed] = value
    found = []
    for arm in plan.arms:
        if arm == plan.baseline:
            continue
        both = [cell for cell in plan.cells if (cell, arm) in values and (cell, plan.baseline) in values]
        planned = [values[cell, arm].keys() & values[cell, plan.baseline].keys() for cell in both]
        halves = [(values[cell, arm], values[cell, plan.baseline]) for cell in both]
        pairs = {
            cell: {seed for seed in seeds if not math.isnan(a[seed] + b[seed])}
            for cell, seeds, (a, b) in zip(both, planned, halves, strict=True)
        }
        cells = [cell for cell in both if pairs[cell]]
        if len(cells) < 2:
            continue
        seeds = sorted(set.intersection(*(pairs[cell] for cell in cells)))
        errors, baseline = (
            np.array([[values[cell, name][seed] for seed in seeds] for cell in cells], dtype=np.float64)
            for name in (arm, plan.baseline)
        )
        in_all = set.intersection(*planned)
        found.append(Block(arm, tuple(cells), tuple(seeds), errors, baseline, len(both), len(in_all)))
    return found


def aggregate(block: Block, *, rule: StoppingRule | None = None) -> Aggregate:
    """What an arm does over all cells.

    rule: where seeds were added until a comparison was clear. The interval of the mean is adjusted for the looks then;
    the others have none, since they would take the number of seeds as given.
    """
    ours, theirs = block.errors, block.baseline_errors
    by_seed = paired_t((ours - theirs).mean(axis=0), rule=rule)
    iqm = Estimate(_iqm_difference(ours, theirs), np.nan, np.nan)
    improvement = Estimate(probability_of_improvement(ours, theirs), np.nan, np.nan)
    if rule is None and len(block.seeds) > 1:
        test = paired_t(jackknifed(_iqm_difference, ours, theirs))
        half = (test.high - test.low) / 2
        iqm = Estimate(iqm.value, iqm.value - half, iqm.value + half)
        spread = jackknifed(probability_of_improvement, ours, theirs).var(ddof=1) / len(block.seeds)
        improvement = share_interval(improvement.value, spread, seeds=2 * len(block.seeds), runs=2 * ours.size)
    return Aggregate(
        block=block,
        difference=Estimate(by_seed.mean, by_seed.low, by_seed.high),
        iqm=interquartile_mean(ours),
        baseline_iqm=interquartile_mean(theirs),
        iqm_difference=iqm,
        improvement=improvement,
    )


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of all values; one that straddles a quartile counts by its part. NaN for none."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    n = len(ordered)
    if n == 0:
        return np.nan
    place = np.arange(n)
    weights = np.clip(np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n), 0, 1)
    return float(ordered @ weights / (n / 2))


def _iqm_difference(errors: NDArray[np.float64], baseline_errors: NDArray[np.float64]) -> float:
    return interquartile_mean(errors) - interquartile_mean(baseline_errors)


def probability_of_improvement(errors: NDArray[np.float64], baseline_errors: NDArray[np.float64]) -> float:
    """How often a run of the arm has the lower error, over all pairs of runs in a cell; the mean over cells.

    errors, baseline_errors: (C, S) each.  It is Mann and Whitney's U over the number of pairs.
    """
    ours, theirs = errors[:, :, None], baseline_errors[:, None, :]
    won = (ours < theirs) + 0.5 * (ours == theirs)
    return float(won.mean()) if won.size else np.nan


def jackknifed(
    statistic: Statistic, errors: NDArray[np.float64], baseline_errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(S,) what each seed, with all its cells, adds to the statistic: pseudo-values, whose spread is that over seeds.

    Of a mean they are the seeds' own values.  Source: Tukey 1958; Efron and Tibshirani 1993, chapter 11.
    """
    n = errors.shape[1]
    whole = statistic(errors, baseline_errors)
    without = [statistic(np.delete(errors, i, axis=1), np.delete(baseline_errors, i, axis=1)) for i in range(n)]
    return np.asarray(n * whole - (n - 1) * np.array(without), dtype=np.float64)


def share_interval(share: float, variance: float, *, seeds: int, runs: int) -> Estimate:
    """The 95 % interval of a share, by Wilson's score with as many runs as would have this variance of the share.

    runs: at most so many.  seeds: so many where there is no variance, as where the share is 0 or 1, since all cells of
    a seed may be as one.  Source: Wilson 1927; effective sample size as Korn and Graubard 1998.
    """
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    n = min(share * (1 - share) / variance, runs) if variance > 1e-15 else seeds
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(share, max(0.0, center - half), min(1.0, center + half))


def profile(block: Block, thresholds: Sequence[float]) -> list[Estimate]:
    """The share of runs that improve on the baseline's of the same seed by at least each threshold; every cell alike.

    thresholds: ascending.  The intervals are over seeds, and NaN where there is one. As the share falls with the
    threshold, a share's lower end is no lower than that of a later one, nor its upper end higher than an earlier one's.
    """
    found = []
    for threshold in thresholds:
        by_seed = (block.improvements >= threshold - 1e-12).mean(axis=0)
        share, n = float(by_seed.mean()), len(by_seed)
        if n < 2:
            found.append(Estimate(share, np.nan, np.nan))
        else:
            found.append(share_interval(share, float(by_seed.var(ddof=1)) / n, seeds=n, runs=block.errors.size))
    lows = np.maximum.accumulate([each.low for each in found][::-1])[::-1]
    highs = np.minimum.accumulate([each.high for each in found])
    return [Estimate(each.value, *ends) for each, *ends in zip(found, lows.tolist(), highs.tolist(), strict=True)]


def ranking(results: Results, metric: str) -> Ranking | None:
    """Friedman's test of all arms over the cells in which every arm has a result; None below three arms or five cells.

    A cell's error of an arm is the mean over the seeds that all arms finished there.
    """
    plan = results.plan
    trials = results.trials[["cell", "arm", "seed"]].assign(value=results.column(metric))
    arms, rows, cells = list(plan.arms), [], []
    for cell, own in trials.groupby("cell", sort=False):
        complete = own.pivot_table(index="seed", columns="arm", values="value").reindex(columns=arms).dropna()
        if len(complete):
            rows.append(complete.mean().to_numpy())
            cells.append(str(cell))
    if len(arms) < FEWEST_METHODS or len(cells) < FEWEST_BLOCKS:
        return None
    errors = np.array(rows)
    chi_square, p = friedman(errors)
    mean_ranks = ranks(errors).mean(axis=0)
    order = np.argsort(mean_ranks, kind="stable")
    return Ranking(
        arms=tuple(arms[index] for index in order),
        mean_ranks=tuple(mean_ranks[order].tolist()),
        cells=tuple(cells),
        left_out=len(plan.cells) - len(cells),
        chi_square=chi_square,
        p=p,
        critical_difference=nemenyi_critical_difference(len(arms), len(cells)),
    )


def ranks(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, k) ranks within each row, 1 for the lowest; equal ones share the mean of their ranks."""
    below = (errors[:, None, :] < errors[:, :, None]).sum(axis=2)
    equal = (errors[:, None, :] == errors[:, :, None]).sum(axis=2)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def friedman(errors: NDArray[np.float64]) -> tuple[float, float]:
    """Friedman's chi-square with its correction for ties, and the p of Iman and Davenport's F made of it.

    errors: (N, k), a row for each block, a column for each method.  F is closer than chi-square, which is too careful
    with few blocks. p is never below 1 / k!^(N - 1), the probability that all blocks rank alike.
    Source: Iman and Davenport 1980, "Approximations of the critical region of the Friedman statistic".
    """
    n, k = errors.shape
    ranked = ranks(errors)
    spread = float(((ranked - (k + 1) / 2) ** 2).sum())
    if spread == 0:
        return 0.0, 1.0
    between = float((ranked.sum(axis=0) - n * (k + 1) / 2) @ (ranked.sum(axis=0) - n * (k + 1) / 2))
    chi_square = (k - 1) * between / spread
    left = n * (k - 1) - chi_square
    p = float(special.fdtrc(k - 1, (k - 1) * (n - 1), (n - 1) * chi_square / left)) if left > 1e-9 else 0.0
    floor = math.exp(-(n - 1) * math.lgamma(k + 1))
    return chi_square, max(p, floor)


def nemenyi_critical_difference(methods: int, blocks: int, *, level: float = RANK_LEVEL) -> float:
    """By how much two mean ranks have to differ.  Source: Nemenyi 1963; Demsar 2006, section 3.2.2."""
    return _studentized_range(methods, level) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * blocks))


def _studentized_range(k: int, level: float) -> float:
    """What the range of k standard normal values exceeds with probability `level`: infinite degrees of freedom."""
    x = np.linspace(-9, 9, 4001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    def below(r: float) -> float:
        return float(k * np.trapezoid(density * (special.ndtr(x) - special.ndtr(x - r)) ** (k - 1), x))

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < 1 - level else (low, middle)
    return high


def what_cells_are(plan: Plan, cells: Collection[str]) -> str:
    """Of how many data sets and networks they are, such as "6 cells: 2 data sets, 3 networks"."""
    trials = {planned.cell: planned.trial for planned in plan.trials if planned.cell in cells}.values()
    data_sets = len({trial.dataset.display_name for trial in trials})
    networks = len({trial.model.display_name for trial in trials})
    counts = [(len(cells), "cell"), (data_sets, "data set"), (networks, "network")]
    first, *others = (f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in counts)
    return f"{first}: {', '.join(others)}"


def over_cells_frame(aggregates: Sequence[Aggregate]) -> pd.DataFrame:
    """One row per arm, in the metric's unit and full precision."""
    rows = []
    for each in aggregates:
        block = each.block
        row = {"arm": block.arm, "cells": len(block.cells), "planned_cells": block.planned_cells}
        row |= {"seeds": len(block.seeds), "planned_seeds": block.planned_seeds}
        row |= {"iqm": each.iqm, "baseline_iqm": each.baseline_iqm}
        for name in ("difference", "iqm_difference", "improvement"):
            estimate = getattr(each, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append(row)
    return pd.DataFrame(rows)
