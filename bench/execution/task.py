"""What a supervisor hands to a trial's process. Imports nothing heavy: the supervisor never loads torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.plan.config import DatasetConfig
from bench.results.store import Json
from bench.training.policy import CheckpointPolicy

FAILED, BUSY, INTERRUPTED = 1, 75, 76
"""Exit statuses of a trial's process besides 0: it said why in the journal, another process has the trial, it was
asked to stop and wrote its checkpoint."""


@dataclass(frozen=True)
class DataPaths:
    """Where data sets are, or are downloaded to, and where their decoded form is cached."""

    data_root: Path
    cache_root: Path


@dataclass(frozen=True)
class Task:
    """One attempt at one trial. visible_devices: what its process gets as CUDA_VISIBLE_DEVICES."""

    record: Json
    folder: Path
    evaluations: tuple[str, ...]
    keep_weights: bool
    attempt: int
    device: str
    visible_devices: str
    data: DataPaths
    policy: CheckpointPolicy


def start_trial(task: Task) -> None:
    """The target of a trial's process."""
    from bench.execution.worker import work

    work(task)


def start_preparing(data: DataPaths, wanted: Iterable[DatasetConfig], answer: Connection) -> None:
    """The target of the process that builds data caches: answers with what is wrong, or with ""."""
    from bench.execution.worker import prepare_data

    answer.send(prepare_data(data, wanted))
