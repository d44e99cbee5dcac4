"""The statistics against scipy, closed forms, hand-worked cases and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.statistics import (
    BETTER,
    NO_CLEAR_DIFFERENCE,
    TOO_FEW_PAIRS,
    WORSE,
    Pairs,
    compare,
    holm,
    paired_t,
    pairs_of,
    seeds_for_power,
    sign_flip_p,
)


def pairs(differences: list[float] | np.ndarray, *, arm: str = "mixup", planned: int | None = None) -> Pairs:
    errors = 0.3 + np.asarray(differences, dtype=np.float64)
    return Pairs("cell", arm, errors, np.full(len(errors), 0.3), len(errors) if planned is None else planned)


@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_paired_t_equals_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    errors, baseline = rng.normal(0.20, 0.02, n), rng.normal(0.21, 0.02, n)
    ours, theirs = paired_t(errors - baseline), stats.ttest_rel(errors, baseline)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert ours.sd == pytest.approx(stats.tstd(errors - baseline), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 6, 9, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_sign_flip_equals_scipy(n: int, ties: bool) -> None:
    rng = np.random.default_rng(100 + n)
    differences = rng.integers(-9, 20, n) / 797 if ties else rng.normal(0.4, 1, n)

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        return sample.mean(axis=axis)

    theirs = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [10, 31, 32])
def test_sign_flip_of_powers_of_two(n: int) -> None:
    """Sums of +-1, +-2, +-4, ... are all odd numbers up to 2^n - 1, each once, so p is known exactly."""
    signs = np.random.default_rng(n).choice([-1, 1], n)
    signs[-2:] = 1  # far from zero, so that p is neither 0 nor 1
    differences = signs * 2.0 ** np.arange(n)
    extreme = (2**n - 1 - int(differences.sum())) // 2 + 1
    assert sign_flip_p(differences) == 2 * extreme / 2**n


def test_sign_flip_of_many_pairs_is_sampled_and_repeats() -> None:
    n = 40
    signs = np.ones(n)
    signs[-3] = -1
    differences = signs * 2.0 ** np.arange(n)
    exact = 2 * ((2**n - 1 - int(differences.sum())) // 2 + 1) / 2**n
    sampled = sign_flip_p(differences)
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 99_999))
    assert sampled == sign_flip_p(differences)
    assert sign_flip_p(np.ones(n)) == pytest.approx(1 / 100_000)  # never 0: the observed assignment counts


def test_sign_flip_ignores_order_and_direction() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1, 9)
    assert sign_flip_p(differences[::-1]) == pytest.approx(sign_flip_p(differences), rel=1e-12)
    assert sign_flip_p(-differences) == pytest.approx(sign_flip_p(differences), rel=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_counts_what_is_not_known_yet() -> None:
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.04])
    assert math.isnan(adjusted[1])


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_for_power_equals_published_tables(effect: float, n: int) -> None:
    """Paired t test, two-sided, level 0.05, power 0.8: the values of G*Power and of R's pwr."""
    assert seeds_for_power(effect, level=0.05) == n
    assert seeds_for_power(-effect, level=0.05) == n


@pytest.mark.parametrize(("effect", "level"), [(0.9, 0.05 / 12), (3.0, 0.05), (12.0, 0.05 / 90)])
def test_seeds_for_power_is_the_smallest_that_reaches_it(effect: float, level: float) -> None:
    n = seeds_for_power(effect, level=level)
    assert n is not None

    def power(seeds: int) -> float:
        critical = stats.t.isf(level / 2, seeds - 1)
        return float(stats.nct.sf(critical, seeds - 1, effect * math.sqrt(seeds)))

    assert power(n) >= 0.8
    assert n == 2 or power(n - 1) < 0.8


@pytest.mark.parametrize("effect", [0.0, 0.05, math.nan])
def test_no_number_of_seeds_settles_next_to_nothing(effect: float) -> None:
    assert seeds_for_power(effect, level=0.05) is None


@pytest.mark.parametrize("n", [3, 6])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(7)
    tests = [paired_t(sample) for sample in rng.normal(-0.03, 0.01, (4000, n))]
    coverage = np.mean([test.low <= -0.03 <= test.high for test in tests])
    assert coverage == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / 4000))


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.exp(0.25 * rng.standard_normal(shape)) - math.exp(0.25**2 / 2)


def of_gamma_errors(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Errors of two arms with the same sd, one of them far more skewed than the other (2 and 0.7)."""
    return rng.gamma(1, 1, shape) - 1 - (rng.gamma(8, 1, shape) - 8) / math.sqrt(8)


@pytest.mark.parametrize("n", [3, 6, 20])
@pytest.mark.parametrize("drawn", [lognormal, of_gamma_errors])
def test_skewed_differences_are_covered_nearly_as_often(
    n: int, drawn: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
) -> None:
    """Skewness 0.8 and 0.5: 93 to 97 % for every n, as measured with 100,000 samples in docs/statistics.md."""
    tests = [paired_t(sample) for sample in drawn(np.random.default_rng(8), (6000, n))]
    coverage = np.mean([test.low <= 0 <= test.high for test in tests])
    error = math.sqrt(0.95 * 0.05 / 6000)
    assert coverage + 1.5 * error >= 0.93
    assert coverage - 1.5 * error <= 0.97


def test_no_interval_of_this_kind_covers_differences_as_skewed_as_an_exponential() -> None:
    """Which the one above would notice: 88 % at six pairs."""
    samples = np.random.default_rng(8).exponential(1, (6000, 6)) - 1
    coverage = np.mean([test.low <= 0 <= test.high for test in map(paired_t, samples)])
    assert 0.87 < coverage < 0.90


def test_a_family_without_differences_is_rarely_called_clear() -> None:
    """Six arms as good as their common baseline: some verdict is clear in at most 5 % of families."""
    rng = np.random.default_rng(11)
    families = 800
    wrong = 0
    for _ in range(families):
        baseline = rng.normal(0.2, 0.02, 6)
        family = [Pairs("cell", str(arm), rng.normal(0.2, 0.02, 6), baseline, 6) for arm in range(6)]
        wrong += any(each.verdict in (BETTER, WORSE) for each in compare(family))
    assert 0.01 < wrong / families <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)


def test_verdicts() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.004, 8)
    better, worse, unclear = compare([pairs(-0.05 + noise), pairs(0.03 + noise), pairs(0.0005 + noise)])
    assert (better.verdict, worse.verdict, unclear.verdict) == (BETTER, WORSE, NO_CLEAR_DIFFERENCE)
    assert better.difference == pytest.approx((-0.05 + noise).mean())
    assert better.mean - better.baseline_mean == pytest.approx(better.difference)
    assert better.sign_flip == worse.sign_flip == unclear.sign_flip == "agrees"
    assert better.seeds_for_clear_answer is None


def test_an_unclear_difference_says_how_many_seeds_would_do() -> None:
    differences = np.array([-0.01, 0.005, -0.02, 0.012, -0.011, 0.002])
    (only,) = compare([pairs(differences)])
    effect = differences.mean() / differences.std(ddof=1)
    assert only.verdict == NO_CLEAR_DIFFERENCE
    assert only.seeds_for_clear_answer == seeds_for_power(effect, level=0.05)
    assert compare([pairs(differences)] * 2)[0].seeds_for_clear_answer == seeds_for_power(effect, level=0.025)


def test_the_sign_flip_test_cannot_agree_with_few_seeds() -> None:
    differences = -0.05 + np.array([0.001, -0.001, 0.0, 0.002, -0.002])
    (only,) = compare([pairs(differences)])
    assert (only.verdict, only.sign_flip) == (BETTER, "cannot agree")
    assert only.sign_flip_p == only.sign_flip_floor == 2 / 32
    assert only.sign_flip_holm_floor == 2 / 32
    first, _ = compare([pairs(differences), pairs(differences)])
    assert first.sign_flip_holm_p == first.sign_flip_holm_floor == 4 / 32


def test_the_sign_flip_test_disagrees() -> None:
    """One outlier inflates the sd, and with it the t test's p, but all signs are the same."""
    (only,) = compare([pairs([-0.001, -0.0012, -0.0011, -0.0013, -0.001, -0.09, -0.0012])])
    assert (only.verdict, only.sign_flip) == (NO_CLEAR_DIFFERENCE, "disagrees")
    assert only.sign_flip_p == 2 / 128


def test_arms_that_are_identical() -> None:
    (only,) = compare([pairs([0.0] * 6)])
    assert (only.verdict, only.spread, only.difference) == (NO_CLEAR_DIFFERENCE, "identical", 0)
    assert (only.holm_p, only.sign_flip_p) == (1, 1)
    assert math.isnan(only.t_p)
    assert only.seeds_for_clear_answer is None


def test_arms_that_differ_by_rounding_alone_are_identical() -> None:
    """All differences have one sign, and are no more than the t test takes for rounding."""
    (only,) = compare([pairs([5e-13] * 6)])
    assert (only.verdict, only.spread, only.difference) == (NO_CLEAR_DIFFERENCE, "identical", 0)
    assert (only.holm_p, only.sign_flip_p) == (1, 1)


def test_differences_that_are_all_the_same() -> None:
    (enough,) = compare([pairs([-0.01] * 6)])
    assert (enough.verdict, enough.spread) == (BETTER, "constant")
    assert math.isnan(enough.t_p)
    assert enough.holm_p == enough.sign_flip_p == 2 / 64
    (few,) = compare([pairs([-0.01] * 5)])
    assert (few.verdict, few.spread) == (NO_CLEAR_DIFFERENCE, "constant")


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs(n: int) -> None:
    (only,) = compare([pairs([-0.01] * n, planned=6)])
    assert only.verdict == TOO_FEW_PAIRS
    assert (only.pairs, only.left_out) == (n, 6 - n)
    assert math.isnan(only.holm_p)
    assert math.isnan(only.low)
    assert math.isnan(only.difference) == (n == 0)


def test_a_comparison_that_is_still_missing_makes_no_other_look_better() -> None:
    differences = -0.05 + np.random.default_rng(5).normal(0, 0.02, 6)
    alone, (beside, _) = compare([pairs(differences)])[0], compare([pairs(differences), pairs([], planned=6)])
    assert beside.holm_p == pytest.approx(2 * alone.holm_p)


def test_an_empty_family() -> None:
    assert compare([]) == []


def test_pairs_are_the_seeds_that_both_finished() -> None:
    rows = [
        ("a", "erm", 0, 0.2),
        ("a", "erm", 1, 0.3),
        ("a", "erm", 2, np.nan),
        ("a", "m", 2, 0.1),
        ("a", "m", 1, 0.15),
        ("a", "m", 0, np.nan),
        ("a", "k", 1, 0.4),
        ("b", "m", 0, 0.5),
    ]
    trials = pd.DataFrame(rows, columns=["cell", "arm", "seed", "error"])
    found = pairs_of(trials, "error", cells=["a", "b"], arms=["erm", "m", "k"], baseline="erm")
    assert [(each.cell, each.arm, each.planned) for each in found] == [("a", "m", 3), ("a", "k", 1)]
    assert found[0].errors.tolist() == [0.15]
    assert found[0].baseline_errors.tolist() == [0.3]
