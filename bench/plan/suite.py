"""A suite: one YAML file, one question. Reads it strictly and expands it into cells and arms.

    base                what stays the same
    matrix, zip         the cells: the product of the factors; zipped factors go together
    exclude, include    as in a GitHub Actions matrix
    methods             the arms; a list inside a method is swept

A factor is a section (`model: [{name: mlp}, {name: lenet}]`) or one key of it (`training.lr: [0.1, 0.01]`), and its
values are laid over the base key by key. Needs neither data nor torch: what depends on them is checked by the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.mixing import METHODS, Erm, Method
from bench.plan.config import (
    SECTIONS,
    DatasetConfig,
    LabelNoiseConfig,
    ModelConfig,
    Section,
    TrainingConfig,
    known,
    nearest,
)
from bench.plan.document import Document, Path_, SuiteError, complain, override, parse_value, read

Evaluation = Literal["clean", "calibration"]

METRICS = ("test_error_last", "test_error_val_selected", "test_error_median10", "test_error_oracle")


class ReportConfig(BaseModel):
    """What the report is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(default="test_error_last", description="the error that the verdicts go by")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        return known(metric, METRICS, what="metric")


class SuiteFile(BaseModel):
    """The top level of a suite file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="lower case, digits, - and _")
    version: int = Field(default=1, ge=1, description="raised when the suite's numbers would change meaning")
    question: str = Field(min_length=1, description="the one question that the report answers")
    source: str = Field(default="", description="the paper, table or figure that it follows")
    baseline: str = Field(default="erm", description="the method that every other one is compared with")
    seeds: int | list[int] = Field(default=6, description="how many (0, 1, ...), or which")
    base: dict[str, Any]
    methods: list[str | dict[str, Any]] = Field(min_length=1)
    matrix: dict[str, list[Any]] = Field(default={})
    zip: list[dict[str, list[Any]]] = Field(default=[])
    include: list[dict[str, Any]] = Field(default=[])
    exclude: list[dict[str, Any]] = Field(default=[])
    evaluate: list[Evaluation] = Field(default=["clean", "calibration"], min_length=1)
    keep_weights: Literal["auto", "always", "never"] = Field(
        default="auto", description="final weights; auto: while the suite's take less than 5 GB"
    )
    report: ReportConfig = ReportConfig()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: int | list[int]) -> int | list[int]:
        if isinstance(seeds, int):
            if seeds < 1:
                raise ValueError(f"seeds {seeds} should be at least 1, or a list such as [0, 1, 2]")
            return seeds
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seed {twice[0]} is given twice")
        if not seeds or min(seeds) < 0:
            raise ValueError(f"seeds {seeds} should be one or more numbers from 0 up")
        return seeds


@dataclass(frozen=True)
class Cell:
    """Where methods meet: data set, label noise, network, recipe. `sources` says where each key stood."""

    dataset: DatasetConfig
    label_noise: LabelNoiseConfig
    model: ModelConfig
    training: TrainingConfig
    sources: dict[Path_, Path_]
    excluded: tuple[tuple[dict[str, Any] | None, int | None], ...] = ()

    @property
    def sections(self) -> tuple[Section, ...]:
        return (self.dataset, self.label_noise, self.model, self.training)

    def runs(self, method: Method, seed: int) -> bool:
        """Whether no `exclude` takes this method with this seed out of the cell."""
        for options, excluded_seed in self.excluded:
            takes_method = options is None or options.items() <= method.model_dump().items()
            if takes_method and excluded_seed in (None, seed):
                return False
        return True


@dataclass(frozen=True)
class Suite:
    """A suite, read and expanded: every cell and every arm, in the order of the file."""

    file: SuiteFile
    document: Document
    cells: tuple[Cell, ...]
    methods: tuple[Method, ...]
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
    def evaluate(self) -> tuple[str, ...]:
        return tuple(self.file.evaluate)

    @property
    def report(self) -> ReportConfig:
        return self.file.report

    @property
    def path(self) -> Path:
        return Path(self.document.name)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.file.seeds)) if isinstance(self.file.seeds, int) else tuple(self.file.seeds)

    @property
    def baseline(self) -> str:
        """The baseline arm's label."""
        return next(m.label for m in self.methods if self.file.baseline in (m.name, m.label))

    @cached_property
    def num_trials(self) -> int:
        return sum(cell.runs(m, seed) for cell in self.cells for m in self.methods for seed in self.seeds)


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
        raise complain(document, error, names=SuiteFile.model_fields, sources={(): ()}) from None
    methods = tuple(_methods(document, file))
    _check_baseline(document, file, methods)
    return Suite(file, document, tuple(_cells(document, file)), methods, tuple(overrides))


def _override(document: Document, assignment: str) -> None:
    """Apply `key=value`; a section's key, such as training.epochs, means the base."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise SuiteError(f"--set {assignment}: should be key=value, such as training.epochs=2 or seeds=3")
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
    top = str(path[0])
    if top in SECTIONS:
        swept = _factors_that_set(document.content, key)
        if swept:
            raise SuiteError(
                f"--set {assignment}: {swept[0]} is a factor of the matrix; set matrix.{swept[0]}=[...] instead"
            )
        path = ("base", *path)
    elif top not in SuiteFile.model_fields:
        raise SuiteError(f"--set {assignment}: unknown key {top!r}{nearest(top, [*SuiteFile.model_fields, *SECTIONS])}")
    elif top == "matrix" and len(path) > 2:  # matrix.training.lr is one factor
        path = ("matrix", ".".join(str(part) for part in path[1:]))
    override(document, assignment, path=path, value=parse_value(text, where=f"--set {assignment}"))


def _factors_that_set(content: dict[str, Any], key: str) -> list[str]:
    """The factors of a raw suite, whatever else is wrong with it, that would overrule `key` of the base."""
    zipped = content.get("zip")
    groups = [content.get("matrix")] + (zipped if isinstance(zipped, list) else [])
    section, _, name = key.partition(".")
    found = []
    for factor, values in [item for group in groups if isinstance(group, dict) for item in group.items()]:
        fragments = [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
        sets_name = factor == section and any(name in fragment for fragment in fragments)
        if factor == key or sets_name or (not name and factor.partition(".")[0] == section):
            found.append(factor)
    return found


def _methods(document: Document, file: SuiteFile) -> Iterator[Method]:
    """The arms: every method entry, with its lists swept."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(file.methods):
        path: Path_ = ("methods", index)
        options = {"name": entry} if isinstance(entry, str) else entry
        name = options.get("name")
        if name not in METHODS:
            message = f"unknown method {name!r}{nearest(str(name), METHODS)}" if name else "a method needs a name"
            raise document.error(path, message)
        for choice in _swept(document, path, options):
            try:
                method = METHODS[name].model_validate(choice)
            except ValidationError as error:
                names = METHODS[name].model_fields
                raise complain(document, error, names=names, sources={(): path}) from None
            identity = "erm" if _is_erm(method) else method.model_dump_json()
            if identity in seen:
                first = file.methods[seen[identity]]
                same = f"methods[{seen[identity]}]" if seen[identity] != index else f"another value in {first}"
                also = " (mixup with alpha 0 is erm)" if identity == "erm" and method.name != "erm" else ""
                raise document.error(path, f"duplicate arm {method.label!r}: the same as {same}{also}")
            seen[identity] = index
            yield method


def _is_erm(method: Method) -> bool:
    return isinstance(method, Erm) or getattr(method, "alpha", None) == 0


def _swept(document: Document, path: Path_, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The product of an entry's lists. An option that is itself a list is written as a list in a list."""
    lists = {key: value for key, value in options.items() if isinstance(value, list)}
    for key, values in lists.items():
        if not values:
            raise document.error((*path, key), "is an empty list: no arm is left")
    for choice in itertools.product(*lists.values()):
        yield {**options, **dict(zip(lists, choice, strict=True))}


def _check_baseline(document: Document, file: SuiteFile, methods: Sequence[Method]) -> None:
    arms = [m.label for m in methods if file.baseline in (m.name, m.label)]
    if not arms:
        labels = [m.label for m in methods]
        raise document.error(
            ("baseline",), f"baseline {file.baseline!r} is none of the arms{nearest(file.baseline, labels)}"
        )
    if len(arms) > 1:
        raise document.error(
            ("baseline",), f"baseline {file.baseline!r} is several arms: name one of {', '.join(arms)}"
        )


@dataclass(frozen=True)
class _Value:
    """A value and where it stood."""

    value: Any
    source: Path_


_Keys = dict[tuple[str, str], _Value]
"""A cell in the making: (section, key) -> value."""


def _cells(document: Document, file: SuiteFile) -> Iterator[Cell]:
    """Base, then matrix and zip, then exclude, then include, as GitHub Actions orders them; validated."""
    base: _Keys = {}
    for name, fragment in file.base.items():
        base |= _flatten(document, name, fragment, ("base", name))
    combinations = [
        (combination, excluded)
        for combination, excluded in _exclude(document, file, base, list(_combinations(document, file)))
        if excluded is not None
    ]
    seen: dict[str, Path_] = {}
    for keys, excluded in _include(document, file, combinations):
        cell = _validate(document, base | keys, excluded)
        identity = "".join(section.model_dump_json() for section in cell.sections)
        if identity in seen:
            raise document.error(
                _place(keys), "duplicate cell: the same data set, noise, network and recipe as another"
            )
        seen[identity] = _place(keys)
        yield cell
    if not seen:
        raise document.error(("exclude",), "no cell is left: the matrix is empty")


def _flatten(document: Document, name: str, fragment: Any, source: Path_) -> _Keys:
    """A section ("model": {...} or its name alone) or one key ("training.lr": 0.1) as (section, key) -> value."""
    section, _, key = name.partition(".")
    if section not in SECTIONS:
        raise document.error(source, f"unknown section {section!r}{nearest(section, SECTIONS)}")
    if key:
        return {(section, key): _Value(fragment, source)}
    if isinstance(fragment, str) and section in ("dataset", "model"):
        return {(section, "name"): _Value(fragment, source)}
    if not isinstance(fragment, dict):
        raise document.error(source, f"{fragment!r} should be a mapping of {section}'s keys, such as {{name: ...}}")
    return {(section, str(key)): _Value(value, (*source, key)) for key, value in fragment.items()}


def _combinations(document: Document, file: SuiteFile) -> Iterator[_Keys]:
    """The product of the matrix's factors and of the zipped groups."""
    factors: list[list[_Keys]] = []
    for name, values in file.matrix.items():
        factors.append([_flatten(document, name, v, ("matrix", name, i)) for i, v in enumerate(values)])
        if not values:
            raise document.error(("matrix", name), "is an empty list: the matrix is empty")
    for index, group in enumerate(file.zip):
        lengths = {name: len(values) for name, values in group.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise document.error(("zip", index), f"zipped lists should be of one length, not empty: {counts or 'none'}")
        rows = zip(*group.values(), strict=True)
        factors.append([_zipped(document, group, row, ("zip", index), i) for i, row in enumerate(rows)])
    for choice in itertools.product(*factors):
        keys: _Keys = {}
        for fragment in choice:
            for key in fragment.keys() & keys.keys():
                raise document.error(fragment[key].source, f"{'.'.join(key)} is set by two factors")
            keys |= fragment
        yield keys


def _zipped(document: Document, group: dict[str, Any], row: tuple[Any, ...], path: Path_, index: int) -> _Keys:
    keys: _Keys = {}
    for name, value in zip(group, row, strict=True):
        keys |= _flatten(document, name, value, (*path, name, index))
    return keys


_Excluded = tuple[tuple[dict[str, Any] | None, int | None], ...]


def _exclude(
    document: Document, file: SuiteFile, base: _Keys, combinations: list[_Keys]
) -> Iterator[tuple[_Keys, _Excluded | None]]:
    """Each combination with the methods and seeds taken out of it, or None where all of it is."""
    entries = []
    for index, entry in enumerate(file.exclude):
        path: Path_ = ("exclude", index)
        cell = {k: v for k, v in entry.items() if k not in ("method", "seed")}
        wanted: _Keys = {}
        for name, fragment in cell.items():
            wanted |= _flatten(document, name, fragment, (*path, name))
        method = entry.get("method")
        options = {"name": method} if isinstance(method, str) else method
        if options is not None and not isinstance(options, dict):
            raise document.error((*path, "method"), f"{method!r} should be a method's name or a mapping of its options")
        if not any(_matches(base | keys, wanted) for keys in combinations):
            raise document.error(path, "matches nothing: no cell of the matrix has these values")
        if options is not None and not any(options.items() <= m.model_dump().items() for m in _methods(document, file)):
            raise document.error((*path, "method"), "matches nothing: no arm is like that")
        entries.append((wanted, options, entry.get("seed")))
    for keys in combinations:
        hits = [(options, seed) for wanted, options, seed in entries if _matches(base | keys, wanted)]
        yield keys, None if (None, None) in hits else tuple(hits)


def _matches(cell: _Keys, wanted: _Keys) -> bool:
    return all(key in cell and cell[key].value == value.value for key, value in wanted.items())


def _include(
    document: Document, file: SuiteFile, combinations: list[tuple[_Keys, _Excluded]]
) -> Iterator[tuple[_Keys, _Excluded]]:
    """GitHub's rule: an entry extends every combination whose own values it repeats, else it is a cell of its own."""
    extended = [dict(keys) for keys, _ in combinations]
    alone: list[_Keys] = []
    for index, entry in enumerate(file.include):
        wanted: _Keys = {}
        for name, fragment in entry.items():
            wanted |= _flatten(document, name, fragment, ("include", index, name))
        fitting = False
        for (keys, _), target in zip(combinations, extended, strict=True):
            if all(wanted[key].value == keys[key].value for key in wanted.keys() & keys.keys()):
                target |= {key: value for key, value in wanted.items() if key not in keys}
                fitting = True
        if not fitting:
            alone.append(wanted)
    yield from zip(extended, (excluded for _, excluded in combinations), strict=True)
    yield from ((keys, ()) for keys in alone)


def _validate(document: Document, keys: _Keys, excluded: _Excluded) -> Cell:
    """The sections of one cell, each checked; an error goes to the line where its value stood."""
    sections: dict[str, Any] = {}
    sources: dict[Path_, Path_] = {}
    for name, section in SECTIONS.items():
        own = {key: value for (owner, key), value in keys.items() if owner == name}
        sources |= {(name,): ("base", name)} | {(name, key): value.source for key, value in own.items()}
        if any(key == "fingerprint" for key in own):
            raise document.error(own["fingerprint"].source, "unknown key: the plan fills it in")
        try:
            sections[name] = section.model_validate({key: value.value for key, value in own.items()})
        except ValidationError as error:
            place = {path[1:]: source for path, source in sources.items() if path[0] == name}
            if "name" in own and () in place:  # a complaint about the section as a whole goes to its name
                place[()] = own["name"].source[:-1] if own["name"].source[-1] == "name" else own["name"].source
            raise complain(document, error, names=section.model_fields, sources=place) from None
    return Cell(**sections, sources=sources, excluded=excluded)


def _place(keys: _Keys) -> Path_:
    """Where a combination stands, for an error about the whole of it."""
    return next((value.source for value in reversed(keys.values())), ("base",))
