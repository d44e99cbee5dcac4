"""This machine as an engine: every attempt in a process of its own, in one of the machine's slots.

Processes are forked from a forkserver that has torch and timm loaded. A process that dies costs one attempt at one
trial, whatever it died of.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

from bench.execution.devices import Slot
from bench.execution.engine import LOST, DataUnavailable, Running
from bench.execution.task import DataPaths, Needs, Task, start_preparing, start_trial
from bench.plan.plan import PlannedTrial

LOOK_SECONDS = 0.2
FORKSERVER_DIED = 255
"""What multiprocessing gives for an exit status when the forkserver, which alone could know it, is gone."""


@dataclass(eq=False, kw_only=True)
class _Process(Running):
    slot: Slot
    process: ForkServerProcess


class LocalEngine:
    """Slots of this machine, one trial in each at a time."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._num_slots = len(slots)
        self._free = list(reversed(slots))
        self._running: list[_Process] = []
        self._context = forkserver()

    @property
    def capacity(self) -> int:
        return self._num_slots

    def prepare(
        self, data: DataPaths, needs: Iterable[Needs], *, say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """See Engine. In one process, which uses as many threads as there are slots."""
        answer, worker_end = self._context.Pipe(duplex=False)
        process = self._context.Process(target=start_preparing, args=(data, needs, self._num_slots, worker_end))
        process.start()
        worker_end.close()
        word, text = "doing", ""
        try:
            while word == "doing" and not stop():
                if answer.poll(LOOK_SECONDS):
                    word, text = answer.recv()
                    if word == "doing":
                        say(text)
        except EOFError:
            process.join()
            raise DataUnavailable(f"preparing the data sets ended with exit status {process.exitcode}") from None
        finally:
            if word == "doing":
                process.terminate()  # it may be in the middle of a download, and this process waits for it at its exit
            process.join()
        if word == "done" and text:
            raise DataUnavailable(text)

    def has_room(self) -> bool:
        return bool(self._free)

    def start(self, planned: PlannedTrial, task: Task) -> Running | None:
        """See Engine."""
        if not self._free:
            return None
        slot = self._free.pop()
        task = replace(task, device=slot.device, visible_devices=slot.visible)
        process = self._context.Process(target=start_trial, args=(task,))
        running = _Process(slot.label, slot=slot, process=process)
        process.start()
        self._running.append(running)
        return running

    def wait(self, seconds: float) -> list[Running]:
        """See Engine."""
        if self._running:
            connection.wait([running.process.sentinel for running in self._running], timeout=seconds)
        else:
            time.sleep(seconds)
        ended: list[Running] = []
        for running in list(self._running):
            if not running.process.is_alive():
                code = running.process.exitcode
                running.exit_status = LOST if code == FORKSERVER_DIED else code
                running.process.close()
                self._running.remove(running)
                self._free.append(running.slot)
                ended.append(running)
        return ended

    def terminate(self, running: Running) -> None:
        """See Engine."""
        if isinstance(running, _Process) and running in self._running:
            running.process.terminate()

    def kill(self, running: Running) -> None:
        """See Engine."""
        if isinstance(running, _Process) and running in self._running:
            running.process.kill()

    def close(self) -> None:
        """See Engine."""
        for running in list(self._running):
            self.kill(running)
        while self._running:
            self.wait(LOOK_SECONDS)


def forkserver() -> ForkServerContext:
    """The context whose processes start with torch and timm loaded, one OpenMP thread each until they say otherwise."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # Whoever asks for CUDA while the forkserver imports must not initialise it there: no fork could then use a GPU.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execution.preload", "bench.cli"])  # cli: every child imports __main__
    return context
