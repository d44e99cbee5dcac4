"""Where the time of a trial's training goes, part by part, and a trace of a few of its steps.

Three passes, because a profiler that writes down every operator slows small ones most, and so would show another trial:
timers around the parts of the loop (spans.py) take turns with nothing at all, epoch by epoch or, where an epoch takes
long, step by step; then a few steps and batches are traced.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from bench.data.image_folder import decoders
from bench.data.streaming import BATCH_SIZE as STREAMED_AT_ONCE
from bench.data.streaming import Streamed
from bench.errors import UserError
from bench.execution.devices import num_cores
from bench.execution.preparation import load_images, trial_extras
from bench.execution.rerun import NEVER, stored_trial
from bench.execution.task import DataPaths
from bench.plan.trial import Trial
from bench.results.store import TrialFolder
from bench.training import data as training_data
from bench.training import loop
from bench.training.compiled import keep_compiled_code
from bench.training.data import TrialData, draw_epoch, prepare
from bench.training.policy import CheckpointPolicy
from bench.training.spans import BACKWARD, CHECKPOINT, EVALUATION, OTHER, PARTS, Spans, bindings, patch

SECONDS = 4.0
"""Of measuring."""
LONG_EPOCH_SECONDS = 1.0
"""From here on an epoch is not measured whole."""
LEAST_PAIRS = 3
"""Epochs or steps with the timers and without, however long they take."""
WARM_STEPS, TRACED_STEPS, TRACED_BATCHES = 3, 10, 3
TOP = 10
IDLE = "idle"
DEFAULT_POLICY = CheckpointPolicy()


class _Enough(Exception):
    """Ends a training that has shown what it was to show."""


@dataclass(frozen=True)
class _Subject:
    trial: Trial
    data: TrialData
    scratch: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def device(self) -> torch.device:
        return self.data.images.device

    @property
    def steps(self) -> int:
        """In an epoch."""
        n = len(self.data.train)
        return loop.steps_in_epoch(n, min(self.trial.training.batch_size, n))

    @property
    def evaluated_images(self) -> int:
        """After an epoch."""
        return len(self.data.val) + len(self.data.test_images)

    @property
    def evaluated_at_once(self) -> int:
        if isinstance(self.data.images, Streamed):
            return STREAMED_AT_ONCE
        return loop.evaluation_batch(self.trial.training, self.device)

    def train(self, look: Callable[[], bool]) -> None:
        """From the beginning in a folder of its own, to the end or until `look`, called at every step, has enough."""
        folder = TrialFolder(self.scratch / str(next(self.numbers)))
        folder.path.mkdir()
        with suppress(_Enough, loop.Interrupted):
            loop.train(self.trial, self.data, folder=folder, policy=NEVER, stop_requested=look)

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass(frozen=True)
class Shares:
    """Seconds of an epoch by part, which sum to the epoch; what they come from.

    plain_seconds, timed_seconds: an epoch, or a step of one that is long, without the timers and with them.
    """

    seconds: dict[str, float]
    basis: str
    unit: str
    plain_seconds: float
    timed_seconds: float


def profile_trial(
    folder: TrialFolder,
    paths: DataPaths,
    *,
    device: str,
    out: Path,
    say: Callable[[str], None],
    seconds: float = SECONDS,
) -> Path:
    """Train some of the trial in a temporary folder, say where the time went, and write a trace for Perfetto.

    out: the folder for the trace, <trial_id>.trace.json.gz. Returns its path. The stored result is not touched. Raises
    UserError where the trial cannot be trained here: its record, its data, or the device is missing.
    """
    trial = stored_trial(folder)
    if device == "cuda" and trial.training.cuda_graph:
        raise UserError("cuda_graph replays each step as a whole: on a GPU its parts cannot be told apart")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no GPU here; leave out --device")
    if trial.training.compile:
        keep_compiled_code(paths.cache_root)
    arrays = load_images(paths, trial.dataset)
    extras = trial_extras(paths, trial, arrays)
    # As in a run: on the CPU each core has a trial, on a GPU all cores decode for it.
    processes = decoders(num_cores(), trials=num_cores() if device == "cpu" else 1)
    data = prepare(trial, arrays, device=torch.device(device), extras=extras, decoders=processes)
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as temporary:
        subject = _Subject(trial, data, Path(temporary))
        by_steps = subject.steps > WARM_STEPS + 2 * LEAST_PAIRS
        by_steps &= _step_seconds(subject) * subject.steps > LONG_EPOCH_SECONDS
        shares = _of_some_steps(subject, seconds) if by_steps else _of_whole_epochs(subject, seconds)
        out.mkdir(parents=True, exist_ok=True)
        trace = out / f"{folder.trial_id}.trace.json.gz"
        traced = _trace(subject, trace)
    if subject.device.type == "cuda":
        shares = _on_gpu(shares, subject, traced)
    for line in (*shares_lines(shares, save_seconds=traced.save_seconds), *_operator_lines(traced)):
        say(line)
    say(f"trace  {trace.absolute()}  (open it at https://ui.perfetto.dev)")
    return trace


def _step_seconds(subject: _Subject) -> float:
    """Roughly: the quickest of a few, the first ones of which also warm up."""
    times: list[float] = []

    def look() -> bool:
        times.append(subject.now())
        if len(times) > WARM_STEPS + 2:
            raise _Enough
        return False

    subject.train(look)
    return min((b - a for a, b in itertools.pairwise(times)), default=0.0)


class _Epochs:
    """Epochs with the timers and without, in turn; which of two comes first is drawn, as some epochs do more."""

    def __init__(self, subject: _Subject) -> None:
        self.spans = Spans()
        self.seconds: dict[bool, list[float]] = {False: [], True: []}
        self._subject = subject
        self._turns = _turns()
        self._began: float | None = None
        self._timed = False
        self._timers = ExitStack()

    @property
    def pairs(self) -> int:
        return min(map(len, self.seconds.values()))

    def begin(self) -> None:
        self._timed = next(self._turns)
        if self._timed:
            self._timers.enter_context(self.spans.installed(self._subject.trial.method))
            self._timers.enter_context(self.spans.running())
        self._began = self._subject.now()

    def end(self) -> None:
        if self._began is not None:
            self.seconds[self._timed].append(self._subject.now() - self._began)
            self._began = None
        self._timers.close()


def _of_whole_epochs(subject: _Subject, seconds: float) -> Shares:
    epochs, deadline = _Epochs(subject), time.perf_counter() + seconds

    def next_epoch(*arguments: Any) -> Any:
        epochs.end()
        if epochs.pairs >= LEAST_PAIRS and time.perf_counter() > deadline:
            raise _Enough
        epochs.begin()
        return training_data.draw_epoch(*arguments)  # by its name there, around which the timer is

    with ExitStack() as undo:
        for owner, name in bindings(draw_epoch):
            if owner is not training_data:
                patch(undo, owner, name, next_epoch)
        undo.callback(epochs.end)
        while epochs.pairs < LEAST_PAIRS or time.perf_counter() < deadline:
            subject.train(lambda: False)
            epochs.end()
    count = len(epochs.seconds[True])
    return Shares(
        {part: total / count for part, total in epochs.spans.seconds.items()},
        f"{count} epochs of {subject.steps} steps",
        "an epoch",
        statistics.median(epochs.seconds[False]),
        statistics.median(epochs.seconds[True]),
    )


def _of_some_steps(subject: _Subject, seconds: float) -> Shares:
    """Of the first steps of an epoch and of some batches that are evaluated, as many times as an epoch has them."""
    spans, turns = Spans(), _turns()
    wall: dict[bool, list[float]] = {False: [], True: []}
    deadline = time.perf_counter() + seconds
    calls, timed, began = 0, False, 0.0

    def look() -> bool:
        nonlocal calls, timed, began
        calls += 1
        if calls > WARM_STEPS:
            wall[timed].append(subject.now() - began)
            if timed:
                spans.stop()
        enough = min(map(len, wall.values())) >= LEAST_PAIRS and time.perf_counter() > deadline
        if enough or calls >= subject.steps - 1:
            raise _Enough
        if calls >= WARM_STEPS:
            timed, began = next(turns), subject.now()
            if timed:
                spans.start()
        return False

    # The timers stay where they are, as an epoch keeps some of what its first step found; only every other step is
    # counted.
    with spans.installed(subject.trial.method):
        subject.train(look)
    count = len(wall[True])
    per_step = {part: total / count for part, total in spans.seconds.items()}
    evaluated, images = _evaluation_seconds(subject, seconds / 2)
    found = {part: subject.steps * second for part, second in per_step.items()}
    found[EVALUATION] += evaluated * subject.evaluated_images / images
    return Shares(
        found,
        f"{count} of an epoch's {subject.steps} steps and {images} of its {subject.evaluated_images} evaluated images",
        "a step",
        statistics.median(wall[False]),
        statistics.median(wall[True]),
    )


def _evaluation_seconds(subject: _Subject, seconds: float) -> tuple[float, int]:
    """What evaluating some test images takes, and how many they were."""
    model = loop.placed_model(subject.trial, subject.data)
    marks: list[float] = []

    def looked() -> None:
        marks.append(subject.now())
        if len(marks) > 2 and marks[-1] - marks[0] > seconds:
            raise _Enough

    with suppress(_Enough):
        loop.predict(model, subject.data, subject.data.test_images, trial=subject.trial, looked=looked)
        marks.append(subject.now())
    batches = len(marks) - 1
    return marks[-1] - marks[0], min(batches * subject.evaluated_at_once, len(subject.data.test_images))


def _turns() -> Iterator[bool]:
    """False and True in pairs, in a drawn order."""
    rng = random.Random(0)
    while True:
        first = rng.random() < 0.5
        yield from (first, not first)


@dataclass(frozen=True)
class _Traced:
    """steps, images: how many were trained and evaluated meanwhile.  save_seconds: of the one checkpoint."""

    profiler: Any
    steps: int
    images: int
    save_seconds: float


def _trace(subject: _Subject, path: Path) -> _Traced:
    """Write a trace of some steps, a checkpoint and some evaluated batches, with the parts as named ranges."""
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints that it starts, stops, and finds no GPU
    profiler = torch.profiler.profile(activities=activities)
    spans, looks, batches = Spans(recorded=True), 0, 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == WARM_STEPS:
            subject.now()
            profiler.start()
            spans.start()
        return looks >= WARM_STEPS + TRACED_STEPS

    def looked() -> None:
        nonlocal batches
        if batches == TRACED_BATCHES:
            raise _Enough
        batches += 1

    with spans.installed(subject.trial.method):
        while not spans.calls[CHECKPOINT]:
            subject.train(look)
        model = loop.placed_model(subject.trial, subject.data)
        with suppress(_Enough):
            loop.predict(model, subject.data, subject.data.test_images, trial=subject.trial, looked=looked)
        subject.now()
        spans.stop()
        profiler.stop()
    profiler.export_chrome_trace(str(path))
    steps = spans.calls[BACKWARD]
    batches += looks - WARM_STEPS - steps  # where an epoch ended meanwhile
    return _Traced(profiler, steps, batches * subject.evaluated_at_once, spans.seconds[CHECKPOINT])


def _on_gpu(shares: Shares, subject: _Subject, traced: _Traced) -> Shares:
    """The same epoch by what the GPU did in it: the host only hands out its work, and is ahead of it."""
    found = device_seconds(traced.profiler.events())
    found.pop(CHECKPOINT)
    images = min(traced.images, subject.evaluated_images)
    for part in found:
        found[part] *= subject.evaluated_images / images if part == EVALUATION else subject.steps / traced.steps
    idle = max(0.0, sum(shares.seconds.values()) - sum(found.values()))
    basis = f"busy time of the GPU in {traced.steps} traced steps; idle: what is left of {shares.basis}"
    return replace(shares, seconds={**found, IDLE: idle}, basis=basis)


def device_seconds(events: Iterable[Any]) -> dict[str, float]:
    """Seconds that the GPU was busy with what each part gave it to do, by the innermost range that did so.

    events: torch's FunctionEvents. Autograd gives out backward's work in a thread of its own, so a range is found by
    the clock and not by the thread.
    """
    events = [event for event in events if event.device_type.name == "CPU"]
    ranges = sorted(
        (event.time_range.start, event.time_range.end, event.name) for event in events if event.name in PARTS
    )
    found = dict.fromkeys(PARTS, 0.0)
    for event in events:
        if event.kernels:
            at = event.time_range.start
            around = [name for start, end, name in ranges if start <= at <= end]
            found[around[-1] if around else OTHER] += sum(kernel.duration for kernel in event.kernels) / 1e6
    return found


def shares_lines(shares: Shares, *, save_seconds: float) -> Iterator[str]:
    """The table: seconds of an epoch and percent, which sum to 100.0 to the last digit.

    save_seconds: of one checkpoint; a run writes one a minute, so that an epoch has its share of one.
    """
    epoch = sum(seconds for part, seconds in shares.seconds.items() if part != CHECKPOINT)
    seconds = {**shares.seconds, CHECKPOINT: save_seconds * epoch / DEFAULT_POLICY.seconds}
    total = sum(seconds.values())
    digits = max(2, 3 - math.floor(math.log10(total)))
    yield f"where an epoch's time goes ({shares.basis})"
    yield f"  {'part':<12} {'seconds':>10} {'share':>8}"
    for (part, value), percent in zip(seconds.items(), percents(list(seconds.values())), strict=True):
        yield f"  {part:<12} {value:>10.{digits}f} {percent:>6.1f} %"
    yield f"  {'all':<12} {total:>10.{digits}f} {100:>6.1f} %"
    plain, timed = 1000 * shares.plain_seconds, 1000 * shares.timed_seconds
    yield f"{shares.unit} takes {plain:.4g} ms, {timed:.4g} ms with the timers ({100 * (timed / plain - 1):+.1f} %)"
    yield f"a checkpoint takes {1000 * save_seconds:.3g} ms, one every {DEFAULT_POLICY.seconds:g} s"


def percents(values: Sequence[float]) -> list[float]:
    """Of the sum, in tenths, that sum to 100.0: what rounding down leaves over goes to the largest remainders."""
    exact = [1000 * value / sum(values) for value in values]
    tenths = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: tenths[i] - exact[i])
    for index in by_remainder[: 1000 - sum(tenths)]:
        tenths[index] += 1
    return [value / 10 for value in tenths]


def _operator_lines(traced: _Traced) -> Iterator[str]:
    """The operators that took longest themselves, without those that they call."""
    on_gpu = ProfilerActivity.CUDA in traced.profiler.activities
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ranges = (*PARTS, "Optimizer.")
    averages = [each for each in traced.profiler.key_averages() if not each.key.startswith(ranges)]
    total = sum(getattr(each, column) for each in averages)
    yield f"operators, of {traced.steps} steps, {traced.images} evaluated images and a checkpoint while traced"
    for each in sorted(averages, key=lambda each: -getattr(each, column))[:TOP]:
        own = getattr(each, column)
        yield f"  {each.key[:52]:<52} {each.count:>6} calls {own / 1000:>9.2f} ms {100 * own / total:>5.1f} %"
