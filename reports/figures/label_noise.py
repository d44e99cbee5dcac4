"""Wrong training labels: which ones there are, and whether the networks learn them by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from bench.plan.config import LabelNoiseConfig
from reports import theme
from reports.figures.arms import drawn_arms, line
from reports.figures.cells import by_setting
from reports.figures.drawing import Drawing
from reports.figures.layout import CHARACTER, LEFT, RIGHT, TICKS_HEIGHT, grid, panels, size_in_inches, text_width
from reports.figures.series import draw_epochs, occurring, summarised
from reports.formats import count, percent
from reports.load import LabelNoise, Results
from reports.statistics import Comparison
from reports.theme import Style

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_NUMBERS = 20
"""Up to so many classes each share is written into its square."""

LONGEST_NAME = 12
"""Letters of a class name beside the matrix; a longer one is cut."""

READ_AT = {"last": "last epoch", "val_selected": "selected on validation", "oracle": "oracle: best on test"}
"""Which epoch's test error: what its panels are called."""

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
    alt = f"Matrices of true classes and given labels for {count(len(cells), 'cell')}."
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
    alt = (
        f"Training errors of {count(len(drawn.arms), 'method')} on right and on wrong labels, in "
        f"{count(len(cells), 'row')}."
    )
    data = pd.concat([each.assign(figure=name) for name, each in points.items()])[
        ["figure", *by, "mean", "low", "high", "n"]
    ]
    return Drawing(figure, "Learning wrong labels by heart", caption, alt, data)


def best_and_last(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Test error against the label noise, by the epoch that it is read at: Zhang et al. 2018, Table 2, as a figure.

    Against the rate where all noise is of one kind and has several rates, that of a clean cell included; else cell by
    cell.
    """
    plan = results.plan
    noise = {planned.cell: planned.trial.label_noise for planned in plan.trials}
    names = results.trials[["cell", "arm", "seed"]]
    errors = [names.assign(read_at=name, error=results.column(f"test_error_{name}")) for name in READ_AT]
    points = summarised(pd.concat(errors), "error", by=["cell", "arm", "read_at"], most=1.0)
    groups = by_setting(plan, occurring(plan.cells, points["cell"]))
    groups = {name: cells for name, cells in groups.items() if any(noise[cell].is_noisy for cell in cells)}
    if not groups:
        return None
    shown = [cell for cells in groups.values() for cell in cells]
    points = points[points["cell"].isin(shown)].reset_index(drop=True)
    there = occurring(list(READ_AT), points["read_at"])
    drawn = drawn_arms(results, points["arm"])
    kinds = {noise[cell].kind for cell in shown if noise[cell].is_noisy}
    is_rate = len(kinds) == 1 and all(len({noise[cell].rate for cell in cells}) > 1 for cells in groups.values())
    if is_rate:
        labels = {cell: f"{100 * noise[cell].rate:g}" for cell in shown}
        places = {cell: 100 * noise[cell].rate for cell in shown}
    else:
        labels = {cell: label for cells in groups.values() for cell, label in _noise_labels(cells, noise).items()}
        places = {cell: float(index) for cells in groups.values() for index, cell in enumerate(cells)}
    longest = max(text_width(label, theme.RC["xtick.labelsize"]) for label in labels.values())
    most = max(map(len, groups.values()))
    upright = not is_rate and most * (longest + 0.05) > (theme.FULL_WIDTH - LEFT) / len(there) - RIGHT
    figure, axes_of = grid(
        list(groups),
        [READ_AT[name] for name in there],
        x=f"wrong labels, {next(iter(kinds))} (%)".replace("_", " ") if is_rate else "",
        y=["test error (%)"],
        height=1.5,
        handles=drawn.handles(marked=True),
        ticks_height=0.14 + longest if upright else TICKS_HEIGHT,
    )
    conditions = {key: group.set_index("cell") for key, group in points.groupby(["read_at", "arm"])}
    for cells, row in zip(groups.values(), axes_of, strict=True):
        x = np.array([places[cell] for cell in cells])
        step = (0.04 * np.ptp(x) if is_rate else 0.7) / len(drawn.arms)
        for name, axes in zip(there, row, strict=True):
            for index, arm in enumerate(drawn.arms):
                if (name, arm) in conditions:
                    own = conditions[name, arm].reindex(cells)
                    shift = step * (index - (len(drawn.arms) - 1) / 2)
                    _draw_means(axes, x + shift, own, style=drawn.styles[arm], joined=is_rate)
            axes.set_xticks(x, [labels[cell] for cell in cells])
            if not is_rate:
                axes.tick_params(axis="x", labelrotation=90 if upright else 0)
                axes.set_xlim(-0.5, len(cells) - 0.5)
    selected = "at the epoch that validation selects, whose images carry wrong labels too, " if len(there) > 2 else ""
    caption = (
        f"Test error after the last epoch, {selected}and at the epoch that is best on the test set, as in Table 2 of "
        "Zhang et al. (2018). The last is an oracle: chosen on test data, too low, and not to be had in practice. The "
        "further the last epoch lies above it, the more of what was learned is lost again to wrong labels. Mean over "
        f"seeds with the 95 % t interval of each mean.{drawn.note}"
    )
    alt = (
        f"Test error of {count(len(drawn.arms), 'method')} under {count(len(shown), 'label noise')}, read at "
        f"{count(len(there), 'epoch')}."
    )
    data = points.assign(
        noise=points["cell"].map({cell: noise[cell].kind for cell in shown}),
        rate=points["cell"].map({cell: noise[cell].rate for cell in shown}),
    )
    return Drawing(figure, "Errors under label noise: last and best", caption, alt, data)


def _noise_labels(cells: Sequence[str], noise: Mapping[str, LabelNoiseConfig]) -> dict[str, str]:
    """The noise of each cell, or its whole name where two noises go by one name."""
    names = {cell: noise[cell].display_name.replace("_", " ") for cell in cells}
    return names if len(set(names.values())) == len(names) else {cell: cell for cell in cells}


def _draw_means(axes: Axes, x: NDArray[np.float64], points: pd.DataFrame, *, style: Style, joined: bool) -> None:
    """Means with their intervals, in percent.  joined: by a line.  points: one row for each of `x`, NaN for none."""
    mean, low, high = (100 * points[name].to_numpy(dtype=float) for name in ("mean", "low", "high"))
    axes.vlines(x, low, high, color=style.color, linewidth=0.9)
    options = line(style) if joined else line(style) | {"linestyle": ""}
    axes.plot(x, mean, markersize=3, linewidth=1.0, **options)


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
