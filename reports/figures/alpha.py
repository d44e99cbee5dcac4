"""The error against alpha: on test, and beside it on validation, which chooses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import theme
from reports.chosen import Choice, chosen_on_validation
from reports.figures.arms import handle, series_of
from reports.figures.cells import in_grid
from reports.figures.drawing import Drawing
from reports.figures.layout import CHARACTER, MOST_ROWS, grid, own_scales, panels, size_in_inches
from reports.figures.series import curves_by, draw_curve, half_widths, occurring, summarised
from reports.figures.svg import labelled
from reports.formats import count, listed
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import Comparison
from reports.theme import Style
from reports.wording import arm_name, sentence_case

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FEW_ARMS = 3
"""So few arms with an alpha stand on one axis even where no two of them are a sweep."""

MOST_NAMED = 5
"""A caption names so many of what is left out, and counts the others."""

HATCHES = ("", "////", "....", "xxxx")
"""Of the bars of several families, in turn: on grey paper their colours alone would not do."""


def error_against_alpha(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error at each alpha, with the baseline as a band."""
    plan, figure_of = results.plan, measure(results.plan.suite.report.metric)
    trials = results.trials.assign(error=figure_of.scale * results.column(figure_of.name))
    series = _series_with_alpha(results)
    swept = trials[trials["arm"].isin(series)]
    finished = trials[trials["error"].notna()]
    cells = occurring(occurring(plan.cells, swept["cell"]), finished["cell"])
    if not cells:
        return None
    finished = finished.assign(series=finished["arm"].map(series))
    styles = theme.styles(list(dict.fromkeys(series.values())))
    baseline_x, positions = _alpha_positions(sorted(swept["alpha"].unique()))
    reference = arm_name(plan.baseline)
    handles = [
        Line2D([], [], color=theme.BASELINE, linestyle="--", label=f"{reference}: mean of seeds"),
        Patch(color=theme.FAINT, label=f"{reference}: 95 % interval"),
        *(handle(style, f"{arm_name(name)}: mean, 95 % interval") for name, style in styles.items()),
        Line2D([], [], color=theme.INK, marker="o", markersize=2.5, linestyle="", alpha=0.4, label="one seed"),
    ]
    cells, columns = in_grid(plan, cells)
    figure, axes_of = panels(
        cells, height=1.75, handles=handles, x="alpha (log scale)", y=figure_of.label, columns=columns
    )
    for cell, axes in zip(cells, axes_of, strict=True):
        own = finished[finished["cell"] == cell]
        of_baseline = own[own["arm"] == plan.baseline]
        _draw_band(axes, of_baseline["error"], x=baseline_x, texts=_seed_texts(of_baseline, figure_of))
        for index, (name, style) in enumerate(styles.items()):
            shift = 0.16 * (index - (len(styles) - 1) / 2)  # series at the same alpha stand side by side
            _draw_sweep(axes, own[own["series"] == name], positions, figure_of, style=style, shift=shift)
        _thin_ticks(axes, {baseline_x: reference.split()[0]} | {x: f"{alpha:g}" for alpha, x in positions.items()})
        axes.set_xlim(baseline_x - 0.5, max(positions.values()) + 0.5)
    without = [arm_name(arm) for arm in plan.arms if arm != plan.baseline and arm not in series]
    caption = (
        f"{sentence_case(figure_of.phrase)} at each alpha; the dashed line and band are {reference}. Below the band is "
        f"better. Bars and band are 95 % t intervals of each mean by itself. Seeds are paired, so a difference can be "
        f"clear although bar and band overlap: verdicts come from the paired differences.{own_scales(len(cells))}"
        + (" A column for each network, a row for each label noise." if columns else "")
        + (f" Not shown, having no alpha or only one: {listed(without, most=MOST_NAMED)}." if without else "")
    )
    title = f"{sentence_case(figure_of.title)} against alpha"
    alt = f"{title} in {count(len(cells), 'panel')}, with {reference} as a horizontal band."
    shown = finished[finished["cell"].isin(cells) & (finished["arm"].isin(series) | (finished["arm"] == plan.baseline))]
    data = summarised(
        results.trials.loc[shown.index].assign(value=results.column(figure_of.name)),
        "value",
        by=["cell", "arm", "alpha"],
    )
    return Drawing(figure, title, caption, alt, data)


def _series_with_alpha(results: Results) -> dict[str, str]:
    """By arm, the series that it is drawn in: the arms that differ in alpha alone, where there are at least two.

    Plain erm is alpha 0 of all of them. Where no arms are such a series, every arm that has an alpha, if they are few.
    """
    plan = results.plan
    alphas = results.trials.groupby("arm")["alpha"].first().dropna()
    series = {arm: series_of(arm) for arm in plan.arms if arm != plan.baseline and arm in alphas}
    sizes = Counter(series.values())
    if max(sizes.values(), default=0) > 1:
        return {arm: name for arm, name in series.items() if sizes[name] > 1 or alphas[arm] == 0}
    few = len(series) <= FEW_ARMS and len({alphas[arm] for arm in series}) > 1
    return series if few else {}


def chosen(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Test and validation error at each alpha of the methods that sweep it alone, and which alpha validation chose."""
    plan, selection = results.plan, chosen_on_validation(results)
    swept = [each for each in selection.choices if each.seeds and _sweeps_alpha(each, results)] if selection else []
    if selection is None or not swept:
        return None
    alphas = results.trials.groupby("arm")["alpha"].first()
    sweeps = pd.concat([_sweep(each, alphas) for each in swept])
    baseline = pd.concat([_sweep(each, alphas) for each in selection.choices if each.family == selection.baseline])
    baseline = baseline[baseline["arm"] == plan.baseline]
    candidates = occurring(plan.cells, sweeps["cell"])
    oracles = {(each.family, each.candidates[each.oracle]) for each in swept if each.oracle is not None}
    taken = {*sweeps.loc[sweeps["chosen"] > 0, "cell"], *(candidate.cell for _, candidate in oracles)}
    there = [cell for cell in candidates if cell in taken]
    cells = there[:MOST_ROWS]
    names = list(dict.fromkeys(each.family for each in swept))
    styles = theme.styles(names)
    _, positions = _alpha_positions(sorted(sweeps["alpha"].unique()))
    by = ["task", "cell", "family", "alpha"]
    points = {name: summarised(sweeps, name, by=by, most=1.0) for name in ("test", "validation")}
    share = summarised(sweeps, "chosen", by=by)
    reference = arm_name(plan.baseline)
    handles = [
        *(handle(style, arm_name(name)) for name, style in styles.items()),
        Line2D([], [], color=theme.INK, marker="o", markersize=9, markerfacecolor="none", linestyle="", label="oracle"),
        *([Line2D([], [], color=theme.BASELINE, linestyle="--", label=reference)] if len(baseline) else []),
    ]
    labels = ["test error (%)", "validation error (%)", "chosen by seeds (%)"]
    figure, axes_of = grid(cells, [""] * 3, x="alpha (log scale)", y=labels, height=1.25, handles=handles)
    curves = {name: curves_by(each, ["cell", "family"], x="alpha", scale=100) for name, each in points.items()}
    for cell, row in zip(cells, axes_of, strict=True):
        for axes, name in zip(row, points, strict=False):
            _mean_and_band(axes, 100 * baseline.loc[baseline["cell"] == cell, name].dropna())
            for family in names:
                if (cell, family) in curves[name]:
                    alpha, *rest = curves[name][cell, family]
                    x = np.array([positions[each] for each in alpha])
                    draw_curve(axes, x, *rest, style=styles[family], markers=True)
        for family, candidate in oracles:
            if candidate.cell == cell:
                own = points["test"].set_index(["cell", "family", "alpha"])["mean"]
                y = 100 * own[cell, family, alphas[candidate.arm]]
                row[0].plot(positions[alphas[candidate.arm]], y, "o", color=theme.INK, markersize=9, fillstyle="none")
        _draw_shares(row[2], share[share["cell"] == cell], positions, styles)
        for axes in row:
            _thin_ticks(axes, {x: f"{alpha:g}" for alpha, x in positions.items()})
            axes.set_xlim(min(positions.values()) - 0.5, max(positions.values()) + 0.5)
    caption = (
        "Left and middle: error on test and on validation images at each alpha, mean and 95 % t interval over the "
        f"seeds on which every candidate ended; dashed: {reference} in the same cell. The ring is the oracle's alpha, "
        "chosen on test. Right: the share of seeds on which validation chose this alpha. Where validation images carry "
        "wrong labels as the training images do, their error stands higher throughout. Scales differ between panels."
    )
    if any(np.isinf(each.val_errors).any() for each in swept):
        caption += (
            " A point is the mean of the seeds that did not diverge; an alpha at which one did is never the oracle's, "
            "however low its point lies."
        )
    if selection.has_recipes:
        caption += " Cells that differ in the recipe alone compete: their bars add up to 100 % together."
    left_out = [cell for cell in candidates if cell not in taken]
    if left_out:
        caption += (
            f" Left out, because no seed's choice and no oracle lies there: {listed(left_out, most=MOST_NAMED)}; the "
            "CSV has all."
        )
    if len(cells) < len(there):
        caption += f" The first {len(cells)} of {len(there)} cells are drawn; the CSV has all."
    title = "Alpha chosen on validation"
    alt = f"Test error, validation error and share of seeds against alpha, in {count(len(cells), 'row')}."
    data = points["test"].merge(points["validation"], on=[*by, "n"], how="outer", suffixes=("_test", "_validation"))
    data = data.merge(share[[*by, "mean"]].rename(columns={"mean": "chosen_share"}), on=by)
    return Drawing(figure, title, caption, alt, data)


def _sweeps_alpha(choice: Choice, results: Results) -> bool:
    """Whether the choice's arms are one method at several alphas, alike in all else."""
    methods = {planned.arm: planned.trial.method for planned in results.plan.trials}
    own = [methods[arm].model_dump() for arm in dict.fromkeys(each.arm for each in choice.candidates)]
    alike = {repr(each | {"alpha": None}) for each in own} if all(each.get("alpha") is not None for each in own) else ()
    return len(own) > 1 and len(alike) == 1


def _sweep(choice: Choice, alphas: pd.Series[float]) -> pd.DataFrame:
    """One row per candidate and seed: test and validation error, NaN where it diverged, and whether it was chosen."""
    parts = [
        pd.DataFrame(
            {
                "task": choice.task,
                "cell": candidate.cell,
                "family": choice.family,
                "arm": candidate.arm,
                "alpha": alphas[candidate.arm],
                "test": choice.test_errors[:, place],
                "validation": np.where(np.isinf(choice.val_errors[:, place]), np.nan, choice.val_errors[:, place]),
                "chosen": (choice.chosen == place).astype(float),
            }
        )
        for place, candidate in enumerate(choice.candidates)
    ]
    return pd.concat(parts)


def _draw_shares(
    axes: Axes, share: pd.DataFrame, positions: Mapping[float, float], styles: Mapping[str, Style]
) -> None:
    """Bars, those of several families side by side."""
    width = 0.5 / len(styles)
    for index, (family, style) in enumerate(styles.items()):
        own = share[share["family"] == family]
        x = own["alpha"].map(positions) + width * (index - (len(styles) - 1) / 2)
        hatch = HATCHES[index % len(HATCHES)]
        axes.bar(x, 100 * own["mean"], width, color=style.color, hatch=hatch, edgecolor="white", linewidth=0.3)
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])


def _alpha_positions(alphas: Sequence[float]) -> tuple[float, dict[float, float]]:
    """Where the baseline and each alpha stand: by log2, about one unit per alpha, and 0 one unit to the left."""
    positive = [alpha for alpha in alphas if alpha > 0]
    logs = np.log2(positive)
    units = max(1, len(positive) - 1) / max(np.ptp(logs), 1e-9) if len(positive) > 1 else 1.0
    positions = {alpha: float((log - logs[0]) * units) for alpha, log in zip(positive, logs, strict=True)}
    left = 0.0
    if len(positive) < len(alphas):
        left = -1.0
        positions = {0.0: left} | positions
    return left - max(1.0, 0.15 * len(alphas)), positions  # room for the baseline's longer label


def _draw_band(axes: Axes, errors: pd.Series[float], *, x: float, texts: Sequence[str]) -> None:
    """The baseline: its mean across the panel, its interval as a band, its seeds at `x`."""
    if len(errors):
        _mean_and_band(axes, errors)
        labelled(_seed_dots(axes, np.full(len(errors), x), errors, color=theme.BASELINE), texts)


def _mean_and_band(axes: Axes, errors: pd.Series[float]) -> None:
    if errors.empty:
        return
    mean = errors.mean()
    half = half_widths(errors.std(), len(errors))
    if not np.isnan(half):
        axes.axhspan(max(0.0, mean - half), mean + half, color=theme.FAINT, alpha=0.7, linewidth=0)
    axes.axhline(mean, color=theme.BASELINE, linestyle="--")


def _draw_sweep(
    axes: Axes,
    trials: pd.DataFrame,
    positions: Mapping[float, float],
    figure_of: Measure,
    *,
    style: Style,
    shift: float,
) -> None:
    """One series of arms: mean and interval at each alpha, the single seeds faintly beside them."""
    summary = trials.groupby("alpha")["error"].agg(["mean", "std", "count"])
    x = summary.index.map(positions).to_numpy() + shift
    mean = summary["mean"].to_numpy()
    half = np.nan_to_num(half_widths(summary["std"], summary["count"]))
    axes.plot(x, mean, color=style.color, linewidth=0.8, alpha=0.5)
    # An error has no interval below zero.
    bars = axes.errorbar(
        x, mean, yerr=[np.minimum(half, mean), half], fmt=style.marker, color=style.color, elinewidth=1.2
    )
    labelled(bars[0], _mean_texts(trials, summary, half, figure_of))
    dots = _seed_dots(axes, trials["alpha"].map(positions) + shift + 0.13, trials["error"], color=style.color)
    labelled(dots, _seed_texts(trials, figure_of))


def _mean_texts(trials: pd.DataFrame, summary: pd.DataFrame, half: ArrayLike, figure_of: Measure) -> list[str]:
    arms = trials.groupby("alpha")["arm"].first()
    texts = []
    for arm, mean, n, width in zip(arms, summary["mean"], summary["count"], np.asarray(half), strict=True):
        digits = figure_of.digits(width / figure_of.scale)
        low, high = (figure_of.text(end / figure_of.scale, digits) for end in (max(0.0, mean - width), mean + width))
        interval = f" [{low}, {high}]" if n > 1 else ""
        of_seeds = f"mean of {count(int(n), 'seed')}"
        texts.append(f"{arm_name(arm)}, {of_seeds}: {figure_of.amount(mean / figure_of.scale, digits)}{interval}")
    return texts


def _seed_texts(trials: pd.DataFrame, figure_of: Measure) -> list[str]:
    return [
        f"{arm_name(arm)}, seed {seed}: {figure_of.amount(error / figure_of.scale, 2)}"
        for arm, seed, error in zip(trials["arm"], trials["seed"], trials["error"], strict=True)
    ]


def _seed_dots(axes: Axes, x: ArrayLike, y: ArrayLike, *, color: str) -> Line2D:
    return axes.plot(x, y, "o", color=color, markersize=2.2, alpha=0.4, markeredgewidth=0)[0]


def _thin_ticks(axes: Axes, ticks: Mapping[float, str]) -> None:
    """A tick at every position, and a label wherever it does not run into the one before."""
    axes.set_xticks(list(ticks))
    span = max(ticks) - min(ticks) + 1
    characters = size_in_inches(axes)[0] / CHARACTER  # that fit side by side at 7 pt
    free_from = -math.inf
    labels = []
    for x, label in ticks.items():
        half = (len(label) + 0.5) / 2 * span / characters
        fits = x - half >= free_from
        labels.append(label if fits else "")
        free_from = x + half if fits else free_from
    axes.set_xticklabels(labels)
