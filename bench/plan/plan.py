"""A plan: the trials that a suite means here and now, in the order in which they run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench.data import datasets
from bench.data.datasets import Facts
from bench.mixing import Method
from bench.plan.config import DatasetConfig, Section
from bench.plan.document import SuiteError
from bench.plan.suite import Cell, Suite
from bench.plan.trial import Trial


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with the names that tables and figures give its cell and its arm."""

    trial_id: str
    trial: Trial
    cell: str
    arm: str


@dataclass(frozen=True)
class Plan:
    """Every trial of a suite, seed by seed over all cells and arms, so that whole pairs finish early."""

    suite: Suite
    trials: tuple[PlannedTrial, ...]
    cells: tuple[str, ...]

    @property
    def baseline(self) -> str:
        """The arm that every other one is compared with."""
        return self.suite.baseline

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms' labels, the baseline first."""
        labels = [method.label for method in self.suite.methods]
        return (self.baseline, *(label for label in labels if label != self.baseline))

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.suite.seeds

    @property
    def overrides(self) -> tuple[str, ...]:
        return self.suite.overrides

    @cached_property
    def num_comparisons(self) -> int:
        """The family: every arm against the baseline, in every cell that has both."""
        conditions = {(planned.cell, planned.arm) for planned in self.trials}
        return sum(arm != self.baseline and (cell, self.baseline) in conditions for cell, arm in conditions)

    @cached_property
    def plan_id(self) -> str:
        """8 hex digits: two runs with the same id ran the same trials under the same suite version."""
        parts = [self.suite.name, str(self.suite.version), *sorted(planned.trial_id for planned in self.trials)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def make_plan(suite: Suite) -> Plan:
    """Resolve a suite into trials; looks at image folders (names and sizes of files) to know what they hold.

    Raises SuiteError, at the data set's line, where an image folder cannot be used.
    """
    cells = [_with_fingerprint(suite, cell) for cell in suite.cells]
    labels = _cell_labels(cells)
    arms = [(method, method.label) for method in suite.methods]
    trials = tuple(_trials(suite, cells, labels, arms))
    return Plan(suite=suite, trials=trials, cells=tuple(labels))


def data_facts(dataset: DatasetConfig) -> Facts:
    """Sizes of a data set before `train_size` and validation take their share."""
    return datasets.describe(
        dataset.name, root=dataset.root, image_size=dataset.image_size, test_fraction=dataset.test_fraction
    )


def _trials(
    suite: Suite, cells: list[Cell], labels: list[str], arms: list[tuple[Method, str]]
) -> Iterator[PlannedTrial]:
    for seed in suite.seeds:
        for cell, label in zip(cells, labels, strict=True):
            for method, arm in arms:
                if cell.runs(method, seed):
                    trial = Trial(
                        dataset=cell.dataset,
                        label_noise=cell.label_noise,
                        model=cell.model,
                        training=cell.training,
                        method=method,
                        seed=seed,
                    )
                    yield PlannedTrial(trial.trial_id, trial, label, arm)


def _with_fingerprint(suite: Suite, cell: Cell) -> Cell:
    """The cell with its image folder's fingerprint, and its sizes checked against the data."""
    place = cell.sources.get(("dataset", "root"), cell.sources["dataset",])
    try:
        facts = data_facts(cell.dataset)
    except datasets.DataError as error:
        raise suite.document.error(place, str(error)) from None
    if cell.dataset.train_size is not None and cell.dataset.train_size > facts.num_train:
        message = f"train_size {cell.dataset.train_size} is more than the {facts.num_train} training images there are"
        raise suite.document.error(cell.sources["dataset", "train_size"], message)
    if not facts.fingerprint:
        return cell
    dataset = cell.dataset.model_copy(update={"fingerprint": facts.fingerprint})
    return Cell(dataset, cell.label_noise, cell.model, cell.training, cell.sources, cell.excluded)


def _cell_labels(cells: list[Cell]) -> list[str]:
    """A short name for each cell: what differs between the cells; with one cell, its data set and network."""
    names = [_section_labels([cell.sections[index] for cell in cells]) for index in range(4)]
    differing = [column for column in names if len(set(column)) > 1]
    if not differing:
        differing = [names[0], names[2]]
    order = [2, 0, 1, 3]  # the network first: it is what a reader scans for
    columns = [names[index] for index in order if names[index] in differing]
    labels = [", ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
    if len(set(labels)) < len(labels):
        raise SuiteError(f"two cells would both be called {max(labels, key=labels.count)!r}")
    return labels


def _section_labels(sections: list[Section]) -> list[str]:
    """One label per section: its display name, and the keys in which sections of one suite differ."""
    dumps = [section.model_dump(exclude={"root", "fingerprint"}) for section in sections]
    hidden = {"name"} if "name" in dumps[0] else {"kind", "rate"}
    keys = [key for key in dict.fromkeys(key for dump in dumps for key in dump) if key not in hidden]
    differing = [key for key in keys if len({repr(dump.get(key)) for dump in dumps}) > 1]
    labels = []
    for section, dump in zip(sections, dumps, strict=True):
        options = [f"{key}={_short(dump[key])}" for key in differing if dump.get(key) is not None]
        labels.append(" ".join(filter(None, [getattr(section, "display_name", ""), *options])))
    return labels


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
