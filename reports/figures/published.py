"""What methods change, here and in the literature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import theme
from reports.figures.drawing import Drawing
from reports.figures.layout import (
    INDENT,
    LEFTMOST,
    LEGEND_LINE,
    WIDEST_LABEL,
    listed_height,
    listed_lines,
    text_width,
)
from reports.formats import count
from reports.load import Results
from reports.measures import measure
from reports.published.matching import Match, matches
from reports.published.section import DOUBT_MARK, EPOCHS, source_name
from reports.statistics import Comparison
from reports.wording import arm_name

MOST_ROWS = 40
"""With more rows than this the figure would fill more than a page."""

ATTACKED = ("adv_", "transfer_")

MARKERS = "sD^vPX<>*pd8"
"""Of the sources, in turn: no fewer than one data set and network have, since grey paper does not tell hues apart."""


def published(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Our effect with its interval, and the published ones beside it, a row per method and figure."""
    matching = matches(results)
    found = _drawn(matching)
    if not found:
        return None
    by_row: dict[tuple[str, str, str], list[Match]] = {}
    for each in found:
        by_row.setdefault((each.cell, each.arm, each.metric), []).append(each)
    shown = dict(itertools.islice(by_row.items(), MOST_ROWS))
    sources = list(dict.fromkeys(source_name(each) for own in shown.values() for each in own))
    looks = zip(itertools.cycle(theme.HUES), itertools.cycle(MARKERS), strict=False)
    styles = dict(zip(sources, looks, strict=False))
    rows: list[str | tuple[str, str, str]] = []
    for cell in dict.fromkeys(cell for cell, _, _ in shown):
        rows += [cell, *(key for key in shown if key[0] == cell)]
    size = theme.RC["font.size"]
    labels = [
        listed_lines(row, is_cell=True) if isinstance(row, str) else listed_lines(_row_name(row), is_cell=False)
        for row in rows
    ]
    widest = max(text_width(part, size) for row, label in zip(rows, labels, strict=True) for part in label if row)
    left = 0.35 + min(WIDEST_LABEL, widest)
    handles = [Line2D([], [], color=theme.INK, marker="o", markersize=5, label="here, with 95 % interval")]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            color=styles[source][0],
            marker=styles[source][1],
            markerfacecolor="white",
            label=source,
        )
        for source in sources
    ]
    longest = max(text_width(str(each.get_label()), theme.RC["legend.fontsize"]) for each in handles)
    columns = max(1, int((theme.FULL_WIDTH - 0.3) / (longest + 0.55)))
    top = 0.2 + LEGEND_LINE * math.ceil(len(handles) / columns)
    bottom, row_height, right = 0.45, 0.2, 0.15
    heights = [listed_height(label) for label in labels]
    places = np.cumsum(heights) - 0.5 * np.array(heights) - 0.5
    height = top + bottom + row_height * sum(heights)
    plot_width = theme.FULL_WIDTH - left - right
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    axes = figure.add_axes(
        (left / theme.FULL_WIDTH, bottom / height, plot_width / theme.FULL_WIDTH, 1 - (top + bottom) / height)
    )
    beside = axes.get_yaxis_transform()
    for y, row, label in zip(places.tolist(), rows, labels, strict=True):
        inset = LEFTMOST if isinstance(row, str) else INDENT
        axes.text((inset - left) / plot_width, y, "\n".join(label), transform=beside, va="center", linespacing=1.05)
        if isinstance(row, str):
            continue
        ours = shown[row][0].effect
        assert ours is not None
        if not math.isnan(ours.low):
            axes.plot([100 * ours.low, 100 * ours.high], [y, y], color=theme.INK, linewidth=1.2, solid_capstyle="butt")
        axes.plot(100 * ours.ours, y, "o", color=theme.INK, markersize=5)
        for each in shown[row]:
            assert each.effect is not None
            color, marker = styles[source_name(each)]
            mark = DOUBT_MARK if each.published.is_doubtful else ""
            axes.plot(
                100 * each.effect.published, y, marker, color=color, markerfacecolor="none", markersize=5.5, zorder=4
            )
            if mark:
                axes.annotate(mark, (100 * each.effect.published, y), (3, 0), textcoords="offset points", fontsize=8)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_ylim(sum(heights) - 0.4, -0.6)
    axes.margins(x=0.06)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    reference = arm_name(results.plan.baseline)
    axes.set_xlabel(f"method minus {reference} (percentage points)")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.02, 1),
        ncols=columns,
        borderaxespad=0.3,
        columnspacing=1.5,
    )
    doubt = f" {DOUBT_MARK} second-hand or from memory." if any(e.published.is_doubtful for e in found) else ""
    if {each.metric for each in matching if each.metric.startswith(ATTACKED)} - {each.metric for each in found}:
        doubt += " Errors under attack, whose effects are many times as large, stand in the table alone."
    rest = f" The first {MOST_ROWS} of {len(by_row)} rows; the CSV has all." if len(by_row) > MOST_ROWS else ""
    caption = (
        f"What each method changes against {reference}: here, the mean difference over pairs with its 95 % interval, "
        "and in the literature (hollow marks), each within its own protocol. What differs between the protocols stands "
        f"in the report's section on published numbers; none of it is in the interval.{doubt}{rest}"
    )
    alt = f"Effects of {len(shown)} methods and figures here, beside published ones of {count(len(sources), 'table')}."
    return Drawing(figure, "Effects beside published ones", caption, alt, _data(found))


def _drawn(found: Sequence[Match]) -> list[Match]:
    """Those of one unit, and of effects alike in size.

    Without training errors: those on wrong labels, of tens of points, would flatten all others. So would errors under
    attack, which are drawn where there is nothing else.
    """
    in_points = [each for each in found if each.effect and measure(each.metric).unit == "%"]
    tested = [each for each in in_points if not each.metric.startswith("train_error")]
    return [each for each in tested if not each.metric.startswith(ATTACKED)] or tested


def _row_name(row: tuple[str, str, str]) -> str:
    _, arm, metric = row
    epoch = EPOCHS.get(metric)
    return f"{arm_name(arm)}, {epoch or measure(metric).title}"


def _data(found: Sequence[Match]) -> pd.DataFrame:
    rows = []
    for each in found:
        effect = each.effect
        assert effect is not None
        ours = (effect.ours, effect.low, effect.high, effect.n)
        rows.append(
            (each.cell, each.arm, each.metric, *ours, effect.published, source_name(each), each.published.trust)
        )
    columns = ["cell", "arm", "metric", "effect", "low", "high", "pairs", "published_effect", "source", "trust"]
    return pd.DataFrame(rows, columns=columns)
