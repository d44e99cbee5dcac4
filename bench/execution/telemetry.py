"""What a trial took of its GPU: memory, time, energy, and the numbers of the moment in which memory ran out.

A thread of the trial's process looks once a second. What the driver does not tell (NVML is missing, the metric is not
supported, the GPU is one of MIG's instances) stays None; torch's own part of the memory is always known.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from bench.results.store import Json, TrialFolder

try:
    import pynvml
except ImportError:  # a machine without it trains all the same
    pynvml = None

SAMPLE_SECONDS = 1.0
COST = 1e-3
"""The largest share of a trial's time that may go into looking: a driver that answers slowly is asked less often."""
UNKNOWN_OUTSIDE_BYTES = 1_000_000_000
"""Assumed for what a process has on a GPU besides torch's allocator (its CUDA context, the kernels that it loaded),
where the driver does not tell. Not measured here; more than the 0.3 to 0.6 GB that are commonly reported."""

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_REQUESTED = re.compile(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
_NO_MEMORY = re.compile(
    r"CUDA (driver )?(error: )?out of memory"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)\w*_ALLOC(ATION)?_FAILED|CUFFT_ALLOC_FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED.* when calling `cublas\w*Create"  # there was no room for the handle
    r"|NVML_SUCCESS == \w+ INTERNAL ASSERT FAILED"  # what torch 2.11 makes of it on a MIG instance in a container
)
"""In errors that are no torch.OutOfMemoryError: libraries that allocate by themselves say it in their own words."""


def out_of_memory(error: BaseException) -> Json | None:
    """The numbers of the moment, in bytes, if the error says that the GPU's memory ran out; else None.

    requested_bytes: what could not be had.  free_bytes, total_bytes: of the GPU.  allocated_bytes, reserved_bytes: by
    this process in torch's allocator.  Each is None where it is not known.
    """
    text = str(error)
    told = isinstance(error, torch.OutOfMemoryError)  # torch.cuda.OutOfMemoryError is the same class
    if not told and not (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return None
    requested = _REQUESTED.search(text)
    free = total = None
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with suppress(RuntimeError):  # not even the question may have room
            free, total = torch.cuda.mem_get_info()
    allocated, reserved, _ = _torch_memory()
    return {
        "message": text.strip().splitlines()[0] if text.strip() else type(error).__name__,
        "requested_bytes": round(float(requested[1]) * _UNITS[requested[2]]) if requested else None,
        "free_bytes": free,
        "total_bytes": total,
        "allocated_bytes": allocated,
        "reserved_bytes": reserved,
    }


def start(visible: str, folder: TrialFolder, *, memory_share: float = 1.0) -> None:
    """Look at the GPU that this process has from now on, and let it have no more than a share of its memory.

    visible: its UUID, as in CUDA_VISIBLE_DEVICES.  The journal gets a "gpu_memory" event whenever the peak has grown.
    """
    global _meter
    if memory_share < 1.0 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(memory_share)
    _meter = Meter(visible, say=lambda peak: folder.append("gpu_memory", peak_bytes=peak))
    threading.Thread(target=_meter.watch, name="telemetry", daemon=True).start()


def record() -> Json | None:
    """What final.json says under "gpu": the whole of this process so far, None where it has no GPU."""
    return None if _meter is None else _meter.record()


@dataclass
class Meter:
    """The readings of one process on one GPU.

    say: told of the peak memory in bytes, whenever it is 2 % above what was said before.
    """

    visible: str
    say: Callable[[int], object]
    _nvml: _Nvml = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: float = field(default_factory=time.monotonic)
    _said: int = 0
    _outside: int | None = None
    _utilisation: list[float] = field(default_factory=list)
    _own_utilisation: list[float] = field(default_factory=list)
    _neighbours: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._nvml = _Nvml(self.visible)
        self._energy = self._nvml.energy_joules()

    def watch(self) -> None:
        """Look for ever; meant for a daemon thread."""
        seconds = SAMPLE_SECONDS
        while True:
            time.sleep(seconds)
            began = time.perf_counter()
            self.sample()
            seconds = max(SAMPLE_SECONDS, (time.perf_counter() - began) / COST)

    def sample(self) -> None:
        """Look once. Before this process has anything on the GPU there is nothing to see."""
        with self._lock:
            _, reserved, peak = _torch_memory()
            if not peak:
                return
            processes = self._nvml.processes()
            if processes:
                self._neighbours.append(len(processes) - 1)
                # In a container the driver may know this process by another number; where there is but one, it is it.
                own = processes.get(os.getpid(), next(iter(processes.values())) if len(processes) == 1 else None)
                if own is not None and _torch_memory()[1] == reserved:  # else it was allocating between the two
                    self._outside = max(self._outside or 0, own - reserved)
            if (utilisation := self._nvml.utilisation()) is not None:
                self._utilisation.append(utilisation)
            self._own_utilisation += self._nvml.own_utilisation()
            if self._peak() > 1.02 * self._said:
                self._said = self._peak()
                self.say(self._said)

    def record(self) -> Json:
        """The readings so far. Fractions lie in [0, 1].

        memory_peak_bytes: this process's, with its CUDA context.  utilisation: the mean share of the time in which the
        GPU computed, whoever's work it was.  gpu_seconds: for how long it computed for this process.
        device_energy_joules: of the whole GPU while this process had it, its neighbours' work included.
        neighbours: how many other processes there were on the GPU, in the mean.
        """
        self.sample()
        with self._lock:
            seconds = time.monotonic() - self._started
            energy = self._nvml.energy_joules()
            allocated, _, reserved = _torch_memory(peak_allocated=True)
            return {
                "memory_peak_bytes": self._peak(),
                "memory_reserved_peak_bytes": reserved,
                "memory_allocated_peak_bytes": allocated,
                "memory_outside_torch_bytes": self._outside,
                "utilisation": _mean(self._utilisation),
                "gpu_seconds": None if not self._own_utilisation else fmean(self._own_utilisation) * seconds,
                "device_energy_joules": None if energy is None or self._energy is None else energy - self._energy,
                "neighbours": _mean(self._neighbours),
                "seconds": seconds,
            }

    def _peak(self) -> int:
        return _torch_memory()[2] + (UNKNOWN_OUTSIDE_BYTES if self._outside is None else self._outside)


class _Nvml:
    """The driver's answers about one GPU, None or nothing where it gives none."""

    def __init__(self, uuid: str) -> None:
        self._handle = None
        self._seen_microseconds = 0
        if pynvml is not None:
            try:
                pynvml.nvmlInit()
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            except pynvml.NVMLError:
                pass

    def processes(self) -> dict[int, int | None]:
        """Bytes on the GPU by process number."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return {process.pid: process.usedGpuMemory for process in found}

    def utilisation(self) -> float | None:
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def own_utilisation(self) -> list[float]:
        """The driver's samples of this process since the last call."""
        samples = self._ask("nvmlDeviceGetProcessUtilization", self._seen_microseconds) or []
        new = [sample for sample in samples if sample.timeStamp > self._seen_microseconds]
        self._seen_microseconds = max([self._seen_microseconds, *(sample.timeStamp for sample in new)])
        return [sample.smUtil / 100 for sample in new if sample.pid == os.getpid()]

    def energy_joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def _ask(self, function: str, *arguments: object) -> Any:
        if self._handle is None:
            return None
        try:
            return getattr(pynvml, function)(self._handle, *arguments)
        except (pynvml.NVMLError, AttributeError):
            return None


_meter: Meter | None = None
"""A process has one trial and one GPU."""


def _torch_memory(*, peak_allocated: bool = False) -> tuple[int, int, int]:
    """Bytes allocated (or their peak) and reserved now, and the peak of those reserved; zeros before CUDA is in use."""
    stats = torch.cuda.memory_stats(0) if torch.cuda.is_initialized() else {}  # type: ignore[no-untyped-call]
    allocated = stats.get(f"allocated_bytes.all.{'peak' if peak_allocated else 'current'}", 0)
    return allocated, stats.get("reserved_bytes.all.current", 0), stats.get("reserved_bytes.all.peak", 0)


def _mean(values: list[float] | list[int]) -> float | None:
    return fmean(values) if values else None
