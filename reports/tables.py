"""The report's tables: as data frames and CSV (fractions, full precision), Markdown, plain text, and rows for HTML."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.text import markdown_text
from reports import wording
from reports.formats import NOTHING, count, p_value, percent
from reports.load import Results
from reports.measures import Measure, measure
from reports.statistics import Comparison, Judgement

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_WIDTH = 100

PATHS = {"root", "fingerprint", "file", "order"}
"""Options that say where something lies, and not what it is."""


SELECTION = {
    "test_error_last": "last epoch (%)",
    "test_error_val_selected": "selected on validation (%)",
    "test_error_oracle": "oracle: best on test (%)",
}
SEEN = {
    "train_error_mixed": "training error, as trained (%)",
    "train_error": "training error, clean (%)",
    "val_error_last": "validation error (%)",
    "test_error_last": "test error (%)",
}
MIXED = ("weight_norm", "lam_mean", "mixed_share", "equal_class_share")
MEMORY = {
    "test_error_oracle": "test error, best epoch: oracle (%)",
    "test_error_val_selected": "test error, selected on validation (%)",
    "test_error_last": "test error, last epoch (%)",
    "train_error_clean_labels": "training error, right labels (%)",
    "train_error_wrong_labels": "training error, wrong labels (%)",
}
"""The columns of Zhang et al. 2018, Table 2, and what practice can have of the first."""


EQUALITY_COLUMN = "p equal (Holm)"
SIGN_FLIP_COLUMNS = ("p (sign-flip)", "floor")
JUDGED_COLUMNS = (
    "pairs",
    "difference",
    "95 % interval",
    "p (Holm)",
    EQUALITY_COLUMN,
    *SIGN_FLIP_COLUMNS,
    "verdict",
)
EQUALITY_COLUMNS = ("smallest_effect", "equal_p", "equal_holm_p")
"""Of comparison.csv, where the suite names the smallest effect that matters."""


@dataclass(frozen=True)
class Spread:
    """Mean and sd (n - 1) over n seeds; NaN where there are none, or no two."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Table:
    """Text cells under a header, in groups of rows that share a heading. The first column of a row names it.

    kind: the page's style for it. "judged": a verdict in the last column. "lines": cells may have several lines.
    metrics: of a table whose groups are cells and whose rows are methods, the figure of each column after the first.
    """

    header: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    notes: tuple[str, ...] = ()
    kind: str = ""
    metrics: tuple[str, ...] = ()


def conditions(results: Results) -> list[tuple[str, str]]:
    """Every planned (cell, arm), in the plan's order."""
    planned = {(each.cell, each.arm) for each in results.plan.trials}
    return [(cell, arm) for cell in results.plan.cells for arm in results.plan.arms if (cell, arm) in planned]


def condition_summary(results: Results, metric: str) -> dict[tuple[str, str], Spread]:
    """The metric over all finished seeds of each planned (cell, arm)."""
    values: dict[tuple[str, str], list[float]] = {condition: [] for condition in conditions(results)}
    columns = (results.trials["cell"], results.trials["arm"], results.column(metric))
    for cell, arm, value in zip(*(column.tolist() for column in columns), strict=True):
        if not math.isnan(value):
            values[cell, arm].append(value)
    return {condition: spread_of(np.array(own)) for condition, own in values.items()}


def comparison_frame(results: Results, comparisons: Sequence[Comparison], *, metric: str) -> pd.DataFrame:
    """One row per condition. The baseline's rows have nothing in the columns of the comparison.

    mean, sd, n: over all finished seeds.  pair_*: over the seeds that both finished, which `difference` is about.
    """
    summary = condition_summary(results, metric)
    made = {(each.cell, each.arm): asdict(each) for each in comparisons}
    rows = []
    for cell, arm in conditions(results):
        row = {"cell": cell, "arm": arm, "baseline": results.plan.baseline, "metric": metric}
        row |= asdict(summary[cell, arm])
        judged = made.get((cell, arm), {})
        renamed = {"planned": "planned_pairs", "mean": "pair_mean", "sd": "pair_sd"}
        rows.append(row | {renamed.get(key, key): value for key, value in judged.items()})
    columns = ["cell", "arm", "baseline", "metric", "mean", "sd", "n", "planned_pairs", "pairs", "pair_mean", "pair_sd"]
    frame = pd.DataFrame(rows)
    columns += [column for column in frame.columns if column not in columns]
    if results.plan.suite.report.smallest_effect is None:
        columns = [column for column in columns if column not in EQUALITY_COLUMNS]
    integers = ["n", "planned_pairs", "pairs", "seeds_for_clear_answer"]
    return frame.reindex(columns=columns).astype({key: "Int64" for key in integers if key in frame})


def comparison_table(results: Results, comparisons: Sequence[Comparison], *, metric: str) -> Table:
    """The paired comparison in the metric's own unit, percentage points for percent, grouped by cell."""
    summary = condition_summary(results, metric)
    made = {(each.cell, each.arm): each for each in comparisons}
    figure = measure(metric)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for cell, arm in conditions(results):
        spread = summary[cell, arm]
        own = (wording.arm_name(arm), mean_and_sd(spread, figure), str(spread.n))
        judged = made.get((cell, arm))
        baseline = "baseline" if arm == results.plan.baseline else "no baseline here"
        groups.setdefault(cell, []).append(
            own + (_judgement(judged, figure) if judged else (*[""] * (len(JUDGED_COLUMNS) - 1), baseline))
        )
    own_columns = ("method", figure.label, "seeds")
    table = Table(own_columns + JUDGED_COLUMNS, _frozen(groups), notes=tuple(_notes(comparisons)))
    suite = results.plan.suite
    absent = {*SIGN_FLIP_COLUMNS} if suite.stopping else set()
    absent |= {EQUALITY_COLUMN} if suite.report.smallest_effect is None else set()
    return without_columns(table, absent)


def without_columns(table: Table, titles: Collection[str]) -> Table:
    """The table without the columns of these titles."""
    kept = [index for index, title in enumerate(table.header) if title not in titles]

    def cut(row: Sequence[str]) -> tuple[str, ...]:
        return tuple(row[index] for index in kept)

    groups = tuple((heading, tuple(map(cut, rows))) for heading, rows in table.groups)
    return replace(table, header=cut(table.header), groups=groups)


def metrics_table(
    results: Results,
    metrics: Collection[str],
    *,
    cells: Collection[str] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Table:
    """Mean and sd of several metrics for each condition, in all cells or in some; of metrics that some trial has.

    titles: of the columns that are not to go by the metric's own.
    """
    present = [measure(name) for name in metrics if results.column(name).notna().any()]
    summaries = {each: condition_summary(results, each.name) for each in present}
    groups: dict[str, list[tuple[str, ...]]] = {}
    for cell, arm in conditions(results):
        if cells is None or cell in cells:
            values = [mean_and_sd(summary[cell, arm], each) for each, summary in summaries.items()]
            groups.setdefault(cell, []).append((wording.arm_name(arm), *values))
    header = [(titles or {}).get(each.name, each.label) for each in present]
    return Table(("method", *header), _frozen(groups), metrics=tuple(each.name for each in present))


def noisy_cells(results: Results) -> set[str]:
    """The cells that train on some wrong labels."""
    return {planned.cell for planned in results.plan.trials if planned.trial.label_noise.is_noisy}


def unfinished_table(results: Results) -> Table:
    """Every planned trial without a complete result, grouped by what became of it. Those not started are counted."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    waiting: dict[tuple[str, str], list[str]] = {}
    for trial in results.trials.to_dict("records"):
        arm, seed = wording.arm_name(trial["arm"]), str(trial["seed"])
        if trial["status"] == "new":
            waiting.setdefault((trial["cell"], arm), []).append(seed)
        elif trial["status"] != "completed":
            row = (trial["trial_id"], trial["cell"], arm, seed, trial["reason"])
            groups.setdefault(wording.STATUSES[trial["status"]], []).append(row)
    for (cell, arm), seeds in waiting.items():
        groups.setdefault(wording.STATUSES["new"], []).append(("", cell, arm, ", ".join(seeds), ""))
    return Table(("trial", "cell", "method", "seed", "reason"), _frozen(groups))


def recipe_table(results: Results) -> Table:
    """Every option of data set, label noise, network, training and evaluation; where cells differ, all its values."""
    in_cells = {planned.cell: planned.trial for planned in results.plan.trials}.values()
    rows = [("methods", ", ".join(wording.arm_name(arm) for arm in results.plan.arms))]
    for section in ("dataset", "label_noise", "model", "training"):
        dumps = [getattr(trial, section).model_dump(exclude=PATHS, exclude_none=True) for trial in in_cells]
        options = []
        for key in dict.fromkeys(key for dump in dumps for key in dump):
            values = dict.fromkeys(_option(dump[key]) for dump in dumps if key in dump)
            options.append(f"{key} {' / '.join(values)}")
        rows.append((section.replace("_", " "), ", ".join(options)))
    for evaluation in results.plan.suite.evaluations:
        dump = evaluation.model_dump(exclude={"name": True, "against": PATHS}, exclude_none=True)
        options = [f"{key.replace('_', ' ')} {_option(value)}" for key, value in dump.items()]
        rows.append((f"evaluation: {evaluation.name}".replace("_", " "), ", ".join(options) or "no options"))
    return Table(("part", "options"), (("", tuple(rows)),))


def data_table(results: Results) -> Table:
    """What the trials of each cell were trained and tested on; the share of wrong labels where the suite has any."""
    noisy = bool(noisy_cells(results))
    rows = []
    for cell in results.plan.cells:
        own = results.trials[(results.trials["cell"] == cell) & results.trials["num_test"].notna()]
        sizes = [_span(own[column]) for column in ("num_train", "num_val", "num_test", "num_classes")]
        wrong = [_percent_span(own["label_noise_realised"])] if noisy else []
        rows.append((cell, *sizes, *wrong, ", ".join(_short_hashes(own["data_sha256"]))))
    wrong = ["wrong training labels (%)"] if noisy else []
    header = ("cell", "training", "validation", "test", "classes", *wrong, "data (SHA-256)")
    return Table(header, (("", tuple(rows)),))


def label_noise_table(results: Results) -> Table:
    """The nominal and the realised share of wrong labels of each noisy cell."""
    rows = []
    for cell in results.plan.cells:
        own = [each for each in results.label_noise if each.cell == cell]
        if own:
            shares = [
                _percent_span(pd.Series([getattr(each, name) for each in own]))
                for name in ("nominal_rate", "realised_rate")
            ]
            rows.append((cell, own[0].kind.replace("_", " "), *shares, str(len(own))))
    return Table(("cell", "kind", "nominal (%)", "realised (%)", "seeds"), (("", tuple(rows)),) if rows else ())


def corruption_frame(results: Results) -> pd.DataFrame:
    """Mean and sd of the error over seeds, for each condition, kind and severity; clean is severity 0."""
    by = ["cell", "arm", "kind", "severity"]
    errors = results.corruptions.groupby(by, sort=False)["error"].agg(["mean", "std", "count"]).reset_index()
    sources = results.corruptions.groupby(by, sort=False)["source"].agg(lambda values: "/".join(dict.fromkeys(values)))
    return errors.rename(columns={"std": "sd", "count": "n"}).join(sources, on=by)


def markdown(table: Table) -> str:
    """A GitHub table; the group becomes the first column. Notes follow as paragraphs."""
    grouped = any(heading for heading, _ in table.groups)
    header = ("cell", *table.header) if grouped else table.header
    lines = [_markdown_row(header), _markdown_row(["---"] * len(header))]
    for heading, rows in table.groups:
        lines += [_markdown_row((heading, *row) if grouped else row) for row in rows]
    return "\n".join([*lines, *(f"\n{markdown_text(note)}" for note in table.notes)]) + "\n"


def plain_text(table: Table, *, without: Collection[str] = ()) -> str:
    """Aligned columns for the terminal, each group under its heading, notes wrapped below; without a last newline.

    without: columns to leave out, for width.
    """
    kept = [index for index, title in enumerate(table.header) if title not in without]
    rows = [table.header, *(row for _, group in table.groups for row in group)]
    widths = {index: max(len(row[index]) for row in rows) for index in kept}

    def aligned(row: Sequence[str]) -> str:
        return "  ".join(row[index].ljust(width) for index, width in widths.items()).rstrip()

    lines = [aligned(table.header)]
    for heading, group in table.groups:
        lines += ["", heading] if heading else []
        lines += [aligned(row) for row in group]
    for note in table.notes:
        lines += ["", *textwrap.wrap(note, width=TEXT_WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def judged_cells(judged: Comparison | Judgement, figure: Measure) -> tuple[str, str, str, str]:
    """Pairs, difference, interval and adjusted p of a comparison."""
    pairs = str(judged.pairs) if judged.pairs == judged.planned else f"{judged.pairs} of {judged.planned}"
    return pairs, *difference_cells(judged.difference, judged.low, judged.high, figure), p_value(judged.holm_p)


def difference_cells(difference: float, low: float, high: float, figure: Measure) -> tuple[str, str]:
    """A mean difference and its interval, which is "-" where there is none."""
    digits = figure.digits((high - low) / 2)
    ends = [figure.text(end, digits, signed=True) for end in (low, high)]
    interval = NOTHING if np.isnan(low) else f"[{ends[0]}, {ends[1]}]"
    return figure.text(difference, digits, signed=True), interval


def mean_and_sd(spread: Spread, figure: Measure) -> str:
    """Such as "4.31 ± 0.40", or the mean alone where one seed has finished."""
    digits = figure.digits(spread.sd)
    mean, sd = figure.text(spread.mean, digits), figure.text(spread.sd, digits)
    return f"{mean} ± {sd}" if spread.n > 1 else mean


def spread_of(values: NDArray[np.float64]) -> Spread:
    """Of the values of single seeds."""
    mean = float(values.mean()) if len(values) else np.nan
    return Spread(mean, float(values.std(ddof=1)) if len(values) > 1 else np.nan, len(values))


def _judgement(comparison: Comparison, figure: Measure) -> tuple[str, ...]:
    """The cells of a comparison, from the number of pairs on."""
    return (
        *judged_cells(comparison, figure),
        p_value(comparison.equal_holm_p),
        p_value(comparison.sign_flip_p),
        p_value(comparison.sign_flip_floor) if comparison.pairs else NOTHING,
        comparison.verdict + wording.doubt_mark(comparison),
    )


def _notes(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Footnotes to the marks and to whatever a reader could otherwise misread."""
    yield from wording.doubt_notes(comparisons)
    if any(each.spread for each in comparisons):
        yield (
            "Where all pairs differ by the same amount there is no spread for a t test; the sign-flip p stands in for "
            "it in the Holm adjustment."
        )
    left_out = sum(each.left_out for each in comparisons)
    if left_out:
        planned = sum(each.planned for each in comparisons)
        yield f"{left_out} of {count(planned, 'pair')} left out of the statistics: not both halves have a result."


def _option(value: object) -> str:
    """An option's value in few words; a matrix by its size."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return " ".join(f"{key} {_option(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], tuple | list):
            return f"{len(value)} x {len(value[0])}"
        return " ".join(map(_option, value))
    return str(value)


def _span(values: pd.Series[float]) -> str:
    """One number, or the least and the most, without decimals."""
    if values.empty:
        return NOTHING
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _percent_span(shares: pd.Series[float]) -> str:
    low, high = shares.min(), shares.max()
    return percent(low, 1) if percent(low, 1) == percent(high, 1) else f"{percent(low, 1)} to {percent(high, 1)}"


def _short_hashes(hashes: pd.Series[str]) -> list[str]:
    return sorted({each[:12] for each in hashes})


def _frozen(groups: dict[str, list[tuple[str, ...]]]) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    return tuple((heading, tuple(rows)) for heading, rows in groups.items())


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, texts)) + " |"
