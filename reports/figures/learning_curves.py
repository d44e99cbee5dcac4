"""How the test error develops, and at which epochs it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports import theme
from reports.figures.arms import DrawnArms, drawn_arms
from reports.figures.drawing import Drawing
from reports.figures.layout import own_scales, panels
from reports.figures.series import curves_by, draw_curves, occurring, summarised
from reports.formats import count
from reports.load import Results
from reports.statistics import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "last": ("last epoch", {"marker": "s", "markersize": 3.2, "markeredgewidth": 0}),
    "val_selected": (
        "selected on validation",
        {"marker": "^", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 0.9},
    ),
    "oracle": ("oracle: best on test", {"marker": "*", "markersize": 6, "markeredgewidth": 0}),
}
"""The epochs that a curve is read at: words, and the look of the mark."""


def learning_curves(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Test error after each epoch, with the epochs that it is read at."""
    plan = results.plan
    points = summarised(results.curves, "test_error", by=["cell", "arm", "epoch"], most=1.0)
    cells = occurring(plan.cells, points["cell"])
    if not cells:
        return None
    drawn = drawn_arms(results, points["arm"])
    by_condition = curves_by(points, ["cell", "arm"], x="epoch", scale=100)
    read_at = _read_at(results.curves)
    there = occurring(list(MARKS), read_at["mark"])
    marks = [Line2D([], [], color=theme.INK, linestyle="", label=MARKS[name][0], **MARKS[name][1]) for name in there]
    figure, axes_of = panels(cells, height=1.75, handles=[*drawn.handles(), *marks], x="epoch", y="test error (%)")
    for cell, axes in zip(cells, axes_of, strict=True):
        settled: list[NDArray[np.float64]] = []
        own = {arm: by_condition[cell, arm] for arm in drawn.arms if (cell, arm) in by_condition}
        draw_curves(axes, own, drawn)
        _draw_marks(axes, own, read_at[read_at["cell"] == cell], drawn)
        for epochs, mean, low, _ in own.values():
            late = epochs > epochs.max() / 2
            settled += [mean[late], *([low[late & ~np.isnan(low)]] if drawn.has_bands else [])]
        _focus(axes, np.concatenate(settled))
        axes.set_xlim(0, max(epochs.max() for epochs, *_ in own.values()))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    memorises = "A curve that falls and rises again memorises wrong labels. " if results.label_noise else ""
    validation = "validation selects and the one that " if "val_selected" in there else ""
    caption = (
        f"Test error after each epoch: {drawn.means}. {memorises}The "
        "first half of training may lie above the panel. The marks stand at the last epoch and, as medians over seeds, "
        f"at the epoch that {validation}is best on test (oracle), which cannot be had in "
        f"practice.{own_scales(len(cells))}{drawn.note}"
    )
    alt = (
        f"Learning curves of {count(len(drawn.arms), 'method')} in {count(len(cells), 'panel')}: test error per epoch."
    )
    marked = read_at.groupby(["cell", "arm", "epoch"])["mark"].agg(" ".join)
    return Drawing(figure, "Learning curves", caption, alt, points.join(marked, on=["cell", "arm", "epoch"]))


def _read_at(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, arm and mark: the last epoch, or the median over seeds of the epoch that would be chosen.

    Chosen as in training: by the lowest validation error, among equals the lowest NLL, then the earliest.
    """
    curves = curves[curves["test_error"].notna()]
    of_trial = ["cell", "arm", "seed"]
    chosen = {
        "last": curves.sort_values("epoch", ascending=False),
        "val_selected": curves[curves["val_error"].notna()].sort_values(["val_error", "val_nll", "epoch"]),
        "oracle": curves.sort_values(["test_error", "epoch"]),
    }
    parts = []
    for name, frame in chosen.items():
        epochs = frame.drop_duplicates(of_trial).groupby(["cell", "arm"])["epoch"]
        parts.append(epochs.quantile(0.5, interpolation="lower").reset_index().assign(mark=name))
    return pd.concat([part for part in parts if len(part)])


def _draw_marks(axes: Axes, curves: Mapping[str, Any], read_at: pd.DataFrame, drawn: DrawnArms) -> None:
    """On the curves of one panel."""
    for arm, name, epoch in read_at[["arm", "mark", "epoch"]].itertuples(index=False):
        if arm in curves:
            epochs, mean, *_ = curves[arm]
            color = drawn.styles[arm].color
            # The last one stands on the panel's edge.
            options = MARKS[name][1] | {"color": color, "linestyle": "", "clip_on": name != "last", "zorder": 3}
            axes.plot([epoch], mean[epochs == epoch], **options)


def _focus(axes: Axes, errors: NDArray[np.float64]) -> None:
    """Limit the panel to what these errors span, with a margin: the first epochs would flatten all others."""
    low, high = errors.min(), errors.max()
    margin = 0.12 * max(high - low, 0.5)
    axes.set_ylim(max(0.0, low - margin), high + 2 * margin)
