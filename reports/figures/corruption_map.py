"""The error under each corruption as a map of kinds and severities, and how each method differs from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize

from reports import theme
from reports.figures.drawing import Drawing
from reports.figures.layout import grid, text_width, wrapped
from reports.figures.robustness import KINDS
from reports.figures.series import occurring
from reports.formats import count, percent, typographic
from reports.load import CLEAN, Results
from reports.statistics import Comparison
from reports.wording import arm_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_MAPS = 3
"""Beside the baseline's: more have no room for their numbers."""

MOST_MAPPED_CELLS = 3
"""A row of maps is as tall as three of other panels, and takes as long to draw as a whole figure of those."""

DIFFERENCES = LinearSegmentedColormap.from_list("differences", (theme.BETTER, "#ffffff", theme.WORSE))
"""Blue and orange differ for colour-blind eyes; on grey paper the sign of the number tells them apart."""

ROW_HEIGHT, NUMBER_SIZE = 0.125, 5.5
"""Inches of a kind, and points of its numbers."""


def corruption_map(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Kind by severity: the baseline's error, and the mean paired difference of each method from it."""
    plan = results.plan
    means, differences = _means_and_differences(results)
    cells = occurring(plan.cells, means["cell"])
    if not cells:
        return None
    arms = occurring(plan.arms, differences["arm"])
    averages = differences.groupby("arm")["difference"].mean()
    best = sorted(arms, key=lambda arm: averages[arm])[:MOST_MAPS]
    shown, drawn = [arm for arm in arms if arm in best], cells[:MOST_MAPPED_CELLS]
    kinds = occurring([kind for group in KINDS.values() for kind in group], means["kind"])
    severities = sorted(means["severity"].unique())
    labels = [kind.replace("_", " ") for kind in kinds]
    left = 0.18 + max(text_width(label, 6.5) for label in labels)
    reference = arm_name(plan.baseline)
    in_cells = differences["cell"].isin(drawn) & differences["arm"].isin(shown)
    numbers = [_text(value, signed=True) for value in differences.loc[in_cells, "difference"]]
    narrow = _panel_width(theme.COLUMN_WIDTH, left, 1 + len(shown))
    fits = len(severities) * (0.04 + max((text_width(each, NUMBER_SIZE) for each in numbers), default=0.0)) <= narrow
    width = theme.COLUMN_WIDTH if len(shown) <= 1 and fits else theme.FULL_WIDTH
    panel_width = _panel_width(width, left, 1 + len(shown))
    names = [[reference], *([arm_name(arm), f"minus {reference}"] for arm in shown)]
    titles = ["\n".join(part for text in texts for part in wrapped(text, 7, width=panel_width)) for texts in names]
    figure, axes_of = grid(
        drawn, titles, x="severity", y=[""], height=ROW_HEIGHT * len(kinds), shared_x=True, left=left, width=width
    )
    index = pd.MultiIndex.from_product([kinds, severities], names=["kind", "severity"])
    groups = [len(set(group) & set(kinds)) for group in KINDS.values()]
    largest = max(differences.loc[in_cells, "difference"].abs().max(), 0.001) if shown else 1.0
    by_arm = dict(iter(differences.groupby(["cell", "arm"])))
    of_baseline = dict(iter(means.groupby("cell")))
    for cell, row in zip(drawn, axes_of, strict=True):
        maps = [_square(of_baseline[cell], "error", index)]
        maps += [_square(by_arm.get((cell, arm)), "difference", index) for arm in shown]
        for place, (axes, values) in enumerate(zip(row, maps, strict=True)):
            if place:
                _draw_map(axes, values, DIFFERENCES, Normalize(-largest, largest), signed=True)
            else:
                _draw_map(axes, values, colormaps["Greys"], Normalize(0, 1), signed=False)
            axes.set_xticks(range(len(severities)), [f"{each:g}" for each in severities])
            axes.set_yticks([])
            axes.tick_params(length=0, pad=2)
            for end in np.cumsum([each for each in groups if each])[:-1]:
                axes.axhline(end - 0.5, color=theme.INK, linewidth=0.8)
        row[0].set_yticks(range(len(kinds)), labels, fontsize=6.5)
    caption = (
        f"Left: test error of {reference} in percent under each kind of corruption and each severity, mean over seeds; "
        "darker is worse. Then: how far each method's error lies from it, in percentage points, mean over the seeds "
        "that both have. Blue with a minus is better, orange with a plus worse, white is no difference; one scale for "
        "all of these maps. Lines part noise, blur, weather, digital and the extra kinds. How sure these differences "
        "are, kind by kind, is not shown here."
    )
    if len(shown) < len(arms):
        caption += f" Of {count(len(arms), 'method')} the {len(shown)} with the lowest mean are drawn; the CSV has all."
    if len(drawn) < len(cells):
        caption += f" The first {len(drawn)} of {len(cells)} cells are drawn; the CSV has all."
    alt = (
        f"Maps of error by corruption and severity: {reference} and {count(len(shown), 'difference')}, in "
        f"{count(len(drawn), 'row')}."
    )
    data = pd.concat([means.assign(arm=plan.baseline), differences])[
        ["cell", "arm", "kind", "severity", "error", "difference", "n"]
    ]
    return Drawing(figure, "Corruptions, kind by severity", caption, alt, data)


def _means_and_differences(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The baseline's mean error by cell, kind and severity; and the mean paired difference of each other arm.

    n: seeds, of the differences those that both have.
    """
    errors = results.corruptions[results.corruptions["kind"] != CLEAN]
    place = ["cell", "kind", "severity"]
    is_baseline = errors["arm"] == results.plan.baseline
    baseline = errors[is_baseline]
    means = baseline.groupby(place)["error"].agg(["mean", "count"]).reset_index()
    means = means.rename(columns={"mean": "error", "count": "n"})
    pairs = errors[~is_baseline].merge(
        baseline[[*place, "seed", "error"]], on=[*place, "seed"], suffixes=("", "_of_it")
    )
    pairs = pairs.assign(difference=pairs["error"] - pairs["error_of_it"])
    differences = pairs.groupby(["arm", *place])["difference"].agg(["mean", "count"]).reset_index()
    return means, differences.rename(columns={"mean": "difference", "count": "n"})


def _square(points: pd.DataFrame | None, value: str, index: pd.MultiIndex) -> NDArray[np.float64]:
    """(kinds, severities), NaN where there is nothing."""
    kinds, severities = index.levshape
    if points is None:
        return np.full((kinds, severities), np.nan)
    return points.set_index(["kind", "severity"])[value].reindex(index).to_numpy(float).reshape(kinds, severities)


def _panel_width(width: float, left: float, num_panels: int) -> float:
    return (width - left) / num_panels - 0.15


def _text(value: float, *, signed: bool) -> str:
    return typographic(percent(value, 1 if signed else 0, signed=signed))


def _draw_map(axes: Axes, values: NDArray[np.float64], colors: Colormap, scale: Normalize, *, signed: bool) -> None:
    """Squares with their numbers: fractions, written in percent."""
    axes.imshow(values, cmap=colors, norm=scale, aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    if np.isnan(values).all():
        axes.text(0.5, 0.55, "no pairs yet", transform=axes.transAxes, ha="center", va="center", fontsize=7)
    is_dark = colors(scale(values))[..., :3] @ np.array([0.299, 0.587, 0.114]) < 0.5
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        axes.text(
            column,
            row,
            _text(value, signed=signed),
            ha="center",
            va="center_baseline",
            fontsize=NUMBER_SIZE,
            color="white" if is_dark[row, column] else theme.INK,
        )
