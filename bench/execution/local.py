"""This machine as an engine: every attempt in a process of its own, in one of the machine's places.

Processes are forked from a forkserver that has torch and timm loaded. A process that dies costs one attempt at one
trial, whatever it died of.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running

from bench.data.image_folder import decoders
from bench.execution.devices import Slot, num_cores
from bench.execution.engine import LOST, DataUnavailable, Running, exit_in_words
from bench.execution.packing import Places, usage_of
from bench.execution.task import FAILED, OUT_OF_MEMORY, DataPaths, Needs, Task, start_preparing, start_trial
from bench.plan.plan import PlannedTrial
from bench.results.store import Json, TrialFolder

LOOK_SECONDS = 0.2
CLOSE_SECONDS = 5.0
PREPARATIONS = 3
"""So often the data are tried to be prepared, where the process that does it is killed."""
FORKSERVER_DIED = 255
"""What multiprocessing gives for an exit status when the forkserver, which alone could know it, is gone."""

NO_NUMBERS: Json = {"message": "the journal does not say more"}
NO_NUMBERS |= dict.fromkeys(("requested_bytes", "free_bytes", "total_bytes", "allocated_bytes", "reserved_bytes"))


@dataclass(eq=False, kw_only=True)
class _Process(Running):
    """journal_offset: how far the journal was read."""

    slot: Slot
    process: ForkServerProcess
    task: Task
    folder: TrialFolder
    journal_offset: int
    out_of_memory: Json | None = None


class LocalEngine:
    """Places on this machine, one trial in each at a time.

    cores: for all of them together; unsaid, the machine's.
    """

    def __init__(self, places: Places, *, cores: int | None = None) -> None:
        self.notes: list[str] = []
        self._places, self._cores = places, cores or num_cores()
        self._running: list[_Process] = []
        self._context = forkserver()

    @property
    def capacity(self) -> int:
        return self._places.capacity

    def prepare(
        self, data: DataPaths, needs: Iterable[Needs], *, say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """See Engine. In one process, which uses as many processes as trials will; one that is killed is followed."""
        needs = list(needs)
        for _ in range(PREPARATIONS):
            status, problem = self._prepare_once(data, needs, say, stop)
            if problem:
                raise DataUnavailable(problem)
            if not status or stop():
                return
        raise DataUnavailable(
            f"preparing the data sets ended {PREPARATIONS} times, {exit_in_words(status)}; if the machine is short of "
            "memory, that is what may have ended it"
        )

    def _prepare_once(
        self, data: DataPaths, needs: list[Needs], say: Callable[[str], None], stop: Callable[[], bool]
    ) -> tuple[int | None, str]:
        """The exit status of a process that could not say how it went, else 0, and what is wrong with the data."""
        answer, worker_end = self._context.Pipe(duplex=False)
        process = self._context.Process(target=start_preparing, args=(data, needs, self.capacity, worker_end))
        start(process)
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
            return process.exitcode, ""
        finally:
            if word == "doing":
                process.terminate()  # it may be in the middle of a download, and this process waits for it at its exit
            process.join()
        return 0, text if word == "done" else ""

    def has_room(self) -> bool:
        return not self._places.is_full

    def start(self, planned: PlannedTrial, task: Task) -> Running | None:
        """See Engine."""
        slot = self._places.take((planned.cell, planned.arm))
        if slot is None:
            return None
        task = replace(
            task,
            device=slot.device,
            visible_devices=slot.visible,
            memory_share=slot.memory_share,
            decoders=decoders(self._cores, trials=self.capacity),
        )
        folder = TrialFolder(task.folder)
        offset = folder.events()[1]
        process = self._context.Process(target=start_trial, args=(task,))
        running = _Process(slot.label, slot=slot, process=process, task=task, folder=folder, journal_offset=offset)
        start(process)
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
            has_ended = not running.process.is_alive()  # asked first: what it wrote until then is there to be read
            if running.slot.visible:
                events, running.journal_offset = running.folder.events(offset=running.journal_offset)
                self._places.saw(running.slot, events)
                found = [event for event in events if event["event"] == "out_of_memory"]
                running.out_of_memory = found[-1] if found else running.out_of_memory
            if has_ended:
                code = running.process.exitcode
                running.exit_status = LOST if code == FORKSERVER_DIED else code
                running.process.close()
                self._running.remove(running)
                self._free(running)
                ended.append(running)
        return ended

    def _free(self, running: _Process) -> None:
        """Give its place back, with what is to be learnt from how it ended."""
        if running.exit_status == OUT_OF_MEMORY:
            numbers = running.out_of_memory or NO_NUMBERS
            why = self._places.out_of_memory(running.slot, numbers)
            if why is not None:  # fewer neighbours would not help: it had none
                attempt, trace = running.task.attempt, numbers.get("traceback", "")
                running.folder.append("failed", attempt=attempt, reason=why, traceback=trace)
                running.exit_status = FAILED
            return
        final = running.folder.final() if running.exit_status == 0 else None
        self._places.release(running.slot, usage_of(final) if final else None)

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
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._running and time.monotonic() < deadline:
            self.wait(LOOK_SECONDS)
        if self._running:
            pids = ", ".join(str(running.process.pid) for running in self._running)
            print(f"SIGKILL does not end process {pids}: it is stuck in the kernel, and left behind", file=sys.stderr)
            atexit.register(os._exit, FAILED)  # multiprocessing's own exit would wait for it for ever


def start(process: ForkServerProcess) -> None:
    """Start a process; if need be the forkserver too, deaf to the Ctrl-C that a terminal sends to all."""
    deaf = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if deaf else None
    try:
        ensure_running()
    finally:
        if deaf:
            signal.signal(signal.SIGINT, handler)
    process.start()


def forkserver() -> ForkServerContext:
    """The context whose processes start with torch and timm loaded, one OpenMP thread each until they say otherwise."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # Whoever asks for CUDA while the forkserver imports must not initialise it there: no fork could then use a GPU.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execution.preload", "bench.cli"])  # cli: every child imports __main__
    return context
