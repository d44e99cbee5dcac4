"""What a supervisor hands to a trial's process. Imports nothing heavy: the supervisor never loads torch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.plan.evaluation import Evaluation, PlannedEvaluation
from bench.plan.trial import Trial
from bench.results.store import Json
from bench.training.policy import CheckpointPolicy

FAILED, NO_SPACE, BUSY, INTERRUPTED, OUT_OF_MEMORY = 1, 74, 75, 76, 77
"""Exit statuses of a trial's process besides 0: it said why in the journal, the disk is full or a quota used up (the
journal says so if there was room for it), another process has the trial, it was asked to stop and wrote its checkpoint,
the device's memory did not do beside its neighbours."""


class Notice(str):
    """Something to be shown at once and left standing, among what is said while data are prepared."""

    __slots__ = ()


@dataclass(frozen=True)
class DataPaths:
    """Where data sets are, or are downloaded to, and where their decoded form is cached."""

    data_root: Path
    cache_root: Path


@dataclass(frozen=True)
class Needs:
    """A trial whose data are to be there, with the evaluations that bring data of their own."""

    trial: Trial
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Task:
    """One attempt at one trial.

    device, visible_devices, memory_share: what torch calls its device, what its process gets as CUDA_VISIBLE_DEVICES,
    and how much of the device's memory it may use: the engine says all three.
    is_source: whether another trial's evaluation needs this one's weights.
    decoders: processes that decode for it, where its images are streamed; the engine says how many it has cores for.
    """

    record: Json
    folder: Path
    evaluations: tuple[PlannedEvaluation, ...]
    keep_weights: bool
    attempt: int
    data: DataPaths
    policy: CheckpointPolicy
    is_source: bool = False
    device: str = "cpu"
    visible_devices: str = ""
    memory_share: float = 1.0
    decoders: int = 1


def start_trial(task: Task) -> None:
    """The target of a trial's process."""
    from bench.execution.worker import work

    work(task)


def start_stepping(trial: Trial, data: DataPaths, folder: Path, epoch_steps: int, link: Connection) -> None:
    """The target of a process with which `bench tune` measures."""
    from bench.execution.stepping import step_on_command

    step_on_command(trial, data, folder, epoch_steps, link)


def start_preparing(data: DataPaths, needs: Iterable[Needs], processes: int, answer: Connection) -> None:
    """The target of the process that builds data caches.

    Sends ("doing", text) as it goes on, and at its end ("done", what is wrong, or "").
    """
    from bench.execution.preparation import prepare_data

    with suppress(BrokenPipeError):  # the supervisor was killed: nobody wants to know any more
        problem = prepare_data(data, needs, processes=processes, say=lambda text: answer.send(("doing", text)))
        answer.send(("done", problem))
