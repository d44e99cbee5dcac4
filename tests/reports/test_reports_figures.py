"""Figures: what they show against the numbers that went in, and what the files are like."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from made_up_trials import World
from matplotlib.axes import Axes
from PIL import Image
from scipy import stats

from reports import theme
from reports.figures import FIGURES, Drawing, draw_all
from reports.load import load
from reports.statistics import compare, pairs_of


def draw(world: World) -> dict[str, Drawing]:
    results = load(world.plan, world.store)
    metric = world.plan.suite.report.metric
    trials = results.trials.assign(**{metric: results.column(metric)})
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": world.plan.baseline}
    return draw_all(results, compare(pairs_of(trials, metric, **names)))


def finish(world: World) -> None:
    rng = np.random.default_rng(1)
    for planned in world.plan.trials:
        error = (0.2 if planned.arm == "erm" else 0.15) + rng.normal(0, 0.01)
        world.finish(planned, round(error * 797) / 797)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    world = make_world(seeds=3)
    finish(world)
    return world


def lines_by_color(axes: Axes, color: str) -> list[tuple[np.ndarray, np.ndarray]]:
    found = [line for line in axes.lines if line.get_color() == color]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in found]


def test_every_figure_is_drawn_and_explained(world: World) -> None:
    drawings = draw(world)
    assert drawings.keys() == FIGURES.keys()
    for drawing in drawings.values():
        assert drawing.title
        assert len(drawing.caption) > 100
        assert drawing.alt.endswith(".")


def test_nothing_is_drawn_from_nothing(make_world: Callable[..., World]) -> None:
    assert draw(make_world()) == {}


def test_files_are_fit_for_a_paper_and_repeat_byte_for_byte(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    finish(world)
    again = draw(world)
    for name, drawing in draw(world).items():
        png, pdf = drawing.png(), drawing.pdf()
        width, height = drawing.figure.get_size_inches()
        assert Image.open(io.BytesIO(png)).size == (int(width * 200), int(height * 200))
        assert width <= theme.FULL_WIDTH
        assert b"/FontFile2" in pdf  # TrueType, embedded
        assert b"/Type3" not in pdf
        assert not re.search(rb"/(CreationDate|Creator|Producer)", pdf)
        assert (png, pdf) == (again[name].png(), again[name].pdf())


def test_no_text_leaves_the_figure(make_world: Callable[..., World]) -> None:
    methods = "[erm, {name: mixup, alpha: [0.1, 1], lam_per: sample, labels: [mixed, unmixed]}]"
    world = make_world(seeds=2, methods=methods, label_noise="[{rate: 0}, {rate: 0.2}, {rate: 0.4}]")
    finish(world)
    for name, drawing in draw(world).items():
        drawing.figure.draw_without_rendering()  # lays the text out
        edge = drawing.figure.bbox
        texts = [text for legend in drawing.figure.legends for text in legend.get_texts()]
        for axes in drawing.figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in texts:
            box = text.get_window_extent()
            assert edge.x0 - 1 <= box.x0 <= box.x1 <= edge.x1 + 1, (name, text.get_text())
            assert edge.y0 - 1 <= box.y0 <= box.y1 <= edge.y1 + 1, (name, text.get_text())


def test_alpha_shows_means_with_intervals_and_the_baseline_as_a_band(world: World) -> None:
    axes = draw(world)["alpha"].figure.axes[1]
    cell = world.plan.cells[1]
    trials = load(world.plan, world.store).trials
    own = trials[trials["cell"] == cell]
    errors = {arm: 100 * group["test_error_last"].to_numpy() for arm, group in own.groupby("arm")}
    low, high = stats.t.interval(0.95, 2, errors["erm"].mean(), stats.sem(errors["erm"]))
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))
    (container,) = axes.containers
    expected = [errors["mixup alpha=0.2"], errors["mixup alpha=1"]]
    assert container[0].get_ydata() == pytest.approx([each.mean() for each in expected])
    bars = container[2][0].get_segments()
    for bar, each in zip(bars, expected, strict=True):
        assert bar[:, 1] == pytest.approx(stats.t.interval(0.95, 2, each.mean(), stats.sem(each)))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["ERM", "0.2", "1"]


def test_alpha_is_left_out_where_nothing_is_swept(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm, {name: mixup, alpha: 1}, {name: mixup, lam: 0.7}]")
    finish(world)
    assert draw(world).keys() == FIGURES.keys() - {"alpha"}


def test_learning_curves_are_means_over_seeds(world: World) -> None:
    axes = draw(world)["learning_curves"].figure.axes[0]
    curves = load(world.plan, world.store).curves
    own = curves[(curves["cell"] == world.plan.cells[0]) & (curves["arm"] == "erm")]
    ((epochs, errors),) = lines_by_color(axes, theme.BASELINE)
    assert epochs.tolist() == [1, 2, 3, 4]
    for epoch, error in zip(epochs, errors, strict=True):
        assert error == pytest.approx(100 * np.mean(own.loc[own["epoch"] == epoch, "test_error"]))


def test_reliability_pools_bins_by_their_counts(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise="[{rate: 0}]")
    counts, accuracies = (100, 300), (0.6, 0.8)
    for planned, count, accuracy in zip(world.plan.trials, counts, accuracies, strict=True):
        world.finish(planned, 0.2)
        folder = world.store.trial(planned.trial_id)
        record = folder.evaluation("calibration")
        assert record is not None
        full = {"lower": 14 / 15, "upper": 1.0, "count": count, "confidence": accuracy + 0.1, "accuracy": accuracy}
        few = {"lower": 0.8, "upper": 13 / 15, "count": 5, "confidence": 0.85, "accuracy": 0.1}
        folder.write_evaluation("calibration", record | {"detail": {"bins": [few, full]}})
    axes = draw(world)["reliability"].figure.axes[0]
    confidence, accuracy = lines_by_color(axes, theme.BASELINE)[0]
    assert accuracy == pytest.approx([75.0])  # (100 * 0.6 + 300 * 0.8) / 400; ten images are too few to draw
    assert confidence == pytest.approx([85.0])


def test_forest_shows_each_difference_with_its_interval(world: World) -> None:
    results = load(world.plan, world.store)
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": "erm"}
    comparisons = compare(pairs_of(results.trials, "test_error_last", **names))
    axes = draw(world)["differences"].figure.axes[0]
    spans = [
        np.asarray(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2 and any(line.get_xdata())
    ]
    assert np.array(spans) == pytest.approx(np.array([[100 * each.low, 100 * each.high] for each in comparisons]))


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_styles_differ_and_none_is_the_baselines(count: int) -> None:
    for ordered in (False, True):
        styles = theme.styles([str(index) for index in range(count)], ordered=ordered)
        assert len({style.color for style in styles.values()}) == count
        assert theme.BASELINE not in {style.color for style in styles.values()}
