"""Whole runs on a simulated GPU: real processes, a real torch.OutOfMemoryError; see simulated_gpu/sitecustomize.py."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fake_nvidia_smi
import pytest

from bench.results.store import Store

MIB = 2**20
HERE = Path(__file__).parent


@pytest.fixture
def gpu_run(bench, tiny_suite, tmp_path):
    """`bench COMMAND tiny.yaml` on a GPU whose memory holds so many trials; gives the results and how it ended."""

    def run(*options, holds, command="run", trial_mib=30 * 1024, step_seconds=0.0, results="on_gpu", free=None):
        simulated = tmp_path / f"gpu-{results}"
        simulated.mkdir(exist_ok=True)
        total = int(holds * trial_mib)
        fake_nvidia_smi.install(tmp_path / "bin", {"memory.total": total, "memory.free": free or total})
        inherited = os.environ.get("PYTHONPATH", "")
        env = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{HERE / 'simulated_gpu'}:{HERE}:{HERE.parents[1]}:{inherited}",
            "CUDA_VISIBLE_DEVICES": "0",
            "SIMULATED_GPU": str(simulated),
            "SIMULATED_BYTES": str(total * MIB),
            "SIMULATED_TRIAL_BYTES": str(trial_mib * MIB),
            "SIMULATED_STEP_SECONDS": str(step_seconds),
        }
        quiet = ["--no-mlflow", "--no-report"] if command == "run" else []
        result = bench(command, tiny_suite, *quiet, "--results", tmp_path / results, *options, env=env)
        return Store(tmp_path / results), result

    return run


def memory_log(tmp_path, results="on_gpu"):
    lines = (tmp_path / f"gpu-{results}" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def events(store, name):
    return [event for i in store.trial_ids() for event in store.trial(i).events()[0] if event["event"] == name]


def numbers(store):
    """What every trial found, without what depends on the clock and the host."""
    found = {}
    for trial_id in store.trial_ids():
        folder = store.trial(trial_id)
        curve = [{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in folder.epochs()]
        found[trial_id] = (folder.final()["status"], folder.final()["metrics"], curve)
    return found


@pytest.mark.slow
def test_out_of_memory_beside_neighbours_is_finished_later_with_the_same_numbers(gpu_run, bench, tiny_suite, tmp_path):
    store, result = gpu_run("--slots-per-gpu", 4, holds=2, step_seconds=0.01)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "out of memory beside its neighbours; trying again" in result.stdout
    ran_out = events(store, "out_of_memory")
    assert ran_out, "four at once were to be too many"
    assert {event["requested_bytes"] for event in ran_out} == {30 * 1024 * MIB}
    assert events(store, "failed") == []
    assert {store.trial(i).final()["attempts"] for i in store.trial_ids()} == {1}, "it is no fault of the trial's"
    bench("run", tiny_suite, "--no-mlflow", "--no-report", "--devices", "cpu", "--results", tmp_path / "undisturbed")
    undisturbed = numbers(Store(tmp_path / "undisturbed"))
    assert len(undisturbed) == 8
    assert numbers(store) == undisturbed


def test_out_of_memory_with_the_gpu_to_itself_is_a_failure_that_says_so(gpu_run):
    store, result = gpu_run("--set", "methods=[erm]", "--seeds", 1, holds=0.5)
    assert result.returncode == 1
    assert re.search(r"failed .*erm, .*: out of memory with GPU 0 to itself: CUDA out of memory. Tried", result.stdout)
    failure = store.trial(store.trial_ids()[0]).last_failure()
    assert failure["reason"].startswith("out of memory with GPU 0 to itself")
    assert "torch.OutOfMemoryError" in failure["traceback"]


@pytest.mark.slow
def test_trials_are_measured_then_packed_then_reported(gpu_run, tmp_path):
    """The GPU's memory holds three in 0.9 of it; all run as fast as alone, but for the two cores of the tests."""
    options = ("--seeds", 4, "--set", "matrix.label_noise=[{rate: 0}]", "--set", "training.epochs=10")
    store, result = gpu_run(*options, holds=3.5, step_seconds=0.02)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(store.trial_ids()) == 8
    log = memory_log(tmp_path)
    assert all(entry["fits"] for entry in log), "what was measured was to fit"
    assert max(entry["used"] for entry in log) >= 2 * 30 * 1024 * MIB, "no two trials shared the GPU"
    for trial_id in store.trial_ids():
        gpu = store.trial(trial_id).final()["gpu"]
        assert gpu["memory_peak_bytes"] == 30 * 1024 * MIB + 1000
        assert gpu["utilisation"] == 0.5
    first = min(events(store, "started"), key=lambda event: event["time"])
    others = sorted(event["time"] for event in events(store, "started"))[1:]
    assert others[0] - first["time"] > 3 * 0.02 * 16, "the first was alone for three epochs"
    crowds = [store.trial(i).final()["gpu"]["neighbours"] for i in store.trial_ids()]
    assert max(crowds) > 0.3


def test_bench_plan_tells_how_many_share_a_gpu(gpu_run):
    _, result = gpu_run(command="plan", holds=3)
    assert "on 1 GPU (1 trial on each until it shows that more fit and help)" in result.stdout
    _, result = gpu_run("--slots-per-gpu", 5, command="plan", holds=3)
    assert "on 1 GPU (5 trials on each)" in result.stdout


def test_so_many_per_gpu_without_a_gpu_is_an_error(bench, tiny_suite):
    result = bench("plan", tiny_suite, "--slots-per-gpu", 2, env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 2
    assert "--slots-per-gpu 2: no GPU is visible; on the CPU, --jobs says how many at once" in result.stderr
