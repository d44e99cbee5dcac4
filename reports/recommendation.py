"""What to use on this data: method, alpha and recipe by validation, the gain to expect on test, and what it costs.

All arms of a task compete, the baseline among them, each under every recipe. Recommended is the one with the lowest
mean validation error over the seeds on which all have ended. What gain to expect is measured by leaving out one seed at
a time: the others choose, and the test errors of the one left out count. So no seed has a part in the choice that it
measures, and the gain is that of the whole procedure, unlucky choices included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.chosen import COUNTED, LAST, Candidate, Choice, Family, choices, selection_frame, tasks_of
from reports.formats import NOTHING, count, duration, number
from reports.load import FINISHED, Results
from reports.measures import Measure, measure
from reports.section import Findings, Section
from reports.statistics import PairedT, paired_t
from reports.tables import Table, difference_cells
from reports.wording import arm_name

LEAST_SEEDS = 2
"""One seed chooses and the other one measures."""


@dataclass(frozen=True)
class Recommendation:
    """What validation recommends for one task.

    chosen, reference: the candidate with the lowest mean validation error, of all and of the baseline's.
    val_error, reference_val_error: those means, fractions.  candidates: how many competed.
    gain: test error of the reference minus that of the chosen, each chosen without the seed that measures.
    agreeing: on how many of `seeds` seeds the others choose as all do.  diverged: candidates ruled out by that.
    time_ratio: training time over the reference's, the median over pairs.  seconds: of all candidates' trials.
    """

    task: str
    chosen: Candidate
    reference: Candidate
    val_error: float
    reference_val_error: float
    candidates: int
    seeds: int
    gain: PairedT
    agreeing: int
    diverged: int
    time_ratio: float
    seconds: float

    @property
    def is_baseline(self) -> bool:
        return self.chosen == self.reference

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the gain lies above zero."""
        return self.gain.low > 0


def recommendations(results: Results) -> list[Recommendation]:
    """One for every task with validation errors and two seeds on which all of at least two candidates have ended."""
    plan = results.plan
    val_metric, test_metric = COUNTED.get(plan.suite.report.metric, COUNTED["test_error_last"])
    trials = selection_frame(results, val_metric, test_metric)
    everyone = Family("all", {arm: arm_name(arm) for arm in plan.arms})
    made = choices(trials, tasks=tasks_of(plan), families=[everyone], common=plan.suite.stopping is not None)
    found = (_recommendation(results, each) for each in made if each.is_open and len(each.seeds) >= LEAST_SEEDS)
    return [each for each in found if each is not None]


def _recommendation(results: Results, choice: Choice) -> Recommendation | None:
    """None where no candidate, or none of the baseline's, got through all seeds."""
    own = [place for place, each in enumerate(choice.candidates) if each.arm == results.plan.baseline]
    means = choice.val_errors.mean(axis=0)
    if not own or not np.isfinite(means[own]).any():
        return None
    chosen, reference = int(np.argmin(means)), own[int(np.argmin(means[own]))]
    gains, agreeing = [], 0
    for seed in range(len(choice.seeds)):
        others = np.delete(choice.val_errors, seed, axis=0).mean(axis=0)
        ours, theirs = int(np.argmin(others)), own[int(np.argmin(others[own]))]
        gains.append(choice.test_errors[seed, theirs] - choice.test_errors[seed, ours])
        agreeing += ours == chosen
    counted = np.array(gains)[~np.isnan(gains)]  # one that diverged only on the seed that was left out has no error
    return Recommendation(
        task=choice.task,
        chosen=choice.candidates[chosen],
        reference=choice.candidates[reference],
        val_error=float(means[chosen]),
        reference_val_error=float(means[reference]),
        candidates=len(choice.candidates),
        seeds=len(choice.seeds),
        gain=paired_t(counted, rule=results.plan.suite.stopping),
        agreeing=agreeing,
        diverged=int(np.isinf(means).sum()),
        time_ratio=_time_ratio(results.trials, choice.candidates[chosen], choice.candidates[reference]),
        seconds=_seconds(results.trials, choice.candidates),
    )


def _time_ratio(trials: pd.DataFrame, chosen: Candidate, reference: Candidate) -> float:
    """Median over the seeds that both have finished."""
    finished = trials[trials["status"].isin(FINISHED)]
    ours, theirs = (
        finished[(finished["cell"] == each.cell) & (finished["arm"] == each.arm)].set_index("seed")["train_seconds"]
        for each in (chosen, reference)
    )
    return float((ours / theirs.where(theirs > 0)).median())


def _seconds(trials: pd.DataFrame, candidates: Sequence[Candidate]) -> float:
    conditions = {(each.cell, each.arm) for each in candidates}
    mine = [place in conditions for place in zip(trials["cell"], trials["arm"], strict=True)]
    return float(trials.loc[mine, "total_seconds"].sum())


def sentence(each: Recommendation, val: Measure, test: Measure) -> str:
    """The recommendation in words, without its task."""
    chosen, reference = _name(each.chosen, each), _name(each.reference, each)
    digits = test.digits((each.gain.high - each.gain.low) / 2)
    if each.is_baseline:
        text = (
            f"stay with {reference}: none of {count(each.candidates, 'candidate')} has a lower mean {val.title} over "
            f"{count(each.seeds, 'seed')} than its {val.amount(each.val_error, digits)}"
        )
        if each.agreeing == each.seeds:
            return f"{text}, whichever seed is left out"
        return f"{text}; {each.agreeing} of {each.seeds} seeds left out would choose the same"
    gain, interval = difference_cells(each.gain.mean, each.gain.low, each.gain.high, test)
    within = "" if interval == NOTHING else f" {interval}"
    amount = f"{gain} {test.points}".rstrip()
    text = (
        f"{chosen} has the lowest mean {val.title} of {count(each.candidates, 'candidate')} over "
        f"{count(each.seeds, 'seed')}, {val.amount(each.val_error, digits)} against "
        f"{val.amount(each.reference_val_error, digits)} for {reference}. Gain to expect on test: {amount}{within}"
    )
    price = f"it trains for {number(each.time_ratio, 2)} times as long" if each.time_ratio > 0 else ""
    if each.is_clear:
        return f"use {chosen}. It{text.removeprefix(chosen)}" + (f"; {price}" if price else "")
    if each.gain.mean <= 0:
        doubt = f"the test images do not bear the choice out, so {reference} is as good a choice or a better one"
    else:
        unclear = "that is no clear gain" if interval != NOTHING else "that gain has no interval"
        doubt = f"{unclear}, so {reference} can be defended as well"
    return f"{text}: {doubt}" + (f"; {price}" if price else "")


def _name(candidate: Candidate, each: Recommendation) -> str:
    """With its recipe where several compete."""
    return (
        candidate.name if each.chosen.cell != each.reference.cell or "," in candidate.name else arm_name(candidate.arm)
    )


def recommendation_section(findings: Findings) -> Section:
    """What to use, the gain to expect and what it costs, for each task."""
    results = findings.results
    found = recommendations(results)
    val, test = measures_of(results)
    if not found:
        return Section("recommendation", "Recommendation")
    reference = arm_name(results.plan.baseline)
    rows = []
    for each in found:
        digits = test.digits((each.gain.high - each.gain.low) / 2)
        rows.append(
            (
                each.task,
                _name(each.chosen, each),
                val.text(each.val_error, digits),
                val.text(each.reference_val_error, digits),
                *difference_cells(each.gain.mean, each.gain.low, each.gain.high, test),
                f"{each.agreeing} of {each.seeds}",
                number(each.time_ratio, 2),
                f"{each.candidates}, {duration(each.seconds)}",
            )
        )
    header = (
        "for",
        "lowest on validation",
        val.label,
        f"{reference}: {val.label}",
        "gain to expect on test",
        "95 % interval",
        "agreeing seeds",
        f"training time, times {reference}",
        "candidates, time for all",
    )
    unit = "percentage points of test error" if test.unit == "%" else test.label
    looks = " and the interval holds at every look" if results.plan.suite.stopping else ""
    return Section(
        "recommendation",
        "Recommendation",
        paragraphs=(
            "What to use on data like this. All methods compete, each at every setting and recipe that the suite gives "
            f"it, {reference} among them; the lowest mean {val.phrase} decides, and test images have no part in that.",
        ),
        tables=(
            (
                Table(header, (("", tuple(rows)),), kind="wide"),
                f"Gain: {reference}'s error minus that of the method chosen, in {unit}, so more is better. Each seed's "
                f"gain is measured with the choice made on the other seeds, for {reference} as well{looks}. Agreeing: "
                "on so many seeds the others choose what all choose.",
            ),
        ),
        notes=(
            "A gain that is no larger than its interval's half width may be none. The choices share seeds, so where "
            "candidates are about as good as each other the interval holds less often than it says "
            "(docs/statistics.md); nor is it adjusted for the number of rows. One number says nothing of other data: "
            "where the data change, run the suite again.",
            *_diverged(found),
        ),
    )


def _diverged(found: Sequence[Recommendation]) -> list[str]:
    lost = [f"{each.diverged} in {each.task}" for each in found if each.diverged]
    return [f"Candidates that diverged on some seed are ruled out: {', '.join(lost)}."] if lost else []


def measures_of(results: Results) -> tuple[Measure, Measure]:
    """The validation error that chooses, and the test error that counts."""
    val, test = COUNTED.get(results.plan.suite.report.metric, (LAST, "test_error_last"))
    return measure(val), measure(test)
