"""Two results folders beside each other: which conditions changed from one to the other, beyond noise.

For two versions of a library, two machines, or two versions of mixup-bench itself. Trials that train the same are
paired: they share split, wrong labels, initial weights and batch order, so what is left of their difference comes from
where and with what they ran. Two questions, a Holm family each: did the error of a condition change, and did an arm's
difference from the baseline.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from bench.errors import UserError
from bench.plan.config import SECTIONS, nearest
from bench.plan.labels import cell_labels
from bench.plan.suite_file import METRICS
from bench.plan.trial import Trial
from bench.results.store import Json, Store, read_json
from reports.formats import count, listed
from reports.load import provenance_of
from reports.measures import MEASURES, Measure, measure
from reports.statistics import BETTER, WORSE, Judgement, Pairs, judge

NO_GOOD_WAY: Literal["lower"] = "lower"
"""What every figure is judged by, one of which more is better too: what is asked is which run's is lower."""

CHANGED = {BETTER: "lower", WORSE: "higher"}
"""In place of a verdict: a run is neither better nor worse than another."""

VERSIONS = ("version", "corruptions_version")
"""Options of an evaluation that say how this program does it: two versions of it can be compared."""

IDENTICAL = "identical"
DIVERGED = "diverged in one of them"


@dataclass(frozen=True)
class Outcome:
    """What a finished trial came to.

    value: NaN where it diverged.  content: everything that its training measured, and the metric that is compared.
    options: of the evaluation that measured the metric; none where its training did.
    """

    value: float
    diverged: bool
    content: str
    options: Mapping[str, Any]
    data_sha256: str
    train_seconds: float


@dataclass(frozen=True)
class Run:
    """One results folder.

    outcomes: by condition (the identity of a trial without its seed and numerics version) and seed.
    trials: one trial of each condition.  unfinished, without_metric, unreadable: how many trials count for nothing.
    facts: of what it ran with, how many trials have which value.
    """

    root: Path
    outcomes: Mapping[tuple[str, int], Outcome]
    trials: Mapping[str, Trial]
    facts: Mapping[str, Counter[str]]
    unfinished: int
    without_metric: int
    unreadable: int


@dataclass(frozen=True)
class Row:
    """One condition, or one arm's difference from the baseline, in both runs. verdict: of the page's last column."""

    cell: str
    arm: str
    judged: Judgement
    verdict: str

    @property
    def is_changed(self) -> bool:
        return self.verdict in (*CHANGED.values(), DIVERGED)


@dataclass(frozen=True)
class RunsCompared:
    """conditions, effects: every condition, and every arm's difference from the baseline, that both runs have.

    only: the number of conditions that one run alone has, before and after.  time_ratio: median over `pairs` pairs,
    second run over first; those of which a half diverged, and so ended early, are none of them.
    other_data: cells whose data differ.
    """

    before: Run
    after: Run
    measure: Measure
    baseline: str
    conditions: tuple[Row, ...]
    effects: tuple[Row, ...]
    pairs: int
    only: tuple[int, int]
    time_ratio: float
    other_data: tuple[str, ...]
    facts: tuple[tuple[str, str, str], ...] = field(default=())

    @property
    def changed(self) -> int:
        return sum(each.is_changed for each in (*self.conditions, *self.effects))


def compare_runs(before: Path, after: Path, *, metric: str = "test_error_last", baseline: str = "erm") -> RunsCompared:
    """Compare the trials of two results folders that train the same.

    Raises UserError where a folder has no finished trial with the metric, the two have no trial in common, none of
    those is of a baseline other than ERM, or the metric was measured in different ways.
    """
    if before.resolve() == after.resolve():
        raise UserError(f"{before} and {after} are one folder: compare takes two")
    try:
        figure = measure(metric)
    except ValueError:
        names = dict.fromkeys((*METRICS, *MEASURES))
        raise UserError(f"--metric: unknown figure {metric!r}{nearest(metric, names)}") from None
    first, second = read_run(before, metric), read_run(after, metric)
    common = sorted(first.outcomes.keys() & second.outcomes.keys(), key=lambda key: (key[1], key[0]))
    if not common:
        raise UserError(
            f"{before} and {after} have no trial in common: {count(len(first.outcomes), 'trial')} and "
            f"{count(len(second.outcomes), 'trial')} with a result, {_apart(first, second)}; runs are compared "
            "over the same trials, and options or seeds in one suite that has both"
        )
    _check_options([(first.outcomes[key], second.outcomes[key]) for key in common], before, after, metric)
    keys = [key for key in first.trials if any(condition == key for condition, _ in common)]
    cells, arms = _names(first, keys)
    if baseline not in (*arms.values(), "erm"):  # without ERM, which nobody named, there is one table less
        names = dict.fromkeys(arms.values())
        raise UserError(f"--baseline: no arm {baseline!r} that both runs have{nearest(baseline, names)}")
    keys.sort(key=lambda key: (_natural(cells[key]), arms[key] != baseline, _natural(arms[key])))
    pairs: dict[str, list[tuple[int, Outcome, Outcome]]] = {key: [] for key in keys}
    for condition, seed in common:
        pairs[condition].append((seed, first.outcomes[condition, seed], second.outcomes[condition, seed]))
    whole = [(a, b) for own in pairs.values() for _, a, b in own if not (a.diverged or b.diverged)]  # not cut short
    ratios = [b.train_seconds / a.train_seconds for a, b in whole if a.train_seconds > 0]
    return RunsCompared(
        before=first,
        after=second,
        measure=figure,
        baseline=baseline,
        conditions=tuple(_condition_rows(pairs, cells, arms)),
        effects=tuple(_effect_rows(pairs, cells, arms, baseline=baseline)),
        pairs=len(ratios),
        only=(len(first.trials.keys() - second.trials.keys()), len(second.trials.keys() - first.trials.keys())),
        time_ratio=float(np.median(ratios)) if ratios else np.nan,
        other_data=tuple(
            dict.fromkeys(
                cells[key] for key, own in pairs.items() if any(a.data_sha256 != b.data_sha256 for _, a, b in own)
            )
        ),
        facts=tuple(_differing_facts(first.facts, second.facts)),
    )


def read_run(root: Path, metric: str) -> Run:
    """Every finished trial below `root` that has the metric. Raises UserError where there is none."""
    if not root.is_dir():
        raise UserError(f"{root}: {'a file, not a results folder' if root.exists() else 'there is no such folder'}")
    store = Store(root.absolute())
    outcomes: dict[tuple[str, int], Outcome] = {}
    trials: dict[str, Trial] = {}
    facts: dict[str, Counter[str]] = {}
    lost: Counter[str] = Counter()
    measured: set[str] = set()
    for trial_id in store.trial_ids():
        folder = store.trial(trial_id)
        record, final = folder.record(), folder.final()
        if final is None or record is None:
            lost["unfinished"] += 1
            continue
        try:
            trial = Trial.model_validate(record.get("trial"))
        except (ValidationError, KeyError):
            lost["unreadable"] += 1  # of a later version, with options that this one does not know
            continue
        metrics, options = _metrics(folder.path, final, metric)
        measured |= metrics.keys()
        diverged = final["status"] == "diverged"
        if metric not in metrics and not diverged:
            lost["without_metric"] += 1
            continue
        condition = json.dumps(
            {key: value for key, value in trial.identity().items() if key not in ("seed", "numerics_version")},
            sort_keys=True,
        )
        outcomes[condition, trial.seed] = Outcome(
            value=np.nan if diverged else float(metrics[metric]),
            diverged=diverged,
            content=json.dumps([final["metrics"], None if diverged else metrics[metric]], sort_keys=True),
            options=options,
            data_sha256=final["data"]["sha256"],
            train_seconds=final["train_seconds"],
        )
        trials.setdefault(condition, trial)
        for fact, value in _facts(record, final):
            facts.setdefault(fact, Counter())[value] += 1
    if not outcomes:
        raise UserError(f"{root}: {_nothing(store, lost, metric, sorted(measured))}")
    return Run(root, outcomes, trials, facts, lost["unfinished"], lost["without_metric"], lost["unreadable"])


def _nothing(store: Store, lost: Counter[str], metric: str, measured: Sequence[str]) -> str:
    """Why there is no trial to compare."""
    if not store.trial_ids():
        return "holds no trials; a results folder, such as ./results, has a folder `trials`"
    if lost["without_metric"]:
        names = listed([name for name in measured if name not in METRICS], most=8)
        return f"no trial has {metric}; there is {', '.join(METRICS)}, {names}"
    return f"no trial has finished ({lost['unfinished']} unfinished, {lost['unreadable']} of a version unknown here)"


def _apart(first: Run, second: Run) -> str:
    """In what two runs without a common trial differ: the options that never agree, or the seeds."""
    ours, theirs = (_values(run) for run in (first, second))
    apart = [key for key in ours if key in theirs and not ours[key] & theirs[key]]
    said = [f"{key} {_few(ours[key])} against {_few(theirs[key])}" for key in apart]
    return listed(said, most=3) if said else "all of other options or seeds"


def _few(values: set[str]) -> str:
    return listed(sorted(values, key=_natural), most=5, separator=" / ")


def _values(run: Run) -> dict[str, set[str]]:
    """The values that its trials have, by option, such as training.lr."""
    found: dict[str, set[str]] = {}
    for condition, seed in run.outcomes:
        options = {**json.loads(condition), "seed": seed}
        for section, value in options.items():
            named = (
                {f"{section}.{key}": own for key, own in value.items()} if isinstance(value, dict) else {section: value}
            )
            for key, own in named.items():
                found.setdefault(key, set()).add(json.dumps(own, sort_keys=True).strip('"'))
    return found


def _metrics(folder: Path, final: Json, metric: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the training measured; where the metric is not among that, what the evaluations did besides.

    And the options of the one that measured the metric. Raises UserError where two did, each with its own.
    """
    found, options = dict(final["metrics"]), None
    for path in sorted(folder.glob("evaluations/*.json")) if metric not in found else ():
        record = read_json(path) or {}
        metrics = record.get("metrics") or {}
        found |= metrics
        if metric in metrics:
            own = {key: value for key, value in record.get("options", {}).items() if key not in VERSIONS}
            if options is not None and own != options:
                raise UserError(f"{folder}: two evaluations measured {metric}, with {_difference(options, own)}")
            options = own
    return {name: value for name, value in found.items() if value is not None}, options or {}


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    apart = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return listed([f"{key} {ours.get(key)} against {theirs.get(key)}" for key in apart], most=3)


def _check_options(pairs: Sequence[tuple[Outcome, Outcome]], before: Path, after: Path, metric: str) -> None:
    for ours, theirs in pairs:
        if not (ours.diverged or theirs.diverged) and ours.options != theirs.options:
            raise UserError(
                f"{before} and {after} measured {metric} with {_difference(ours.options, theirs.options)}: that is no "
                "difference between runs"
            )


def _facts(record: Json, final: Json) -> Iterator[tuple[str, str]]:
    yield "numerics version", str(record.get("numerics_version"))
    yield from provenance_of(final)


def _names(run: Run, keys: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The cell and the arm of each condition, as a report of all of them would call them."""
    cell_of = {key: run.trials[key].model_dump_json(include=set(SECTIONS)) for key in keys}
    in_cells = {cell_of[key]: run.trials[key] for key in keys}
    names = cell_labels([{name: getattr(trial, name) for name in SECTIONS} for trial in in_cells.values()])
    label_of = dict(zip(in_cells, names, strict=True))
    return {key: label_of[cell_of[key]] for key in keys}, {key: run.trials[key].method.label for key in keys}


def _natural(name: str) -> list[tuple[float, str]]:
    """A key by which "alpha=2" comes before "alpha=10"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts)]


Paired = Mapping[str, Sequence[tuple[int, Outcome, Outcome]]]


def _condition_rows(pairs: Paired, cells: Mapping[str, str], arms: Mapping[str, str]) -> Iterator[Row]:
    """Second run minus first, for each condition."""
    family = []
    for key, own in pairs.items():
        values = np.array([(b.value, a.value) for _, a, b in own], dtype=np.float64)
        there = values[~np.isnan(values).any(axis=1)]
        family.append(Pairs(cells[key], arms[key], there[:, 0], there[:, 1], planned=len(own)))
    for (_, own), judged in zip(pairs.items(), judge(family, better=NO_GOOD_WAY), strict=True):
        if any(a.diverged != b.diverged for _, a, b in own):
            verdict = DIVERGED
        elif all(a.content == b.content for _, a, b in own):
            verdict = IDENTICAL
        else:
            verdict = CHANGED.get(judged.verdict, judged.verdict.replace("difference", "change"))
        yield Row(judged.cell, judged.arm, judged, verdict)


def _effect_rows(pairs: Paired, cells: Mapping[str, str], arms: Mapping[str, str], *, baseline: str) -> Iterator[Row]:
    """Each arm's difference from the baseline: in the second run minus in the first, seed by seed."""
    references = {cells[key]: {seed: (a, b) for seed, a, b in pairs[key]} for key in pairs if arms[key] == baseline}
    family, identical = [], []
    for key, own in pairs.items():
        reference = references.get(cells[key], {})
        if arms[key] == baseline or not reference:
            continue
        both = [((a, reference[seed][0]), (b, reference[seed][1])) for seed, a, b in own if seed in reference]
        values = np.array([(b.value - d.value, a.value - c.value) for (a, c), (b, d) in both]).reshape(-1, 2)
        there = values[~np.isnan(values).any(axis=1)]
        family.append(Pairs(cells[key], arms[key], there[:, 0], there[:, 1], planned=len(both)))
        identical.append(all(a.content == b.content and c.content == d.content for (a, c), (b, d) in both))
    for judged, same in zip(judge(family, better=NO_GOOD_WAY), identical, strict=True):
        verdict = CHANGED.get(judged.verdict, judged.verdict.replace("difference", "change"))
        yield Row(judged.cell, judged.arm, judged, IDENTICAL if same else verdict)


def _differing_facts(
    before: Mapping[str, Counter[str]], after: Mapping[str, Counter[str]]
) -> Iterator[tuple[str, str, str]]:
    for fact in dict.fromkeys((*before, *after)):
        first, second = before.get(fact, Counter()), after.get(fact, Counter())
        if first.keys() != second.keys():
            yield fact, " / ".join(sorted(first)) or "none", " / ".join(sorted(second)) or "none"
