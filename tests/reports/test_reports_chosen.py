"""What is chosen on validation, against numbers worked out by hand, scipy and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import World
from scipy import stats

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from reports import chosen_tables
from reports.chosen import (
    Choice,
    Family,
    Selection,
    Task,
    choices,
    chosen_frame,
    chosen_on_validation,
    family_of,
    pairs_of_chosen,
    tasks_of,
)
from reports.load import load
from reports.statistics import BETTER, judge

NAN, INF = math.nan, math.inf
ERM = Family("erm", {"erm": ""})
MIXUP = Family("mixup alpha: 1, 4", {"mixup alpha=1": "alpha=1", "mixup alpha=4": "alpha=4"})
TASK = Task("mlp", {"mlp": ""})

Row = tuple[str, str, int, float, float, float]


def frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["cell", "arm", "seed", "val", "val_nll", "test"])


def two_alphas(*seeds: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Choice:
    """(validation error, NLL, test error) at alpha 1 and at alpha 4 for each seed."""
    rows = [
        ("mlp", arm, seed, *values)
        for seed, both in enumerate(seeds)
        for arm, values in zip(MIXUP.arms, both, strict=True)
    ]
    (choice,) = choices(frame(rows), tasks=[TASK], families=[MIXUP])
    return choice


def test_each_seed_chooses_by_its_own_validation_error() -> None:
    """alpha 1, 4, 1: test errors 0.20, 0.24, 0.22. The oracle is alpha 4: mean 0.21 against 0.22."""
    choice = two_alphas(
        ((0.10, 1.0, 0.20), (0.12, 1.0, 0.18)),
        ((0.11, 1.0, 0.24), (0.10, 1.0, 0.24)),
        ((0.10, 1.0, 0.22), (0.13, 1.0, 0.21)),
    )
    assert choice.errors.tolist() == [0.20, 0.24, 0.22]
    assert [(candidate.name, n) for candidate, n in choice.counts] == [("alpha=1", 2), ("alpha=4", 1)]
    assert choice.oracle == 1
    assert choice.means == pytest.approx([0.22, 0.21])
    theirs = stats.ttest_rel([0.20, 0.24, 0.22], [0.18, 0.24, 0.21])
    interval = theirs.confidence_interval()
    assert choice.cost.mean == pytest.approx(0.01)
    assert (choice.cost.low, choice.cost.high) == pytest.approx((interval.low, interval.high))


def test_equal_validation_errors_go_by_nll_and_then_by_the_order_of_the_file() -> None:
    choice = two_alphas(
        ((0.10, 1.0, 0.20), (0.10, 0.9, 0.30)),
        ((0.10, 0.9, 0.20), (0.10, 0.9, 0.30)),
        ((0.10, NAN, 0.20), (0.10, NAN, 0.30)),
    )
    assert choice.chosen.tolist() == [1, 0, 0]


def test_a_seed_without_every_candidate_is_left_out() -> None:
    choice = two_alphas(
        ((0.10, 1.0, 0.20), (0.12, 1.0, 0.18)),
        ((0.10, 1.0, 0.20), (NAN, NAN, NAN)),
        ((0.10, 1.0, NAN), (0.12, 1.0, 0.18)),
    )
    assert (choice.seeds, choice.left_out) == ((0,), 2)
    assert choice.errors.tolist() == [0.20]


def test_a_candidate_that_diverged_is_not_chosen_and_is_no_oracle() -> None:
    choice = two_alphas(
        ((0.20, 1.0, 0.30), (INF, NAN, NAN)),
        ((0.20, 1.0, 0.30), (0.10, 1.0, 0.10)),
        ((INF, NAN, NAN), (INF, NAN, NAN)),  # nothing to choose
    )
    assert choice.seeds == (0, 1)
    assert choice.errors.tolist() == [0.30, 0.10]
    assert (choice.oracle, choice.left_out) == (0, 1)
    assert choice.cost.mean == pytest.approx(-0.10)


def test_nothing_has_ended() -> None:
    choice = two_alphas(((NAN, NAN, NAN), (NAN, NAN, NAN)))
    assert (choice.seeds, choice.oracle, choice.as_good, choice.counts) == ((), None, None, [])
    assert math.isnan(choice.cost.mean)
    assert two_alphas(((0.1, 1, 0.2), (0.1, 1, 0.3))).as_good is None  # one seed tells nothing


def test_how_many_are_as_good_as_the_oracle() -> None:
    """Of three others one differs by 5 points with hardly any spread, two by nothing but noise."""
    rng = np.random.default_rng(4)
    family = Family("mixup", {f"mixup alpha={alpha}": f"alpha={alpha}" for alpha in (1, 2, 4, 8)})
    levels = {"mixup alpha=1": 0.2, "mixup alpha=2": 0.25, "mixup alpha=4": 0.201, "mixup alpha=8": 0.201}
    errors = {arm: level + rng.normal(0, 0.002, 6) for arm, level in levels.items()}
    rows = [("mlp", arm, seed, 0.1, 1.0, float(errors[arm][seed])) for arm in family.arms for seed in range(6)]
    (choice,) = choices(frame(rows), tasks=[TASK], families=[family])
    best = min(errors, key=lambda arm: errors[arm].mean())
    ps = sorted(stats.ttest_rel(own, errors[best]).pvalue for arm, own in errors.items() if arm != best)
    clear = [p * (3 - rank) <= 0.05 for rank, p in enumerate(ps)]
    assert clear == [True, False, False]
    assert choice.as_good == 2


def test_comparisons_pair_the_chosen_by_seed() -> None:
    """Two recipes: erm is best with lr=1 and mixup with lr=2, on validation and on test."""
    rng = np.random.default_rng(8)
    task = Task("mlp", {"mlp, lr=1": "lr=1", "mlp, lr=2": "lr=2"})
    levels = {("lr=1", "erm"): 0.20, ("lr=2", "erm"): 0.30, ("lr=1", "mixup"): 0.24, ("lr=2", "mixup"): 0.15}
    test = {key: level + rng.normal(0, 0.004, 5) for key, level in levels.items()}
    rows = [
        (f"mlp, {recipe}", arm, seed, levels[recipe, arm], 1.0, float(errors[seed]))
        for (recipe, arm), errors in test.items()
        for seed in range(5)
    ]
    families = [ERM, Family("mixup", {"mixup": ""})]
    made = choices(frame(rows), tasks=[task], families=families)
    assert [each.counts[0][0].name for each in made] == ["lr=1", "lr=2"]
    (own,) = pairs_of_chosen(made, baseline="erm")
    assert own.differences == pytest.approx(test["lr=2", "mixup"] - test["lr=1", "erm"])
    single = [Task(cell, {cell: ""}) for cell in task.recipes]
    one, two = pairs_of_chosen(choices(frame(rows), tasks=single, families=families), baseline="erm")
    assert (one.cell, two.cell) == ("mlp, lr=1", "mlp, lr=2")
    assert one.differences == pytest.approx(test["lr=1", "mixup"] - test["lr=1", "erm"])
    assert two.differences == pytest.approx(test["lr=2", "mixup"] - test["lr=2", "erm"])


def test_seeds_left_out_of_either_half_are_left_out_of_the_pair() -> None:
    rows: list[Row] = [("mlp", "erm", seed, 0.1, 1.0, 0.3 if seed else NAN) for seed in range(4)]
    rows += [("mlp", arm, seed, 0.1, 1.0, 0.2) for arm in MIXUP.arms for seed in range(3)]
    (pairs,) = pairs_of_chosen(choices(frame(rows), tasks=[TASK], families=[ERM, MIXUP]), baseline="erm")
    assert (len(pairs.errors), pairs.planned) == (2, 3)


def test_choosing_on_validation_makes_no_winners_of_noise() -> None:
    """Twelve candidates as good as erm, and validation that says nothing of test: "better" in at most 5 % of suites.

    An oracle says so far more often: one that takes the best candidate on test, and all the more one that takes the
    best on each seed.
    """
    rng = np.random.default_rng(12)
    arms = tuple(f"mixup alpha={alpha}" for alpha in range(1, 13))
    families = [ERM, Family("mixup", dict.fromkeys(arms, ""))]
    suites, seeds = 250, 6
    better = {"chosen": 0, "oracle": 0, "oracle of each seed": 0}
    for _ in range(suites):
        rows = [
            ("mlp", arm, seed, val, 1.0, test)
            for arm in ("erm", *arms)
            for seed, (val, test) in enumerate(rng.normal(0.2, 0.02, (seeds, 2)))
        ]
        made = choices(frame(rows), tasks=[TASK], families=families)
        erm, mixup = made
        (pairs,) = pairs_of_chosen(made, baseline="erm")
        better["chosen"] += judge([pairs], better="lower")[0].verdict == BETTER
        for name, errors in (("oracle", mixup.oracle_errors), ("oracle of each seed", mixup.test_errors.min(axis=1))):
            test = stats.ttest_rel(errors, erm.errors)
            better[name] += bool(test.pvalue <= 0.05 and test.statistic < 0)
    assert better["chosen"] / suites <= 0.05
    assert better["oracle"] / suites > 0.1
    assert better["oracle of each seed"] / suites > 0.7


@pytest.mark.parametrize(
    ("options", "name", "own"),
    [
        ({"erm": {}}, "erm", [""]),
        ({"mixup alpha=1 partner=neighbours": {}}, "mixup alpha=1 partner=neighbours", [""]),
        ({"mixup alpha=0.2": {}, "mixup alpha=1": {}, "mixup alpha=4": {}}, "mixup alpha: 0.2, 1, 4", None),
        ({f"mixup alpha={alpha}": {} for alpha in (0.1, 1, 32, 4)}, "mixup alpha: 0.1 to 32", None),
        ({f"mixup alpha={alpha} lam_per=sample": {} for alpha in (1, 2)}, "mixup lam_per=sample alpha: 1, 2", None),
        (
            {"mixup alpha=1": {"partner": "permutation"}, "mixup alpha=1 partner=neighbours": {}},
            "mixup alpha=1 partner: permutation, neighbours",
            ["partner=permutation", "partner=neighbours"],
        ),
        (
            {"mixup alpha=1": {"off_epoch": None}, "mixup alpha=1 off_epoch=0.5": {}},
            "mixup alpha=1 off_epoch: none, 0.5",
            ["off_epoch=none", "off_epoch=0.5"],
        ),
        (
            {f"mixup alpha=1 partner={partner}": {} for partner in ("a", "b", "c", "d")},
            "mixup alpha=1 partner: a, b, ... d",
            ["partner=a", "partner=b", "partner=c", "partner=d"],
        ),
        (
            {f"mixup alpha={alpha} lam_per={per}": {} for alpha in (1, 2, 3, 4) for per in ("batch", "sample")},
            "mixup alpha: 1 to 4, lam_per: batch, sample",
            None,
        ),
    ],
)
def test_a_family_is_named_by_what_it_sweeps(
    options: dict[str, dict[str, object]], name: str, own: list[str] | None
) -> None:
    family = family_of(options)
    assert family.name == name
    assert list(family.arms) == list(options)
    if own:
        assert list(family.arms.values()) == own
    else:
        assert all(set(what.split()) < set(arm.split()) for arm, what in family.arms.items())


HEAD = """\
name: recipes
question: Which recipe?
seeds: 2
base: {dataset: {name: digits, val_fraction: 0.1}, model: mlp, training: {epochs: 3, lr: 0.1}}
methods: [erm]
"""


@pytest.mark.parametrize(
    ("matrix", "tasks"),
    [
        ("", {"mlp, digits": [""]}),
        ("{training.lr: [0.1, 0.2]}", {"mlp, digits": ["lr=0.1", "lr=0.2"]}),
        (
            "{model: [mlp, {name: mlp, hidden: [8, 8]}], training.lr: [0.1, 0.2]}",
            {"mlp hidden=[128, 64]": ["lr=0.1", "lr=0.2"], "mlp hidden=[8, 8]": ["lr=0.1", "lr=0.2"]},
        ),
        (
            "{label_noise.rate: [0, 0.4], training: [{lr: 0.1}, {schedule: multistep, milestones: [1, 2]}]}",
            {
                "clean": ["schedule=cosine", "schedule=multistep milestones=(1, 2)"],
                "uniform 40 %": ["schedule=cosine", "schedule=multistep milestones=(1, 2)"],
            },
        ),
    ],
)
def test_a_task_is_the_cells_that_differ_in_the_recipe_alone(
    tmp_path: Path, matrix: str, tasks: dict[str, list[str]]
) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(HEAD + (f"matrix: {matrix}\n" if matrix else ""))
    found = {task.label: list(task.recipes.values()) for task in tasks_of(make_plan(load_suite(path)))}
    assert found == tasks


RECIPES = "[{rate: 0}]\n  training.lr: [0.1, 0.2]"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Two recipes. Validation and test agree: erm does best with lr 0.1, mixup with alpha 1 and lr 0.2."""
    world = make_world(label_noise=RECIPES)
    rng = np.random.default_rng(5)
    for planned in world.plan.trials:
        first = planned.trial.training.lr == 0.1
        level = {"erm": 0.20 if first else 0.26, "mixup alpha=0.2": 0.24, "mixup alpha=1": 0.25 if first else 0.15}
        error = level[planned.arm] + rng.normal(0, 0.002)
        world.finish(planned, float(error), val_error=float(error) + 0.01)
    return world


def selection_of(world: World) -> Selection:
    selection = chosen_on_validation(load(world.plan, world.store))
    assert selection is not None
    return selection


def test_each_under_its_own_best_recipe_and_both_under_one(world: World) -> None:
    selection = selection_of(world)
    assert [(task.label, list(task.recipes)) for task in selection.tasks] == [("mlp, digits", ["lr=0.1", "lr=0.2"])]
    erm, mixup = selection.choices
    assert [(candidate.name, n) for candidate, n in erm.counts] == [("lr=0.1", 6)]
    assert [(candidate.name, n) for candidate, n in mixup.counts] == [("alpha=1, lr=0.2", 6)]
    (own,), one = selection.comparisons, selection.one_recipe
    assert (own.arm, own.verdict, own.pairs) == ("mixup alpha: 0.2, 1", BETTER, 6)
    assert own.difference == pytest.approx(-0.05, abs=0.005)
    assert [(each.cell, each.verdict) for each in one] == [("lr=0.1", "worse"), ("lr=0.2", BETTER)]
    ((heading, rows),) = chosen_tables.comparisons_table(selection).groups
    assert heading == "mlp, digits: mixup alpha: 0.2, 1"
    assert [row[0] for row in rows] == ["each its own best", "both lr=0.1", "both lr=0.2"]
    assert [row[-1] for row in rows] == ["better", "worse", "better"]


def test_holm_is_over_each_of_the_two_questions(world: World) -> None:
    """One comparison of what was chosen, which rows about another question must not dilute; two under one recipe."""
    selection = selection_of(world)
    (own,) = selection.comparisons
    assert own.holm_p == own.p
    low, high = sorted(selection.one_recipe, key=lambda judged: judged.p)
    assert low.holm_p == pytest.approx(2 * low.p)
    assert high.holm_p == pytest.approx(max(2 * low.p, high.p))


def test_the_tables_say_what_was_chosen(world: World) -> None:
    selection = selection_of(world)
    ((task, (erm, mixup)),) = chosen_tables.choices_table(selection).groups
    assert task == "mlp, digits"
    assert erm[:2] == ("ERM", "2")
    assert mixup[:2] == ("mixup alpha: 0.2, 1", "4")
    assert mixup[3] == "alpha=1, lr=0.2: 6"
    errors = 100 * selection.choices[1].errors
    assert mixup[4] == f"{errors.mean():.2f} ± {errors.std(ddof=1):.2f}"
    ((_, (_, oracle)),) = chosen_tables.oracle_table(selection).groups
    assert oracle[:2] == ("mixup alpha: 0.2, 1", "alpha=1, lr=0.2")
    assert oracle[3:] == ("0.00", "-", "0 of 3 others")  # the same candidate on every seed: it cost nothing


def test_the_csv_has_a_row_per_seed(world: World) -> None:
    table = chosen_frame(selection_of(world)).set_index(["task", "family", "seed"])
    assert len(table) == 2 * 6
    row = table.loc[("mlp, digits", "mixup alpha: 0.2, 1", 3)]
    final = world.store.trial(world.trial("lr=0.2", "mixup alpha=1", 3).trial_id).final()
    assert final is not None
    assert (row["chosen_cell"], row["chosen_arm"], row["candidates"]) == ("lr=0.2", "mixup alpha=1", 4)
    assert row["chosen_val_error_last"] == final["metrics"]["val_error_last"]
    assert row["chosen_test_error_last"] == row["oracle_test_error_last"] == final["metrics"]["test_error_last"]
    assert chosen_frame(None).empty


@pytest.mark.parametrize(
    ("metric", "val", "test"),
    [
        ("test_error_last", "val_error_last", "test_error_last"),
        ("test_error_median10", "val_error_last", "test_error_median10"),
        ("test_error_val_selected", "val_error_best", "test_error_val_selected"),
        ("test_error_oracle", "val_error_last", "test_error_last"),
        ("test_ece", "val_error_last", "test_error_last"),
    ],
)
def test_what_chooses_and_what_counts(make_world: Callable[..., World], metric: str, val: str, test: str) -> None:
    """Among alphas 0.2 and 1, each validation error prefers another."""
    world = make_world(seeds=2, label_noise="[{rate: 0}]", metric=metric)
    for planned in world.plan.trials:
        world.finish(planned, 0.2)
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        first = planned.arm == "mixup alpha=0.2"
        final["metrics"] |= {"val_error_last": 0.1 if first else 0.2, "val_error_best": 0.09 if first else 0.05}
        final["metrics"] |= {"test_error_median10": 0.21, "test_error_val_selected": 0.19, "test_error_last": 0.20}
        folder.write_final(final)
    selection = selection_of(world)
    assert (selection.val_metric, selection.test_metric) == (val, test)
    mixup = selection.choices[1]
    assert mixup.counts[0][0].arm == ("mixup alpha=0.2" if val == "val_error_last" else "mixup alpha=1")
    expected = {"test_error_last": 0.20, "test_error_median10": 0.21, "test_error_val_selected": 0.19}[test]
    assert mixup.errors.tolist() == [expected] * 2


@pytest.mark.parametrize(("metric", "chosen"), [("test_error_last", "0.2"), ("test_error_val_selected", "1")])
def test_ties_go_by_the_nll_of_the_epoch_that_chooses(
    make_world: Callable[..., World], metric: str, chosen: str
) -> None:
    """alpha 0.2 has the lower NLL at the last epoch, alpha 1 at the best one."""
    world = make_world(seeds=1, epochs=2, label_noise="[{rate: 0}]", metric=metric)
    for planned in world.plan.trials:
        world.finish(planned, 0.2, val_error=0.1)
        folder = world.store.trial(planned.trial_id)
        last, best = (1.0, 0.9) if planned.arm == "mixup alpha=0.2" else (1.1, 0.5)
        for epoch, nll in ((1, best), (2, last)):
            folder.append("epoch", epoch=epoch, val_error=0.1, val_nll=nll, test_error=0.2)
    assert selection_of(world).choices[1].counts[0][0].arm == f"mixup alpha={chosen}"


def test_a_diverged_trial_has_ended(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    for planned in world.plan.trials:
        if planned.arm == "mixup alpha=1":
            world.diverge(planned)
        else:
            world.finish(planned, 0.2)
    mixup = selection_of(world).choices[1]
    assert mixup.seeds == (0, 1)
    assert {candidate.arm for candidate, _ in mixup.counts} == {"mixup alpha=0.2"}
    notes = chosen_tables.choices_table(selection_of(world)).notes
    assert any("diverged" in note for note in notes)


def test_no_choice_no_selection(make_world: Callable[..., World]) -> None:
    assert chosen_on_validation(load((new := make_world(seeds=2)).plan, new.store)) is None
    single = make_world(seeds=2, methods="[erm, {name: mixup, alpha: 1}]")
    for planned in single.plan.trials:
        single.finish(planned, 0.2)
    assert chosen_on_validation(load(single.plan, single.store)) is None


def test_trials_without_validation_choose_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    for planned in world.plan.trials:
        world.finish(planned, 0.2)
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        final["metrics"] = {name: value for name, value in final["metrics"].items() if not name.startswith("val_")}
        folder.write_final(final)
    assert chosen_on_validation(load(world.plan, world.store)) is None


def test_left_out_seeds_are_said(world: World) -> None:
    planned = world.trial("lr=0.2", "mixup alpha=0.2", 4)
    (world.store.trial(planned.trial_id).path / "final.json").unlink()
    selection = selection_of(world)
    assert selection.comparisons[0].pairs == 5
    assert selection.one_recipe[0].pairs == 6  # that recipe has all its trials
    (note,) = chosen_tables.choices_table(selection).notes
    assert "mixup alpha: 0.2, 1 in mlp, digits, 1 of 6 seeds" in note


def test_a_method_with_more_tries_is_cautioned_against(world: World) -> None:
    words = " ".join(chosen_tables.paragraphs(selection_of(world)))
    assert "has more tries" in words
    assert "under one and the same recipe" in words
    assert "of 1 comparison: 1 better than ERM, 0 worse, 0 without a clear difference." in words


def test_the_answer_says_what_was_chosen_what_it_gave_and_what_it_cost(make_world: Callable[..., World]) -> None:
    """On validation alpha 0.2 is best with two of six seeds, on test alpha 1 is: the numbers by scipy."""
    world = make_world(label_noise="[{rate: 0}]")
    rng = np.random.default_rng(6)
    level = {"erm": 0.20, "mixup alpha=0.2": 0.18, "mixup alpha=1": 0.15}
    test = {arm: mean + rng.normal(0, 0.003, 6) for arm, mean in level.items()}
    for planned in world.plan.trials:
        seed = planned.trial.seed
        first = planned.arm == "mixup alpha=0.2"
        val_error = (0.1 if seed < 2 else 0.3) if first else 0.2
        world.finish(planned, float(test[planned.arm][seed]), val_error=val_error)
    ((verdict, sentence),) = chosen_tables.answers(selection_of(world))
    chosen = np.where(np.arange(6) < 2, test["mixup alpha=0.2"], test["mixup alpha=1"])
    gain = 100 * (test["erm"] - chosen)
    cost = 100 * (chosen - test["mixup alpha=1"])
    theirs, price = (stats.ttest_1samp(each, 0).confidence_interval() for each in (gain, cost))
    assert verdict == BETTER
    assert sentence.startswith(
        "mlp, digits: mixup alpha: 0.2, 1, chosen on each seed's validation images, beats ERM, "
        f"{100 * chosen.mean():.1f} % against {100 * test['erm'].mean():.1f} %, by {gain.mean():.1f} points "
        f"[{theirs.low:.1f}, {theirs.high:.1f}], p "
    )
    assert sentence.endswith(
        f"(Holm), 6 seeds; choosing cost {cost.mean():+.1f} points [{price.low:+.1f}, {price.high:+.1f}] against the "
        "alpha that is best on test; none of 1 other is as good as far as these seeds tell."
    )


def test_the_answer_says_where_one_recipe_for_both_gives_another_verdict(world: World) -> None:
    ((_, sentence),) = chosen_tables.answers(selection_of(world))
    assert sentence.startswith(
        "mlp, digits: each under its own best recipe, mixup alpha: 0.2, 1, chosen on each seed's"
    )
    assert "; with both under one recipe, another verdict in 1 of 2: worse with lr=0.1; choosing cost 0.00" in sentence
    assert "against the candidate that is best on test" in sentence
    words = chosen_tables.outcome(selection_of(world))
    assert words.endswith("For 1 of 1, some recipe gives another verdict when both are under it.")


def test_the_answer_says_where_every_recipe_gives_the_same_verdict(make_world: Callable[..., World]) -> None:
    world = make_world(label_noise=RECIPES)
    rng = np.random.default_rng(7)
    for planned in world.plan.trials:
        error = float((0.3 if planned.arm == "erm" else 0.2) + rng.normal(0, 0.002))
        world.finish(planned, error, val_error=error)
    ((_, sentence),) = chosen_tables.answers(selection_of(world))
    assert "; the same verdict with both under one recipe, whichever of the 2; choosing cost" in sentence
    assert chosen_tables.outcome(selection_of(world)).endswith(
        "No recipe gives another verdict when both are under it."
    )


def test_the_answer_to_an_unclear_choice_and_to_one_without_spread(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=6, label_noise="[{rate: 0}]")
    for planned in world.plan.trials:
        error = 0.2 if planned.arm == "erm" else 0.2 + 0.01 * (-1) ** planned.trial.seed
        world.finish(planned, error, val_error=0.2)
    ((_, sentence),) = chosen_tables.answers(selection_of(world))
    assert sentence.startswith(
        "mlp, digits: no clear difference between mixup alpha: 0.2, 1, chosen on each seed's validation images, and "
        "ERM, 20.0 % against 20.0 %: 0.0 points ["
    )
    assert "more seeds would be needed" not in sentence
    for planned in world.plan.trials:
        world.finish(planned, 0.2, val_error=0.2)
    ((_, sentence),) = chosen_tables.answers(selection_of(world))
    assert "and ERM: the same test error in each of 6 pairs, 20.00 % on average; choosing cost 0.00 points" in sentence


def test_the_answer_when_hardly_any_trial_has_finished(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    for arm in ("erm", "mixup alpha=0.2", "mixup alpha=1"):
        world.finish(world.trial("mlp, digits", arm, 0), 0.2)
    ((_, sentence),) = chosen_tables.answers(selection_of(world))
    assert "cannot be judged against ERM: only one pair has a result" in sentence
    assert "as these seeds tell" not in sentence
    assert chosen_tables.outcome(selection_of(world)) == ""
