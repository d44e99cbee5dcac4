"""A simulated GPU for real processes: every Python process that has this folder in PYTHONPATH imports it as it starts.

Trials train on the CPU, with the real loop, worker, engine and command line. Simulated are the GPU's memory, which a
trial takes up in its first step (and for want of which a real torch.OutOfMemoryError is raised there), and the time of
a step, which is the same whoever else is on the GPU. nvidia-smi and pynvml have stand-ins of their own.

SIMULATED_GPU: a folder for its state.  SIMULATED_BYTES: what its memory holds.  SIMULATED_TRIAL_BYTES: what one trial
takes.  SIMULATED_STEP_SECONDS: how long a step takes.
"""

import fcntl
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path


def simulate_devices(devices):
    devices.Slot.device = "cpu"


def simulate_memory(telemetry):
    def memory(*, peak_allocated=False):
        return (held["bytes"],) * 3

    telemetry._torch_memory = memory
    telemetry.SAMPLE_SECONDS = 0.1


def simulate_steps(method):
    import torch

    real = method.Method.training_loss

    def training_loss(self, *arguments, **options):
        if os.environ.get("CUDA_VISIBLE_DEVICES"):
            take_memory(torch.OutOfMemoryError)
            time.sleep(float(os.environ.get("SIMULATED_STEP_SECONDS", "0")))
        return real(self, *arguments, **options)

    method.Method.training_loss = training_loss


held = {"bytes": 0}


def take_memory(error):
    """Once per process: its bytes, if the processes that live leave so much."""
    if held["bytes"]:
        return
    wanted, most = int(os.environ["SIMULATED_TRIAL_BYTES"]), int(os.environ["SIMULATED_BYTES"])
    folder = Path(os.environ["SIMULATED_GPU"])
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holders = {path: int(path.read_text()) for path in folder.glob("holder-*")}
        used = sum(size for path, size in holders.items() if Path("/proc", path.name.partition("-")[2]).exists())
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"used": used + wanted, "fits": used + wanted <= most}) + "\n")
        if used + wanted > most:
            free = (most - used) / 2**20
            raise error(
                f"CUDA out of memory. Tried to allocate {wanted / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                f"{most / 2**20:.2f} MiB of which {free:.2f} MiB is free."
            )
        (folder / f"holder-{os.getpid()}").write_text(str(wanted))
        held["bytes"] = wanted


CHANGED = {
    "bench.execution.devices": simulate_devices,
    "bench.execution.telemetry": simulate_memory,
    "bench.mixing.method": simulate_steps,
}


class Finder(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is imported."""

    def find_spec(self, name, path, target=None):
        if name not in CHANGED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        real = spec.loader.exec_module

        def exec_module(module):
            real(module)
            CHANGED[name](module)

        spec.loader.exec_module = exec_module
        return spec


if "SIMULATED_GPU" in os.environ:
    sys.meta_path.insert(0, Finder())
