"""A weekend alone: supervisors killed in the middle, two of them at once, and the same command again."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from runs import epochs_of_running, finals, numbers, wait_for

from bench.results.store import Store

SUITE = ("training.epochs=80", "seeds=2", "evaluate=[clean, calibration, {name: in_between, pairs: 100}]")


@pytest.fixture
def expected(run):
    plan, store, _ = run(*SUITE, results="undisturbed")
    return plan, numbers(store, plan)


def started_pids(store: Store) -> set[int]:
    return {e["pid"] for i in store.trial_ids() for e in store.trial(i).events()[0] if e["event"] == "started"}


def assert_each_trained_once(store: Store) -> None:
    """No epoch was done again once a trial had finished, and none finished twice."""
    for trial_id in store.trial_ids():
        events = [event["event"] for event in store.trial(trial_id).events()[0]]
        assert events.count("finished") == 1, (trial_id, events)
        assert "epoch" not in events[events.index("finished") :], (trial_id, events)


def test_the_supervisor_is_killed_and_the_same_command_goes_on(expected, start_run, tmp_path: Path) -> None:
    """Again and again, at once each time: while the workers of the one before are still there."""
    store = Store(tmp_path / "results")
    for done in (0, 2, 4):
        process = start_run(*SUITE)
        wait_for(lambda done=done: len(finals(store)) >= done and any(n >= 3 for n in epochs_of_running(store)))
        process.kill()
        process.communicate(timeout=30)
    last = start_run(*SUITE)
    output, _ = last.communicate(timeout=150)
    assert last.returncode == 0, output
    plan, undisturbed = expected
    assert numbers(store, plan) == undisturbed
    assert_each_trained_once(store)
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in started_pids(store)), seconds=20)


def test_of_two_runs_at_once_one_is_killed(expected, start_run, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    first, second = start_run(*SUITE), start_run(*SUITE)
    wait_for(lambda: len(finals(store)) >= 2 and any(n >= 3 for n in epochs_of_running(store)), seconds=100)
    first.kill()
    first.communicate(timeout=30)
    output, _ = second.communicate(timeout=150)
    assert second.returncode == 0, output
    plan, undisturbed = expected
    assert numbers(store, plan) == undisturbed
    assert_each_trained_once(store)


def test_the_forkserver_is_killed_under_a_run(expected, start_run, tmp_path: Path) -> None:
    """Its trials live on, and are not counted as dead; the next ones are forked from a new one."""
    store = Store(tmp_path / "results")
    process = start_run(*SUITE)
    wait_for(lambda: any(n >= 3 for n in epochs_of_running(store)))
    for child in psutil.Process(process.pid).children():
        if "forkserver" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    plan, undisturbed = expected
    assert numbers(store, plan) == undisturbed
    assert_each_trained_once(store)
    assert "failed" not in {event["event"] for i in store.trial_ids() for event in store.trial(i).events()[0]}


def test_what_prepares_the_data_is_killed(start_run, tmp_path: Path) -> None:
    """Twice it is begun again; a third kill cannot be chance. The data are pipes that nobody writes to."""
    raw = tmp_path / "results" / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        os.mkfifo(raw / f"{name}-ubyte")
    process = start_run("dataset.name=mnist")
    lock = tmp_path / "results" / "cache" / "data" / "mnist-v1.lock"
    killed: set[int] = set()
    for _ in range(3):
        wait_for(lambda: holders(lock) - killed)
        [pid] = holders(lock) - killed
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "preparing the data sets ended 3 times, killed by SIGKILL" in output


def holders(path: Path) -> set[int]:
    """The processes that have a file open."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found |= {process.pid} if str(path) in {file.path for file in process.open_files()} else set()
    return found


def test_ctrl_c_while_the_forkserver_starts(start_run, tmp_path: Path) -> None:
    """A terminal sends it to every process: that which loads torch has nothing to say about it."""
    process = start_run(*SUITE, new_session=True)
    wait_for(lambda: any("forkserver" in " ".join(child.cmdline()) for child in psutil.Process(process.pid).children()))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "the same command goes on from here" in output
