"""Chosen on validation: what a method gives when its options and its recipe are chosen without the test set.

A *family* is one entry of the suite's methods, swept into arms. A *task* is a set of cells that differ in the recipe
alone. A family's *candidates* in a task are its arms in each of these cells. On every seed the candidate with the
lowest validation error is chosen, and its test error counts. The *oracle's* candidate is the one with the lowest mean
test error over the seeds: it is chosen on test data, so its error is too low.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.load import NAME_COLUMNS, Results
from reports.statistics import NO_CLEAR_DIFFERENCE, TOO_FEW_PAIRS, Judgement, PairedT, Pairs, judge, paired_t, pairs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.plan.plan import Plan

LAST, SELECTED = "val_error_last", "val_error_best"

COUNTED = {
    "test_error_last": (LAST, "test_error_last"),
    "test_error_median10": (LAST, "test_error_median10"),
    "test_error_val_selected": (SELECTED, "test_error_val_selected"),
}
"""By the suite's metric: the validation error that chooses, and the test error that counts. Others are as the first."""

VALUES = ("val", "val_nll", "test")


@dataclass(frozen=True)
class Family:
    """name: its arm's label, or of several arms what is swept.  arms: by label, what tells it from the others."""

    name: str
    arms: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """recipes: by cell, what tells its recipe from the task's others; "" where there is one."""

    label: str
    recipes: Mapping[str, str]


@dataclass(frozen=True)
class Candidate:
    """name: what tells it from the family's other candidates in the task, such as "alpha=1, lr=0.1"."""

    cell: str
    arm: str
    name: str


@dataclass(frozen=True)
class Choice:
    """What validation chose among a family's candidates in a task, on each seed on which all of them have ended.

    val_errors, test_errors: (S, C) fractions. Of a trial that diverged, infinite and NaN: it is never chosen.
    chosen: (S,) places among the candidates.  planned: every seed of any candidate.
    """

    task: str
    family: str
    candidates: tuple[Candidate, ...]
    planned: tuple[int, ...]
    seeds: tuple[int, ...]
    val_errors: NDArray[np.float64]
    test_errors: NDArray[np.float64]
    chosen: NDArray[np.int64]

    @property
    def left_out(self) -> int:
        return len(self.planned) - len(self.seeds)

    @property
    def is_open(self) -> bool:
        """Whether there was anything to choose."""
        return len(self.candidates) > 1

    @property
    def errors(self) -> NDArray[np.float64]:
        """(S,) test errors of the chosen."""
        return self.test_errors[np.arange(len(self.seeds)), self.chosen]

    @property
    def counts(self) -> list[tuple[Candidate, int]]:
        """How many seeds chose each candidate that any did, the most frequent first."""
        counted = Counter(self.chosen.tolist())
        return [(self.candidates[place], n) for place, n in sorted(counted.items(), key=lambda item: (-item[1], item))]

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """(C,) mean test errors; NaN where a candidate diverged on some seed."""
        return self.test_errors.mean(axis=0) if self.seeds else np.full(len(self.candidates), np.nan)

    @property
    def oracle(self) -> int | None:
        """The place of the candidate with the lowest mean test error, among those that never diverged."""
        return None if np.isnan(self.means).all() else int(np.nanargmin(self.means))

    @property
    def oracle_errors(self) -> NDArray[np.float64]:
        """(S,), NaN without an oracle."""
        return np.full(len(self.seeds), np.nan) if self.oracle is None else self.test_errors[:, self.oracle]

    @property
    def cost(self) -> PairedT:
        """Test error of the chosen minus that of the oracle's, paired by seed."""
        pairs = Pairs(self.task, self.family, self.errors, self.oracle_errors, len(self.planned))
        return paired_t(pairs.differences[~np.isnan(self.oracle_errors)])

    @cached_property
    def as_good(self) -> int | None:
        """How many other candidates do not differ clearly from the oracle's; None where too few seeds tell.

        By the paired t test, Holm-adjusted over these candidates. One that always diverged is none of them.
        """
        if self.oracle is None:
            return None
        others = []
        for place, candidate in enumerate(self.candidates):
            there = ~np.isnan(self.test_errors[:, place])
            if place != self.oracle:
                pair = (self.test_errors[there, place], self.oracle_errors[there])
                others.append(Pairs(candidate.cell, candidate.arm, *pair, planned=len(self.planned)))
        verdicts = [judged.verdict for judged in judge(others, better="lower")]
        return None if set(verdicts) <= {TOO_FEW_PAIRS} else verdicts.count(NO_CLEAR_DIFFERENCE)


@dataclass(frozen=True)
class Selection:
    """Every choice in the tasks in which some family has several candidates, and the comparisons of what was chosen.

    val_metric, test_metric: the error that chooses, and the one that counts.  baseline: the family of the baseline.
    choices: per task and family.  under_one_recipe: the same within each cell of the tasks that have several.
    comparisons: each family's chosen against the baseline's; `one_recipe`: within a cell. Each is a Holm family of its
        own, since they answer two questions; a judgement's cell is the task, or the cell, and its arm is the family.
    """

    val_metric: str
    test_metric: str
    baseline: str
    tasks: tuple[Task, ...]
    families: tuple[Family, ...]
    choices: tuple[Choice, ...]
    under_one_recipe: tuple[Choice, ...]
    comparisons: tuple[Judgement, ...]
    one_recipe: tuple[Judgement, ...]

    @property
    def has_recipes(self) -> bool:
        return any(len(task.recipes) > 1 for task in self.tasks)


def chosen_on_validation(results: Results) -> Selection | None:
    """None where no family of several candidates has a seed on which all have ended with a validation error."""
    plan = results.plan
    val_metric, test_metric = COUNTED.get(plan.suite.report.metric, COUNTED["test_error_last"])
    trials = selection_frame(results, val_metric, test_metric)
    options = {method.label: method.model_dump() for method in plan.suite.methods}
    families = [family_of({arm: options[arm] for arm in arms}) for arms in plan.suite.families]
    grows = plan.suite.stopping is not None
    made = choices(trials, tasks=tasks_of(plan), families=families, common=grows)
    open_tasks = {each.task for each in made if each.is_open and each.seeds}
    tasks = [task for task in tasks_of(plan) if task.label in open_tasks]
    if not tasks:
        return None
    made = [each for each in made if each.task in open_tasks]
    single = [Task(cell, {cell: ""}) for task in tasks if len(task.recipes) > 1 for cell in task.recipes]
    within = choices(trials, tasks=single, families=families, common=grows)
    baseline = next(family.name for family in families if plan.baseline in family.arms)
    own, one = pairs_of_chosen(made, baseline=baseline), pairs_of_chosen(within, baseline=baseline)
    return Selection(
        val_metric=val_metric,
        test_metric=test_metric,
        baseline=baseline,
        tasks=tuple(tasks),
        families=tuple(families),
        choices=tuple(made),
        under_one_recipe=tuple(within),
        comparisons=tuple(judge(own, better="lower", rule=plan.suite.stopping)),
        one_recipe=tuple(judge(one, better="lower", rule=plan.suite.stopping)),
    )


def choices(
    trials: pd.DataFrame, *, tasks: Sequence[Task], families: Sequence[Family], common: bool = False
) -> list[Choice]:
    """Choose for every task and family that has a candidate.

    common: take for planned only the seeds that all of a family's candidates plan, as where some get more than others.

    trials: one row per planned trial with cell, arm, seed, val (error), val_nll and test (error). NaN where there is no
    result; a trial that diverged has val infinite. Equal validation errors go by the lower NLL where there is one, then
    by the order of cells and arms.
    """
    conditions: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
    columns = (trials[name].tolist() for name in (*NAME_COLUMNS, *VALUES))
    for cell, arm, seed, *values in zip(*columns, strict=True):
        conditions.setdefault((cell, arm), {})[seed] = tuple(values)
    found = []
    for task in tasks:
        for family in families:
            candidates = [
                Candidate(cell, arm, ", ".join(filter(None, [own, recipe])))
                for cell, recipe in task.recipes.items()
                for arm, own in family.arms.items()
                if (cell, arm) in conditions
            ]
            if candidates:
                own = [conditions[each.cell, each.arm] for each in candidates]
                if common:
                    own = [{seed: each[seed] for seed in each if all(seed in other for other in own)} for each in own]
                found.append(_choose(task, family, candidates, own))
    return found


def _choose(
    task: Task, family: Family, candidates: Sequence[Candidate], results: Sequence[Mapping[int, tuple[float, ...]]]
) -> Choice:
    planned = tuple(sorted({seed for each in results for seed in each}))
    everywhere = [seed for seed in planned if all(seed in each for each in results)]
    # (S, C) each: validation error, validation NLL, test error
    values = [[each[seed] for each in results] for seed in everywhere]
    val, nll, test = np.array(values, dtype=np.float64).reshape(-1, len(candidates), len(VALUES)).transpose(2, 0, 1)
    ended = (np.isinf(val) | ~np.isnan(val + test)).all(axis=1) & ~np.isinf(val).all(axis=1)
    val, nll, test = val[ended], np.nan_to_num(nll[ended], nan=np.inf), test[ended]
    return Choice(
        task=task.label,
        family=family.name,
        candidates=tuple(candidates),
        planned=planned,
        seeds=tuple(np.array(everywhere, dtype=int)[ended].tolist()),
        val_errors=val,
        test_errors=test,
        chosen=np.lexsort((nll, val), axis=-1)[:, 0],  # stable: among equals the first
    )


def pairs_of_chosen(made: Sequence[Choice], *, baseline: str) -> list[Pairs]:
    """Each family's chosen with the baseline family's, in every task that has both: the seeds that count in both."""
    rows = []
    for each in made:
        errors = dict(zip(each.seeds, each.errors.tolist(), strict=True))
        rows += [(each.task, each.family, seed, errors.get(seed, np.nan)) for seed in each.planned]
    frame = pd.DataFrame(rows, columns=[*NAME_COLUMNS, "error"])
    tasks, families = (dict.fromkeys(frame[name]) for name in ("cell", "arm"))
    return pairs_of(frame, "error", cells=list(tasks), arms=list(families), baseline=baseline)


def chosen_frame(selection: Selection | None) -> pd.DataFrame:
    """One row per task, family and seed that counts: the chosen candidate and the oracle's, fractions."""
    rows = []
    for each in selection.choices if selection else ():
        oracle = each.candidates[each.oracle] if each.oracle is not None else None
        for index, seed in enumerate(each.seeds):
            chosen = each.candidates[each.chosen[index]]
            own = (chosen.cell, chosen.arm, each.val_errors[index, each.chosen[index]], each.errors[index])
            theirs = (oracle and oracle.cell, oracle and oracle.arm, each.oracle_errors[index])
            rows.append((each.task, each.family, seed, len(each.candidates), *own, *theirs))
    val, test = (selection.val_metric, selection.test_metric) if selection else COUNTED["test_error_last"]
    columns = ["task", "family", "seed", "candidates", "chosen_cell", "chosen_arm", f"chosen_{val}", f"chosen_{test}"]
    return pd.DataFrame(rows, columns=[*columns, "oracle_cell", "oracle_arm", f"oracle_{test}"])


def selection_frame(results: Results, val_metric: str, test_metric: str) -> pd.DataFrame:
    """What `choices` takes. The NLL is that of the epoch whose validation error chooses."""
    trials = results.trials[NAME_COLUMNS].assign(val=results.column(val_metric), test=results.column(test_metric))
    trials["val"] = trials["val"].mask(results.trials["status"] == "diverged", np.inf)
    curves = results.curves.dropna(subset=["val_error", "val_nll"])
    order = ["val_error", "val_nll", "epoch"] if val_metric == SELECTED else ["epoch"]
    curves = curves.sort_values(order, kind="stable")
    nlls = curves.drop_duplicates(NAME_COLUMNS, keep="first" if val_metric == SELECTED else "last")
    return trials.merge(nlls[[*NAME_COLUMNS, "val_nll"]], on=NAME_COLUMNS, how="left")


def family_of(options: Mapping[str, Mapping[str, object]]) -> Family:
    """The family of one entry's arms.  options: of each arm, by label, which names those that are not at their default.

    Names are distinct, since no arm is in two entries: "mixup alpha=1", "mixup alpha: 0.1 to 32",
    "mixup alpha=1 partner: permutation, neighbours".
    """
    said = {arm: dict(part.split("=", maxsplit=1) for part in arm.split()[1:]) for arm in options}
    keys = dict.fromkeys(key for own in said.values() for key in own)
    values = {
        arm: {key: own[key] if key in own else _unsaid(options[arm][key]) for key in keys} for arm, own in said.items()
    }
    swept = {key: list(dict.fromkeys(own[key] for own in values.values())) for key in keys}
    swept = {key: each for key, each in swept.items() if len(each) > 1}
    first, *_ = options
    fixed = " ".join(part for part in first.split() if part.split("=")[0] not in swept)
    spans = ", ".join(f"{key}: {_span(each)}" for key, each in swept.items())
    arms = {arm: " ".join(f"{key}={own[key]}" for key in swept) for arm, own in values.items()}
    return Family(f"{fixed} {spans}".rstrip(), arms)


def _unsaid(value: object) -> str:
    """The value of an option that the label leaves out."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _span(values: Sequence[str]) -> str:
    """Up to three values; of more numbers the least and the largest, of more texts the first two and the last."""
    if len(values) <= 3:
        return ", ".join(values)
    try:
        ordered = sorted(values, key=float)
    except ValueError:
        return f"{values[0]}, {values[1]}, ... {values[-1]}"
    return f"{ordered[0]} to {ordered[-1]}"


def tasks_of(plan: Plan) -> list[Task]:
    """Sets of cells with the same data set, label noise and network, in the order of the plan."""
    in_cells = {planned.cell: planned.trial for planned in plan.trials}
    alike: dict[tuple[str, ...], list[str]] = {}
    for cell in plan.cells:
        if cell in in_cells:
            shared = (getattr(in_cells[cell], name) for name in ("dataset", "label_noise", "model"))
            alike.setdefault(tuple(section.model_dump_json() for section in shared), []).append(cell)
    tasks = []
    for cells in alike.values():
        trial = in_cells[cells[0]]
        common, own = _split_labels(cells)
        label = common or f"{trial.model.display_name}, {trial.dataset.display_name}"
        tasks.append(Task(label, dict(zip(cells, own, strict=True))))
    return tasks


def _split_labels(cells: Sequence[str]) -> tuple[str, list[str]]:
    """What all cells' labels begin with, and what follows in each: "a, lr=1", "a, lr=2" give "a"; "lr=1", "lr=2"."""
    if len(cells) == 1:
        return cells[0], [""]
    parts = [re.split(r", (?![^(\[]*[)\]])", cell) for cell in cells]  # not within the brackets of a list
    common = 0
    while len({tuple(each[: common + 1]) for each in parts}) == 1:
        common += 1
    own = [", ".join(each[common:]) or cell for each, cell in zip(parts, cells, strict=True)]
    return ", ".join(parts[0][:common]), own
