"""What a plan will cost before it is spent: time and disk, from FLOPs and from what finished trials took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median

from bench.plan.networks import Network, Networks
from bench.plan.plan import Plan, PlannedTrial, data_facts
from bench.plan.trial import Trial

START_SECONDS = 0.15
"""From fork to first step and from last step to exit, on one core of a 2-core AMD EPYC."""
TENSOR_SECONDS = 150e-6
"""Of one training step for each tensor of parameters, whatever its size: Python, kernel launches, the optimizer.
Measured on the same machine: 120 us for digits' MLP with its 6 tensors, 200 us for timm/test_resnet with its 47."""
CORE_FLOPS = 45e9
"""Sustained FLOP/s of one thread of that machine in fp32 convolutions (preact_resnet18, timm/resnet10t)."""
GPU_FLOPS = 25e12
"""Assumed, not measured: a data-centre GPU at the small batches of these suites. Finished trials replace it."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one trial in a slot of its own, and bytes that it leaves behind."""

    seconds: float
    bytes: int
    weight_bytes: int


Condition = tuple[str, str]
"""(cell, arm)"""


@dataclass(frozen=True)
class PlanCost:
    """What the trials still to run will take.

    trial_seconds: one trial of each condition; a condition whose network's size is not known yet is missing.
    seconds: of the wall clock with all slots busy; None when something is missing.  bytes: without weights.
    suite_weight_bytes: of all its trials, those that are done included.
    measured: whether finished trials entered the estimate.
    """

    trial_seconds: dict[Condition, float]
    seconds: float | None
    bytes: int
    weight_bytes: int
    suite_weight_bytes: int
    measured: bool


def trial_cost(trial: Trial, network: Network, *, gpu: bool = False) -> Cost:
    """An estimate from first principles: forward plus backward is three forward passes."""
    facts = data_facts(trial.dataset)
    available = trial.dataset.train_size or facts.num_train
    num_val = round(available * trial.dataset.val_fraction)
    num_train = available - num_val
    epochs = trial.training.epochs
    forward_passes = epochs * (3 * num_train + num_val + facts.num_test) + num_train
    rate = GPU_FLOPS if gpu else CORE_FLOPS * trial.training.threads
    steps = epochs * ceil(num_train / trial.training.batch_size)
    seconds = START_SECONDS + steps * network.tensors * TENSOR_SECONDS + forward_passes * network.forward_flops / rate
    logits = 4 * facts.num_test * facts.num_classes
    return Cost(seconds=seconds, bytes=logits + 400 * epochs + 8000, weight_bytes=4 * network.params)


def plan_cost(
    plan: Plan,
    networks: Networks,
    *,
    pending: Iterable[PlannedTrial],
    finished_seconds: Mapping[Condition, list[float]],
    slots: int,
    gpu: bool = False,
) -> PlanCost:
    """The cost of the pending trials on `slots` slots.

    finished_seconds: what finished trials took. Where a condition has none, its estimate is scaled by what the others
    took against theirs, so that this machine's speed counts as soon as it is known.
    """
    estimates: dict[Condition, Cost] = {}
    for planned in plan.trials:
        condition = (planned.cell, planned.arm)
        if condition not in estimates and (network := networks.of(planned.trial)):
            estimates[condition] = trial_cost(planned.trial, network, gpu=gpu)
    measured = {condition: median(seconds) for condition, seconds in finished_seconds.items() if seconds}
    ratios = [measured[condition] / estimates[condition].seconds for condition in measured.keys() & estimates.keys()]
    scale = median(ratios) if ratios else 1.0
    trial_seconds = {condition: cost.seconds * scale for condition, cost in estimates.items()} | measured
    waiting = [(planned.cell, planned.arm) for planned in pending]
    seconds = [trial_seconds[condition] for condition in waiting if condition in trial_seconds]
    known = [estimates[condition] for condition in waiting if condition in estimates]
    return PlanCost(
        trial_seconds=trial_seconds,
        seconds=max(sum(seconds) / slots, max(seconds, default=0.0)) if len(seconds) == len(waiting) else None,
        bytes=sum(cost.bytes for cost in known),
        weight_bytes=sum(cost.weight_bytes for cost in known),
        suite_weight_bytes=sum(
            estimates[planned.cell, planned.arm].weight_bytes
            for planned in plan.trials
            if (planned.cell, planned.arm) in estimates
        ),
        measured=bool(measured),
    )


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def size(num_bytes: float) -> str:
    """Bytes in words: 640 kB, 12 MB, 3.4 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
