"""Figures of networks away from their test images: corrupted, from elsewhere, or attacked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports.figures.arms import DrawnArms, drawn_arms, line
from reports.figures.drawing import Drawing
from reports.figures.layout import grid, own_scales, panels, shade, size_in_inches
from reports.figures.series import curves_by, draw_curves, occurring, summarised
from reports.formats import count
from reports.load import CLEAN, Results
from reports.measures import ATTACKS, NORMS, SCORES, SCORES_IN_WORDS
from reports.statistics import Comparison

KINDS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra (validation only)": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""The kinds of corruption as Hendrycks & Dietterich 2019 group them; the last are no part of the mean."""

EXTRA = KINDS["extra (validation only)"]


def corruption_kinds(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error under each kind of corruption, averaged over the severities."""
    plan = results.plan
    errors = results.corruptions[results.corruptions["kind"] != CLEAN]
    by_trial = errors.groupby(["cell", "arm", "seed", "kind"], sort=False)["error"].mean().reset_index()
    points = summarised(by_trial, "error", by=["cell", "arm", "kind"], most=1.0)
    cells = occurring(plan.cells, points["cell"])
    if not cells:
        return None
    groups = {group: occurring(kinds, points["kind"]) for group, kinds in KINDS.items()}
    drawn = drawn_arms(results, points["arm"])
    labels = {kind: kind.replace("_", " ") for kind in points["kind"].unique()}
    figure, axes_of = grid(
        cells,
        [""],
        x="",
        y=["test error (%)"],
        height=1.35,
        handles=drawn.handles(marked=True),
        shared_x=True,
        ticks_height=0.14 + 0.058 * max(map(len, labels.values())),
    )
    for cell, (axes,) in zip(cells, axes_of, strict=True):
        own = points[points["cell"] == cell]
        _draw_categories(axes, own, "kind", groups=groups, labels=labels, drawn=drawn)
        axes.tick_params(axis="x", labelrotation=90)
    extra = (
        " The extra kinds are there to choose options by, and are never part of the mean."
        if set(EXTRA) & set(points["kind"])
        else ""
    )
    caption = (
        "Test error under each kind of corruption, averaged over the severities, in the groups of Hendrycks & "
        f"Dietterich (2019): mean over seeds with the 95 % t interval of each mean.{extra}"
        f"{own_scales(len(cells), between='cells')}{drawn.note}"
    )
    alt = (
        f"Error of {count(len(drawn.arms), 'method')} under {len(labels)} kinds of corruption, in "
        f"{count(len(cells), 'panel')}."
    )
    return Drawing(figure, "Corruptions, kind by kind", caption, alt, points)


def corruption_severity(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error at each severity, averaged over the standard kinds, with the clean error as severity 0."""
    plan = results.plan
    errors = results.corruptions[~results.corruptions["kind"].isin(EXTRA)]
    by_trial = errors.groupby(["cell", "arm", "seed", "severity"], sort=False)["error"].mean().reset_index()
    points = summarised(by_trial, "error", by=["cell", "arm", "severity"], most=1.0)
    cells = occurring(plan.cells, points.loc[points["severity"] > 0, "cell"])
    if not cells:
        return None
    drawn = drawn_arms(results, points["arm"])
    curves = curves_by(points, ["cell", "arm"], x="severity", scale=100)
    figure, axes_of = panels(cells, height=1.6, handles=drawn.handles(marked=True), x="severity", y="test error (%)")
    severities = sorted(points["severity"].unique())
    for cell, axes in zip(cells, axes_of, strict=True):
        own = {arm: curves[cell, arm] for arm in drawn.arms if (cell, arm) in curves}
        draw_curves(axes, own, drawn, markers=True)
        axes.set_xticks(severities, ["clean" if each == 0 else f"{each:g}" for each in severities])
        axes.set_ylim(bottom=0)
    caption = (
        "Test error at each severity, averaged over the standard kinds of corruption, with the error on clean images "
        f"on the left: {drawn.means}.{own_scales(len(cells))}{drawn.note}"
    )
    alt = (
        f"Error of {count(len(drawn.arms), 'method')} against the severity of corruption, in "
        f"{count(len(cells), 'panel')}."
    )
    return Drawing(figure, "Corruptions, by severity", caption, alt, points)


def ood(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The AUROC of both scores against each other data set."""
    plan = results.plan
    frames = []
    for name in results.ood["set"].unique():
        for score in SCORES:
            values = results.column(f"ood_{name}_auroc_{score}")
            named = results.trials[["cell", "arm", "seed"]]
            frames.append(named.assign(set=name, score=score, category=f"{name} {score}", auroc=values))
    if not frames:
        return None
    points = summarised(pd.concat(frames), "auroc", by=["cell", "arm", "set", "score", "category"], most=1.0)
    cells = occurring(plan.cells, points["cell"])
    if not cells:
        return None
    groups: dict[str, list[str]] = {}
    for name, category in points[["set", "category"]].drop_duplicates().itertuples(index=False):
        groups.setdefault(name.replace("_", " "), []).append(category)
    labels = {f"{name} {score}": SCORES[score] for name in points["set"].unique() for score in SCORES}
    drawn = drawn_arms(results, points["arm"])
    figure, axes_of = grid(
        cells, [""], x="", y=["AUROC (%)"], height=1.2, handles=drawn.handles(marked=True), shared_x=True
    )
    for cell, (axes,) in zip(cells, axes_of, strict=True):
        own = points[points["cell"] == cell]
        _draw_categories(axes, own, "category", groups=groups, labels=labels, drawn=drawn)
    caption = (
        f"How well a score tells test images from those of another data set, which is named above: {SCORES_IN_WORDS}. "
        f"Higher is better, and 50 % is chance. Mean over seeds with the 95 % t interval of each mean.{drawn.note}"
    )
    alt = (
        f"AUROC of {count(len(drawn.arms), 'method')} against {count(len(groups), 'other data set')}, in "
        f"{count(len(cells), 'panel')}."
    )
    return Drawing(figure, "Images from elsewhere", caption, alt, points.drop(columns="category"))


def attacks(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error against the radius of each attack: on the network itself, and transferred from another."""
    plan = results.plan
    by = ["cell", "arm", "transfer", "attack", "norm", "epsilon"]
    points = summarised(results.attacks, "error", by=by, most=1.0)
    cells = occurring(plan.cells, points["cell"])
    if not cells:
        return None
    largest = points.groupby(["transfer", "attack", "norm"])["epsilon"].max().to_dict()
    order = itertools.product((False, True), NORMS, ATTACKS)
    kinds = [(transfer, attack, norm) for transfer, norm, attack in order if (transfer, attack, norm) in largest]
    titles = [
        f"{'transferred ' if transfer else ''}{ATTACKS[attack]}{_norm(norm, kinds)}" for transfer, attack, norm in kinds
    ]
    drawn = drawn_arms(results, points["arm"])
    curves = curves_by(points, ["cell", "arm", "transfer", "attack", "norm"], x="epsilon", scale=100)
    figure, axes_of = grid(
        cells,
        titles,
        x="radius (1/255)",
        y=["test error (%)"],
        height=1.25,
        handles=drawn.handles(marked=True),
    )
    for cell, row in zip(cells, axes_of, strict=True):
        for kind, axes in zip(kinds, row, strict=True):
            own = {arm: curves[cell, arm, *kind] for arm in drawn.arms if (cell, arm, *kind) in curves}
            draw_curves(axes, own, drawn, markers=True)
            axes.set_xlim(0, 1.04 * largest[kind])
            if size_in_inches(axes)[0] < 1.5:
                axes.set_xticks(np.linspace(0, largest[kind], 3))
            axes.xaxis.set_major_formatter("{x:g}")
        row[0].set_ylim(bottom=0)  # once every panel that shares the scale is drawn: it ends what they adapt to
    examples = results.attacks["num_examples"].dropna()
    counted = f"{examples.min():,.0f}" + (f" to {examples.max():,.0f}" if examples.min() < examples.max() else "")
    transferred = (
        " A transferred attack is made on the network of the baseline with the next seed."
        if points["transfer"].any()
        else ""
    )
    caption = (
        f"Test error under attacks on the pixels, by their radius; at 0, the error of the same {counted} images left "
        f"alone.{transferred} Every line: {drawn.means}.{drawn.note}"
    )
    alt = (
        f"Error of {count(len(drawn.arms), 'method')} against the radius of {count(len(kinds), 'attack')}, in "
        f"{count(len(cells), 'row')}."
    )
    return Drawing(figure, "Attacks", caption, alt, points)


def _norm(norm: str, kinds: Sequence[tuple[bool, str, str]]) -> str:
    return f", {NORMS[norm]}" if len({other for _, _, other in kinds}) > 1 else ""


def _draw_categories(
    axes: Axes,
    points: pd.DataFrame,
    column: str,
    *,
    groups: Mapping[str, Sequence[str]],
    labels: Mapping[str, str],
    drawn: DrawnArms,
) -> None:
    """Means with intervals side by side at each category, the categories in named groups; fractions, in percent.

    points: what `summarised` gives for one panel, with the category in `column`.
    """
    occurring_groups = {name: members for name, members in groups.items() if members}
    order = [member for members in occurring_groups.values() for member in members]
    position = {member: index for index, member in enumerate(order)}
    step = 0.76 / len(drawn.arms)
    for index, arm in enumerate(drawn.arms):
        own, style = points[points["arm"] == arm], drawn.styles[arm]
        x = own[column].map(position).to_numpy() + step * (index - (len(drawn.arms) - 1) / 2)
        mean, low, high = (100 * own[name].to_numpy() for name in ("mean", "low", "high"))
        axes.vlines(x, low, high, color=style.color, linewidth=1.0)
        axes.plot(x, mean, markersize=2.8, **line(style) | {"linestyle": ""})
    start = -0.5
    for index, (name, members) in enumerate(occurring_groups.items()):
        end = start + len(members)
        if index % 2:
            shade(axes, start, end)
        axes.text((start + end) / 2, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=7)
        start = end
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.set_xticks(range(len(order)), [labels[member] for member in order])
