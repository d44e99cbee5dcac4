"""Which devices there are to train on, asked without importing torch."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from math import ceil

from bench.errors import UserError
from bench.execution.processor import cpu_quota


class DeviceError(UserError):
    """A device that was asked for and is not there."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or one instance of a partitioned one (MIG).

    index: in nvidia-smi, "1", or "1:0" for the first instance of GPU 1.  uuid: what CUDA_VISIBLE_DEVICES gets.
    memory_bytes: of the whole; free_bytes: what no process had when it was asked. None where nvidia-smi does not say.
    """

    index: str
    uuid: str
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None

    @property
    def label(self) -> str:
        return f"GPU {self.index}"


@dataclass(frozen=True)
class Slot:
    """A place where one trial runs at a time.

    visible: the CUDA_VISIBLE_DEVICES of its process, "" for the CPU.  place: which of the slots on its GPU.
    memory_share: how much of its GPU's memory it may use, a fraction.
    """

    label: str
    visible: str = ""
    place: int = 0
    memory_share: float = 1.0

    @property
    def device(self) -> str:
        return "cuda:0" if self.visible else "cpu"


def visible_gpus() -> list[Gpu]:
    """The machine's GPUs, as far as CUDA_VISIBLE_DEVICES lets us see them, in its order."""
    gpus = _all_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for token in filter(None, (part.strip() for part in visible.split(","))):
        found = [gpu for gpu in gpus if token in (gpu.index, gpu.index.partition(":")[0]) or gpu.uuid.startswith(token)]
        if not found:
            break  # as CUDA does: an unknown entry hides itself and all after it
        chosen.append(found[0])  # and the number of a partitioned GPU stands for its first instance
    return chosen


def num_cores() -> int:
    """CPU cores that this process may use: those of its affinity, or what its control groups grant, if that is less.

    A quota of 1.5 cores counts as 2: rounded down, a third of it would lie idle.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS: none
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, ceil(quota)))


def chosen_gpus(devices: str = "auto") -> list[Gpu]:
    """The GPUs for `devices`: "cpu" (none), "auto" (all that are visible), or indices such as "0,1" or "0:1".

    The index of a partitioned GPU stands for all of its instances. Raises DeviceError for a GPU that is not visible.
    """
    if devices == "cpu":
        return []
    gpus = visible_gpus()
    if devices == "auto":
        return gpus
    chosen: list[Gpu] = []
    for token in (part.strip().removeprefix("cuda:") for part in devices.split(",")):
        found = [gpu for gpu in gpus if token in (gpu.index, gpu.index.partition(":")[0])]
        if not found:
            there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
            raise DeviceError(f"--devices {devices}: no GPU {token!r} is visible; there is {there}, and cpu")
        chosen += found
    return chosen


def cpu_slots(*, jobs: int | None = None, threads: int = 1) -> list[Slot]:
    """As many slots as cores divided by a trial's threads, or `jobs`."""
    return [Slot(f"CPU {index}") for index in range(jobs or max(1, num_cores() // threads))]


QUERY = "index,uuid,name,memory.total,memory.free,mig.mode.current"
MIG_INSTANCE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+(?P<place>\d+): \(UUID: (?P<uuid>MIG-[^)]+)\)")
"""A line of `nvidia-smi -L` below its GPU's, such as "  MIG 1g.10gb     Device  0: (UUID: MIG-c6d4...)"."""


def _all_gpus() -> list[Gpu]:
    """Every NVIDIA GPU of the machine; none where nvidia-smi is missing or fails.

    Of a partitioned GPU, its instances: no process can use the whole.
    """
    gpus: list[Gpu] = []
    instances: dict[str, list[Gpu]] | None = None
    for line in _nvidia_smi(f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(QUERY.split(",")):  # a complaint in the place of a GPU
            continue
        index, uuid, name, total, free, mig = fields
        if mig == "Enabled":
            instances = _mig_instances() if instances is None else instances
            gpus += instances.get(uuid, [])
        else:
            gpus.append(Gpu(index, uuid, name, _mebibytes(total), _mebibytes(free)))
    return gpus


def _mig_instances() -> dict[str, list[Gpu]]:
    """The instances of every partitioned GPU by its UUID.

    Their memory is that in the profile's name, a little less than there is: `nvidia-smi -L` does not say more.
    """
    found: dict[str, list[Gpu]] = {}
    index = name = parent = ""
    for line in _nvidia_smi("-L"):
        if gpu := re.match(r"GPU (\d+): (.*) \(UUID: (GPU-[^)]+)\)", line):
            index, name, parent = gpu.groups()
        elif instance := MIG_INSTANCE.match(line):
            profile = instance["profile"]
            memory = re.search(r"(\d+)gb", profile)
            size = int(memory[1]) * 10**9 if memory else None
            place = f"{index}:{instance['place']}"
            each = Gpu(place, instance["uuid"], f"{name} MIG {profile}", size, size)  # as torch names it
            found.setdefault(parent, []).append(each)
    return found


def _nvidia_smi(*arguments: str) -> list[str]:
    try:
        result = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in result.stdout.splitlines() if line.strip()]


def _mebibytes(field: str) -> int | None:
    """A number of MiB in bytes; None for "[N/A]", "[Not Supported]" or "[Insufficient Permissions]"."""
    return int(field) * 2**20 if field.isdigit() else None
