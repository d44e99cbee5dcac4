"""A plan in shards, one for each machine of several that share nothing, or nothing but a folder.

Every machine has to come to the same shards on its own: they follow from the plan alone, never from what is finished,
from what was measured, or from the machine.
"""

from __future__ import annotations

import re
from dataclasses import replace

from bench.errors import UserError
from bench.plan.plan import Plan, PlannedTrial

Unit = tuple[str, int | None]
"""What stays together: all arms of (cell, seed), or of the whole cell, where the seed is None."""


def take_shard(plan: Plan, text: str) -> Plan:
    """The part of a plan that `text`, such as 2/8, names; its identity and its comparisons stay those of the whole.

    It may be empty, where there are more shards than units. Raises UserError for a text that names no shard.
    """
    index, count = parse_shard(text)
    if plan.suite.stopping:
        remedy = f"give a number of seeds, --seeds {plan.suite.stopping.max}"
        raise UserError(
            f"--shard {text}: seeds are added by what all comparisons show, and no shard sees all: {remedy}"
        )
    return replace(plan, trials=shard(plan, index, count), whole=plan, shard=f"{index}/{count}")


def parse_shard(text: str) -> tuple[int, int]:
    """(index, count) of a text such as 2/8. Raises UserError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    if match is None:
        raise UserError(f"--shard {text}: should be which of how many, such as 2/8")
    index, count = map(int, match.groups())
    if not 1 <= index <= count:
        raise UserError(f"--shard {text}: shards count from 1, so that of {count} the last is {count}/{count}")
    return index, count


def shard(plan: Plan, index: int, count: int) -> tuple[PlannedTrial, ...]:
    """The trials of shard `index`, 1 to `count`, in the plan's order; every trial is in exactly one shard.

    The arms of a pair are in one shard. Where an evaluation needs the network of another seed, so is the whole cell.

    Units are dealt out in turn, those that take alike one after the other: cells that differ in label noise alone, over
    their seeds. No shard then has two units more of a kind than another, whichever kind is the slow one.
    """
    unit_of = _units(plan)
    kinds: dict[tuple[object, ...], list[Unit]] = {}
    arms: dict[Unit, list[str]] = {}
    first: dict[Unit, PlannedTrial] = {}
    for planned in plan.trials:
        unit = unit_of[planned.trial_id]
        arms.setdefault(unit, []).append(planned.arm)
        first.setdefault(unit, planned)
    cells = {cell: place for place, cell in enumerate(plan.cells)}
    for unit in sorted(first, key=lambda unit: (cells[unit[0]], unit[1] or 0)):
        trial = first[unit].trial
        kind = (repr(trial.model), repr(trial.dataset), repr(trial.training), tuple(sorted(arms[unit])))
        kinds.setdefault(kind, []).append(unit)
    in_turn = [unit for units in kinds.values() for unit in units]
    own = set(in_turn[index - 1 :: count])
    return tuple(planned for planned in plan.trials if unit_of[planned.trial_id] in own)


def _units(plan: Plan) -> dict[str, Unit]:
    """By trial_id. The other network that an evaluation needs is of the same cell."""
    whole_cells = any(evaluation.source for planned in plan.trials for evaluation in planned.evaluations)
    return {planned.trial_id: (planned.cell, None if whole_cells else planned.trial.seed) for planned in plan.trials}
