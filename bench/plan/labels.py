"""What cells are called in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.plan.config import SECTIONS, Section


def cell_labels(cells: Sequence[Mapping[str, Section]]) -> list[str]:
    """A short name for each cell: what differs between the cells; with one cell, its network and data set.

    cells: of each, its sections by name: dataset, label_noise, model, training.

    The recipe is named only where cells would go by one name without it.
    """
    names = {name: _section_labels([cell[name] for cell in cells]) for name in SECTIONS}
    if len(cells) == 1:
        return [f"{names['model'][0]}, {names['dataset'][0]}"]
    order = ("model", "dataset", "label_noise")  # the network first: it is what a reader scans for
    columns = [names[name] for name in order if len(set(names[name])) > 1]
    if len(set(zip(*columns, strict=True))) < len(cells):
        columns.append(names["training"])
    return [", ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]


def _section_labels(sections: Sequence[Section]) -> list[str]:
    """One label per section: its display name, and the keys in which sections of that name differ."""
    options = [section.model_dump(exclude={"fingerprint", "train_corruption"}) for section in sections]
    alike: dict[str, list[dict[str, object]]] = {}
    for section, own in zip(sections, options, strict=True):
        alike.setdefault(section.display_name, []).append(own)
    varied = {name: _varied_keys(group) for name, group in alike.items()}
    labels = []
    for section, own in zip(sections, options, strict=True):
        given = [f"{key}={_short(own[key])}" for key in varied[section.display_name] if own.get(key) is not None]
        labels.append(" ".join(filter(None, [section.display_name, *given])))
    return labels


def _varied_keys(group: Sequence[dict[str, object]]) -> list[str]:
    """The keys that do not have the same value in all of `group`."""
    keys = dict.fromkeys(key for options in group for key in options)
    return [key for key in keys if len({repr(options.get(key)) for options in group}) > 1]


def _short(value: object) -> str:
    """A value as it was written, near enough: exact, or two cells could go by one name."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
