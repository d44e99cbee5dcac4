"""What a trial costs beside a bare PyTorch loop of the same steps, and what a second worker adds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.execution import local, supervisor
from bench.execution.devices import cpu_slots, num_cores
from bench.execution.packing import FixedSlots
from bench.execution.task import DataPaths, Task, start_trial
from bench.perf.spread import quartiles
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.training.policy import CheckpointPolicy

SUITE = """\
name: perf
question: What does a digits trial cost?
seeds: {seeds}
base:
  dataset: digits
  model: mlp
  training: {{epochs: {epochs}, batch_size: 64, lr: 0.1, weight_decay: 5e-4}}
methods: [mixup]
baseline: mixup
"""


def bare_loop(answer: Any, epochs: int) -> None:
    """The digits trial as one writes it by hand: resident float tensors, mixup, cosine, errors after each epoch."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits
    from torch import nn

    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32)
    x, y = (x - x[:900].mean()) / x[:900].std(), torch.tensor(labels)
    splits = (torch.arange(900, 1000), torch.arange(1000, 1797))
    started = time.perf_counter()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15 * epochs)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(900), 64):
            batch, targets = x[rows], y[rows]
            lam, perm = rng.beta(1, 1), torch.randperm(len(rows))
            logits = model(lam * batch + (1 - lam) * batch[perm])
            loss = lam * F.cross_entropy(logits, targets) + (1 - lam) * F.cross_entropy(logits, targets[perm])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            for rows in splits:
                logits = model(x[rows])
                (logits.argmax(1) != y[rows]).float().mean().item()
                F.cross_entropy(logits, y[rows]).item()
    answer.send(time.perf_counter() - started)


def trial_against_loop(folder: Path, *, epochs: int, rounds: int) -> list[tuple[float, float, float]]:
    """Per round, seconds of a whole trial process from fork to exit, of its training alone, and of the bare loop."""
    suite = folder / "perf.yaml"
    suite.write_text(SUITE.format(seeds=rounds + 1, epochs=epochs))
    plan, store = make_plan(load_suite(suite)), Store(folder / "loop")
    context = local.forkserver()
    template = Task({}, folder, plan.trials[0].evaluations, True, 1, _data(folder), CheckpointPolicy())
    measured = []
    for planned in plan.trials:
        trial = store.trial(planned.trial_id)
        trial.create(planned.trial.record())
        whole = _seconds(context, start_trial, replace(template, record=planned.trial.record(), folder=trial.path))
        final = trial.final()
        assert final is not None
        answer, end = context.Pipe(duplex=False)
        _seconds(context, bare_loop, end, epochs)
        measured.append((whole, final["train_seconds"], answer.recv()))
    return measured[1:]  # the first round warms up: imports of the forkserver, the data cache


def throughput(folder: Path, *, epochs: int, seeds: int, rounds: int) -> list[tuple[float, float]]:
    """Per round, trials per minute with one worker and with two, on the same trials."""
    suite = folder / "throughput.yaml"
    suite.write_text(SUITE.format(seeds=seeds, epochs=epochs))
    plan = make_plan(load_suite(suite))
    measured = []
    for round_ in range(rounds):
        per_minute = []
        for workers in (1, 2):
            store = Store(folder / f"workers{workers}-{round_}")
            engine = local.LocalEngine(FixedSlots(cpu_slots(jobs=workers)))
            settings = supervisor.Settings(_data(folder), CheckpointPolicy(), False, {})
            started = time.perf_counter()
            supervisor.run(plan, store, engine, settings, _Silent())
            per_minute.append(60 * len(plan.trials) / (time.perf_counter() - started))
        measured.append((per_minute[0], per_minute[1]))
    return measured


def supervision(folder: Path, *, slots: int, seeds: int) -> float:
    """Seconds of the supervisor's own CPU time for each of `seeds` trials of two epochs."""
    suite = folder / "supervision.yaml"
    suite.write_text(SUITE.format(seeds=seeds, epochs=2))
    plan, store = make_plan(load_suite(suite)), Store(folder / "supervision")
    engine = local.LocalEngine(FixedSlots(cpu_slots(jobs=slots)))
    settings = supervisor.Settings(_data(folder), CheckpointPolicy(), False, {})
    started = time.process_time()
    supervisor.run(plan, store, engine, settings, _Silent())
    return (time.process_time() - started) / len(plan.trials)


class _Silent:
    def update(self, state: supervisor.RunState) -> None:
        """Show nothing: drawing would be measured too."""


def _seconds(context: Any, target: Callable[..., None], *arguments: Any) -> float:
    started = time.perf_counter()
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, f"{target.__name__} ended with {process.exitcode}"
    return time.perf_counter() - started


def _data(folder: Path) -> DataPaths:
    return DataPaths(folder / "data", folder / "cache")


def section(here: str, *, epochs: int = 60, rounds: int = 9) -> list[str]:
    """A trial of digits/mlp beside a bare loop of its steps, as Markdown; about two minutes on two cores.

    here: hardware and versions.  epochs: as in suites/digits.yaml.
    """
    title = f"**A whole trial: digits/mlp, {epochs} epochs, batch 64, one thread.**"
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as temporary:
        loops = trial_against_loop(Path(temporary), epochs=epochs, rounds=rounds)
        whole_trial = [whole / loop for whole, _, loop in loops]
        training = [train / loop for _, train, loop in loops]
        lines = [
            f"{title} Median and quartiles of {rounds} rounds. {here}",
            "",
            "| | |",
            "|---|---|",
            f"| a bare loop of the same steps | {quartiles([loop for _, _, loop in loops], digits=2)} s |",
            f"| a trial, from fork to exit, over the bare loop | {quartiles(whole_trial, digits=2)} |",
            f"| its training alone, over the bare loop | {quartiles(training, digits=2)} |",
            "| the supervisor's own CPU time per trial, with 16 slots | "
            f"{1000 * supervision(Path(temporary), slots=16, seeds=100):.1f} ms |",
        ]
        if num_cores() > 1:
            pairs = throughput(Path(temporary), epochs=epochs, seeds=10, rounds=max(3, rounds // 3))
            gain = quartiles([two / one for one, two in pairs], digits=2)
            lines.append(f"| trials per minute, two workers over one | {gain} |")
        return lines
