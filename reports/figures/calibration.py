"""How far the networks' confidence can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports import theme
from reports.figures.arms import drawn_arms, line
from reports.figures.drawing import Drawing
from reports.figures.layout import panels
from reports.figures.series import occurring
from reports.formats import count
from reports.load import Results
from reports.statistics import Comparison

MIN_BIN_COUNT = 20
"""A reliability bin with fewer pooled test images is noise, and is not drawn."""

STAGES = {0: "as trained", 1: "scaled"}


def reliability(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Accuracy against confidence and how often each confidence occurs, pooled over seeds, before and after scaling."""
    bins = results.bins[results.bins["count"].notna()]
    plan = results.plan
    cells = occurring(plan.cells, bins["cell"])
    if not cells:
        return None
    pooled = _pooled(bins)
    stages = [stage for stage in STAGES if (pooled["scaled"] == stage).any()]
    shown = [(cell, stage) for cell in cells for stage in stages]
    titles = [STAGES[stage] if len(stages) > 1 else cell for cell, stage in shown]
    columns = None if len(stages) == 1 else 2 if len(cells) == 1 else 4
    drawn = drawn_arms(results, pooled["arm"])
    figure, axes_of = panels(
        titles,
        headings=cells if len(stages) > 1 else (),
        handles=drawn.handles(marked=True),
        columns=columns,
        strip=0.4,
        x="confidence (%)",
        y="accuracy (%)",
    )
    conditions = dict(iter(pooled.groupby(["cell", "scaled", "arm"])))
    largest_share = 10 * math.ceil(10 * pooled["share"].max())
    for place, axes, strip in zip(shown, axes_of[: len(shown)], axes_of[len(shown) :], strict=True):
        axes.plot([0, 100], [0, 100], color=theme.INK, linewidth=0.6, linestyle=":")
        for arm in drawn.in_drawing_order:
            if (*place, arm) not in conditions:
                continue
            own, style = conditions[*place, arm], drawn.styles[arm]
            full = own[own["count"] >= MIN_BIN_COUNT]
            axes.plot(100 * full["confidence"], 100 * full["accuracy"], markersize=3, clip_on=False, **line(style))
            edges = 100 * np.append(own["lower"], own["upper"].iloc[-1])
            strip.stairs(100 * own["share"], edges, color=style.color, linestyle=style.dashes)
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axes.tick_params(labelbottom=False)
        axes.grid(axis="x")
        strip.set(xlim=(0, 100), ylim=(0, largest_share), xticks=range(0, 101, 25), yticks=(0, largest_share))
        strip.grid(axis="x")
        if axes.get_ylabel():
            strip.set_ylabel("images\n(%)", fontsize=6.5)
            strip.yaxis.set_label_coords(-0.3 / (strip.get_position().width * figure.get_figwidth()), 0.5)
    fitted = (
        " Scaled: after temperature scaling, one temperature per trial, fitted on its validation images."
        if 1 in stages
        else ""
    )
    caption = (
        "How often the predicted class is right, against how sure the network says it is: test set, final weights. On "
        "the dotted line confidence is honest; below it the network is overconfident, above it too modest. Below each "
        "panel: the share of test images in each bin. 15 equal-width bins, pooled over seeds; points of fewer than "
        f"{MIN_BIN_COUNT} pooled images are left out.{fitted}{drawn.note}"
    )
    alt = f"Reliability diagrams in {count(len(shown), 'panel')}: accuracy against confidence for each method."
    return Drawing(figure, "Reliability", caption, alt, pooled)


def _pooled(bins: pd.DataFrame) -> pd.DataFrame:
    """Bins of all seeds together: counts added up, confidence and accuracy weighed by them, share of all images."""
    by = ["cell", "arm", "scaled", "lower", "upper"]
    weighed = bins.assign(confidence=bins["confidence"] * bins["count"], accuracy=bins["accuracy"] * bins["count"])
    pooled = weighed.groupby(by)[["count", "confidence", "accuracy"]].sum().reset_index()
    pooled[["confidence", "accuracy"]] = pooled[["confidence", "accuracy"]].div(pooled["count"], axis="index")
    total = pooled.groupby(["cell", "arm", "scaled"])["count"].transform("sum")
    return pooled.assign(share=pooled["count"] / total)
