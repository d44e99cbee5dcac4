"""How the cells of a suite stand beside each other: by network and label noise, or by all but the label noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.plan.config import SECTIONS

if TYPE_CHECKING:
    from bench.plan.plan import Plan

MOST_COLUMNS = 4
"""More panels side by side are too narrow for a curve."""


def in_grid(plan: Plan, cells: Sequence[str]) -> tuple[list[str], int | None]:
    """The cells in rows by label noise and columns by network, and how many columns there are.

    Where they are not each network under each noise, and nothing else, they stay as they are, and the columns are None.
    """
    sections = _sections(plan)
    networks = list(dict.fromkeys(sections[cell]["model"] for cell in cells))
    noises = list(dict.fromkeys(sections[cell]["label_noise"] for cell in cells))
    place = {(sections[cell]["label_noise"], sections[cell]["model"]): cell for cell in cells}
    several = min(len(networks), len(noises)) > 1
    if not several or len(networks) > MOST_COLUMNS or not len(cells) == len(place) == len(networks) * len(noises):
        return list(cells), None
    return [place[noise, network] for noise in noises for network in networks], len(networks)


def by_setting(plan: Plan, cells: Sequence[str]) -> dict[str, list[str]]:
    """The cells that differ in their label noise alone, under what their names have in common; "" for all of them."""
    sections = _sections(plan)
    groups: dict[tuple[str, ...], list[str]] = {}
    for cell in cells:
        setting = tuple(text for name, text in sections[cell].items() if name != "label_noise")
        groups.setdefault(setting, []).append(cell)
    if len(groups) == 1:
        return {"": list(cells)}
    named: dict[str, list[str]] = {}
    for own in groups.values():
        parts = [cell.split(", ") for cell in own]
        name = ", ".join(part for part in parts[0] if all(part in others for others in parts)) if len(own) > 1 else ""
        named[name if name and name not in named else own[0]] = own
    return named


def _sections(plan: Plan) -> dict[str, dict[str, str]]:
    """By cell: each of its sections as a text that says all of it, since those with a dict have no hash."""
    trials = {planned.cell: planned.trial for planned in plan.trials}
    return {cell: {name: repr(getattr(trial, name)) for name in SECTIONS} for cell, trial in trials.items()}
