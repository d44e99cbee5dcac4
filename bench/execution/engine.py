"""What a supervisor asks of the place where its trials run: this machine's processes, or a cluster's tasks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from bench.errors import UserError
from bench.execution.task import DataPaths, Needs, Task
from bench.plan.plan import PlannedTrial

LOST = -1000
"""The exit status of an attempt whose machine went away: nobody can say how it ended, and no fault of the trial."""


def exit_in_words(status: int | None) -> str:
    """A process's exit status: "killed by SIGKILL", "exit status 1"."""
    if status is None or status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class DataUnavailable(UserError):
    """A data set that cannot be had; the message says which file and what to do."""


@dataclass(eq=False)
class Running:
    """One attempt that an engine has taken on. An engine derives from it what it needs to know itself.

    place: where, in words.  began: whether it runs, as opposed to waiting for a machine to have room.
    exit_status: of its process once it has ended, negative for a signal as in subprocess, or LOST.
    """

    place: str
    began: bool = True
    exit_status: int | None = None


class Engine(Protocol):
    """Runs attempts. One supervisor uses it, from one thread.

    capacity: how many attempts it can run at once, to weigh the time left.  notes: what is worth knowing about the
    machines, to be said when the run is over.
    """

    notes: list[str]

    @property
    def capacity(self) -> int: ...

    def prepare(
        self, data: DataPaths, needs: Iterable[Needs], *, say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """Build the data caches before workers would wait for each other; returns early once `stop` says so.

        Raises DataUnavailable.
        """

    def has_room(self) -> bool:
        """Whether `start` is worth asking."""

    def start(self, planned: PlannedTrial, task: Task) -> Running | None:
        """Begin an attempt on a device that the engine chooses; None where nothing that suits it is free now."""

    def wait(self, seconds: float) -> list[Running]:
        """Those that have ended, at once if there are any, else as soon as there is one or the seconds are over."""

    def terminate(self, running: Running) -> None:
        """Ask it to write its checkpoint and end."""

    def kill(self, running: Running) -> None:
        """End it without asking; `wait` gives it back."""

    def close(self) -> None:
        """Let go of whatever the engine holds, attempts that still run included."""
