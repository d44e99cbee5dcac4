"""What networks do on the lines between training images."""

from __future__ import annotations

from collections.abc import Sequence

from reports.figures.arms import drawn_arms
from reports.figures.drawing import Drawing
from reports.figures.layout import grid
from reports.figures.series import curves_by, draw_curves, occurring, summarised
from reports.formats import count
from reports.load import Results
from reports.statistics import Comparison

PARTS = {"miss": ("misses (%)", 100, 1.0), "gradient_norm": ("gradient norm", 1, float("inf"))}
"""By column: axis label, scale, and the most that it can be."""


def in_between(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Misses and gradient norms at lam * x_i + (1 - lam) * x_j, as in Figure 2 of Zhang et al. 2018."""
    plan = results.plan
    by = ["cell", "arm", "lam"]
    points = {name: summarised(results.in_between, name, by=by, most=most) for name, (_, _, most) in PARTS.items()}
    cells = occurring(plan.cells, points["miss"]["cell"])
    if not cells:
        return None
    drawn = drawn_arms(results, points["miss"]["arm"])
    labels = [label for label, _, _ in PARTS.values()]
    figure, axes_of = grid(cells, ["", ""], x="lam", y=labels, height=1.4, handles=drawn.handles())
    for column, (name, (_, scale, _)) in enumerate(PARTS.items()):
        curves = curves_by(points[name], ["cell", "arm"], x="lam", scale=scale)
        for cell, row in zip(cells, axes_of, strict=True):
            own = {arm: curves[cell, arm] for arm in drawn.arms if (cell, arm) in curves}
            draw_curves(row[column], own, drawn)
            row[column].set_xlim(0, 1)
            row[column].set_ylim(bottom=0)
    num_pairs = results.in_between["num_pairs"].max()
    caption = (
        f"At points lam * x_i + (1 - lam) * x_j between {num_pairs:,.0f} pairs of training images. Left: the share "
        "whose predicted class is neither that of x_i nor that of x_j. Right: the norm of the loss's gradient with "
        f"respect to the pixels. After Figure 2 of Zhang et al. (2018): {drawn.means}.{drawn.note}"
    )
    alt = (
        f"Misses and gradient norms of {count(len(drawn.arms), 'method')} between training images, in "
        f"{count(len(cells), 'row')}."
    )
    data = points["miss"].merge(points["gradient_norm"], on=by, suffixes=("_miss", "_gradient_norm"), how="outer")
    return Drawing(figure, "Between training images", caption, alt, data)
