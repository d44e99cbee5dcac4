"""Published numbers beside ours, as a section of the page and as a table of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pandas as pd

from reports.formats import NOTHING, number
from reports.load import Results
from reports.measures import Measure, measure
from reports.published.facts import UNKNOWN, Published
from reports.published.matching import Effect, Match, matches
from reports.section import Findings, Section
from reports.tables import Table, difference_cells, mean_and_sd
from reports.wording import arm_name

DOUBT_MARK = "°"

EPOCHS = {
    "test_error_last": "last epoch",
    "test_error_oracle": "best epoch",
    "test_error_median10": "median of last 10",
    "test_error_val_selected": "chosen on validation",
}

ANCHOR, TITLE = "published", "Published numbers"


def published_section(findings: Findings) -> Section:
    """Ours beside theirs, effects beside effects, and what differs in protocol; empty where nothing matches."""
    found = matches(findings.results)
    if not found:
        return Section(ANCHOR, TITLE)
    baseline = arm_name(findings.results.plan.baseline)
    tables = [
        (
            effects_table(found),
            f"What a method changes, ours and theirs: method minus {baseline} in the same table, in percentage points "
            "where the figure is in percent. Ours: the mean over pairs with its 95 % interval. z: the difference "
            "between the two effects over its standard error, the root of the sum of sd²/n over our paired "
            "differences, their method and their baseline.",
        ),
        (
            values_table(found),
            "The numbers themselves, mean ± sd, in percent unless said otherwise; best epoch: on the test set. "
            "Difference: ours minus theirs. z: the difference over its standard error, the root of sd²/n of ours plus "
            "sd²/n of theirs; none where they print no spread over runs.",
        ),
        (protocol_table(found), "How the published numbers were made, where it differs from here."),
    ]
    return Section(
        ANCHOR,
        TITLE,
        paragraphs=tuple(_paragraphs(found, baseline)),
        tables=tuple(tables),
        notes=(
            *_notes(found),
            "All of them with their sources: published.csv in the report's folder. Where they come from, and how to "
            "add one: docs/paper.md.",
        ),
        figures=("published",),
    )


def effects_table(found: Sequence[Match]) -> Table:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for match in found:
        if match.effect is None:
            continue
        figure, effect = measure(match.metric), match.effect
        ours, interval = difference_cells(effect.ours, effect.low, effect.high, figure)
        theirs = _printed(effect.published, effect.digits, figure, signed=True)
        row = (figure_name(match), ours, interval, str(effect.n), theirs + _mark(match.published), _z(effect.z))
        groups.setdefault(match.cell, []).append((arm_name(match.arm), *row, source_name(match)))
    header = ("method", "figure", "ours", "95 % interval", "pairs", "published", "z", "source")
    return Table(header, _frozen(groups))


def values_table(found: Sequence[Match]) -> Table:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for match in found:
        figure, row = measure(match.metric), match.published
        theirs = _printed(row.value, row.digits, figure)
        if row.sd is not None:
            theirs += f" ± {_printed(row.sd, row.sd_digits, figure)}"
        difference = figure.text(match.difference, max(1, row.digits), signed=True)
        groups.setdefault(match.cell, []).append(
            (
                arm_name(match.arm),
                figure_name(match),
                mean_and_sd(match.ours, figure),
                str(match.ours.n),
                theirs + _mark(row),
                NOTHING if row.n is None else str(row.n),
                difference,
                _z(match.z),
                source_name(match),
            )
        )
    header = ("method", "figure", "ours", "seeds", "published", "runs", "difference", "z", "source")
    return Table(header, _frozen(groups))


def protocol_table(found: Sequence[Match]) -> Table:
    """A row per cell and published table: what differs, what is not stated, what else there is to know."""
    groups: dict[str, dict[str, list[Match]]] = {}
    for match in found:
        groups.setdefault(match.cell, {}).setdefault(source_name(match), []).append(match)
    rows: dict[str, list[tuple[str, ...]]] = {
        cell: [
            (
                source,
                _joined(text for match in own for text in match.differs) or "nothing known",
                _joined(text for match in own for text in match.not_stated) or NOTHING,
                _joined(text for match in own for text in (*match.protocol.remarks, *match.remarks)) or NOTHING,
            )
            for source, own in of_cell.items()
        ]
        for cell, of_cell in groups.items()
    }
    return Table(("source", "differs from here", "not stated", "remarks"), _frozen(rows), kind="texts")


def published_frame(results: Results) -> pd.DataFrame:
    """One row per published number that matches, in fractions and full precision."""
    rows = []
    for match in matches(results):
        row, protocol = match.published, match.protocol
        effect = {f"effect_{key}": value for key, value in asdict(match.effect).items()} if match.effect else {}
        rows.append(
            {"cell": match.cell, "arm": match.arm, "metric": match.metric, **asdict(match.ours)}
            | {"published": row.value, "published_sd": row.sd, "published_n": row.n}
            | {"difference": match.difference, "z": match.z, **effect}
            | {"source": protocol.name, "table": row.table, "title": protocol.title, "year": protocol.year}
            | {"link": protocol.link, "trust": row.trust, "recipe": protocol.basis}
            | {"differs": "; ".join(match.differs), "not_stated": "; ".join(match.not_stated)}
            | {"remarks": "; ".join((*protocol.remarks, *match.remarks))}
        )
    columns = ["cell", "arm", "metric", "mean", "sd", "n", "published", "published_sd", "published_n", "difference"]
    columns += ["z", *(f"effect_{key}" for key in ("ours", "low", "high", "n", "published", "z")), "source", "table"]
    columns += ["title", "year", "link", "trust", "recipe", "differs", "not_stated", "remarks"]
    integers = ["n", "published_n", "effect_n", "year"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(integers, "Int64"))


def figure_name(match: Match) -> str:
    """Our figure with the epoch it is of, and its unit where that is not percent."""
    figure = measure(match.metric)
    epoch = EPOCHS.get(match.metric)
    return f"{figure.title}, {epoch}" if epoch else figure.title if figure.unit == "%" else figure.label


def source_name(match: Match) -> str:
    return f"{match.protocol.name}, {match.published.table}"


def _paragraphs(found: Sequence[Match], baseline: str) -> Iterable[str]:
    exact = sum(not match.differs and not match.not_stated for match in found)
    yield (
        "Numbers of the literature for the same data set, network, method and wrong labels. They are no replication: "
        + (
            f"{exact} of {len(found)} were made by a protocol that is known to be the one here."
            if exact
            else "none was made by exactly the protocol here, and what is known to differ stands below. An error that "
            "differs from theirs can come from the protocol alone."
        )
    )
    if any(match.effect for match in found):
        yield (
            f"So look first at effects: what a method changes against {baseline} within one protocol, here and there."
        )


def _notes(found: Sequence[Match]) -> Iterable[str]:
    if any(match.published.is_doubtful for match in found):
        yield (
            f"{DOUBT_MARK} second-hand or from memory: the number, or what it stands for, was not looked up where it "
            "was published."
        )
    if any(match.published.trust == "curve" for match in found):
        yield "Measured off a curve: Figure 2a of Zhang et al. 2018, where no number is printed."
    if any(match.published.epoch == UNKNOWN and match.published.metric == "test_error" for match in found):
        yield "Where a source does not say at which epoch its error was taken, ours is the one that the suite goes by."
    noisy = {match.published.noise_rate for match in found if match.published.noise == "uniform"}
    if noisy:
        rates = ", ".join(f"{100 * rate:g}" for rate in sorted(noisy))
        yield (
            f"Nominal rates of noise ({rates} %) are theirs: labels are redrawn over all classes, so that one in K of "
            "these stays right, as with our kind uniform."
        )


def _printed(value: float, digits: int, figure: Measure, *, signed: bool = False) -> str:
    """As they have it, with their decimals, which are those of a percentage."""
    return number(figure.scale * value, digits, signed=signed)


def _mark(row: Published) -> str:
    return DOUBT_MARK if row.is_doubtful else ""


def _z(z: float) -> str:
    return NOTHING if math.isnan(z) else number(z, 1, signed=True)


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(text.rstrip(".") for text in dict.fromkeys(texts))


def _frozen(groups: dict[str, list[tuple[str, ...]]]) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    return tuple((heading, tuple(rows)) for heading, rows in groups.items())


__all__ = ["Effect", "published_frame", "published_section"]
