"""Which arms a figure with one line per arm draws, and what each of them looks like in every figure of a report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D

from reports import theme
from reports.load import Results
from reports.measures import measure
from reports.theme import Style
from reports.wording import arm_name

if TYPE_CHECKING:
    import pandas as pd

MOST_OTHERS = 7
"""Beside the baseline: there is no eighth hue, marker and dash, and more lines in one panel cannot be told apart."""

MOST_BANDS = 5
"""More intervals than this cover one another."""


@dataclass(frozen=True)
class DrawnArms:
    """The arms that a figure draws.

    arms: in the order of the plan.  styles: at least theirs.  note: what the caption has to say about the arms that
    are left out, after a space; "" where none is.
    """

    arms: tuple[str, ...]
    styles: Mapping[str, Style]
    baseline: str
    note: str

    @property
    def has_bands(self) -> bool:
        """Whether there is room for a band of intervals around each line."""
        return len(self.arms) <= MOST_BANDS

    @property
    def means(self) -> str:
        """What a line shows, for a caption."""
        if self.has_bands:
            return "mean over seeds with the 95 % t interval of each mean"
        return "mean over seeds; with so many methods, the 95 % t intervals are in the CSV alone"

    @property
    def in_drawing_order(self) -> list[str]:
        """The baseline last, on top of the others."""
        return sorted(self.arms, key=lambda arm: arm == self.baseline)

    def handles(self, *, marked: bool = False) -> list[Line2D]:
        """A legend's lines, one per arm.  marked: with the arm's marker."""
        options = [line(self.styles[arm], marked=marked) for arm in self.arms]
        return [Line2D([], [], label=arm_name(arm), **option) for arm, option in zip(self.arms, options, strict=True)]


def drawn_arms(results: Results, column: pd.Series[str]) -> DrawnArms:
    """Those that have a result, which is a row in `column`: the baseline and of the others the seven best.

    Best by the mean over the cells of what the suite's verdicts go by, of which less is better.
    """
    plan = results.plan
    there = set(column.unique())
    present = [arm for arm in plan.arms if arm in there]
    arms = _leading(results, present)
    note = ""
    if len(arms) < len(present):
        first = f"{arm_name(plan.baseline)} and " if plan.baseline in arms else ""
        note = (
            f" Of {len(present)} methods, {first}the seven with the lowest mean "
            f"{measure(plan.suite.report.metric).title} are drawn; the CSV has all."
        )
    return DrawnArms(tuple(arms), arm_styles(results), plan.baseline, note)


def arm_styles(results: Results) -> Mapping[str, Style]:
    """One style per arm: shades of one scale where the arms are a sweep of alpha and nothing else, else hues.

    The hues go to the arms that are drawn where not all can be. The others get shades, for want of more hues.
    """
    plan = results.plan
    others = [arm for arm in plan.arms if arm != plan.baseline]
    swept = results.trials.loc[results.trials["alpha"].notna(), "arm"]
    ordered = set(others) <= set(swept) and len({series_of(arm) for arm in others}) == 1
    leading = [arm for arm in _leading(results, plan.arms) if arm != plan.baseline]
    rest = [arm for arm in others if arm not in leading]
    own = theme.styles(leading, ordered=ordered)
    return {plan.baseline: theme.BASELINE_STYLE, **own, **theme.shaded(rest)}


def series_of(arm: str) -> str:
    """An arm's label without its alpha: what it has in common with the arms that it is one sweep with."""
    return " ".join(part for part in arm.split() if not part.startswith("alpha="))


def line(style: Style, *, marked: bool = True) -> dict[str, Any]:
    """Options of a line: told from others by its markers, or by its dashes where it has none."""
    if not marked:
        return {"color": style.color, "marker": "", "linestyle": style.dashes}
    face = style.face or style.color
    return {"color": style.color, "marker": style.marker, "markerfacecolor": face, "linestyle": style.linestyle}


def handle(style: Style, label: str) -> Line2D:
    return Line2D([], [], label=label, **line(style))


def _leading(results: Results, arms: Collection[str]) -> Sequence[str]:
    """All of them, or those that are drawn, in the same order."""
    others = [arm for arm in arms if arm != results.plan.baseline]
    if len(others) <= MOST_OTHERS:
        return list(arms)
    values = results.trials[["cell", "arm"]].assign(value=results.column(results.plan.suite.report.metric))
    means = values.groupby(["cell", "arm"])["value"].mean().groupby("arm").mean().dropna()
    best = sorted(others, key=lambda arm: means.get(arm, float("inf")))[:MOST_OTHERS]
    return [arm for arm in arms if arm in best or arm == results.plan.baseline]
