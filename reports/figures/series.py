"""From the values of single seeds to what a panel shows: means with their intervals, as curves or as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import special

from reports.figures.arms import DrawnArms, line
from reports.statistics import CONFIDENCE
from reports.theme import Style

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def occurring(names: Sequence[str], column: pd.Series[str]) -> list[str]:
    """Those of `names` that a column holds, in their own order."""
    present = set(column.unique())
    return [name for name in names if name in present]


def half_widths(sd: ArrayLike, n: ArrayLike) -> Any:
    """Half the 95 % t interval of each mean; NaN where n < 2."""
    n = np.asarray(n, dtype=np.float64)
    degrees = np.where(n > 1, n - 1, np.nan)
    return special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.asarray(sd, dtype=np.float64) / np.sqrt(n)


def summarised(
    frame: pd.DataFrame, value: str, *, by: Sequence[str], least: float = 0.0, most: float = np.inf
) -> pd.DataFrame:
    """The mean over seeds at each point, with its 95 % t interval cut off where the value cannot be.

    frame: one row per point and seed.  by: the columns that name a point.
    Gives `by`, mean, low, high (NaN with one seed) and n; points without any value are left out.
    """
    points = frame.dropna(subset=value).groupby(list(by), sort=False)[value].agg(["mean", "std", "count"]).reset_index()
    half = half_widths(points["std"], points["count"])
    low, high = (points["mean"] - half).clip(least, most), (points["mean"] + half).clip(least, most)
    return points.assign(low=low, high=high).rename(columns={"count": "n"})[[*by, "mean", "low", "high", "n"]]


def curves_by(points: pd.DataFrame, by: Sequence[str], *, x: str, scale: float = 1.0) -> dict[Any, Any]:
    """What `summarised` gives, as x, mean, low and high (float arrays, all but x times `scale`) for each curve."""
    columns = [x, "mean", "low", "high"]
    factors = np.array([[1.0], [scale], [scale], [scale]])
    ordered = points.sort_values(x, kind="stable")
    return {key: factors * group.to_numpy(dtype=np.float64).T for key, group in ordered.groupby(list(by))[columns]}


def draw_curve(
    axes: Axes,
    x: NDArray[np.float64],
    mean: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    style: Style,
    markers: bool,
    band: bool = True,
) -> None:
    """A line through the means, on a band of their intervals."""
    if band:
        axes.fill_between(x, low, high, color=style.color, alpha=0.16, linewidth=0)
    axes.plot(x, mean, markersize=3, clip_on=not markers, **line(style, marked=markers))


def draw_epochs(
    axes_of: Sequence[Sequence[Axes]], points: Sequence[pd.DataFrame], cells: Sequence[str], drawn: DrawnArms
) -> None:
    """Fractions in percent against the epoch: a row of panels for each cell, a column for each of `points`.

    points: what `summarised` gives by cell, arm and epoch.
    """
    for column, frame in enumerate(points):
        curves = curves_by(frame, ["cell", "arm"], x="epoch", scale=100)
        for cell, row in zip(cells, axes_of, strict=True):
            draw_curves(row[column], {arm: curves[cell, arm] for arm in drawn.arms if (cell, arm) in curves}, drawn)
            row[column].set_xlim(left=0)
            row[column].xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))


def draw_curves(axes: Axes, curves: Mapping[str, Any], drawn: DrawnArms, *, markers: bool = False) -> None:
    """One panel's lines, those of `drawn`.  curves: x, mean, low and high by arm, of those that have any."""
    for arm in drawn.in_drawing_order:
        if arm in curves:
            draw_curve(axes, *curves[arm], style=drawn.styles[arm], markers=markers, band=drawn.has_bands)
