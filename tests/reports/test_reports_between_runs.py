"""Two results folders beside each other: made-up trials, with numbers from scipy."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import VERSIONS, World
from scipy import stats

from bench.errors import UserError
from bench.results.store import Store
from reports.between_runs import RunsCompared, compare_runs
from reports.between_runs_tables import headline, remarks, terminal_lines, write_tables

SEEDS = range(6)
ERM = np.array([0.200, 0.220, 0.210, 0.230, 0.205, 0.215])
MIXUP = np.array([0.150, 0.180, 0.160, 0.170, 0.165, 0.155])
DRIFT = np.array([0.010, 0.012, 0.009, 0.011, 0.010, 0.013])
NOISE = np.array([0.004, -0.003, 0.002, -0.004, 0.001, 0.000])
CELLS = ("clean", "uniform 40 %")


@pytest.fixture
def runs(make_world: Callable[..., World], tmp_path: Path) -> tuple[World, World]:
    """In the second run ERM of the noisy cell is always worse; mixup there wavers; the clean cell is as it was."""
    first = make_world(methods="[erm, {name: mixup, alpha: 1}]", evaluate="[clean, calibration]")
    second = dataclasses.replace(first, store=Store(tmp_path / "second"))
    for world, erm, mixup in ((first, ERM, MIXUP), (second, ERM + DRIFT, MIXUP + NOISE)):
        versions = VERSIONS if world is first else VERSIONS | {"torch": "2.16.0"}
        for seed in SEEDS:
            world.finish(world.trial(CELLS[0], "erm", seed), ERM[seed], versions=versions)
            world.finish(world.trial(CELLS[0], "mixup alpha=1", seed), MIXUP[seed], versions=versions)
            world.finish(world.trial(CELLS[1], "erm", seed), erm[seed], versions=versions)
            world.finish(world.trial(CELLS[1], "mixup alpha=1", seed), mixup[seed], versions=versions)
    return first, second


def compared(runs: tuple[World, World], **options: str) -> RunsCompared:
    return compare_runs(runs[0].store.root, runs[1].store.root, **options)


def test_what_changed_and_what_did_not(runs: tuple[World, World]) -> None:
    found = compared(runs)
    verdicts = {(row.cell, row.arm): row.verdict for row in found.conditions}
    assert verdicts == {
        (CELLS[0], "erm"): "identical",
        (CELLS[0], "mixup alpha=1"): "identical",
        (CELLS[1], "erm"): "higher",
        (CELLS[1], "mixup alpha=1"): "no clear change",
    }
    erm = next(row.judged for row in found.conditions if row.verdict == "higher")
    theirs = stats.ttest_rel(ERM + DRIFT, ERM)
    assert erm.difference == pytest.approx(DRIFT.mean())
    assert (erm.low, erm.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert erm.holm_p == pytest.approx(4 * theirs.pvalue)  # the smallest of four conditions
    assert found.changed == 2  # that, and mixup's distance from it
    assert found.time_ratio == 1


def test_the_distance_from_the_baseline(runs: tuple[World, World]) -> None:
    """Where only the baseline moved, so did the distance of every arm from it: by noise minus drift."""
    rows = {row.cell: row for row in compared(runs).effects}
    theirs = stats.ttest_1samp(NOISE - DRIFT, 0)
    assert rows[CELLS[1]].judged.difference == pytest.approx((NOISE - DRIFT).mean())
    assert rows[CELLS[1]].judged.holm_p == pytest.approx(2 * theirs.pvalue)
    assert rows[CELLS[1]].verdict == "lower"
    assert rows[CELLS[0]].verdict == "identical"


def test_in_words_and_in_files(runs: tuple[World, World], tmp_path: Path) -> None:
    found = compared(runs)
    assert headline(found) == (
        "1 of 4 conditions changed beyond noise; 2 are the same to the bit; 1 of 2 differences from ERM did"
    )
    assert "torch: 2.15.0 -> 2.16.0" in list(remarks(found))
    text = "\n".join(terminal_lines(found))
    assert "+1.08" in text
    page = write_tables(found, tmp_path / "out")
    assert "| uniform 40 % | ERM |" in page.read_text()
    rows = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert len(rows) == 6
    assert rows.loc[rows["verdict"] == "higher", "change"].item() == pytest.approx(DRIFT.mean())


def test_what_one_run_lacks_is_counted(runs: tuple[World, World]) -> None:
    first, second = runs
    for seed in SEEDS:
        shutil.rmtree(second.store.trial(second.trial(CELLS[0], "erm", seed).trial_id).path)
    second.diverge(second.trial(CELLS[0], "mixup alpha=1", 0))
    lost = second.trial(CELLS[0], "mixup alpha=1", 1)
    (second.store.trial(lost.trial_id).path / "final.json").unlink()
    found = compared(runs)
    assert found.only == (1, 0)
    verdicts = {(row.cell, row.arm): (row.verdict, row.judged.pairs) for row in found.conditions}
    assert verdicts[CELLS[0], "mixup alpha=1"] == ("diverged in one of them", 4)
    assert f"left out of {first.store.root}: 1 condition that the other has not" in list(remarks(found))
    assert any("1 trial unfinished" in remark for remark in remarks(found))


def test_an_evaluation_s_figure(runs: tuple[World, World]) -> None:
    """test_ece of the made-up trials is half the error."""
    found = compared(runs, metric="test_ece")
    row = next(row for row in found.conditions if row.verdict == "higher")
    assert row.judged.difference == pytest.approx(DRIFT.mean() / 2)


@pytest.mark.parametrize("metric", ["ood_gaussian_noise_auroc_msp", "temperature"])
def test_higher_is_higher_whichever_way_is_better(
    make_world: Callable[..., World], tmp_path: Path, metric: str
) -> None:
    """In the made-up trials AUROC is 1 - error, and the temperature 1 + error."""
    first = make_world(methods="[erm]", evaluate="[calibration, {name: ood, against: gaussian_noise}]")
    second = dataclasses.replace(first, store=Store(tmp_path / "second"))
    for world, drift in ((first, 0 * DRIFT), (second, DRIFT)):
        for cell in CELLS:
            for seed in SEEDS:
                world.finish(world.trial(cell, "erm", seed), ERM[seed] + drift[seed])
    found = compared((first, second), metric=metric)
    sign = 1 if metric == "temperature" else -1
    for row in found.conditions:
        assert row.judged.difference == pytest.approx(sign * DRIFT.mean())
        assert row.verdict == ("higher" if sign > 0 else "lower")


def test_what_only_an_evaluation_changed_is_not_identical(runs: tuple[World, World]) -> None:
    """As of a later version of the evaluation: the trials trained alike, and the figure is another one."""
    _, second = runs
    for seed in SEEDS:
        planned = second.trial(CELLS[0], "erm", seed)
        metrics = second.record(planned, "calibration")["metrics"]
        second.rewrite(planned, "calibration", metrics=metrics | {"test_ece": metrics["test_ece"] + DRIFT[seed]})
    rows = {(row.cell, row.arm): row for row in compared(runs, metric="test_ece").conditions}
    assert rows[CELLS[0], "erm"].verdict == "higher"
    assert rows[CELLS[0], "mixup alpha=1"].verdict == "identical"


def test_a_diverged_trial_s_time_is_not_compared(runs: tuple[World, World]) -> None:
    _, second = runs
    for seed in SEEDS:
        for cell in CELLS:
            planned = second.trial(cell, "erm", seed)
            second.diverge(planned)
            folder = second.store.trial(planned.trial_id)
            folder.write_final((folder.final() or {}) | {"train_seconds": 0.5})
    found = compared(runs)
    assert (found.time_ratio, found.pairs) == (1, 12)


@pytest.mark.parametrize(
    ("other", "metric", "message"),
    [
        ("nowhere", "test_error_last", "nowhere: there is no such folder"),
        ("file", "test_error_last", "file: a file, not a results folder"),
        ("empty", "test_error_last", "empty: holds no trials"),
        ("second", "test_eror", "unknown figure 'test_eror'; did you mean 'test_error'"),
        ("second", "mean_corruption_error", "no trial has mean_corruption_error; there is .*temperature.* and 18 more"),
    ],
)
def test_what_cannot_be_compared(
    runs: tuple[World, World], tmp_path: Path, other: str, metric: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        compare_runs(runs[0].store.root, tmp_path / other, metric=metric)


def test_an_unknown_figure_is_answered_with_each_name_once(runs: tuple[World, World]) -> None:
    with pytest.raises(UserError, match="there is test_error_last, ") as refused:
        compared(runs, metric="zzz")
    names = str(refused.value).partition("there is ")[2].split(", ")
    assert len(names) == len(set(names)) > 10


def test_an_unknown_baseline_is_refused(runs: tuple[World, World]) -> None:
    """Else the table of differences would be missing, and nobody told."""
    with pytest.raises(UserError, match=r"--baseline: no arm 'mixup' that both runs have; there is erm, mixup alpha=1"):
        compared(runs, baseline="mixup")


def test_runs_that_share_nothing(make_world: Callable[..., World], tmp_path: Path, runs: tuple[World, World]) -> None:
    other = make_world(epochs=9)
    other = dataclasses.replace(other, store=Store(tmp_path / "third"))
    other.finish(other.trial(CELLS[0], "erm", 0), 0.2)
    apart = "no trial in common: 24 trials and 1 trial with a result, training.epochs 4 against 9; runs are"
    with pytest.raises(UserError, match=apart):
        compare_runs(runs[0].store.root, other.store.root)


def with_options(world: World, **options: object) -> None:
    for planned in world.plan.trials:
        world.rewrite(planned, "calibration", options={"name": "calibration", "version": 1} | options)


def test_what_was_measured_in_another_way_is_no_change(runs: tuple[World, World]) -> None:
    with_options(runs[0], bins=15)
    with_options(runs[1], bins=10, version=2)
    with pytest.raises(UserError, match="measured test_ece with bins 15 against 10: that is no difference"):
        compared(runs, metric="test_ece")
    with_options(runs[1], bins=15, version=2)
    assert compared(runs, metric="test_ece").conditions
    assert compared(runs).conditions


def test_one_figure_of_two_evaluations_is_refused(runs: tuple[World, World]) -> None:
    with_options(runs[0], bins=15)
    planned = runs[0].plan.trials[0]
    folder = runs[0].store.trial(planned.trial_id)
    folder.write_evaluation("another", runs[0].record(planned, "calibration") | {"options": {"bins": 20}})
    with pytest.raises(UserError, match="two evaluations measured test_ece, with "):
        compared(runs, metric="test_ece")


def test_a_run_is_not_compared_with_itself(runs: tuple[World, World], tmp_path: Path) -> None:
    root = runs[0].store.root
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(UserError, match="are one folder"):
        compare_runs(root, tmp_path / "link")


def test_runs_of_other_seeds_share_nothing(tmp_path: Path, runs: tuple[World, World]) -> None:
    for world, gone in zip(runs, (SEEDS[3:], SEEDS[:3]), strict=True):
        for cell in CELLS:
            for arm in ("erm", "mixup alpha=1"):
                for seed in gone:
                    shutil.rmtree(world.store.trial(world.trial(cell, arm, seed).trial_id).path)
    with pytest.raises(UserError, match="with a result, seed 0 / 1 / 2 against 3 / 4 / 5; runs are"):
        compared(runs)
