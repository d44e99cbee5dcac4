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
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.data.datasets import Arrays, StreamedSet
from bench.execution import telemetry
from bench.execution.evaluate import PixelNetwork, Predictions, Subject, from_network, from_predictions
from bench.execution.preparation import load_images, trial_extras
from bench.execution.processor import processor_name
from bench.execution.task import BUSY, FAILED, INTERRUPTED, NO_SPACE, OUT_OF_MEMORY, Task
from bench.plan.evaluation import PlannedEvaluation
from bench.plan.trial import Trial
from bench.results.store import (
    Busy,
    Json,
    TrialFolder,
    is_intact,
    is_no_space,
    make_folder,
    sync_folder,
    write_atomically,
    write_json,
)
from bench.training.checkpoint import model_misfit
from bench.training.compiled import keep_compiled_code
from bench.training.data import TrialData, prepare
from bench.training.loop import Interrupted, configure_torch, placed_model, predict, train
from bench.training.summary import curve_metrics, prediction_metrics

ORPHAN_SECONDS = 30.0
"""How long a process whose supervisor is gone may take to write its checkpoint and end."""
HEARTBEAT_SECONDS = 1.0


def work(task: Task) -> None:
    """Exits 0 when the trial is finished, else with one of the statuses in task.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, which then sends SIGTERM
    os.environ["CUDA_VISIBLE_DEVICES"] = task.visible_devices
    folder = TrialFolder(task.folder)
    stop = _stop_requested(folder.heartbeat)
    _redirect_output(folder.path / "output.log")
    status = 0
    try:
        with folder.claim():
            folder.remove_leftovers()
            folder.heartbeat.touch()
            if task.visible_devices:
                telemetry.start(task.visible_devices, folder, memory_share=task.memory_share)
            try:
                run_trial(task, folder, stop)
            finally:
                folder.heartbeat.unlink(missing_ok=True)
    except Busy:
        status = BUSY
    except Interrupted:
        status = INTERRUPTED
    except Exception as error:
        numbers, reason = telemetry.out_of_memory(error), f"{type(error).__name__}: {error}"
        if is_no_space(error):
            reason = f"no space is left, on the disk or in the quota: {reason}"
        with suppress(OSError):  # the disk may be full, read-only or gone: the exit status says what it can
            if numbers is not None:
                folder.append("out_of_memory", attempt=task.attempt, **numbers, traceback=traceback.format_exc())
            else:
                folder.append("failed", attempt=task.attempt, reason=reason, traceback=traceback.format_exc())
        status = NO_SPACE if is_no_space(error) else FAILED if numbers is None else OUT_OF_MEMORY
    _flush_output()
    if status:
        sys.exit(status)


def run_trial(task: Task, folder: TrialFolder, stop_requested: Callable[[], bool]) -> None:
    """Train unless it is trained, evaluate what is not evaluated, and write final.json last."""
    trial = Trial.model_validate(task.record["trial"])
    folder.create(task.record)
    final = folder.final()
    if final is None:
        _train_and_write(task, trial, folder, stop_requested)
    elif final["status"] == "completed":
        _evaluate_finished(task, trial, folder, stop_requested)
    else:
        folder.close(final)


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
    if trial.training.compile:
        keep_compiled_code(task.data.cache_root)
    arrays, data = _data(task, trial)
    trained = train(trial, data, folder=folder, policy=task.policy, stop_requested=stop_requested)
    metrics: dict[str, float] = {}
    predictions = None
    if trained.diverged is None:
        predictions = _predictions(trained.model, data, trial, stop_requested)
        train_logits = predict(trained.model, data, data.images, data.train, trial=trial, looked=stop_requested)
        metrics = curve_metrics(trained.curve) | prediction_metrics(
            test_logits=predictions.test_logits,
            test_labels=predictions.test_labels,
            train_logits=train_logits.cpu(),
            labels=data.labels[data.train].cpu(),
            true_labels=data.true_labels[data.train].cpu(),
        )
        _drop_results_of_another_network(folder, predictions)
        write_atomically(folder.logits, _npz(predictions))
        if data.noise is not None:
            write_json(folder.path / "label_noise.json", data.noise)
        if task.keep_weights or any(evaluation.config.needs_network for evaluation in task.evaluations):
            write_atomically(folder.weights, _weights(trained.model))
        _evaluate_predictions(task, folder, predictions)
    status = "diverged" if trained.diverged else "completed"
    final: Json = {
        "status": status,
        "epochs": len(trained.curve),
        "metrics": metrics,
        "data": data.summary,
        "mixing": trained.mixing,
        "provenance": provenance,
        "train_seconds": sum(line["train_seconds"] for line in trained.curve),
        "total_seconds": _total_seconds(folder.events()[0], time.perf_counter() - started),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "attempts": task.attempt,
        "diverged": trained.diverged,
    }
    if device.type == "cuda":
        final["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    if (gpu := telemetry.record()) is not None:
        final["gpu"] = gpu
    folder.sync_journal()
    folder.write_final(final)
    folder.close(final)
    if predictions is not None:
        # After final.json: an evaluation that fails, or is killed, costs neither the training nor its result.
        _evaluate_network(
            folder, _Subjects(task, trial, folder, stop_requested, arrays, data, trained.model), predictions
        )
        if not task.keep_weights:
            folder.weights.unlink(missing_ok=True)


def _evaluate_finished(task: Task, trial: Trial, folder: TrialFolder, stop_requested: Callable[[], bool]) -> None:
    """Evaluate with the kept network; where it was not kept, or is damaged, train it again."""
    configure_torch(trial.training)
    predictions = _kept_predictions(folder)
    lacking = [evaluation for evaluation in task.evaluations if folder.evaluation(evaluation.key) is None]
    needs_network = predictions is None or any(evaluation.config.needs_network for evaluation in lacking)
    subjects = None
    if task.is_source or (lacking and needs_network):
        arrays, data = _data(task, trial)
        model = _kept_network(folder, trial, data)
        if model is None:
            _train_and_write(task, trial, folder, stop_requested)
            return
        subjects = _Subjects(task, trial, folder, stop_requested, arrays, data, model)
        if predictions is None:
            predictions = _predictions(model, data, trial, stop_requested)
            write_atomically(folder.logits, _npz(predictions))
    final = folder.final()
    assert final is not None
    folder.close(final)
    if predictions is not None:
        _evaluate_predictions(task, folder, predictions)
        if subjects is not None:
            _evaluate_network(folder, subjects, predictions)


@dataclass(frozen=True)
class _Subjects:
    """What is evaluated, and the network of another trial beside it where an evaluation asks for one."""

    task: Task
    trial: Trial
    folder: TrialFolder
    stop_requested: Callable[[], bool]
    arrays: Arrays | StreamedSet
    data: TrialData
    model: nn.Module

    def subject(self, evaluation: PlannedEvaluation, predictions: Predictions) -> Subject | None:
        """None while the other trial is not finished."""
        source = None
        if evaluation.source is not None:
            source = self._source(TrialFolder(self.folder.path.parent / evaluation.source))
            if source is None:
                return None
        return Subject(self.trial, self.data, self.arrays, self.task.data, self.model, predictions, source, self._stop)

    def _source(self, other: TrialFolder) -> PixelNetwork | None:
        """Another trial's network with its own normalisation, which its own training split gave.

        None where it has none, or none that will do: such weights are removed, so that they are made again.
        """
        record = other.record()
        if record is None or other.status(with_weights=True) != "completed":
            return None
        trial = Trial.model_validate(record["trial"])
        _, data = _data(self.task, trial)
        model = _kept_network(other, trial, data)
        if model is None:
            with suppress(Busy), other.claim():
                if _kept_network(other, trial, data) is None:  # it may have been made again by now
                    other.weights.unlink(missing_ok=True)
            return None
        return PixelNetwork(model, data, trial, self._stop)

    def _stop(self) -> None:
        if self.stop_requested():
            raise Interrupted


def _evaluate_predictions(task: Task, folder: TrialFolder, predictions: Predictions) -> None:
    """Write the records that are not there and need no network."""
    for evaluation in task.evaluations:
        if not evaluation.config.needs_network and folder.evaluation(evaluation.key) is None:
            _write_record(folder, evaluation, from_predictions(evaluation, predictions))


def _evaluate_network(folder: TrialFolder, subjects: _Subjects, predictions: Predictions) -> None:
    """Write the records that are not there and need the network.

    One whose other trial is not finished is left to a later attempt. One that fails does not keep the others from their
    records: the first error is raised when all have had their turn.
    """
    errors: list[Exception] = []
    for evaluation in subjects.task.evaluations:
        if not evaluation.config.needs_network or folder.evaluation(evaluation.key) is not None:
            continue
        try:
            subject = subjects.subject(evaluation, predictions)
            if subject is not None:
                _write_record(folder, evaluation, from_network(evaluation, subject))
        except Interrupted:
            raise
        except Exception as error:
            error.add_note(f"in the evaluation {evaluation.kind}")
            errors.append(error)
    if errors:
        raise errors[0]


def _write_record(folder: TrialFolder, evaluation: PlannedEvaluation, record: Json) -> None:
    folder.write_evaluation(evaluation.key, record)
    folder.append("evaluated", kind=evaluation.kind, key=evaluation.key, seconds=record["seconds"])


def _drop_results_of_another_network(folder: TrialFolder, predictions: Predictions) -> None:
    """A trial that is trained again elsewhere may end as another network: what an earlier one gave must not stay.

    Nor may its final.json: should this process be killed now, it would stand beside the records of the new network.
    """
    kept = _kept_predictions(folder)
    if kept is None or not torch.equal(kept.test_logits, predictions.test_logits):
        if folder.final() is not None:
            (folder.path / "final.json").unlink()
            sync_folder(folder.path)
        for record in (folder.path / "evaluations").glob("*.json"):
            record.unlink()


def _data(task: Task, trial: Trial) -> tuple[Arrays | StreamedSet, TrialData]:
    arrays = load_images(task.data, trial.dataset)
    extras = trial_extras(task.data, trial, arrays)
    return arrays, prepare(trial, arrays, device=torch.device(task.device), extras=extras, decoders=task.decoders)


def _predictions(
    model: nn.Module, data: TrialData, trial: Trial, looked: Callable[[], object] = lambda: None
) -> Predictions:
    test_logits = predict(model, data, data.test_images, trial=trial, looked=looked)
    val_logits = predict(model, data, data.images, data.val, trial=trial, looked=looked)
    return Predictions(test_logits.cpu(), data.test_labels.cpu(), val_logits.cpu(), data.labels[data.val].cpu())


def _kept_predictions(folder: TrialFolder) -> Predictions | None:
    """What logits.npz holds; None where it is missing, damaged, or from a version that kept less."""
    if not is_intact(folder.logits):
        return None
    try:
        with np.load(folder.logits) as kept:
            return Predictions(*(torch.from_numpy(kept[field.name]) for field in fields(Predictions)))
    except (KeyError, ValueError):
        return None


def _kept_network(folder: TrialFolder, trial: Trial, data: TrialData) -> nn.Module | None:
    """A finished trial's network, in evaluation mode; None where its weights are missing, damaged or do not fit."""
    if not is_intact(folder.weights):
        return None
    model = placed_model(trial, data)
    state = torch.load(folder.weights, map_location="cpu", weights_only=True)
    if model_misfit(model, state):
        return None
    model.load_state_dict(state)
    return model.eval()


def _stop_requested(heartbeat: Path) -> Callable[[], bool]:
    """Whether to stop: SIGTERM came, or the supervisor is gone. Asked at every step, it touches `heartbeat`.

    The parent process is no sign of the latter: it is the forkserver, which lives while its children do. A process that
    does not ask, because one call takes forever, is ended ORPHAN_SECONDS after its supervisor.
    """
    terminated = False
    touched_at = time.monotonic()

    def terminate(*_: Any) -> None:
        nonlocal terminated
        terminated = True

    def watch(supervisor: Any) -> None:
        connection.wait([supervisor.sentinel])
        terminate()
        time.sleep(ORPHAN_SECONDS)
        os._exit(INTERRUPTED)

    def stop() -> bool:
        nonlocal touched_at
        now = time.monotonic()
        if now - touched_at >= HEARTBEAT_SECONDS:
            touched_at = now
            with suppress(OSError):  # whoever removed it will think that nothing goes on, but it does
                os.utime(heartbeat)
        return terminated

    signal.signal(signal.SIGTERM, terminate)
    if (supervisor := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=[supervisor], name="orphan", daemon=True).start()
    return stop


def _redirect_output(path: Path) -> None:
    """Send what libraries print to a file in the trial's folder instead of through the supervisor's display.

    Nowhere, where there is no room for the file: this is no result, and what is one will say so.
    """
    try:
        make_folder(path.parent)
        target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        if not is_no_space(error):
            raise
        target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _flush_output() -> None:
    """Write what was printed, or forget it: Python would end with a status of its own if that failed at the exit."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


def _total_seconds(events: list[Json], this_attempt: float) -> float:
    """Seconds from start to end, those before an interruption included as far as the journal knows them.

    What was done before the trial was last finished does not count: it is trained again.
    """
    ends = [index for index, event in enumerate(events) if event["event"] == "finished"]
    events = events[ends[-1] + 1 :] if ends else events
    starts = [index for index, event in enumerate(events) if event["event"] == "started"]
    return this_attempt + sum(_attempt_seconds(events[start:end]) for start, end in pairwise(starts))


def _attempt_seconds(events: list[Json]) -> float:
    """How long one attempt took, by a clock that cannot be set; where its journal has none, what its epochs took."""
    if "uptime_seconds" in events[0]:
        ticks = [event["uptime_seconds"] for event in events if "uptime_seconds" in event]
        return float(max(ticks) - ticks[0])
    epochs = [event for event in events if event["event"] == "epoch"]
    return float(sum(event["train_seconds"] + event["eval_seconds"] for event in epochs))


def _npz(predictions: Predictions) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, **{field.name: getattr(predictions, field.name).numpy() for field in fields(predictions)}
    )
    return buffer.getvalue()


def _weights(model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


@cache
def versions() -> dict[str, str]:
    """What could move the numbers of a trial, by package."""
    names = ("mixup-bench", "torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {os.cpu_count()} cores"
