"""What `bench plan` and a running suite show of a suite with many arms."""

from __future__ import annotations

import io
from pathlib import Path

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
