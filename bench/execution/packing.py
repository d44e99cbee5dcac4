"""How many trials at once: as many as memory holds and as raise what gets done per second.

A policy without processes. An engine asks it for a place, tells it what a trial's journal says, and gives the place
back. On the CPU a place is a core. A GPU takes on one more trial as long as all of them together then get more done.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Protocol

from bench.execution.devices import DeviceError, Gpu, Slot, cpu_slots
from bench.plan.cost import Condition, size
from bench.results.store import Json

USABLE = 0.9
"""Of the memory that is free when a run begins: allocators fragment, and a peak between two looks is missed."""
GAIN = 1.1
"""What one more trial on a GPU has to make of the work that all of them get done per second."""
ENOUGH_EPOCHS = 2
"""So many are needed at both numbers of trials: a single one may have been disturbed."""
UNMEASURED_ROOM = 0.5
"""Of a GPU's memory: where so much is left, a trial that nobody has measured yet may join others."""
UNMEASURED_RSS = 700_000_000
"""Resident bytes of a trial that nobody has measured yet: 490 MB for digits' MLP, 700 MB on MNIST."""


@dataclass(frozen=True)
class Usage:
    """What a trial of some condition needed at its peak, in bytes; None where it was not measured.

    rss_bytes: its process's resident size. Pages that it shares with other trials' processes are counted in each of
    them, so that this errs on the safe side, by up to 450 MB a trial.
    neighbours: how many other processes were on its GPU, in the mean.
    """

    gpu_bytes: int | None = None
    rss_bytes: int | None = None
    neighbours: float | None = None

    def and_also(self, other: Usage) -> Usage:
        """The larger of each."""
        pairs = ((self.gpu_bytes, other.gpu_bytes), (self.rss_bytes, other.rss_bytes))
        gpu_bytes, rss_bytes = (max(filter(None, pair), default=None) for pair in pairs)
        crowds = [each for each in (self.neighbours, other.neighbours) if each is not None]
        return Usage(gpu_bytes, rss_bytes, max(crowds, default=None))


def usage_of(final: Json) -> Usage:
    """What final.json says about it."""
    gpu = final.get("gpu") or {}
    return Usage(gpu.get("memory_peak_bytes"), final.get("peak_rss_bytes"), gpu.get("neighbours"))


class Places(Protocol):
    """Where trials run.

    capacity: how many at once, as far as is known yet.  where: the same in words.  is_full: whether asking is in vain.
    """

    @property
    def capacity(self) -> int: ...

    @property
    def where(self) -> str: ...

    @property
    def is_full(self) -> bool: ...

    def take(self, condition: Condition) -> Slot | None:
        """A place for a trial of the condition; None where nothing is free for it now. With nothing taken there is."""

    def saw(self, slot: Slot, events: Iterable[Json]) -> None:
        """What the journal of the trial in the slot says, from when it was taken on."""

    def release(self, slot: Slot, usage: Usage | None = None) -> None:
        """The trial has ended. usage: what it needed, if it is finished."""

    def out_of_memory(self, slot: Slot, numbers: Json) -> str | None:
        """The trial has ended because its GPU had no memory left; numbers: its journal's "out_of_memory" event.

        None: it is to be tried again, and will have fewer neighbours. Else why that would not help.
        """


class Ram:
    """The machine's memory, shared out among the processes of trials."""

    def __init__(self, free_bytes: float, measured: Mapping[Condition, Usage]) -> None:
        self._room = USABLE * free_bytes
        self._need = {condition: usage.rss_bytes for condition, usage in measured.items() if usage.rss_bytes}

    def holds(self, conditions: Iterable[Condition]) -> bool:
        return sum(self._need.get(condition, UNMEASURED_RSS) for condition in conditions) <= self._room

    def learn(self, condition: Condition, usage: Usage) -> None:
        self._need[condition] = max(usage.rss_bytes or 0, self._need.get(condition, 0)) or UNMEASURED_RSS


class FixedSlots:
    """So many slots, and never more trials than the machine's memory holds."""

    def __init__(self, slots: Sequence[Slot], ram: Ram | None = None) -> None:
        self._free = list(reversed(slots))
        self._ram = ram or Ram(math.inf, {})
        self._taken: dict[str, Condition] = {}
        self._num_slots = len(slots)

    @property
    def capacity(self) -> int:
        return self._num_slots

    @property
    def where(self) -> str:
        return f"{self._num_slots} CPU slot{'s' * (self._num_slots != 1)}"

    @property
    def is_full(self) -> bool:
        return not self._free

    def take(self, condition: Condition) -> Slot | None:
        """See Places."""
        if not self._free or (self._taken and not self._ram.holds([*self._taken.values(), condition])):
            return None
        slot = self._free.pop()
        self._taken[slot.label] = condition
        return slot

    def saw(self, slot: Slot, events: Iterable[Json]) -> None:
        """See Places. Nothing is to be learnt from how far a trial is."""

    def release(self, slot: Slot, usage: Usage | None = None) -> None:
        """See Places."""
        condition = self._taken.pop(slot.label)
        self._free.append(slot)
        if usage is not None:
            self._ram.learn(condition, usage)

    def out_of_memory(self, slot: Slot, numbers: Json) -> str | None:
        """See Places."""
        self.release(slot)
        return f"out of memory: {numbers['message']}"


@dataclass
class _Resident:
    """A trial on a GPU.

    most: the most trials that there were on the GPU, itself included, while it was there.
    crowd: trials on the GPU, integrated over the seconds before it came.
    fenced: whether it may not use more than was left to it, because nobody knew how much it would want.
    """

    condition: Condition
    slot: Slot
    since: float
    most: int
    crowd: float
    fenced: bool
    epochs: int = 0
    peak_bytes: int = 0
    resumed: bool = False


@dataclass
class _Device:
    """A GPU and who is on it.

    settled: since when nobody has come, gone, or still been on his first epoch.
    ended: by number of trials on the GPU, how many ended among so many without having shown what an epoch takes there.
    """

    gpu: Gpu
    settled: float = 0.0
    residents: list[_Resident] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)
    crowd: float = 0.0
    changed: float = 0.0

    @property
    def room(self) -> float:
        """Bytes that trials may fill."""
        return USABLE * (self.gpu.free_bytes or 0)

    def change(self, now: float) -> None:
        """Somebody comes or goes."""
        self.crowd += len(self.residents) * (now - self.changed)
        self.changed = self.settled = now


class SharedGpus:
    """GPUs that each take on trials one by one, as long as memory and throughput allow.

    Memory. A trial is measured after its second epoch, or by an earlier run's trials of its condition: the peak of
    torch's allocator with the CUDA context. Their sum stays below 0.9 of what was free on the GPU when the run began. A
    trial that is not measured runs alone, or beside others where half of the GPU is left, which it then cannot exceed.

    Throughput. `GAIN` for one more trial, judged by how much longer an epoch takes among k trials than among k - 1, the
    mean over the conditions that are there; trials that are over before that can be seen are judged by how long they
    take as a whole. What was found out for a condition holds on all GPUs.

    per_device: so many trials per GPU, whatever would fit or help.  jobs: at most so many in all.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        ram: Ram,
        *,
        measured: Mapping[Condition, Usage],
        per_device: int | None = None,
        jobs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = clock()
        self._devices = [_Device(gpu, settled=now, changed=now) for gpu in gpus]
        self._ram, self._per_device, self._jobs, self._clock = ram, per_device, jobs or math.inf, clock
        self._need = {condition: usage.gpu_bytes for condition, usage in measured.items() if usage.gpu_bytes}
        neighbours = [usage.neighbours for usage in measured.values() if usage.neighbours is not None]
        self._usual = per_device or (1 + round(median(neighbours)) if neighbours else 1)
        self._is_measured = bool(neighbours)
        self._limit: dict[Condition, int] = {}
        """How many trials there may be on a GPU with one of this condition: what running out of memory taught."""
        self._epoch_seconds: dict[tuple[Condition, int], list[float]] = defaultdict(list)
        self._trial_seconds: dict[tuple[Condition, int], list[float]] = defaultdict(list)
        """By condition and number of trials on the GPU, itself included."""
        self._tables = ((self._epoch_seconds, ENOUGH_EPOCHS), (self._trial_seconds, 1))

    @property
    def capacity(self) -> int:
        """As many as there are now; before, as there were in the mean when earlier trials ran, else one per GPU."""
        return int(min(self._jobs, max(self._usual * len(self._devices), self._num_running)))

    @property
    def where(self) -> str:
        num_gpus = len(self._devices)
        unknown = "" if self._per_device or self._is_measured else " until it shows that more fit and help"
        each = f"{self._usual} trial{'s' * (self._usual != 1)} on each{unknown}"
        most = f", {self._jobs} in all" if self._jobs < self._usual * num_gpus else ""
        return f"{num_gpus} GPU{'s' * (num_gpus != 1)} ({each}{most})"

    @property
    def is_full(self) -> bool:
        return self._num_running >= self._jobs

    @property
    def _num_running(self) -> int:
        return sum(len(device.residents) for device in self._devices)

    def take(self, condition: Condition) -> Slot | None:
        """See Places. Of the GPUs that would take it, the one with the fewest trials."""
        running = [resident.condition for device in self._devices for resident in device.residents]
        if self.is_full or (running and not self._ram.holds([*running, condition])):
            return None
        willing = [device for device in self._devices if self._takes(device, condition)]
        if not willing:
            return None
        device = min(willing, key=lambda each: len(each.residents))
        left = device.room - self._filled(device)
        fenced = bool(device.residents) and condition not in self._need and self._per_device is None
        share = left / device.gpu.memory_bytes if fenced and device.gpu.memory_bytes else 1.0
        numbers = {resident.slot.place for resident in device.residents}
        place = next(number for number in range(len(numbers) + 1) if number not in numbers)
        label = device.gpu.label + (f" #{place + 1}" if place else "")
        slot = Slot(label, device.gpu.uuid, place=place, memory_share=share)
        now = self._clock()
        device.change(now)
        level = len(device.residents) + 1
        device.residents.append(_Resident(condition, slot, now, level, device.crowd, fenced))
        for resident in device.residents:
            resident.most = max(resident.most, level)
        return slot

    def saw(self, slot: Slot, events: Iterable[Json]) -> None:
        """See Places."""
        device, resident = self._find(slot)
        for event in events:
            if event["event"] == "gpu_memory":
                resident.peak_bytes = event["peak_bytes"]
            elif event["event"] == "resumed":
                resident.resumed = True
            elif event["event"] == "epoch" and "uptime_seconds" in event:  # else it is of an attempt before
                self._saw_epoch(device, resident, event)
        if resident.epochs >= 2 and resident.peak_bytes:
            known = self._need.get(resident.condition, 0)
            self._need[resident.condition] = max(known, resident.peak_bytes)

    def _saw_epoch(self, device: _Device, resident: _Resident, event: Json) -> None:
        seconds = event["train_seconds"] + event["eval_seconds"]
        resident.epochs += 1
        if resident.epochs == 1:  # its process started, its kernels were loaded and chosen: now it runs like the others
            device.settled = max(device.settled, event["uptime_seconds"])
        elif (
            seconds > 0
            and all(each.epochs for each in device.residents)
            and event["uptime_seconds"] - seconds >= device.settled
        ):
            self._epoch_seconds[resident.condition, len(device.residents)].append(seconds)

    def release(self, slot: Slot, usage: Usage | None = None) -> None:
        """See Places."""
        device, resident = self._find(slot)
        now, level = self._clock(), len(device.residents)
        device.change(now)
        device.residents.remove(resident)
        device.ended[level] += len(self._epoch_seconds.get((resident.condition, level), ())) < ENOUGH_EPOCHS
        if usage is None:
            return
        self._ram.learn(resident.condition, usage)
        if usage.gpu_bytes:
            self._need[resident.condition] = max(self._need.get(resident.condition, 0), usage.gpu_bytes)
        if resident.epochs and not resident.resumed and now > resident.since:
            among = (device.crowd - resident.crowd) / (now - resident.since)
            if abs(among - round(among)) <= 0.25:
                self._trial_seconds[resident.condition, round(among)].append(now - resident.since)

    def out_of_memory(self, slot: Slot, numbers: Json) -> str | None:
        """See Places."""
        device, resident = self._find(slot)
        self.release(slot)
        if resident.most == 1:
            return shortage(device.gpu, numbers)
        condition = resident.condition
        fewer = 1 if resident.fenced else resident.most - 1
        self._limit[condition] = min(self._limit.get(condition, fewer), fewer)
        wanted = (numbers["reserved_bytes"] or 0) + (numbers["requested_bytes"] or 0)
        self._need[condition] = max(self._need.get(condition, 0), wanted)
        return None

    def _find(self, slot: Slot) -> tuple[_Device, _Resident]:
        return next((d, r) for d in self._devices for r in d.residents if r.slot == slot)

    def _filled(self, device: _Device) -> float:
        return sum(max(self._need.get(each.condition, 0), each.peak_bytes) for each in device.residents)

    def _takes(self, device: _Device, condition: Condition) -> bool:
        there = [resident.condition for resident in device.residents]
        if not there:
            return True
        together = [*there, condition]
        if len(together) > min(self._limit.get(each, math.inf) for each in together):
            return False
        if self._per_device is not None:
            return len(together) <= self._per_device
        return self._has_memory(device, condition) and self._pays(device, together)

    def _has_memory(self, device: _Device, condition: Condition) -> bool:
        if any(resident.condition not in self._need for resident in device.residents):
            return False
        need = self._need.get(condition, UNMEASURED_ROOM * device.room)
        return self._filled(device) + need <= device.room

    def _pays(self, device: _Device, together: Sequence[Condition]) -> bool:
        """Whether one more trial would be worth it, or has to be tried to know."""
        level = len(together)
        if gains := self._gains(together, level):
            return fmean(gains) >= GAIN
        # Before the next step, this one has to have shown itself; or trials are too short to show anything.
        *there, _ = together
        if level == 2 and any(len(table.get((there[0], 1), ())) >= enough for table, enough in self._tables):
            return True
        if gains := self._gains(there, level - 1):
            return fmean(gains) >= GAIN
        return device.ended[level - 1] >= level - 1

    def _gains(self, conditions: Iterable[Condition], level: int) -> list[float]:
        """Work per second among `level` trials over that among one less, where trials of a condition show it."""
        found = []
        for condition in conditions:
            for table, enough in self._tables:
                fewer, more = (table.get((condition, among), ()) for among in (level - 1, level))
                if min(len(fewer), len(more)) >= enough:
                    found.append(level / (level - 1) * median(fewer) / median(more))
                    break
        return found


def places(
    gpus: Sequence[Gpu],
    *,
    measured: Mapping[Condition, Usage],
    jobs: int | None = None,
    threads: int = 1,
    per_device: int | None = None,
) -> Places:
    """The GPUs, or without any the CPU: as many slots as cores divided by a trial's threads, or `jobs`.

    Raises DeviceError where so many trials per GPU are asked for and there is none.
    """
    ram = Ram(free_ram(), measured)
    if gpus:
        return SharedGpus(gpus, ram, measured=measured, per_device=per_device, jobs=jobs)
    if per_device is not None:
        raise DeviceError(f"--slots-per-gpu {per_device}: no GPU is visible; on the CPU, --jobs says how many at once")
    return FixedSlots(cpu_slots(jobs=jobs, threads=threads), ram)


def shortage(gpu: Gpu, numbers: Json) -> str:
    """What to say of a trial that had the GPU to itself and still ran out of memory; numbers: see Places."""
    requested, free, total, reserved = (numbers[f"{name}_bytes"] for name in ("requested", "free", "total", "reserved"))
    if requested is None or free is None or total is None:
        return f"out of memory with {gpu.label} to itself: {numbers['message']}"
    more = max(requested - free, 0)
    others = max(total - free - reserved, 0)
    return (
        f"out of memory with {gpu.label} to itself: needs at least {size(more)} more than its {size(total)} (tried to "
        f"allocate {size(requested)} with {size(free)} free, {size(reserved)} its own, {size(others)} in use by others "
        f"and by CUDA itself)"
    )


def free_ram(root: Path = Path("/")) -> float:
    """Bytes of memory that this process and its children may still use; infinite where the system does not say.

    What the machine has available, or less where a control group (a container, a batch job) limits it.
    """
    limits = [math.inf]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            base, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        own = Path(path.lstrip("/"))
        for group in (own, *own.parents):  # in a container the path may be the host's, and the group that of the root
            folder = root / base / group
            statistics = dict(line.split() for line in _lines(folder / "memory.stat"))
            for most, now in zip(_lines(folder / limit), _lines(folder / used), strict=False):
                if most != "max":  # pages of files that nobody needs now are given back when memory is short
                    limits.append(int(most) - int(now) + int(statistics.get(cache, 0)))
    return max(0.0, min(limits))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
