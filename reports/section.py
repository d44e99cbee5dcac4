"""A section of the page: words, tables and figures about one subject, and what it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.load import Results
from reports.secondary import Secondary
from reports.statistics import Comparison
from reports.tables import Table


@dataclass(frozen=True)
class Findings:
    """What a report has to tell.  comparisons: those of the suite's question.  secondary: all others."""

    results: Results
    comparisons: Sequence[Comparison]
    secondary: Sequence[Secondary]


@dataclass(frozen=True)
class Folded:
    """The secondary comparisons of one kind of evaluation.  summary: what stands above them, folded or not."""

    anchor: str
    title: str
    summary: str
    table: Table
    is_open: bool


@dataclass(frozen=True)
class Section:
    """paragraphs: what a reader has to know first.  tables: each with its caption.  figures: their names."""

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[tuple[Table, str], ...] = ()
    figures: tuple[str, ...] = ()
    comparisons: tuple[Folded, ...] = ()
    notes: tuple[str, ...] = ()
