"""What networks do on the lines between training images."""

from __future__ import annotations

from collections.abc import Sequence

from reports.figures.drawing import Drawing
from reports.figures.layout import arm_handles, arm_styles, grid
from reports.figures.series import baseline_last, curves_by, draw_curve, occurring, summarised
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
    styles, arms = arm_styles(results), occurring(plan.arms, points["miss"]["arm"])
    labels = [label for label, _, _ in PARTS.values()]
    handles = arm_handles(arms, styles)
    figure, axes_of = grid(cells, ["", ""], x="lam", y=labels, height=1.4, handles=handles)
    for column, (name, (_, scale, _)) in enumerate(PARTS.items()):
        curves = curves_by(points[name], ["cell", "arm"], x="lam", scale=scale)
        for cell, row in zip(cells, axes_of, strict=True):
            for arm in baseline_last(arms, plan.baseline):
                if (cell, arm) in curves:
                    draw_curve(row[column], *curves[cell, arm], style=styles[arm], markers=False)
            row[column].set_xlim(0, 1)
            row[column].set_ylim(bottom=0)
    num_pairs = results.in_between["num_pairs"].max()
    caption = (
        f"At points lam * x_i + (1 - lam) * x_j between {num_pairs:,.0f} pairs of training images. Left: the share "
        "whose predicted class is neither that of x_i nor that of x_j. Right: the norm of the loss's gradient with "
        "respect to the pixels. Mean over seeds with the 95 % t interval of each mean, after Figure 2 of Zhang "
        "et al. (2018)."
    )
    alt = f"Misses and gradient norms of {len(arms)} methods between training images, in {len(cells)} rows."
    data = points["miss"].merge(points["gradient_norm"], on=by, suffixes=("_miss", "_gradient_norm"), how="outer")
    return Drawing(figure, "Between training images", caption, alt, data)
