"""Wrong training labels: which ones there are, and whether the networks learn them by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from reports.figures.arms import drawn_arms
from reports.figures.drawing import Drawing
from reports.figures.layout import CHARACTER, grid, panels, size_in_inches
from reports.figures.series import draw_epochs, occurring, summarised
from reports.formats import percent
from reports.load import LabelNoise, Results
from reports.statistics import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_NUMBERS = 20
"""Up to so many classes each share is written into its square."""

LONGEST_NAME = 12
"""Letters of a class name beside the matrix; a longer one is cut."""

MEMORY = {
    "train_error_clean_labels": "right labels",
    "train_error_wrong_labels": "wrong labels, as given",
    "train_error_wrong_vs_true": "wrong labels, against the true class",
}


def transitions(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """For each noisy cell, which given labels each class has in truth."""
    by_cell: dict[str, list[LabelNoise]] = {}
    for each in results.label_noise:
        by_cell.setdefault(each.cell, []).append(each)
    cells = [cell for cell in results.plan.cells if cell in by_cell]
    if not cells:
        return None
    shares = {cell: mean_transitions(by_cell[cell]) for cell in cells}
    most_classes = max(len(each) for each in shares.values())
    named = most_classes <= MOST_NUMBERS
    longest = max(len(name[:LONGEST_NAME]) for cell in cells for name in by_cell[cell][0].class_names)
    margin = 0.3 + (CHARACTER * longest if named else 0.2)
    columns = min(3 if most_classes <= 10 else 2, len(cells))
    titles = [
        f"{cell}\nnominal {_rate(by_cell[cell], 'nominal_rate')}, realised {_rate(by_cell[cell], 'realised_rate')}"
        for cell in cells
    ]
    figure, axes_of = panels(titles, x="given label", y="true class", columns=columns, left=margin, bottom=margin)
    for cell, axes in zip(cells, axes_of, strict=True):
        _draw_matrix(axes, shares[cell], by_cell[cell][0].class_names, named=named)
    caption = (
        "Share of the training images of each true class (row) that have each label (column), in percent: mean over "
        "seeds. The share of wrong labels, nominal and realised, stands above. Darker is more; the scale favours small "
        "shares, so that the wrong labels can be seen."
    )
    alt = f"Matrices of true classes and given labels for {len(cells)} cells."
    rows = []
    for cell in cells:
        names = by_cell[cell][0].class_names
        rows += [
            (cell, true, given, shares[cell][i, j]) for i, true in enumerate(names) for j, given in enumerate(names)
        ]
    data = pd.DataFrame(rows, columns=["cell", "true_class", "given_label", "share"])
    return Drawing(figure, "Wrong labels", caption, alt, data)


def mean_transitions(noise: Sequence[LabelNoise]) -> NDArray[np.float64]:
    """(K, K): the share of each true class (row) that has each label (column), averaged over seeds; rows sum to 1.

    A class without training images has NaN.
    """
    shares = []
    for each in noise:
        totals = each.matrix.sum(axis=1, keepdims=True)
        shares.append(np.divide(each.matrix, totals, out=np.full_like(each.matrix, np.nan), where=totals > 0))
    return np.asarray(np.mean(shares, axis=0))


def memorisation(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Training errors on images with right and with wrong labels, as training goes on."""
    plan = results.plan
    by = ["cell", "arm", "epoch"]
    noisy = {planned.cell for planned in plan.trials if planned.trial.label_noise.is_noisy}
    curves = results.curves[results.curves["cell"].isin(noisy)]
    points = {name: summarised(curves, name, by=by, most=1.0) for name in MEMORY}
    cells = occurring(plan.cells, points["train_error_wrong_labels"]["cell"])
    if not cells:
        return None
    drawn = drawn_arms(results, points["train_error_wrong_labels"]["arm"])
    titles = list(MEMORY.values())
    figure, axes_of = grid(cells, titles, x="epoch", y=["training error (%)"], height=1.3, handles=drawn.handles())
    draw_epochs(axes_of, list(points.values()), cells, drawn)
    for row in axes_of:
        for axes in row:
            axes.set_ylim(0, 100)
    caption = (
        "Errors on training images, without augmentation. Middle: against the wrong labels as given; where the curve "
        "falls, the network learns them by heart. Right: the share of wrongly labelled images whose true class the "
        "network does not predict, which is low where it generalises past the wrong labels. Over a sample of each "
        f"group: {drawn.means}.{drawn.note}"
    )
    alt = f"Training errors of {len(drawn.arms)} methods on right and on wrong labels, in {len(cells)} rows."
    data = pd.concat([each.assign(figure=name) for name, each in points.items()])[
        ["figure", *by, "mean", "low", "high", "n"]
    ]
    return Drawing(figure, "Learning wrong labels by heart", caption, alt, data)


def _rate(noise: Sequence[LabelNoise], name: str) -> str:
    return f"{percent(float(np.mean([getattr(each, name) for each in noise])), 1)} %"


def _draw_matrix(axes: Axes, shares: NDArray[np.float64], names: Sequence[str], *, named: bool) -> None:
    num_classes = len(shares)
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    if not named:
        axes.set_xticks([0, num_classes - 1])
        axes.set_yticks([0, num_classes - 1])
        return
    cut = [name[:LONGEST_NAME] for name in names]
    rotation = 90 if max(map(len, cut)) > 2 else 0
    axes.set_xticks(range(num_classes), cut, rotation=rotation, fontsize=6.5)
    axes.set_yticks(range(num_classes), cut, fontsize=6.5)
    axes.tick_params(length=0, pad=2)
    size = min(6.5, 45 * size_in_inches(axes)[0] / num_classes)
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share) and round(100 * share):
            color = "white" if share > 0.4 else "#222222"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=color)
