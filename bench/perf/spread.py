"""Measured values as a cell of a table: the middle one, and how far the others lie from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def quartiles(values: Sequence[float], *, digits: int | None = None) -> str:
    """Median [lower quartile-upper quartile], with so many decimals; unsaid, three digits of the median at least."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return _cell(middle, low, high, max(0, 2 - math.floor(math.log10(middle))) if digits is None else digits)


def extremes(values: Sequence[float], *, digits: int) -> str:
    """Median [least-most], with so many decimals."""
    return _cell(statistics.median(values), min(values), max(values), digits)


def _cell(middle: float, low: float, high: float, digits: int) -> str:
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"
