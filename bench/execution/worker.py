"""The process of one trial: claim it, train it, evaluate it, write its results, end."""

from __future__ import annotations

import io
import multiprocessing
import os
import platform
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data import datasets
from bench.data.datasets import Arrays, DataError
from bench.evaluation.evaluations import EVALUATIONS
from bench.execution.task import BUSY, FAILED, INTERRUPTED, DataPaths, Task
from bench.plan.config import DatasetConfig
from bench.plan.trial import Trial
from bench.results.store import Busy, Json, TrialFolder, write_atomically
from bench.training.data import prepare
from bench.training.loop import Interrupted, Trained, predict, train
from bench.training.summary import curve_metrics, prediction_metrics


def load_arrays(data: DataPaths, dataset: DatasetConfig) -> Arrays:
    """The data set's memory-mapped arrays; decoded into the cache if they are not there yet."""
    return datasets.load(
        dataset.name,
        data_root=data.data_root,
        cache_root=data.cache_root,
        root=dataset.root,
        image_size=dataset.image_size,
        test_fraction=dataset.test_fraction,
        fingerprint=dataset.fingerprint,
    )


def prepare_data(data: DataPaths, wanted: Iterable[DatasetConfig]) -> str:
    """Build the cache of every data set before any trial starts. Returns what is wrong with the first that fails."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for dataset in wanted:
        try:
            load_arrays(data, dataset)
        except DataError as error:
            return str(error)
    return ""


def work(task: Task) -> None:
    """Exits 0 when the trial is finished, else with one of the statuses in task.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, which then sends SIGTERM
    stop = _stop_requested()
    os.environ["CUDA_VISIBLE_DEVICES"] = task.visible_devices
    folder = TrialFolder(task.folder)
    _redirect_output(folder.path / "output.log")
    try:
        with folder.claim():
            run_trial(task, folder, stop)
    except Busy:
        sys.exit(BUSY)
    except Interrupted:
        sys.exit(INTERRUPTED)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        folder.append("failed", attempt=task.attempt, reason=reason, traceback=traceback.format_exc())
        sys.exit(FAILED)


def run_trial(task: Task, folder: TrialFolder, stop_requested: Callable[[], bool]) -> None:
    """Train unless it is trained, evaluate what is not evaluated, and write final.json last."""
    trial = Trial.model_validate(task.record["trial"])
    folder.create(task.record)
    final = folder.final()
    if final is None:
        _train_and_write(task, trial, folder, stop_requested)
    elif folder.status(task.evaluations) == "unevaluated":
        with np.load(folder.logits) as kept:
            logits, labels = torch.from_numpy(kept["test_logits"]), torch.from_numpy(kept["test_labels"])
        _evaluate(folder, task.evaluations, logits, labels)


def _train_and_write(task: Task, trial: Trial, folder: TrialFolder, stop_requested: Callable[[], bool]) -> None:
    started = time.perf_counter()
    device = torch.device(task.device)
    provenance = {
        "host": socket.gethostname(),
        "device": device.type,
        "threads": trial.training.threads,
        "versions": versions(),
        "hardware": _hardware(device),
    }
    folder.append("started", attempt=task.attempt, pid=os.getpid(), **provenance)
    data = prepare(trial, load_arrays(task.data, trial.dataset), device=device)
    trained = train(trial, data, folder=folder, policy=task.policy, stop_requested=stop_requested)
    metrics: dict[str, float] = {}
    if trained.diverged is None:
        test_logits = predict(trained.model, data, data.test_images, trial=trial)
        train_logits = predict(trained.model, data, data.images, data.train, trial=trial)
        metrics = curve_metrics(trained.curve) | prediction_metrics(
            test_logits=test_logits,
            test_labels=data.test_labels,
            train_logits=train_logits,
            labels=data.labels[data.train],
            true_labels=data.true_labels[data.train],
        )
        logits, labels = test_logits.cpu(), data.test_labels.cpu()
        write_atomically(folder.logits, _npz(test_logits=logits.numpy(), test_labels=labels.numpy()))
        _evaluate(folder, task.evaluations, logits, labels)
        if task.keep_weights:
            write_atomically(folder.weights, _weights(trained))
    status = "diverged" if trained.diverged else "completed"
    events, _ = folder.events()
    final: Json = {
        "status": status,
        "epochs": len(trained.curve),
        "metrics": metrics,
        "data": data.summary,
        "provenance": provenance,
        "train_seconds": sum(line["train_seconds"] for line in trained.curve),
        "total_seconds": _total_seconds(events, time.perf_counter() - started),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "attempts": task.attempt,
        "diverged": trained.diverged,
    }
    if device.type == "cuda":
        final["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    folder.write_final(final)
    folder.append("finished", status=status)
    folder.checkpoint.unlink(missing_ok=True)


def _evaluate(folder: TrialFolder, kinds: tuple[str, ...], logits: torch.Tensor, labels: torch.Tensor) -> None:
    for kind in kinds:
        if folder.evaluation(kind) is None:
            folder.write_evaluation(kind, {"kind": kind, **EVALUATIONS[kind](logits, labels)})


def _stop_requested() -> Callable[[], bool]:
    """Whether to stop: SIGTERM came, or the supervisor is gone, at which this looks twice a second.

    The parent process is no sign of the latter: it is the forkserver, which lives while its children do.
    """
    supervisor = multiprocessing.parent_process()
    terminated = False
    looked_at = time.monotonic()

    def terminate(*_: Any) -> None:
        nonlocal terminated
        terminated = True

    def stop() -> bool:
        nonlocal terminated, looked_at
        if supervisor is not None and time.monotonic() - looked_at > 0.5:
            looked_at = time.monotonic()
            terminated = terminated or not supervisor.is_alive()
        return terminated

    signal.signal(signal.SIGTERM, terminate)
    return stop


def _redirect_output(path: Path) -> None:
    """Send what libraries print to a file in the trial's folder instead of through the supervisor's display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _total_seconds(events: list[Json], this_attempt: float) -> float:
    """Seconds from start to end, those before an interruption included as far as the journal knows them."""
    starts = [index for index, event in enumerate(events) if event["event"] == "started"]
    earlier = sum(events[end - 1]["time"] - events[start]["time"] for start, end in pairwise(starts))
    return float(earlier + this_attempt)


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _weights(trained: Trained) -> bytes:
    buffer = io.BytesIO()
    torch.save(trained.model.state_dict(), buffer)
    return buffer.getvalue()


@cache
def versions() -> dict[str, str]:
    """What could move the numbers of a trial, by package."""
    names = ("mixup-bench", "torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"
