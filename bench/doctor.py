"""`bench doctor`: does everything that a run needs work here, and if not, what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from bench.execution.devices import num_cores, visible_gpus
from bench.results.store import Store


@dataclass(frozen=True)
class Finding:
    """One check. remedy: what to do where it is not good."""

    good: bool
    text: str
    remedy: str = ""


def examine(store: Store, data_root: Path) -> Iterator[Finding]:
    """Every check in turn; the slow ones (torch, MLflow) last."""
    yield _python()
    yield from _packages()
    yield _cpu()
    yield from _gpus()
    yield _writable("results", store.root)
    yield _writable("data root", data_root)
    yield _store(store)
    yield _tried("torch", _torch)
    yield _tried("precision", _precision)
    yield _mlflow(store)


def _python() -> Finding:
    text = f"Python {sys.version.split()[0]} in {sys.prefix}"
    return Finding(sys.version_info >= (3, 11), text, "Python 3.11 or newer is needed")


def _packages() -> Iterator[Finding]:
    for line in requires("mixup-bench") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(False, f"{requirement.name} is missing", "make install")
            continue
        yield Finding(requirement.specifier.contains(found), f"{requirement.name} {found}", f"needs {requirement}")


def _cpu() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding(True, f"{num_cores()} CPU cores, {memory:.0f} GB memory")


def _gpus() -> Iterator[Finding]:
    gpus = visible_gpus()
    if not gpus:
        yield Finding(True, "no NVIDIA GPU is visible: trials run on the CPU")
    for gpu in gpus:
        memory = ""
        if gpu.memory_bytes is not None and gpu.free_bytes is not None:
            memory = f", {gpu.free_bytes / 1e9:.0f} of {gpu.memory_bytes / 1e9:.0f} GB memory free"
        yield Finding(True, f"{gpu.label}: {gpu.name}{memory}")


def _writable(what: str, folder: Path) -> Finding:
    """A folder that is there, or whose nearest parent lets us make it."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    good = there.is_dir() and os.access(there, os.W_OK)
    reading = there == folder and there.is_dir() and os.access(there, os.R_OK)
    if what == "data root" and reading and not good:
        return Finding(True, f"{what} {folder} is read-only: what is there is used, nothing is downloaded")
    state = "" if folder.exists() else " (made when needed)"
    return Finding(good, f"{what} {folder}{state}", f"{there} is not writable: choose another with the option")


def _store(store: Store) -> Finding:
    ids = store.trial_ids()
    torn = [i for i in ids if store.trial(i).record() is None]
    text = f"result store: {len(ids)} trials"
    return Finding(not torn, text, f"no readable trial.json in {', '.join(torn[:3])}: delete these folders")


def _torch() -> str:
    import torch

    result = torch.nn.functional.cross_entropy(torch.zeros(1, 10), torch.tensor([3]))
    where = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU"
    if visible_gpus() and not torch.cuda.is_available():
        raise RuntimeError(
            f"the driver has a GPU and torch {torch.__version__} cannot use it: run with --devices cpu, or install a "
            f"torch build that fits the driver"
        )
    assert abs(result.item() - 2.302585) < 1e-5, "cross-entropy gives a wrong number"
    return f"torch computes on the {where}"


def _precision() -> str:
    from bench.perf.precision import bf16_gain

    gain = bf16_gain()
    if gain > 1:
        return (
            f"precision: bf16 makes convolutions {gain:.1f} times as fast on this CPU; its results differ in rounding"
        )
    return f"precision: bf16 makes convolutions slower on this CPU ({gain:.2f} times as fast): leave it at fp32"


def _mlflow(store: Store) -> Finding:
    from bench.results.mlflow import count_experiments, default_tracking_uri, mlflow_error
    from bench.results.mlflow_access import login, without_secrets

    uri = default_tracking_uri(store)
    who = login(uri) if uri.startswith("http") else ""
    text = f"MLflow at {without_secrets(uri)}{who and f', as {who}'}"
    try:
        return Finding(True, f"{text}: {count_experiments(uri)} experiments")
    except Exception as error:
        return Finding(False, text, mlflow_error(error, uri))


def _tried(what: str, examination: Callable[[], str]) -> Finding:
    try:
        return Finding(True, examination())
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return Finding(False, f"{what}: {type(error).__name__}", first)
