"""What each method cost: time, and on GPUs their hours and energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.formats import NOTHING, count, duration, number
from reports.load import FINISHED, Results
from reports.tables import Table
from reports.wording import arm_name

MOST_NAMED = 6
"""Of more methods the sentence gives the span of their times."""

JOULES_PER_KWH = 3.6e6


TIME_CAPTION = (
    "Time spent, over all trials of a method that ended: the mean of a trial, and beside it the median over pairs of "
    "one time over the other, which a single slow trial does not move."
)
"""Of `time_table`: the two columns need not have the same ratio."""


@dataclass(frozen=True)
class Cost:
    """One arm over all of its trials that ended, in every cell.

    train_seconds: the mean of a trial, without those that diverged; NaN where all did.
    total_seconds: of all, with evaluation and repeated epochs.
    ratio: of the training times of a pair, arm over baseline, the median over `pairs` pairs; NaN where there is none.
    gpu_seconds, energy_joules: of all; NaN on a CPU. Of a GPU that trials shared, each one's part.
    """

    arm: str
    trials: int
    train_seconds: float
    total_seconds: float
    ratio: float
    pairs: int
    gpu_seconds: float
    energy_joules: float
    peak_rss_bytes: float
    repeats: int


def costs(results: Results) -> list[Cost]:
    """One per planned arm, the baseline first."""
    ended = results.trials[results.trials["status"].isin((*FINISHED, "diverged"))]
    finished = ended[ended["status"] != "diverged"]  # one that diverged stopped early: its time is none of a pair's
    seconds = finished.pivot_table("train_seconds", index=["cell", "seed"], columns="arm")
    found = []
    for arm in results.plan.arms:
        own = ended[ended["arm"] == arm]
        ratios = _ratios(seconds, arm, results.plan.baseline)
        found.append(
            Cost(
                arm=arm,
                trials=len(own),
                train_seconds=finished.loc[finished["arm"] == arm, "train_seconds"].mean(),
                total_seconds=own["total_seconds"].sum(),
                ratio=float(np.median(ratios)) if len(ratios) else np.nan,
                pairs=len(ratios),
                gpu_seconds=own["gpu_seconds"].sum(min_count=1),
                energy_joules=own["energy_joules"].sum(min_count=1),
                peak_rss_bytes=own["peak_rss_bytes"].max(),
                repeats=int((own["attempts"] - 1).sum()),
            )
        )
    return found


def _ratios(seconds: pd.DataFrame, arm: str, baseline: str) -> pd.Series[float]:
    if arm == baseline or not {arm, baseline} <= set(seconds.columns):
        return pd.Series(dtype=float)
    both = seconds[[arm, baseline]].dropna()
    both = both[both[baseline] > 0]
    return both[arm] / both[baseline]


def time_table(results: Results) -> Table:
    """What each arm cost, over all its trials that ended."""
    found = costs(results)
    on_gpu = any(not np.isnan(each.gpu_seconds) for each in found)
    metered = any(not np.isnan(each.energy_joules) for each in found)
    rows = []
    for each in found:
        ratio = "1" if each.arm == results.plan.baseline else number(each.ratio, 2)
        rows.append(
            (
                arm_name(each.arm),
                str(each.trials),
                duration(each.train_seconds),
                ratio,
                duration(each.total_seconds) if each.trials else NOTHING,
                *([number(each.gpu_seconds / 3600, 2)] if on_gpu else []),
                *([number(each.energy_joules / JOULES_PER_KWH, 3)] if metered else []),
                number(each.peak_rss_bytes / 2**20, 0),
                str(each.repeats),
            )
        )
    beside = f"times {arm_name(results.plan.baseline)}"
    extra = [*(["GPU hours"] if on_gpu else []), *(["energy (kWh)"] if metered else [])]
    header = ("method", "trials", "training per trial", beside, "time in all", *extra, "peak memory (MiB)")
    return Table((*header, "repeated attempts"), (("", tuple(rows)),))


def cost_sentence(results: Results) -> str:
    """What it cost, in a sentence or two; "" before anything has ended."""
    found = [each for each in costs(results) if each.trials]
    if not found:
        return ""
    total = sum(each.total_seconds for each in found)
    gpu = np.nansum([each.gpu_seconds for each in found])
    energy = np.nansum([each.energy_joules for each in found])
    parts = [f"{count(sum(each.trials for each in found), 'trial')} took {duration(total)} of computing"]
    if gpu:
        parts.append(f"{number(gpu / 3600, 2)} GPU hours")
    if energy:
        parts.append(f"{number(energy / JOULES_PER_KWH, 3)} kWh on the GPU")
    text = f"What it cost: {', '.join(parts)}."
    reference = next((each for each in found if each.arm == results.plan.baseline), None)
    others = [each for each in found if each.pairs]
    if reference is None or not others:
        return text
    own = f"A trial of {arm_name(reference.arm)} trained for {duration(reference.train_seconds)}"
    if len(others) > MOST_NAMED:
        ratios = [each.ratio for each in others]
        beside = f"one of the other {len(others)} methods {min(ratios):.2f} to {max(ratios):.2f} times as long"
    else:
        first, *rest = others
        beside = f"one of {arm_name(first.arm)} {first.ratio:.2f} times as long"
        beside = ", ".join([beside, *(f"{arm_name(each.arm)} {each.ratio:.2f}" for each in rest)])
    return f"{text} {own}; {beside} (medians over pairs)."
