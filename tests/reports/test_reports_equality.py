"""The verdict "practically equal": against statsmodels and scipy, by hand, by simulation, and what a report says."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_up_trials import World
from scipy import stats

from bench.plan import sequential
from bench.plan.sequential import Adjusted, adjust, holm, look_level, progress, sequential_equality_p, wanted
from bench.plan.suite_file import StoppingRule
from reports import render, statistics, theme, wording
from reports.figures import Drawing
from reports.figures.errors import forest
from reports.load import load
from reports.measures import measure
from reports.statistics import (
    BETTER,
    NO_CLEAR_DIFFERENCE,
    PRACTICALLY_EQUAL,
    WORSE,
    Comparison,
    Pairs,
    compare,
    detectable_effect,
    equality_p,
    seeds_for_equality,
)

EFFECT = 0.005
SPREAD = np.array([0.0010, -0.0010, 0.0008, -0.0008, 0.0012, -0.0012])


def pairs(differences: Sequence[float] | np.ndarray, *, arm: str = "mixup alpha=1") -> Pairs:
    errors = 0.3 + np.asarray(differences, dtype=np.float64)
    return Pairs("mlp", arm, errors, np.full(len(errors), 0.3), len(errors))


def sentence(comparison: Comparison) -> str:
    return wording.sentence(comparison, measure("test_error_last"), baseline="erm")


def test_equality_p_equals_statsmodels() -> None:
    """statsmodels 0.15.0, weightstats.ttost_paired(errors, baseline, -0.005, 0.005)."""
    errors = np.array([0.152, 0.149, 0.158, 0.147, 0.155, 0.151])
    baseline = np.array([0.150, 0.151, 0.157, 0.149, 0.152, 0.153])
    assert equality_p(errors - baseline, smallest_effect=0.005) == pytest.approx(0.0015063041801272477, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_equality_p_is_the_larger_of_scipy_s_two(n: int) -> None:
    for mean in (-0.004, 0.0, 0.003, 0.02):
        sample = np.random.default_rng(n).normal(mean, 0.002, n)
        below = stats.ttest_1samp(sample, EFFECT, alternative="less").pvalue
        above = stats.ttest_1samp(sample, -EFFECT, alternative="greater").pvalue
        assert equality_p(sample, smallest_effect=EFFECT) == pytest.approx(max(below, above), rel=1e-9)


def test_equality_p_without_spread_is_the_sign_flip_test_s() -> None:
    assert equality_p([0.0] * 6, smallest_effect=EFFECT) == 1 / 64
    assert equality_p([-0.004] * 5, smallest_effect=EFFECT) == 1 / 32
    assert equality_p([EFFECT] * 6, smallest_effect=EFFECT) == 1
    assert math.isnan(equality_p([0.001], smallest_effect=EFFECT))


@pytest.mark.parametrize(
    ("n", "level", "effect"),
    [
        (3, 0.05, 3.264043552819638),
        (6, 0.05, 1.4345451395119289),
        (6, 0.05 / 12, 2.5584815134790317),
        (20, 0.05 / 12, 0.930631208151944),
        (10, 0.01, 1.332032088437076),
    ],
)
def test_the_detectable_effect_equals_statsmodels(n: int, level: float, effect: float) -> None:
    """statsmodels 0.15.0, TTestPower().solve_power(None, nobs=n, alpha=level, power=0.8); it counts both sides."""
    assert detectable_effect(n, level=level) == pytest.approx(effect, rel=1e-5)


def test_the_detectable_effect_of_two_pairs_at_a_small_level() -> None:
    """t of 1 degree of freedom is near 1,146 there; against normal samples."""
    n, level = 2, 0.05 / 90
    samples = np.random.default_rng(1).normal(detectable_effect(n, level=level), 1, (40_000, n))
    t = samples.mean(axis=1) / stats.sem(samples, axis=1)
    assert np.mean(t > stats.t.isf(level / 2, n - 1)) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 40_000))


@pytest.mark.parametrize(("effect", "margin", "level"), [(0.0, 1.0, 0.05), (0.3, 1.2, 0.05), (-0.5, 1.5, 0.05 / 4)])
def test_seeds_for_equality_reach_the_power_in_simulation(effect: float, margin: float, level: float) -> None:
    n = seeds_for_equality(effect, margin, level=level)
    assert n is not None
    rng = np.random.default_rng(2)
    shares = []
    for seeds in (n, n - 1):
        samples = rng.normal(effect, 1, (20_000, seeds))
        mean, error = samples.mean(axis=1), stats.sem(samples, axis=1)
        shares.append(np.mean(np.abs(mean) + stats.t.isf(level, seeds - 1) * error < margin))
    assert shares[0] > 0.8 - 4 * math.sqrt(0.16 / 20_000)
    assert shares[1] < 0.8 + 4 * math.sqrt(0.16 / 20_000)
    assert seeds_for_equality(margin, margin, level=level) is None


def test_both_kinds_of_p_are_adjusted_together_by_hand() -> None:
    """Shares: 1/3 for 0.004; then 1/4 for 0.006, which beside a difference may be one of two that matter; then 1/2."""
    both = adjust([0.004, 0.02, 0.9], [0.006, 0.7, 0.03])
    assert both.differences == pytest.approx([0.012, 0.04, 1.0])
    assert both.equalities == pytest.approx([0.024, 1.0, 0.06])
    assert (both.difference_share, both.equality_share) == (0.5, 0.5)
    alone = adjust([0.03], [0.04])
    assert (alone.differences[0], alone.equalities[0]) == (0.03, 0.04)
    missing = adjust([math.nan, 0.01], [math.nan, 0.3])
    assert missing.differences[1] == pytest.approx(0.02)
    assert np.isnan([missing.differences[0], missing.equalities[0]]).all()


def test_without_an_effect_that_matters_it_is_holm_s_adjustment() -> None:
    ps = [0.01, 0.04, math.nan, 0.005]
    alone = adjust(ps)
    assert alone.differences == pytest.approx(holm(ps), nan_ok=True)
    assert np.isnan(alone.equalities).all()
    assert alone.difference_share == 1 / (4 - int(np.sum(holm(ps) <= 0.05)))


def brute_force(difference_ps: Sequence[float], equality_ps: Sequence[float]) -> np.ndarray:
    """The closed test, set by set: of each comparison a hypothesis of one kind or none, weighed as the docs say."""
    n = len(difference_ps)
    adjusted = np.zeros((2, n))
    for kinds in itertools.product((None, 0, 1), repeat=n):
        of_kind = [[i for i in range(n) if kinds[i] == kind] for kind in (0, 1)]
        size = len(of_kind[0]) + len(of_kind[1])
        halves = 2 * len(of_kind[1]) > size and bool(of_kind[0])
        ps = [(difference_ps, equality_ps)[kind][i] for kind in (0, 1) for i in of_kind[kind]]
        shares = [0.5 / len(of_kind[kind]) if halves else 1 / size for kind in (0, 1) for _ in of_kind[kind]]
        p = min((each / share for each, share in zip(ps, shares, strict=True)), default=0.0)
        for kind in (0, 1):
            for i in of_kind[kind]:
                adjusted[kind, i] = max(adjusted[kind, i], min(1.0, p))
    return adjusted


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_adjustment_rejects_nothing_that_the_closed_test_would_not(n: int) -> None:
    """All 3^n sets of hypotheses that may be true together. Step by step it gives the same, or is more careful."""
    rng = np.random.default_rng(n)
    same = 0
    for _ in range(60):
        ps = rng.random((2, n)) ** 4
        found, closed = adjust(*ps.tolist()), brute_force(*ps.tolist())
        stepped = np.array([found.differences, found.equalities])
        assert (stepped >= closed - 1e-12).all()
        same += bool(np.allclose(stepped, closed))
    assert same > 20


def is_false(judged: Comparison, difference: float) -> bool:
    """Whether its verdict is, or what its sentence says of a clear difference: that it does not matter."""
    wrong_way = (judged.verdict == BETTER and difference >= 0) or (judged.verdict == WORSE and difference <= 0)
    said_small = judged.verdict == PRACTICALLY_EQUAL or judged.is_negligible
    return wrong_way or (said_small and abs(difference) >= EFFECT)


def share_of_false_families(differences: Sequence[float], *, sd: float, n: int, families: int) -> float:
    """Families of arms with these true differences from a baseline that they share: any verdict false."""
    rng = np.random.default_rng(17)
    wrong = 0
    for _ in range(families):
        baseline = rng.normal(0.2, 0.004, n)
        family = [
            Pairs("cell", str(arm), baseline + rng.normal(true, sd, n), baseline, n)
            for arm, true in enumerate(differences)
        ]
        judged = compare(family, smallest_effect=EFFECT)
        wrong += any(is_false(each, true) for each, true in zip(judged, differences, strict=True))
    return wrong / families


HARDEST = {"differences": (0, 0, EFFECT, -EFFECT), "sd": 0.0004, "n": 8, "families": 2000}
"""Half without a difference, and clearly so; the others at the edge of what matters, and clearly not zero."""


@pytest.fixture
def no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the time in a comparison, and has no part in its verdict."""
    monkeypatch.setattr(statistics, "detectable_effect", lambda *_, **__: math.nan)
    monkeypatch.setattr(statistics, "_fewest_seeds", lambda _: None)
    monkeypatch.setattr(statistics, "sign_flip_p", lambda _: 1.0)


@pytest.mark.usefixtures("no_power")
def test_at_most_one_family_in_twenty_has_a_false_verdict() -> None:
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert 0.025 < share_of_false_families(**HARDEST) <= limit
    assert share_of_false_families((0.0, 0.001, EFFECT, -0.02), sd=0.003, n=5, families=1000) <= limit


@pytest.mark.usefixtures("no_power")
def test_two_adjustments_side_by_side_would_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same simulation of what comes to mind first shows that the one above can fail."""

    def apart(difference_ps: Sequence[float], equality_ps: Sequence[float] | None = None) -> Adjusted:
        return Adjusted(holm(difference_ps), holm(equality_ps or []), 1.0, 1.0)

    monkeypatch.setattr(statistics, "adjust", apart)
    assert share_of_false_families(**HARDEST) > 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_verdicts_and_sentences() -> None:
    """sd 0.00111; half the 95 % interval of 6 is 0.001165, t of the nearer edge (0.005 - 0.0005) / 0.000453 = 9.93."""
    equal, better, small, open_ = compare(
        [pairs(0.0005 + SPREAD), pairs(-0.02 + SPREAD), pairs(-0.003 + SPREAD), pairs(0.003 + 8 * SPREAD)],
        smallest_effect=EFFECT,
    )
    verdicts = (equal.verdict, better.verdict, small.verdict, open_.verdict)
    assert verdicts == (PRACTICALLY_EQUAL, BETTER, BETTER, NO_CLEAR_DIFFERENCE)
    p = stats.t.sf(0.0045 / stats.sem(SPREAD), 5)
    assert equal.equal_p == pytest.approx(p)
    assert equal.equal_holm_p == pytest.approx(6 * p)  # beside one difference, one of three that matter: half over 3
    assert sentence(equal) == (
        "mixup alpha=1 is practically equal to ERM, 30.05 % against 30.00 %: +0.05 points [-0.07, +0.17], less than "
        "0.5 points either way, p < 0.001 (Holm), 6 seeds"
    )
    assert sentence(better).endswith("p < 0.001 (Holm), 6 seeds")
    assert small.is_negligible
    assert sentence(small).endswith("6 seeds; clear, and as clearly less than the 0.5 points that matter")
    assert wording.summary([equal, better, small, open_], baseline="erm") == (
        "Of 4 comparisons: 2 better than ERM, 0 worse, 1 practically equal, 1 without a clear difference."
    )
    (plain,) = compare([pairs(0.0005 + SPREAD)])
    assert plain.verdict == NO_CLEAR_DIFFERENCE
    assert math.isnan(plain.equal_holm_p)


def test_without_spread() -> None:
    same, shifted = compare([pairs([0.0] * 7), pairs([-0.001] * 7)], smallest_effect=EFFECT)
    assert sentence(same) == (
        "no difference between mixup alpha=1 and ERM: the same test error in each of 7 pairs, 30.00 % on average; "
        "practically equal, p = 0.016 (Holm)"
    )
    assert shifted.verdict == BETTER
    assert "clear, and" not in sentence(shifted)
    (few,) = compare([pairs([-0.001] * 5)], smallest_effect=EFFECT)
    assert sentence(few) == (
        "mixup alpha=1 is practically equal to ERM, 29.90 % against 30.00 %, which differs by exactly 0.10 points in "
        "each of 5 pairs; without spread there is no t test, so this goes by the sign-flip test: p = 0.031 (Holm)"
    )


def test_seeds_to_come_are_those_of_whichever_answer_is_nearer() -> None:
    differences = 8 * SPREAD
    (unclear,) = compare([pairs(0.0002 + differences)])
    assert unclear.seeds_for_clear_answer is None or unclear.seeds_for_clear_answer > 100
    (with_effect,) = compare([pairs(0.0002 + differences)], smallest_effect=EFFECT)
    sd = differences.std(ddof=1)
    assert with_effect.verdict == NO_CLEAR_DIFFERENCE
    assert with_effect.seeds_for_clear_answer == seeds_for_equality(0.0002 / sd, EFFECT / sd, level=0.05)


RULE = StoppingRule(min=3, max=8)


def test_the_sequential_p_goes_by_intervals_that_hold_at_all_looks() -> None:
    """p is at most 0.05 as soon as such intervals, over the looks, have come to lie within the effect on both sides."""
    seen = set()
    for sample in np.random.default_rng(9).normal(0.002, 0.003, (150, RULE.max)):
        low, high = -math.inf, math.inf
        for n in range(RULE.min, RULE.max + 1):
            level = look_level(n, RULE, level=0.05)
            interval = stats.ttest_1samp(sample[:n], 0).confidence_interval(1 - level)
            low, high = max(low, interval.low), min(high, interval.high)
            is_within = low > -EFFECT and high < EFFECT
            assert (sequential_equality_p(sample[:n], RULE, smallest_effect=EFFECT) <= 0.05) == is_within
        seen.add(is_within)
    assert seen == {True, False}
    assert math.isnan(sequential_equality_p([0.0, 0.001], RULE, smallest_effect=EFFECT))


def test_at_the_edge_of_what_matters_few_sequences_are_ever_called_equal() -> None:
    samples = np.random.default_rng(10).normal(EFFECT, 0.002, (2000, RULE.max))
    equal = [sequential_equality_p(each, RULE, smallest_effect=EFFECT) <= 0.05 for each in samples]
    assert 0.005 < np.mean(equal) <= 0.025 + 3 * math.sqrt(0.025 / 2000)


def test_seeds_are_added_until_practically_equal(make_world: Callable[..., World]) -> None:
    """And suites of which half the arms are alike and half at the edge rarely end with a false verdict."""
    effect = 0.02
    world = make_world(
        seeds="{min: 3, max: 7}",
        label_noise="[{rate: 0}]",
        overrides=(f"report.smallest_effect={effect}",),
    )
    rng = np.random.default_rng(6)
    true = {"erm": 0.0, "mixup alpha=0.2": 0.0, "mixup alpha=1": effect}
    false = stopped = 0
    for _ in range(300):
        ended: dict[str, float | None] = {}
        while missing := [each for each in wanted(world.plan, ended) if each.trial_id not in ended]:
            ended |= {each.trial_id: 0.2 + true[each.arm] + rng.normal(0, 0.003) for each in missing}
        judged = compare(
            statistics.settled_pairs(world.plan, ended), rule=world.plan.suite.stopping, smallest_effect=effect
        )
        made = progress(world.plan, ended)
        assert [each.is_clear for each in made] == [each.verdict != NO_CLEAR_DIFFERENCE for each in judged]
        verdicts = {each.arm: each.verdict for each in judged}
        false += verdicts["mixup alpha=0.2"] in (BETTER, WORSE) or verdicts["mixup alpha=1"] == PRACTICALLY_EQUAL
        first = next(each for each in judged if each.arm == "mixup alpha=0.2")
        stopped += first.verdict == PRACTICALLY_EQUAL and first.pairs < 7
    assert stopped > 200
    assert false / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_an_equality_that_has_faded_is_marked() -> None:
    differences = np.array([0.0001, -0.0001, 0.0002, 0.0, 0.09, 0.1])
    rule = StoppingRule(min=3, max=6)
    (only,) = compare([pairs(differences)], rule=rule, smallest_effect=EFFECT)
    assert (only.verdict, wording.doubt_mark(only)) == (PRACTICALLY_EQUAL, " §")
    (fixed,) = compare([pairs(0.0005 + SPREAD)], smallest_effect=EFFECT)
    assert wording.doubt_mark(fixed) == ""


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """alpha=1 is far better, alpha=0.2 as good as erm."""
    world = make_world(seeds=6, label_noise="[{rate: 0}]", overrides=(f"report.smallest_effect={EFFECT}",))
    rng = np.random.default_rng(3)
    for planned in world.plan.trials:
        error = (0.15 if planned.arm == "mixup alpha=1" else 0.2) + 0.01 * planned.trial.seed + rng.normal(0, 0.001)
        world.finish(planned, float(error))
    return world


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words: encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"")


@pytest.mark.usefixtures("without_pictures")
def test_the_report_knows_the_fourth_verdict(world: World, tmp_path: Path) -> None:
    report = render(world.plan, world.store, tmp_path)
    assert report.summary == (
        "Of 2 comparisons: 1 better than ERM, 0 worse, 1 practically equal, 0 without a clear difference."
    )
    assert "is practically equal to ERM" in report.verdicts[0]
    assert "practically equal" in report.table_text
    rows = pd.read_csv(tmp_path / "comparison.csv").set_index("arm")
    equal = rows.loc["mixup alpha=0.2"]
    assert (equal["verdict"], equal["smallest_effect"]) == (PRACTICALLY_EQUAL, EFFECT)
    assert equal["equal_p"] < equal["equal_holm_p"] < 0.05
    page = report.html.read_text()
    assert "takes a difference of 0.5 points for the smallest that matters" in page
    assert "p equal (Holm)</" in page
    explained = "p equal (Holm): two one-sided t tests that the difference is less than 0.5 points either way"
    assert explained in page
    assert explained in (tmp_path / "paper" / "tables" / "comparison.tex").read_text()
    paper = (tmp_path / "paper" / "main.tex").read_text()
    assert "takes a difference of 0.5 points for the smallest that matters" in paper
    assert page.count('<td class="equal">practically equal') == 1
    assert re.search(r'<li class="equal">[^<]* is practically equal to ERM', page)
    assert "p equal (Holm)" in (tmp_path / "comparison.md").read_text()


@pytest.mark.usefixtures("without_pictures")
def test_nothing_of_it_without_a_smallest_effect(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    for planned in world.plan.trials:
        world.finish(planned, 0.2 + 0.01 * planned.trial.seed * (planned.arm == "erm"))
    report = render(world.plan, world.store, tmp_path)
    assert "equal_holm_p" not in pd.read_csv(tmp_path / "comparison.csv")
    assert "p equal" not in report.html.read_text() + report.table_text


def test_the_forest_plot_has_a_band_of_what_does_not_matter(world: World) -> None:
    results = load(world.plan, world.store)
    trials = results.trials
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": world.plan.baseline}
    comparisons = compare(statistics.pairs_of(trials, "test_error_last", **names), smallest_effect=EFFECT)
    with mpl.rc_context(theme.RC):
        drawing = forest(results, comparisons)
    assert drawing is not None
    (band,) = drawing.figure.axes[0].patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-0.5, 0.5))
    assert "less than 0.5 points" in drawing.caption
    low, high = drawing.figure.axes[0].get_xlim()
    assert low < -0.5
    assert high > 0.5


def test_the_detectable_difference_is_in_the_sentence_and_the_table(tmp_path: Path) -> None:
    """1.43454 sd, by statsmodels above, of differences with sd 0.0111."""
    (unclear,) = compare([pairs(-0.005 + 10 * SPREAD)])
    assert unclear.detectable_difference == pytest.approx(1.4345451 * np.std(10 * SPREAD, ddof=1), rel=1e-5)
    assert "6 seeds, enough for a difference of 1.6 points; some 40 more seeds" in sentence(unclear)
    (clear,) = compare([pairs(-0.05 + SPREAD)])
    assert math.isnan(clear.detectable_difference)


def test_the_law_of_the_looks_is_that_of_the_difference() -> None:
    """Moved to the edge, a sequence is judged as one without a difference is."""
    sample = np.random.default_rng(4).normal(-0.01, 0.001, 5)
    moved = sequential_equality_p(sample + EFFECT + 0.01, RULE, smallest_effect=EFFECT)
    assert sequential.sequential_evidence(sample + 0.01, RULE).p <= moved
