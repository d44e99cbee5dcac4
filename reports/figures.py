"""The report's figures. Each takes the results and the comparisons, and returns None where it has nothing to show.

To add a figure: a function here and its name in FIGURES.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy import special

from reports import theme
from reports.load import Results
from reports.statistics import BETTER, CONFIDENCE, WORSE, Comparison
from reports.theme import Style
from reports.wording import METRICS, arm_name, comparison_digits, percent, typographic

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_BIN_COUNT = 20
"""A reliability bin with fewer pooled test images is noise, and is not drawn."""

CURVE_POINT = ["epoch", "mean", "half"]
BIN_POINT = ["confidence", "accuracy"]

X_LABEL_HEIGHT = 0.42
"""Inches below a panel that its tick labels and axis label take."""

CHARACTER = 0.062
"""Inches that a character takes at 7 pt, on average and with some to spare."""

LEGEND_LINE = 0.165
"""Inches from one line of a legend to the next."""


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that go with it. The caption says what to see and how it was made."""

    figure: Figure
    title: str
    caption: str
    alt: str

    def png(self) -> bytes:
        # Level 1 takes half the time of the usual 6 and 4 % more bytes.
        return _encode(self.figure, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})

    def pdf(self) -> bytes:
        return _encode(self.figure, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def draw_all(results: Results, comparisons: Sequence[Comparison]) -> dict[str, Drawing]:
    """Every figure that applies to this suite and has data by now."""
    with mpl.rc_context(theme.RC):
        drawings = {name: draw(results, comparisons) for name, draw in FIGURES.items()}
    return {name: drawing for name, drawing in drawings.items() if drawing is not None}


def forest(results: Results, comparisons: Sequence[Comparison]) -> Drawing | None:
    """Every paired difference with its interval, one row each."""
    shown = [each for each in comparisons if each.pairs]
    if not shown:
        return None
    rows: list[Comparison | str] = []
    for cell in results.plan.cells:
        of_cell = [each for each in shown if each.cell == cell]
        rows += [cell, *of_cell] if of_cell else []
    labels = [row if isinstance(row, str) else arm_name(row.arm) for row in rows]
    left = min(3.4, 0.3 + 1.12 * CHARACTER * max(len(label) for label in labels))
    right, top, bottom, row_height = 1.75, 0.3, 0.45, 0.185
    height = top + bottom + row_height * len(rows)
    figure = Figure(figsize=(theme.FULL_WIDTH, height))
    plot_width = theme.FULL_WIDTH - left - right
    axes = figure.add_axes(
        (left / theme.FULL_WIDTH, bottom / height, plot_width / theme.FULL_WIDTH, 1 - (top + bottom) / height)
    )
    beside = axes.get_yaxis_transform()
    for y, row in enumerate(rows):
        if isinstance(row, str):
            axes.text((0.08 - left) / plot_width, y, row, transform=beside, va="center")
            continue
        color = {BETTER: theme.BETTER, WORSE: theme.WORSE}.get(row.verdict, theme.BASELINE)
        if not math.isnan(row.low):
            axes.plot([100 * row.low, 100 * row.high], [y, y], color=color, linewidth=1.4, solid_capstyle="butt")
        face = color if row.verdict in (BETTER, WORSE) else "white"
        axes.plot(100 * row.difference, y, "o", color=color, markerfacecolor=face, markersize=5)
        axes.text((0.2 - left) / plot_width, y, arm_name(row.arm), transform=beside, va="center")
        axes.text(1.04, y, _interval_text(row), transform=beside, va="center", fontsize=7.5)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_xlim(_forest_limits(shown))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    reference = arm_name(results.plan.baseline)
    axes.set_xlabel(f"difference in error from {reference} (percentage points)")
    axes.text(0, -0.75, "← better   ", ha="right", va="bottom", color=theme.BETTER, clip_on=False)
    axes.text(0, -0.75, "   worse →", ha="left", va="bottom", color=theme.WORSE, clip_on=False)
    caption = (
        f"Each row is one method against {reference} in the same cell: the mean difference over seeds that both "
        f"finished, with its 95 % paired t interval. Left of the line the method makes fewer errors. Filled points are "
        f"clear after Holm's adjustment over all comparisons, hollow ones are not; an interval shows one comparison "
        f"alone, so it can miss zero where the verdict is still open."
    )
    clear = sum(each.verdict in (BETTER, WORSE) for each in shown)
    alt = f"Forest plot of {len(shown)} paired differences from {reference}; {clear} are clear. Numbers in the table."
    return Drawing(figure, "Paired differences", caption, alt)


def error_against_alpha(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """The error at each alpha, with the baseline as a band."""
    plan, metric = results.plan, results.plan.suite.report.metric
    trials = results.trials.assign(error=100 * results.column(metric))
    swept = trials[(trials["arm"] != plan.baseline) & trials["alpha"].notna()]
    finished = trials[trials["error"].notna()]
    cells = _occurring(_occurring(plan.cells, swept["cell"]), finished["cell"])
    if swept["alpha"].nunique() < 2 or not cells:
        return None
    families = {arm: _family(arm) for arm in _occurring(plan.arms, swept["arm"])}
    finished = finished.assign(family=finished["arm"].map(families))
    styles = theme.styles(list(dict.fromkeys(families.values())))
    baseline_x, positions = _alpha_positions(sorted(swept["alpha"].unique()))
    reference = arm_name(plan.baseline)
    handles = [
        Line2D([], [], color=theme.BASELINE, linestyle="--", label=f"{reference}: mean of seeds"),
        Patch(color=theme.FAINT, label=f"{reference}: 95 % interval"),
        *(_handle(style, f"{name}: mean, 95 % interval") for name, style in styles.items()),
        Line2D([], [], color=theme.INK, marker="o", markersize=2.5, linestyle="", alpha=0.4, label="one seed"),
    ]
    figure, panels = _panels(cells, height=1.75, handles=handles, x="alpha (log scale)", y="test error (%)")
    for cell, axes in zip(cells, panels, strict=True):
        own = finished[finished["cell"] == cell]
        _draw_band(axes, own.loc[own["arm"] == plan.baseline, "error"], x=baseline_x)
        for index, (name, style) in enumerate(styles.items()):
            shift = 0.16 * (index - (len(styles) - 1) / 2)  # families at the same alpha stand side by side
            _draw_sweep(axes, own[own["family"] == name], positions, style=style, shift=shift)
        _thin_ticks(axes, {baseline_x: reference.split()[0]} | {x: f"{alpha:g}" for alpha, x in positions.items()})
        axes.set_xlim(baseline_x - 0.5, max(positions.values()) + 0.5)
    without = [arm_name(arm) for arm in plan.arms if arm != plan.baseline and arm not in families]
    caption = (
        f"{_sentence_case(METRICS[metric])} at each alpha; the dashed line and band are {reference}. Below the band is "
        f"better. Bars and band are 95 % t intervals of each mean by itself. Seeds are paired, so a difference can be "
        f"clear although bar and band overlap: verdicts come from the paired differences. Scales differ between panels."
        + (f" Not shown, having no alpha: {', '.join(without)}." if without else "")
    )
    alt = f"Test error against alpha in {len(cells)} panels, with {reference} as a horizontal band."
    return Drawing(figure, "Test error against alpha", caption, alt)


def learning_curves(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Test error after each epoch."""
    curves = results.curves
    plan = results.plan
    cells = _occurring(plan.cells, curves["cell"])
    if not cells:
        return None
    styles = _styles(results)
    summary = curves.assign(error=100 * curves["test_error"]).groupby(["cell", "arm", "epoch"])["error"]
    points = summary.agg(["mean", "std", "count"]).reset_index()
    points["half"] = _half_widths(points["std"].to_numpy(), points["count"].to_numpy())
    by_condition = {key: group.to_numpy().T for key, group in points.groupby(["cell", "arm"])[CURVE_POINT]}
    arms = _occurring(plan.arms, curves["arm"])
    handles = [Line2D([], [], color=styles[a].color, linestyle=styles[a].linestyle, label=arm_name(a)) for a in arms]
    figure, panels = _panels(cells, height=1.75, handles=handles, x="epoch", y="test error (%)")
    for cell, axes in zip(cells, panels, strict=True):
        settled: list[NDArray[np.float64]] = []
        for arm in sorted(arms, key=lambda each: each == plan.baseline):  # the baseline last, on top
            if (cell, arm) not in by_condition:
                continue
            epochs, mean, half = by_condition[cell, arm]
            style = styles[arm]
            low, high = np.clip([mean - half, mean + half], 0, 100)
            axes.fill_between(epochs, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(epochs, mean, color=style.color, linestyle=style.linestyle)
            late = epochs > epochs.max() / 2
            settled += [mean[late], low[late & ~np.isnan(low)]]
        _focus(axes, np.concatenate(settled))
        axes.set_xlim(0, max(by_condition[cell, arm][0].max() for arm in arms if (cell, arm) in by_condition))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    caption = (
        "Test error after each epoch: mean over finished seeds, with the 95 % t interval of each mean. A curve that "
        "falls and rises again memorises wrong labels. The first half of training may lie above the panel. Scales "
        "differ between panels."
    )
    alt = f"Learning curves of {len(arms)} methods in {len(cells)} panels: test error per epoch."
    return Drawing(figure, "Learning curves", caption, alt)


def reliability(results: Results, _comparisons: Sequence[Comparison]) -> Drawing | None:
    """Accuracy against confidence, pooled over seeds."""
    bins = results.bins[results.bins["count"] > 0]
    plan = results.plan
    cells = _occurring(plan.cells, bins["cell"])
    if not cells:
        return None
    pooled = _pooled_bins(bins)
    ece = results.trials.assign(ece=results.column("test_ece")).groupby(["cell", "arm"])["ece"].mean()
    styles = _styles(results)
    drawn = pooled[pooled["count"] >= MIN_BIN_COUNT]
    conditions = {key: group.to_numpy().T for key, group in drawn.groupby(["cell", "arm"])[BIN_POINT]}
    legend_rows = max(sum((cell, arm) in conditions for arm in plan.arms) for cell in cells)
    label_length = max(len(arm_name(arm)) for arm in plan.arms) + len(": ECE 10.0 %")
    figure, panels = _panels(
        cells, legend_rows=legend_rows, label_length=label_length, x="confidence (%)", y="accuracy (%)"
    )
    for cell, axes in zip(cells, panels, strict=True):
        axes.plot([0, 100], [0, 100], color=theme.INK, linewidth=0.6, linestyle=":")
        shown = [arm for arm in plan.arms if (cell, arm) in conditions]
        for arm in shown:
            confidence, accuracy = conditions[cell, arm]
            axes.plot(100 * confidence, 100 * accuracy, markersize=3.5, clip_on=False, **_line(styles[arm]))
        labels = [f"{arm_name(arm)}: ECE {percent(ece[cell, arm], 1)} %" for arm in shown]
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axes.grid(axis="x")
        _legend_below(axes, [styles[arm] for arm in shown], labels)
    caption = (
        "How often the predicted class is right, against how sure the network says it is: test set, final weights. "
        "On the dotted line confidence is honest; below it the network is overconfident, above it too modest. "
        f"15 equal-width bins, pooled over seeds; bins with fewer than {MIN_BIN_COUNT} pooled images are left out. ECE "
        "is the mean over seeds."
    )
    alt = f"Reliability diagrams in {len(cells)} panels: accuracy against confidence for each method."
    return Drawing(figure, "Reliability", caption, alt)


FIGURES: dict[str, Callable[[Results, Sequence[Comparison]], Drawing | None]] = {
    "differences": forest,
    "alpha": error_against_alpha,
    "learning_curves": learning_curves,
    "reliability": reliability,
}


def _styles(results: Results) -> Mapping[str, Style]:
    """One style per arm: shades of one scale where the arms are a sweep of alpha and nothing else."""
    plan = results.plan
    others = [arm for arm in plan.arms if arm != plan.baseline]
    swept = results.trials.loc[results.trials["alpha"].notna(), "arm"]
    ordered = set(others) <= set(swept) and len({_family(arm) for arm in others}) == 1
    return {plan.baseline: theme.BASELINE_STYLE, **theme.styles(others, ordered=ordered)}


def _occurring(names: Sequence[str], column: pd.Series[str]) -> list[str]:
    """Those of `names` that a column holds, in their own order."""
    present = set(column.unique())
    return [name for name in names if name in present]


def _family(arm: str) -> str:
    """An arm's label without its alpha."""
    return " ".join(part for part in arm.split() if not part.startswith("alpha="))


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


def _draw_band(axes: Axes, errors: pd.Series[float], *, x: float) -> None:
    """The baseline: its mean across the panel, its interval as a band, its seeds at `x`."""
    if errors.empty:
        return
    mean = errors.mean()
    half = _half_widths(errors.std(), len(errors))
    if not np.isnan(half):
        axes.axhspan(max(0.0, mean - half), mean + half, color=theme.FAINT, alpha=0.7, linewidth=0)
    axes.axhline(mean, color=theme.BASELINE, linestyle="--")
    _seed_dots(axes, np.full(len(errors), x), errors, color=theme.BASELINE)


def _draw_sweep(
    axes: Axes, trials: pd.DataFrame, positions: Mapping[float, float], *, style: Style, shift: float
) -> None:
    """One family of arms: mean and interval at each alpha, the single seeds faintly beside them."""
    summary = trials.groupby("alpha")["error"].agg(["mean", "std", "count"])
    x = summary.index.map(positions).to_numpy() + shift
    mean = summary["mean"].to_numpy()
    half = np.nan_to_num(_half_widths(summary["std"], summary["count"]))
    axes.plot(x, mean, color=style.color, linewidth=0.8, alpha=0.5)
    # An error has no interval below zero.
    axes.errorbar(x, mean, yerr=[np.minimum(half, mean), half], fmt=style.marker, color=style.color, elinewidth=1.2)
    _seed_dots(axes, trials["alpha"].map(positions) + shift + 0.13, trials["error"], color=style.color)


def _seed_dots(axes: Axes, x: ArrayLike, y: ArrayLike, *, color: str) -> None:
    axes.plot(x, y, "o", color=color, markersize=2.2, alpha=0.4, markeredgewidth=0)


def _thin_ticks(axes: Axes, ticks: Mapping[float, str]) -> None:
    """A tick at every position, and a label wherever it does not run into the one before."""
    axes.set_xticks(list(ticks))
    span = max(ticks) - min(ticks) + 1
    characters = _size_in_inches(axes)[0] / CHARACTER  # that fit side by side at 7 pt
    free_from = -math.inf
    labels = []
    for x, label in ticks.items():
        half = (len(label) + 0.5) / 2 * span / characters
        fits = x - half >= free_from
        labels.append(label if fits else "")
        free_from = x + half if fits else free_from
    axes.set_xticklabels(labels)


def _focus(axes: Axes, errors: NDArray[np.float64]) -> None:
    """Limit the panel to what these errors span, with a margin: the first epochs would flatten all others."""
    low, high = errors.min(), errors.max()
    margin = 0.12 * max(high - low, 0.5)
    axes.set_ylim(max(0.0, low - margin), high + 2 * margin)


def _pooled_bins(bins: pd.DataFrame) -> pd.DataFrame:
    """Bins of all seeds together: counts added up, confidence and accuracy weighed by them."""
    weighed = bins.assign(confidence=bins["confidence"] * bins["count"], accuracy=bins["accuracy"] * bins["count"])
    pooled = weighed.groupby(["cell", "arm", "lower"])[["count", "confidence", "accuracy"]].sum().reset_index()
    pooled[["confidence", "accuracy"]] = pooled[["confidence", "accuracy"]].div(pooled["count"], axis="index")
    return pooled


def _half_widths(sd: ArrayLike, n: ArrayLike) -> Any:
    """Half the 95 % t interval of each mean; NaN where n < 2."""
    n = np.asarray(n, dtype=np.float64)
    degrees = np.where(n > 1, n - 1, np.nan)
    return special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.asarray(sd, dtype=np.float64) / np.sqrt(n)


def _interval_text(comparison: Comparison) -> str:
    digits = comparison_digits(comparison)
    texts = [percent(v, digits, signed=True) for v in (comparison.difference, comparison.low, comparison.high)]
    if math.isnan(comparison.low):
        return typographic(f"{texts[0]}, {'one pair' if comparison.pairs == 1 else 'no spread'}")
    return typographic(f"{texts[0]} [{texts[1]}, {texts[2]}]")


def _forest_limits(shown: Sequence[Comparison]) -> tuple[float, float]:
    """All means and intervals, whole: an interval that is cut off looks like a narrow one."""
    ends = [100 * end for each in shown for end in (each.low, each.high, each.difference) if not math.isnan(end)]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.06 * (high - low) or 0.5
    return low - max(margin, 0.15 * (high - low) * (low > -margin)), high + max(
        margin, 0.15 * (high - low) * (high < margin)
    )


def _line(style: Style) -> dict[str, Any]:
    return {"color": style.color, "marker": style.marker, "linestyle": style.linestyle}


def _handle(style: Style, label: str) -> Line2D:
    return Line2D([], [], label=label, **_line(style))


def _legend_below(axes: Axes, styles: Sequence[Style], labels: Sequence[str]) -> None:
    """A panel's own legend under its axis label. By hand: matplotlib's takes as long as all the rest of the panel."""
    width, height = _size_in_inches(axes)
    for row, (style, label) in enumerate(zip(styles, labels, strict=True)):
        y = -(X_LABEL_HEIGHT + (row + 0.5) * LEGEND_LINE) / height
        x = np.array([-0.36, -0.25, -0.14]) / width
        axes.plot(x, [y, y, y], markevery=[1], markersize=3.5, clip_on=False, transform=axes.transAxes, **_line(style))
        size = 7 * min(1, (width + 0.19) / (CHARACTER * len(label)))
        axes.text(-0.07 / width, y, label, transform=axes.transAxes, va="center", fontsize=size)


def _size_in_inches(axes: Axes) -> tuple[float, float]:
    """Width and height of a panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return axes.get_position().width * width, axes.get_position().height * height


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def _panels(
    titles: Sequence[str],
    *,
    x: str,
    y: str,
    height: float | None = None,
    handles: Sequence[Artist] = (),
    legend_rows: int = 0,
    label_length: int = 0,
) -> tuple[Figure, list[Axes]]:
    """Small multiples, placed in inches: one panel per title, at most three in a row.

    height: of a panel; None makes it square.  handles: a common legend above all panels.  legend_rows: room for so
    many lines of a legend below each panel, the longest of `label_length` characters.
    """
    columns = {1: 1, 2: 2, 4: 2}.get(len(titles), 3)
    if 0.45 + CHARACTER * label_length > theme.FULL_WIDTH / columns:
        columns = min(columns, 2)
    rows = math.ceil(len(titles) / columns)
    width = theme.FULL_WIDTH / max(2, columns)
    left, right = 0.52, 0.12
    panel_width = width - left - right
    panel_height = panel_width if height is None else height
    wrapped = [textwrap.wrap(title, round(panel_width / 0.075)) for title in titles]
    top = 0.1 + 0.14 * max(map(len, wrapped))
    bottom = X_LABEL_HEIGHT + (LEGEND_LINE * legend_rows + 0.12 if legend_rows else 0)
    legend_columns, legend_height = _legend_shape(handles, columns * width)
    total_width, total_height = columns * width, legend_height + rows * (top + panel_height + bottom)
    figure = Figure(figsize=(total_width, total_height))
    panels = []
    for index, lines in enumerate(wrapped):
        row, column = divmod(index, columns)
        from_top = legend_height + row * (top + panel_height + bottom) + top + panel_height
        box = (
            (column * width + left) / total_width,
            1 - from_top / total_height,
            panel_width / total_width,
            panel_height / total_height,
        )
        axes = figure.add_axes(box)
        # Given places save matplotlib from measuring every tick label, a third of the time to draw.
        axes.set_title("\n".join(lines), y=1.0)
        axes.set_xlabel(x)
        axes.xaxis.set_label_coords(0.5, -0.24 / panel_height)
        axes.set_ylabel(y if column == 0 else "")
        axes.yaxis.set_label_coords(-0.36 / panel_width, 0.5)
        panels.append(axes)
    if handles:
        figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=((left - 0.1) / total_width, 1),
            ncols=legend_columns,
            borderaxespad=0.3,
            columnspacing=1.5,
        )
    return figure, panels


def _legend_shape(handles: Sequence[Artist], width: float) -> tuple[int, float]:
    """How many columns a legend has in `width` inches, and its height in inches."""
    if not handles:
        return 1, 0.0
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int((width - 0.5) / (0.42 + CHARACTER * longest))))
    return columns, 0.1 + LEGEND_LINE * math.ceil(len(handles) / columns)


def _encode(figure: Figure, **options: Any) -> bytes:
    """The figure as a file. Without dates and versions in it, the same results give the same bytes."""
    content = io.BytesIO()
    with mpl.rc_context(theme.RC):
        figure.savefig(content, **options)
    return content.getvalue()
