"""The report's figures. Each takes the results and the comparisons, and returns None where it has nothing to show.

To add a figure: a function in the module of its subject and its name in FIGURES, in the order of the page. It stands
among the figures of the suite's question, unless reports/sections.py gives it a section.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import matplotlib as mpl

from reports import theme
from reports.figures.alpha import chosen, error_against_alpha
from reports.figures.calibration import reliability
from reports.figures.corruption_map import corruption_map
from reports.figures.cost import error_against_time
from reports.figures.drawing import Drawing
from reports.figures.errors import forest
from reports.figures.in_between import in_between
from reports.figures.label_noise import best_and_last, memorisation, transitions
from reports.figures.layout import MOST_CELLS, MOST_ROWS
from reports.figures.learning_curves import learning_curves
from reports.figures.over_cells import critical_difference, improvement_profile, pairs
from reports.figures.published import published
from reports.figures.robustness import attacks, corruption_kinds, corruption_severity, ood
from reports.figures.training import lam, training_errors
from reports.load import FINISHED, Results
from reports.statistics import Comparison

__all__ = ["FIGURES", "MOST_CELLS", "MOST_ROWS", "Drawing", "Painter"]

FIGURES: dict[str, Callable[[Results, Sequence[Comparison]], Drawing | None]] = {
    "differences": forest,
    "alpha": error_against_alpha,
    "learning_curves": learning_curves,
    "error_against_time": error_against_time,
    "pairs": pairs,
    "profile": improvement_profile,
    "ranks": critical_difference,
    "chosen": chosen,
    "training_errors": training_errors,
    "lam": lam,
    "label_noise": transitions,
    "best_and_last": best_and_last,
    "memorisation": memorisation,
    "reliability": reliability,
    "corruption_kinds": corruption_kinds,
    "corruption_severity": corruption_severity,
    "corruption_map": corruption_map,
    "ood": ood,
    "attacks": attacks,
    "in_between": in_between,
    "published": published,
}


OF_ALL_CELLS = ("differences", "chosen", "pairs", "profile", "ranks")
"""Figures that are about all cells at once, or have little for each: which are drawn is for them to say."""

A_ROW_PER_CELL = ("training_errors", "memorisation", "reliability", "corruption_kinds", "ood", "attacks", "in_between")
"""Figures that give each cell a row over the whole width, and so are of fewer cells than others."""


class Painter:
    """Draws the figures of one suite's results."""

    def __init__(self, results: Results, comparisons: Sequence[Comparison]) -> None:
        self._results, self._comparisons = results, comparisons
        finished = results.trials[results.trials["status"].isin(FINISHED)]
        self._is_one_seed = bool((finished.groupby(["cell", "arm"])["seed"].count() == 1).all())
        self._parts = {most: results.of_cells(results.plan.cells[:most]) for most in (MOST_CELLS, MOST_ROWS)}

    def draw(self, name: str) -> Drawing | None:
        """The figure `name` of FIGURES; None where it does not apply to this suite or has no data yet."""
        cells = self._results.plan.cells
        most = MOST_ROWS if name in A_ROW_PER_CELL else MOST_CELLS
        part = self._results if name in OF_ALL_CELLS else self._parts[most]
        shown = part.plan.cells
        with mpl.rc_context(theme.RC):
            drawing = FIGURES[name](part, [each for each in self._comparisons if each.cell in shown])
        if drawing is None:
            return None
        if self._is_one_seed and "95 %" in drawing.caption:
            drawing = replace(drawing, caption=f"{drawing.caption} One seed has no interval.")
        if len(shown) == len(cells):
            return drawing
        note = f" The first {len(shown)} of {len(cells)} cells; comparison.csv and secondary.csv compare all."
        return replace(drawing, caption=drawing.caption + note)
