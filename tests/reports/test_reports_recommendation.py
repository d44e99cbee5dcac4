"""What validation recommends, and the gain to expect, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from made_up_trials import World
from scipy import stats

from reports.load import load
from reports.measures import measure
from reports.recommendation import Recommendation, measures_of, recommendation_section, recommendations, sentence
from reports.section import Findings

ARMS = ("erm", "mixup alpha=0.2", "mixup alpha=1")
Errors = Mapping[str, Sequence[tuple[float, float]]]
"""By arm, the (validation, test) error of each seed."""

VAL_AND_TEST: Errors = {
    "erm": [(0.30, 0.31), (0.30, 0.32), (0.30, 0.33), (0.30, 0.34)],
    "mixup alpha=0.2": [(0.20, 0.25), (0.28, 0.26), (0.24, 0.24), (0.24, 0.25)],
    "mixup alpha=1": [(0.26, 0.20), (0.22, 0.21), (0.27, 0.28), (0.29, 0.22)],
}
"""Means on validation: 0.30, 0.24, 0.26. Without seed 0 0.2533 and 0.26: alpha 0.2 still; without 1 0.2267; without 2
0.24 and 0.2567; without 3 0.24 and 0.25: always alpha 0.2. Its gains on test: 6, 6, 9, 9 points."""

ERM = VAL_AND_TEST["erm"]
VALIDATION_AND_TEST = (measure("val_error_last"), measure("test_error_last"))


def recommended(make_world: Callable[..., World], errors: Errors, **options: str) -> list[Recommendation]:
    world = make_world(seeds=len(errors["erm"]), label_noise="[{rate: 0}]", **options)
    (cell,) = world.plan.cells
    for arm, own in errors.items():
        for seed, (val, test) in enumerate(own):
            world.finish(world.trial(cell, arm, seed), test, val_error=val)
    return recommendations(load(world.plan, world.store))


def test_the_lowest_on_validation_and_its_gain(make_world: Callable[..., World]) -> None:
    (found,) = recommended(make_world, VAL_AND_TEST)
    assert (found.chosen.arm, found.reference.arm) == ("mixup alpha=0.2", "erm")
    assert (found.val_error, found.reference_val_error) == pytest.approx((0.24, 0.30))
    assert (found.candidates, found.seeds, found.agreeing) == (3, 4, 4)
    gains = [0.06, 0.06, 0.09, 0.09]
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    assert found.gain.mean == pytest.approx(0.075)
    assert (found.gain.low, found.gain.high) == pytest.approx((interval.low, interval.high))
    assert found.is_clear
    assert found.time_ratio == 1
    assert found.seconds == 12 * 20


def test_no_seed_measures_what_it_chose(make_world: Callable[..., World]) -> None:
    """Each method is lucky on one seed, on validation and test alike. With seed 0 all choose mixup 0.2; without it the
    others choose 1, which is what counts on seed 0: a gain of 0 there, and not the lucky 20 points."""
    errors: Errors = {
        "erm": [(0.30, 0.30)] * 4,
        "mixup alpha=0.2": [(0.00, 0.10), (0.33, 0.33), (0.33, 0.33), (0.33, 0.33)],
        "mixup alpha=1": [(0.30, 0.30), (0.29, 0.29), (0.29, 0.29), (0.29, 0.29)],
    }
    (found,) = recommended(make_world, errors)
    assert found.chosen.arm == "mixup alpha=0.2"
    assert found.agreeing == 3  # without seed 0 the others choose alpha 1
    assert found.gain.mean == pytest.approx((0.0 - 0.03 - 0.03 - 0.03) / 4)
    assert not found.is_clear


def test_in_words(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=4, label_noise="[{rate: 0}]")
    (cell,) = world.plan.cells
    for arm, own in VAL_AND_TEST.items():
        for seed, (val, test) in enumerate(own):
            world.finish(world.trial(cell, arm, seed), test, val_error=val)
    results = load(world.plan, world.store)
    (found,) = recommendations(results)
    assert sentence(found, *measures_of(results)) == (
        "use mixup alpha=0.2. It has the lowest mean validation error of 3 candidates over 4 seeds, 24.0 % against "
        "30.0 % for ERM. Gain to expect on test: +7.5 points [+4.7, +10.3]; it trains for 1.00 times as long"
    )
    section = recommendation_section(Findings(results, [], []))
    ((table, _),) = section.tables
    assert table.groups[0][1][0][1:] == (
        "mixup alpha=0.2", "24.0", "30.0", "+7.5", "[+4.7, +10.3]", "4 of 4", "1.00", "3, 4 min 0 s",
    )  # fmt: skip
    assert "the interval holds less often than it says (docs/statistics.md)" in section.notes[0]
    assert "nor is it adjusted for the number of rows" in section.notes[0]


def test_stay_with_the_baseline(make_world: Callable[..., World]) -> None:
    errors = VAL_AND_TEST | {"erm": [(0.1, 0.31)] * 4}
    (found,) = recommended(make_world, errors)
    assert found.is_baseline
    assert found.gain.mean == 0
    assert sentence(found, *VALIDATION_AND_TEST) == (
        "stay with ERM: none of 3 candidates has a lower mean validation error over 4 seeds than its 10.00 %, "
        "whichever seed is left out"
    )


def test_to_stay_with_the_baseline_it_need_not_be_the_lowest_alone(make_world: Callable[..., World]) -> None:
    (found,) = recommended(make_world, dict.fromkeys(VAL_AND_TEST, VAL_AND_TEST["erm"]))
    assert sentence(found, *VALIDATION_AND_TEST).startswith("stay with ERM: none of 3 candidates has a lower mean")


def test_a_gain_without_spread_has_no_interval(make_world: Callable[..., World]) -> None:
    (found,) = recommended(make_world, VAL_AND_TEST | {"mixup alpha=0.2": [(0.1, own - 0.05) for _, own in ERM]})
    assert "+5.00 points: that gain has no interval, so ERM can be" in sentence(found, *VALIDATION_AND_TEST)


@pytest.mark.parametrize(
    ("last", "gain", "doubt"),
    [
        (0.26, "+1.0 points [", "]: that is no clear gain, so ERM can be defended as well"),
        (
            0.34,
            "-1.0 points [",
            "]: the test images do not bear the choice out, so ERM is as good a choice or a better",
        ),
    ],
)
def test_a_gain_that_is_not_clear(make_world: Callable[..., World], last: float, gain: str, doubt: str) -> None:
    """Gains of -4, 7, -7 points, and 8 or 0."""
    errors = VAL_AND_TEST | {"mixup alpha=0.2": [(0.24, 0.35), (0.24, 0.25), (0.24, 0.40), (0.24, last)]}
    (found,) = recommended(make_world, errors)
    text = sentence(found, *VALIDATION_AND_TEST)
    assert not found.is_clear
    assert text.startswith("mixup alpha=0.2 has the lowest mean validation error of 3 candidates")
    assert f"Gain to expect on test: {gain}" in text
    assert doubt in text


def test_one_that_diverged_is_ruled_out(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=4, label_noise="[{rate: 0}]")
    (cell,) = world.plan.cells
    for arm, own in VAL_AND_TEST.items():
        for seed, (val, test) in enumerate(own):
            if (arm, seed) == ("mixup alpha=0.2", 3):
                world.diverge(world.trial(cell, arm, seed))
            else:
                world.finish(world.trial(cell, arm, seed), test, val_error=val)
    (found,) = recommendations(load(world.plan, world.store))
    assert found.chosen.arm == "mixup alpha=1"
    assert found.diverged == 1


def test_nothing_to_recommend_with_one_seed(make_world: Callable[..., World]) -> None:
    assert recommended(make_world, {arm: own[:1] for arm, own in VAL_AND_TEST.items()}) == []
