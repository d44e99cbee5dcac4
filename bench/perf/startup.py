"""`python -m bench.perf.startup`: what a run takes before its first step, and what a trial takes beside its training.

Every round has a results folder of its own, with the data decoded already, and the parts of a round follow each other,
so that a shared or throttled machine slows all alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from bench.execution import local
from bench.execution.task import DataPaths, Task, start_trial
from bench.perf.spread import extremes
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Json, Store
from bench.training.policy import CheckpointPolicy

SUITE = """\
name: startup
question: What is there beside training?
seeds: {seeds}
base:
  dataset: digits
  model: {network}
  training: {{epochs: {epochs}, batch_size: 64, lr: 0.1}}
methods: [mixup]
baseline: mixup
"""

Seconds = dict[str, list[float]]
"""Of each part, in every round."""


def startup_seconds(folder: Path, *, network: str = "mlp", epochs: int = 60, rounds: int = 5) -> Seconds:
    """What starts a run, and what surrounds a trial's training, on digits with one trial at a time.

    Of the commands, from their own start: `imports: ...` in a bare Python; `run: first step` of the first trial, and
    `run: first step, mlflow` where it is published meanwhile; `run: exit` from the last trial's end to the command's.
    Of a trial whose process is forked from a warm forkserver: `trial: start` to the journal's first line, `trial: set
    up` to its first step, `trial: training`, `trial: results` to the journal's last line, and `trial: exit`.
    """
    suite = folder / "startup.yaml"
    suite.write_text(SUITE.format(seeds=rounds + 1, network=network, epochs=epochs))
    warm = folder / "warm"
    _command("run", suite, "--results", warm, "--no-mlflow", "--no-report", "--max-trials", 1)
    found: Seconds = {}
    forked = iter(_forked(folder, suite, warm / "cache"))
    next(forked)  # imports of the forkserver
    for round_ in range(rounds):
        seconds = {f"imports: {module}": _seconds("-c", f"import {module}") for module in MODULES}
        for name, options in (("run", ["--no-mlflow"]), ("run, mlflow", [])):
            results = folder / f"{name}-{round_}"
            shutil.copytree(warm / "cache", results / "cache")
            began, ended = _command(
                "run", suite, "--results", results, "--no-report", "--max-trials", 2, "--jobs", 1, *options
            )
            trials = [store_trial.events()[0] for store_trial in map(Store(results).trial, Store(results).trial_ids())]
            seconds[f"{name}: first step"] = min(map(_first_step, trials)) - began
            seconds[f"{name}: exit"] = ended - max(events[-1]["uptime_seconds"] for events in trials)
        for part, value in (seconds | next(forked)).items():
            found.setdefault(part, []).append(value)
    return found


MODULES = ("bench.cli", "bench.execution.supervisor", "bench.execution.preload")


def _forked(folder: Path, suite: Path, cache: Path) -> Iterator[dict[str, float]]:
    """The parts of one trial after the other."""
    plan, store, context = make_plan(load_suite(suite)), Store(folder / "forked"), local.forkserver()
    data = DataPaths(folder / "data", cache / "data")
    template = Task({}, folder, plan.trials[0].evaluations, True, 1, data, CheckpointPolicy())
    for planned in plan.trials:
        trial = store.trial(planned.trial_id)
        trial.create(planned.trial.record())
        task = replace(template, record=planned.trial.record(), folder=trial.path)
        process = context.Process(target=start_trial, args=(task,))
        began = time.monotonic()
        local.start(process)
        process.join()
        ended = time.monotonic()
        if process.exitcode:
            raise RuntimeError(f"a trial ended with {process.exitcode}: {trial.path / 'output.log'}")
        events = trial.events()[0]
        times = [event["uptime_seconds"] for event in events]
        last_epoch = max(event["uptime_seconds"] for event in events if event["event"] == "epoch")
        yield {
            "trial: start": times[0] - began,
            "trial: set up": _first_step(events) - times[0],
            "trial: training": last_epoch - _first_step(events),
            "trial: results": times[-1] - last_epoch,
            "trial: exit": ended - times[-1],
        }


def _first_step(events: list[Json]) -> float:
    """When the first epoch began, by the machine's monotonic clock."""
    first = next(event for event in events if event["event"] == "epoch")
    return float(first["uptime_seconds"] - first["eval_seconds"] - first["train_seconds"])


def _command(*arguments: object) -> tuple[float, float]:
    """`bench` with these arguments: when it began, and when it ended."""
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "MLFLOW_"))}
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    status = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if status.returncode not in (0, 3):  # 3: trials are left
        raise RuntimeError(f"{' '.join(command)} ended with {status.returncode}:\n{status.stdout}{status.stderr}")
    return began, time.monotonic()


def _seconds(*arguments: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True)
    return time.monotonic() - began


@click.command()
@click.option("--network", default="mlp", show_default=True)
@click.option("--epochs", default=60, show_default=True, help="As in suites/digits.yaml.")
@click.option("--rounds", default=5, show_default=True)
def main(network: str, epochs: int, rounds: int) -> None:
    """Print the seconds of every part; a minute and a half on two cores."""
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as temporary:
        found = startup_seconds(Path(temporary), network=network, epochs=epochs, rounds=rounds)
    click.echo(f"digits/{network}, {epochs} epochs; {rounds} rounds, median [min-max] in seconds")
    for part, values in found.items():
        click.echo(f"  {part:<36} {extremes(values, digits=3)}")


if __name__ == "__main__":
    main()
