"""What `bench plan` and a running suite show of a suite with many arms."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from rich.console import Console

from bench.execution.supervisor import RunState
from bench.plan import cost
from bench.plan.networks import known_networks
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.progress import LINE_ARMS, PlainLines
from bench.results.store import Store
from bench.survey import Survey, plan_lines, survey

Bench = Callable[..., CompletedProcess[str]]

SUITES = Path(__file__).parents[1] / "suites"


def looked_at(name: str, tmp_path: Path, *overrides: str) -> Survey:
    plan = make_plan(load_suite(SUITES / f"{name}.yaml", overrides=overrides))
    return survey(plan, Store(tmp_path), known_networks(plan.suite, cache_root=tmp_path), devices="cpu", jobs=2)


def test_many_arms_go_down_and_many_cells_too(tmp_path: Path) -> None:
    for name, first in (("ablation", "weight_decay=0.0001"), ("digits", "erm")):
        lines = list(plan_lines(looked_at(name, tmp_path)))
        table = lines[lines.index("") + 1 :]
        assert f"  {first}  " in table[0]
        assert max(map(len, table)) < 120
        assert len(table) == 1 + max(len(looked_at(name, tmp_path).plan.arms), 4)


def test_neighbours_are_part_of_the_cost(tmp_path: Path) -> None:
    """By hand: two tables of 50,000 images, 200 wide; one over all, one within ten classes."""
    (first,) = looked_at("ablation", tmp_path).preparations
    assert first.what == "nearest neighbours"
    assert first.bytes == 2 * 4 * 50_000 * 200
    assert first.seconds == pytest.approx(50_000**2 * 3072 * 1.1 / cost.NEIGHBOUR_PRODUCTS)
    assert "cache     nearest neighbours, 80 MB, made once in about" in "\n".join(
        plan_lines(looked_at("ablation", tmp_path))
    )
    (tmp_path / "cache/data/neighbours-v1").mkdir(parents=True)
    (tmp_path / "cache/data/neighbours-v1/cifar10-abc.npy").touch()
    assert looked_at("ablation", tmp_path).preparations == []


def test_a_seed_that_chooses_the_images_has_a_table_of_its_own(tmp_path: Path) -> None:
    (first,) = looked_at("ablation", tmp_path, "dataset.train_size=1000", "seeds=3").preparations
    assert first.bytes == 3 * 2 * 4 * 1000 * 200


def test_methods_that_show_more_images_cost_more(tmp_path: Path) -> None:
    found = looked_at("mixing-methods", tmp_path)
    seconds = {arm: value for (_, arm), value in found.cost.trial_seconds.items()}
    assert seconds["mixup alpha=1"] == seconds["erm"]
    # an epoch: 45,000 images forward and backward, three passes each, and 15,000 forward
    assert seconds["regmixup alpha=10"] == pytest.approx(seconds["erm"] * (270 + 15) / (135 + 15), rel=0.1)
    assert seconds["augmix severity=3"] > 1.4 * seconds["regmixup alpha=10"]


ADDED = """\
name: added
question: How many seeds does it take?
seeds: {min: 3, max: 10}
base: {dataset: digits, model: mlp, training: {epochs: 3}}
methods: [erm, {name: mixup, alpha: [0.2, 1, 4]}]
matrix: {training.lr: [0.1, 0.01]}
evaluate: [clean, calibration, corruptions]
"""


def made_up(folder: Path, *, seeds: int) -> Survey:
    """After so many seeds, of which every one shows that in the second cell all arms are better, in the first none."""
    folder.mkdir()
    (folder / "added.yaml").write_text(ADDED)
    plan = make_plan(load_suite(folder / "added.yaml"))
    store = Store(folder / "results")
    rng = np.random.default_rng(1)
    for planned in plan.trials:
        if planned.trial.seed < seeds:
            gain = 0.1 * (planned.arm != "erm" and planned.cell != plan.cells[0])
            trial = store.trial(planned.trial_id)
            trial.create(planned.trial.record())
            for key in planned.evaluation_keys:
                trial.write_evaluation(key, {"metrics": {}, "seconds": 1.0})
            metrics = {plan.suite.report.metric: 0.3 - gain + rng.normal(0, 0.0003)}
            provenance = {"device": "cpu"}
            trial.write_final(
                {"status": "completed", "metrics": metrics, "provenance": provenance, "total_seconds": 9.0}
            )
    return survey(plan, store, known_networks(plan.suite, cache_root=folder), devices="cpu", jobs=2)


def test_what_seeds_until_it_is_clear_will_take(tmp_path: Path) -> None:
    """By hand: 2 cells of 4 arms; after 3 seeds the second cell is clear, so that only the first can go on."""
    before = made_up(tmp_path / "before", seeds=0)
    assert (before.num_left, len(before.wanted)) == (24, 24)
    assert before.headline.startswith("24 to 80 trials (2 cells, 4 arms, 3 to 10 seeds), 0 done; about ")
    assert " at most, on 2 CPU slots" in before.headline
    assert sum(before.at_most.left_seconds.values()) == pytest.approx(sum(before.cost.left_seconds.values()) * 10 / 3)
    assert "family    6 comparisons, 3 to 10 seeds each, until it is clear" in "\n".join(plan_lines(before))

    after = made_up(tmp_path / "after", seeds=3)
    assert (after.num_done, after.num_left) == (24, 4)
    assert len(after.cost.left_seconds) == 4
    assert after.seconds_by_trial.keys() >= after.at_most.left_seconds.keys() > after.cost.left_seconds.keys()
    assert len(after.at_most.left_seconds) == 28
    assert after.at_most.seconds == pytest.approx(28 * 10 / 2)  # each took 9 s, and what needs its network 1 s
    lines = list(plan_lines(after, show_trials=True))
    assert lines[1].endswith("24 done, 4 to run")
    assert any(line.endswith("3 clear, 3 still open, 0 unclear with all seeds") for line in lines)
    table = lines[lines.index("") + 1 :]
    assert [line.split()[-2:] for line in table[1:5]] == [["3/4", "3/3"]] * 4
    assert sum("seed 3" in line for line in lines) == 4

    end = made_up(tmp_path / "end", seeds=10)
    assert end.num_left == 0
    assert any(line.endswith("3 clear, 0 still open, 3 unclear with all seeds") for line in plan_lines(end))


def test_the_command_line_takes_a_rule(bench: Bench, tiny_suite: Path) -> None:
    """Also where it takes the same trials at most as the suite does as it is written."""
    tiny_suite.write_text(tiny_suite.read_text().replace("seeds: 2", "seeds: 4"))
    written, ruled = bench("plan", tiny_suite), bench("plan", tiny_suite, "--seeds", "{min: 2, max: 4}")
    assert "trials    16 trials (2 cells, 2 arms, 4 seeds), 0 done, 16 to run" in written.stdout
    assert "trials    8 to 16 trials (2 cells, 2 arms, 2 to 4 seeds), 0 done, 8 to run" in ruled.stdout


def test_a_line_names_the_baseline_and_the_best() -> None:
    out = io.StringIO()
    arms = tuple(f"arm{i}" for i in range(20))
    watcher = PlainLines(Console(file=out, width=500), arms=arms)
    state = RunState(planned=20, done=20, errors={arm: [0.5 - 0.01 * i] for i, arm in enumerate(arms)})
    watcher.update(state)
    line = out.getvalue()
    assert "arm0 50.00 %" in line
    assert "arm19 31.00 %, and 14 more" in line
    assert line.count("arm") == LINE_ARMS


def test_few_arms_are_all_named() -> None:
    out = io.StringIO()
    watcher = PlainLines(Console(file=out, width=500), arms=("erm", "mixup"))
    watcher.update(RunState(planned=2, done=2, errors={"erm": [0.2], "mixup": [0.1, 0.3]}))
    assert out.getvalue().strip().endswith("| erm 20.00 %, mixup 20.00 %")
