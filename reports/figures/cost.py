"""What a lower error costs: error against training time."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.ticker import MaxNLocator

from reports.figures.arms import drawn_arms, line
from reports.figures.drawing import Drawing
from reports.figures.layout import panels
from reports.figures.series import occurring, summarised
from reports.formats import count, duration, listed
from reports.load import Results
from reports.measures import measure
from reports.statistics import Comparison
from reports.wording import arm_name, sentence_case

TIMES = "\N{MULTIPLICATION SIGN}"

UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
"""Of the axis: the largest of which the longest time has two."""


def error_against_time(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Mean error against the mean training time of a trial, which is also given as a multiple of the baseline's."""
    plan, figure_of = results.plan, measure(results.plan.suite.report.metric)
    trials = results.trials[["cell", "arm", "train_seconds"]].assign(error=results.column(figure_of.name))
    trials = trials.dropna()
    by = ["cell", "arm"]
    seconds = trials.groupby(by)["train_seconds"].mean()
    points = summarised(trials, "error", by=by).join(seconds, on=by)
    arms_of = points.groupby("cell")["arm"].count()
    cells = occurring(plan.cells, points.loc[points["cell"].map(arms_of) > 1, "cell"])
    if not cells:
        return None
    of_baseline = points[points["arm"] == plan.baseline].set_index("cell")["train_seconds"].to_dict()
    points = points.assign(times_baseline=points["train_seconds"] / points["cell"].map(of_baseline))
    drawn = drawn_arms(results, points["arm"])
    reference = arm_name(plan.baseline)
    unit, size = next((name, size) for name, size in UNITS if points["train_seconds"].max() >= 2 * size or size == 1)
    titles = [f"{cell}\n{reference}: {duration(of_baseline[cell])}" if cell in of_baseline else cell for cell in cells]
    figure, axes_of = panels(
        titles,
        height=1.6,
        handles=drawn.handles(marked=True),
        x=f"training time of a trial ({unit})",
        y=figure_of.label,
        top=0.2,
    )
    conditions = points.set_index(["cell", "arm"])[["train_seconds", "mean", "low", "high"]]
    values = {key: row.tolist() for key, row in zip(conditions.index, conditions.to_numpy(dtype=float), strict=True)}
    for cell, axes in zip(cells, axes_of, strict=True):
        own = {arm: values[cell, arm] for arm in drawn.in_drawing_order if (cell, arm) in values}
        for arm, (time, *errors) in own.items():
            mean, low, high = (figure_of.scale * error for error in errors)
            axes.plot([time / size, time / size], [low, high], color=drawn.styles[arm].color, linewidth=1.0)
            axes.plot(time / size, mean, markersize=4, **line(drawn.styles[arm]) | {"linestyle": ""})
        longest = 1.1 * max(time for time, *_ in own.values())
        axes.set_xlim(0, longest / size)
        if cell in of_baseline:
            multiples = axes.twiny()
            multiples.set_xlim(0, longest / of_baseline[cell])
            multiples.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
            multiples.xaxis.set_major_formatter(f"{{x:g}}{TIMES}")
            multiples.grid(visible=False)
            multiples.spines[:].set_visible(False)
            multiples.tick_params(length=2, pad=1)
    kinds = sorted(results.provenance.get("hardware", {}))
    where = (
        f"All trials ran on {kinds[0]}."
        if len(kinds) == 1
        else f"The trials ran on different hardware ({listed(kinds, most=3, separator='; ')}), so times do not compare."
    )
    caption = (
        f"{sentence_case(figure_of.phrase)} against the mean time that a trial was trained for, evaluations left out: "
        "mean over seeds with its 95 % t interval. Lower and further left is better; above each panel the time as a "
        f"multiple of {reference}'s. Times are those of this suite's trials as they ran, with whatever ran beside "
        f"them. {where}{drawn.note}"
    )
    alt = f"Error of {count(len(drawn.arms), 'method')} against their training time, in {count(len(cells), 'panel')}."
    columns = ["cell", "arm", "train_seconds", "times_baseline", "mean", "low", "high", "n"]
    data: pd.DataFrame = points.loc[points["cell"].isin(cells), columns]
    return Drawing(figure, "Error against training time", caption, alt, data)
