"""What runs are called in MLflow: short, unlike each other, and the same tomorrow."""

from __future__ import annotations

from pathlib import Path

from bench.plan.plan import Plan, make_plan
from bench.plan.shard import take_shard
from bench.plan.suite import load_suite
from bench.results.mlflow_names import condition_names, run_names


def planned(folder: Path, rest: str) -> Plan:
    path = folder / "suite.yaml"
    path.write_text(
        "name: s\nquestion: q\nseeds: 2\n"
        "base: {dataset: {name: digits}, model: {name: mlp}, training: {epochs: 2}}\n" + rest
    )
    return make_plan(load_suite(path))


def test_a_name_has_what_varies_and_the_seed(plan: Plan, tmp_path: Path) -> None:
    names = run_names(plan)
    assert len(set(names.values())) == len(plan.trials)
    assert names[plan.trials[0].trial_id] == "erm | clean | seed 0"
    assert names[plan.trials[-1].trial_id] == "mixup a=1 | uniform 40 % | seed 1"
    one_cell = planned(tmp_path, "methods: [erm, {name: mixup, alpha: 1}]\n")
    assert set(run_names(one_cell).values()) == {
        "erm | seed 0",
        "erm | seed 1",
        "mixup a=1 | seed 0",
        "mixup a=1 | seed 1",
    }


def test_networks_and_noise_are_parts_of_their_own(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        "methods: [erm, {name: mixup, alpha: 1}]\n"
        "matrix: {model: [mlp, timm/test_resnet], label_noise: [{rate: 0}, {kind: symmetric, rate: 0.4}]}\n",
    )
    assert "mixup a=1 | test_resnet | symmetric 40 % | seed 1" in run_names(plan).values()


def test_long_names_are_cut_and_stay_unlike(tmp_path: Path) -> None:
    """In the middle of some arms is what tells them apart."""
    arms = ", ".join(
        f"{{name: mixup, alpha: 0.123456789, label_smoothing: 0.{n}23456789, dropout: 0.123456789, "
        "gaussian_noise: 0.123456789, weight_decay: 0.000123456}"
        for n in (1, 2, 3)
    )
    plan = planned(tmp_path, f"methods: [erm, {arms}]\n")
    names = run_names(plan)
    assert len(set(names.values())) == len(plan.trials) == 8
    assert max(map(len, names.values())) < 75
    assert all(name.startswith("mixup a=0.123") or name.startswith("erm") for name in names.values())
    assert sum("…" in name for name in names.values()) == 6
    assert run_names(plan) == names


def test_a_shard_names_its_runs_as_the_whole_plan_does(plan: Plan) -> None:
    shard = take_shard(plan, "1/6")
    assert len({planned.cell for planned in shard.trials}) < 2 or len(shard.trials) < len(plan.trials)
    assert condition_names(shard) == condition_names(plan)
    assert run_names(shard) == run_names(plan)
