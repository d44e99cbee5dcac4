"""Secondary comparisons against scipy's tests of the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from made_up_trials import EVERYTHING, World
from scipy import stats

from reports.load import load
from reports.secondary import Secondary, secondary_comparisons, secondary_frame, secondary_table
from reports.statistics import BETTER, NO_CLEAR_DIFFERENCE, TOO_FEW_PAIRS, WORSE, Pairs, judge

METHODS = "[erm, {name: mixup, alpha: [0.2, 1]}]"


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Two cells; mixup alpha=1 makes far fewer errors than erm, and so do all the figures made from its errors."""
    world = make_world(methods=METHODS, evaluate=EVERYTHING)
    rng = np.random.default_rng(11)
    for planned in world.plan.trials:
        gain = {"erm": 0.0, "mixup alpha=0.2": 0.001, "mixup alpha=1": 0.06}[planned.arm]
        world.finish(planned, 0.25 - gain + rng.normal(0, 0.01))
    return world


def found(world: World) -> dict[str, Secondary]:
    return {each.measure.name: each for each in secondary_comparisons(load(world.plan, world.store))}


def values(world: World, kind: str, name: str, cell: str, arm: str) -> list[float]:
    trials = [each for each in world.plan.trials if (each.cell, each.arm) == (cell, arm)]
    return [world.record(each, kind)["metrics"][name] for each in trials]


def test_every_figure_is_compared_but_the_suites_own(world: World) -> None:
    names = set(found(world))
    planned = world.plan.trials[0].evaluations
    assert names == {name for each in planned for name in each.config.metrics(validated=True)} - {"test_error"}
    assert sum(name.startswith("ood_") for name in names) == 12  # two sets


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("corruptions", "mean_corruption_error"),
        ("ood", "ood_gaussian_noise_auroc_msp"),
        ("calibration", "test_ece_scaled"),
    ],
)
def test_each_figure_is_a_holm_family_of_its_own(world: World, kind: str, name: str) -> None:
    judgements = found(world)[name].judgements
    assert len(judgements) == 4
    raw = {}
    for each in judgements:
        arm, baseline = values(world, kind, name, each.cell, each.arm), values(world, kind, name, each.cell, "erm")
        theirs = stats.ttest_rel(arm, baseline)
        interval = theirs.confidence_interval()
        assert each.p == pytest.approx(theirs.pvalue)
        assert (each.low, each.high) == pytest.approx((interval.low, interval.high))
        assert each.difference == pytest.approx(np.mean(arm) - np.mean(baseline))
        raw[each.cell, each.arm] = theirs.pvalue
    stepped, floor = {}, 0.0
    for rank, key in enumerate(sorted(raw, key=lambda key: raw[key])):
        floor = max(floor, min(1.0, (4 - rank) * raw[key]))
        stepped[key] = floor
    for each in judgements:
        assert each.holm_p == pytest.approx(stepped[each.cell, each.arm])


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("mean_corruption_error", -1),
        ("ood_mnist_auroc_energy", 1),
        ("ood_mnist_aupr_msp", 1),
        ("ood_mnist_fpr95_msp", -1),
        ("test_brier_resolution", 1),
        ("transfer_fgsm_linf_2_error", -1),
    ],
)
def test_verdicts_follow_the_direction_of_the_figure(world: World, name: str, sign: int) -> None:
    by_arm = {each.arm: each for each in found(world)[name].judgements}
    assert np.sign(by_arm["mixup alpha=1"].difference) == sign
    assert by_arm["mixup alpha=1"].verdict == BETTER
    assert by_arm["mixup alpha=0.2"].verdict == NO_CLEAR_DIFFERENCE


def test_a_loss_is_a_loss_in_either_direction() -> None:
    rng = np.random.default_rng(1)
    low, high = (level + rng.normal(0, 0.01, 6) for level in (0.5, 0.8))
    (falling,) = judge([Pairs("c", "a", low, high, 6)], better="higher")
    (rising,) = judge([Pairs("c", "a", high, low, 6)], better="lower")
    assert falling.verdict == rising.verdict == WORSE
    (neither,) = judge([Pairs("c", "a", high, low, 6)], better="neither")
    assert (neither.verdict, np.isnan(neither.p)) == ("", True)


def test_pairs_that_are_equal_but_for_rounding_are_equal() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    (only,) = judge([Pairs("c", "a", values * (1 + 1e-15), values, 6)], better="lower")
    assert (only.difference, only.holm_p, only.verdict) == (0, 1, NO_CLEAR_DIFFERENCE)


def test_too_few_pairs() -> None:
    (only,) = judge([Pairs("c", "a", np.array([0.1]), np.array([0.2]), 6)], better="lower")
    assert (only.verdict, np.isnan(only.holm_p)) == (TOO_FEW_PAIRS, True)


def test_what_has_no_better_has_no_verdict(world: World) -> None:
    for name in ("temperature", "test_brier_uncertainty"):
        judged = found(world)[name]
        assert judged.verdicts == []
        assert all(np.isnan(each.holm_p) for each in judged.judgements)
    results = load(world.plan, world.store)
    ((heading, rows),) = secondary_table(results, [found(world)["temperature"]]).groups
    assert heading == "temperature: neither way is better"
    assert rows[1][-2:] == ("-", "-")


def test_the_table_says_the_same_as_the_numbers(world: World) -> None:
    results = load(world.plan, world.store)
    name, (cell, *_) = "ood_mnist_auroc_msp", world.plan.cells
    ((heading, rows),) = secondary_table(results, [found(world)[name]]).groups
    assert heading == "AUROC against mnist, MSP (%): higher is better"
    by_label = {row[0]: row for row in rows}
    assert len(rows) == 6
    auroc = {
        arm: [
            results.trials.set_index("trial_id").loc[each.trial_id, name]
            for each in world.plan.trials
            if (each.cell, each.arm) == (cell, arm)
        ]
        for arm in ("erm", "mixup alpha=1")
    }
    theirs = stats.ttest_rel(auroc["mixup alpha=1"], auroc["erm"])
    row = by_label[f"{cell}: mixup alpha=1"]
    mean, _, sd = row[1].partition(" ± ")
    assert float(mean) == pytest.approx(100 * np.mean(auroc["mixup alpha=1"]), abs=0.05)
    assert float(sd) == pytest.approx(100 * np.std(auroc["mixup alpha=1"], ddof=1), abs=0.05)
    assert (row[2], row[3], row[7]) == ("6", "6", "better")
    difference = 100 * np.mean(np.subtract(auroc["mixup alpha=1"], auroc["erm"]))
    assert float(row[4]) == pytest.approx(difference, abs=0.05)
    low, high = (float(end) for end in row[5].strip("[]").split(", "))
    interval = theirs.confidence_interval()
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.051)
    assert by_label[f"{cell}: ERM"][3:] == ("", "", "", "", "baseline")


def test_the_csv_has_a_row_per_figure_and_condition(world: World) -> None:
    results = load(world.plan, world.store)
    frame = secondary_frame(results, secondary_comparisons(results))
    assert len(frame) == len(found(world)) * 2 * 3
    row = frame.set_index(["figure", "cell", "arm"]).loc[("test_brier", world.plan.cells[0], "mixup alpha=1")]
    brier = values(world, "calibration", "test_brier", world.plan.cells[0], "mixup alpha=1")
    assert (row["mean"], row["sd"], row["n"]) == pytest.approx((np.mean(brier), np.std(brier, ddof=1), 6))
    assert (row["kind"], row["better"], row["verdict"]) == ("calibration", "lower", "better")


def test_no_records_no_comparisons(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, evaluate=EVERYTHING)
    results = load(world.plan, world.store)
    assert secondary_comparisons(results) == []
    assert secondary_frame(results, []).empty
