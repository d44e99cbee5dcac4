"""The figure of the suite's own question: every difference with its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports import theme
from reports.figures.drawing import Drawing
from reports.figures.layout import INDENT, LEFTMOST, WIDEST_LABEL, listed_height, listed_lines, shade, text_width
from reports.figures.svg import labelled
from reports.formats import count, typographic
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import BETTER, PRACTICALLY_EQUAL, WORSE, Comparison
from reports.wording import arm_name, effect_in_words

MOST_LINES = 60
"""So many fill a page and some more; of more, the cells that fit are drawn, and the first in any case."""


def forest(results: Results, comparisons: Sequence[Comparison]) -> Drawing | None:
    """Every paired difference with its interval, one row each."""
    shown = [each for each in comparisons if each.pairs]
    if not shown:
        return None
    missing = len(comparisons) - len(shown)
    by_cell = {cell: [each for each in shown if each.cell == cell] for cell in results.plan.cells}
    by_cell = {cell: own for cell, own in by_cell.items() if own}
    num_cells = len(by_cell)
    by_cell = _first_cells(by_cell)
    shown = [each for own in by_cell.values() for each in own]
    rows: list[Comparison | str] = []
    for cell, own in by_cell.items():
        rows += [cell, *own]
    labels = [_label(row) for row in rows]
    size = theme.RC["font.size"]
    left = 0.35 + min(WIDEST_LABEL, max(text_width(part, size) for label in labels for part in label))
    figure_of = measure(results.plan.suite.report.metric)
    scale = figure_of.scale
    right, top, bottom, row_height = 1.75, 0.3, 0.45, 0.185
    heights = [listed_height(label) for label in labels]
    places = np.cumsum(heights) - 0.5 * np.array(heights) - 0.5
    height = top + bottom + row_height * sum(heights)
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    plot_width = theme.FULL_WIDTH - left - right
    axes = figure.add_axes(
        (left / theme.FULL_WIDTH, bottom / height, plot_width / theme.FULL_WIDTH, 1 - (top + bottom) / height)
    )
    beside = axes.get_yaxis_transform()
    for y, row, label in zip(places.tolist(), rows, labels, strict=True):
        text: dict[str, Any] = {"transform": beside, "va": "center", "linespacing": 1.05}
        if isinstance(row, str):
            # On white, since a long one reaches into the plot, up to the line at zero and beyond.
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.text((LEFTMOST - left) / plot_width, y, "\n".join(label), bbox=white, **text)
            continue
        color = {BETTER: theme.BETTER, WORSE: theme.WORSE}.get(row.verdict, theme.BASELINE)
        if not math.isnan(row.low):
            axes.plot([scale * row.low, scale * row.high], [y, y], color=color, linewidth=1.4, solid_capstyle="butt")
        face = color if row.verdict in (BETTER, WORSE) else "white"
        marker = "D" if row.verdict == PRACTICALLY_EQUAL else "o"
        (point,) = axes.plot(scale * row.difference, y, marker, color=color, markerfacecolor=face, markersize=5)
        interval = _interval_text(row, figure_of)
        labelled(point, [f"{arm_name(row.arm)}, {row.cell}: {interval}, {count(row.pairs, 'pair')}"])
        axes.text((INDENT - left) / plot_width, y, "\n".join(label), **text)
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
    if missing:
        caption += f" Left out, having no pair: {count(missing, 'comparison')}."
    if len(by_cell) < num_cells:
        caption += f" The first {len(by_cell)} of {num_cells} cells are drawn; comparison.csv compares all."
    clear = sum(each.verdict in (BETTER, WORSE) for each in shown)
    differences = count(len(shown), "paired difference")
    alt = f"Forest plot of {differences} from {reference}, {clear} clear. Numbers in the table."
    columns = ["cell", "arm", "pairs", "difference", "low", "high", "holm_p", "verdict"]
    data = pd.DataFrame([[getattr(each, column) for column in columns] for each in shown], columns=columns)
    return Drawing(figure, "Paired differences", caption, alt, data)


def _label(row: Comparison | str) -> list[str]:
    """The lines of a cell's name or of a method's."""
    if isinstance(row, str):
        return listed_lines(row, is_cell=True)
    return listed_lines(arm_name(row.arm), is_cell=False)


def _first_cells(by_cell: Mapping[str, list[Comparison]]) -> dict[str, list[Comparison]]:
    """Those that fit in MOST_LINES, and at least one."""
    heights = [
        listed_height(_label(cell)) + sum(listed_height(_label(each)) for each in own) for cell, own in by_cell.items()
    ]
    fitting = int(np.sum(np.cumsum(heights) <= MOST_LINES))
    return dict(itertools.islice(by_cell.items(), max(1, fitting)))


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
