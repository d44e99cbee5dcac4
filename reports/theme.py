"""How figures look: sizes in inches, fonts, and colours that colour-blind readers and grey printers can tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

COLUMN_WIDTH, FULL_WIDTH = 3.25, 6.75
"""Inches: a column and the text of the usual two-column paper. A figure of one panel takes a column, others the text.

A figure is printed at its own size, so 8 pt stays 8 pt.
"""

INK = "#222222"
FAINT = "#d9d9d9"
BASELINE = "#6b6b6b"
BETTER = "#0072b2"
WORSE = "#d55e00"

HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255")
"""Okabe and Ito's palette without black (ink) and yellow (too pale on white); and Tol's wine, darker than all."""

TITLE_PAD = 6
"""Points between a panel and its title."""

LIGHTEST = 0.8
"""How far up viridis the shades go: its yellow is too pale on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Dashes = str | tuple[float, tuple[float, ...]]

DASHES: tuple[Dashes, ...] = (
    "-",
    (0, (1, 1.2)),
    (0, (5, 1.2, 1, 1.2)),
    (0, (8, 2)),
    (0, (3, 1.1, 1, 1.1, 1, 1.1)),
    (0, (1, 2.6)),
    (0, (7, 1.2, 2.5, 1.2)),
)
"""Of the lines without markers, in turn: on grey paper two hues can be alike."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": TITLE_PAD,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,  # two of the longest dashes
    "text.parse_math": False,  # a $ in the name of a folder is no formula, least of all a wrong one
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "savefig.dpi": 200,
    "figure.dpi": 200,
}


@dataclass(frozen=True)
class Style:
    """What an arm looks like in every figure of a report."""

    color: str
    marker: str
    linestyle: Literal["-", "--"] = "-"
    """Of its line where that has markers."""
    face: str = ""
    """What its markers are filled with; "" for its colour."""
    dashes: Dashes = "-"
    """Of its line where that has no markers."""


BASELINE_STYLE = Style(BASELINE, "o", "--", face="white", dashes="--")


def styles(names: Sequence[str], *, ordered: bool = False) -> dict[str, Style]:
    """A style for each name, none of them grey, which is the baseline's.

    ordered: the names are steps of one quantity, and get shades of one scale instead of distinct hues. So do more
    names than there are hues.
    """
    if (ordered and len(names) > 2) or len(names) > len(HUES):
        return shaded(names)
    return _styles(names, HUES[: len(names)])


def shaded(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name, from dark to light."""
    shades = np.linspace(0, LIGHTEST, len(names))
    return _styles(names, [to_hex(colormaps["viridis"](shade)) for shade in shades])


def _styles(names: Sequence[str], colors: Sequence[str]) -> dict[str, Style]:
    looks = zip(names, colors, itertools.cycle(zip(MARKERS, DASHES, strict=True)), strict=False)
    return {name: Style(color, marker, dashes=dashes) for name, color, (marker, dashes) in looks}
