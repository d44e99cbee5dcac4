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
STEP_SECONDS = 350e-6
"""What one step costs whatever its FLOPs: draws, gather, optimizer, Python. Measured on the same machine."""
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


@dataclass(frozen=True)
class PlanCost:
    """seconds: of the wall clock, with all slots busy; None when a network's size is not known yet."""

    seconds: float | None
    core_seconds: float
    bytes: int
    weight_bytes: int
    measured_share: float
    """Share of the trials to run whose time comes from finished trials of the same condition."""


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
    seconds = START_SECONDS + steps * STEP_SECONDS + forward_passes * network.forward_flops / rate
    logits = 4 * facts.num_test * facts.num_classes
    return Cost(seconds=seconds, bytes=logits + 400 * epochs + 8000, weight_bytes=4 * network.params)


def plan_cost(
    plan: Plan,
    networks: Networks,
    *,
    pending: Iterable[PlannedTrial],
    measured: Mapping[tuple[str, str], list[float]],
    slots: int,
    gpu: bool = False,
) -> PlanCost:
    """The cost of the trials still to run.

    measured: seconds of finished trials by (cell, arm). Where a condition has none, its estimate is scaled by what
    the measured ones took against theirs, so that this machine's speed counts as soon as it is known.
    """
    estimates: dict[tuple[str, str], Cost | None] = {}
    for planned in plan.trials:
        condition = (planned.cell, planned.arm)
        if condition not in estimates:
            network = networks.of(planned.trial)
            estimates[condition] = trial_cost(planned.trial, network, gpu=gpu) if network else None
    ratios = [
        median(seconds) / cost.seconds
        for condition, seconds in measured.items()
        if seconds and (cost := estimates.get(condition)) is not None
    ]
    scale = median(ratios) if ratios else 1.0
    waiting = [(planned.cell, planned.arm) for planned in pending]
    known = [cost for condition in waiting if (cost := estimates[condition]) is not None]
    seconds = [
        median(measured[condition]) if measured.get(condition) else estimate.seconds * scale
        for condition in waiting
        if (estimate := estimates[condition]) is not None
    ]
    complete = len(seconds) == len(waiting)
    core_seconds = sum(seconds)
    longest = max(seconds, default=0.0)
    return PlanCost(
        seconds=max(core_seconds / slots, longest) if complete else None,
        core_seconds=core_seconds,
        bytes=sum(cost.bytes for cost in known),
        weight_bytes=sum(cost.weight_bytes for cost in known),
        measured_share=sum(bool(measured.get(condition)) for condition in waiting) / len(waiting) if waiting else 1.0,
    )
