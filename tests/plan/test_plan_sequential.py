"""Seeds added until a comparison is clear: p values against scipy on fresh sequences, and which trials are wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.plan import sequential
from bench.plan.plan import Plan, PlannedTrial, make_plan
from bench.plan.sequential import (
    look_level,
    metric_values,
    paired_differences,
    possible,
    progress,
    sequential_evidence,
    wanted,
)
from bench.plan.suite import Suite, load_suite
from bench.plan.suite_file import StoppingRule
from bench.results.store import Store

RULE = StoppingRule(min=3, max=8)

TEXT = """\
name: added
question: Which seeds are wanted?
seeds: {min: 3, max: 8}
base:
  dataset: digits
  model: mlp
  training: {epochs: 3}
methods:
  - erm
  - {name: mixup, alpha: [0.2, 1]}
matrix:
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
"""
CLEAN, NOISY = "clean", "uniform 40 %"
A, B = "mixup alpha=0.2", "mixup alpha=1"

UNCLEAR = (0.01, -0.012, 0.004, -0.003, 0.006, -0.008, 0.001, 0.002)
CLEARLY = (-0.0501, -0.0502, -0.0503, -0.05, -0.0499, -0.0501, -0.0502, -0.05)
"""Differences from the baseline by seed."""


def least_p(sequences: np.ndarray, rule: StoppingRule) -> np.ndarray:
    """The least p_n / (n / max) over all looks at each row, by scipy."""
    looks = range(rule.min, sequences.shape[1] + 1)
    ps = [stats.ttest_1samp(sequences[:, :n], 0, axis=1).pvalue / (n / rule.max) for n in looks]
    return np.asarray(np.min(ps, axis=0))


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return np.random.default_rng(31).standard_normal((40_000, RULE.max))


def test_p_is_the_share_of_null_sequences_that_ever_look_as_extreme(fresh: np.ndarray) -> None:
    """Null sequences of our own and scipy's t tests; looks after 3, 5 and 8 pairs of a weak and of a strong effect."""
    drawn = least_p(fresh, RULE)
    rng = np.random.default_rng(7)
    for effect, n in itertools.product((0.2, 0.9), (3, 5, 8)):
        differences = rng.normal(effect, 1, n)
        expected = float(np.mean(drawn <= least_p(differences[None], RULE)[0]))
        tolerance = 4 * math.sqrt(expected * (1 - expected) / len(drawn)) + 1e-4
        assert sequential_evidence(differences, RULE).p == pytest.approx(expected, abs=tolerance)


def test_under_the_null_p_is_uniform_after_the_last_look_and_larger_before(fresh: np.ndarray) -> None:
    some = fresh[:8000]
    ps = {n: np.array([sequential_evidence(each[:n], RULE).p for each in some]) for n in (3, 5, 8)}
    for level in (0.005, 0.05, 0.3):
        shares = {n: np.mean(each <= level) for n, each in ps.items()}
        assert shares[8] == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / len(some)))
        assert shares[3] < shares[5] < shares[8]


@pytest.mark.parametrize("n", [2, 6, 40])
def test_a_single_look_is_the_plain_t_test(n: int) -> None:
    """Of one look alone m is the t test's p, which is uniform: so its quantiles are known."""
    drawn = np.exp(sequential._least_under_null(n, n))
    for level in (1e-4, 0.01, 0.05, 0.5, 0.9):
        error = math.sqrt(level * (1 - level) / len(drawn))
        assert np.mean(drawn <= level) == pytest.approx(level, abs=4 * error)


def test_the_p_of_a_look_is_scipy_s() -> None:
    differences = np.random.default_rng(2).normal(0.3, 0.01, 12)
    expected = [stats.ttest_1samp(differences[:n], 0).pvalue for n in range(3, 13)]
    assert sequential._t_ps(differences, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("effect", "rule"), [(0.0, RULE), (0.7, RULE), (-2.0, StoppingRule(min=2, max=30))])
def test_the_intervals_of_all_looks_hold_the_truth_at_once(effect: float, rule: StoppingRule) -> None:
    n = 4000
    samples = np.random.default_rng(5).normal(effect, 1, (n, rule.max))
    held = np.ones(n, dtype=bool)
    for look in range(rule.min, rule.max + 1):
        mean, error = samples[:, :look].mean(axis=1), stats.sem(samples[:, :look], axis=1)
        half = stats.t.isf(look_level(look, rule, level=0.05) / 2, look - 1) * error
        held &= np.abs(mean - effect) <= half
    assert held.mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / n))


def test_interval_and_p_agree_at_every_look() -> None:
    """p is at most 0.05 as soon as some look's interval leaves out zero, and not before."""
    seen = set()
    for sample in np.random.default_rng(9).normal(0.8, 1, (200, RULE.max)):
        excluded = False
        for n in range(RULE.min, RULE.max + 1):
            level = look_level(n, RULE, level=0.05)
            low, high = stats.ttest_1samp(sample[:n], 0).confidence_interval(1 - level)
            excluded |= not low <= 0 <= high
            assert (sequential_evidence(sample[:n], RULE).p <= 0.05) == excluded
        seen.add(excluded)
    assert seen == {True, False}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=8))
def test_p_never_rises_and_is_never_zero(differences: list[float]) -> None:
    ps = [sequential_evidence(differences[:n], RULE).p for n in range(3, len(differences) + 1)]
    assert ps == sorted(ps, reverse=True)
    assert all(1 / (1 + sequential.SEQUENCES) <= p <= 1 for p in ps)


def test_no_p_before_the_first_look() -> None:
    assert math.isnan(sequential_evidence([0.1, 0.2], RULE).p)
    assert math.isnan(look_level(2, RULE, level=0.05))


def test_a_few_equal_differences_prove_nothing() -> None:
    """Errors are multiples of 1 / n_test, so three equal differences are no rarity; a t test would find p = 0."""
    assert sequential_evidence([-1 / 797] * 3, RULE).p > 0.2
    assert sequential_evidence([0.0] * 8, RULE).p == 1
    assert sequential_evidence([-1 / 797] * 8, RULE).p < 0.05


def test_the_direction_is_that_of_the_look_that_decided() -> None:
    assert sequential_evidence([-0.05, -0.051, -0.0501, 0.4, 0.5], RULE).direction == -1


def test_a_large_effect_stops_early(load: Callable[..., Suite]) -> None:
    """2 sd of the difference: clear in almost every suite of four comparisons, with half of 20 seeds."""
    plan = make_plan(load(TEXT, "seeds.max=20"))
    rng = np.random.default_rng(3)
    seeds = []
    for _ in range(40):
        ended: dict[str, float | None] = {}
        while missing := [each for each in wanted(plan, ended) if each.trial_id not in ended]:
            # sd of a difference: sqrt(2) * 0.01
            ended |= {each.trial_id: rng.normal(0.2 - 0.0283 * (each.arm != "erm"), 0.01) for each in missing}
        found = progress(plan, ended)
        assert all(each.is_clear for each in found)
        seeds += [len(each.values) for each in found]
    assert np.mean(seeds) < 9
    assert min(seeds) >= 3


def ended_trials(plan: Plan, differences: Mapping[tuple[str, str], tuple[float, ...]]) -> dict[str, float | None]:
    """By trial_id, errors of seeds 0, 1, ... of some conditions, the baseline's as many as the most of its cell."""
    found: dict[str, float | None] = {}
    for planned in plan.trials:
        own = differences.get((planned.cell, planned.arm), ())
        if planned.arm == "erm":
            own = max((each for (cell, _), each in differences.items() if cell == planned.cell), key=len, default=())
        if planned.trial.seed < len(own):
            base = 0.2 + 0.01 * planned.trial.seed
            found[planned.trial_id] = base + (0 if planned.arm == "erm" else own[planned.trial.seed])
    return found


def seeds_of(trials: tuple[PlannedTrial, ...]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for each in trials:
        found.setdefault((each.cell, each.arm), []).append(each.trial.seed)
    return found


@pytest.fixture
def plan(load: Callable[..., Suite]) -> Plan:
    made = make_plan(load(TEXT))
    assert set(made.cells) == {CLEAN, NOISY}
    return made


def test_at_first_the_least_number_of_seeds_is_wanted(plan: Plan) -> None:
    trials = wanted(plan, {})
    assert [each.trial.seed for each in trials] == [0] * 6 + [1] * 6 + [2] * 6
    assert trials == plan.trials[:18]
    assert possible(plan, {}) == plan.trials


def test_seeds_are_added_one_by_one_and_only_where_it_is_unclear(plan: Plan) -> None:
    by_condition = {(CLEAN, A): UNCLEAR[:3], (CLEAN, B): CLEARLY[:3], (NOISY, A): CLEARLY[:3], (NOISY, B): CLEARLY[:3]}
    ended = ended_trials(plan, by_condition)
    seeds = seeds_of(wanted(plan, ended))
    assert [each.is_clear for each in progress(plan, ended)] == [False, True, True, True]
    assert seeds[CLEAN, A] == seeds[CLEAN, "erm"] == [0, 1, 2, 3]
    assert seeds[CLEAN, B] == seeds[NOISY, A] == seeds[NOISY, "erm"] == [0, 1, 2]
    assert len(possible(plan, ended)) == 18 + 2 * 5

    half = dict(ended)
    half[next(each.trial_id for each in plan.trials if (each.cell, each.arm, each.trial.seed) == (CLEAN, A, 3))] = 0.1
    assert seeds_of(wanted(plan, half)) == seeds  # the pair's other half is still to come

    everything = ended_trials(plan, by_condition | {(CLEAN, A): UNCLEAR})
    seeds = seeds_of(wanted(plan, everything))
    assert seeds[CLEAN, A] == seeds[CLEAN, "erm"] == list(range(8))
    assert not any(each.goes_on for each in progress(plan, everything))


def test_pairs_count_in_the_order_of_their_seeds(plan: Plan) -> None:
    """Seed 1 is still to come: what seeds 2 and 3 gave is not looked at before it."""
    ended = ended_trials(plan, {(CLEAN, A): CLEARLY[:4]})
    late = next(each.trial_id for each in plan.trials if (each.cell, each.arm, each.trial.seed) == (CLEAN, A, 1))
    value = ended.pop(late)
    first = progress(plan, ended)[0]
    assert (first.cell, first.arm, first.ended, first.is_clear) == (CLEAN, A, 1, False)
    assert math.isnan(first.holm_p)
    assert seeds_of(wanted(plan, ended))[CLEAN, A] == [0, 1, 2]
    assert progress(plan, ended | {late: value})[0].ended == 4


def test_a_diverged_trial_gives_no_pair_and_another_seed_takes_its_place(plan: Plan) -> None:
    ended = ended_trials(plan, {(CLEAN, A): CLEARLY[:3]})
    ended[next(each.trial_id for each in plan.trials if (each.cell, each.arm, each.trial.seed) == (CLEAN, A, 1))] = None
    first = progress(plan, ended)[0]
    assert (first.ended, len(first.values)) == (3, 2)
    assert math.isnan(first.holm_p)
    assert seeds_of(wanted(plan, ended))[CLEAN, A] == [0, 1, 2, 3]


def test_seeds_that_are_taken_out_are_replaced(load: Callable[..., Suite]) -> None:
    exclude = "exclude:\n  - {method: erm, seed: 1}\n  - {method: {name: mixup, alpha: 1}, label_noise.rate: 0}\n"
    plan = make_plan(load(TEXT + exclude))
    seeds = seeds_of(wanted(plan, {}))
    assert seeds[CLEAN, "erm"] == seeds[NOISY, "erm"] == [0, 2, 3]
    assert seeds[CLEAN, A] == [0, 1, 2, 3]
    assert (CLEAN, B) not in seeds
    assert [(each.cell, each.arm) for each in progress(plan, {})] == [(CLEAN, A), (NOISY, A), (NOISY, B)]


def test_with_a_fixed_number_of_seeds_all_are_wanted(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(TEXT, "seeds=2"))
    assert wanted(plan, {}) == possible(plan, {}) == plan.trials
    with pytest.raises(ValueError, match="added has no stopping rule"):
        progress(plan, {})


def test_holm_spans_the_suite(plan: Plan) -> None:
    """A comparison that is not there yet counts with p = 1; the others' becoming clear helps the last one."""
    alone = progress(plan, ended_trials(plan, {(CLEAN, A): CLEARLY[:3]}))[0]
    p = sequential_evidence(paired_differences(alone.values, alone.baseline_values), StoppingRule(min=3, max=8)).p
    assert alone.holm_p == pytest.approx(4 * p)
    others = {(CLEAN, B): CLEARLY, (NOISY, A): CLEARLY, (NOISY, B): CLEARLY}
    assert progress(plan, ended_trials(plan, others | {(CLEAN, A): CLEARLY[:3]}))[0].holm_p == pytest.approx(p)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_clear_stays_clear(data: st.DataObject, plan_of_text: Plan) -> None:
    """Whatever ends next, in whatever order: p does not rise, clear stays clear, nothing that ended in turn is lost."""
    plan = plan_of_text
    ended: dict[str, float | None] = {}
    error = st.one_of(st.none(), st.sampled_from([0.1, 0.1001, 0.15, 0.2, 0.2001, 0.3]))
    before = progress(plan, ended)
    for _ in range(data.draw(st.integers(1, 40))):
        missing = [each for each in wanted(plan, ended) if each.trial_id not in ended]
        if not missing:
            break
        for each in data.draw(st.lists(st.sampled_from(missing), min_size=1, max_size=6, unique_by=id)):
            ended[each.trial_id] = data.draw(error)
        after = progress(plan, ended)
        for old, new in zip(before, after, strict=True):
            assert new.is_clear or not old.is_clear
            assert not new.holm_p > old.holm_p
            assert new.ended >= old.ended
            assert set(new.seeds[: new.ended]) <= set(new.wanted)
        before = after


@pytest.fixture(scope="module")
def plan_of_text(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("added") / "suite.yaml"
    path.write_text(TEXT)
    return make_plan(load_suite(path))


def test_the_metric_of_what_has_ended(load: Callable[..., Suite], tmp_path: Path) -> None:
    """A figure of the last epoch is there with the training; one of an evaluation when that is."""
    plan, store = make_plan(load(TEXT)), Store(tmp_path)
    done, diverged, unevaluated, running = plan.trials[:4]
    for planned, status in ((done, "completed"), (diverged, "diverged"), (unevaluated, "completed"), (running, "")):
        folder = store.trial(planned.trial_id)
        folder.create(planned.trial.record())
        metrics = {"test_error_last": 0.25} if status == "completed" else {}
        if status:
            folder.write_final({"status": status, "metrics": metrics})
    for key in done.evaluation_keys:
        folder = store.trial(done.trial_id)
        folder.write_evaluation(key, {"metrics": {"test_ece": 0.5 if key.startswith("calibration") else None}})
    last = {done.trial_id: 0.25, diverged.trial_id: None, unevaluated.trial_id: 0.25}
    assert metric_values(plan.trials, store, "test_error_last") == last
    assert metric_values(plan.trials, store, "test_ece") == {done.trial_id: 0.5, diverged.trial_id: None}
    assert metric_values(plan.trials, store, "test_brier") == {done.trial_id: None, diverged.trial_id: None}


def test_attacks_are_made_on_networks_that_are_trained_in_any_case(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(TEXT + "evaluate: [clean, transfer]\n"))
    seed_of = {each.trial_id: (each.cell, each.arm, each.trial.seed) for each in plan.trials}
    for planned in plan.trials:
        (source,) = (seed_of[each.source] for each in planned.evaluations if each.source)
        seed = planned.trial.seed
        assert source == (planned.cell, "erm", (seed + 1) % 3 if seed < 3 else seed % 3)
        assert source[2] != seed
    fixed = make_plan(load(TEXT + "evaluate: [clean, transfer]\n", "seeds=4"))
    seed_of = {each.trial_id: (each.cell, each.arm, each.trial.seed) for each in fixed.trials}
    sources = {each.trial.seed: seed_of[str(each.evaluations[1].source)][2] for each in fixed.trials}
    assert sources == {0: 1, 1: 2, 2: 3, 3: 0}


def test_a_plan_with_a_rule_is_another_plan(load: Callable[..., Suite]) -> None:
    """Though it may need the same trials: a report of the one is no report of the other."""
    ids = [make_plan(load(TEXT, *each)).plan_id for each in ((), ("seeds.min=4",), ("seeds=8",), ("seeds.max=9",))]
    assert len(set(ids)) == 4
