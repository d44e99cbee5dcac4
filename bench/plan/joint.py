"""Several suites as one plan, for a report on all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from bench.errors import UserError
from bench.plan.config import SECTIONS
from bench.plan.evaluation import Evaluation
from bench.plan.labels import cell_labels
from bench.plan.plan import Plan, PlannedTrial
from bench.plan.suite import Suite


def join(plans: Sequence[Plan]) -> Plan:
    """The trials of all plans as those of one suite, whose comparisons are one family.

    Cells that train alike are one cell, with the arms and the evaluations that it has in any of the suites; the labels
    of cells are made anew, since what tells them apart is another matter now.

    Raises UserError where the suites do not go by one baseline and one metric, or one adds seeds until its answer is
    clear: such a suite's p values hold for its own comparisons only.
    """
    _check(plans)
    trials: dict[tuple[str, str, int], PlannedTrial] = {}
    for planned in (planned for plan in plans for planned in plan.trials):
        key = (_cell_key(planned), planned.arm, planned.trial.seed)
        known = trials.get(key)
        evaluations = {each.key: each for each in (*(known.evaluations if known else ()), *planned.evaluations)}
        trials[key] = replace(planned, evaluations=tuple(evaluations.values()))
    in_cells = {cell: planned.trial for (cell, _, _), planned in trials.items()}
    names = cell_labels([{name: getattr(trial, name) for name in SECTIONS} for trial in in_cells.values()])
    label_of = dict(zip(in_cells, names, strict=True))
    suites = [plan.suite for plan in plans]
    methods = {method.label: method for suite in suites for method in suite.methods}
    file = suites[0].file.model_copy(
        update={
            "name": "+".join(suite.name for suite in suites),
            "version": max(suite.version for suite in suites),
            "question": " ".join(dict.fromkeys(suite.question for suite in suites)),
            "source": "; ".join(filter(None, dict.fromkeys(suite.source for suite in suites))),
            "evaluate": [each for suite in suites for each in suite.file.evaluate],
            "report": suites[0].report.model_copy(update={"published": _publications(suites)}),
        }
    )
    suite = replace(
        suites[0],
        file=file,
        cells=tuple(cell for suite in suites for cell in suite.cells),
        methods=tuple(methods.values()),
        families=_families(plans),
        evaluations=_evaluations(plans),
        seeds=tuple(dict.fromkeys(seed for suite in suites for seed in suite.seeds)),
    )
    relabelled = tuple(replace(planned, cell=label_of[cell]) for (cell, _, _), planned in trials.items())
    return Plan(suite=suite, trials=relabelled, cells=tuple(names))


def _check(plans: Sequence[Plan]) -> None:
    first = plans[0]
    for plan in plans:
        name = plan.suite.name
        if plan.suite.stopping:
            raise UserError(
                f"{name} adds seeds until its answer is clear, so its p values hold for its own comparisons: report it "
                f"by itself, or all of it as it stands with --set seeds={max(plan.seeds) + 1}"
            )
        if plan.baseline != first.baseline:
            raise UserError(
                f"{first.suite.name} compares with {first.baseline} and {name} with {plan.baseline}: one report has "
                "one baseline (--set baseline=...)"
            )
        ours, theirs = first.suite.report.model_dump(), plan.suite.report.model_dump()
        for key in (key for key in ours if key != "published" and ours[key] != theirs[key]):
            raise UserError(
                f"{first.suite.name} has report.{key} {ours[key]} and {name} {theirs[key]}: one report goes by one "
                f"(--set report.{key}=...)"
            )
    names = [plan.suite.name for plan in plans]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"suite {twice} is given twice")


def _publications(suites: Sequence[Suite]) -> tuple[str, ...] | None:
    """Those that any of the suites has beside its own numbers; None for all that match."""
    named = [suite.report.published for suite in suites]
    if None in named:
        return None
    return tuple(dict.fromkeys(each for own in named for each in own or ()))


def _evaluations(plans: Sequence[Plan]) -> tuple[Evaluation, ...]:
    """Those of all suites. Raises UserError where two of them give one figure by different options."""
    found: dict[str, Evaluation] = {}
    owners: dict[str, tuple[str, Evaluation]] = {}
    for plan in plans:
        for each in plan.suite.evaluations:
            found.setdefault(json.dumps(each.identity(), sort_keys=True), each)
            for metric in each.metrics(validated=True):
                suite, other = owners.setdefault(metric, (plan.suite.name, each))
                if other.identity() != each.identity():
                    raise UserError(
                        f"{suite} and {plan.suite.name} measure {each.name} with different options, so {metric} means "
                        "two things: report each by itself"
                    )
    return tuple(found.values())


def _cell_key(planned: PlannedTrial) -> str:
    return planned.trial.model_dump_json(include=set(SECTIONS))


def _families(plans: Sequence[Plan]) -> tuple[tuple[str, ...], ...]:
    """The families of all suites; those that share an arm are one, since each arm is a candidate of one family."""
    merged: list[dict[str, None]] = []
    for family in (family for plan in plans for family in plan.suite.families):
        sharing = [each for each in merged if any(arm in each for arm in family)]
        together = {arm: None for each in sharing for arm in each} | dict.fromkeys(family)
        merged = [each for each in merged if each not in sharing] + [together]
    return tuple(tuple(family) for family in merged)
