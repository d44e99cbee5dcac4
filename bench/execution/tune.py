"""How many trials at once, and with how many threads each, are fastest on this machine: measured, and remembered.

    for load in workloads(plan):
        measured = measure(load, data, scratch=store.cache, seconds=8)
        remember(store.cache, measured)
    remembered_slots(store.cache, plan)     # what `bench run` takes where --jobs is not given

The number of slots is free to choose. Threads change the last bits, so they belong to a trial's identity: for them this
only says what another number would give.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.execution import local
from bench.execution.devices import num_cores
from bench.execution.processor import processor_name
from bench.execution.task import DataPaths, start_stepping
from bench.plan.plan import Plan, data_facts
from bench.plan.trial import Trial
from bench.results.store import Json, exclusive, write_json

ROUNDS = 5
MOST_THREADS = 8
"""More than these are tried only where the suite asks for them."""
PROBE_BATCH = 4
PATIENCE = 3
"""The first round may take so many times what all of them should: without it there is nothing to say."""
FEWEST_ROUNDS = 3
"""After fewer, what is usual stays: chance could have made another number of slots faster in all of them."""
WORTH_SECONDS = 30 * 60.0
"""A run that will take longer measures first, unless something is remembered."""
NOTEWORTHY = 1.1
"""So much faster another number of threads has to be to be spoken of: it would be another experiment."""
CLEARLY = 1.1
"""So much faster in the median, and faster in every round, another number of slots has to be than the usual one: a
machine that others use too differs by more from one second to the next."""
SHAPING = (
    *("batch_size", "optimizer", "crop_padding", "random_resized_crop", "flip", "precision", "channels_last"),
    *("deterministic", "compile", "cuda_graph"),
)
"""The keys of a recipe that what a step costs depends on, threads apart."""

Way = tuple[int, int]
"""(slots, threads)"""


class TuneError(UserError):
    """The measurement could not be made."""


class _TooSlow(Exception):
    """An answer did not come in time."""


@dataclass(frozen=True)
class Workload:
    """Cells whose steps cost alike: one network, one shape of images, one recipe as far as its speed goes.

    trial: one of theirs, with ERM and right labels.  steps: training steps of all their trials together.
    """

    name: str
    key: str
    trial: Trial
    steps: float

    @property
    def threads(self) -> int:
        return self.trial.training.threads


@dataclass(frozen=True)
class Measured:
    """Training steps per second of all slots together, by way, one value per round. batch_size: of what was timed."""

    load: Workload
    batch_size: int
    rates: dict[Way, list[float]]

    def rate(self, way: Way) -> float:
        return statistics.median(self.rates[way])

    def best(self, *, threads: int | None = None) -> Way:
        """The fastest way, or the fastest with so many threads."""
        return max((way for way in self.rates if threads in (None, way[1])), key=self.rate)


def workloads(plan: Plan) -> list[Workload]:
    """The plan's, the one with the most trials' steps first."""
    found: dict[tuple[str, int], Workload] = {}
    for planned in plan.trials:
        trial = planned.trial
        facts = data_facts(trial.dataset)
        shape = (facts.channels, facts.height, facts.width, facts.num_classes)
        training = trial.training.model_dump(include=set(SHAPING), exclude_none=True)
        identity: dict[str, Any] = {"shape": shape, "training": training}
        identity["model"] = trial.model.model_dump(mode="json")
        if trial.dataset.stream:
            identity["stream"] = True
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        num_train = round((trial.dataset.train_size or facts.num_train) * (1 - trial.dataset.val_fraction))
        steps = trial.training.epochs * ceil(num_train / trial.training.batch_size) * trial.method.passes
        earlier = found.get((key, trial.training.threads))
        dataset = trial.dataset.model_dump(mode="json") | {"train_corruption": None}
        changes = {"method": {"name": "erm"}, "label_noise": {"rate": 0.0}, "dataset": dataset}
        plain = Trial.model_validate(trial.model_dump(mode="json") | changes)
        size = "x".join(map(str, shape[:3]))
        name = f"{trial.model.display_name}, {size}, batch {trial.training.batch_size}"
        found[key, trial.training.threads] = Workload(
            name, key, earlier.trial if earlier else plain, steps + (earlier.steps if earlier else 0)
        )
    return sorted(found.values(), key=lambda load: -load.steps)


def ways(cores: int, threads: int) -> list[Way]:
    """What is tried: the cores filled, and half of them, with 1, 2, 4, ... threads and with the suite's own.

    With one thread also one slot more than there are cores: small trials wait for the disk at times.
    """
    counts = {2**power for power in range(10) if 2**power <= min(cores, MOST_THREADS)} | {threads}
    found = []
    for count in sorted(counts):
        full = max(1, cores // count)
        slots = {full, max(1, full // 2)} | ({cores + 1} if count == 1 else set())
        found += [(number, count) for number in sorted(slots)]
    return found


def measure(load: Workload, data: DataPaths, *, scratch: Path, seconds: float) -> Measured:
    """Time the ways in turn, ROUNDS times, in about so many seconds; loading and starting come on top.

    The processes are forked as those of a run are, and train the workload's trial in the real loop. Where one step
    takes longer than fits into the time, smaller batches are timed, and fewer rounds where these do not fit either.
    Raises TuneError when a process dies, when the data set cannot be had, or when one round takes too long.
    """
    tried = ways(num_cores(), load.threads)
    window = seconds / ROUNDS / len(tried)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tune-", dir=scratch) as temporary:
        folder = Path(temporary)
        probe = _with_batch(load.trial, min(PROBE_BATCH, load.trial.training.batch_size))
        with _crew(1, probe, data, folder, epoch_steps=4) as links:
            per_image = 1 / _rate(links, threads=1, seconds=window / 4) / probe.training.batch_size
        batch_size = load.trial.training.batch_size
        while batch_size > PROBE_BATCH and batch_size * per_image > window / 4:
            batch_size = ceil(batch_size / 2)
        epoch_steps = max(2, int(window / 4 / (batch_size * per_image)))
        trial = _with_batch(load.trial, batch_size)
        rates: dict[Way, list[float]] = {way: [] for way in tried}
        with _crew(max(slots for slots, _ in tried), trial, data, folder, epoch_steps=epoch_steps) as links:
            started = time.monotonic()
            with contextlib.suppress(_TooSlow):
                for round_ in range(ROUNDS):
                    until = started + (PATIENCE if round_ == 0 else 1) * seconds
                    for slots, threads in tried if round_ % 2 else reversed(tried):
                        rate = _rate(links[:slots], threads=threads, seconds=window, until=until)
                        rates[slots, threads].append(rate)
    if not all(rates.values()):
        raise TuneError(f"{load.name}: its steps take too long to be measured in {seconds:g} s; more --seconds")
    return Measured(load, batch_size, rates)


def table_lines(measured: Measured) -> Iterator[str]:
    """What `bench tune` prints of one workload."""
    load, best = measured.load, measured.best()
    timed = "" if measured.batch_size == load.trial.training.batch_size else f", timed with {measured.batch_size}"
    yield f"{load.name}{timed}"
    yield f"{'slots':>7}  {'threads':>7}  {'steps/s':>9}  {'[least-most]':<17}  of the best"
    for way in sorted(measured.rates, key=lambda way: (way[1], way[0])):
        spread = f"[{min(measured.rates[way]):.4g}-{max(measured.rates[way]):.4g}]"
        share = measured.rate(way) / measured.rate(best)
        yield f"{way[0]:>7}  {way[1]:>7}  {measured.rate(way):>9.4g}  {spread:<17}  {share:.2f}"
    gain = measured.rate(best) / measured.rate(measured.best(threads=load.threads))
    if best[1] != load.threads and gain > NOTEWORTHY:
        yield (
            f"{best[0]} at once with {best[1]} threads each would be {gain - 1:.0%} faster: --threads {best[1]}, which "
            f"is --set training.threads={best[1]}. These would be other trials: threads change the last bits."
        )


def remember(cache: Path, measured: Measured) -> None:
    """Keep the rates of the suite's own number of threads in slots.json, beside those of other machines and suites."""
    load = measured.load
    per_batch = measured.batch_size / load.trial.training.batch_size
    entry = {
        **_place(load),
        "name": load.name,
        "steps_per_second": {
            str(slots): [rate * per_batch for rate in rates]
            for (slots, threads), rates in measured.rates.items()
            if threads == load.threads
        },
    }
    with exclusive(cache / "slots.lock", wait_seconds=10):
        others = [each for each in _entries(cache) if any(each.get(key) != entry[key] for key in _place(load))]
        write_json(cache / "slots.json", {"measured": [*others, entry]})


def remembered_slots(cache: Path, plan: Plan) -> int | None:
    """How many trials at once were fastest for the plan's networks on this machine; None where nothing was measured.

    Of what was measured for several, the number that brings all their steps to an end first. The usual number, cores
    over threads, stays unless another is clearly faster.
    """
    entries = _entries(cache)
    known = [(load, rates) for load in (workloads(plan) if entries else ()) if (rates := _rates(entries, load))]
    usual = max(1, num_cores() // max(planned.trial.training.threads for planned in plan.trials))
    numbers = set.intersection(*(set(rates) for _, rates in known)) if known else set()
    if usual not in numbers:
        return None
    rounds = min(len(rates[number]) for _, rates in known for number in numbers)
    if rounds < FEWEST_ROUNDS:
        return usual
    seconds = {
        number: [sum(load.steps / rates[number][round_] for load, rates in known) for round_ in range(rounds)]
        for number in numbers
    }
    best = min(sorted(seconds), key=lambda number: statistics.median(seconds[number]))
    ratios = [slow / fast for slow, fast in zip(seconds[usual], seconds[best], strict=True)]
    return best if min(ratios) > 1 and statistics.median(ratios) > CLEARLY else usual


def _place(load: Workload) -> Json:
    """What a remembered rate holds for."""
    return {"processor": processor_name(), "cores": num_cores(), "threads": load.threads, "workload": load.key}


def _entries(cache: Path) -> list[Json]:
    """Whatever slots.json holds that has an entry's form; none where it is missing, torn or not ours."""
    try:
        content = json.loads((cache / "slots.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    entries = content.get("measured") if isinstance(content, dict) else None
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def _rates(entries: Sequence[Json], load: Workload) -> dict[int, list[float]]:
    """The remembered steps per second by number of slots; what no measurement here could have given is left out."""
    place = _place(load)
    numbers = {str(number): number for number in range(1, num_cores() + 2)}
    for entry in entries:
        rates = entry.get("steps_per_second")
        if isinstance(rates, dict) and all(entry.get(key) == value for key, value in place.items()):
            return {numbers[text]: values for text, values in rates.items() if text in numbers and _are_rates(values)}
    return {}


def _are_rates(values: Any) -> bool:
    """Whether these are positive numbers, at most ROUNDS of them."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return numbers and 0 < len(values) <= ROUNDS and all(1e-9 < value < 1e9 for value in values)


def _with_batch(trial: Trial, batch_size: int) -> Trial:
    return trial.model_copy(update={"training": trial.training.model_copy(update={"batch_size": batch_size})})


@contextmanager
def _crew(num: int, trial: Trial, data: DataPaths, folder: Path, *, epoch_steps: int) -> Iterator[list[Connection]]:
    """So many processes that wait for orders, see stepping.Pacer; they end with the block."""
    context = local.forkserver()
    processes, links = [], []
    try:
        for _ in range(num):
            link, other_end = context.Pipe()
            process = context.Process(target=start_stepping, args=(trial, data, folder, epoch_steps, other_end))
            process.start()
            other_end.close()
            processes.append(process)
            links.append(link)
        for link in links:  # the data are there
            _answer(link, math.inf)
        yield links
    finally:
        for link in links:
            link.close()
        deadline = time.monotonic() + 2
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():  # in a step that takes longer, or in a download
                process.kill()
                process.join()


def _rate(links: Sequence[Connection], *, threads: int, seconds: float, until: float = math.inf) -> float:
    """Steps per second of these processes together. Raises _TooSlow when they have not said them by `until`."""
    for link in links:
        _order(link, (threads, seconds))
    answers = [_answer(link, until) for link in links]
    for link in links:
        _order(link, None)
    for link in links:
        _answer(link, until)
    return float(sum(steps / taken for steps, taken in answers))


def _order(link: Connection, order: tuple[int, float] | None) -> None:
    with contextlib.suppress(ConnectionError):  # its end is seen when its answer does not come
        link.send(order)


def _answer(link: Connection, until: float) -> Any:
    if not link.poll(None if until == math.inf else max(0.0, until - time.monotonic())):
        raise _TooSlow
    try:
        answer = link.recv()
    except (EOFError, ConnectionError):
        raise TuneError("a process that measured was killed: is there enough memory?") from None
    if isinstance(answer, str):
        raise TuneError(answer)
    return answer
