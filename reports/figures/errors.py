"""The figure of the suite's own question: every difference with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports import theme
from reports.figures.drawing import Drawing
from reports.figures.layout import shade, text_width, wrapped
from reports.figures.svg import labelled
from reports.formats import count, typographic
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import BETTER, PRACTICALLY_EQUAL, WORSE, Comparison
from reports.wording import arm_name, effect_in_words

WIDEST_LABEL = 2.6
"""Inches; a longer name of a method has several lines in the forest plot."""


def forest(results: Results, comparisons: Sequence[Comparison]) -> Drawing | None:
    """Every paired difference with its interval, one row each."""
    shown = [each for each in comparisons if each.pairs]
    if not shown:
        return None
    rows: list[Comparison | str] = []
    for cell in results.plan.cells:
        of_cell = [each for each in shown if each.cell == cell]
        rows += [cell, *of_cell] if of_cell else []
    size = theme.RC["font.size"]
    labels = [[row] if isinstance(row, str) else wrapped(arm_name(row.arm), size, width=WIDEST_LABEL) for row in rows]
    left = 0.35 + min(WIDEST_LABEL, max(text_width(part, size) for label in labels for part in label))
    figure_of = measure(results.plan.suite.report.metric)
    scale = figure_of.scale
    right, top, bottom, row_height = 1.75, 0.3, 0.45, 0.185
    heights = [1 + 0.65 * (len(label) - 1) for label in labels]  # in rows of one line
    places = np.cumsum(heights) - 0.5 * np.array(heights) - 0.5
    height = top + bottom + row_height * sum(heights)
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    plot_width = theme.FULL_WIDTH - left - right
    axes = figure.add_axes(
        (left / theme.FULL_WIDTH, bottom / height, plot_width / theme.FULL_WIDTH, 1 - (top + bottom) / height)
    )
    beside = axes.get_yaxis_transform()
    for y, row, label in zip(places.tolist(), rows, labels, strict=True):
        if isinstance(row, str):
            axes.text((0.08 - left) / plot_width, y, row, transform=beside, va="center")
            continue
        color = {BETTER: theme.BETTER, WORSE: theme.WORSE}.get(row.verdict, theme.BASELINE)
        if not math.isnan(row.low):
            axes.plot([scale * row.low, scale * row.high], [y, y], color=color, linewidth=1.4, solid_capstyle="butt")
        face = color if row.verdict in (BETTER, WORSE) else "white"
        marker = "D" if row.verdict == PRACTICALLY_EQUAL else "o"
        (point,) = axes.plot(scale * row.difference, y, marker, color=color, markerfacecolor=face, markersize=5)
        interval = _interval_text(row, figure_of)
        labelled(point, [f"{arm_name(row.arm)}, {row.cell}: {interval}, {count(row.pairs, 'pair')}"])
        axes.text((0.2 - left) / plot_width, y, "\n".join(label), transform=beside, va="center", linespacing=1.05)
        axes.text(1.04, y, interval, transform=beside, va="center", fontsize=7.5)
    smallest = results.plan.suite.report.smallest_effect
    if smallest is not None:
        shade(axes, -scale * smallest, scale * smallest)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_xlim(_forest_limits(shown, scale, smallest=smallest or 0.0))
    axes.set_ylim(sum(heights) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    reference = arm_name(results.plan.baseline)
    axes.set_xlabel(figure_of.difference_label.replace(figure_of.title, f"{figure_of.title} from {reference}", 1))
    axes.text(0, -0.75, "← better   ", ha="right", va="bottom", color=theme.BETTER, clip_on=False)
    axes.text(0, -0.75, "   worse →", ha="left", va="bottom", color=theme.WORSE, clip_on=False)
    kind = "interval, adjusted for looking after every seed" if results.plan.suite.stopping else "paired t interval"
    caption = (
        f"Each row is one method against {reference} in the same cell: the mean difference over seeds that both "
        f"finished, with its 95 % {kind}. Left of the line the method has the lower "
        f"{figure_of.title}. Filled points are "
        f"clear after Holm's adjustment over all comparisons, hollow ones are not; an interval shows one comparison "
        f"alone, so it can miss zero where the verdict is still open."
    )
    if smallest is not None:
        caption += (
            f" Band: differences of less than {effect_in_words(smallest, figure_of)}, which do not matter; diamonds "
            "are practically equal."
        )
    clear = sum(each.verdict in (BETTER, WORSE) for each in shown)
    alt = (
        f"Forest plot of {count(len(shown), 'paired difference')} from {reference}; "
        f"{clear} are clear. Numbers in the table."
    )
    columns = ["cell", "arm", "pairs", "difference", "low", "high", "holm_p", "verdict"]
    data = pd.DataFrame([[getattr(each, column) for column in columns] for each in shown], columns=columns)
    return Drawing(figure, "Paired differences", caption, alt, data)


def _interval_text(comparison: Comparison, figure_of: Measure) -> str:
    digits = figure_of.digits((comparison.high - comparison.low) / 2)
    texts = [figure_of.text(v, digits, signed=True) for v in (comparison.difference, comparison.low, comparison.high)]
    if math.isnan(comparison.low):
        return typographic(f"{texts[0]}, {'one pair' if comparison.pairs == 1 else 'no spread'}")
    return typographic(f"{texts[0]} [{texts[1]}, {texts[2]}]")


def _forest_limits(shown: Sequence[Comparison], scale: int, *, smallest: float) -> tuple[float, float]:
    """All means and intervals, and what is too small to matter, whole: what is cut off looks narrower than it is."""
    ends = [scale * end for each in shown for end in (each.low, each.high, each.difference) if not math.isnan(end)]
    ends += [-scale * smallest, scale * smallest]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.06 * (high - low) or 0.5
    return low - max(margin, 0.15 * (high - low) * (low > -margin)), high + max(
        margin, 0.15 * (high - low) * (high < margin)
    )
