"""The report as one self-contained HTML file: figures, styles and script are inside, and it requests nothing.

Its security policy lets nothing run but the script of templates/, known by its hash, whatever else may be in the page.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import pandas as pd
from markupsafe import Markup

from bench.plan.trial import NUMERICS_VERSION
from bench.text import printable
from reports import chosen_tables, tables, wording
from reports.chosen import chosen_on_validation
from reports.costs import TIME_CAPTION, cost_sentence, time_table
from reports.figures import Drawing
from reports.figures.drawing import Files
from reports.formats import count, listed, percent, typographic
from reports.load import Results
from reports.measures import measure
from reports.recommendation import measures_of, recommendations, sentence
from reports.section import Findings, Section
from reports.statistics import Comparison, compare, pairs_of
from reports.tables import Table

RUN_FACTS = {"hardware": "hardware", "device": "device", "threads": "threads per trial", "host": "machine"}

MOST_ANSWERS = 12
"""With more methods chosen on validation the answer is their tally."""

MOST_NAMED = 5
"""A caution names so many, and counts the others."""


ROOM = 3_300_000
"""Characters that the figures of a page have, so that a report of 1,000 trials stays below 5 MB.

Those that are seen are always inside. Of their files, PDF and packed CSV, the largest are left out first.
"""


@dataclass(frozen=True)
class Embedded:
    """A figure in the page.  pdf, csv: base64, the CSV packed by gzip; "" where it is not inside, but `beside`."""

    drawing: Drawing
    svg: Markup
    pdf: str
    csv: str
    beside: tuple[str, ...]


def page(
    findings: Findings,
    *,
    sections: Sequence[Section],
    comparison_table: Table,
    drawings: Mapping[str, Drawing],
    files: Mapping[str, Files],
    refresh_seconds: int | None = None,
) -> str:
    """The whole page.  files: of each drawing, by the same names."""
    results, comparisons = findings.results, findings.comparisons
    plan = results.plan
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typographic"] = typographic
    metric = measure(plan.suite.report.metric)
    figures = _embedded(drawings, files)
    in_sections = {name for section in sections for name in section.figures}
    own_figures = [name for name in figures if name not in in_sections]
    style, script = (Markup(_template(name)) for name in ("style.css", "script.js"))
    return environment.get_template("report.html.j2").render(
        style=style,
        script=script,
        policy=_policy(style, script),
        contents=_contents(sections, has_figures=bool(own_figures)),
        suite=plan.suite,
        refresh_seconds=refresh_seconds,
        baseline=wording.arm_name(plan.baseline),
        metric=metric,
        metric_phrase=wording.sentence_case(metric.phrase),
        summary=wording.answer(results, comparisons),
        verdicts=_verdicts(results, comparisons),
        chosen=_chosen(results),
        recommended=recommended(results),
        cost=cost_sentence(results),
        doubts=[*wording.doubt_notes(comparisons), *filter(None, [wording.floor_note(comparisons)])],
        cautions=cautions(results, comparisons),
        tests=wording.how_tested(
            len(comparisons),
            plan.suite.stopping,
            smallest_effect=plan.suite.report.smallest_effect,
            measure=metric,
        ),
        comparison_table=comparison_table,
        figures=figures,
        own_figures=own_figures,
        sections=sections,
        folded=[folded for section in sections for folded in section.comparisons],
        statuses=_statuses(results),
        num_trials=len(results.trials),
        unfinished_table=tables.unfinished_table(results),
        recipe_table=tables.recipe_table(results),
        data_table=tables.data_table(results),
        time_table=time_table(results),
        time_caption=TIME_CAPTION,
        provenance=provenance(results),
    )


def _template(name: str) -> str:
    return (resources.files("reports") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What a browser lets the page do: its own style and script, pictures that are inside, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (style, script))
    style_hash, script_hash = hashes
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(drawings: Mapping[str, Drawing], files: Mapping[str, Files]) -> dict[str, Embedded]:
    contents: dict[tuple[str, str], str] = {}
    for name, each in files.items():
        contents[name, "pdf"] = base64.b64encode(each.pdf).decode()
        contents[name, "csv"] = base64.b64encode(gzip.compress(each.csv, mtime=0)).decode()
    inside = _fitting(contents, ROOM - sum(len(each.svg) for each in files.values()))
    return {
        name: Embedded(
            drawing,
            svg=Markup(files[name].svg),
            pdf=inside.get((name, "pdf"), ""),
            csv=inside.get((name, "csv"), ""),
            beside=tuple(kind for kind in ("pdf", "csv") if (name, kind) not in inside),
        )
        for name, drawing in drawings.items()
    }


def _fitting(contents: Mapping[tuple[str, str], str], room: int) -> dict[tuple[str, str], str]:
    """Those that take at most `room` characters together, the smallest first."""
    found: dict[tuple[str, str], str] = {}
    for key in sorted(contents, key=lambda key: len(contents[key])):
        room -= len(contents[key])
        if room >= 0:
            found[key] = contents[key]
    return found


def _contents(further: Sequence[Section], *, has_figures: bool) -> list[tuple[str, str]]:
    """(anchor, title) of every section of the page."""
    return [
        ("answer", "Answer"),
        ("comparison", "Paired comparison"),
        *([("figures", "Figures")] if has_figures else []),
        *([(section.anchor, section.title) for section in further] or [("measures", "Other measures")]),
        *([("secondary", "Secondary comparisons")] if any(section.comparisons for section in further) else []),
        ("trials", "Trials"),
        ("provenance", "Provenance"),
    ]


def _seen(value: object) -> object:
    """What the template inserts, without characters that act instead of being seen."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _verdicts(results: Results, comparisons: Sequence[Comparison]) -> dict[str, list[tuple[str, str]]]:
    """By cell: (verdict, sentence) of each comparison, with the mark of a doubtful one."""
    figure, baseline = measure(results.plan.suite.report.metric), results.plan.baseline
    by_cell: dict[str, list[tuple[str, str]]] = {}
    for each in comparisons:
        text = wording.sentence(each, figure, baseline=baseline)
        text = wording.sentence_case(text) if text.startswith("no ") else text  # an arm's name stays as it is written
        by_cell.setdefault(each.cell, []).append((each.verdict, f"{text}{wording.doubt_mark(each) or '.'}"))
    return by_cell


def _chosen(results: Results) -> dict[str, object] | None:
    """(verdict, sentence) of what was chosen on validation; of more than a page can answer with, the tally alone.

    The tally is its outcome, too: beside that of the suite's comparisons, because it may well be the other way round.
    """
    selection = chosen_on_validation(results)
    found = chosen_tables.answers(selection) if selection else []
    if selection and len(found) > MOST_ANSWERS:
        found = [("", text) for text in (chosen_tables.outcome(selection),) if text]
    if selection is None or not found:
        return None
    val, test = measure(selection.val_metric), measure(selection.test_metric)
    note = (
        f"Here the {val.phrase} chooses, the {test.phrase} counts, and p is adjusted over the comparisons of what was "
        "chosen. Test images have no part in the choice."
    )
    return {"outcome": chosen_tables.outcome(selection), "answers": found, "note": note}


def recommended(results: Results) -> list[str]:
    """What validation recommends, a sentence for each task, of as many as a page can answer with."""
    found = recommendations(results)
    named = len(found) > 1
    texts = [sentence(each, *measures_of(results)) for each in found]
    if len(found) > MOST_ANSWERS:
        return []
    return [
        f"{each.task}: {text}." if named else f"{wording.sentence_case(text)}."
        for each, text in zip(found, texts, strict=True)
    ]


def cautions(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know before believing the answer, and in which respect it depends on the metric."""
    return [*_cautions(results, comparisons), *_changed_by_selection(results, comparisons)]


def _changed_by_selection(results: Results, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Where stopping each arm by validation would change a verdict: a gain may be one that early stopping gives too."""
    plan, selected = results.plan, "test_error_val_selected"
    other_choices = ("test_error_last", "test_error", "test_error_median10", "test_error_oracle")
    if plan.suite.report.metric not in other_choices or results.column(selected).isna().all():
        return
    trials = results.trials.assign(**{selected: results.column(selected)})
    pairs = pairs_of(trials, selected, cells=plan.cells, arms=plan.arms, baseline=plan.baseline)
    others = compare(pairs, rule=plan.suite.stopping, smallest_effect=plan.suite.report.smallest_effect)
    changed = [
        f"{wording.arm_name(new.arm)} ({new.cell}) {new.verdict}, {percent(new.difference, 1, signed=True)} points"
        for old, new in zip(comparisons, others, strict=True)
        if old.verdict != new.verdict
    ]
    if changed:
        yield (
            f"The verdicts go by {measure(plan.suite.report.metric).phrase}. At the epoch that validation selects for "
            f"each trial, {len(changed)} of {len(comparisons)} would be others: "
            f"{listed(changed, most=MOST_NAMED, separator='; ')}."
        )


def _cautions(results: Results, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What a reader must know before believing the answer."""
    plan = results.plan
    metric = plan.suite.report.metric
    with_result = results.column(metric).notna() | (results.trials["status"] == "completed")
    lacking = _statuses(results, ~with_result)
    without = sum(lacking.values())
    if without:
        what = ", ".join(f"{n} {words}" for words, n in lacking.items())
        pairs = sum(each.planned for each in comparisons)
        left_out = sum(each.left_out for each in comparisons)
        yield (
            f"{without} of {count(len(results.trials), 'planned trial')} without a result ({what}), so {left_out} "
            f"of {count(pairs, 'pair')} left out of the statistics."
        )
    lacking_metric = int((results.column(metric).isna() & (results.trials["status"] == "completed")).sum())
    if lacking_metric:
        yield (
            f"{count(lacking_metric, 'finished trial')} without the {measure(metric).phrase}, by which the verdicts "
            "go: their pairs are left out."
        )
    if any(results.trials["status"].isin(("new", "running", "interrupted"))):
        yield (
            "Trials are still to come, so the verdicts are provisional: whoever stops as soon as one looks clear finds "
            "differences by chance more often than the level says."
        )
    diverged = results.trials[results.trials["status"] == "diverged"]
    if len(diverged):
        arms = [wording.arm_name(arm) for arm in plan.arms if arm in set(diverged["arm"])]
        yield (
            f"Some trials of {listed(arms, most=MOST_NAMED)} diverged. They have no error to count, so the seeds that "
            f"remain flatter {'it' if len(arms) == 1 else 'these'}."
        )
    mixed = [
        RUN_FACTS.get(fact, fact) for fact, values in results.provenance.items() if len(values) > 1 and fact != "host"
    ]
    if mixed:
        yield (
            f"Trials did not all run alike: they differ in {', '.join(mixed)} (see Provenance). Where the two halves "
            f"of a pair do, that may be part of their difference."
        )
    for cell, hashes in (
        results.trials.dropna(subset="data_sha256").groupby("cell", sort=False)["data_sha256"].unique().items()
    ):
        if len(hashes) > 1:
            yield f"Trials of {cell} were trained on different data: the data set changed between them."
    if metric == "test_error_oracle":
        yield "The verdicts go by the oracle error, which is chosen on test data and lower than what one can reach."
    if plan.overrides:
        yield f"Not the suite as it is written: overridden with {', '.join(plan.overrides)}."


def _statuses(results: Results, among: pd.Series[bool] | None = None) -> dict[str, int]:
    """How many trials, of all or of some, have each status, in a reader's words; those that occur."""
    status = results.trials["status"] if among is None else results.trials.loc[among, "status"]
    counts = status.value_counts()
    return {words: int(counts[each]) for each, words in wording.STATUSES.items() if each in counts}


def provenance(results: Results) -> list[tuple[str, list[str]]]:
    """(fact, its values); with several values, each with its number of trials."""
    plan = results.plan
    rows = [
        ("suite", [f"{plan.suite.name}, version {plan.suite.version}"]),
        ("plan", [plan.plan_id]),
        ("seeds", [wording.seeds_in_words(plan.seeds, plan.suite.stopping)]),
        ("overrides", list(plan.overrides) or ["none"]),
        ("numerics version", [str(NUMERICS_VERSION)]),
    ]
    facts = dict.fromkeys([*RUN_FACTS, *results.provenance])
    for fact in facts:
        values = results.provenance.get(fact, {})
        if len(values) == 1:
            rows.append((RUN_FACTS.get(fact, fact), list(values)))
        elif values:
            counted = [f"{value} ({count(n, 'trial')})" for value, n in sorted(values.items())]
            rows.append((RUN_FACTS.get(fact, fact), counted))
    return rows
