"""The published numbers, results.csv, and how they were made, protocols.yaml.

A row of results.csv is one printed number. Its columns:

source, table: a key of protocols.yaml, and where in it.
dataset, model, method, alpha, options: by the names that a suite has for them; ? for what the source does not say, and
    an empty alpha likewise where the method has one.  model: with the arguments that count.
noise, noise_rate: the kind of wrong labels, by our names, and its nominal rate; human labels by their label set.
epoch: which one's weights: last, best (on the test set), median10 (of the last ten epochs), ?.
metric: the figure, by our name; test_error for that of the epoch.
value, sd, n, unit: as printed, the spread over n runs likewise.  unit: see UNITS.
epochs, weight_decay: where a table has several, else the recipe's.
trust: see TRUST.  note: what the row alone needs said.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from ruamel.yaml import YAML

from bench.plan.suite_file import PUBLICATIONS

__all__ = ["EPOCHS", "PUBLICATIONS", "TRUST", "UNITS", "Protocol", "Published", "protocols", "published_results"]

UNKNOWN = "?"
"""Stands for what a source does not say."""

UNITS = {"error %": (1, 100), "accuracy %": (-1, 100), "%": (1, 100), "fraction": (1, 1), "nats": (1, 1)}
"""What a printed number is: the sign that turns it into a figure of which less is better, and what to divide it by."""

TRUST = {
    "read": "seen where it was published",
    "curve": "measured off a curve, printed nowhere",
    "second-hand": "seen in another place that quotes or copies it",
    "memory": "from memory, or what it stands for is",
}

DOUBTFUL = ("second-hand", "memory")
"""Numbers to be marked: nobody looked them up where they were published."""

EPOCHS = ("last", "best", "median10", UNKNOWN)


@dataclass(frozen=True)
class Published:
    """One printed number; see the module's docstring.

    value, sd: fractions in [0, 1], an error where an accuracy was printed; NLL in nats.
    digits, sd_digits: decimals as printed, of a percentage where it is a fraction.
    alpha: None where it is not stated.  sd, n, epochs, weight_decay: None where there is none.
    """

    source: str
    table: str
    dataset: str
    model: str
    model_args: Mapping[str, str]
    method: str
    alpha: float | None
    options: Mapping[str, str]
    noise: str
    noise_rate: float
    epoch: str
    metric: str
    value: float
    sd: float | None
    n: int | None
    digits: int
    sd_digits: int
    epochs: int | None
    weight_decay: float | None
    trust: str
    note: str

    @property
    def is_doubtful(self) -> bool:
        return self.trust in DOUBTFUL

    @property
    def group(self) -> tuple[object, ...]:
        """What the numbers of one comparison share: all but the method."""
        setting = (self.dataset, self.model, tuple(self.model_args.items()), self.noise, self.noise_rate)
        return (self.source, self.table, *setting, self.epoch, self.metric, self.epochs, self.weight_decay)


@dataclass(frozen=True)
class Protocol:
    """How a source made its numbers, in one table.  recipe: without what is not stated.  year: None if not known."""

    source: str
    name: str
    title: str
    year: int | None
    link: str
    basis: str
    remarks: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)


@cache
def published_results() -> tuple[Published, ...]:
    """Every row of results.csv.  Raises ValueError, with the line, for one that does not parse."""
    text = (resources.files("reports") / "published" / "results.csv").read_text(encoding="utf-8")
    rows = []
    for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            rows.append(parsed(row))
        except (ValueError, KeyError) as error:
            raise ValueError(f"reports/published/results.csv, line {line}: {error}") from error
    return tuple(rows)


def parsed(row: Mapping[str, str]) -> Published:
    """A row of results.csv.  Raises ValueError or KeyError for what is no number, or none of the words allowed."""
    if row["epoch"] not in EPOCHS or row["trust"] not in TRUST or row["unit"] not in UNITS:
        raise ValueError(f"epoch {row['epoch']!r}, trust {row['trust']!r}, unit {row['unit']!r}: one is not known")
    sign, scale = UNITS[row["unit"]]
    value = float(row["value"]) / scale
    model, *arguments = row["model"].split()
    return Published(
        source=row["source"],
        table=row["table"],
        dataset=row["dataset"],
        model=model,
        model_args=_options(arguments),
        method=row["method"],
        alpha=_number(row["alpha"]),
        options=_options(row["options"].split()),
        noise=row["noise"],
        noise_rate=_number(row["noise_rate"]) or 0.0,
        epoch=row["epoch"],
        metric=row["metric"],
        value=value if sign > 0 else 1 - value,
        sd=None if row["sd"] == "" else float(row["sd"]) / scale,
        n=_whole(row["n"]),
        digits=_decimals(row["value"], row["unit"]),
        sd_digits=_decimals(row["sd"], row["unit"]),
        epochs=_whole(row["epochs"]),
        weight_decay=_number(row["weight_decay"]),
        trust=row["trust"],
        note=row["note"],
    )


@cache
def protocols() -> Mapping[str, Any]:
    """protocols.yaml as it is written: by source, in the order of the report."""
    text = (resources.files("reports") / "published" / "protocols.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def protocol_of(published: Published) -> Protocol:
    """That of a row: its source's recipe, as its table and then the row itself have it."""
    source = protocols()[published.source]
    own = source.get("tables", {}).get(published.table, {})
    recipe = source["recipe"] | own.get("recipe", {})
    of_row = {"epochs": published.epochs, "weight_decay": published.weight_decay}
    recipe |= {key: value for key, value in of_row.items() if value is not None}
    return Protocol(
        source=published.source,
        name=source["name"],
        title=source["title"],
        year=source["year"],
        link=source["link"],
        basis=source["basis"],
        remarks=(*source.get("remarks", ()), *own.get("remarks", ())),
        recipe={key: value for key, value in recipe.items() if value is not None},
    )


def _options(texts: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _decimals(text: str, unit: str) -> int:
    decimals = len(text.partition(".")[2])
    return max(0, decimals - 2) if unit == "fraction" else decimals


def _number(text: str) -> float | None:
    return float(text) if text else None


def _whole(text: str) -> int | None:
    return int(text) if text else None
