"""The words, the tables and the files of two results folders beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.results.store import make_folder, write_atomically
from bench.text import markdown_text
from reports import wording
from reports.between_runs import IDENTICAL, Row, RunsCompared
from reports.formats import count, csv_bytes, listed
from reports.measures import Measure
from reports.tables import Table, difference_cells, judged_cells, markdown, plain_text

MOST_ROWS = 60
"""A terminal gets the whole table up to here, and of a longer one the rows that changed."""

MOST_NAMED = 4


def terminal_lines(found: RunsCompared) -> Iterator[str]:
    """The answer, what to know before believing it, and both tables."""
    yield f"{headline(found)}\n"
    for remark in remarks(found):
        yield f"- {remark}"
    for what, rows, table in (
        ("conditions", found.conditions, conditions_table),
        ("differences", found.effects, effects_table),
    ):
        shown = table(found, only_changed=len(rows) > MOST_ROWS)
        if shown.groups:
            yield f"\n{plain_text(shown)}"
        if len(rows) > MOST_ROWS:
            yield f"\n{len(rows):,} {what} in all: the CSV has those that did not change, too"


def write_tables(found: RunsCompared, folder: Path) -> Path:
    """Write comparison.csv and comparison.md into the folder; the path of the latter."""
    make_folder(folder.absolute())
    write_atomically(folder / "comparison.csv", csv_bytes(frame(found)))
    parts = [f"# {found.before.root} and {found.after.root}", f"{headline(found)}."]
    parts.append("\n".join(f"- {markdown_text(remark)}" for remark in remarks(found)))
    parts += [markdown(table) for table in (conditions_table(found), effects_table(found)) if table.groups]
    parts.append(HOW_COMPARED)
    path = folder / "comparison.md"
    write_atomically(path, "\n\n".join(filter(None, parts)).encode(errors="backslashreplace"))
    return path.absolute()


HOW_COMPARED = """\
Change: second run minus first, mean over trials of the same options and seed, with its 95 % paired t interval, in
percentage points where the figure is in percent. p: paired t test, Holm-adjusted over the rows of its table. Lower and
higher: p at most 0.05. Identical: the figure and everything that training measured are the same to the bit. The second
table has differences from the baseline: one moves where an arm changed in another way than the baseline did.
"""


def conditions_table(found: RunsCompared, *, only_changed: bool = False) -> Table:
    """The figure of every condition in both runs."""
    title = f"{found.measure.title}, first run"
    return _table(found.conditions, found.measure, title, "second run", signed=False, only_changed=only_changed)


def effects_table(found: RunsCompared, *, only_changed: bool = False) -> Table:
    """Every arm's difference from the baseline in both runs."""
    title = f"difference from {wording.arm_name(found.baseline)}, first run"
    return _table(found.effects, found.measure, title, "second run", signed=True, only_changed=only_changed)


def _table(rows: Sequence[Row], figure: Measure, first: str, second: str, *, signed: bool, only_changed: bool) -> Table:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        if only_changed and not row.is_changed:
            continue
        judged = row.judged
        digits = figure.digits((judged.high - judged.low) / 2)
        means = [figure.text(value, digits, signed=signed) for value in (judged.baseline_mean, judged.pair_mean)]
        pairs, _, _, p = judged_cells(judged, figure)
        change = difference_cells(judged.difference, judged.low, judged.high, figure)
        groups.setdefault(row.cell, []).append((wording.arm_name(row.arm), *means, pairs, *change, p, row.verdict))
    unit = f" ({figure.unit})" if figure.unit else ""
    header = ("method", f"{first}{unit}", second, "pairs", "change", "95 % interval", "p (Holm)", "verdict")
    return Table(header, tuple((cell, tuple(own)) for cell, own in groups.items()))


def frame(found: RunsCompared) -> pd.DataFrame:
    """Every row of both tables, fractions and full precision."""
    rows = [
        {
            "what": what,
            "cell": row.cell,
            "arm": row.arm,
            "metric": found.measure.name,
            "pairs": row.judged.pairs,
            "planned": row.judged.planned,
            "first": row.judged.baseline_mean,
            "second": row.judged.pair_mean,
            "change": row.judged.difference,
            "low": row.judged.low,
            "high": row.judged.high,
            "p": row.judged.p,
            "holm_p": row.judged.holm_p,
            "verdict": row.verdict,
        }
        for what, own in (("condition", found.conditions), ("difference from baseline", found.effects))
        for row in own
    ]
    return pd.DataFrame(rows)


def headline(found: RunsCompared) -> str:
    """All verdicts in one sentence."""
    same = sum(row.verdict == IDENTICAL for row in found.conditions)
    changed = [row for row in found.conditions if row.is_changed]
    parts = [f"{len(changed)} of {count(len(found.conditions), 'condition')} changed beyond noise"]
    if same:
        parts.append(f"{same} {'are' if same != 1 else 'is'} the same to the bit")
    if found.effects:
        moved = sum(row.is_changed for row in found.effects)
        reference = wording.arm_name(found.baseline)
        parts.append(f"{moved} of {count(len(found.effects), 'difference')} from {reference} did")
    return "; ".join(parts)


def remarks(found: RunsCompared) -> Iterator[str]:
    """What to know before believing it: what the runs differ in, and what was left out."""
    for fact, first, second in found.facts:
        yield f"{fact}: {first} -> {second}"
    if not np.isnan(found.time_ratio):
        over = count(found.pairs, "pair")
        yield f"training took {found.time_ratio:.2f} times as long in the second (median over {over})"
    if found.other_data:
        yield (
            "trained on other data, so a change there may be the data's: "
            f"{listed(found.other_data, most=MOST_NAMED, separator='; ')}"
        )
    for run, alone in zip((found.before, found.after), found.only, strict=True):
        lacking = {
            "unfinished": run.unfinished,
            f"without {found.measure.name}": run.without_metric,
            "of a version unknown here": run.unreadable,
        }
        words = [f"{count(n, 'trial')} {what}" for what, n in lacking.items() if n]
        words += [f"{count(alone, 'condition')} that the other has not"] if alone else []
        if words:
            yield f"left out of {run.root}: {', '.join(words)}"
