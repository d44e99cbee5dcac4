"""Comparisons beside the suite's question: every figure of every evaluation against the baseline.

Each figure is a family of its own: its p values are Holm-adjusted over its comparisons and over no other figure's. So a
suite with many figures finds some differences by chance, which is why these answer no question by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import Judgement, judge, pairs_of
from reports.tables import Table, condition_summary, conditions, judged_cells, mean_and_sd
from reports.wording import arm_name

SAME_AS = {"test_error": "test_error_last"}
"""Figures of an evaluation that are the suite's own under another name."""


@dataclass(frozen=True)
class Secondary:
    """One figure of one kind of evaluation, with a judgement for every arm but the baseline in every cell."""

    kind: str
    measure: Measure
    judgements: tuple[Judgement, ...]

    @property
    def verdicts(self) -> list[str]:
        """Of those comparisons that can have one."""
        return [each.verdict for each in self.judgements if each.verdict]


def secondary_comparisons(results: Results) -> list[Secondary]:
    """Every figure that any record names but the one that the suite goes by, in the order of its evaluations."""
    plan = results.plan
    metric = plan.suite.report.metric
    found = []
    for kind, names in results.measured.items():
        for name in names:
            if metric not in (name, SAME_AS.get(name)):
                trials = results.trials.assign(**{name: results.column(name)})
                family = pairs_of(trials, name, cells=plan.cells, arms=plan.arms, baseline=plan.baseline)
                judged = judge(family, better=measure(name).better, rule=plan.suite.stopping)
                found.append(Secondary(kind, measure(name), tuple(judged)))
    return found


def secondary_frame(results: Results, secondary: Sequence[Secondary]) -> pd.DataFrame:
    """One row per figure and condition, in fractions and full precision.

    mean, sd, n: over all evaluated seeds; the other numbers are over the pairs, as in comparison.csv.
    """
    rows = []
    for each in secondary:
        summary = condition_summary(results, each.measure.name)
        made = {(judged.cell, judged.arm): asdict(judged) for judged in each.judgements}
        for cell, arm in conditions(results):
            names = {"kind": each.kind, "figure": each.measure.name, "better": each.measure.better}
            spread = asdict(summary[cell, arm])
            rows.append(names | {"cell": cell, "arm": arm} | spread | made.get((cell, arm), {}))
    columns = ["kind", "figure", "better", "cell", "arm", "mean", "sd", "n", "planned", "pairs", "pair_mean"]
    columns += ["baseline_mean", "difference", "low", "high", "p", "holm_p", "verdict"]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"n": "Int64", "planned": "Int64", "pairs": "Int64"})


def secondary_table(results: Results, secondary: Sequence[Secondary]) -> Table:
    """The comparisons of some figures, a group of rows for each figure."""
    several = len(results.plan.cells) > 1
    groups = []
    for each in secondary:
        summary = condition_summary(results, each.measure.name)
        made = {(judged.cell, judged.arm): judged for judged in each.judgements}
        rows = []
        for cell, arm in conditions(results):
            spread = summary[cell, arm]
            label = f"{cell}: {arm_name(arm)}" if several else arm_name(arm)
            own = (label, mean_and_sd(spread, each.measure), str(spread.n))
            rows.append(own + _judgement(made.get((cell, arm)), each.measure, is_baseline=arm == results.plan.baseline))
        direction = {"lower": "lower is better", "higher": "higher is better", "neither": "neither way is better"}
        groups.append((f"{each.measure.label}: {direction[each.measure.better]}", tuple(rows)))
    header = ("method", "mean ± sd", "seeds", "pairs", "difference", "95 % interval", "p (Holm)", "verdict")
    return Table(header, tuple(groups))


def _judgement(judged: Judgement | None, figure: Measure, *, is_baseline: bool) -> tuple[str, ...]:
    if judged is None:
        return ("", "", "", "", "baseline" if is_baseline else "no baseline here")
    pairs, difference, interval, p = judged_cells(judged, figure)
    return (pairs, difference, interval, p, judged.verdict or "-")
