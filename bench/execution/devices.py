"""Which devices there are to train on, asked without importing torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from bench.errors import UserError


class DeviceError(UserError):
    """A device that was asked for and is not there."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its index in nvidia-smi and its UUID, which is what CUDA_VISIBLE_DEVICES gets."""

    index: int
    uuid: str
    name: str


@dataclass(frozen=True)
class Slot:
    """A place where one trial runs at a time. visible: the CUDA_VISIBLE_DEVICES of its process, "" for the CPU."""

    label: str
    visible: str = ""

    @property
    def device(self) -> str:
        return "cuda:0" if self.visible else "cpu"


def visible_gpus() -> list[Gpu]:
    """The machine's GPUs, as far as CUDA_VISIBLE_DEVICES lets us see them, in its order."""
    gpus = _all_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    chosen = []
    for token in filter(None, (part.strip() for part in visible.split(","))):
        found = [gpu for gpu in gpus if token == str(gpu.index) or gpu.uuid.startswith(token)]
        if not found:
            break  # as CUDA does: an unknown entry hides itself and all after it
        chosen.append(found[0])
    return chosen


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def slots(devices: str = "auto", *, jobs: int | None = None, threads: int = 1) -> list[Slot]:
    """The slots for `devices`: "cpu", "auto" (every visible GPU, else the CPU), or GPU indices such as "0,1".

    On the CPU there are as many as cores divided by a trial's threads, or `jobs`; on GPUs one each, at most `jobs`.
    Raises DeviceError for a GPU that is not visible.
    """
    gpus = [] if devices == "cpu" else visible_gpus()
    if devices not in ("auto", "cpu"):
        wanted = [token.strip().removeprefix("cuda:") for token in devices.split(",")]
        by_index = {str(gpu.index): gpu for gpu in gpus}
        for token in wanted:
            if token not in by_index:
                there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
                raise DeviceError(f"--devices {devices}: no GPU {token!r} is visible; there is {there}, and cpu")
        gpus = [by_index[token] for token in wanted]
    if gpus:
        return [Slot(f"GPU {gpu.index}", gpu.uuid) for gpu in gpus][:jobs]
    return [Slot(f"CPU {index}") for index in range(jobs or max(1, num_cores() // threads))]


def _all_gpus() -> list[Gpu]:
    """Every NVIDIA GPU of the machine; none where nvidia-smi is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",", 2)] for line in result.stdout.splitlines() if line.strip()]
    return [Gpu(int(index), uuid, name) for index, uuid, name in rows]
