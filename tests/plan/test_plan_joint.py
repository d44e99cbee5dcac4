"""Several suites in one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.plan.joint import join
from bench.plan.plan import Plan, make_plan
from bench.plan.suite import load_suite

SUITE = """\
name: {name}
question: Does mixup help {name}?
seeds: {seeds}
base: {{dataset: digits, model: {{name: mlp, hidden: {hidden}}}, training: {{epochs: 1}}}}
methods: [erm, {{name: mixup, alpha: {alpha}}}]
matrix: {{label_noise: [{{rate: 0}}, {{kind: uniform, rate: 0.4}}]}}
evaluate: {evaluate}
"""


def plan_of(folder: Path, name: str, *, more: str = "", **options: str) -> Plan:
    path = folder / f"{name}.yaml"
    defaults = {"seeds": "2", "hidden": "[8]", "alpha": "[1, 2]", "evaluate": "[clean, calibration]"}
    path.write_text(SUITE.format(name=name, **defaults | options) + more)
    return make_plan(load_suite(path))


def test_cells_that_train_alike_are_one(tmp_path):
    """Three seeds of one suite and two of the other; the arm that both have is planned once for each seed."""
    first = plan_of(tmp_path, "first")
    second = plan_of(tmp_path, "second", seeds="3", alpha="[2, 4]", evaluate="[clean, in_between]")
    joint = join([first, second])
    assert joint.cells == ("clean", "uniform 40 %")
    assert joint.arms == ("erm", "mixup alpha=1", "mixup alpha=2", "mixup alpha=4")
    assert joint.suite.families == (("erm",), ("mixup alpha=1", "mixup alpha=2", "mixup alpha=4"))
    assert joint.seeds == (0, 1, 2)
    assert joint.num_comparisons == 6
    assert len(joint.trials) == len({each.trial_id for each in joint.trials})
    assert {each.trial_id for each in joint.trials} == {each.trial_id for each in (*first.trials, *second.trials)}
    kinds = {
        (each.arm, each.trial.seed): [evaluation.kind for evaluation in each.evaluations]
        for each in joint.trials
        if each.cell == "clean"
    }
    assert kinds["mixup alpha=2", 0] == ["clean", "calibration", "in_between"]
    assert kinds["mixup alpha=2", 2] == ["clean", "in_between"]
    assert kinds["mixup alpha=1", 0] == ["clean", "calibration"]
    assert [each.name for each in joint.suite.evaluations] == ["clean", "calibration", "in_between"]
    assert (joint.suite.name, joint.suite.question) == (
        "first+second",
        "Does mixup help first? Does mixup help second?",
    )


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [("[mixup]", "[cutmix]", ("mixup", "cutmix")), ("[mixup]", "null", None), ("[]", "[mixup]", ("mixup",))],
)
def test_published_numbers_are_those_that_any_suite_asks_for(tmp_path, first, second, both):
    plans = [
        plan_of(tmp_path, name, more=f"report: {{published: {asked}}}\n")
        for name, asked in {"first": first, "second": second}.items()
    ]
    assert join(plans).suite.report.published == both


def test_other_cells_are_told_apart_by_what_differs_now(tmp_path):
    joint = join([plan_of(tmp_path, "small"), plan_of(tmp_path, "large", hidden="[16]")])
    assert joint.cells == (
        "mlp hidden=[8], clean",
        "mlp hidden=[8], uniform 40 %",
        "mlp hidden=[16], clean",
        "mlp hidden=[16], uniform 40 %",
    )
    assert {each.cell for each in joint.trials} == set(joint.cells)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"more": "baseline: mixup alpha=1\n"}, "first compares with erm and second with mixup alpha=1"),
        ({"more": "report: {metric: test_error_oracle}\n"}, "first has report.metric test_error_last and second"),
        ({"seeds": "{min: 2, max: 4}"}, r"second adds seeds until its answer is clear.*--set seeds=4"),
        (
            {"evaluate": "[clean, {name: in_between, pairs: 7}]"},
            "first and second measure in_between with different options, so in_between_",
        ),
    ],
)
def test_suites_that_do_not_go_together(tmp_path, options, message):
    first = plan_of(tmp_path, "first", evaluate="[clean, in_between]")
    with pytest.raises(UserError, match=message):
        join([first, plan_of(tmp_path, "second", **options)])


def test_a_suite_given_twice(tmp_path):
    plan = plan_of(tmp_path, "first")
    with pytest.raises(UserError, match="first is given twice"):
        join([plan, plan])
