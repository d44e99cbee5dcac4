"""What runs and conditions are called in MLflow: short names of what the plan varies. Imports no MLflow."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan.plan import Plan

SEPARATOR = " | "

LONGEST_PART = 48
"""Characters of an arm, or of one thing that a cell names."""


def condition_names(plan: Plan) -> dict[tuple[str, str], str]:
    """The name of each condition, by (cell, arm), such as "mixup a=1 | test_resnet | uniform 40 %".

    No two are alike. A plan of one cell leaves the cell out. What is too long is cut in its middle, since options that
    tell arms apart stand at their ends.
    """
    conditions = dict.fromkeys((planned.cell, planned.arm) for planned in plan.suite_trials)
    several = len({cell for cell, _ in conditions}) > 1
    names = {(cell, arm): _name(arm, cell if several else "") for cell, arm in conditions}
    times = Counter(names.values())
    return {condition: name if times[name] == 1 else f"{name} #{_mark(condition)}" for condition, name in names.items()}


def run_names(plan: Plan) -> dict[str, str]:
    """The name of each trial's run, by trial id: its condition and its seed."""
    conditions = condition_names(plan)
    return {
        planned.trial_id: f"{conditions[planned.cell, planned.arm]}{SEPARATOR}seed {planned.trial.seed}"
        for planned in plan.suite_trials
    }


def _name(arm: str, cell: str) -> str:
    parts = [re.sub(r"\balpha=", "a=", arm), *(cell.split(", ") if cell else ())]
    return SEPARATOR.join(_cut(part) for part in parts)


def _cut(part: str) -> str:
    if len(part) <= LONGEST_PART:
        return part
    kept = LONGEST_PART - 1
    return f"{part[: kept - kept // 2]}…{part[-(kept // 2) :]}"


def _mark(condition: tuple[str, str]) -> str:
    """Four hex digits that two conditions hardly share, and that do not change when others come."""
    return hashlib.sha256("\n".join(condition).encode()).hexdigest()[:4]
