"""A plan against a results folder and a machine: what is done, what is left, what it will take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench.execution.devices import chosen_gpus
from bench.execution.packing import Places, Usage, places, usage_of
from bench.execution.tune import remembered_slots
from bench.plan.cost import Condition, PlanCost, Preparation, duration, plan_cost, preparations, size
from bench.plan.networks import Networks
from bench.plan.plan import Plan, PlannedTrial
from bench.plan.power import SIGNIFICANCE_LEVEL, seeds_needed, smallest_holm_sign_flip_p
from bench.plan.sequential import possible, progress, wanted, wanted_now
from bench.results.store import FINISHED, Store, TrialFolder

KEPT_WEIGHT_BYTES = 5_000_000_000
"""Up to here a suite's final weights are kept unless it says otherwise."""


@dataclass(frozen=True)
class Survey:
    """places: where what is left can run.  status: by trial_id.

    wanted: the trials that the suite takes as far as is known now; as a rule all.
    cost: of those of them that are left.  at_most: of all that may be wanted and are left.
    metric_of: as `metric_values` gives it, where seeds are added until the answer is clear.
    """

    plan: Plan
    places: Places
    on_gpu: bool
    status: dict[str, str]
    wanted: tuple[PlannedTrial, ...]
    cost: PlanCost
    at_most: PlanCost
    preparations: list[Preparation]
    metric_of: dict[str, float | None]

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.status[planned.trial_id] for planned in self.wanted)

    @property
    def num_done(self) -> int:
        return sum(self.counts[status] for status in FINISHED)

    @property
    def num_left(self) -> int:
        return len(self.wanted) - self.num_done

    @property
    def keep_weights(self) -> bool:
        choice = self.plan.suite.file.keep_weights
        if any(planned.is_source for planned in self.plan.suite_trials):
            choice = "always"
        return choice == "always" or (choice == "auto" and self.cost.suite_weight_bytes < KEPT_WEIGHT_BYTES)

    @property
    def seconds_by_trial(self) -> dict[str, float]:
        """Estimated seconds of each trial that is left, those that may yet be wanted included."""
        return {
            planned.trial_id: self.at_most.left_seconds.get(planned.trial_id, 1.0)
            for planned in self.plan.trials
            if self.status[planned.trial_id] not in FINISHED
        }

    @property
    def headline(self) -> str:
        """One line: how many trials, how many done, how long."""
        plan = self.plan
        rule = plan.suite.stopping
        seeds, trials = _count(len(plan.seeds), "seed"), _count(len(plan.suite_trials), "trial")
        if rule:
            seeds, trials = f"{rule.min} to {seeds}", f"{len(wanted(plan, {}))} to {trials}"
        sizes = [_count(len(plan.cells), "cell"), _count(len(plan.arms), "arm"), seeds]
        text = f"{trials} ({', '.join(sizes)})"
        if plan.shard:
            text = f"shard {plan.shard}: {len(plan.trials)} of {text}"
        text += f", {self.num_done} done"
        if trained := self.counts["unevaluated"]:
            text += f", {trained} trained and to be evaluated"
        return text + (f"; {self.time}" if self.num_left else "")

    @property
    def time(self) -> str:
        where = self.places.where
        if self.cost.seconds is None:
            return f"time not known yet, on {where}"
        how = "from trials that finished here" if self.cost.measured else "estimated from FLOPs"
        most = ""
        if self.at_most.seconds is not None and self.at_most.seconds > self.cost.seconds:
            most = f", {duration(self.at_most.seconds)} at most,"
        return f"about {duration(self.cost.seconds)}{most} on {where} ({how})"


def survey(
    plan: Plan,
    store: Store,
    networks: Networks,
    *,
    devices: str = "auto",
    jobs: int | None = None,
    per_device: int | None = None,
) -> Survey:
    """Look at every trial's folder once. Raises DeviceError for a device that is not there.

    per_device: so many trials at once on each GPU.
    """
    gpus = chosen_gpus(devices)
    kinds = {gpu.name for gpu in gpus}
    status: dict[str, str] = {}
    seconds: dict[Condition, list[float]] = {}
    measured: dict[Condition, Usage] = {}
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        status[planned.trial_id] = folder.status(planned.evaluation_keys, with_weights=planned.is_source)
        final = folder.final() if status[planned.trial_id] == "completed" else None
        if final is not None and (final["provenance"]["device"] == "cuda") == bool(gpus):
            condition = (planned.cell, planned.arm)
            if not gpus or final["provenance"]["hardware"] in kinds:
                measured[condition] = usage_of(final).and_also(measured.get(condition, Usage()))
            networks_own = [each.key for each in planned.evaluations if each.config.needs_network]
            records = [folder.evaluation(key) for key in networks_own]
            total = final["total_seconds"] + sum(record["seconds"] for record in records if record)
            seconds.setdefault(condition, []).append(total)
    metric_of, trials = wanted_now(plan, store)
    pending = [planned for planned in trials if status[planned.trial_id] not in FINISHED]
    unfinished = [planned for planned in possible(plan, metric_of) if status[planned.trial_id] not in FINISHED]
    trained = {
        p.trial_id
        for p in unfinished
        if status[p.trial_id] == "unevaluated" and store.trial(p.trial_id).weights.exists()
    }
    threads = max(planned.trial.training.threads for planned in plan.suite_trials)
    if jobs is None and not gpus:
        jobs = remembered_slots(store.cache, plan)
    where = places(gpus, measured=measured, jobs=jobs, threads=threads, per_device=per_device)

    def cost_of(some: list[PlannedTrial]) -> PlanCost:
        return plan_cost(
            plan,
            networks,
            pending=some,
            finished_seconds=seconds,
            trained=trained & {planned.trial_id for planned in some},
            slots=where.capacity,
            gpu=bool(gpus),
        )

    return Survey(
        plan=plan,
        places=where,
        on_gpu=bool(gpus),
        status=status,
        wanted=trials,
        cost=cost_of(pending),
        at_most=cost_of(unfinished),
        preparations=preparations(pending, store.cache / "data"),
        metric_of=metric_of,
    )


def plan_lines(found: Survey, *, show_trials: bool = False) -> Iterator[str]:
    """What `bench plan` prints."""
    suite = found.plan.suite
    yield f"{suite.name} (version {suite.version}): {suite.question}"
    yield f"trials    {found.headline.partition(';')[0]}, {found.num_left} to run"
    if found.num_left:
        yield f"time      {found.time}"
        weights = size(found.cost.weight_bytes)
        kept = f"of final weights, {weights}, kept" if found.keep_weights else f"final weights ({weights}) not kept"
        for each in found.preparations:
            first = duration(each.seconds / found.places.capacity)
            yield f"cache     {each.what}, {size(each.bytes)}, made once in about {first}"
        yield f"disk      {size(found.cost.bytes + found.cost.weight_bytes * found.keep_weights)} ({kept})"
    yield f"family    {family(found)}"
    yield ""
    yield from _condition_table(found)
    if show_trials:
        yield ""
        for planned in found.wanted:
            name = f"{planned.cell} | {planned.arm} | seed {planned.trial.seed}"
            yield f"{planned.trial_id}  {found.status[planned.trial_id]:<11}  {name}"


def family(found: Survey) -> str:
    """How many comparisons there are, and what so many seeds can show at best, or when they have enough."""
    plan = found.plan
    comparisons, seeds = plan.num_comparisons, len(plan.seeds)
    if not comparisons:
        return "no comparison: there is no other arm beside the baseline"
    if rule := plan.suite.stopping:
        made = progress(plan, found.metric_of)
        clear, over = sum(each.is_clear for each in made), sum(not each.is_clear and not each.goes_on for each in made)
        text = f"{_count(comparisons, 'comparison')}, {rule.min} to {_count(seeds, 'seed')} each, until it is clear"
        text += f" (p of at most {SIGNIFICANCE_LEVEL:g}, adjusted for every look and by Holm)"
        return text + (
            f": {clear} clear, {len(made) - clear - over} still open, {over} unclear with all seeds"
            if found.metric_of
            else ""
        )
    best, needed = smallest_holm_sign_flip_p(seeds, comparisons), seeds_needed(comparisons)
    counts = f"{_count(seeds, 'seed')}, {_count(comparisons, 'comparison')}"
    enough = f"; {needed} seeds would do" if needed > seeds else "; enough for 0.05"
    return f"{counts}: the sign-flip test, Holm-adjusted, reaches at best {best:.3g}{enough}"


def status_lines(found: Survey, failures: list[tuple[PlannedTrial, str]]) -> Iterator[str]:
    """What `bench status` prints."""
    yield f"{found.plan.suite.name}: {found.headline}"
    yield ", ".join(f"{count} {status}" for status, count in sorted(found.counts.items()))
    yield ""
    yield from _condition_table(found)
    for planned, reason in failures:
        yield f"failed    {planned.trial_id}  {planned.cell} | {planned.arm} | seed {planned.trial.seed}: {reason}"


def _condition_table(found: Survey) -> Iterator[str]:
    """Seeds finished of seeds planned. Whichever there are more of, cells or arms, go down; the others go across."""
    done: Counter[Condition] = Counter()
    planned_seeds: Counter[Condition] = Counter()
    for planned in found.wanted:
        condition = (planned.cell, planned.arm)
        planned_seeds[condition] += 1
        done[condition] += found.status[planned.trial_id] in FINISHED

    def field(cell: str, arm: str) -> str:
        return f"{done[cell, arm]}/{planned_seeds[cell, arm]}" if planned_seeds[cell, arm] else "-"

    cells, arms = found.plan.cells, found.plan.arms
    down, across = (arms, cells) if len(arms) > len(cells) else (cells, arms)
    width = max(len(name) for name in (*down, "seeds done"))
    yield "  ".join([f"{'seeds done':<{width}}", *across])
    for name in down:
        fields = [field(other, name) if down is arms else field(name, other) for other in across]
        padded = [f"{text:>{len(other)}}" for text, other in zip(fields, across, strict=True)]
        yield "  ".join([f"{name:<{width}}", *padded])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def trial_lines(folder: TrialFolder) -> Iterator[str]:
    """What `bench trial` prints."""
    record, final = folder.record(), folder.final()
    yield f"{folder.trial_id}  {folder.status()}  {folder.path}"
    for section, options in (record or {"trial": {}})["trial"].items():
        given = {k: v for k, v in options.items() if v not in (None, "")} if isinstance(options, dict) else options
        yield f"  {section:<12} {json.dumps(given)}"
    if final is not None:
        yield f"  {'took':<12} {duration(final['total_seconds'])}, {final['attempts']} attempt(s)"
        yield f"  {'on':<12} {final['provenance']['hardware']}"
        for name, value in final["metrics"].items():
            yield f"  {name:<26} {value:.4f}" if isinstance(value, float) else f"  {name:<26} {value}"
        for path in sorted((folder.path / "evaluations").glob("*.json")):
            record = folder.evaluation(path.stem) or {"metrics": {}}
            for name, value in record["metrics"].items():
                yield f"  {name:<26} {'-' if value is None else f'{value:.4f}'}"
        if final["diverged"]:
            yield f"  diverged in epoch {final['diverged']['epoch']}, step {final['diverged']['step']}"
    elif epochs := folder.epochs():
        last = epochs[-1]
        yield f"  epoch {last['epoch']}: train loss {last['train_loss']}, test error {last.get('test_error')}"
    if failure := folder.last_failure():
        yield f"  failed: {failure['reason']}"
        yield from (f"    {line}" for line in failure["traceback"].splitlines())
