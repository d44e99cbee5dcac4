"""What a plan will cost before it is spent: time and disk, from FLOPs and from what finished trials took."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median

from bench.data import datasets
from bench.data.corrupted import cache_bytes, generation_seconds
from bench.data.corruptions import CORRUPTIONS_VERSION
from bench.data.datasets import Facts
from bench.data.neighbours import VERSION as NEIGHBOURS_VERSION
from bench.data.neighbours import table_width
from bench.plan.config import DatasetConfig
from bench.plan.evaluation import Attacks, Corruptions, Evaluation, InBetween, Ood
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
DECODE_SECONDS = 2.1e-3
"""Of one core for an image of 500 x 375 pixels that is streamed, as JPEG, to 224 x 224; measured on that machine."""
NEIGHBOUR_PRODUCTS = 4e10
"""Products per second of one core in the search for neighbours: 72 s for 60,000 images of 784 pixels, 6.7 s for 10,000
of 3,072 (a virtualised Intel Xeon)."""
GPU_FLOPS = 25e12
"""Assumed, not measured: a data-centre GPU at the small batches of these suites. Finished trials replace it."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one trial in a slot of its own, its evaluations' share of them, and bytes that it leaves behind."""

    seconds: float
    evaluation_seconds: float
    bytes: int
    weight_bytes: int


Condition = tuple[str, str]
"""(cell, arm)"""


@dataclass(frozen=True)
class PlanCost:
    """What the trials still to run will take.

    trial_seconds: one trial of each condition; a condition whose network's size is not known yet is missing.
    left_seconds: by trial_id, each pending trial that is not missing there; of one that is trained, its evaluations.
    seconds: of the wall clock with all slots busy; None when something is missing.  bytes: without weights.
    suite_weight_bytes: of all its trials, those that are done included.
    measured: whether finished trials entered the estimate.
    """

    trial_seconds: dict[Condition, float]
    left_seconds: dict[str, float]
    seconds: float | None
    bytes: int
    weight_bytes: int
    suite_weight_bytes: int
    measured: bool


def trial_cost(trial: Trial, network: Network, *, evaluations: Sequence[Evaluation] = (), gpu: bool = False) -> Cost:
    """An estimate from first principles: forward plus backward is three forward passes."""
    facts = data_facts(trial.dataset)
    available = trial.dataset.train_size or facts.num_train
    num_val = round(available * trial.dataset.val_fraction)
    num_train = available - num_val
    epochs = trial.training.epochs
    forward_passes = epochs * (3 * trial.method.passes * num_train + num_val + facts.num_test) + num_train
    evaluation_passes = sum(_evaluation_passes(evaluation, facts) for evaluation in evaluations)
    rate = GPU_FLOPS if gpu else CORE_FLOPS * trial.training.threads
    steps = epochs * ceil(num_train / trial.training.batch_size)
    training_seconds = steps * network.tensors * TENSOR_SECONDS + forward_passes * network.forward_flops / rate
    if trial.dataset.stream:
        decoding = DECODE_SECONDS * (epochs * (available + facts.num_test) + num_train)
        # Beside a GPU all cores decode; on a CPU the same cores train.
        training_seconds = (
            max(training_seconds, decoding / (os.cpu_count() or 1)) if gpu else training_seconds + decoding
        )
    evaluation_seconds = START_SECONDS + evaluation_passes * network.forward_flops / rate
    logits = 4 * facts.num_test * facts.num_classes
    return Cost(
        seconds=training_seconds + evaluation_seconds,
        evaluation_seconds=evaluation_seconds,
        bytes=logits + 400 * epochs + 8000,
        weight_bytes=4 * network.params,
    )


def _evaluation_passes(evaluation: Evaluation, facts: Facts) -> int:
    """Forward passes of one image; a gradient with respect to the pixels counts as three."""
    if isinstance(evaluation, Corruptions):
        return len(evaluation.wanted) * facts.num_test
    if isinstance(evaluation, Ood):
        against = evaluation.against
        return data_facts(against).num_test if isinstance(against, DatasetConfig) else facts.num_test
    if isinstance(evaluation, Attacks):
        steps = {"fgsm": 1, "i_fgsm": evaluation.steps, "pgd": evaluation.steps * evaluation.restarts}
        gradients = sum(steps[attack] for attack in evaluation.attacks) * len(evaluation.epsilon)
        return 3 * gradients * min(evaluation.examples, facts.num_test)
    if isinstance(evaluation, InBetween):
        return 3 * 21 * evaluation.pairs
    return 0


@dataclass(frozen=True)
class Preparation:
    """What is not in the cache yet and is made once, before the trials: bytes, seconds on one core."""

    what: str
    bytes: int
    seconds: float


def preparations(trials: Sequence[PlannedTrial], cache_root: Path) -> list[Preparation]:
    """Those of the trials that take anything."""
    found = (_corrupted_images(trials, cache_root), _neighbour_tables(trials, cache_root))
    return [each for each in found if each.bytes]


def _corrupted_images(trials: Iterable[PlannedTrial], cache_root: Path) -> Preparation:
    """The corrupted versions of the trials' data sets; published files that are there are not counted.

    A version counts as made when the cache has a file for its data set, split, kind and severity.
    """
    wanted = set()
    for planned in trials:
        dataset = planned.trial.dataset
        identity = (dataset.name, dataset.root, dataset.image_size, dataset.test_fraction)
        if dataset.train_corruption is not None:
            wanted.add((identity, "train", dataset.train_corruption.kind, dataset.train_corruption.severity))
        for evaluation in planned.evaluations:
            if isinstance(evaluation.config, Corruptions):
                wanted |= {(identity, "test", kind, severity) for kind, severity in evaluation.config.wanted}
    total_bytes, seconds = 0, 0.0
    for (name, root, image_size, test_fraction), split, kind, severity in sorted(wanted, key=repr):
        facts = datasets.describe(name, root=root, image_size=image_size, test_fraction=test_fraction)
        if any(cache_root.glob(f"corrupted-v{CORRUPTIONS_VERSION}/{name}-*-{split}/{kind}-{severity}.npy")):
            continue
        n = facts.num_train if split == "train" else facts.num_test
        shape = (facts.channels, facts.height, facts.width)
        total_bytes += cache_bytes(n, shape, 1)
        seconds += generation_seconds(n, shape, [(kind, severity)])
    return Preparation("corrupted images", total_bytes, seconds)


def _neighbour_tables(trials: Iterable[PlannedTrial], cache_root: Path) -> Preparation:
    """Nearest neighbours, a table for each set of images; all count as made when the cache has one of their data set.

    A seed has a table of its own only where it chooses the images, or their labels within which neighbours are sought.
    """
    tables: dict[tuple[object, ...], tuple[int, float]] = {}
    for planned in trials:
        trial, wanted = planned.trial, planned.trial.method.neighbours
        dataset = trial.dataset
        if wanted is None or any(cache_root.glob(f"neighbours-v{NEIGHBOURS_VERSION}/{dataset.name}-*.npy")):
            continue
        facts = data_facts(dataset)
        n = dataset.train_size or facts.num_train
        own_labels = wanted.within_class and trial.label_noise.is_noisy
        seed = trial.seed if dataset.train_size is not None or own_labels else None
        others = n / facts.num_classes if wanted.within_class else n
        size_bytes = 4 * n * table_width(wanted.k, val_fraction=dataset.val_fraction)
        products = n * others * facts.channels * facts.height * facts.width
        key = (repr(dataset), wanted, repr(trial.label_noise) if own_labels else "", seed)
        tables[key] = (size_bytes, products / NEIGHBOUR_PRODUCTS)
    return Preparation("nearest neighbours", sum(b for b, _ in tables.values()), sum(s for _, s in tables.values()))


def plan_cost(
    plan: Plan,
    networks: Networks,
    *,
    pending: Iterable[PlannedTrial],
    finished_seconds: Mapping[Condition, list[float]],
    trained: Collection[str] = (),
    slots: int,
    gpu: bool = False,
) -> PlanCost:
    """The cost of the pending trials on `slots` slots.

    finished_seconds: what finished trials took. Where a condition has none, its estimate is scaled by what the others
    took against theirs, so that this machine's speed counts as soon as it is known.
    trained: ids of pending trials whose network is there, and only has to be evaluated.
    """
    estimates: dict[Condition, Cost] = {}
    for planned in plan.suite_trials:
        condition = (planned.cell, planned.arm)
        if condition not in estimates and (network := networks.of(planned.trial)):
            evaluations = [evaluation.config for evaluation in planned.evaluations]
            estimates[condition] = trial_cost(planned.trial, network, evaluations=evaluations, gpu=gpu)
    measured = {condition: median(seconds) for condition, seconds in finished_seconds.items() if seconds}
    ratios = [measured[condition] / estimates[condition].seconds for condition in measured.keys() & estimates.keys()]
    scale = median(ratios) if ratios else 1.0
    trial_seconds = {condition: cost.seconds * scale for condition, cost in estimates.items()} | measured
    waiting = {planned.trial_id: (planned.cell, planned.arm) for planned in pending}
    left_seconds = {
        trial_id: trial_seconds[condition] for trial_id, condition in waiting.items() if condition in trial_seconds
    }
    for trial_id in trained:
        if waiting[trial_id] in estimates:
            left_seconds[trial_id] = estimates[waiting[trial_id]].evaluation_seconds * scale
    seconds = list(left_seconds.values())
    known = [estimates[waiting[i]] for i in waiting if i not in trained and waiting[i] in estimates]
    return PlanCost(
        trial_seconds=trial_seconds,
        left_seconds=left_seconds,
        seconds=max(sum(seconds) / slots, max(seconds, default=0.0)) if len(seconds) == len(waiting) else None,
        bytes=sum(cost.bytes for cost in known),
        weight_bytes=sum(cost.weight_bytes for cost in known),
        suite_weight_bytes=sum(
            estimates[planned.cell, planned.arm].weight_bytes
            for planned in plan.suite_trials
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
