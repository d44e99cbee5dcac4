"""The paper folder: figures, tables and a main.tex that has all of them, whole when it is copied elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bench.results.store import write_atomically
from reports import tables, wording
from reports.best import BEST_IN_WORDS, leading_arms
from reports.costs import TIME_CAPTION, time_table
from reports.figures import FIGURES, Drawing
from reports.formats import csv_bytes
from reports.html import cautions, provenance, recommended
from reports.latex import TEXT_HEIGHT, TEXT_WIDTH, Marked, Place, escape, marked_markdown, points, text_table
from reports.load import Results
from reports.measures import measure
from reports.section import Findings, Section
from reports.statistics import BETTER, WORSE
from reports.tables import Table
from reports.wording import arm_name

MADE = "% Made by mixup-bench."
"""How the first line of our own .tex files begins: those of an earlier report are removed."""

BETTER_MARK, WORSE_MARK = "*", "\N{DAGGER}"

MOST_VERDICTS = 30
"""With more comparisons main.tex says how many there are of each verdict, and leaves the rest to the table."""

README = """\
Figures, tables and a main.tex that shows all of them, made by `bench report`: the next one makes them anew, so copy
this folder before you change anything.

    pdflatex main.tex && pdflatex main.tex

tables/results.tex is the table of results; \\input it, and whichever others, with the packages array, booktabs and
longtable (figures need graphicx). Tables are no wider than 6.8 inches. figures/*.pdf have the size at which they are to
be printed, with text of 8 pt; beside each is a PNG and, as CSV, what is drawn. The tables, too, are there as CSV
(numbers in full precision where they are means over seeds) and as Markdown.

What is bold and what the marks mean stands below each table; how everything was tested stands in main.tex.
"""


@dataclass(frozen=True)
class _Entry:
    """A table of the paper.  data: its CSV; None for its cells as they are shown."""

    name: str
    marked: Marked
    caption: str
    data: pd.DataFrame | None = None


def write_paper(
    findings: Findings,
    *,
    sections: Sequence[Section],
    comparison_table: Table,
    drawings: Mapping[str, Drawing],
    figures: Path,
    folder: Path,
) -> None:
    """Write the paper's files below `folder`, and remove those of an earlier report that no longer apply.

    figures: the folder where the pictures of `drawings` are already, as PDF, PNG and CSV.
    """
    marks = _Marks(findings)
    main = [_results_entry(findings, marks), _comparison_entry(findings, comparison_table)]
    of_sections = {section.anchor: list(_section_entries(section, marks)) for section in sections}
    secondary = [folded for section in sections for folded in section.comparisons]
    apart = [_folded_entry(folded.anchor, folded.title, folded.table) for folded in secondary]
    made = list(_how_it_was_made(findings.results))
    written = {folder / "main.tex", folder / "README.md"}
    for entry in [*main, *(entry for own in of_sections.values() for entry in own), *apart, *made]:
        written |= _write_table(entry, folder / "tables")
    written |= _copy_figures(drawings, figures, folder / "figures")
    text = _main_tex(findings, sections, drawings, main=main, of_sections=of_sections, apart=apart, made=made)
    _write(folder / "main.tex", text)
    _write(folder / "README.md", README)
    _remove_stale(folder, written)


def _write(path: Path, content: str | bytes) -> Path:
    """Where it is not there already: writing is slow, because it is made sure of."""
    encoded = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != encoded:
        write_atomically(path, encoded)
    return path


def _write_table(entry: _Entry, folder: Path) -> set[Path]:
    table = entry.marked.table
    text = text_table(entry.marked, caption=entry.caption, label=entry.name)
    data = _as_shown(table) if entry.data is None else entry.data
    return {
        _write(folder / f"{entry.name}.tex", f"{MADE} Packages: array, booktabs, longtable.\n{text}"),
        _write(folder / f"{entry.name}.md", marked_markdown(entry.marked)),
        _write(folder / f"{entry.name}.csv", csv_bytes(data)),
    }


def _copy_figures(drawings: Mapping[str, Drawing], source: Path, folder: Path) -> set[Path]:
    names = [f"{name}.{kind}" for name in drawings for kind in ("pdf", "png", "csv")]
    return {_write(folder / name, (source / name).read_bytes()) for name in names}


def _remove_stale(folder: Path, written: set[Path]) -> None:
    for path in sorted(folder.glob("tables/*.tex")):
        if path not in written and path.read_bytes().startswith(MADE.encode()):
            for suffix in (".tex", ".md", ".csv"):
                path.with_suffix(suffix).unlink(missing_ok=True)
    for name in FIGURES:
        for suffix in ("pdf", "png", "csv"):
            path = folder / "figures" / f"{name}.{suffix}"
            if path not in written:
                path.unlink(missing_ok=True)


class _Marks:
    """What is bold and marked, by figure, cell and arm."""

    def __init__(self, findings: Findings) -> None:
        self.results = findings.results
        self._leading: dict[str, Mapping[str, frozenset[str]]] = {}
        metric = findings.results.plan.suite.report.metric
        judged = {metric: findings.comparisons} | {each.measure.name: each.judgements for each in findings.secondary}
        self._verdicts = {
            (name, each.cell, each.arm): each.verdict for name, family in judged.items() for each in family
        }

    def is_bold(self, metric: str, cell: str, arm: str) -> bool:
        """Of a training error none: a low one on wrong labels is no merit."""
        if metric.startswith("train_error"):
            return False
        if metric not in self._leading:
            self._leading[metric] = leading_arms(self.results, metric)
        return arm in self._leading[metric].get(cell, ())

    def mark(self, metric: str, cell: str, arm: str) -> str:
        return {BETTER: BETTER_MARK, WORSE: WORSE_MARK}.get(self._verdicts.get((metric, cell, arm), ""), "")

    def notes(self, marked: Marked) -> tuple[str, ...]:
        """What there is to explain."""
        plan = self.results.plan
        found = set(marked.marks.values())
        named = {BETTER_MARK: "better", WORSE_MARK: "worse"}
        said = ", ".join(f"{mark} {word}" for mark, word in named.items() if mark in found)
        looks = " and for looking after every seed" if plan.suite.stopping else ""
        tested = "paired t test, Holm-adjusted over all comparisons of the figure with it"
        return (
            *([BEST_IN_WORDS] if marked.bold else []),
            *([f"{said} than {arm_name(plan.baseline)} at 0.05: {tested}{looks}."] if said else []),
        )


def _results_entry(findings: Findings, marks: _Marks) -> _Entry:
    """A row for each method and a column for each cell."""
    results = findings.results
    plan, metric = results.plan, results.plan.suite.report.metric
    figure, summary = measure(metric), tables.condition_summary(results, metric)
    arms = [arm for arm in plan.arms if any((cell, arm) in summary for cell in plan.cells)]
    rows, data = [], []
    bold: set[Place] = set()
    marked: dict[Place, str] = {}
    for row, arm in enumerate(arms):
        texts = [arm_name(arm)]
        for column, cell in enumerate(plan.cells, start=1):
            spread = summary.get((cell, arm))
            texts.append(tables.mean_and_sd(spread, figure) if spread else "")
            if spread is None:
                continue
            is_bold, mark = marks.is_bold(metric, cell, arm), marks.mark(metric, cell, arm)
            bold |= {(0, row, column)} if is_bold else set()
            marked |= {(0, row, column): mark} if mark else {}
            numbers = {"metric": metric, "mean": spread.mean, "sd": spread.sd, "n": spread.n}
            data.append({"cell": cell, "arm": arm, **numbers, "bold": is_bold, "mark": mark})
        rows.append(tuple(texts))
    made = Marked(Table(("method", *plan.cells), (("", tuple(rows)),)), frozenset(bold), marked)
    seeds = sorted({spread.n for spread in summary.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    unit = f" ({figure.unit})" if figure.unit else ""
    caption = f"{wording.sentence_case(figure.phrase)}{unit}, mean ± sd over {counted} finished seeds."
    return _Entry("results", replace(made, table=replace(made.table, notes=marks.notes(made))), caption, _frame(data))


def _frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["cell", "arm", "metric", "mean", "sd", "n", "bold", "mark"])


def _comparison_entry(findings: Findings, table: Table) -> _Entry:
    results = findings.results
    metric, baseline = measure(results.plan.suite.report.metric), arm_name(results.plan.baseline)
    points = ", in percentage points" if metric.unit == "%" else ""
    tested = _how_tested(findings)["table"]
    caption = (
        f"{wording.sentence_case(metric.phrase)}, paired comparison with {baseline}. Difference: method minus "
        f"{baseline} over the pairs{points}. {tested}"
    )
    frame = tables.comparison_frame(results, findings.comparisons, metric=metric.name)
    return _Entry("comparison", Marked(table), caption, frame)


def _section_entries(section: Section, marks: _Marks) -> Iterator[_Entry]:
    """Its tables, those of figures by method with what is best and what is clear."""
    for index, (table, caption) in enumerate(section.tables, start=1):
        name = section.anchor if len(section.tables) == 1 else f"{section.anchor}-{index}"
        if not table.metrics:
            yield _Entry(name, Marked(table), caption)
            continue
        marked, data = _marked_metrics(table, marks)
        notes = (*table.notes, *marks.notes(marked))
        yield _Entry(name, replace(marked, table=replace(table, notes=notes)), caption, data)


def _marked_metrics(table: Table, marks: _Marks) -> tuple[Marked, pd.DataFrame]:
    results = marks.results
    arm_of = {arm_name(arm): arm for arm in results.plan.arms}
    data = []
    bold: set[Place] = set()
    marked: dict[Place, str] = {}
    for column, metric in enumerate(table.metrics, start=1):
        summary = tables.condition_summary(results, metric)
        for group, (cell, rows) in enumerate(table.groups):
            for row, texts in enumerate(rows):
                arm, place = arm_of[texts[0]], (group, row, column)
                is_bold, mark = marks.is_bold(metric, cell, arm), marks.mark(metric, cell, arm)
                bold |= {place} if is_bold else set()
                marked |= {place: mark} if mark else {}
                spread = summary[cell, arm]
                numbers = {"metric": metric, "mean": spread.mean, "sd": spread.sd, "n": spread.n}
                data.append({"cell": cell, "arm": arm, **numbers, "bold": is_bold, "mark": mark})
    return Marked(table, frozenset(bold), marked), _frame(data)


def _folded_entry(anchor: str, title: str, table: Table) -> _Entry:
    caption = (
        f"{title}: secondary comparisons. Difference: method minus baseline over the pairs, in percentage points where "
        "the figure is in percent. p: paired t test, Holm-adjusted within each figure."
    )
    return _Entry(anchor, Marked(table), caption)


def _how_it_was_made(results: Results) -> Iterator[_Entry]:
    recipe = "What was trained. Several values with a slash between them: cells differ in this."
    yield _Entry("recipe", Marked(tables.recipe_table(results)), recipe)
    yield _Entry("data", Marked(tables.data_table(results)), "Data as the trials saw it, after the validation split.")
    yield _Entry("time", Marked(time_table(results)), TIME_CAPTION)


def _as_shown(table: Table) -> pd.DataFrame:
    rows = [(heading, *row) for heading, own in table.groups for row in own]
    return pd.DataFrame(rows, columns=["group", *table.header])


def _main_tex(
    findings: Findings,
    found: Sequence[Section],
    drawings: Mapping[str, Drawing],
    *,
    main: Sequence[_Entry],
    of_sections: Mapping[str, Sequence[_Entry]],
    apart: Sequence[_Entry],
    made: Sequence[_Entry],
) -> str:
    results = findings.results
    plan = results.plan
    in_sections = {name for section in found for name in section.figures}
    summary = wording.answer(findings.results, findings.comparisons)
    lines = [
        f"{MADE} The next report makes it anew: copy the folder before you change anything.",
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,textwidth=6.8in,textheight=9.6in,hcentering]{geometry}",
        r"\usepackage{array,booktabs,graphicx,longtable}",
        r"\setlength{\emergencystretch}{3em}\setlength{\belowcaptionskip}{6pt}",
        r"\renewcommand{\labelitemi}{$\bullet$}",
        r"\renewcommand{\topfraction}{0.95}\renewcommand{\bottomfraction}{0.95}",
        r"\renewcommand{\textfraction}{0.05}\renewcommand{\floatpagefraction}{0.7}",
        rf"\title{{{escape(plan.suite.question)}}}",
        rf"\author{{{escape(f'Suite {plan.suite.name}, version {plan.suite.version}')}}}",
        r"\date{}",
        r"\begin{document}",
        r"\maketitle",
        r"\section{Answer}",
        rf"\textbf{{{escape(summary)}}}",
        *_paragraphs(cautions(results, findings.comparisons)),
        *_verdicts(findings),
        *_paragraphs([*wording.doubt_notes(findings.comparisons)]),
        *_recommendation(results),
        r"\paragraph{How it was tested.}",
        escape(_tested(results, _how_tested(findings)["answer"])),
        *_tables(main),
        *(_figure(name, drawings[name]) for name in drawings if name not in in_sections),
        r"\clearpage",
    ]
    for section in found:
        lines += [rf"\section{{{escape(section.title)}}}", *_paragraphs(section.paragraphs)]
        lines += _tables(of_sections[section.anchor])
        lines += [*(_figure(name, drawings[name]) for name in section.figures), *_paragraphs(section.notes)]
        lines.append(r"\clearpage")
    lines += [r"\section{How it was made}", *_provenance(results), *_tables(made), r"\clearpage"]
    if apart:
        lines += [r"\appendix", r"\section{Secondary comparisons}", escape(_SECONDARY.strip()), *_tables(apart)]
    return "".join(f"{line}\n" for line in [*lines, r"\end{document}"])


_SECONDARY = """
Each figure is a family of its own: its p values are Holm-adjusted over its comparisons and over no other figure's. Were
all methods alike, up to one figure in twenty would show a difference by chance alone.
"""


def _recommendation(results: Results) -> list[str]:
    texts = recommended(results)
    return [r"\paragraph{Recommendation, by validation images alone.}", *_paragraphs(texts)] if texts else []


def _how_tested(findings: Findings) -> dict[str, str]:
    suite = findings.results.plan.suite
    figure, effect = measure(suite.report.metric), suite.report.smallest_effect
    return wording.how_tested(len(findings.comparisons), suite.stopping, smallest_effect=effect, measure=figure)


def _tested(results: Results, answer: str) -> str:
    figure = measure(results.plan.suite.report.metric)
    point = "; a point is a percentage point" if figure.unit == "%" else ""
    return (
        "A pair is the same cell and seed under both methods: same split, same wrong labels, same initial weights, "
        f"same batch order. The verdicts go by the {figure.phrase}{point}. {answer}"
    )


def _verdicts(findings: Findings) -> list[str]:
    plan = findings.results.plan
    if not findings.comparisons or len(findings.comparisons) > MOST_VERDICTS:
        return [r"See Table~\ref{tab:comparison}."]
    figure, baseline = measure(plan.suite.report.metric), plan.baseline
    lines = [r"\begin{itemize}\raggedright"]
    for each in findings.comparisons:
        said = wording.sentence(each, figure, baseline=baseline)
        lines.append(rf"\item {escape(f'{each.cell}: {said}{wording.doubt_mark(each)}')}")
    return [*lines, r"\end{itemize}"]


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"\n{escape(text)}\n" for text in texts]


def _tables(entries: Sequence[_Entry]) -> list[str]:
    return [rf"\input{{tables/{entry.name}}}" for entry in entries]


def _figure(name: str, drawing: Drawing) -> str:
    """At its own size, or smaller where it would not leave room for its caption on a page."""
    width, height = (72.27 * side for side in drawing.figure.get_size_inches())
    room = TEXT_HEIGHT - 30 - 13 * math.ceil(points(drawing.caption, 10) / TEXT_WIDTH)
    scale = min(1.0, room / height, TEXT_WIDTH / width)
    option = "" if scale == 1 else f"[width={scale * width:.0f}pt]"
    caption = rf"\textbf{{{escape(drawing.title.rstrip('.'))}.}} {escape(drawing.caption)}"
    return (
        f"\\begin{{figure}}[htbp]\n\\centering\n\\includegraphics{option}{{figures/{name}.pdf}}\n"
        f"\\caption{{{caption}}}\\label{{fig:{name.replace('_', '-')}}}\n\\end{{figure}}"
    )


def _provenance(results: Results) -> list[str]:
    facts = [f"{fact}: {', '.join(values)}" for fact, values in provenance(results)]
    items = [rf"\item {escape(fact)}" for fact in facts]
    return [r"\begin{itemize}\raggedright\setlength{\itemsep}{0pt}\setlength{\parskip}{0pt}", *items, r"\end{itemize}"]
