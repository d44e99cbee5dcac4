"""The report's tables: as data frames and CSV (fractions, full precision), Markdown, plain text, and rows for HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.plan.power import SIGNIFICANCE_LEVEL
from reports import wording
from reports.load import FINISHED, Results
from reports.statistics import Comparison
from reports.wording import NOTHING, percent, percent_digits

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_WIDTH = 100


@dataclass(frozen=True)
class Column:
    """A metric as a column: mean and sd over the finished seeds, in percent or as it is."""

    metric: str
    title: str
    in_percent: bool = True


SELECTION = (
    Column("test_error_last", "last epoch (%)"),
    Column("test_error_val_selected", "selected on validation (%)"),
    Column("test_error_oracle", "oracle: best on test (%)"),
)
MEMORY = (
    Column("train_error_clean_labels", "training error, right labels (%)"),
    Column("train_error_wrong_labels", "training error, wrong labels (%)"),
    Column("test_error_last", "test error, last epoch (%)"),
)
CALIBRATION = (
    Column("test_nll", "NLL (nats)", in_percent=False),
    Column("test_brier", "Brier", in_percent=False),
    Column("test_ece", "ECE (%)"),
)


@dataclass(frozen=True)
class Spread:
    """Mean and sd (n - 1) over n seeds; NaN where there are none, or no two."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Table:
    """Text cells under a header, in groups of rows that share a heading. The first column of a row names it."""

    header: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    notes: tuple[str, ...] = ()


def conditions(results: Results) -> list[tuple[str, str]]:
    """Every planned (cell, arm), in the plan's order."""
    planned = {(each.cell, each.arm) for each in results.plan.trials}
    return [(cell, arm) for cell in results.plan.cells for arm in results.plan.arms if (cell, arm) in planned]


def condition_summary(results: Results, metric: str) -> dict[tuple[str, str], Spread]:
    """The metric over all finished seeds of each planned (cell, arm)."""
    frame = results.trials[["cell", "arm"]].assign(value=results.column(metric))
    values = {key: group.dropna().to_numpy() for key, group in frame.groupby(["cell", "arm"])["value"]}
    return {condition: _spread(values[condition]) for condition in conditions(results)}


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
    integers = ["n", "planned_pairs", "pairs", "seeds_for_clear_answer"]
    return frame.reindex(columns=columns).astype({key: "Int64" for key in integers if key in frame})


def comparison_table(results: Results, comparisons: Sequence[Comparison], *, metric: str) -> Table:
    """The paired comparison, in percent and percentage points, grouped by cell."""
    summary = condition_summary(results, metric)
    made = {(each.cell, each.arm): each for each in comparisons}
    error = Column(metric, "error (%)")
    groups: dict[str, list[tuple[str, ...]]] = {}
    for cell, arm in conditions(results):
        spread = summary[cell, arm]
        own = (wording.arm_name(arm), _mean_and_sd(spread, error), str(spread.n))
        judged = made.get((cell, arm))
        baseline = "baseline" if arm == results.plan.baseline else "no baseline here"
        groups.setdefault(cell, []).append(own + (_judgement(judged) if judged else ("", "", "", "", "", "", baseline)))
    own_columns = ("method", error.title, "seeds")
    judged_columns = ("pairs", "difference", "95 % interval", "p (Holm)", "p (sign-flip)", "floor", "verdict")
    return Table(own_columns + judged_columns, _frozen(groups), notes=tuple(_notes(comparisons)))


def metrics_table(results: Results, columns: Sequence[Column], *, cells: Collection[str] | None = None) -> Table:
    """Mean and sd of several metrics for each condition, in all cells or in some; of metrics that some trial has."""
    present = [column for column in columns if results.column(column.metric).notna().any()]
    summaries = {column: condition_summary(results, column.metric) for column in present}
    groups: dict[str, list[tuple[str, ...]]] = {}
    for cell, arm in conditions(results):
        if cells is None or cell in cells:
            values = [_mean_and_sd(summary[cell, arm], column) for column, summary in summaries.items()]
            groups.setdefault(cell, []).append((wording.arm_name(arm), *values))
    return Table(("method", *(column.title for column in present)), _frozen(groups))


def noisy_cells(results: Results) -> set[str]:
    """The cells that train on some wrong labels."""
    return {planned.cell for planned in results.plan.trials if planned.trial.label_noise.rate}


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


def time_table(results: Results) -> Table:
    """What each arm cost, over all its finished trials."""
    finished = results.trials[results.trials["status"].isin((*FINISHED, "diverged"))]
    rows = []
    for arm in results.plan.arms:
        own = finished[finished["arm"] == arm]
        rows.append(
            (
                wording.arm_name(arm),
                str(len(own)),
                wording.duration(own["train_seconds"].mean()),
                wording.duration(own["total_seconds"].sum()),
                wording.number(own["peak_rss_bytes"].max() / 2**20, 0),
                str(int((own["attempts"] - 1).sum())),
            )
        )
    header = ("method", "trials", "training per trial", "time in all", "peak memory (MiB)", "repeated attempts")
    return Table(header, (("", tuple(rows)),))


def recipe_table(results: Results) -> Table:
    """Every option of data set, label noise, network and training; where cells differ in one, all its values."""
    in_cells = {planned.cell: planned.trial for planned in results.plan.trials}.values()
    rows = [("methods", ", ".join(wording.arm_name(arm) for arm in results.plan.arms))]
    for section in ("dataset", "label_noise", "model", "training"):
        dumps = [
            getattr(trial, section).model_dump(exclude={"root", "fingerprint"}, exclude_none=True) for trial in in_cells
        ]
        options = []
        for key in dict.fromkeys(key for dump in dumps for key in dump):
            values = dict.fromkeys(_option(dump[key]) for dump in dumps if key in dump)
            options.append(f"{key} {' / '.join(values)}")
        rows.append((section.replace("_", " "), ", ".join(options)))
    return Table(("part", "options"), (("", tuple(rows)),))


def data_table(results: Results) -> Table:
    """What the trials of each cell were trained and tested on."""
    rows = []
    for cell in results.plan.cells:
        own = results.trials[(results.trials["cell"] == cell) & results.trials["num_test"].notna()]
        sizes = [_span(own[column]) for column in ("num_train", "num_val", "num_test", "num_classes")]
        low, high = own["label_noise_realised"].min(), own["label_noise_realised"].max()
        noise = percent(low, 1) if low == high else f"{percent(low, 1)} to {percent(high, 1)}"
        rows.append((cell, *sizes, noise, ", ".join(_short_hashes(own["data_sha256"]))))
    header = ("cell", "training", "validation", "test", "classes", "wrong training labels (%)", "data (SHA-256)")
    return Table(header, (("", tuple(rows)),))


def markdown(table: Table) -> str:
    """A GitHub table; the group becomes the first column. Notes follow as paragraphs."""
    grouped = any(heading for heading, _ in table.groups)
    header = ("cell", *table.header) if grouped else table.header
    lines = [_markdown_row(header), _markdown_row(["---"] * len(header))]
    for heading, rows in table.groups:
        lines += [_markdown_row((heading, *row) if grouped else row) for row in rows]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


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


def _judgement(comparison: Comparison) -> tuple[str, ...]:
    """The cells of a comparison, from the number of pairs on."""
    digits = wording.comparison_digits(comparison)
    pairs = str(comparison.pairs) if not comparison.left_out else f"{comparison.pairs} of {comparison.planned}"
    interval = NOTHING
    if not np.isnan(comparison.low):
        interval = f"[{percent(comparison.low, digits, signed=True)}, {percent(comparison.high, digits, signed=True)}]"
    mark = {"cannot agree": " †", "disagrees": " ‡"}.get(comparison.sign_flip, "")
    return (
        pairs,
        percent(comparison.difference, digits, signed=True),
        interval,
        wording.p_value(comparison.holm_p),
        wording.p_value(comparison.sign_flip_p),
        wording.p_value(comparison.sign_flip_floor) if comparison.pairs else NOTHING,
        comparison.verdict + mark,
    )


def _notes(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Footnotes to the marks and to whatever a reader could otherwise misread."""
    marks = {each.sign_flip for each in comparisons}
    if "cannot agree" in marks:
        yield f"† {wording.sign_flip_note(comparisons)}"
    if "disagrees" in marks:
        yield (
            "‡ The sign-flip test, Holm-adjusted like the t test, comes to the other answer at "
            f"{SIGNIFICANCE_LEVEL:g}: do not rest on this verdict alone."
        )
    if any(each.spread for each in comparisons):
        yield (
            "Where all pairs differ by the same amount there is no spread for a t test; the sign-flip p stands in for "
            "it in the Holm adjustment."
        )
    left_out = sum(each.left_out for each in comparisons)
    if left_out:
        planned = sum(each.planned for each in comparisons)
        yield f"{left_out} of {wording.count(planned, 'pair')} left out of the statistics: not both halves finished."


def _spread(values: NDArray[np.float64]) -> Spread:
    mean = float(values.mean()) if len(values) else np.nan
    return Spread(mean, float(values.std(ddof=1)) if len(values) > 1 else np.nan, len(values))


def _mean_and_sd(spread: Spread, column: Column) -> str:
    """Such as "4.31 ± 0.40", or the mean alone where one seed has finished."""
    if column.in_percent:
        digits = percent_digits(spread.sd)
        mean, sd = percent(spread.mean, digits), percent(spread.sd, digits)
    else:
        mean, sd = wording.number(spread.mean, 3), wording.number(spread.sd, 3)
    return f"{mean} ± {sd}" if spread.n > 1 else mean


def _option(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _span(values: pd.Series[float]) -> str:
    """One number, or the least and the most, without decimals."""
    if values.empty:
        return NOTHING
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _short_hashes(hashes: pd.Series[str]) -> list[str]:
    return sorted({each[:12] for each in hashes})


def _frozen(groups: dict[str, list[tuple[str, ...]]]) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    return tuple((heading, tuple(rows)) for heading, rows in groups.items())


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
