"""Numbers as a reader sees them: decimals, p values, durations, counts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from bench.plan.power import SIGNIFICANCE_LEVEL

NOTHING = "-"
"""Stands for a number that does not exist."""

EN_DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with so many decimals, "-" for NaN, and never "-0.0"."""
    if math.isnan(value):
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"


def percent(fraction: float, digits: int, *, signed: bool = False) -> str:
    """A fraction in percent, or a difference of fractions in percentage points, without the unit."""
    return number(100 * fraction, digits, signed=signed)


def p_value(p: float) -> str:
    """Two decimals from 0.1 up, two digits below; three where two would hide on which side of 0.05 it lies."""
    if math.isnan(p):
        return NOTHING
    if p < 0.001:
        return "<0.001"
    if abs(p - SIGNIFICANCE_LEVEL) < 0.005:
        return f"{p:.3g}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def p_equals(p: float) -> str:
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def duration(seconds: float) -> str:
    """Such as 0.8 s, 42 s, 3 min 5 s, 2 h 10 min; "-" for NaN."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(n: int, noun: str) -> str:
    """Such as "1 seed" or "6 seeds"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(texts: Sequence[str], *, most: int, separator: str = ", ") -> str:
    """The first of them and how many there are besides, such as "a, b and 3 more"."""
    named = separator.join(texts[:most])
    return named if len(texts) <= most else f"{named} and {len(texts) - most:,} more"


def roughly(n: int, noun: str) -> str:
    """An estimated number: "about 12 seeds", and above 20, where more would be false precision, "some 400 seeds"."""
    if n <= 20:
        return f"about {count(n, noun)}"
    unit = 10 ** math.floor(math.log10(n))
    return f"some {count(round(n / unit) * unit, noun)}"


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV.  Text that a spreadsheet would take for a formula, such as =1+1, gets an apostrophe in front.

    Only names that users give can begin so (of a folder of images, say); numbers stay as they are.
    """
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = frame.assign(**{str(column): texts[column].map(_no_formula) for column in texts})
    return safe.to_csv(index=False).encode(errors="backslashreplace")


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def typographic(text: str) -> str:
    """A true minus before numbers and a dash for what does not exist; for HTML, where fonts have them."""
    return EN_DASH if text == NOTHING else re.sub(r"(?<!\w)-(?=[\d.])", MINUS, text)
