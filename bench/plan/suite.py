"""A suite: one YAML file, one question. Reads it strictly and expands it into cells (cells.py) and arms.

Needs neither data nor torch: what depends on them is checked by the plan.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.mixing import COMPANIONS, METHODS, Erm, Method
from bench.plan.cells import Cell, expand
from bench.plan.config import SECTIONS, nearest, nearest_key
from bench.plan.document import Document, KeyPath, SuiteError, complaint, dotted, override, parse_value, read, shown
from bench.plan.evaluation import EVALUATIONS, Evaluation, verdict_metrics
from bench.plan.suite_file import METRICS, ReportConfig, StoppingRule, SuiteFile

MAX_TRIALS = 1_000_000


@dataclass(frozen=True)
class Suite:
    """A suite, read and expanded: every cell and every arm, in the order of the file.

    families: the labels of the arms that each entry of `methods` gives, in order.
    baseline: the label of the arm that every other one is compared with.
    seeds: all that may be needed; with a stopping rule most comparisons make do with fewer.
    """

    file: SuiteFile
    document: Document
    cells: tuple[Cell, ...]
    methods: tuple[Method, ...]
    families: tuple[tuple[str, ...], ...]
    evaluations: tuple[Evaluation, ...]
    baseline: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def version(self) -> int:
        return self.file.version

    @property
    def question(self) -> str:
        return self.file.question

    @property
    def source(self) -> str:
        return self.file.source

    @property
    def report(self) -> ReportConfig:
        return self.file.report

    @property
    def stopping(self) -> StoppingRule | None:
        """When a comparison has seeds enough; None where all seeds are run."""
        return self.file.seeds if isinstance(self.file.seeds, StoppingRule) else None

    @property
    def path(self) -> Path:
        return Path(self.document.name)

    def methods_in(self, cell: Cell) -> list[Method]:
        """Those that run in the cell, with whichever seed."""
        return [method for method in self.methods if any(cell.runs(method.label, seed) for seed in self.seeds)]

    def place_of(self, method: Method, *keys: str) -> KeyPath:
        """Where the entry that gives an arm stands, or the first of its `keys` that it sets."""
        index = next(index for index, arms in enumerate(self.families) if method.label in arms)
        entry = self.file.methods[index]
        return ("methods", index, *(key for key in keys[:1] if isinstance(entry, dict) and key in entry))


def load_suite(path: Path, *, overrides: Sequence[str] = ()) -> Suite:
    """Read and expand a suite file. `overrides` are texts such as "training.epochs=2".

    Raises SuiteError, which names file, line and key, for anything that could not run.
    """
    document = read(path)
    for assignment in overrides:
        _override(document, assignment)
    try:
        file = SuiteFile.model_validate(document.content)
    except ValidationError as error:
        below = {"seeds": StoppingRule.model_fields, "report": ReportConfig.model_fields}
        raise document.error(*complaint(error, names=SuiteFile.model_fields, below=below)) from None
    _check_count(document, file)
    seeds = _seeds(file)
    by_entry = [tuple(arms) for _, arms in itertools.groupby(_methods(document, file), key=itemgetter(0))]
    methods = tuple(method for arms in by_entry for _, method in arms)
    families = tuple(tuple(method.label for _, method in arms) for arms in by_entry)
    evaluations = tuple(_evaluations(document, file))
    baseline = _baseline(document, file, methods)
    cells = expand(document, file, methods=methods, seeds=seeds)
    if not any(cell.runs(method.label, seed) for cell in cells for method in methods for seed in seeds):
        raise document.error(("exclude",), "no trial is left: every arm is taken out of every cell")
    _check_metric(document, file, cells, evaluations)
    return Suite(file, document, cells, methods, families, evaluations, baseline, seeds, tuple(overrides))


def _check_count(document: Document, file: SuiteFile) -> None:
    """Raise SuiteError where there are more trials than a plan has room for, `exclude` not counted, before any is made.

    A million take 1.6 GB and two minutes to plan.
    """
    cells = math.prod(map(len, file.matrix.values()))
    cells = cells * math.prod(len(next(iter(group.values()), [])) for group in file.zip) + len(file.include)
    options = [list(entry.values()) if isinstance(entry, dict) else [] for entry in file.methods]
    arms = sum(math.prod(len(value) for value in values if isinstance(value, list)) for values in options)
    seeds = _num_seeds(file)
    if cells * arms * seeds > MAX_TRIALS:
        largest = max((cells, "matrix"), (arms, "methods"), (seeds, "seeds"))[1]
        message = f"{cells * arms * seeds:,} trials ({cells:,} cells, {arms:,} arms, {seeds:,} seeds)"
        place = (largest,) if largest in document.content else ()
        raise document.error(place, f"{message}: a suite has at most {MAX_TRIALS:,}")


def _num_seeds(file: SuiteFile) -> int:
    """All that may be needed."""
    if isinstance(file.seeds, StoppingRule):
        return file.seeds.max
    return file.seeds if isinstance(file.seeds, int) else len(file.seeds)


def _seeds(file: SuiteFile) -> tuple[int, ...]:
    return tuple(file.seeds if isinstance(file.seeds, list) else range(_num_seeds(file)))


def _override(document: Document, assignment: str) -> None:
    """Apply `key=value`; a section's key, such as training.epochs, means the base. methods[1] is methods.1."""
    key, equals, text = assignment.partition("=")
    keys = re.sub(r"\[(\d+)\]", r".\1", key.strip()).removeprefix("base.").split(".")
    if not equals or not all(keys):
        raise SuiteError(f"--set {assignment}: should be key=value, such as training.epochs=2 or seeds=3")
    if keys[0] in SECTIONS:
        keys = ["base", *keys]
    elif keys[0] not in SuiteFile.model_fields:
        hint = nearest_key(keys[0], [*SuiteFile.model_fields, *SECTIONS])
        raise SuiteError(f"--set {assignment}: unknown key {keys[0]!r}{hint}")
    override(document, assignment, keys=keys, value=parse_value(text, where=f"--set {assignment}"))


def _methods(document: Document, file: SuiteFile) -> Iterator[tuple[int, Method]]:
    """The arms: every method entry, with its lists swept. Each with its entry's place."""
    seen: dict[str, str] = {}
    for index, entry in enumerate(file.methods):
        path: KeyPath = ("methods", index)
        options = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            raise document.error(
                path, f"{shown(entry)} should be a name, or a mapping such as {{name: mixup, alpha: 1}}"
            )
        name = options["name"]
        if name not in METHODS:
            raise document.error(path, f"unknown method {name!r}{_remedy(name)}")
        for choice in _swept(document, path, options):
            try:
                method = METHODS[name].model_validate(choice, strict=True)
            except ValidationError as error:
                key, message = complaint(error, names=METHODS[name].model_fields)
                raise document.error((*path, *key), message) from None
            label = _plainest_label(method)
            if label in seen:
                also = "" if label == method.label else f" ({method.label} trains as {label} does)"
                place = _suspect(document, path, options)
                raise document.error(place, f"duplicate arm {label!r}: {seen[label]} gives it already{also}")
            seen[label] = dotted(path)
            yield index, method


def _remedy(name: str) -> str:
    if name in COMPANIONS:
        return f"; {name} is an option of every method, as in {{name: erm, {name}: ...}}"
    return nearest(name, METHODS)


def _plainest_label(method: Method) -> str:
    """The label of the arm that trains like this one, bit for bit: erm's, where it mixes nothing."""
    return Erm(**method.companions).label if method.is_neutral else method.label


def _suspect(document: Document, path: KeyPath, options: dict[str, Any]) -> KeyPath:
    """Where an error about one arm of an entry goes: to what --set changed, else to what is swept, else to it all."""
    changed = [(*path, key) for key in options if document.override_of((*path, key))]
    swept = [(*path, key) for key, value in options.items() if isinstance(value, list)]
    return next(iter([*changed, *swept]), path)


def _swept(document: Document, path: KeyPath, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The product of an entry's lists. An option that is itself a list is written as a list in a list."""
    lists = {key: value for key, value in options.items() if isinstance(value, list)}
    for key, values in lists.items():
        if not values:
            raise document.error((*path, key), "is an empty list: no arm is left")
    for choice in itertools.product(*lists.values()):
        yield {**options, **dict(zip(lists, choice, strict=True))}


def _baseline(document: Document, file: SuiteFile, methods: Sequence[Method]) -> str:
    """The label of the one arm that `baseline` names: by its label, or by its method's name."""
    arms = [method.label for method in methods]
    named = [file.baseline] if file.baseline in arms else [m.label for m in methods if m.name == file.baseline]
    if not named:
        raise document.error(("baseline",), f"{file.baseline!r} is none of the arms{nearest(file.baseline, arms)}")
    if len(named) > 1:
        raise document.error(("baseline",), f"{file.baseline!r} is several arms: name one of {', '.join(named)}")
    return named[0]


def _evaluations(document: Document, file: SuiteFile) -> Iterator[Evaluation]:
    """The entries of `evaluate`, each a name or a mapping of options."""
    seen: dict[str, str] = {}
    for index, entry in enumerate(file.evaluate):
        path: KeyPath = ("evaluate", index)
        options = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            example = "{name: corruptions, severities: [1, 3, 5]}"
            raise document.error(path, f"{shown(entry)} should be a name, or a mapping such as {example}")
        if options["name"] not in EVALUATIONS:
            raise document.error(path, f"unknown evaluation {options['name']!r}{nearest(options['name'], EVALUATIONS)}")
        kind = EVALUATIONS[options["name"]]
        try:
            evaluation = kind.model_validate(options)
        except ValidationError as error:
            key, message = complaint(error, names=kind.model_fields)
            raise document.error((*path, *key), message) from None
        for metric in evaluation.metrics(validated=True):
            if metric in seen:
                raise document.error(path, f"gives {metric}, which {seen[metric]} gives already")
            seen[metric] = dotted(path)
        yield evaluation


def _check_metric(
    document: Document, file: SuiteFile, cells: Sequence[Cell], evaluations: Sequence[Evaluation]
) -> None:
    """Raise SuiteError where the report's metric is unknown, needs validation and a cell has none, or does not fit."""
    metric = file.report.metric
    there = [*METRICS, *verdict_metrics(evaluations, validated=True)]
    if metric not in there:
        hint = nearest(metric, there)
        if "did you mean" not in hint:
            hint = f"; there is {', '.join(METRICS)}, and what the evaluations give, such as {there[-1]}"
        raise document.error(("report", "metric"), f"unknown metric {metric!r}{hint}")
    smallest = file.report.smallest_effect
    if smallest is not None and smallest >= 0.5 and "error" in metric:
        message = f"{smallest:g} would be {100 * smallest:g} points: an error is a fraction, and half a point is 0.005"
        raise document.error(("report", "smallest_effect"), message)
    if needs_validation(metric, evaluations):
        for cell in cells:
            if not cell.dataset.val_fraction:
                message = f"{metric} needs validation, and {cell.dataset.display_name} has val_fraction 0"
                raise document.error(("report", "metric"), message)


def needs_validation(metric: str, evaluations: Sequence[Evaluation]) -> bool:
    """Whether a trial has this figure only where it has validation images."""
    always = [name for name in METRICS if name != "test_error_val_selected"]
    return metric not in (*always, *verdict_metrics(evaluations, validated=False))
