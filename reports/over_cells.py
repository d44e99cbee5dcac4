"""The page's section over all cells: aggregates over seeds, and the arms' ranks over cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reports import tables
from reports.aggregates import Aggregate, Estimate, Ranking, aggregate, blocks_of, ranking, what_cells_are
from reports.formats import NOTHING, count, listed, number, p_equals, percent
from reports.measures import Measure, measure
from reports.section import Findings, Section
from reports.tables import Table
from reports.wording import arm_name

FIGURES = ("pairs", "profile", "ranks")

MOST_NAMED = 4
"""A row of the ranks names so many methods that are not told from its own."""


def over_cells(findings: Findings) -> Section:
    """What holds over all cells, where there are at least two."""
    results = findings.results
    plan = results.plan
    if len(plan.cells) < 2:
        return Section("over-cells", "Over all cells")
    metric = plan.suite.report.metric
    rule = plan.suite.stopping
    aggregates = [aggregate(block, rule=rule) for block in blocks_of(results, metric)]
    ranked = ranking(results, metric)
    baseline = arm_name(plan.baseline)
    shown = [(aggregate_table(aggregates, measure(metric), baseline=baseline), _caption(baseline, measure(metric)))]
    if ranked:
        caption = (
            f"Ranks by mean error, 1 the lowest, over {count(len(ranked.cells), 'cell')}. Not told apart: mean ranks "
            f"that differ by less than Nemenyi's critical difference, {ranked.critical_difference:.2f}."
        )
        shown.append((rank_table(ranked), caption))
    return Section(
        "over-cells",
        "Over all cells",
        paragraphs=(
            f"Over seeds: what another run of these same {count(len(plan.cells), 'cell')} would show. A seed with all "
            "its cells is one observation, since cells that share data and seed go up and down together; seeds that "
            "some cell has not finished are left out. Nothing here is about other data sets, and these numbers have "
            "no verdicts: the suite's comparisons, cell by cell, have them.",
            *(_ranks_in_words(findings, ranked) if ranked else ()),
        ),
        tables=tuple(shown),
        figures=FIGURES,
        notes=tuple(_notes(aggregates, sequential=rule is not None)),
    )


def aggregate_table(aggregates: Sequence[Aggregate], figure: Measure, *, baseline: str) -> Table:
    """A row for each method: mean difference, interquartile means and probability of improvement, with intervals."""
    rows = []
    for each in aggregates:
        block = each.block
        digits = figure.digits((each.iqm_difference.high - each.iqm_difference.low) / 2)
        rows.append(
            (
                arm_name(block.arm),
                _of(len(block.cells), block.planned_cells),
                _of(len(block.seeds), block.planned_seeds),
                _with_interval(each.difference, figure),
                figure.text(each.iqm, digits),
                figure.text(each.baseline_iqm, digits),
                _with_interval(each.iqm_difference, figure),
                _share(each.improvement),
            )
        )
    header = (
        "method",
        "cells",
        "seeds",
        "mean difference",
        "IQM",
        f"IQM, {baseline}",
        "difference of IQMs",
        f"better than {baseline} (%)",
    )
    return Table(header, (("", tuple(rows)),) if rows else ())


def rank_table(ranked: Ranking) -> Table:
    """A row for each method, from the best mean rank on."""
    rows = []
    for arm, rank in zip(ranked.arms, ranked.mean_ranks, strict=True):
        alike = [
            arm_name(other)
            for other, its in zip(ranked.arms, ranked.mean_ranks, strict=True)
            if other != arm and abs(its - rank) < ranked.critical_difference
        ]
        rows.append((arm_name(arm), number(rank, 2), listed(alike, most=MOST_NAMED) or "none"))
    return Table(("method", "mean rank", "not told apart from"), (("", tuple(rows)),), kind="texts")


def _caption(baseline: str, figure: Measure) -> str:
    points = " in percentage points" if figure.unit == "%" else ""
    return (
        f"Over all cells, each with the same weight: differences are method minus {baseline}{points}, with the 95 % "
        f"interval over seeds. IQM: interquartile mean of the {figure.title} of all runs, their middle half. Better "
        f"than {baseline}: how probable it is that a run has the lower {figure.title}, each with a seed of its own, "
        "ties half."
    )


def _ranks_in_words(findings: Findings, ranked: Ranking) -> Iterator[str]:
    plan = findings.results.plan
    cells = what_cells_are(plan, ranked.cells)
    outcome = (
        f"the methods do not all rank alike; two of them are told apart where their mean ranks differ by "
        f"{ranked.critical_difference:.2f} or more (Nemenyi)"
        if ranked.is_clear
        else "no clear difference between any of the methods, so their ranks say nothing"
    )
    yield (
        f"Over cells: Friedman's test of {len(ranked.arms)} methods takes each cell for one condition ({cells}) and "
        f"its mean error over seeds for the outcome: {p_equals(ranked.p)} (Iman and Davenport's F), {outcome}. It is "
        "about conditions like these, as far as they are a fair sample and independent of each other; cells that share "
        "a data set or differ in the recipe alone are less than that, and then p is too small."
    )


def _notes(aggregates: Sequence[Aggregate], *, sequential: bool) -> Iterator[str]:
    if sequential:
        yield (
            "Seeds were added until each comparison was clear, so that cells have different numbers of them, and what "
            "counts here are the seeds that all cells have. The interval of the mean difference is adjusted for "
            "looking after every seed; the others would take the number of seeds as given, and are left out."
        )
    if any(len(each.block.seeds) == 0 for each in aggregates):
        yield "No number where no seed has finished in all cells yet."
    yield "Numbers in full: over_cells.csv in the report's folder."


def _of(n: int, planned: int) -> str:
    return str(n) if n == planned else f"{n} of {planned}"


def _with_interval(estimate: Estimate, figure: Measure) -> str:
    value, interval = tables.difference_cells(estimate.value, estimate.low, estimate.high, figure)
    return value if interval == NOTHING else f"{value} {interval}"


def _share(estimate: Estimate) -> str:
    value = percent(estimate.value, 0)
    if estimate.low != estimate.low:  # NaN
        return value
    return f"{value} [{percent(estimate.low, 0)}, {percent(estimate.high, 0)}]"
