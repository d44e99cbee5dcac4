"""Tables against numbers worked out by hand and against pandas."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pandas as pd
import pytest
from made_up_trials import World
from scipy import stats

from reports import tables
from reports.costs import time_table
from reports.load import Results, load
from reports.statistics import Comparison, compare, pairs_of

METRIC = "test_error_last"
ERM = [0.20, 0.22, 0.21, 0.23]
MIXUP = [0.15, 0.18, 0.16, 0.17]


def judged(world: World) -> tuple[Results, list[Comparison]]:
    results = load(world.plan, world.store)
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": world.plan.baseline}
    return results, compare(pairs_of(results.trials, METRIC, **names))


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One cell; erm and mixup finished with four seeds, the fourth of mixup failed, alpha 4 not started."""
    world = make_world(seeds=4, methods="[erm, {name: mixup, alpha: [1, 4]}]", label_noise="[{rate: 0}]")
    (cell,) = world.plan.cells
    for seed in range(4):
        world.finish(world.trial(cell, "erm", seed), ERM[seed])
        if seed < 3:
            world.finish(world.trial(cell, "mixup alpha=1", seed), MIXUP[seed])
    world.fail(world.trial(cell, "mixup alpha=1", 3), "killed by SIGKILL")
    return world


def test_csv_holds_full_precision(world: World) -> None:
    results, comparisons = judged(world)
    frame = tables.comparison_frame(results, comparisons, metric=METRIC)
    read = pd.read_csv(io.StringIO(frame.to_csv(index=False))).set_index("arm")
    theirs = stats.ttest_rel(MIXUP[:3], ERM[:3])
    assert read.loc["mixup alpha=1", "t_p"] == pytest.approx(theirs.pvalue, rel=1e-12)
    assert read.loc["mixup alpha=1", "low"] == pytest.approx(theirs.confidence_interval().low, rel=1e-12)
    assert read.loc["mixup alpha=1", "holm_p"] == pytest.approx(2 * theirs.pvalue, rel=1e-12)
    assert read.loc["mixup alpha=1", ["n", "pairs", "planned_pairs"]].tolist() == [3, 3, 4]
    assert read.loc["erm", "mean"] == pytest.approx(0.215)
    assert read.loc["mixup alpha=1", "baseline_mean"] == pytest.approx(0.21)  # over the three pairs
    assert math.isnan(read.loc["erm", "difference"])
    assert read.loc["mixup alpha=4", "verdict"] == "too few pairs"


def test_the_comparison_in_words(world: World) -> None:
    """Differences -5, -4, -5 points: mean -4.667, sd 0.577, half the interval 4.3027 * 0.577 / sqrt(3) = 1.434."""
    results, comparisons = judged(world)
    table = tables.comparison_table(results, comparisons, metric=METRIC)
    ((heading, rows),) = table.groups
    assert heading == world.plan.cells[0]
    assert rows[0] == ("ERM", "21.5 ± 1.3", "4", "", "", "", "", "", "", "baseline")
    p = 2 * stats.t.sf(4.66667 / (0.57735 / math.sqrt(3)), 2)
    assert rows[1][:6] == ("mixup alpha=1", "16.3 ± 1.5", "3", "3 of 4", "-4.7", "[-6.1, -3.2]")
    assert float(rows[1][6]) == pytest.approx(2 * p, rel=0.05)
    assert rows[1][7:] == ("0.25", "0.25", "better †")
    assert rows[2] == ("mixup alpha=4", "-", "0", "0 of 4", "-", "-", "-", "-", "-", "too few pairs")
    assert any("5 of 8 pairs left out" in note for note in table.notes)


def test_markdown_has_a_row_per_condition(world: World) -> None:
    results, comparisons = judged(world)
    text = tables.markdown(tables.comparison_table(results, comparisons, metric=METRIC))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| cell | method | test error (%) |")


def test_a_bar_in_a_name_does_not_break_markdown() -> None:
    text = tables.markdown(tables.Table(("method",), (("", (("a|b",),)),)))
    assert text.splitlines()[2] == "| a\\|b |"


def test_plain_text_is_aligned_and_fits_a_terminal(world: World) -> None:
    results, comparisons = judged(world)
    table = tables.comparison_table(results, comparisons, metric=METRIC)
    lines = tables.plain_text(table, without=("seeds", "floor")).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].split("  ")[0] == "method"
    assert "floor" not in lines[0]
    column = lines[0].index("verdict")
    assert [line[column:] for line in lines[3:6]] == ["baseline", "better †", "too few pairs"]


def test_a_metric_without_values_is_left_out(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=1)
    results = load(world.plan, world.store)
    assert tables.metrics_table(results, ["test_nll", "test_ece"]).header == ("method",)


def test_trials_without_a_result_are_listed(world: World) -> None:
    results, _ = judged(world)
    groups = dict(tables.unfinished_table(results).groups)
    (failed,) = groups["failed"]
    assert failed[2:] == ("mixup alpha=1", "3", "killed by SIGKILL")
    assert [row[2:4] for row in groups["not started"]] == [("mixup alpha=4", "0, 1, 2, 3")]


def test_time_and_data(world: World) -> None:
    results, _ = judged(world)
    ((_, times),) = time_table(results).groups
    assert times[0] == ("ERM", "4", "16 s", "1", "1 min 20 s", "400", "0")
    assert times[2] == ("mixup alpha=4", "0", "-", "-", "-", "-", "0")
    ((_, data),) = tables.data_table(results).groups
    assert data[0][1:] == ("900", "100", "797", "10", "0123456789ab")  # no column for wrong labels: there are none


def test_the_recipe_names_what_differs_between_cells(make_world: Callable[..., World]) -> None:
    world = make_world()
    ((_, rows),) = tables.recipe_table(load(world.plan, world.store)).groups
    recipe = dict(rows)
    assert recipe["methods"] == "ERM, mixup alpha=0.2, mixup alpha=1"
    assert recipe["label noise"] == "kind none / uniform, rate 0 / 0.4"
    assert "epochs 4," in recipe["training"]
