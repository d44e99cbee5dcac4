"""A training step of ours beside those of others, on the same network, batch, data and number of images.

The contestants live in processes of their own and take turns: while one trains, the others wait. A shared or throttled
machine then slows all of them alike, and the ratios of neighbouring turns count, as median with quartiles. Each trains
from start to end, and its error afterwards stands beside its time, so that nothing is bought with accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bench.execution import local
from bench.execution.task import DataPaths


@dataclass(frozen=True)
class Workload:
    """What all contestants train, with mixup at alpha 1 unless they say otherwise.

    dataset: a section of a suite.  images, test_images: so many, chosen once at random; None for all.
    turns: of each contestant, in all its epochs.
    """

    title: str
    dataset: dict[str, Any]
    network: str
    input_shape: tuple[int, int, int]
    crop_padding: int
    lr: float
    epochs: int
    turns: int
    images: int | None = None
    test_images: int | None = None
    batch_size: int = 128
    weight_decay: float = 1e-4


@dataclass(frozen=True)
class Contestant:
    """loop: a name in loops.LOOPS.  training: options of the recipe, which the bare loop takes too.

    method: of ours.  copies: so many at once, each with `threads` threads; None for what the others have.
    """

    name: str
    loop: str
    training: dict[str, Any] = field(default_factory=dict)
    method: str = "mixup"
    copies: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Machine:
    """threads: of torch, for each contestant.  workers: processes of each loader."""

    data: DataPaths
    device: str
    threads: int
    workers: int


@dataclass(frozen=True)
class Job:
    """One contestant's training from start to end."""

    workload: Workload
    contestant: Contestant
    machine: Machine
    seed: int

    @property
    def threads(self) -> int:
        return self.contestant.threads or self.machine.threads


@dataclass
class Result:
    """Of one contestant, over all seeds.

    seconds: per step, in each turn; of several copies, per step of them all together.  errors: on test, one per seed.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def compare(
    workload: Workload,
    contestants: Sequence[Contestant],
    *,
    machine: Machine,
    seeds: int,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Result]:
    """Train every contestant with every seed, in turns; the first turn of each warms it up and does not count.

    Raises RuntimeError with what a contestant says is wrong.
    """
    results = {contestant.name: Result() for contestant in contestants}
    for seed in range(seeds):
        with _racing([Job(workload, contestant, machine, seed) for contestant in contestants]) as links:
            for turn in range(workload.turns):
                say(f"{workload.title}: seed {seed + 1} of {seeds}, turn {turn + 1} of {workload.turns}")
                names = list(links) if turn % 2 else reversed(links)
                for name in names:
                    seconds = _ordered(links[name])
                    if turn:
                        results[name].seconds.append(1 / sum(1 / each for each in seconds))
            for name, copies in links.items():
                results[name].errors.append(_ordered(copies)[0])
    return results


def ratios(slow: Result, fast: Result) -> list[float]:
    """How many times as fast, turn by turn."""
    return [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]


@contextmanager
def _racing(jobs: Sequence[Job]) -> Iterator[dict[str, list[Connection]]]:
    """By contestant's name, a process for each copy, made ready one after the other; they end with the block."""
    context = local.forkserver()
    links: dict[str, list[Connection]] = {job.contestant.name: [] for job in jobs}
    processes = []
    try:
        for job in jobs:
            for _ in range(job.contestant.copies):
                ours, theirs = context.Pipe()
                process = context.Process(target=_start, args=(job, theirs))
                process.start()
                theirs.close()
                links[job.contestant.name].append(ours)
                processes.append(process)
                _answer(ours)
        yield links
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start(job: Job, link: Connection) -> None:
    """The target of a contestant's process."""
    from bench.perf.loops import contest

    contest(job, link)


def _ordered(copies: Sequence[Connection]) -> list[float]:
    """What all copies of a contestant answer to an order that they get at once."""
    for link in copies:
        link.send(None)
    return [_answer(link) for link in copies]


def _answer(link: Connection) -> float:
    try:
        answer: float | str = link.recv()
    except EOFError:
        raise RuntimeError("a contestant's process died") from None
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer
