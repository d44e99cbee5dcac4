"""Figures that several processes draw: the same ones, whoever is killed or interrupted."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from made_up_trials import World

from reports import drawn, render
from reports.drawn import MANY_TRIALS, Drawers
from reports.figures.drawing import Files
from reports.load import Results, load
from reports.statistics import Comparison, compare, pairs_of

RENDERS = """
import sys
from pathlib import Path

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from reports import render

if __name__ == "__main__":
    try:
        render(make_plan(load_suite(Path("synthetic.yaml"))), Store(Path("results")), Path("out"), processes=2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""

SECONDS = 60


@pytest.fixture
def many(make_world: Callable[..., World]) -> World:
    """Just as many trials as two processes draw."""
    world = make_world(seeds=MANY_TRIALS // 2, label_noise="[{rate: 0}]", methods="[erm, {name: mixup, alpha: 1}]")
    assert len(world.plan.trials) == MANY_TRIALS
    for planned in world.plan.trials:
        world.finish(planned, 0.1 + 0.001 * planned.trial.seed)
    return world


@pytest.fixture
def rendering(many: World, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that renders a report, in a process group of its own as that of a terminal's command."""
    (tmp_path / "renders.py").write_text(RENDERS)
    process = subprocess.Popen(
        [sys.executable, "renders.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, process_group=0
    )
    yield process
    process.kill()
    process.communicate()


def drawers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Both processes that draw for this one, as soon as they are there."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        found = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if len(found) == 2:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing draws")


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_draw_what_one_draws(many: World, tmp_path: Path) -> None:
    for processes in (1, 2):
        render(many.plan, many.store, tmp_path / str(processes), processes=processes)
    alone, together = files(tmp_path / "1"), files(tmp_path / "2")
    assert len(alone) > 20
    assert together == alone


def test_processes_start_only_where_there_is_much_to_draw() -> None:
    before = set(multiprocessing.active_children())
    for processes, num_trials, started in ((2, MANY_TRIALS - 1, 0), (1, MANY_TRIALS, 0), (2, MANY_TRIALS, 2)):
        with Drawers(processes, num_trials=num_trials):
            assert len(set(multiprocessing.active_children()) - before) == started
        assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("when", ["before", "between"])
def test_what_a_killed_process_was_to_draw_is_drawn_all_the_same(many: World, when: str) -> None:
    results = load(many.plan, many.store)
    names = {"cells": many.plan.cells, "arms": many.plan.arms, "baseline": many.plan.baseline}
    comparisons = compare(pairs_of(results.trials, "test_error_last", **names))
    with Drawers(1, num_trials=MANY_TRIALS) as one:
        expected = {name: each for name, (_, each) in one.draw(results, comparisons)}
    before = set(multiprocessing.active_children())
    with Drawers(2, num_trials=MANY_TRIALS) as two:
        started = set(multiprocessing.active_children()) - before

        def kill() -> None:
            for process in started:
                process.kill()
                process.join()

        if when == "before":
            kill()
        found = {}
        for name, (_, each) in two.draw(results, comparisons):
            if not found and when == "between":
                kill()
            found[name] = each
    assert len(started) == 2
    assert found == expected


@pytest.mark.parametrize("seconds", [0.0, 0.7, 2.0])
def test_ctrl_c_ends_all_of_them_at_once_and_says_nothing_else(
    rendering: subprocess.Popen[str], seconds: float
) -> None:
    """While they start, while they import and while they draw."""
    drawers = drawers_of(rendering)
    time.sleep(seconds)
    os.killpg(rendering.pid, signal.SIGINT)
    _, said = rendering.communicate(timeout=SECONDS)
    assert (rendering.returncode, said) == (1, "interrupted\n")
    assert not psutil.wait_procs(drawers, timeout=5)[1]


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_none_outlives_the_process_that_it_draws_for(rendering: subprocess.Popen[str], seconds: float) -> None:
    drawers = drawers_of(rendering)
    time.sleep(seconds)
    rendering.kill()
    assert not psutil.wait_procs(drawers, timeout=SECONDS)[1]


@pytest.fixture
def drawn_by_one(many: World) -> tuple[tuple[Results, list[Comparison]], dict[str, Files]]:
    """What there is to draw, and the files that one process makes of it."""
    results = load(many.plan, many.store)
    names = {"cells": many.plan.cells, "arms": many.plan.arms, "baseline": many.plan.baseline}
    what = (results, compare(pairs_of(results.trials, "test_error_last", **names)))
    with Drawers(1, num_trials=MANY_TRIALS) as one:
        return what, {name: each for name, (_, each) in one.draw(*what)}


def test_a_process_that_starts_late_draws_too(
    drawn_by_one: tuple[tuple[Results, list[Comparison]], dict[str, Files]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first one has begun before the second is asked for, that is not started until there is work for it."""
    what, expected = drawn_by_one
    submit = ProcessPoolExecutor.submit

    def slowly(pool: ProcessPoolExecutor, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        future = submit(pool, function, *arguments)
        if function is drawn._begun:
            future.result()
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", slowly)
    before = set(multiprocessing.active_children())
    with Drawers(2, num_trials=MANY_TRIALS) as two:
        assert len(set(multiprocessing.active_children()) - before) == 1
        assert {name: each for name, (_, each) in two.draw(*what)} == expected


def test_without_room_for_the_results_all_is_drawn_here(
    drawn_by_one: tuple[tuple[Results, list[Comparison]], dict[str, Files]], monkeypatch: pytest.MonkeyPatch
) -> None:
    what, expected = drawn_by_one

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Drawers(2, num_trials=MANY_TRIALS) as two:
        monkeypatch.setattr(tempfile, "mkdtemp", full)
        assert {name: each for name, (_, each) in two.draw(*what)} == expected


def test_a_daemon_draws_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "daemon", True)
    before = set(multiprocessing.active_children())
    with Drawers(2, num_trials=MANY_TRIALS):
        assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("which", [0, 1])
def test_where_no_process_can_be_had_all_is_drawn_here(
    drawn_by_one: tuple[tuple[Results, list[Comparison]], dict[str, Files]], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """The first or the second is one too many: what has started ends again."""
    what, expected = drawn_by_one
    start, started = SpawnProcess.start, []

    def one_too_many(process: SpawnProcess) -> None:
        if len(started) == which:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", one_too_many)
    before = set(multiprocessing.active_children())
    with Drawers(2, num_trials=MANY_TRIALS) as two:
        assert set(multiprocessing.active_children()) <= before
        assert {name: each for name, (_, each) in two.draw(*what)} == expected


def test_no_more_processes_than_their_memory_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "MOST_PROCESSES", 3)
    before = set(multiprocessing.active_children())
    with Drawers(64, num_trials=MANY_TRIALS):
        assert len(set(multiprocessing.active_children()) - before) == 3
