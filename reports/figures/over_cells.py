"""Figures over all cells of a suite: pairs of runs, how many improve and by how much, and mean ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from reports import theme
from reports.aggregates import Ranking, blocks_of, profile, ranking, what_cells_are
from reports.figures.arms import DrawnArms, arm_styles, drawn_arms
from reports.figures.drawing import Drawing
from reports.figures.layout import grid, panels, text_width, wrapped
from reports.figures.series import draw_curve
from reports.formats import count, p_equals
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import Comparison
from reports.wording import arm_name

LOG_FROM = 8.0
"""Errors of which the largest is so many times the smallest have a logarithmic scale: else easy cells are a dot."""

PROFILE_POINTS = 101

WIDEST_NAME = 2.0
"""Inches; a longer name of a method has several lines beside the ranks."""


def pairs(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The baseline's error against each method's, one point for each seed and cell."""
    plan = results.plan
    figure_of = measure(plan.suite.report.metric)
    points = _pair_points(results, figure_of.name)
    if points.empty:
        return None
    drawn = _without_baseline(drawn_arms(results, points["arm"]))
    own = {arm: points[points["arm"] == arm] for arm in drawn.arms}
    reference = arm_name(plan.baseline)
    won = {arm: int((each["error"] < each["baseline_error"]).sum()) for arm, each in own.items()}
    titles = [f"{arm_name(arm)}\nbelow the line: {won[arm]} of {len(each)}" for arm, each in own.items()]
    figure, axes_of = panels(titles, x=f"{reference}: {figure_of.label}", y=f"method: {figure_of.label}")
    shown = figure_of.scale * np.concatenate([each[["baseline_error", "error"]].to_numpy() for each in own.values()])
    is_log = bool(shown.min() > 0 and shown.max() > LOG_FROM * shown.min())
    limits = _limits(shown, is_log=is_log)
    for (arm, each), axes in zip(own.items(), axes_of, strict=True):
        style = drawn.styles[arm]
        axes.plot(limits, limits, color=theme.INK, linewidth=0.8, zorder=1)
        x, y = figure_of.scale * each["baseline_error"], figure_of.scale * each["error"]
        face = style.face or style.color
        axes.plot(x, y, style.marker, color=style.color, markerfacecolor=face, markersize=3.5, alpha=0.75)
        _same_ticks(axes, is_log=is_log)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.grid(True, axis="both")
    caption = (
        f"Each point is one seed in one cell: the {figure_of.title} of {reference} against that of the method in the "
        f"same pair. Below the line the method is better; how far a point lies from it is the pair's difference."
        f"{' Groups along the line are cells.' if len(set(points['cell'])) > 1 else ''}"
        f"{' Both scales are logarithmic.' if is_log else ''}{drawn.note}"
    )
    runs, methods = count(len(points), "point"), count(len(drawn.arms), "method")
    alt = f"Pairs of {reference} and {methods}: {runs} around the diagonal."
    return Drawing(figure, "Pair by pair", caption, alt, points)


def improvement_profile(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The share of runs that improve on the baseline by at least so much."""
    plan = results.plan
    figure_of = measure(plan.suite.report.metric)
    blocks = [block for block in blocks_of(results, figure_of.name) if block.seeds]
    if not blocks:
        return None
    least = min(0.0, *(float(block.improvements.min()) for block in blocks))
    most = max(0.0, *(float(block.improvements.max()) for block in blocks))
    if least == most:
        return None
    margin = 0.04 * (most - least)
    thresholds = np.union1d(np.linspace(least - margin, most + margin, PROFILE_POINTS), [0.0])
    takes_bands = plan.suite.stopping is None
    rows = [
        (block.arm, threshold, len(block.cells), len(block.seeds), share.value, share.low, share.high)
        for block in blocks
        for threshold, share in zip(thresholds.tolist(), profile(block, thresholds.tolist()), strict=True)
    ]
    data = pd.DataFrame(rows, columns=["arm", "improvement", "cells", "seeds", "share", "low", "high"])
    data = data if takes_bands else data.drop(columns=["low", "high"])
    drawn = _without_baseline(drawn_arms(results, data["arm"]))
    has_bands = drawn.has_bands and takes_bands and bool(data["low"].notna().any())
    reference = arm_name(plan.baseline)
    unit = "percentage points" if figure_of.unit == "%" else figure_of.unit
    x = f"improvement of at least{f' ({unit})' if unit else ''}"
    figure, ((axes,),) = grid([""], [""], height=2.3, handles=drawn.handles(marked=True), x=x, y=["share of runs (%)"])
    for arm in drawn.arms:
        own = data[data["arm"] == arm]
        low, high = (100 * own[end].to_numpy() if has_bands else own["share"].to_numpy() for end in ("low", "high"))
        x_values, share = figure_of.scale * own["improvement"].to_numpy(), 100 * own["share"].to_numpy()
        draw_curve(axes, x_values, share, low, high, style=drawn.styles[arm], markers=False, band=has_bands)
        style, place = drawn.styles[arm], int(np.argmax(share <= 50))  # halfway down, where curves are far apart
        axes.plot(x_values[place], share[place], style.marker, color=style.color, markersize=4)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_ylim(-2, 102)
    axes.set_xlim(figure_of.scale * thresholds[0], figure_of.scale * thresholds[-1])
    cells, seeds = max(len(block.cells) for block in blocks), max(len(block.seeds) for block in blocks)
    bands = "; bands: the 95 % interval of each share, over seeds" if has_bands else ""
    caption = (
        f"How many of a method's runs, in all cells ({cells}) on the seeds that all cells have ({seeds}), have a "
        f"{figure_of.title} that is lower by at least so much than {reference}'s of the same pair{bands}. Each cell "
        f"has the same weight. At the line one reads how many are no worse; a curve further right and above is better. "
        f"Left of the line is how much worse a run can get.{drawn.note}"
    )
    alt = f"Performance profile of {count(len(drawn.arms), 'method')}: share of runs by improvement over {reference}."
    return Drawing(figure, "How many improve, and by how much", caption, alt, data)


@dataclass(frozen=True)
class _Name:
    """A method beside the axis of ranks: its place among the ranks, its lines, and inches from the axis down to it."""

    place: int
    lines: list[str]
    on_left: bool
    depth: float


def critical_difference(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Mean ranks over cells on one axis, with bars over methods that are not told apart."""
    plan = results.plan
    ranked = ranking(results, plan.suite.report.metric)
    if ranked is None:
        return None
    figure_of = measure(plan.suite.report.metric)
    k, size = len(ranked.arms), theme.RC["font.size"]
    top, bar_gap, below = 0.62, 0.085, 0.12
    bars = ranked.groups
    names, bottom = _placed_names(ranked, size, start=0.2 + bar_gap * len(bars))
    height = top + bottom + below
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, theme.FULL_WIDTH)
    axes.set_ylim(height, 0)  # inches from the top
    axes.axis("off")
    side = 0.25 + max(text_width(line, size) for name in names for line in name.lines)
    left, right = side, theme.FULL_WIDTH - side

    def at(rank: float) -> float:
        return left + (rank - 1) / (k - 1) * (right - left)

    axes.plot([left, right], [top, top], color=theme.INK, linewidth=0.8)
    for rank in range(1, k + 1):
        axes.plot([at(rank)] * 2, [top - 0.06, top], color=theme.INK, linewidth=0.8)
        axes.text(at(rank), top - 0.09, str(rank), ha="center", va="bottom", fontsize=7)
    width = ranked.critical_difference * (right - left) / (k - 1)
    fits = width <= right - left
    if fits:
        axes.plot([left, left + width], [0.27, 0.27], color=theme.INK, linewidth=1.2, marker="|", markersize=5)
    text = (
        f"critical difference {ranked.critical_difference:.2f}{'' if fits else ': more than the ranks can differ by'}"
    )
    axes.text(left, 0.2, text, va="bottom", fontsize=7)
    styles = arm_styles(results)
    for name in names:
        style, x, y = styles[ranked.arms[name.place]], at(ranked.mean_ranks[name.place]), top + name.depth
        edge = left - 0.08 if name.on_left else right + 0.08
        axes.plot([x, x, edge], [top, y, y], color=style.color, linewidth=0.9, linestyle=style.linestyle, zorder=1)
        axes.plot(x, top, style.marker, color=style.color, markerfacecolor=style.face or style.color, markersize=4.5)
        beside = edge - 0.06 if name.on_left else edge + 0.06
        side_of = "right" if name.on_left else "left"
        axes.text(beside, y, "\n".join(name.lines), va="center", ha=side_of, linespacing=1.05)
    for index, (first, last) in enumerate(bars):
        y = top + 0.11 + bar_gap * index
        ends = [at(ranked.mean_ranks[first]) - 0.04, at(ranked.mean_ranks[last]) + 0.04]
        axes.plot(ends, [y, y], color=theme.INK, linewidth=2.4, solid_capstyle="butt", zorder=3)
    caption = _rank_caption(ranked, figure_of, what_cells_are(plan, ranked.cells))
    alt = f"Critical-difference diagram: mean ranks of {k} methods over {count(len(ranked.cells), 'cell')}."
    data = pd.DataFrame({"arm": ranked.arms, "mean_rank": ranked.mean_ranks})
    data = data.assign(critical_difference=ranked.critical_difference, friedman_p=ranked.p, cells=len(ranked.cells))
    return Drawing(figure, "Mean ranks over cells", caption, alt, data)


def _rank_caption(ranked: Ranking, figure_of: Measure, cells: str) -> str:
    outcome = (
        "A bar joins methods whose ranks differ by less than Nemenyi's critical difference at 5 %: they are not told "
        "apart."
        if ranked.is_clear
        else "That is no clear difference between any of them, so the order says nothing, whatever the bars join."
    )
    left_out = f" {count(ranked.left_out, 'cell')} left out that lack some method." if ranked.left_out else ""
    return (
        f"Mean rank of each method by its mean {figure_of.title}, 1 the lowest, over {cells}. Each cell is one "
        f"condition; Friedman's test that all rank alike: {p_equals(ranked.p)}. {outcome} Cells that share a data set "
        f"or differ in the recipe alone are not independent, and then p is too small.{left_out}"
    )


def _placed_names(ranked: Ranking, size: float, *, start: float) -> tuple[list[_Name], float]:
    """The better half on the left, from the best down; the others on the right, from the worst down. And the depth."""
    k = len(ranked.arms)
    half = math.ceil(k / 2)
    names, deepest = [], 0.0
    for on_left, places in ((True, range(half)), (False, range(k - 1, half - 1, -1))):
        depth = start
        for place in places:
            rank = f"{ranked.mean_ranks[place]:.2f}"
            lines = wrapped(f"{arm_name(ranked.arms[place])} ({rank})", size, width=WIDEST_NAME)
            own = 0.06 + 0.125 * len(lines)
            names.append(_Name(place, lines, on_left, depth + own / 2))
            depth += own
        deepest = max(deepest, depth)
    return names, deepest


def _pair_points(results: Results, metric: str) -> pd.DataFrame:
    """One row for each pair that has a result: cell, arm, seed, baseline_error and error."""
    names = ["cell", "arm", "seed"]
    errors = results.trials[names].assign(error=results.column(metric)).dropna(subset="error")
    baseline = errors[errors["arm"] == results.plan.baseline].rename(columns={"error": "baseline_error"})
    others = errors[errors["arm"] != results.plan.baseline]
    points = others.merge(baseline[["cell", "seed", "baseline_error"]], on=["cell", "seed"])
    return points[[*names, "baseline_error", "error"]]


def _without_baseline(drawn: DrawnArms) -> DrawnArms:
    arms = tuple(arm for arm in drawn.arms if arm != drawn.baseline)
    return DrawnArms(arms, drawn.styles, drawn.baseline, drawn.note)


def _limits(shown: np.ndarray, *, is_log: bool) -> tuple[float, float]:
    low, high = float(shown.min()), float(shown.max())
    if is_log:
        margin = (high / low) ** 0.06
        return low / margin, high * margin
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


def _same_ticks(axes: Axes, *, is_log: bool) -> None:
    """On both axes, few enough for their labels to stand side by side."""
    if not is_log:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
