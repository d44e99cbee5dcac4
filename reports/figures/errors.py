"""Figures of the suite's own question: differences, the error against alpha, and how it develops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports import theme
from reports.figures.drawing import Drawing
from reports.figures.layout import CHARACTER, arm_handles, arm_styles, family_of, handle, panels, size_in_inches
from reports.figures.series import baseline_last, curves_by, draw_curve, half_widths, occurring, summarised
from reports.formats import typographic
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import BETTER, WORSE, Comparison
from reports.theme import Style
from reports.wording import arm_name, sentence_case

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def forest(results: Results, comparisons: Sequence[Comparison]) -> Drawing | None:
    """Every paired difference with its interval, one row each."""
    shown = [each for each in comparisons if each.pairs]
    if not shown:
        return None
    rows: list[Comparison | str] = []
    for cell in results.plan.cells:
        of_cell = [each for each in shown if each.cell == cell]
        rows += [cell, *of_cell] if of_cell else []
    labels = [row if isinstance(row, str) else arm_name(row.arm) for row in rows]
    left = min(3.4, 0.3 + 1.12 * CHARACTER * max(len(label) for label in labels))
    figure_of = measure(results.plan.suite.report.metric)
    scale = figure_of.scale
    right, top, bottom, row_height = 1.75, 0.3, 0.45, 0.185
    height = top + bottom + row_height * len(rows)
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    plot_width = theme.FULL_WIDTH - left - right
    axes = figure.add_axes(
        (left / theme.FULL_WIDTH, bottom / height, plot_width / theme.FULL_WIDTH, 1 - (top + bottom) / height)
    )
    beside = axes.get_yaxis_transform()
    for y, row in enumerate(rows):
        if isinstance(row, str):
            axes.text((0.08 - left) / plot_width, y, row, transform=beside, va="center")
            continue
        color = {BETTER: theme.BETTER, WORSE: theme.WORSE}.get(row.verdict, theme.BASELINE)
        if not math.isnan(row.low):
            axes.plot([scale * row.low, scale * row.high], [y, y], color=color, linewidth=1.4, solid_capstyle="butt")
        face = color if row.verdict in (BETTER, WORSE) else "white"
        axes.plot(scale * row.difference, y, "o", color=color, markerfacecolor=face, markersize=5)
        axes.text((0.2 - left) / plot_width, y, arm_name(row.arm), transform=beside, va="center")
        axes.text(1.04, y, _interval_text(row, figure_of), transform=beside, va="center", fontsize=7.5)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_xlim(_forest_limits(shown, scale))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    reference = arm_name(results.plan.baseline)
    label = figure_of.difference_label.replace(figure_of.title, f"{figure_of.title} from {reference}", 1)
    axes.set_xlabel(label)
    axes.text(0, -0.75, "← better   ", ha="right", va="bottom", color=theme.BETTER, clip_on=False)
    axes.text(0, -0.75, "   worse →", ha="left", va="bottom", color=theme.WORSE, clip_on=False)
    caption = (
        f"Each row is one method against {reference} in the same cell: the mean difference over seeds that both "
        f"finished, with its 95 % paired t interval. Left of the line the method has the lower "
        f"{figure_of.title}. Filled points are "
        f"clear after Holm's adjustment over all comparisons, hollow ones are not; an interval shows one comparison "
        f"alone, so it can miss zero where the verdict is still open."
    )
    clear = sum(each.verdict in (BETTER, WORSE) for each in shown)
    alt = f"Forest plot of {len(shown)} paired differences from {reference}; {clear} are clear. Numbers in the table."
    columns = ["cell", "arm", "pairs", "difference", "low", "high", "holm_p", "verdict"]
    data = pd.DataFrame([[getattr(each, column) for column in columns] for each in shown], columns=columns)
    return Drawing(figure, "Paired differences", caption, alt, data)


def error_against_alpha(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error at each alpha, with the baseline as a band."""
    plan, figure_of = results.plan, measure(results.plan.suite.report.metric)
    trials = results.trials.assign(error=figure_of.scale * results.column(figure_of.name))
    swept = trials[(trials["arm"] != plan.baseline) & trials["alpha"].notna()]
    finished = trials[trials["error"].notna()]
    cells = occurring(occurring(plan.cells, swept["cell"]), finished["cell"])
    if swept["alpha"].nunique() < 2 or not cells:
        return None
    families = {arm: family_of(arm) for arm in occurring(plan.arms, swept["arm"])}
    finished = finished.assign(family=finished["arm"].map(families))
    styles = theme.styles(list(dict.fromkeys(families.values())))
    baseline_x, positions = _alpha_positions(sorted(swept["alpha"].unique()))
    reference = arm_name(plan.baseline)
    handles = [
        Line2D([], [], color=theme.BASELINE, linestyle="--", label=f"{reference}: mean of seeds"),
        Patch(color=theme.FAINT, label=f"{reference}: 95 % interval"),
        *(handle(style, f"{name}: mean, 95 % interval") for name, style in styles.items()),
        Line2D([], [], color=theme.INK, marker="o", markersize=2.5, linestyle="", alpha=0.4, label="one seed"),
    ]
    figure, axes_of = panels(cells, height=1.75, handles=handles, x="alpha (log scale)", y=figure_of.label)
    for cell, axes in zip(cells, axes_of, strict=True):
        own = finished[finished["cell"] == cell]
        _draw_band(axes, own.loc[own["arm"] == plan.baseline, "error"], x=baseline_x)
        for index, (name, style) in enumerate(styles.items()):
            shift = 0.16 * (index - (len(styles) - 1) / 2)  # families at the same alpha stand side by side
            _draw_sweep(axes, own[own["family"] == name], positions, style=style, shift=shift)
        _thin_ticks(axes, {baseline_x: reference.split()[0]} | {x: f"{alpha:g}" for alpha, x in positions.items()})
        axes.set_xlim(baseline_x - 0.5, max(positions.values()) + 0.5)
    without = [arm_name(arm) for arm in plan.arms if arm != plan.baseline and arm not in families]
    caption = (
        f"{sentence_case(figure_of.phrase)} at each alpha; the dashed line and band are {reference}. Below the band is "
        f"better. Bars and band are 95 % t intervals of each mean by itself. Seeds are paired, so a difference can be "
        f"clear although bar and band overlap: verdicts come from the paired differences. Scales differ between panels."
        + (f" Not shown, having no alpha: {', '.join(without)}." if without else "")
    )
    title = f"{sentence_case(figure_of.title)} against alpha"
    alt = f"{title} in {len(cells)} panels, with {reference} as a horizontal band."
    shown = finished[
        finished["cell"].isin(cells) & (finished["arm"].isin(families) | (finished["arm"] == plan.baseline))
    ]
    data = summarised(
        results.trials.loc[shown.index].assign(value=results.column(figure_of.name)),
        "value",
        by=["cell", "arm", "alpha"],
    )
    return Drawing(figure, title, caption, alt, data)


def learning_curves(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Test error after each epoch."""
    plan = results.plan
    points = summarised(results.curves, "test_error", by=["cell", "arm", "epoch"], most=1.0)
    cells = occurring(plan.cells, points["cell"])
    if not cells:
        return None
    styles = arm_styles(results)
    arms = occurring(plan.arms, points["arm"])
    by_condition = curves_by(points, ["cell", "arm"], x="epoch", scale=100)
    figure, axes_of = panels(cells, height=1.75, handles=arm_handles(arms, styles), x="epoch", y="test error (%)")
    for cell, axes in zip(cells, axes_of, strict=True):
        settled: list[NDArray[np.float64]] = []
        own = {
            arm: by_condition[cell, arm] for arm in baseline_last(arms, plan.baseline) if (cell, arm) in by_condition
        }
        for arm, (epochs, mean, low, high) in own.items():
            draw_curve(axes, epochs, mean, low, high, style=styles[arm], markers=False)
            late = epochs > epochs.max() / 2
            settled += [mean[late], low[late & ~np.isnan(low)]]
        _focus(axes, np.concatenate(settled))
        axes.set_xlim(0, max(epochs.max() for epochs, *_ in own.values()))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    caption = (
        "Test error after each epoch: mean over finished seeds, with the 95 % t interval of each mean. A curve that "
        "falls and rises again memorises wrong labels. The first half of training may lie above the panel. Scales "
        "differ between panels."
    )
    alt = f"Learning curves of {len(arms)} methods in {len(cells)} panels: test error per epoch."
    return Drawing(figure, "Learning curves", caption, alt, points)


def _alpha_positions(alphas: Sequence[float]) -> tuple[float, dict[float, float]]:
    """Where the baseline and each alpha stand: by log2, about one unit per alpha, and 0 one unit to the left."""
    positive = [alpha for alpha in alphas if alpha > 0]
    logs = np.log2(positive)
    units = max(1, len(positive) - 1) / max(np.ptp(logs), 1e-9) if len(positive) > 1 else 1.0
    positions = {alpha: float((log - logs[0]) * units) for alpha, log in zip(positive, logs, strict=True)}
    left = 0.0
    if len(positive) < len(alphas):
        left = -1.0
        positions = {0.0: left} | positions
    return left - max(1.0, 0.15 * len(alphas)), positions  # room for the baseline's longer label


def _draw_band(axes: Axes, errors: pd.Series[float], *, x: float) -> None:
    """The baseline: its mean across the panel, its interval as a band, its seeds at `x`."""
    if errors.empty:
        return
    mean = errors.mean()
    half = half_widths(errors.std(), len(errors))
    if not np.isnan(half):
        axes.axhspan(max(0.0, mean - half), mean + half, color=theme.FAINT, alpha=0.7, linewidth=0)
    axes.axhline(mean, color=theme.BASELINE, linestyle="--")
    _seed_dots(axes, np.full(len(errors), x), errors, color=theme.BASELINE)


def _draw_sweep(
    axes: Axes, trials: pd.DataFrame, positions: Mapping[float, float], *, style: Style, shift: float
) -> None:
    """One family of arms: mean and interval at each alpha, the single seeds faintly beside them."""
    summary = trials.groupby("alpha")["error"].agg(["mean", "std", "count"])
    x = summary.index.map(positions).to_numpy() + shift
    mean = summary["mean"].to_numpy()
    half = np.nan_to_num(half_widths(summary["std"], summary["count"]))
    axes.plot(x, mean, color=style.color, linewidth=0.8, alpha=0.5)
    # An error has no interval below zero.
    axes.errorbar(x, mean, yerr=[np.minimum(half, mean), half], fmt=style.marker, color=style.color, elinewidth=1.2)
    _seed_dots(axes, trials["alpha"].map(positions) + shift + 0.13, trials["error"], color=style.color)


def _seed_dots(axes: Axes, x: ArrayLike, y: ArrayLike, *, color: str) -> None:
    axes.plot(x, y, "o", color=color, markersize=2.2, alpha=0.4, markeredgewidth=0)


def _thin_ticks(axes: Axes, ticks: Mapping[float, str]) -> None:
    """A tick at every position, and a label wherever it does not run into the one before."""
    axes.set_xticks(list(ticks))
    span = max(ticks) - min(ticks) + 1
    characters = size_in_inches(axes)[0] / CHARACTER  # that fit side by side at 7 pt
    free_from = -math.inf
    labels = []
    for x, label in ticks.items():
        half = (len(label) + 0.5) / 2 * span / characters
        fits = x - half >= free_from
        labels.append(label if fits else "")
        free_from = x + half if fits else free_from
    axes.set_xticklabels(labels)


def _focus(axes: Axes, errors: NDArray[np.float64]) -> None:
    """Limit the panel to what these errors span, with a margin: the first epochs would flatten all others."""
    low, high = errors.min(), errors.max()
    margin = 0.12 * max(high - low, 0.5)
    axes.set_ylim(max(0.0, low - margin), high + 2 * margin)


def _interval_text(comparison: Comparison, figure_of: Measure) -> str:
    digits = figure_of.digits((comparison.high - comparison.low) / 2)
    texts = [figure_of.text(v, digits, signed=True) for v in (comparison.difference, comparison.low, comparison.high)]
    if math.isnan(comparison.low):
        return typographic(f"{texts[0]}, {'one pair' if comparison.pairs == 1 else 'no spread'}")
    return typographic(f"{texts[0]} [{texts[1]}, {texts[2]}]")


def _forest_limits(shown: Sequence[Comparison], scale: int) -> tuple[float, float]:
    """All means and intervals, whole: an interval that is cut off looks like a narrow one."""
    ends = [scale * end for each in shown for end in (each.low, each.high, each.difference) if not math.isnan(end)]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.06 * (high - low) or 0.5
    return low - max(margin, 0.15 * (high - low) * (low > -margin)), high + max(
        margin, 0.15 * (high - low) * (high < margin)
    )
