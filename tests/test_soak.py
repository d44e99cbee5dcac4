"""A weekend in ten minutes: 200 trials under random SIGKILLs, of workers and of what watches over them."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.plan.plan import Plan, make_plan
from bench.plan.suite import load_suite
from bench.results.store import Json, Store

SUITE = """\
name: soak
question: Is anything lost?
seeds: 20
base:
  dataset: {name: digits}
  model: {name: mlp, hidden: [32]}
  training: {epochs: 60, batch_size: 32, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: [0.2, 1]}
  - {name: mixup, alpha: 1, dropout: 0.2}
  - {name: manifold_mixup, layers: [[0, 1]]}
matrix:
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
evaluate: [clean, calibration, {name: in_between, pairs: 200}]
"""
MEAN_SECONDS_BETWEEN_KILLS = 3.0
KINDS = {"supervisor": 1, "worker": 4, "forkserver": 1}
"""What is killed, and how often one is chosen against the others."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_suite_under_random_kills_loses_and_doubles_nothing(
    tmp_path: Path, bench_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "soak.yaml").write_text(SUITE)
    plan = make_plan(load_suite(tmp_path / "soak.yaml"))
    assert len(plan.trials) == 200
    undisturbed, disturbed = Store(tmp_path / "undisturbed"), Store(tmp_path / "disturbed")
    began = time.monotonic()
    assert start(tmp_path, undisturbed, bench_environment).wait() == 0
    quiet_seconds = time.monotonic() - began

    seed = int(os.environ.get("BENCH_SOAK_SEED", time.time_ns() % 1_000_000))
    rng, kills, starts, began = random.Random(seed), Counter[str](), 0, time.monotonic()
    while True:
        process = start(tmp_path, disturbed, bench_environment)
        starts += 1
        while process.poll() is None:
            try:
                process.wait(rng.expovariate(1 / MEAN_SECONDS_BETWEEN_KILLS))
            except subprocess.TimeoutExpired:
                kills += kill_one(process.pid, rng)
        assert process.returncode in (0, 1, -signal.SIGKILL), (tmp_path / "disturbed.log").read_text()[-3000:]
        if process.returncode == 0:
            break
    text = f"seed {seed}: {kills.total()} kills ({dict(kills)}), {starts} starts of `bench run`, "
    text += f"{time.monotonic() - began:.0f} s against {quiet_seconds:.0f} s undisturbed"
    with capsys.disabled():
        print(f"\nsoak {text}")

    for planned in plan.trials:
        assert results(disturbed, planned.trial_id) == results(undisturbed, planned.trial_id), text
        events = [event["event"] for event in disturbed.trial(planned.trial_id).events()[0]]
        assert events.count("finished") == 1, (text, planned.trial_id, events)
        assert "started" not in events[events.index("finished") :] or is_evaluated_later(events), (text, events)
    assert runs_in_mlflow(disturbed) == {planned.trial_id: ["FINISHED"] for planned in plan.trials}, text
    assert points_in_mlflow(disturbed, plan) == points_in_mlflow(undisturbed, plan), text
    leftovers = [path for path in (disturbed.root / "trials").rglob("*") if path.name.endswith((".tmp", ".pt.tmp"))]
    assert not leftovers, text


def start(folder: Path, store: Store, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench", "run", "soak.yaml", "--results", str(store.root)]
    command += ["--devices", "cpu", "--checkpoint-epochs", "5", "--no-report"]
    with (folder / f"{store.root.name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def kill_one(supervisor: int, rng: random.Random) -> Counter[str]:
    """Kill the supervisor, its forkserver or one of the trials' processes."""
    try:
        processes = {"supervisor": [psutil.Process(supervisor)], "worker": [], "forkserver": []}
        for child in processes["supervisor"][0].children():
            if "forkserver" in " ".join(child.cmdline()):
                processes["forkserver"].append(child)
                processes["worker"] += child.children()
        [kind] = rng.choices(list(KINDS), list(KINDS.values()))
        if not processes[kind]:
            return Counter()
        rng.choice(processes[kind]).kill()
    except psutil.NoSuchProcess:
        return Counter()
    return Counter([kind])


def results(store: Store, trial_id: str) -> Json:
    """Everything that a trial found, without what depends on the clock and the host."""
    folder = store.trial(trial_id)
    final = folder.final()
    assert final is not None
    found = {key: final[key] for key in ("status", "epochs", "metrics", "data", "mixing", "diverged")}
    found["curve"] = [{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in folder.epochs()]
    for path in sorted((folder.path / "evaluations").glob("*.json")):
        record = folder.evaluation(path.stem)
        assert record is not None
        found[path.stem] = {key: value for key, value in record.items() if key != "seconds"}
    with np.load(folder.logits) as kept:
        found["logits"] = {name: kept[name].tobytes() for name in kept.files}
    return found


def is_evaluated_later(events: list[str]) -> bool:
    """Killed after final.json and before the last evaluation: it is started again, to evaluate and not to train."""
    return "epoch" not in events[events.index("finished") :]


def runs_in_mlflow(store: Store) -> dict[str, list[str]]:
    """The statuses of each trial's runs."""
    query = "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'trial_id'"
    found: dict[str, list[str]] = {}
    with sqlite3.connect(store.root / "mlflow.db") as database:
        for trial_id, status in database.execute(query + " WHERE r.lifecycle_stage = 'active'"):
            found.setdefault(trial_id, []).append(status)
    return found


def points_in_mlflow(store: Store, plan: Plan) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """By trial and series, (step, value) of every point, without series that are times."""
    query = "SELECT t.value, m.key, m.step, m.value FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid"
    query += " JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'trial_id' WHERE r.lifecycle_stage = 'active'"
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    with sqlite3.connect(store.root / "mlflow.db") as database:
        for trial_id, key, step, value in database.execute(query):
            if not key.startswith(("time/", "final/total_seconds", "final/train_seconds", "final/peak")):
                found.setdefault((trial_id, key), []).append((step, value))
    return {place: sorted(points) for place, points in found.items()}
