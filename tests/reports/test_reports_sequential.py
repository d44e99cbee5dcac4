"""Seeds that are added until a comparison is clear: error rates of whole suites, and what the report says."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import World
from scipy import special, stats

from bench.plan import sequential
from bench.plan.plan import Plan, PlannedTrial
from bench.plan.sequential import Evidence, look_level, metric_values, wanted
from bench.plan.suite_file import StoppingRule
from bench.watching import watch_report
from reports import Report, render, statistics, wording
from reports.chosen import chosen_on_validation
from reports.figures import Drawing
from reports.load import load
from reports.statistics import BETTER, NO_CLEAR_DIFFERENCE, TOO_FEW_PAIRS, WORSE, Pairs, compare, settled_pairs

FAMILY = {"methods": "[erm, {name: mixup, alpha: [0.2, 1]}]", "label_noise": "[{rate: 0}, {rate: 0.4}]"}
"""Four comparisons, of which those of a cell share the baseline."""


def run_until_it_stops(plan: Plan, value_of: Callable[[str], float]) -> dict[str, float | None]:
    """What `metric_values` would give at the end of a run that trains whatever is wanted.

    value_of: by arm, the error of a new trial.
    """
    ended: dict[str, float | None] = {}
    while missing := [each for each in wanted(plan, ended) if each.trial_id not in ended]:
        ended |= {each.trial_id: value_of(each.arm) for each in missing}
    return ended


def verdicts_under_the_null(plan: Plan, *, suites: int, seed: int) -> Iterator[list[str]]:
    """Of suites whose arms are all alike."""
    rng = np.random.default_rng(seed)
    for _ in range(suites):
        ended = run_until_it_stops(plan, lambda _: float(rng.normal(0.2, 0.02)))
        yield [each.verdict for each in compare(settled_pairs(plan, ended), rule=plan.suite.stopping)]


def share_with(verdicts: list[list[str]], *kinds: str) -> float:
    return float(np.mean([any(verdict in kinds for verdict in own) for own in verdicts]))


def error_of(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)


def test_a_suite_without_differences_is_rarely_called_clear(make_world: Callable[..., World]) -> None:
    """Driven through the real loop until it stops: a clear verdict in at most 5 % of suites, a "better" in 2.5 %."""
    plan = make_world(seeds="{min: 3, max: 7}", **FAMILY).plan
    verdicts = list(verdicts_under_the_null(plan, suites=2000, seed=1))
    assert all(TOO_FEW_PAIRS not in own for own in verdicts)
    assert 0.02 < share_with(verdicts, BETTER, WORSE) <= 0.05 + 3 * error_of(0.05, 2000)
    assert share_with(verdicts, BETTER) <= 0.025 + 3 * error_of(0.025, 2000)


def test_looking_again_and_again_with_a_plain_t_test_is_not_so_rare(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same test of the rule that most people use shows that the one above can fail."""

    def naive(differences: np.ndarray, rule: StoppingRule) -> Evidence:
        looks = [differences[:n] for n in range(rule.min, len(differences) + 1)]
        ts = [math.sqrt(len(own)) * float(own.mean() / own.std(ddof=1)) for own in looks]
        ps = [float(2 * special.stdtr(len(own) - 1, -abs(t))) for own, t in zip(looks, ts, strict=True)]
        return Evidence(min(ps), ts[-1]) if ps else Evidence(math.nan, 0.0)

    monkeypatch.setattr(sequential, "sequential_evidence", naive)
    monkeypatch.setattr(statistics, "sequential_evidence", naive)
    plan = make_world(seeds="{min: 3, max: 7}", **FAMILY).plan
    verdicts = list(verdicts_under_the_null(plan, suites=300, seed=2))
    assert share_with(verdicts, BETTER, WORSE) > 0.05 + 3 * error_of(0.05, 300)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words: encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"")
    monkeypatch.setattr(Drawing, "svg", lambda *_: "")


def error_of_trial(planned: PlannedTrial) -> float:
    """mixup alpha=1 is far better than erm on clean labels, where alpha=0.2 is as good; with noise nothing differs."""
    rng = np.random.default_rng([planned.trial.seed, *planned.arm.encode(), *planned.cell.encode()])
    gain = 0.05 if (planned.arm, planned.cell) == ("mixup alpha=1", "clean") else 0.0
    return float(0.2 - gain + 0.005 * planned.trial.seed + rng.normal(0, 0.004))


def run(world: World, *, rounds: int = 100) -> None:
    """Finish what is wanted, as the supervisor does, and again what is wanted then."""
    plan = world.plan
    for _ in range(rounds):
        ended = metric_values(plan.trials, world.store, plan.suite.report.metric)
        missing = [each for each in wanted(plan, ended) if each.trial_id not in ended]
        if not missing:
            return
        for planned in missing:
            world.finish(planned, error_of_trial(planned))


def text_of(page: Path) -> str:
    source = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


NOISE = "[{rate: 0}, {kind: uniform, rate: 0.4}]"


@pytest.mark.usefixtures("without_pictures")
def test_the_report_of_a_suite_that_adds_seeds(make_world: Callable[..., World], tmp_path: Path) -> None:
    """The numbers are scipy's, at levels from the joint law of the looks; what was never wanted is not missing."""
    world = make_world(seeds="{min: 3, max: 7}", label_noise=NOISE)
    run(world)
    report = render(world.plan, world.store, tmp_path)
    rows = pd.read_csv(tmp_path / "comparison.csv").set_index(["cell", "arm"])
    stopped = rows.loc["clean", "mixup alpha=1"]
    assert (stopped["verdict"], stopped["planned_pairs"]) == (BETTER, stopped["pairs"])
    assert 3 <= stopped["pairs"] < 7
    others = rows[rows["verdict"] == NO_CLEAR_DIFFERENCE]
    assert others["pairs"].tolist() == others["planned_pairs"].tolist() == [7, 7, 7]
    assert rows["n"].tolist() == [7, 7, stopped["pairs"], 7, 7, 7]

    errors = {(each.cell, each.arm, each.trial.seed): error_of_trial(each) for each in world.plan.trials}
    n = int(stopped["pairs"])
    pairs = [(errors["clean", "mixup alpha=1", seed], errors["clean", "erm", seed]) for seed in range(n)]
    level = look_level(n, StoppingRule(min=3, max=7), level=0.05)
    expected = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(1 - level)
    assert (stopped["low"], stopped["high"]) == pytest.approx((expected.low, expected.high))
    assert rows["sign_flip_p"].isna().all()

    assert report.summary == "Of 4 comparisons: 1 better than ERM, 0 worse, 3 without a clear difference."
    assert report.counts["trials"] == report.counts["completed"] == 5 * 7 + n
    assert report.counts["pairs_left_out"] == 0
    text = text_of(report.html)
    assert "without a result" not in text
    assert "not started" not in text
    assert f"{5 * 7 + n} planned: {5 * 7 + n} finished." in text
    assert "gets 3 seeds, and then one more at a time, up to 7, until it is clear" in text
    assert "the difference itself leans away from zero" in text
    assert "3 to 7 of each comparison, from 0 on, until it is clear" in text
    assert "interval, adjusted for looking after every seed" in text
    assert "p (sign-flip)" not in text + report.table_text
    assert f"(Holm), {n} seeds" in next(each for each in report.verdicts if "beats" in each)
    assert re.search(r"seeds? would be needed to settle|too small for", " ".join(report.verdicts))


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.timeout(60)
def test_a_watched_report_ends_though_some_seeds_were_never_wanted(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds="{min: 3, max: 7}", label_noise=NOISE)
    run(world)
    assert any(world.store.trial(each.trial_id).final() is None for each in world.plan.trials)
    refreshes: list[int | None] = []

    def rendered(refresh: int | None) -> Report:
        refreshes.append(refresh)
        assert len(refreshes) == 1, "it goes on, though all that is wanted has ended"
        report = render(world.plan, world.store, tmp_path, refresh_seconds=refresh)
        (world.store.root / "trials" / world.plan.trials[0].trial_id / "final.json").touch()
        return report

    report = watch_report(world.plan, world.store, rendered, every=0.01, say=print)
    assert refreshes == [None]
    assert "1 better than ERM" in report.summary


@pytest.mark.usefixtures("without_pictures")
def test_while_seeds_are_being_added(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds="{min: 3, max: 7}", label_noise=NOISE)
    assert "no comparison with ERM has 3 finished pairs yet" in render(world.plan, world.store, tmp_path).summary
    for planned in world.plan.trials[:12]:
        world.finish(planned, error_of_trial(planned))
    two = render(world.plan, world.store, tmp_path)
    assert "cannot be judged against ERM: only 2 pairs have a result" in two.verdicts[0]
    assert two.counts["trials"] == 18
    run(world, rounds=2)
    report = render(world.plan, world.store, tmp_path)
    assert re.search(r"Seeds are still being added to [34] of them\.", report.summary)
    assert any("; seeds are still being added" in each for each in report.verdicts)


@pytest.mark.usefixtures("without_pictures")
def test_other_figures_are_adjusted_for_the_looks_too(make_world: Callable[..., World], tmp_path: Path) -> None:
    """And what was chosen on validation; both say that numbers of seeds differ."""
    world = make_world(seeds="{min: 3, max: 7}", label_noise=NOISE)
    run(world)
    report = render(world.plan, world.store, tmp_path)
    rows = pd.read_csv(tmp_path / "secondary.csv").set_index(["figure", "cell", "arm"])
    main = pd.read_csv(tmp_path / "comparison.csv").set_index(["cell", "arm"])
    for arm in ("mixup alpha=0.2", "mixup alpha=1"):  # the ECE of a made-up trial is half its error
        own, of_error = rows.loc["test_ece", "clean", arm], main.loc["clean", arm]
        assert own["pairs"] == of_error["pairs"]
        assert own["p"] == pytest.approx(of_error["t_p"])
        assert 2 * own["low"] == pytest.approx(of_error["low"])
    text = text_of(report.html)
    assert "the p values and intervals here are adjusted for looking after every seed in the same way" in text
    assert "those that count here are the ones on which every candidate ended" in text
    chosen = pd.read_csv(tmp_path / "chosen.csv").groupby(["task", "family"])["seed"].agg(list)
    assert chosen["clean", "mixup alpha: 0.2, 1"] == list(range(int(main.loc["clean", "mixup alpha=1"]["pairs"])))
    assert len(chosen["uniform 40 %", "mixup alpha: 0.2, 1"]) == 7
    selection = chosen_on_validation(load(world.plan, world.store))
    assert selection is not None
    first = selection.comparisons[0]  # of alpha=1, which every seed of the clean cell chooses
    assert (first.cell, first.p) == ("clean", pytest.approx(main.loc["clean", "mixup alpha=1"]["t_p"]))


@pytest.mark.usefixtures("without_pictures")
def test_a_diverged_trial_is_left_out_and_said(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds="{min: 3, max: 5}", label_noise="[{rate: 0}]")
    world.diverge(world.plan.trials[2])
    run(world)
    report = render(world.plan, world.store, tmp_path)
    assert report.counts["diverged"] == 1
    row = pd.read_csv(tmp_path / "comparison.csv").set_index("arm").loc["mixup alpha=1"]
    assert row["planned_pairs"] == row["pairs"] + 1
    assert world.plan.trials[2].arm == "mixup alpha=1"
    assert "Some trials of mixup alpha=1 diverged" in text_of(report.html)


def test_a_verdict_whose_evidence_has_faded_is_marked() -> None:
    """Clear after four pairs, and the seeds that were added for others' sake take it back."""
    differences = np.array([-0.05, -0.0501, -0.0502, -0.0499, 0.09, 0.1])
    pairs = Pairs("cell", "mixup", 0.3 + differences, np.full(6, 0.3), 6)
    (only,) = compare([pairs], rule=StoppingRule(min=3, max=6))
    assert only.verdict == BETTER
    assert only.low < 0 < only.high
    assert wording.doubt_mark(only) == " §"
    assert "Clear by what the first seeds showed" in wording.doubt_notes([only])[0]
    (early,) = compare([replace(pairs, errors=pairs.errors[:4], baseline_errors=pairs.baseline_errors[:4])])
    assert wording.doubt_mark(early) != " §"


def test_a_verdict_that_has_turned_into_its_opposite_is_marked() -> None:
    """Seven pairs are better by all but the same amount, and eight that were added are far worse."""
    differences = np.array([-0.01, -0.0101, -0.0099, -0.01005, -0.00995, -0.01, -0.01, *[0.3, 0.31, 0.29, 0.3] * 2])
    pairs = Pairs("cell", "mixup", 0.5 + differences, np.full(15, 0.5), 15)
    (only,) = compare([pairs], rule=StoppingRule(min=3, max=20))
    assert only.verdict == BETTER
    assert only.low > 0
    assert wording.doubt_mark(only) == " §"


@pytest.mark.usefixtures("without_pictures")
def test_early_stopping_s_caution_goes_by_the_same_rule(make_world: Callable[..., World], tmp_path: Path) -> None:
    """By a plain t test the other metric would be clear, and a caution say so."""
    world = make_world(seeds="{min: 3, max: 5}", methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]")
    rng = np.random.default_rng(4)
    gains = (0.02, 0.0, 0.03, 0.02, 0.01)
    for planned in world.plan.trials:
        world.finish(planned, 0.2 + rng.normal(0, 0.01))
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        own = gains[planned.trial.seed] if planned.arm != "erm" else 0.0
        final["metrics"]["test_error_val_selected"] = 0.2 - own
        folder.write_final(final)
    assert stats.ttest_1samp(gains, 0).pvalue < 0.04
    assert sequential.sequential_evidence(gains, StoppingRule(min=3, max=5)).p > 0.05
    assert "would be others" not in text_of(render(world.plan, world.store, tmp_path).html)
