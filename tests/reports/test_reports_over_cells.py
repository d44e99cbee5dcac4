"""Aggregates over cells and ranks: against scipy, hand-worked cases and simulation; their section and figures."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_up_trials import World
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from bench.plan.sequential import look_level, metric_values, wanted
from reports import render, theme
from reports.aggregates import (
    Block,
    Ranking,
    aggregate,
    blocks_of,
    friedman,
    interquartile_mean,
    jackknifed,
    nemenyi_critical_difference,
    probability_of_improvement,
    profile,
    ranking,
    ranks,
    share_interval,
    what_cells_are,
)
from reports.figures import FIGURES, Drawing
from reports.load import load

SIX = "[{rate: 0}, " + ", ".join(f"{{kind: uniform, rate: 0.{i}}}" for i in range(1, 6)) + "]"
EIGHT = (
    "[erm, {name: mixup, alpha: [0.1, 0.4, 1]}, {name: cutmix, alpha: 1}, {name: manifold_mixup, alpha: 2}, "
    "{name: erm, label_smoothing: 0.1}, {name: erm, dropout: 0.3}]"
)
LONG = (
    "[erm, {name: mixup, alpha: [0.1, 1], lam_per: sample, labels: [mixed, unmixed], label_smoothing: 0.1, "
    "dropout: 0.3}]"
)
"""Names of 50 to 65 characters."""


def block(errors: np.ndarray, baseline: np.ndarray) -> Block:
    cells, seeds = errors.shape
    names = tuple(f"cell {index}" for index in range(cells))
    return Block("mixup", names, tuple(range(seeds)), errors, baseline, cells, seeds)


def correlated(rng: np.random.Generator, cells: int, seeds: int, *, difference: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors around the level of each cell, of which one seed's are alike in all cells and in both arms."""
    levels = np.linspace(0.05, 0.4, cells)[:, None]
    shared = rng.normal(0, 0.01, seeds)
    baseline = levels + shared + rng.normal(0, 0.01, (cells, seeds))
    return levels + difference + 0.5 * shared + rng.normal(0, 0.012, (cells, seeds)), baseline


def test_the_mean_difference_is_a_t_interval_over_seeds_by_scipy() -> None:
    ours, theirs = correlated(np.random.default_rng(0), 4, 6, difference=-0.01)
    found = aggregate(block(ours, theirs)).difference
    expected = stats.ttest_rel(ours.mean(axis=0), theirs.mean(axis=0))
    interval = expected.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx(((ours - theirs).mean(), interval.low, interval.high))


@pytest.mark.parametrize("n", [4, 8, 40])
def test_the_interquartile_mean_equals_scipy_s_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    assert interquartile_mean(values.reshape(4, -1)) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_the_interquartile_mean_of_six_by_hand() -> None:
    """The quartiles cut the second and the fifth value in half: (1 / 2 + 2 + 10 + 20 / 2) / 3."""
    assert interquartile_mean([100, 0, 2, 1, 20, 10]) == pytest.approx(7.5)
    assert math.isnan(interquartile_mean([]))


def test_the_probability_of_improvement_is_mann_and_whitney_s_u() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(0, 9, (3, 7)) / 100, rng.integers(2, 11, (3, 7)) / 100
    us = [stats.mannwhitneyu(b, a).statistic / 49 for a, b in zip(ours, theirs, strict=True)]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(us), rel=1e-12)
    assert probability_of_improvement(ours, ours[:, ::-1]) == pytest.approx(0.5)


def test_pseudo_values_of_a_mean_are_the_seeds_own_values() -> None:
    ours, theirs = correlated(np.random.default_rng(2), 3, 5, difference=0.0)
    found = jackknifed(lambda a, b: float((a - b).mean()), ours, theirs)
    assert found == pytest.approx((ours - theirs).mean(axis=0))


@pytest.mark.parametrize(("won", "n"), [(0, 6), (3, 10), (20, 20)])
def test_the_interval_of_a_share_equals_scipy_s_wilson_score(won: int, n: int) -> None:
    share = won / n
    found = share_interval(share, share * (1 - share) / n, seeds=n, runs=1000)
    expected = stats.binomtest(won, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def covered(cells: int, seeds: int, *, difference: float, repeats: int) -> dict[str, float]:
    """How often each interval holds the truth, which is that of very many seeds."""
    rng = np.random.default_rng(12)
    many = block(*correlated(np.random.default_rng(13), cells, 4000, difference=difference))
    truth = {
        "difference": difference,
        "iqm_difference": interquartile_mean(many.errors) - interquartile_mean(many.baseline_errors),
        "improvement": probability_of_improvement(many.errors[:, :1500], many.baseline_errors[:, :1500]),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        found = aggregate(block(*correlated(rng, cells, seeds, difference=difference)))
        for name, value in truth.items():
            estimate = getattr(found, name)
            held[name] += estimate.low <= value <= estimate.high
    return {name: n / repeats for name, n in held.items()}


@pytest.mark.parametrize(("cells", "seeds", "difference"), [(4, 3, -0.01), (3, 6, 0.0), (2, 10, -0.03)])
def test_intervals_over_cells_cover_the_truth(cells: int, seeds: int, difference: float) -> None:
    """Cells that share their seeds' luck; the share's interval is wider than need be, and never narrower."""
    found = covered(cells, seeds, difference=difference, repeats=1000)
    error = math.sqrt(0.95 * 0.05 / 1000)
    assert found["difference"] == pytest.approx(0.95, abs=3.5 * error)
    assert found["iqm_difference"] == pytest.approx(0.95, abs=3.5 * error + 0.01)
    assert found["improvement"] > 0.95 - 3 * error


def test_cells_taken_for_independent_would_cover_too_rarely() -> None:
    """The interval that comes to mind first, of independent cell means: which shows that seeds must stay together."""
    rng, held, repeats = np.random.default_rng(14), 0, 1000
    for _ in range(repeats):
        ours, theirs = correlated(rng, 5, 6, difference=0.0)
        differences = ours - theirs
        variances = differences.var(axis=1, ddof=1) / 6
        degrees = variances.sum() ** 2 / (variances**2 / 5).sum()
        half = stats.t.isf(0.025, degrees) * math.sqrt(variances.sum()) / 5
        held += abs(differences.mean()) <= half
    assert held / repeats < 0.93


def test_the_profile_counts_runs() -> None:
    """Improvements of 1 and 3 points in one cell, and of -1 and 2 in the other."""
    theirs = np.full((2, 2), 0.3)
    made = block(theirs - np.array([[0.01, 0.03], [-0.01, 0.02]]), theirs)
    found = profile(made, [-0.02, 0.0, 0.01, 0.02, 0.04])
    assert [each.value for each in found] == pytest.approx([1, 0.75, 0.75, 0.5, 0])
    assert all(each.low <= each.value <= each.high for each in found)
    assert [each.low for each in found] == sorted((each.low for each in found), reverse=True)
    assert [each.high for each in found] == sorted((each.high for each in found), reverse=True)
    alone = profile(block(made.errors[:, :1], theirs[:, :1]), [0.0])
    assert math.isnan(alone[0].low)


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_equals_scipy(ties: bool) -> None:
    rng = np.random.default_rng(3)
    errors = rng.integers(0, 6, (7, 4)) / 10 if ties else rng.random((7, 4))
    expected = stats.friedmanchisquare(*errors.T).statistic
    chi_square, p = friedman(errors)
    assert chi_square == pytest.approx(expected, rel=1e-9)
    f = 6 * expected / (7 * 3 - expected)
    assert p == pytest.approx(stats.f.sf(f, 3, 18), rel=1e-9)
    assert ranks(errors) == pytest.approx(stats.rankdata(errors, axis=1))


def test_friedman_where_all_blocks_rank_alike_or_nothing_differs() -> None:
    assert friedman(np.tile([0.1, 0.2, 0.3], (5, 1)))[1] == pytest.approx(6.0**-4)
    assert friedman(np.full((5, 3), 0.2)) == (0, 1)


def test_friedman_rarely_finds_what_is_not_there() -> None:
    rng = np.random.default_rng(4)
    share = np.mean([friedman(rng.random((6, 4)))[1] <= 0.05 for _ in range(4000)])
    assert 0.04 < share < 0.06 + 3 * math.sqrt(0.05 * 0.95 / 4000)  # an approximation; docs/statistics.md has more


@pytest.mark.parametrize(
    ("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)]
)
def test_the_critical_difference_is_demsar_s(methods: int, q: float) -> None:
    """Table 5 of Demsar 2006; his example, four methods on 14 data sets, has 1.25."""
    expected = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert nemenyi_critical_difference(methods, 14) == pytest.approx(expected, rel=3e-4)
    exact = stats.studentized_range.ppf(0.95, methods, np.inf) / math.sqrt(2)
    assert nemenyi_critical_difference(methods, 14) == pytest.approx(expected / q * exact, rel=1e-6)


def test_groups_are_the_longest_runs_within_the_critical_difference() -> None:
    def groups(*mean_ranks: float) -> list[tuple[int, int]]:
        return Ranking(tuple("abcde"), mean_ranks, ("x",) * 6, 0, 1.0, 0.01, 1.5).groups

    assert groups(1.0, 2.0, 3.0, 4.0, 5.0) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert groups(1.0, 1.2, 2.4, 4.6, 5.0) == [(0, 2), (3, 4)]
    assert groups(1.0, 2.5, 4.0, 5.5, 7.0) == []


def fill(world: World, *, missing: float = 0.0) -> None:
    """Errors that rise with the noise, the less the later an arm stands in the plan."""
    rng = np.random.default_rng(5)
    places = {arm: index for index, arm in enumerate(world.plan.arms)}
    for planned in world.plan.trials:
        noise, place = planned.trial.label_noise.rate, places[planned.arm]
        error = 0.04 + 0.35 * noise * (1 - 0.06 * place) - 0.002 * place + rng.normal(0, 0.004)
        if rng.random() < missing:
            world.fail(planned, "made up")
        else:
            world.finish(planned, round(max(error, 0.002) * 797) / 797)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Six cells, three arms."""
    made = make_world(seeds=4, epochs=2, label_noise=SIX, evaluate="[clean]")
    fill(made)
    return made


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words: encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"")


def draw(world: World) -> dict[str, Drawing]:
    """Those of these figures that the page would have."""
    results = load(world.plan, world.store)
    with mpl.rc_context(theme.RC):
        drawn = {name: FIGURES[name](results, []) for name in ("pairs", "profile", "ranks")}
    return {name: drawing for name, drawing in drawn.items() if drawing}


def test_blocks_are_the_seeds_that_all_cells_finished(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=4, epochs=2, label_noise="[{rate: 0}, {rate: 0.4}]", evaluate="[clean]")
    for planned in world.plan.trials:
        if (planned.cell, planned.arm, planned.trial.seed) != (world.plan.cells[1], "mixup alpha=1", 2):
            world.finish(planned, 0.2 + 0.01 * planned.trial.seed)
    whole, part = blocks_of(load(world.plan, world.store), "test_error_last")
    assert (whole.arm, whole.seeds, whole.planned_seeds) == ("mixup alpha=0.2", (0, 1, 2, 3), 4)
    assert (part.arm, part.seeds, part.planned_seeds) == ("mixup alpha=1", (0, 1, 3), 4)
    assert part.errors == pytest.approx(np.array([[0.2, 0.21, 0.23]] * 2))


@pytest.mark.usefixtures("without_pictures")
def test_the_section_and_its_csv(world: World, tmp_path: Path) -> None:
    """The mean difference and its interval by scipy, from the trials' own table."""
    page = html.unescape(render(world.plan, world.store, tmp_path).html.read_text())
    assert "Over all cells" in page
    trials = pd.read_csv(tmp_path / "trials.csv")
    means = trials.pivot_table(index="seed", columns="arm", values="test_error_last", aggfunc="mean")
    row = pd.read_csv(tmp_path / "over_cells.csv").set_index("arm").loc["mixup alpha=1"]
    expected = stats.ttest_rel(means["mixup alpha=1"], means["erm"]).confidence_interval(0.95)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["cells"], row["seeds"]) == (6, 4)
    low, high = 100 * expected.low, 100 * expected.high
    assert f"{100 * row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "\N{MINUS SIGN}") in page
    assert "Friedman's test of 3 methods takes each cell for one condition (6 cells: 1 data set, 1 network)" in page
    assert "Nemenyi" in page


@pytest.mark.usefixtures("without_pictures")
def test_one_cell_has_no_such_section(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3, epochs=2, label_noise="[{rate: 0}]", evaluate="[clean]")
    fill(world)
    page = render(world.plan, world.store, tmp_path).html.read_text()
    assert "Over all cells" not in page
    assert not (tmp_path / "over_cells.csv").exists()
    assert "Pair by pair" in page


@pytest.mark.usefixtures("without_pictures")
def test_with_seeds_that_are_added_the_mean_alone_has_an_interval(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(
        seeds="{min: 3, max: 5}",
        epochs=2,
        methods="[erm, {name: mixup, alpha: 1}]",
        label_noise="[{rate: 0}, {rate: 0.4}]",
        evaluate="[clean]",
    )
    rng = np.random.default_rng(8)
    while True:
        ended = metric_values(world.plan.trials, world.store, "test_error_last")
        missing = [each for each in wanted(world.plan, ended) if each.trial_id not in ended]
        if not missing:
            break
        for planned in missing:
            world.finish(planned, float(0.2 + rng.normal(0, 0.01)))
    page = render(world.plan, world.store, tmp_path).html.read_text()
    row = pd.read_csv(tmp_path / "over_cells.csv").set_index("arm").loc["mixup alpha=1"]
    (made,) = blocks_of(load(world.plan, world.store), "test_error_last")
    n, rule = len(made.seeds), world.plan.suite.stopping
    assert rule is not None
    by_seed = -made.improvements.mean(axis=0)
    interval = stats.ttest_1samp(by_seed, 0).confidence_interval(1 - look_level(n, rule, level=0.05))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high))
    assert math.isnan(row["improvement_low"])
    assert math.isnan(row["iqm_difference_low"])
    assert "the others would take the number of seeds as given, and are left out" in page


def test_ranks_are_those_of_the_cells_means(world: World) -> None:
    results = load(world.plan, world.store)
    found = ranking(results, "test_error_last")
    assert found is not None
    means = results.trials.pivot_table(index="cell", columns="arm", values="test_error_last")
    expected = pd.Series(stats.rankdata(means, axis=1).mean(axis=0), index=means.columns)
    assert dict(zip(found.arms, found.mean_ranks, strict=True)) == pytest.approx(expected.to_dict())
    assert found.chi_square == pytest.approx(stats.friedmanchisquare(*means.to_numpy().T).statistic)
    assert what_cells_are(world.plan, found.cells) == "6 cells: 1 data set, 1 network"


def test_no_ranks_of_two_methods_or_four_cells(make_world: Callable[..., World]) -> None:
    for options in ({"methods": "[erm, {name: mixup, alpha: 1}]", "label_noise": SIX}, {"label_noise": "[{rate: 0}]"}):
        world = make_world(seeds=1, epochs=2, evaluate="[clean]", **options)
        fill(world)
        assert ranking(load(world.plan, world.store), "test_error_last") is None
        assert "ranks" not in draw(world)


def test_pairs_are_points_around_the_diagonal(world: World) -> None:
    drawing = draw(world)["pairs"]
    axes = drawing.figure.axes[1]
    trials = load(world.plan, world.store).trials.set_index(["arm", "cell", "seed"])["test_error_last"]
    (points,) = [line for line in axes.lines if line.get_marker() not in ("", "None")]
    expected = {(100 * trials["erm", c, s], 100 * trials["mixup alpha=1", c, s]) for _, c, s in trials.index}
    assert set(zip(points.get_xdata(), points.get_ydata(), strict=True)) == expected
    below = sum(y < x for x, y in zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert axes.get_title(loc="left") == f"mixup alpha=1\nbelow the line: {below} of 24"
    assert not axes.texts, "nothing is written where points can be"
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist()
    assert axes.get_xlim() == axes.get_ylim()


def test_the_profile_is_drawn_as_counted(world: World) -> None:
    drawing = draw(world)["profile"]
    data = drawing.data[drawing.data["arm"] == "mixup alpha=1"]
    (made,) = [
        each for each in blocks_of(load(world.plan, world.store), "test_error_last") if each.arm == data["arm"].iloc[0]
    ]
    at_zero = data[data["improvement"] == 0].iloc[0]
    assert at_zero["share"] == pytest.approx(np.mean(made.improvements >= -1e-12))
    assert at_zero["low"] < at_zero["share"] < at_zero["high"]


def test_ranks_are_drawn_where_they_are(world: World) -> None:
    drawing = draw(world)["ranks"]
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    for arm, rank in zip(drawing.data["arm"], drawing.data["mean_rank"], strict=True):
        assert any(f"({rank:.2f})" in text for text in texts), arm
    markers = [line.get_xdata()[0] for line in drawing.figure.axes[0].lines if line.get_marker() in ("o", "s", "^")]
    assert np.corrcoef(sorted(markers), drawing.data["mean_rank"])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("seeds", "methods", "missing"), [(1, EIGHT, 0.0), (2, LONG, 0.0), (5, EIGHT, 0.08)], ids=["8", "long", "missing"]
)
def test_no_text_leaves_these_figures(
    make_world: Callable[..., World], seeds: int, methods: str, missing: float
) -> None:
    world = make_world(seeds=seeds, epochs=2, methods=methods, label_noise=SIX, evaluate="[clean]")
    fill(world, missing=missing)
    drawings = draw(world)
    for name in ("pairs", "profile", "ranks"):
        drawing = drawings[name]
        width, height = drawing.figure.get_size_inches()
        assert width <= theme.FULL_WIDTH
        assert Image.open(io.BytesIO(drawing.png())).size == pytest.approx((200 * width, 200 * height), abs=1)
        assert drawing.caption.endswith(".")
        assert drawing.alt.endswith(".")
        drawing.figure.draw_without_rendering()
        edge = drawing.figure.bbox
        texts = [text for legend in drawing.figure.legends for text in legend.get_texts()] + drawing.figure.texts
        for axes in drawing.figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in filter(Text.get_text, texts):
            box = text.get_window_extent()
            assert edge.x0 - 1 <= box.x0 <= box.x1 <= edge.x1 + 1, (name, text.get_text())
            assert edge.y0 - 1 <= box.y0 <= box.y1 <= edge.y1 + 1, (name, text.get_text())
