"""Trials on a real Ray cluster: two nodes on this machine, lost, joined, and driven by a driver that dies."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from bench.errors import UserError
from bench.execution import ray as ray_engine
from bench.results.store import Store, exclusive

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

SHORT = ("--seeds", "3")
EPOCHS = 100
LONG = ("--seeds", "1", "--set", f"training.epochs={EPOCHS}", "--set", "matrix.label_noise=[{rate: 0.4}]")
"""Two trials, one for each node."""
CLOCKS = ("time", "seconds", "pid", "rss", "host")
"""Parts of the names of fields that say when, how fast and where, rather than what."""


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and two nodes of one CPU."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        cluster.nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


@pytest.fixture
def command(cluster, tiny_suite, tmp_path):
    """The arguments of a run of the tiny suite on the cluster, in this test's own folder."""
    fixed = [
        "run",
        str(tiny_suite),
        "--no-mlflow",
        "--no-report",
        "--checkpoint-epochs",
        "1",
        "--devices",
        "cpu",
        "--jobs",
        "2",
    ]
    return [sys.executable, "-m", "bench", *fixed, "--engine", "ray", "--address", cluster.address]


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if not any(clock in k for clock in CLOCKS)}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def content(path: Path):
    """What a file of a results folder says, without clocks and hosts."""
    if path.suffix == ".json":
        return without_clocks(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_clocks(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    if path.suffix == ".pt":
        return {name: tensor.numpy().tobytes() for name, tensor in torch.load(path, weights_only=True).items()}
    return path.read_bytes()


def tree(results: Path):
    trials = results / "trials"
    return {
        str(path.relative_to(trials)): content(path)
        for path in sorted(trials.rglob("*"))
        if path.is_file() and path.name not in ("output.log", "heartbeat")
    }


def events(results: Path, name: str):
    store = Store(results)
    found = [(trial_id, event) for trial_id in store.trial_ids() for event in store.trial(trial_id).events()[0]]
    return [(trial_id, event) for trial_id, event in found if event["event"] == name]


def wait_until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def trial_processes(results: Path):
    """Those that have a trial's lock or output open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(file.path.startswith(str(results / "trials")) for file in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def at_epoch(results: Path, epoch: int, *, trials: int):
    """Whether so many trials have been at that epoch, and so have a checkpoint of the one before."""
    return lambda: len({i for i, event in events(results, "epoch") if event["epoch"] >= epoch}) >= trials


@contextmanager
def started(command, *arguments, results: Path):
    with subprocess.Popen(
        [*command, *arguments, "--results", str(results)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@needs_ray
@pytest.mark.slow
def test_a_cluster_leaves_the_same_files_as_this_machine(command, bench, tiny_suite, tmp_path):
    local = bench(*command[3:-4], *SHORT, "--results", "local")
    assert local.returncode == 0, local.stdout + local.stderr
    with started(command, *SHORT, results=tmp_path / "cluster") as run:
        output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert "12/12 done" in output
    assert "InvalidAuthToken" not in output
    expected, found = tree(tmp_path / "local"), tree(tmp_path / "cluster")
    assert sum(name.endswith("final.json") for name in expected) == 12
    assert sum(name.endswith("weights.pt") for name in expected) == 12
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


@needs_ray
@pytest.mark.slow
def test_a_lost_node_costs_no_attempt_and_a_new_one_gets_work(cluster, command, bench, tmp_path):
    results = tmp_path / "lost"
    with started(command, *LONG, results=results) as run:
        wait_until(at_epoch(results, 6, trials=2))
        cluster.remove_node(cluster.nodes.pop(0), allow_graceful=False)
        lost_at = time.time()
        cluster.nodes.append(cluster.add_node(num_cpus=1))
        output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert "2/2 done" in output
    assert "raylet" not in output, "Ray talks across the live panel"
    resumed = events(results, "resumed")
    assert resumed
    assert all(event["epoch"] >= 5 for _, event in resumed), "it began from the beginning"
    assert not events(results, "failed")
    assert {event["attempt"] for _, event in events(results, "started")} == {1}
    assert min(event["time"] for _, event in resumed) - lost_at < 30
    local = bench(*command[3:-4], *LONG, "--results", "local")
    assert local.returncode == 0, local.stdout + local.stderr
    expected, found = tree(tmp_path / "local"), tree(results)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("journal.jsonl"):  # it tells what happened
            assert found[name] == value, name


@needs_ray
@pytest.mark.slow
def test_a_driver_that_dies_or_is_asked_to_stop_leaves_trials_to_go_on_from(command, tmp_path):
    results = tmp_path / "driver"
    with started(command, *LONG, results=results) as run:
        wait_until(at_epoch(results, 5, trials=2))
        run.kill()
        run.wait()
        wait_until(lambda: not trial_processes(results), seconds=10)
    with started(command, *LONG, results=results) as run:
        wait_until(lambda: len(events(results, "resumed")) == 2)
        run.send_signal(signal.SIGINT)
        asked_at = time.monotonic()
        output, _ = run.communicate(timeout=30)
        assert run.returncode == 130, output
        assert time.monotonic() - asked_at < 12
        assert not trial_processes(results)
    unfinished = {i for i in Store(results).trial_ids() if Store(results).trial(i).final() is None}
    assert all(Store(results).trial(trial_id).checkpoint.exists() for trial_id in unfinished)
    with started(command, *LONG, results=results) as run:
        output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert "2/2 done" in output
    assert not events(results, "failed")
    for trial_id in Store(results).trial_ids():
        reached = 0
        for event in Store(results).trial(trial_id).events()[0]:
            if event["event"] == "resumed":  # of the epoch that was under way the line may be there, and no checkpoint
                assert event["epoch"] in (reached, reached - 1), "an epoch was trained twice"
                reached = event["epoch"]
            elif event["event"] == "epoch":
                reached += 1
                assert event["epoch"] == reached
        assert reached == EPOCHS


@needs_ray
@pytest.mark.slow
def test_a_trial_that_hangs_is_killed_and_tried_again(command, tmp_path):
    results = tmp_path / "hung"
    only = ("--set", "methods=[erm]", "--stall-minutes", "0.15")
    with started(command, *LONG, *only, results=results) as run:
        wait_until(at_epoch(results, 6, trials=1))
        os.kill(events(results, "started")[0][1]["pid"], signal.SIGSTOP)
        output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert [event["reason"] for _, event in events(results, "failed")] == ["no progress for 0.15 minutes"]
    assert [event["attempt"] for _, event in events(results, "started")] == [1, 2]
    assert events(results, "resumed")[0][1]["epoch"] >= 5


@needs_ray
def test_a_node_with_other_code_is_refused(command, tmp_path):
    for package in ("bench", "reports"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package)
    with (tmp_path / "other" / "bench" / "errors.py").open("a") as file:
        file.write("# another line\n")
    result = subprocess.run(
        [*command, "--results", str(tmp_path / "results")],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "other")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "is not the code of this run, though the version is the same" in result.stderr
    assert not Store(tmp_path / "results").trial_ids()


@needs_ray
def test_two_slots_share_a_gpu_and_one_that_is_not_there_is_refused(cluster, tmp_path):
    """The node's GPU is Ray's word alone: slots get their share of it, and say that there is none."""
    import ray

    node = cluster.add_node(num_cpus=2, num_gpus=1)
    with closing(ray_engine.RayEngine(Store(tmp_path), threads=1, address=cluster.address, slots_per_gpu=2)) as engine:
        engine._connect()
        assert engine._request == {"num_cpus": 1, "num_gpus": 0.5}
        assert engine._room() == 2
        with pytest.raises(UserError, match="Ray counts a GPU there, and nvidia-smi shows none"):
            engine._wait_for_slots(lambda _: None, lambda: False)
        wait_until(lambda: ray.available_resources().get("GPU", 0) == 0)
    cluster.remove_node(node)
    assert not ray.is_initialized()


def test_what_a_node_must_have_in_common(tmp_path):
    with ray_engine._marker(tmp_path / "results" / "cache" / "nodes") as (marker, token):
        versions, source = ray_engine._versions(), ray_engine._source()
        assert ray_engine._problem(ray_engine._Expected(marker, token, versions, source)) == ""
        assert ray_engine._is_locked(marker)
        missing = marker.with_name("elsewhere")
        problem = ray_engine._problem(ray_engine._Expected(missing, token, versions, source))
        assert f"{tmp_path / 'results'} there is not the results folder of this run" in problem
        assert "is not the results folder" in ray_engine._problem(
            ray_engine._Expected(marker, "another", versions, source)
        )
        other = versions | {"torch": "1.0"}
        problem = ray_engine._problem(ray_engine._Expected(marker, token, other, source))
        assert problem == f"torch {versions['torch']} instead of 1.0: install the same versions on every node"
        assert "is not the code" in ray_engine._problem(ray_engine._Expected(marker, token, versions, "other"))
    assert not marker.exists()


def test_markers_of_runs_that_were_killed_go_away(tmp_path):
    (tmp_path / "dead").write_text("dead")
    with exclusive(tmp_path / "alive"), ray_engine._marker(tmp_path) as (marker, _):
        assert {path.name for path in tmp_path.iterdir()} == {"alive", marker.name}
        assert not ray_engine._is_locked(Path(__file__)), "a lock that nobody holds"


def test_without_ray_it_says_what_to_install(tiny_suite, tmp_path):
    script = "import sys; sys.modules['ray'] = None; from bench.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script, "run", str(tiny_suite), "--engine", "ray", "--results", str(tmp_path / "r")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == "error: --engine ray needs Ray: pip install 'mixup-bench[ray]', or '.[ray]' in a checkout\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray", "--devices", "0,1"], "Ray hands out the GPUs"),
        (["--engine", "ray", "--address", "ray://head:10001"], "run bench on a node of the cluster"),
        (["--address", "auto"], "it takes --engine ray"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1: "),
    ],
)
@needs_ray
def test_options_that_do_not_go_together(bench, tiny_suite, options, message):
    result = bench("run", tiny_suite, *options, env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)})
    assert result.returncode == 2
    assert message in result.stderr
