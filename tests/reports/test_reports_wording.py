"""Sentences and number formats, written out by hand."""

from __future__ import annotations

import numpy as np

from reports import wording
from reports.measures import measure
from reports.statistics import Comparison, Pairs, compare


def sentence(comparison: Comparison, *, baseline: str, metric: str = "test_error_last") -> str:
    return wording.sentence(comparison, measure(metric), baseline=baseline)


def pairs(differences: list[float], *, arm: str = "mixup alpha=1", planned: int | None = None) -> Pairs:
    errors = 0.3 + np.asarray(differences)
    return Pairs("mlp", arm, errors, np.full(len(errors), 0.3), len(errors) if planned is None else planned)


SPREAD = np.array([0.010, -0.010, 0.008, -0.008, 0.012, -0.012])
"""Mean 0, sd 0.01110, so half the 95 % interval is 2.5706 * 0.01110 / sqrt(6) = 0.01165."""


def test_better() -> None:
    (comparison,) = compare([pairs(list(-0.042 + SPREAD))])
    assert sentence(comparison, baseline="erm") == (
        "mixup alpha=1 beats ERM, 25.8 % against 30.0 %, by 4.2 points [3.0, 5.4], p < 0.001 (Holm), 6 seeds"
    )


def test_worse_with_a_pair_left_out() -> None:
    (comparison,) = compare([pairs(list(0.042 + SPREAD), planned=7)])
    assert sentence(comparison, baseline="mixup alpha=4") == (
        "mixup alpha=1 is worse than mixup alpha=4, 34.2 % against 30.0 %, by 4.2 points [3.0, 5.4], p < 0.001 (Holm), "
        "6 seeds; 1 of 7 pairs left out, without a result"
    )


def test_erm_is_an_abbreviation_whatever_accompanies_it() -> None:
    assert wording.arm_name("erm") == "ERM"
    assert wording.arm_name("erm label_smoothing=0.1") == "ERM label_smoothing=0.1"
    assert wording.arm_name("erm label_smoothing: 0.05, 0.1, 0.2") == "ERM label_smoothing: 0.05, 0.1, 0.2"
    assert wording.arm_name("mixup alpha=1") == "mixup alpha=1"
    (comparison,) = compare([pairs(list(-0.042 + SPREAD), arm="erm dropout=0.3")])
    assert sentence(comparison, baseline="erm").startswith("ERM dropout=0.3 beats ERM, ")


def test_unclear() -> None:
    """Effect 0.005 / 0.0111 = 0.4505, for which a t test of power 0.8 takes 41 pairs."""
    (comparison,) = compare([pairs(list(-0.005 + SPREAD))])
    assert sentence(comparison, baseline="erm") == (
        "no clear difference between mixup alpha=1 and ERM, 29.5 % against 30.0 %: -0.5 points [-1.7, +0.7], p = 0.32 "
        "(Holm), 6 seeds, enough for a difference of 1.6 points; some 40 more seeds would be needed to settle one of "
        "the size seen"
    )


def test_no_difference_of_more_than_a_hundred_points() -> None:
    """Two pairs, differences of -0.18 and 0.14: a t test of power 0.8 takes one of 11.4 sd, or 259 points."""
    (comparison,) = compare([pairs([-0.18, 0.14])])
    assert ", 2 seeds, too few for any difference that there can be; " in sentence(comparison, baseline="erm")


def test_units_other_than_percent() -> None:
    (comparison,) = compare([pairs(list(-0.042 + SPREAD))])
    assert sentence(comparison, baseline="erm", metric="test_nll") == (
        "mixup alpha=1 beats ERM, 0.258 nats against 0.300 nats, by 0.042 nats [0.030, 0.054], p < 0.001 "
        "(Holm), 6 seeds"
    )
    assert sentence(comparison, baseline="erm", metric="test_brier") == (
        "mixup alpha=1 beats ERM, 0.258 against 0.300, by 0.042 [0.030, 0.054], p < 0.001 (Holm), 6 seeds"
    )


def test_a_verdict_that_the_sign_flip_test_cannot_confirm_is_marked_and_explained() -> None:
    few = compare([pairs(list(-0.05 + SPREAD[:4]))])
    assert wording.doubt_mark(few[0]) == " †"
    (note,) = wording.doubt_notes(few)
    assert note.startswith("† With 4 pairs and 1 comparison, the sign-flip test cannot fall below 0.12")
    enough = compare([pairs(list(-0.05 + SPREAD))])
    assert (wording.doubt_mark(enough[0]), wording.doubt_notes(enough)) == ("", [])


def test_unclear_for_good() -> None:
    (comparison,) = compare([pairs(list(SPREAD))])
    assert (
        "0.0 points [-1.2, +1.2], p = 1.00 (Holm), 6 seeds, enough for a difference of 1.6 points; one of the "
        "size seen is too small for 1,000 seeds to settle"
    ) in sentence(comparison, baseline="erm")


def test_without_spread() -> None:
    same, shifted = compare([pairs([0.0] * 7), pairs([-0.01] * 7)])
    assert sentence(same, baseline="erm") == (
        "no difference between mixup alpha=1 and ERM: the same test error in each of 7 pairs, 30.00 % on average"
    )
    assert sentence(shifted, baseline="erm") == (
        "mixup alpha=1 beats ERM, 29.00 % against 30.00 %, by exactly 1.00 points in each of 7 pairs; without spread "
        "there is no t test, so this goes by the sign-flip test: p = 0.031 (Holm)"
    )


def test_too_few_pairs() -> None:
    none, one = compare([pairs([], planned=6), pairs([-0.02], planned=6)])
    assert sentence(none, baseline="erm") == "mixup alpha=1 cannot be compared with ERM: no pair has a result"
    assert sentence(one, baseline="erm") == (
        "mixup alpha=1 cannot be judged against ERM: only one pair has a result, 28.00 % against 30.00 % (-2.00 "
        "points); 5 of 6 pairs left out, without a result"
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
    assert wording.summary(compare(family[-1:]), baseline="erm", is_over=True) == (
        "Nothing can be said: no comparison with ERM has two finished pairs."
    )
    assert wording.summary([], baseline="erm") == "The suite compares nothing with ERM."


def test_the_floor_of_the_sign_flip_test_is_named_where_it_can_agree() -> None:
    """Two comparisons of ten pairs: 2 / 2^10 and, after Holm's adjustment over two, twice that."""
    rng = np.random.default_rng(0)
    family = [Pairs("a", arm, rng.normal(0.1, 0.01, 10), rng.normal(0.2, 0.01, 10), planned=10) for arm in ("x", "y")]
    assert wording.floor_note(compare(family)) == (
        "Beside each t test stands the exact sign-flip test, which assumes nothing about how differences are "
        "distributed. Its floor: with 10 pairs its p cannot be below 0.002, or 0.0039 after Holm's adjustment."
    )
    few = [Pairs("a", "x", rng.normal(0.1, 0.01, 4), rng.normal(0.2, 0.01, 4), planned=4)]
    assert wording.floor_note(compare(few)) == "", "it cannot agree, which has a mark and a note of its own"
    assert wording.floor_note([]) == ""
