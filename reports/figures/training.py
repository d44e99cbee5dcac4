"""What training saw: the error on its own batches, and the mixing weights that they had."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.ticker import MaxNLocator

from reports.figures.drawing import Drawing
from reports.figures.layout import arm_handles, arm_styles, grid, panels
from reports.figures.series import baseline_last, curves_by, draw_curve, occurring, summarised
from reports.load import Results
from reports.statistics import Comparison
from reports.wording import arm_name

ERRORS = {"train_error_mixed": "training, as trained", "val_error": "validation", "test_error": "test"}
"""By column of the curves: what its panels are called."""


def training_errors(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error on the training batches, on validation and on test, as training goes on."""
    plan, by = results.plan, ["cell", "arm", "epoch"]
    points = {name: summarised(results.curves, name, by=by, most=1.0) for name in ERRORS}
    cells = occurring(plan.cells, points["train_error_mixed"]["cell"])
    if not cells:
        return None
    there = [name for name, each in points.items() if len(each)]
    styles, arms = arm_styles(results), occurring(plan.arms, points["test_error"]["arm"])
    titles = [ERRORS[name] for name in there]
    figure, axes_of = grid(cells, titles, x="epoch", y=["error (%)"], height=1.3, handles=arm_handles(arms, styles))
    for column, name in enumerate(there):
        curves = curves_by(points[name], ["cell", "arm"], x="epoch", scale=100)
        for cell, row in zip(cells, axes_of, strict=True):
            for arm in baseline_last(arms, plan.baseline):
                if (cell, arm) in curves:
                    draw_curve(row[column], *curves[cell, arm], style=styles[arm], markers=False)
            row[column].set_xlim(left=0)
            row[column].set_ylim(bottom=0)
            row[column].xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    caption = (
        "Error after each epoch. Left: on the epoch's own training batches, mixed and augmented as they were trained "
        "on, one minus the weight of the labels that were predicted. A method that mixes stays high there without "
        "underfitting, since the labels of a mixed image cannot all be predicted. The other panels: on images as they "
        "are. Mean over seeds with the 95 % t interval of each mean."
    )
    alt = f"Error per epoch of {len(arms)} methods on {', '.join(titles)}, in {len(cells)} rows."
    data = pd.concat([points[name].assign(figure=name) for name in there])[["figure", *by, "mean", "low", "high", "n"]]
    return Drawing(figure, "Errors on what training saw", caption, alt, data)


def lam(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The mixing weights of each arm that mixes, as a histogram over all its trials."""
    counts = results.lam.groupby(["arm", "lower", "upper"], sort=False)["count"].sum().reset_index()
    counts = counts[counts.groupby("arm")["count"].transform("sum") > 0]
    arms = occurring(results.plan.arms, counts["arm"])
    if not arms:
        return None
    share = counts["count"] / counts.groupby("arm")["count"].transform("sum")
    counts = counts.assign(share=share).sort_values("lower", kind="stable")
    styles = arm_styles(results)
    titles = [arm_name(arm) for arm in arms]
    figure, axes_of = panels(titles, height=0.95, x="lam", y="share (%)")
    for arm, axes in zip(arms, axes_of, strict=True):
        own = counts[counts["arm"] == arm]
        edges = [*own["lower"], own["upper"].iloc[-1]]
        axes.stairs(100 * own["share"], edges, fill=True, color=styles[arm].color, alpha=0.35)
        axes.stairs(100 * own["share"], edges, color=styles[arm].color, linewidth=1.2)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    caption = (
        "How often each weight lam of the image that was not permuted came up in training, in bins of "
        f"{counts['upper'].iloc[0] - counts['lower'].iloc[0]:g}, over all cells and seeds. Near 0 and 1 one image "
        "prevails; near 1/2 both count alike. Scales differ between panels."
    )
    alt = f"Histograms of lam for {len(arms)} methods."
    order = {arm: place for place, arm in enumerate(arms)}
    data = counts.sort_values("arm", key=lambda column: column.map(order), kind="stable")
    return Drawing(figure, "Mixing weights in training", caption, alt, data)
