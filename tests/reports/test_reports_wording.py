"""Sentences and number formats, written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports import wording
from reports.statistics import Pairs, compare
from reports.wording import sentence


def pairs(differences: list[float], *, arm: str = "mixup alpha=1", planned: int | None = None) -> Pairs:
    errors = 0.3 + np.asarray(differences)
    return Pairs("mlp", arm, errors, np.full(len(errors), 0.3), len(errors) if planned is None else planned)


SPREAD = np.array([0.010, -0.010, 0.008, -0.008, 0.012, -0.012])
"""Mean 0, sd 0.01110, so half the 95 % interval is 2.5706 * 0.01110 / sqrt(6) = 0.01165."""


def test_better() -> None:
    (comparison,) = compare([pairs(list(-0.042 + SPREAD))])
    assert sentence(comparison, baseline="erm") == (
        "mixup alpha=1 beats ERM by 4.2 points [3.0, 5.4], p < 0.001 (Holm), 6 seeds"
    )


def test_worse_with_a_pair_left_out() -> None:
    (comparison,) = compare([pairs(list(0.042 + SPREAD), planned=7)])
    assert sentence(comparison, baseline="mixup alpha=4") == (
        "mixup alpha=1 is worse than mixup alpha=4 by 4.2 points [3.0, 5.4], p < 0.001 (Holm), 6 seeds; "
        "1 of 7 pairs left out, not finished"
    )


def test_unclear() -> None:
    """Effect 0.005 / 0.0111 = 0.4505, for which a t test of power 0.8 takes 41 pairs."""
    (comparison,) = compare([pairs(list(-0.005 + SPREAD))])
    assert sentence(comparison, baseline="erm") == (
        "no clear difference between mixup alpha=1 and ERM: -0.5 points [-1.7, +0.7], p = 0.32 (Holm), 6 seeds; "
        "about 35 more seeds would be needed to settle one of this size"
    )


def test_unclear_for_good() -> None:
    (comparison,) = compare([pairs(list(SPREAD))])
    assert "0.0 points [-1.2, +1.2], p = 1.00 (Holm), 6 seeds; too small for 1,000 seeds to settle" in sentence(
        comparison, baseline="erm"
    )


def test_without_spread() -> None:
    same, shifted = compare([pairs([0.0] * 7), pairs([-0.01] * 7)])
    assert sentence(same, baseline="erm") == (
        "no difference between mixup alpha=1 and ERM: the same error in each of 7 pairs"
    )
    assert sentence(shifted, baseline="erm") == (
        "mixup alpha=1 beats ERM by exactly 1.00 points in each of 7 pairs; without spread there is no t test, so this "
        "goes by the sign-flip test: p = 0.031 (Holm)"
    )


def test_too_few_pairs() -> None:
    none, one = compare([pairs([], planned=6), pairs([-0.02], planned=6)])
    assert sentence(none, baseline="erm") == "mixup alpha=1 cannot be compared with ERM: no pair has finished"
    assert sentence(one, baseline="erm") == (
        "mixup alpha=1 cannot be judged against ERM: only one pair has finished (-2.0 points); "
        "5 of 6 pairs left out, not finished"
    )


def test_the_sign_flip_test_is_named_where_it_disagrees() -> None:
    (comparison,) = compare([pairs([-0.001, -0.0012, -0.0011, -0.0013, -0.001, -0.09, -0.0012])])
    assert sentence(comparison, baseline="erm").endswith("(the sign-flip test sees a difference: p = 0.016)")


def test_what_the_sign_flip_test_could_show() -> None:
    family = [pairs(list(-0.042 + SPREAD), arm=str(arm)) for arm in range(12)]
    assert wording.sign_flip_note(compare(family)) == (
        "With 6 pairs and 12 comparisons, the sign-flip test cannot fall below 0.38 after Holm's adjustment: it can "
        "confirm no verdict here. It would take 9 seeds."
    )
    assert wording.sign_flip_note(compare(family[:1])) == ""


def test_summary() -> None:
    family = [
        pairs(list(-0.042 + SPREAD)),
        pairs(list(-0.05 + SPREAD)),
        pairs(list(0.05 + SPREAD)),
        pairs(list(SPREAD)),
        pairs([], planned=6),
    ]
    assert wording.summary(compare(family), baseline="erm") == (
        "Of 5 comparisons: 2 better than ERM, 1 worse, 1 without a clear difference, 1 with too few pairs to judge."
    )
    assert wording.summary(compare(family[-1:]), baseline="erm") == (
        "Too early to say: no comparison with ERM has two finished pairs yet."
    )
    assert wording.summary([], baseline="erm") == "The suite compares nothing with ERM."


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "<0.001"),
        (0.0123, "0.012"),
        (0.0496, "0.0496"),
        (0.0504, "0.0504"),
        (0.3, "0.30"),
        (1.0, "1.00"),
        (math.nan, "-"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert wording.p_value(p) == text


@pytest.mark.parametrize(
    ("spread", "digits"), [(0.2, 1), (0.0116, 1), (0.0099, 2), (0.0012, 2), (0.0007, 3), (0, 2), (math.nan, 2)]
)
def test_digits_follow_the_spread(spread: float, digits: int) -> None:
    assert wording.percent_digits(spread) == digits


def test_numbers() -> None:
    assert wording.percent(-0.00001, 2, signed=True) == "0.00"
    assert wording.percent(0.0421, 1, signed=True) == "+4.2"
    assert wording.percent(math.nan, 1) == "-"
    assert [wording.duration(s) for s in (0.84, 9.97, 59.7, 185, 7800, math.nan)] == [
        "0.8 s",
        "10 s",
        "1 min 0 s",
        "3 min 5 s",
        "2 h 10 min",
        "-",
    ]


def test_a_minus_is_a_minus_and_a_hyphen_stays_one() -> None:
    assert wording.typographic("wrn-28-10: -0.5 [-1.7, +0.7]") == "wrn-28-10: \u22120.5 [\u22121.7, +0.7]"
    assert wording.typographic("-") == "\u2013"
