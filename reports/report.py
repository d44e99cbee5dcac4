"""Render a report: everything that a plan's trials have shown so far, as files in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results.store import Store, write_atomically
from reports import figures, html, tables, wording
from reports.aggregates import aggregate, blocks_of, over_cells_frame
from reports.chosen import chosen_frame, chosen_on_validation
from reports.drawn import Drawers
from reports.figures.drawing import Files
from reports.formats import csv_bytes
from reports.load import Results, load
from reports.measures import measure
from reports.paper import write_paper
from reports.published import published_frame
from reports.secondary import secondary_comparisons, secondary_frame
from reports.section import Findings
from reports.sections import sections
from reports.statistics import Comparison, Pairs, compare, pairs_of, settled_pairs

if TYPE_CHECKING:
    from bench.plan.plan import Plan


@dataclass(frozen=True)
class Report:
    """What was rendered.

    html: the page, in the folder with everything else.  verdicts: one sentence per comparison, with its cell.
    summary: all of them in one sentence.  table_text: the paired comparison for a terminal.
    counts: trials by status of the result store, and "trials", "pairs" and "pairs_left_out" in all.
    """

    html: Path
    summary: str
    verdicts: list[str]
    table_text: str
    counts: Mapping[str, int]


def render(
    plan: Plan, store: Store, out_dir: Path, *, refresh_seconds: int | None = None, processes: int = 1
) -> Report:
    """Write report.html, comparison.csv, comparison.md, trials.csv and figures/*.png, *.pdf and *.csv into `out_dir`.

    And secondary.csv, the comparisons of all other figures, over_cells.csv, where there are several cells,
    corruptions.csv, where the suite measured any, chosen.csv, where there is something to choose on validation,
    published.csv, where others have published numbers of the same, and paper/, the figures and tables for LaTeX.

    refresh_seconds: after which the page loads itself again, for one that is rendered while its suite runs.
    processes: how many may draw, where there is enough to draw for it to pay. They import the caller's main module, as
        all processes do that Python spawns.

    Works with any number of finished trials, none included. Each file is replaced atomically, the page last; a figure
    of an earlier report that no longer applies is removed.
    """
    with Drawers(processes, num_trials=len(plan.trials)) as drawers:
        results = load(plan, store)
        comparisons = _compare(results)
        drawings, files = _draw(drawers, results, comparisons, out_dir / "figures")
    metric = plan.suite.report.metric
    table = tables.comparison_table(results, comparisons, metric=metric)
    frame = tables.comparison_frame(results, comparisons, metric=metric)
    write_atomically(out_dir / "comparison.csv", csv_bytes(frame))
    write_atomically(out_dir / "comparison.md", tables.markdown(table).encode(errors="backslashreplace"))
    write_atomically(out_dir / "trials.csv", csv_bytes(results.trials))
    secondary = secondary_comparisons(results)
    aggregates = [aggregate(block, rule=plan.suite.stopping) for block in blocks_of(results, metric)]
    further = {
        "secondary.csv": secondary_frame(results, secondary),
        "over_cells.csv": over_cells_frame(aggregates),
        "corruptions.csv": tables.corruption_frame(results),
        "chosen.csv": chosen_frame(chosen_on_validation(results)),
        "published.csv": published_frame(results),
    }
    for name, content in further.items():
        if content.empty:
            (out_dir / name).unlink(missing_ok=True)
        else:
            write_atomically(out_dir / name, csv_bytes(content))
    findings = Findings(results, comparisons, secondary)
    found = sections(findings, drawings)
    page = html.page(
        findings,
        sections=found,
        comparison_table=table,
        drawings=drawings,
        files=files,
        refresh_seconds=refresh_seconds,
    )
    write_paper(
        findings,
        sections=found,
        comparison_table=table,
        drawings=drawings,
        figures=out_dir / "figures",
        folder=out_dir / "paper",
    )
    write_atomically(out_dir / "report.html", page.encode(errors="backslashreplace"))
    return Report(
        html=out_dir / "report.html",
        summary=wording.answer(results, comparisons),
        verdicts=[
            f"{each.cell}: {wording.sentence(each, measure(metric), baseline=plan.baseline)}" for each in comparisons
        ],
        table_text=tables.plain_text(table, without=("seeds", "floor")),
        counts=_counts(results, comparisons),
    )


def _compare(results: Results) -> list[Comparison]:
    """The comparisons that the verdicts are about."""
    suite = results.plan.suite
    pairs = _pairs(results, suite.report.metric)
    return compare(pairs, rule=suite.stopping, smallest_effect=suite.report.smallest_effect)


def _pairs(results: Results, metric: str) -> list[Pairs]:
    """The pairs that the verdicts go by; where seeds are added, those by which it was decided whether to."""
    plan = results.plan
    if plan.suite.stopping:
        return settled_pairs(plan, results.metric_of)
    trials = results.trials.assign(**{metric: results.column(metric)})
    return pairs_of(trials, metric, cells=plan.cells, arms=plan.arms, baseline=plan.baseline)


def _draw(
    drawers: Drawers, results: Results, comparisons: Sequence[Comparison], folder: Path
) -> tuple[dict[str, figures.Drawing], dict[str, Files]]:
    """Draw and write the figures; the words that go with each, and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    words, files = {}, {}
    for name, (words[name], files[name]) in drawers.draw(results, comparisons):
        write_atomically(folder / f"{name}.png", files[name].png)
        write_atomically(folder / f"{name}.pdf", files[name].pdf)
        write_atomically(folder / f"{name}.csv", files[name].csv)
    for name in figures.FIGURES.keys() - words.keys():
        for suffix in ("png", "pdf", "csv"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return words, files


def _counts(results: Results, comparisons: Sequence[Comparison]) -> dict[str, int]:
    statuses = results.trials["status"].value_counts()
    return {
        **{status: int(statuses.get(status, 0)) for status in wording.STATUSES},
        "trials": len(results.trials),
        "pairs": sum(each.planned for each in comparisons),
        "pairs_left_out": sum(each.left_out for each in comparisons),
    }
