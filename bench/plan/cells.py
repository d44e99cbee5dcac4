"""The cells of a suite: base, then matrix and zip, then exclude, then include, as GitHub Actions orders them.

A factor is a section (`model: [mlp, lenet]`) or one key of it (`training.lr: [0.1, 0.01]`), and its values are laid
over the base key by key. An `exclude` entry takes out the combinations that have all of its values; with `method` or
`seed` it takes only those arms and seeds out, and that in every cell, included ones too. An `include` entry extends
each combination whose values it repeats or leaves alone; where there is none, or no matrix, it is a cell of its own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bench.mixing import Method
from bench.plan.config import (
    SECTIONS,
    DatasetConfig,
    LabelNoiseConfig,
    ModelConfig,
    Section,
    TrainingConfig,
    nearest,
    nearest_key,
)
from bench.plan.document import Document, KeyPath, SuiteError, complaint, dotted, shown
from bench.plan.suite_file import SuiteFile


@dataclass(frozen=True)
class Cell:
    """Where methods meet: data set, label noise, network, recipe.

    excluded: the (arm, seed) pairs that do not run here.  sources: where each (section, key) stood in the file.
    """

    dataset: DatasetConfig
    label_noise: LabelNoiseConfig
    model: ModelConfig
    training: TrainingConfig
    excluded: frozenset[tuple[str, int]]
    sources: dict[tuple[str, str], KeyPath]

    @property
    def sections(self) -> dict[str, Section]:
        return {name: getattr(self, name) for name in SECTIONS}

    def runs(self, arm: str, seed: int) -> bool:
        """Whether no `exclude` takes this arm with this seed out of the cell."""
        return (arm, seed) not in self.excluded

    @property
    def origin(self) -> KeyPath:
        """What makes this cell: the last of its keys that a factor or an `include` sets."""
        return next((path for path in reversed(self.sources.values()) if path[0] != "base"), ("base",))

    def place(self, section: str, key: str) -> KeyPath:
        """Where an error about a key should point: to the key, or to its section in the base."""
        return self.sources.get((section, key), ("base", section))


@dataclass(frozen=True)
class _Value:
    """A value and where it stood."""

    value: Any
    source: KeyPath


_Keys = dict[tuple[str, str], _Value]
"""A cell in the making: (section, key) -> value."""


@dataclass(frozen=True)
class _Exclusion:
    """An `exclude` entry. takes: the (arm, seed) pairs that it takes out; None: the whole combination."""

    place: KeyPath
    wanted: _Keys
    takes: frozenset[tuple[str, int]] | None

    def matches(self, cell: _Keys) -> bool:
        return all(key in cell and cell[key].value == value.value for key, value in self.wanted.items())


def expand(document: Document, file: SuiteFile, *, methods: Sequence[Method], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """The cells in the order of the file, those of `include` last.

    Raises SuiteError at the line and key that is wrong.
    """
    base = _flatten(document, file.base, ("base",))
    combinations = list(_combinations(document, file))
    exclusions = [_exclusion(document, index, entry, methods, seeds) for index, entry in enumerate(file.exclude)]
    whole = [exclusion for exclusion in exclusions if exclusion.takes is None]
    for exclusion in whole:
        _check_matches(document, exclusion, [base | keys for keys in combinations])
    kept = [keys for keys in combinations if not any(exclusion.matches(base | keys) for exclusion in whole)]
    cells = [base | keys for keys in _include(document, file, kept)]
    if not cells:
        raise document.error(("exclude",), "no cell is left: the matrix is empty")
    for exclusion in exclusions:
        if exclusion.takes is not None:
            _check_matches(document, exclusion, cells)
    return tuple(_cell(document, keys, exclusions) for keys in _overridden(document, base, cells))


def _flatten(document: Document, fragments: Mapping[str, Any], place: KeyPath) -> _Keys:
    """Sections ("model": {...} or its name alone) and single keys ("training.lr": 0.1) as (section, key) -> value."""
    keys: _Keys = {}
    for name, fragment in fragments.items():
        _add(document, keys, _flatten_one(document, name, fragment, (*place, name)))
    return keys


def _flatten_one(document: Document, name: str, fragment: Any, source: KeyPath) -> _Keys:
    section, _, key = name.partition(".")
    if section not in SECTIONS:
        here = [*SECTIONS, "method", "seed"] if source[0] == "exclude" else SECTIONS
        raise document.error(source, f"unknown key{nearest_key(section, here)}")
    if key:
        return {(section, key): _Value(fragment, source)}
    if isinstance(fragment, str) and section in ("dataset", "model"):
        return {(section, "name"): _Value(fragment, source)}
    if not isinstance(fragment, dict):
        raise document.error(source, f"{shown(fragment)} should be a mapping of {section}'s keys")
    return {(section, key): _Value(value, (*source, key)) for key, value in fragment.items()}


def _add(document: Document, keys: _Keys, more: _Keys) -> None:
    """Add `more` to `keys`, none of which may be there already."""
    for key, value in more.items():
        if key in keys:
            raise document.error(value.source, f"{'.'.join(key)} is set by {dotted(keys[key].source)} already")
    keys |= more


def _combinations(document: Document, file: SuiteFile) -> Iterator[_Keys]:
    """The product of the matrix's factors and of the zipped groups; without any, the base alone unless included."""
    factors: list[list[_Keys]] = []
    for name, values in file.matrix.items():
        if not values:
            raise document.error(("matrix", name), "is an empty list: the matrix is empty")
        factors.append([_flatten_one(document, name, v, ("matrix", name, i)) for i, v in enumerate(values)])
    for index, group in enumerate(file.zip):
        lengths = {name: len(values) for name, values in group.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise document.error(("zip", index), f"zipped lists should be of one length, not empty: {counts or 'none'}")
        factors.append([_zipped(document, group, row, ("zip", index)) for row in range(max(lengths.values()))])
    if not factors and file.include:
        return
    for choice in itertools.product(*factors):
        keys: _Keys = {}
        for fragment in choice:
            _add(document, keys, fragment)
        yield keys


def _zipped(document: Document, group: Mapping[str, list[Any]], row: int, place: KeyPath) -> _Keys:
    keys: _Keys = {}
    for name, values in group.items():
        _add(document, keys, _flatten_one(document, name, values[row], (*place, name, row)))
    return keys


def _exclusion(
    document: Document, index: int, entry: Mapping[str, Any], methods: Sequence[Method], seeds: Sequence[int]
) -> _Exclusion:
    """Raises SuiteError where an entry is empty, or names an arm or a seed that the suite does not have."""
    place: KeyPath = ("exclude", index)
    if not entry:
        raise document.error(place, "is empty")
    wanted = _flatten(document, {key: value for key, value in entry.items() if key not in ("method", "seed")}, place)
    if "method" not in entry and "seed" not in entry:
        return _Exclusion(place, wanted, takes=None)
    arms = [method.label for method in methods]
    if "method" in entry:
        arms = [method.label for method in methods if _is_meant(method, entry["method"])]
        if not arms:
            labels = nearest(str(entry["method"]), [method.label for method in methods])
            raise document.error((*place, "method"), f"matches nothing: no arm is {shown(entry['method'])}{labels}")
    chosen = [seed for seed in seeds if seed == entry.get("seed", seed)]
    if not chosen:
        numbers = ", ".join(map(str, seeds))
        raise document.error(
            (*place, "seed"), f"matches nothing: {shown(entry['seed'])} is none of the seeds {numbers}"
        )
    return _Exclusion(place, wanted, takes=frozenset(itertools.product(arms, chosen)))


def _is_meant(method: Method, wanted: Any) -> bool:
    """wanted: a method's name, an arm's label, or a mapping of options."""
    if isinstance(wanted, dict):
        return bool(wanted.items() <= method.model_dump().items())
    return wanted in (method.name, method.label)


def _check_matches(document: Document, exclusion: _Exclusion, cells: Sequence[_Keys]) -> None:
    """Raise SuiteError where an `exclude` entry matches no cell, at the value that none has."""
    if any(exclusion.matches(cell) for cell in cells):
        return
    for key, wanted in exclusion.wanted.items():
        values = [cell[key].value for cell in cells if key in cell]
        if wanted.value not in values:
            there = nearest(str(wanted.value), dict.fromkeys(map(str, values)))
            raise document.error(
                wanted.source, f"matches nothing: no cell has {'.'.join(key)} {shown(wanted.value)}{there}"
            )
    raise document.error(exclusion.place, "matches nothing: no cell has all of these values")


def _include(document: Document, file: SuiteFile, combinations: Sequence[_Keys]) -> Iterator[_Keys]:
    """The combinations as `include` extends them, then the entries that extend none."""
    extended = [dict(keys) for keys in combinations]
    alone: list[_Keys] = []
    for index, entry in enumerate(file.include):
        wanted = _flatten(document, entry, ("include", index))
        fitting = [
            place
            for place, keys in enumerate(combinations)
            if all(wanted[key].value == keys[key].value for key in wanted.keys() & keys.keys())
        ]
        for place in fitting:
            extended[place] |= wanted
        if not fitting:
            alone.append(wanted)
    yield from extended
    yield from alone


def _overridden(document: Document, base: _Keys, cells: list[_Keys]) -> list[_Keys]:
    """The cells with every key that --set changes in the base, also where a factor or an `include` sets it again.

    Raises SuiteError where the matrix varies that key: then it is what tells the cells apart.
    """
    for key, value in base.items():
        assignment = document.override_of(value.source)
        if not assignment:
            continue
        own = [cell[key] for cell in cells if cell[key].source[0] in ("matrix", "include")]
        varied = {repr(each.value): dotted(each.source) for each in own}
        if len(varied) > 1:
            place = next(iter(varied.values()))
            raise SuiteError(
                f"--set {assignment}: {'.'.join(key)} is set by {place} in the suite: override that instead"
            )
        cells = [cell | {key: value} for cell in cells]
    return cells


def _cell(document: Document, keys: _Keys, exclusions: Sequence[_Exclusion]) -> Cell:
    sections: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        own = {key: value for (owner, key), value in keys.items() if owner == name}
        if name == "dataset" and "fingerprint" in own:
            raise document.error(own["fingerprint"].source, "unknown key: the plan fills it in")
        try:
            sections[name] = section.model_validate({key: value.value for key, value in own.items()})
        except ValidationError as error:
            path, message = complaint(error, names=section.model_fields)
            raise document.error(_blamed(document, name, own, path=path, message=message), message) from None
    taken = [exclusion.takes for exclusion in exclusions if exclusion.takes is not None and exclusion.matches(keys)]
    sources = {key: value.source for key, value in keys.items()}
    return Cell(**sections, excluded=frozenset().union(*taken), sources=sources)


def _blamed(document: Document, section: str, keys: Mapping[str, _Value], *, path: KeyPath, message: str) -> KeyPath:
    """Where a complaint about `path` within a section goes: to its key, else to the section in the base.

    Where keys do not fit together, to one that the message names, or to the section's name: to one that --set changed,
    else to one that varies.
    """
    if path:
        return keys[str(path[0])].source + path[1:] if path[0] in keys else ("base", section, *path)
    named = [value.source for key, value in keys.items() if re.search(rf"\b{re.escape(key)}\b", message)]
    suspects = named or [value.source for key, value in keys.items() if key == "name"]
    return min(suspects, key=lambda at: (not document.override_of(at), at[0] == "base"), default=("base", section))
