"""Measuring how many trials at once are fastest, in real processes, and what is remembered of it."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from bench import cli
from bench.execution import tune
from bench.execution.processor import processor_name
from bench.execution.stepping import Pacer
from bench.execution.task import DataPaths
from bench.execution.tune import Measured, TuneError, measure, remember, remembered_slots, table_lines, ways, workloads
from bench.plan.networks import known_networks
from bench.plan.plan import Plan, make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.survey import Survey, survey

TINY_SECONDS = 0.5


@pytest.fixture
def plan(tiny_suite: Path) -> Plan:
    return make_plan(load_suite(tiny_suite))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "num_cores", lambda: 2)
    monkeypatch.setattr("bench.execution.devices.num_cores", lambda: 2)


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path / "data", tmp_path / "results/cache/data")


def looked_at(plan: Plan, store: Store, **options: Any) -> Survey:
    return survey(plan, store, known_networks(plan.suite, cache_root=store.cache), devices="cpu", **options)


def write_rates(cache: Path, plan: Plan, rates: dict[str, Any], **changes: Any) -> None:
    [load] = workloads(plan)
    entry = {"processor": processor_name(), "cores": 2, "threads": load.threads, "workload": load.key}
    cache.mkdir(parents=True, exist_ok=True)
    content = {"measured": [{**entry, "steps_per_second": rates, **changes}]}
    (cache / "slots.json").write_text(json.dumps(content))


def test_what_is_tried() -> None:
    assert ways(2, 1) == [(1, 1), (2, 1), (3, 1), (1, 2)]
    assert ways(1, 1) == [(1, 1), (2, 1)]
    assert ways(8, 3) == [(4, 1), (8, 1), (9, 1), (2, 2), (4, 2), (1, 3), (2, 3), (1, 4), (2, 4), (1, 8)]
    assert ways(2, 5) == [(1, 1), (2, 1), (3, 1), (1, 2), (1, 5)]
    assert max(threads for _, threads in ways(64, 1)) == 8


def test_cells_that_differ_in_what_costs_nothing_are_one_workload(plan: Plan, tiny_suite: Path) -> None:
    [load] = workloads(plan)
    assert load.steps == 8 * 4 * 15  # trials, epochs, steps of 64 out of 900 images
    assert load.trial.method.name == "erm"
    assert not load.trial.label_noise.is_noisy
    text = tiny_suite.read_text()
    tiny_suite.write_text(text + "  model: [mlp, {name: mlp, hidden: [8]}]\n  training.lr: [0.1, 0.2]\n")
    loads = workloads(make_plan(load_suite(tiny_suite)))
    assert [each.steps for each in loads] == [2 * 8 * 4 * 15] * 2
    assert loads[0].key != loads[1].key
    tiny_suite.write_text(text + "  training.compile: [true, false]\n")
    assert len({each.key for each in workloads(make_plan(load_suite(tiny_suite)))}) == 2


def test_a_pacer_counts_steps_within_its_window_only() -> None:
    """Steps of 10 ms: at most 100 a second, whatever was done before and after the window."""
    link, other_end = multiprocessing.Pipe()

    def train() -> None:
        pacer = Pacer(other_end)
        try:
            while True:
                time.sleep(0.01)
                assert pacer() is False
        except EOFError:
            pass

    thread = threading.Thread(target=train)
    thread.start()
    for _ in range(2):
        link.send((1, 0.3))
        steps, seconds = link.recv()
        assert 0.2 < seconds < 1
        assert 0.0099 < seconds / steps < 0.1  # no sleep is shorter; on a busy machine they are longer
        assert not link.poll(0.1)  # it goes on without counting
        link.send(None)
        assert link.recv() is None
    link.send((1, 0.0))
    steps, seconds = link.recv()
    assert steps == 2
    link.close()
    thread.join(10)
    assert not thread.is_alive()


def test_measuring_leaves_rates_and_no_process(
    plan: Plan, paths: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "ROUNDS", 2)
    monkeypatch.setattr(tune, "PATIENCE", 200)
    [load] = workloads(plan)
    measured = measure(load, paths, scratch=tmp_path / "scratch", seconds=TINY_SECONDS)
    assert list(measured.rates) == ways(2, 1)
    assert all(1 <= len(rates) <= 2 and min(rates) > 0.1 for rates in measured.rates.values())
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not any(is_stepping(child) for child in psutil.Process().children(recursive=True))
    remember(tmp_path, measured)
    assert remembered_slots(tmp_path, plan) in (1, 2, 3)


def test_a_process_that_dies_is_an_error_and_not_a_wait(plan: Plan, paths: DataPaths, tmp_path: Path) -> None:
    [load] = workloads(plan)
    with tune._crew(1, load.trial, paths, tmp_path, epoch_steps=2) as links:
        tune._rate(links, threads=1, seconds=0.0)
        [child] = [c for c in psutil.Process().children(recursive=True) if not c.children() and is_stepping(c)]
        child.kill()
        with pytest.raises(TuneError, match="killed"):
            tune._rate(links, threads=1, seconds=60.0)


def test_steps_that_take_too_long_end_the_measurement(
    plan: Plan, paths: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "PATIENCE", 0)
    [load] = workloads(plan)
    with pytest.raises(TuneError, match=r"take too long .* more --seconds"):
        measure(load, paths, scratch=tmp_path / "scratch", seconds=TINY_SECONDS)
    assert not any(is_stepping(child) for child in psutil.Process().children(recursive=True))


def is_stepping(process: psutil.Process) -> bool:
    """Whether a child of the forkserver."""
    return process.parent().pid != psutil.Process().pid


def test_data_that_cannot_be_had_is_said(plan: Plan, paths: DataPaths, tmp_path: Path) -> None:
    [load] = workloads(plan)
    lost = load.trial.dataset.model_copy(update={"name": "image_folder", "root": tmp_path / "gone", "image_size": 8})
    load = replace(load, trial=load.trial.model_copy(update={"dataset": lost}))
    with pytest.raises(TuneError, match="gone"):
        measure(load, paths, scratch=tmp_path, seconds=TINY_SECONDS)


def test_another_number_of_slots_has_to_be_clearly_faster(plan: Plan, tmp_path: Path) -> None:
    usual = [100.0] * 5
    write_rates(tmp_path, plan, {"1": [60.0] * 5, "2": usual, "3": [115.0] * 5})
    assert remembered_slots(tmp_path, plan) == 3
    write_rates(tmp_path, plan, {"1": [120.0] * 5, "2": usual, "3": [110.0] * 5})
    assert remembered_slots(tmp_path, plan) == 1
    write_rates(tmp_path, plan, {"2": usual, "3": [107.0] * 5})
    assert remembered_slots(tmp_path, plan) == 2
    write_rates(tmp_path, plan, {"2": usual[:2], "3": [150.0] * 2})
    assert remembered_slots(tmp_path, plan) == 2
    write_rates(tmp_path, plan, {"2": usual, "3": [150.0, 150.0, 150.0, 150.0, 99.0]})
    assert remembered_slots(tmp_path, plan) == 2


def test_several_workloads_are_weighed_by_their_steps(tiny_suite: Path, tmp_path: Path) -> None:
    tiny_suite.write_text(tiny_suite.read_text() + "  model: [mlp, {name: mlp, hidden: [8]}]\n")
    plan = make_plan(load_suite(tiny_suite))
    one, other = workloads(plan)

    def rates(per_slot: dict[int, float]) -> dict[tuple[int, int], list[float]]:
        return {(slots, 1): [rate] * 5 for slots, rate in per_slot.items()}

    remember(tmp_path, Measured(one, 64, rates({2: 1000.0, 3: 2000.0})))
    assert remembered_slots(tmp_path, plan) == 3
    remember(tmp_path, Measured(other, 32, rates({2: 20.0, 3: 16.0})))  # half batches: 10 and 8 whole ones
    assert remembered_slots(tmp_path, plan) == 2
    remember(tmp_path, Measured(other, 64, rates({2: 16.0, 3: 20.0})))
    assert remembered_slots(tmp_path, plan) == 3
    assert len(json.loads((tmp_path / "slots.json").read_text())["measured"]) == 2


@pytest.mark.parametrize(
    "changes", [{"processor": "another"}, {"cores": 64}, {"threads": 2}, {"workload": "0"}, {"steps_per_second": 7}]
)
def test_what_holds_elsewhere_is_not_taken(plan: Plan, tmp_path: Path, changes: dict[str, Any]) -> None:
    write_rates(tmp_path, plan, {"2": [1.0] * 5, "3": [2.0] * 5}, **changes)
    assert remembered_slots(tmp_path, plan) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"measured": [',
        b"\xff\xfe",
        b"[]",
        b'{"measured": 5}',
        b'{"measured": [null, 3, "x", {}]}',
        b"[" * 100_000,
    ],
)
def test_a_torn_or_hostile_file_is_ignored_and_replaced(plan: Plan, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "slots.json").write_bytes(content)
    assert remembered_slots(tmp_path, plan) is None
    [load] = workloads(plan)
    remember(tmp_path, Measured(load, 64, {(2, 1): [1.0] * 5, (3, 1): [2.0] * 5}))
    assert remembered_slots(tmp_path, plan) == 3


@pytest.mark.parametrize(
    "rates", [[float("nan")] * 5, [1e300] * 5, [-1.0] * 5, [True] * 5, ["9"] * 5, [200.0] * 6, [], 200.0]
)
def test_rates_that_are_none_are_ignored(plan: Plan, tmp_path: Path, rates: Any) -> None:
    write_rates(tmp_path, plan, {"1": [90.0] * 5, "2": [100.0] * 5, "3": rates, "100000": [1e6] * 5, "-1": [1e6] * 5})
    assert remembered_slots(tmp_path, plan) == 2


def test_plan_and_run_take_what_is_remembered_unless_told_otherwise(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert looked_at(plan, store).places.capacity == 2
    write_rates(store.cache, plan, {"2": [1.0] * 5, "3": [2.0] * 5})
    assert looked_at(plan, store).places.capacity == 3
    assert looked_at(plan, store, jobs=1).places.capacity == 1
    assert looked_at(plan, store, jobs=5).places.capacity == 5


def test_a_long_run_measures_once_and_a_short_one_never(
    plan: Plan, paths: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "results")
    found = looked_at(plan, store)
    monkeypatch.setattr(cli, "TUNE_SECONDS", TINY_SECONDS)
    monkeypatch.setattr(tune, "ROUNDS", 2)
    monkeypatch.setattr(tune, "PATIENCE", 200)
    assert not cli._measured_first(lasting(found, tune.WORTH_SECONDS - 1), store, None)
    long = lasting(found, tune.WORTH_SECONDS)
    assert not cli._measured_first(replace(long, on_gpu=True), store, None)
    assert not (store.cache / "slots.json").exists()
    assert cli._measured_first(long, store, None)
    assert (store.cache / "slots.json").exists()
    assert not cli._measured_first(long, store, None)


def lasting(found: Survey, seconds: float) -> Survey:
    return replace(found, cost=replace(found.cost, seconds=seconds))


def test_a_long_run_goes_on_when_it_cannot_measure(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise TuneError("no memory")

    monkeypatch.setattr(tune, "measure", fails)
    store = Store(tmp_path)
    cli._measured_first(lasting(looked_at(plan, store), 3600.0), store, None)
    assert "not measured: no memory" in capsys.readouterr().out


def test_the_table_names_threads_that_would_be_faster(plan: Plan) -> None:
    [load] = workloads(plan)
    rates = {(1, 1): [50.0] * 5, (2, 1): [80.0, 100.0, 100.0, 100.0, 120.0], (1, 2): [109.0] * 5}
    text = "\n".join(table_lines(Measured(load, 64, rates)))
    assert "[80-120]" in text
    assert "0.92" in text
    assert "--threads" not in text
    text = "\n".join(table_lines(Measured(load, 32, rates | {(1, 2): [125.0] * 5})))
    assert "25% faster: --threads 2, which is --set training.threads=2" in text
    assert "timed with 32" in text


def test_threads_on_the_command_line_are_the_recipes(tiny_suite: Path, tmp_path: Path) -> None:
    tiny_suite.write_text(tiny_suite.read_text().replace("{name: mlp, hidden: [16]}", "mlp"))  # of known size

    def ids(*options: str) -> list[str]:
        arguments = ["plan", str(tiny_suite), "--results", str(tmp_path), "--devices", "cpu", "--trials", *options]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        return [line for line in result.output.splitlines() if "| seed" in line]

    assert len(ids()) == 8
    assert ids("--threads", "2") == ids("--set", "training.threads=2")
    assert not set(ids("--threads", "2")) & set(ids())
    assert ids("--threads", "1") == ids()
    assert len(ids("--threads", "2", "--seeds", "1")) == 4
    result = CliRunner().invoke(cli.main, ["plan", str(tiny_suite), "--results", str(tmp_path), "--threads", "none"])
    assert result.exit_code == 2
    assert "training.threads" in result.output
