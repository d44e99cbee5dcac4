"""What training saw: the error on its own batches, and the mixing weights that they had."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from reports import theme
from reports.figures.arms import drawn_arms
from reports.figures.drawing import Drawing
from reports.figures.layout import grid, panels
from reports.figures.series import draw_epochs, occurring, summarised
from reports.formats import count, listed
from reports.load import Results
from reports.statistics import Comparison
from reports.wording import arm_name

ERRORS = {"train_error_mixed": "training, as trained", "val_error": "validation", "test_error": "test"}
"""By column of the curves: what its panels are called."""

MOST_HISTOGRAMS = 12
"""More panels would be a page of their own."""

BETA = ("mixup", "manifold_mixup", "regmixup")
"""Methods whose lam is what was drawn from Beta(alpha, alpha): a box or a mask of whole pixels would move it."""

DOMINANT = 0.5
"""A bin with a larger share would flatten the histograms of all others: a fixed lam has but one bin."""


def training_errors(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error on the training batches, on validation and on test, as training goes on."""
    plan, by = results.plan, ["cell", "arm", "epoch"]
    points = {name: summarised(results.curves, name, by=by, most=1.0) for name in ERRORS}
    cells = occurring(plan.cells, points["train_error_mixed"]["cell"])
    if not cells:
        return None
    there = [name for name, each in points.items() if len(each)]
    drawn = drawn_arms(results, points["test_error"]["arm"])
    titles = [ERRORS[name] for name in there]
    figure, axes_of = grid(cells, titles, x="epoch", y=["error (%)"], height=1.3, handles=drawn.handles())
    draw_epochs(axes_of, [points[name] for name in there], cells, drawn)
    for row in axes_of:
        row[0].set_ylim(bottom=0)  # once every panel that shares the scale is drawn: it ends what they adapt to
    caption = (
        "Error after each epoch. Left: on the epoch's own training batches, mixed and augmented as they were trained "
        "on, one minus the weight of the labels that were predicted. A method that mixes stays high there without "
        "underfitting, since the labels of a mixed image cannot all be predicted. The other panels: on images as they "
        f"are. Every line: {drawn.means}.{drawn.note}"
    )
    alt = (
        f"Error per epoch of {count(len(drawn.arms), 'method')} on {', '.join(titles)}, in {count(len(cells), 'row')}."
    )
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
    by_arm = dict(iter(counts.groupby("arm")))
    alike: dict[tuple[int, ...], list[str]] = {}
    for arm in arms:
        alike.setdefault(tuple(by_arm[arm]["count"]), []).append(arm)
    shown = list(alike.values())[:MOST_HISTOGRAMS]
    common = [by_arm[first]["share"].max() for first, *_ in shown if by_arm[first]["share"].max() <= DOMINANT]
    lines = drawn_arms(results, results.curves["arm"])
    titles = [listed([arm_name(arm) for arm in group], most=1) for group in shown]
    drawn_by = _beta_parameters(results)
    figure, axes_of = panels(titles, height=0.95, x="lam", y="share (%)")
    for (first, *_), axes in zip(shown, axes_of, strict=True):
        own = by_arm[first]
        color = lines.styles[first].color if first in lines.arms else theme.INK  # that of its line, if it has one
        edges = [*own["lower"], own["upper"].iloc[-1]]
        axes.stairs(100 * own["share"], edges, fill=True, color=color, alpha=0.35)
        axes.stairs(100 * own["share"], edges, color=color, linewidth=1.2)
        if first in drawn_by:
            expected = np.diff(special.betainc(drawn_by[first], drawn_by[first], edges))
            axes.stairs(100 * expected, edges, color=theme.INK, linestyle=":", linewidth=1.0)
        top = 1.0 if own["share"].max() > DOMINANT else max(common)
        axes.set(xlim=(0, 1), ylim=(0, 105 * top))
    caption = (
        "How often each weight lam of the image that was not permuted came up in training, in bins of "
        f"{counts['upper'].iloc[0] - counts['lower'].iloc[0]:g}, over all cells and seeds. Near 0 and 1 one image "
        f"prevails; near 1/2 both count alike. {_about_dots(drawn_by, shown)}"
        f"{_about_panels(alike, shown, has_dominant=len(common) < len(shown))}"
    )
    alt = f"Histograms of lam for {count(len(arms), 'method')}, in {count(len(shown), 'panel')}."
    order = {arm: place for place, arm in enumerate(arms)}
    data = counts.sort_values("arm", key=lambda column: column.map(order), kind="stable")
    return Drawing(figure, "Mixing weights in training", caption.rstrip(), alt, data)


def _beta_parameters(results: Results) -> dict[str, float]:
    """By arm, the alpha of those whose lam is a plain draw from Beta(alpha, alpha)."""
    methods = {planned.arm: planned.trial.method.model_dump() for planned in results.plan.trials}
    return {
        arm: float(method["alpha"])
        for arm, method in methods.items()
        if method["name"] in BETA and method.get("alpha") and not method.get("examples")
    }


def _about_dots(drawn_by: Mapping[str, float], shown: Sequence[Sequence[str]]) -> str:
    if not any(first in drawn_by for first, *_ in shown):
        return ""
    return "Dotted: what Beta(alpha, alpha) gives, where a method draws from it as it is. "


def _about_panels(alike: Collection[Sequence[int]], shown: Sequence[Sequence[str]], *, has_dominant: bool) -> str:
    """What a reader has to know about the scales and about the arms that have no panel of their own."""
    parts = ["All panels have the same scale"] if len(shown) > 1 else []
    if has_dominant and parts:
        parts[0] += f", but for those in which one bin has more than {100 * DOMINANT:g} %: they go up to 100 %"
    if any(len(group) > 1 for group in shown):
        parts.append("Methods that drew the very same weights share a panel")
    if len(alike) > len(shown):
        parts.append(f"{len(shown)} of {len(alike)} different histograms are drawn; the CSV has all")
    return " ".join(f"{part}." for part in parts)
