"""The best method of each cell, and those that cannot be told from it."""

from __future__ import annotations

from collections.abc import Mapping

from reports.load import Results
from reports.measures import measure
from reports.statistics import BETTER, TOO_FEW_PAIRS, WORSE, judge, pairs_of
from reports.tables import condition_summary

BEST_IN_WORDS = (
    "Bold: the method with the best mean of its cell, and those that the paired t test against it, Holm-adjusted over "
    "these comparisons of the cell, does not find worse at 0.05. Where it finds another one better than that, over the "
    "seeds that both have, this is the best. The best is chosen by these same seeds, which favours it a little; a "
    "method with fewer than two pairs is never bold."
)


def leading_arms(results: Results, metric: str) -> Mapping[str, frozenset[str]]:
    """By cell: the arm with the best mean over all finished seeds, and every arm not clearly worse than it.

    Clearly worse: by the paired t test over the seeds that it shares with the best, Holm-adjusted over the cell's
    comparisons with the best. An arm with the best mean by its seeds, to which another one is clearly better on those
    that both have, is not the best: it lacks the seeds that are hard for all. Where nothing can be compared, and for a
    figure of which neither more nor less is better, there is none.
    """
    better = measure(metric).better
    if better == "neither":
        return {}
    sign = -1 if better == "higher" else 1
    summary = condition_summary(results, metric)
    trials = results.trials.assign(**{metric: results.column(metric)})
    leading = {}
    for cell, own in trials.groupby("cell", sort=False):
        means = {arm: sign * each.mean for (of, arm), each in summary.items() if of == cell and each.n > 1}
        beaten: set[str] = set()
        while rivals := [arm for arm in means if arm not in beaten]:
            best = min(rivals, key=means.__getitem__)
            family = pairs_of(own, metric, cells=[str(cell)], arms=list(means), baseline=best)
            judged = judge(family, better=better, rule=results.plan.suite.stopping)
            if any(each.verdict == BETTER and each.arm in rivals for each in judged):
                beaten.add(best)
                continue
            if any(each.verdict != TOO_FEW_PAIRS for each in judged):
                even = {each.arm for each in judged if each.verdict not in (WORSE, TOO_FEW_PAIRS)}
                leading[str(cell)] = frozenset({best, *even}) - beaten
            break
    return leading
