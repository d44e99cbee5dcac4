"""Seeds added until the answer is clear: which trials that takes, and p values that stay right however often one looks.

A comparison, one arm against the baseline in one cell, is looked at after every pair of seeds from the rule's `min` to
its `max`. Each look is a paired t test. If the method makes no difference and differences are normal, the joint law of
these tests' p values depends on nothing else, so that of m = min over n of p_n / w_n is drawn once, and a comparison's
*sequential p* is the share of drawn m that are no larger than the least p_n / w_n seen so far. It can only fall, and
under the null it is at most alpha with probability alpha whenever one stops. So is the family's error, by Holm, which
asks nothing about how comparisons depend on each other. A comparison is *clear*, and gets no more seeds, when its
Holm-adjusted sequential p is at most 0.05: that of "no difference" or, where the suite names the smallest effect that
matters, that of "a difference of at least this".

Pairs count in the order of their seeds, up to the first that is still to come: what a trial that ends later adds can
only be a further look. A trial that diverged gives no pair.

Source: Jennison and Turnbull 1999, "Group sequential methods", chapters 2 (weights), 4 (t tests) and 9 (intervals).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bench.plan.plan import Plan, PlannedTrial
from bench.plan.power import SIGNIFICANCE_LEVEL
from bench.plan.suite_file import StoppingRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from bench.results.store import Store

SEQUENCES = 500_000
"""Sequences drawn under the null. No sequential p is below 1 / (SEQUENCES + 1)."""

CHUNK = 10_000
"""So many at a time: what one look computes fits a core's cache."""

TABLE_SIZE = 1000
"""Points at which a look's p is computed; between them its logarithm is interpolated, to 1e-4."""

ROUNDING = 1e-12
"""Errors that differ by less, relative to their size, are equal but for rounding."""


@dataclass(frozen=True)
class Evidence:
    """What a comparison's pairs have shown so far.

    p: its sequential p, NaN before the first look.  direction: the sign of the mean difference at the look that gave p.
    """

    p: float
    direction: float


@dataclass(frozen=True)
class Progress:
    """One comparison, and how far it is.

    seeds: those that both halves plan, in order.  ended: how many of them, from the first on, have both halves ended.
    values, baseline_values: of the pairs among these; a diverged trial leaves none.
    holm_p: sequential, adjusted over the suite's comparisons; NaN before the first look.  equal_holm_p: the same for
        the hypothesis of a difference that matters; NaN too where the suite does not say what matters.
    wanted: the seeds that it takes as far as is known now.
    """

    cell: str
    arm: str
    seeds: tuple[int, ...]
    ended: int
    values: tuple[float, ...]
    baseline_values: tuple[float, ...]
    holm_p: float
    equal_holm_p: float
    wanted: tuple[int, ...]

    @property
    def is_clear(self) -> bool:
        return _is_clear(self.holm_p, self.equal_holm_p)

    @property
    def goes_on(self) -> bool:
        """Whether more pairs are to come."""
        return self.ended < len(self.wanted)


def wanted(plan: Plan, metric_of: Mapping[str, float | None]) -> tuple[PlannedTrial, ...]:
    """The trials that the suite takes as far as is known now, ended ones included, in the plan's order.

    metric_of: by trial_id, what `metric_values` gives. With a fixed number of seeds all of the plan's. Depends on
    nothing but what has ended, so that a resumed run, two runs at once and the report agree. A trial that has not ended
    can be wanted no longer once another comparison has become clear, since that lowers the adjusted p of all others.
    """
    return _trials(plan, metric_of, lambda comparison: comparison.wanted)


def possible(plan: Plan, metric_of: Mapping[str, float | None]) -> tuple[PlannedTrial, ...]:
    """The trials that are wanted or may yet be: those of `wanted`, and every seed of a comparison that is not clear."""
    return _trials(plan, metric_of, lambda comparison: comparison.wanted if comparison.is_clear else comparison.seeds)


def _trials(
    plan: Plan, metric_of: Mapping[str, float | None], seeds_of: Callable[[Progress], tuple[int, ...]]
) -> tuple[PlannedTrial, ...]:
    """The first seeds of every condition, and of both halves of a comparison the seeds that `seeds_of` gives."""
    rule = plan.suite.stopping
    if rule is None:
        return plan.trials
    seeds = {condition: {*sorted(own)[: rule.min]} for condition, own in _seeds_of(plan).items()}
    for each in progress(plan, metric_of):
        for arm in (each.arm, plan.baseline):
            seeds[each.cell, arm].update(seeds_of(each))
    return tuple(planned for planned in plan.trials if planned.trial.seed in seeds[planned.cell, planned.arm])


def progress(plan: Plan, metric_of: Mapping[str, float | None]) -> list[Progress]:
    """Every comparison of a suite with a stopping rule, in the order of cells and arms.

    Raises ValueError for a suite without one.
    """
    rule = plan.suite.stopping
    if rule is None:
        raise ValueError(f"{plan.suite.name} has no stopping rule: all of its seeds are run")
    trials = _seeds_of(plan)
    settled = []
    for cell, arm in itertools.product(plan.cells, plan.arms[1:]):
        ours, theirs = trials.get((cell, arm)), trials.get((cell, plan.baseline))
        if ours is not None and theirs is not None:
            seeds = tuple(sorted(ours.keys() & theirs.keys()))
            halves = ((ours[seed], theirs[seed]) for seed in seeds)
            ended = itertools.takewhile(lambda both: all(half in metric_of for half in both), halves)
            settled.append((cell, arm, seeds, [(metric_of[a], metric_of[b]) for a, b in ended]))
    found = []
    complete = [[(a, b) for a, b in pairs if a is not None and b is not None] for *_, pairs in settled]
    halves_of = [tuple(zip(*pairs, strict=True)) or ((), ()) for pairs in complete]
    differences = [paired_differences(a, b) for a, b in halves_of]
    smallest = plan.suite.report.smallest_effect
    ps = [sequential_evidence(each, rule).p for each in differences]
    equal_ps = (
        [sequential_equality_p(each, rule, smallest_effect=smallest) for each in differences] if smallest else None
    )
    adjusted = adjust(ps, equal_ps)
    columns = (settled, halves_of, adjusted.differences.tolist(), adjusted.equalities.tolist())
    for (cell, arm, seeds, pairs), (values, baseline), p, equal_p in zip(*columns, strict=True):
        enough = max(rule.min, len(pairs) + (not _is_clear(p, equal_p)))
        found.append(Progress(cell, arm, seeds, len(pairs), values, baseline, p, equal_p, seeds[:enough]))
    return found


def _is_clear(holm_p: float, equal_holm_p: float) -> bool:
    return holm_p <= SIGNIFICANCE_LEVEL or equal_holm_p <= SIGNIFICANCE_LEVEL


def _seeds_of(plan: Plan) -> dict[tuple[str, str], dict[int, str]]:
    """By (cell, arm), the trial_id of each seed."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for planned in plan.trials:
        found.setdefault((planned.cell, planned.arm), {})[planned.trial.seed] = planned.trial_id
    return found


def metric_values(trials: Iterable[PlannedTrial], store: Store, metric: str) -> dict[str, float | None]:
    """By trial_id, the metric of every trial that has ended; None where it has none and never will: it diverged, say.

    Missing: a trial that has not ended, or whose evaluations have not where one of them may give the metric.
    """
    found: dict[str, float | None] = {}
    for planned in trials:
        folder = store.trial(planned.trial_id)
        final = folder.final()
        if final is None:
            continue
        if final["status"] == "diverged":
            found[planned.trial_id] = None
            continue
        records = [folder.evaluation(key) for key in planned.evaluation_keys]
        own = dict(final["metrics"])
        for record in records:
            own |= record["metrics"] if record else {}
        if metric in own or None not in records:
            found[planned.trial_id] = own.get(metric)
    return found


def wanted_now(plan: Plan, store: Store) -> tuple[dict[str, float | None], tuple[PlannedTrial, ...]]:
    """(metric_of, the trials of `wanted`), by what has ended; with a fixed number of seeds nothing is read."""
    metric_of = metric_values(plan.trials, store, plan.suite.report.metric) if plan.suite.stopping else {}
    return metric_of, wanted(plan, metric_of)


def sequential_evidence(differences: ArrayLike, rule: StoppingRule) -> Evidence:
    """What pairs show when they are looked at after each from the rule's `min` on.

    differences: (n,) float, arm minus baseline, in the order of their seeds; n at most the rule's `max`.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < rule.min:
        return Evidence(np.nan, 0.0)
    weighed = _t_ps(values, rule.min) / _weights(rule.min, rule.max)[: len(values) - rule.min + 1]
    best = int(np.argmin(weighed))
    return Evidence(_share_below(float(weighed[best]), rule), float(np.sign(values[: rule.min + best].mean())))


def sequential_equality_p(differences: ArrayLike, rule: StoppingRule, *, smallest_effect: float) -> float:
    """The sequential p of "the true difference is at least `smallest_effect`, one way or the other".

    NaN before the first look. At most a where intervals that hold the true difference at all looks at once, with
    probability 1 - a, have come to lie within the effect on both sides, at one look or at two. Of each side's two-sided
    law only one side counts, so p is up to twice what it need be.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < rule.min:
        return np.nan
    weights = _weights(rule.min, rule.max)[: len(values) - rule.min + 1]
    largest = 0.0
    for sign in (1, -1):
        to_the_edge = sign * values - smallest_effect
        means = np.cumsum(to_the_edge)[rule.min - 1 :]
        within = np.where(means < 0, _t_ps(to_the_edge, rule.min) / weights, np.inf)
        largest = max(largest, _share_below(float(within.min()), rule))
    return largest


def _share_below(weighed_p: float, rule: StoppingRule) -> float:
    """The share of sequences under the null whose least p_n / w_n is no larger, the observed one among them."""
    drawn = _least_under_null(rule.min, rule.max)
    below = int(np.searchsorted(drawn, np.log(weighed_p), side="right")) if weighed_p > 0 else 0
    return (1 + below) / (1 + len(drawn))


def look_level(n: int, rule: StoppingRule, *, level: float) -> float:
    """The level of the t test, and of the interval, at the look after n pairs, when all looks together have `level`.

    NaN before the first look. The intervals of all looks hold the true difference at once with probability 1 - level.
    """
    if n < rule.min:
        return np.nan
    drawn = _least_under_null(rule.min, rule.max)
    place = max(0, int(level * (1 + len(drawn))) - 1)  # below it, so many or fewer are counted: p is at most `level`
    least = float(np.exp(drawn[place]))
    return min(1.0, least * float(_weights(rule.min, rule.max)[n - rule.min]))


def paired_differences(values: ArrayLike, baseline_values: ArrayLike) -> NDArray[np.float64]:
    """Arm minus baseline, 0 where they are equal but for rounding."""
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(baseline_values, dtype=np.float64)
    differences = ours - theirs
    return np.where(np.abs(differences) <= ROUNDING * np.maximum(np.abs(ours), np.abs(theirs)), 0.0, differences)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down adjustment. A NaN stays NaN and counts in the family as p = 1.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    ps = np.asarray(p_values, dtype=np.float64)
    filled = np.where(np.isnan(ps), 1.0, ps)
    order = np.argsort(filled, kind="stable")
    stepped = np.maximum.accumulate(filled[order] * (len(ps) - np.arange(len(ps))))
    adjusted = np.empty_like(ps)
    adjusted[order] = np.minimum(1.0, stepped)
    return np.where(np.isnan(ps), np.nan, adjusted)


@dataclass(frozen=True)
class Adjusted:
    """Adjusted p values of a family's comparisons, NaN where there is none.

    differences: of "no difference".  equalities: of "a difference that matters"; NaN throughout where nothing says
    what matters.  difference_share, equality_share: at which share of the level those are tested that are still open.
    """

    differences: NDArray[np.float64]
    equalities: NDArray[np.float64]
    difference_share: float
    equality_share: float


def adjust(difference_ps: Sequence[float], equality_ps: Sequence[float] | None = None) -> Adjusted:
    """Holm's adjustment, where there are equality p values of both kinds together. A NaN counts as p = 1.

    Of a comparison's two hypotheses, no difference and a difference that matters, one at most is true. So a set of
    hypotheses that may all be true has one of each comparison at most. Within it the level is shared out evenly; where
    more than half are differences that matter, half of it goes to either kind, so that arms that are clearly far off,
    and whose second hypothesis stays open for good, leave the level of the others alone. From the smallest on, p is
    divided by the least share that it has in any such set of hypotheses that are not rejected yet. Two adjustments side
    by side would have twice the error.

    Source: Shaffer 1986, "Modified sequentially rejective multiple test procedures"; weights as in Goeman and Solari
    2010, "The sequential rejection principle of familywise error control".
    """
    n = len(difference_ps)
    if equality_ps is None:
        adjusted = holm(difference_ps)
        share = 1 / max(1, n - int(np.sum(adjusted <= SIGNIFICANCE_LEVEL)))
        return Adjusted(adjusted, np.full(n, np.nan), share, np.nan)
    ps = np.array([difference_ps, equality_ps], dtype=np.float64)
    filled = np.where(np.isnan(ps), 1.0, ps)
    is_open, stepped, largest = np.ones((2, n), dtype=bool), np.empty((2, n)), 0.0
    for _ in range(2 * n):
        weighed = np.where(is_open, filled / _least_shares(is_open), np.inf)
        place = np.unravel_index(int(np.argmin(weighed)), weighed.shape)
        largest = max(largest, min(1.0, float(weighed[place])))
        stepped[place] = largest
        is_open[place] = False
    is_open = stepped > SIGNIFICANCE_LEVEL
    shares = np.where(is_open, _least_shares(is_open), 1.0).min(axis=1, initial=1.0)
    stepped[np.isnan(ps)] = np.nan
    return Adjusted(stepped[0], stepped[1], float(shares[0]), float(shares[1]))


def _least_shares(is_open: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(2, n) the least share of the level that a hypothesis has in any set of open ones that may all be true.

    is_open: (2, n), of no difference and of one that matters.  What is not open has a share too, which means nothing.
    """
    difference, equality = is_open
    comparisons = max(1, int(np.sum(difference | equality)))
    differences, equalities = max(1, int(np.sum(difference))), max(1, int(np.sum(equality)))
    # The largest set that has a difference of another comparison, which it can have without giving up its own equality
    # where the other's is rejected.
    others = int(np.sum(difference)) - difference
    beside = equalities - (0 if np.any(difference & ~equality) else 1)
    mixed = min(1 / comparisons, 0.5 / beside if beside else 1.0)
    of_difference = np.full(len(difference), max(1 / comparisons, 0.5 / differences))
    return np.array([of_difference, np.where(others > 0, mixed, 1 / equalities)])


def _weights(first: int, last: int) -> NDArray[np.float64]:
    """How the level is spread over the looks: n / last. docs/statistics.md has the comparison that decided it."""
    return np.arange(first, last + 1) / last


def _t_ps(values: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Two-sided p of the paired t test of the first n differences, for n from `first` to all.

    Where these differ by nothing but rounding, p is that of the sign-flip test: errors are multiples of 1 / n_test, so
    that a few equal differences are no rarity, and no proof either.
    """
    from scipy import special

    n = np.arange(1, len(values) + 1)
    shifted = values - values[0]  # without it the sum of squares would lose digits to the mean
    sums = np.cumsum(shifted)
    mean = values[0] + sums / n
    squares = np.maximum(np.cumsum(shifted**2) - sums**2 / n, 0.0)
    spread = np.maximum.accumulate(values) - np.minimum.accumulate(values)
    constant = spread <= ROUNDING * np.maximum(1.0, np.abs(mean))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.abs(mean) * np.sqrt(n * (n - 1) / squares)
    flips = np.where(np.abs(mean) > ROUNDING, 2.0 ** (1 - n), 1.0)
    ps = np.where(constant, flips, 2 * special.stdtr(np.maximum(n - 1, 1), -np.where(constant, 0.0, t)))
    return np.asarray(ps[first - 1 :], dtype=np.float64)


@cache
def _least_under_null(first: int, last: int) -> NDArray[np.float64]:
    """(SEQUENCES,) sorted log m of sequences of standard normal differences, always the same ones.

    With q the sum of squares of n differences and s their sum, the t test's p is a function of v, where
    v^2 = log(q / (q - s^2 / n)) = log(1 + t^2 / (n - 1)); its logarithm is all but a parabola in v, so that a short
    table does for the t distribution, which takes five times as long.
    """
    from scipy import special

    tables = {}
    for n in range(first, last + 1):
        top = 0.5
        while special.stdtr(n - 1, -_t_of(top, n)) > 1e-10:
            top *= 1.1
        grid = np.linspace(0, top, TABLE_SIZE)
        log_p = np.log(2 * special.stdtr(n - 1, -_t_of(grid, n)))
        tables[n] = (TABLE_SIZE - 1) / top, log_p, np.diff(log_p)
    rng = np.random.default_rng(0)
    log_weights = np.log(_weights(first, last))
    least = np.full((SEQUENCES // CHUNK, CHUNK), np.inf)
    for chunk in least:
        drawn = rng.standard_normal((last, CHUNK))
        sums, squares = np.cumsum(drawn, axis=0), np.cumsum(drawn**2, axis=0)
        for n, (scale, log_p, steps) in tables.items():
            q = squares[n - 1]
            left = np.maximum(q - sums[n - 1] ** 2 / n, 1e-300)  # two draws can be equal but for rounding
            place = np.minimum(np.sqrt(np.log(q / left)) * scale, TABLE_SIZE - 1.001)
            index = place.astype(np.intp)
            np.minimum(chunk, log_p[index] + steps[index] * (place - index) - log_weights[n - first], out=chunk)
    return np.sort(least, axis=None)


def _t_of(v: ArrayLike, n: int) -> NDArray[np.float64]:
    return np.asarray(np.sqrt((n - 1) * np.expm1(np.square(v))))
