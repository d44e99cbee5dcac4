"""Figures: what they show against the numbers that went in, and what the files are like."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from made_up_figures import draw
from made_up_trials import EVERYTHING, World
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix

from reports import theme
from reports.figures import FIGURES, MOST_CELLS, MOST_ROWS, Drawing
from reports.figures.arms import arm_styles, drawn_arms
from reports.load import load
from reports.statistics import compare, pairs_of


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


@pytest.fixture
def full_world(make_world: Callable[..., World]) -> World:
    """Every kind of evaluation."""
    world = make_world(seeds=3, evaluate=EVERYTHING)
    finish(world)
    return world


def lines_by_color(axes: Axes, color: str) -> list[tuple[np.ndarray, np.ndarray]]:
    found = [line for line in axes.lines if line.get_color() == color]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in found]


def test_every_figure_is_drawn_and_explained(full_world: World) -> None:
    drawings = draw(full_world)
    assert drawings.keys() == FIGURES.keys() - {"published", "ranks"}  # nothing is published, and ranks take more cells
    for drawing in drawings.values():
        assert drawing.title
        assert len(drawing.caption) > 100
        assert drawing.alt.endswith(".")
        assert len(drawing.data) > 3


def test_one_of_everything_is_no_plural(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise="[{rate: 0.4}]", evaluate=EVERYTHING)
    finish(world)
    drawings = draw(world)
    assert len(drawings) > 10
    for drawing in drawings.values():
        assert not re.search(r"\b1 ((label|other data) )?[a-z]+s\b", drawing.alt), drawing.alt


def test_nothing_is_drawn_from_nothing(make_world: Callable[..., World]) -> None:
    assert draw(make_world()) == {}


def test_files_are_fit_for_a_paper_and_repeat_byte_for_byte(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0.4}]", evaluate=EVERYTHING)
    finish(world)
    again = draw(world)
    for name, drawing in draw(world).items():
        png, pdf = drawing.png(), drawing.pdf()
        width, height = drawing.figure.get_size_inches()
        assert Image.open(io.BytesIO(png)).size == pytest.approx((200 * width, 200 * height), abs=1)
        assert width <= theme.FULL_WIDTH
        assert b"/FontFile2" in pdf  # TrueType, embedded
        assert b"/Type3" not in pdf
        assert not re.search(rb"/(CreationDate|Creator|Producer)", pdf)
        assert (png, pdf) == (again[name].png(), again[name].pdf())


def test_no_text_leaves_the_figure(make_world: Callable[..., World]) -> None:
    methods = "[erm, {name: mixup, alpha: [0.1, 1], lam_per: sample, labels: [mixed, unmixed]}]"
    noise = "[{rate: 0}, {rate: 0.2}, {kind: pair_flip, rate: 0.4}]"
    world = make_world(seeds=2, methods=methods, label_noise=noise, evaluate=EVERYTHING)
    finish(world)
    for name, drawing in draw(world).items():
        drawing.figure.draw_without_rendering()  # lays the text out
        edge = drawing.figure.bbox
        texts = [text for legend in drawing.figure.legends for text in legend.get_texts()] + drawing.figure.texts
        for axes in drawing.figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        for text in filter(Text.get_text, texts):
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
    methods = "[erm, {name: mixup, alpha: 1}, {name: mixup, lam: 0.7}]"
    world = make_world(seeds=2, methods=methods, evaluate=EVERYTHING)
    finish(world)
    assert draw(world).keys() == FIGURES.keys() - {"alpha", "chosen", "published", "ranks"}


def test_a_figure_needs_its_evaluation(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, evaluate="[clean]", label_noise="[{rate: 0}]")
    finish(world)
    always = ["differences", "alpha", "learning_curves", "error_against_time", "pairs"]
    assert list(draw(world)) == [*always, "chosen", "training_errors", "lam"]


def test_learning_curves_are_means_over_seeds(world: World) -> None:
    axes = draw(world)["learning_curves"].figure.axes[0]
    curves = load(world.plan, world.store).curves
    own = curves[(curves["cell"] == world.plan.cells[0]) & (curves["arm"] == "erm")]
    (epochs, errors), *_marks = lines_by_color(axes, theme.BASELINE)
    assert epochs.tolist() == [1, 2, 3, 4]
    for epoch, error in zip(epochs, errors, strict=True):
        assert error == pytest.approx(100 * np.mean(own.loc[own["epoch"] == epoch, "test_error"]))


def test_reliability_pools_bins_by_their_counts(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise="[{rate: 0}]")
    counts, accuracies = (100, 300), (0.6, 0.8)
    for planned, count, accuracy in zip(world.plan.trials, counts, accuracies, strict=True):
        world.finish(planned, 0.2)
        full = {"lower": 14 / 15, "upper": 1.0, "count": count, "confidence": accuracy + 0.1, "accuracy": accuracy}
        few = {"lower": 0.8, "upper": 13 / 15, "count": 5, "confidence": 0.85, "accuracy": 0.1}
        scaled = full | {"confidence": accuracy}
        detail = {"bins": [few, full], "bins_scaled": [few, scaled], "temperature_fit": "validation"}
        world.rewrite(planned, "calibration", detail=detail)
    drawing = draw(world)["reliability"]
    before, after, histogram, _ = drawing.figure.axes
    confidence, accuracy = lines_by_color(before, theme.BASELINE)[0]
    assert accuracy == pytest.approx([75.0])  # (100 * 0.6 + 300 * 0.8) / 400; ten images are too few to draw
    assert confidence == pytest.approx([85.0])
    confidence, accuracy = lines_by_color(after, theme.BASELINE)[0]
    assert confidence == accuracy == pytest.approx([75.0])
    (stairs,) = [patch for patch in histogram.patches if isinstance(patch, StepPatch)]
    assert stairs.get_data().values == pytest.approx([1000 / 410, 40000 / 410])


def test_without_temperature_scaling_there_is_one_panel_per_cell(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise="[{rate: 0}]")
    finish(world)
    for planned in world.plan.trials:
        record = world.record(planned, "calibration")
        world.rewrite(planned, "calibration", detail=record["detail"] | {"bins_scaled": None, "temperature_fit": None})
    drawing = draw(world)["reliability"]
    assert len(drawing.figure.axes) == 2  # and its histogram
    assert "caled" not in drawing.caption


def mean_with_interval(values: list[float]) -> list[float]:
    """By scipy; in percent."""
    array = 100 * np.array(values)
    return [array.mean(), *stats.t.interval(0.95, len(array) - 1, array.mean(), stats.sem(array))]


def test_corruptions_by_kind_and_by_severity_average_within_each_trial(full_world: World) -> None:
    cell, arm = full_world.plan.cells[0], "mixup alpha=1"
    trials = [each for each in full_world.plan.trials if (each.cell, each.arm) == (cell, arm)]
    errors = [full_world.record(each, "corruptions")["detail"]["errors"] for each in trials]
    drawings = draw(full_world)

    data = drawings["corruption_kinds"].data.set_index(["cell", "arm", "kind"])
    glass = [np.mean(list(each["glass_blur"].values())) for each in errors]
    assert 100 * data.loc[(cell, arm, "glass_blur"), ["mean", "low", "high"]].to_numpy(float) == pytest.approx(
        mean_with_interval(glass)
    )
    axes = drawings["corruption_kinds"].figure.axes[0]
    assert len(axes.get_xticks()) == 19
    kinds = [label.get_text() for label in drawings["corruption_kinds"].figure.axes[-1].get_xticklabels()]
    style = arm_styles(load(full_world.plan, full_world.store))[arm]
    ((_, drawn),) = lines_by_color(axes, style.color)
    assert drawn[kinds.index("glass blur")] == pytest.approx(100 * np.mean(glass))

    data = drawings["corruption_severity"].data.set_index(["cell", "arm", "severity"])
    standard = [kind for kind in errors[0] if kind not in ("speckle_noise", "gaussian_blur", "spatter", "saturate")]
    assert len(standard) == 15
    worst = [np.mean([each[kind]["5"] for kind in standard]) for each in errors]
    assert 100 * data.loc[(cell, arm, 5), ["mean", "low", "high"]].to_numpy(float) == pytest.approx(
        mean_with_interval(worst)
    )
    clean = [full_world.record(each, "corruptions")["detail"]["clean_error"] for each in trials]
    assert data.loc[(cell, arm, 0), "mean"] == pytest.approx(np.mean(clean))


def test_attack_curves_begin_with_the_clean_error(full_world: World) -> None:
    cell = full_world.plan.cells[1]
    trials = [each for each in full_world.plan.trials if (each.cell, each.arm) == (cell, "erm")]
    drawing = draw(full_world)["attacks"]
    for kind, transfer in (("adversarial", False), ("transfer", True)):
        details = [full_world.record(each, kind)["detail"] for each in trials]
        data = drawing.data
        own = data[(data["cell"] == cell) & (data["arm"] == "erm") & (data["transfer"] == transfer)]
        curve = own[own["attack"] == "pgd"].sort_values("epsilon").set_index("epsilon")["mean"]
        assert curve.index.tolist() == [0, 1, 2, 4, 8]
        assert curve[0] == pytest.approx(np.mean([each["clean_error"] for each in details]))
        at_4 = [e["error"] for each in details for e in each["errors"] if (e["attack"], e["epsilon"]) == ("pgd", 4)]
        assert curve[4] == pytest.approx(np.mean(at_4))
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes[:6]]
    assert titles == ["FGSM", "I-FGSM", "PGD", "transferred FGSM", "transferred I-FGSM", "transferred PGD"]
    second_row = drawing.figure.axes[6:12]
    ((radius, error),) = lines_by_color(second_row[5], theme.BASELINE)
    assert radius.tolist() == curve.index.tolist()
    assert error == pytest.approx(100 * curve.to_numpy())


def test_in_between_shows_misses_in_percent_and_gradients_as_they_are(full_world: World) -> None:
    cell = full_world.plan.cells[0]
    trials = [each for each in full_world.plan.trials if (each.cell, each.arm) == (cell, "erm")]
    details = [full_world.record(each, "in_between")["detail"] for each in trials]
    misses, gradients, *_ = draw(full_world)["in_between"].figure.axes
    ((lam, drawn),) = lines_by_color(misses, theme.BASELINE)
    assert lam == pytest.approx(details[0]["lam"])
    assert drawn == pytest.approx(100 * np.mean([each["miss"] for each in details], axis=0))
    ((_, drawn),) = lines_by_color(gradients, theme.BASELINE)
    assert drawn == pytest.approx(np.mean([each["gradient_norm"] for each in details], axis=0))


def test_ood_shows_the_auroc_of_both_scores_against_each_set(full_world: World) -> None:
    drawing = draw(full_world)["ood"]
    trials = load(full_world.plan, full_world.store).trials
    cell = full_world.plan.cells[0]
    own = trials[(trials["cell"] == cell) & (trials["arm"] == "erm")]
    data = drawing.data.set_index(["cell", "arm", "set", "score"])
    assert set(data.index.get_level_values("set")) == {"gaussian_noise", "mnist"}
    for name in ("gaussian_noise", "mnist"):
        for score in ("msp", "energy"):
            expected = own[f"ood_{name}_auroc_{score}"].mean()
            assert data.loc[(cell, "erm", name, score), "mean"] == pytest.approx(expected)


def test_transitions_are_shares_of_each_true_class_averaged_over_seeds(full_world: World) -> None:
    cell = full_world.plan.cells[1]
    trials = [each for each in full_world.plan.trials if (each.cell, each.arm) == (cell, "erm")]
    records = [
        json.loads((full_world.store.trial(each.trial_id).path / "label_noise.json").read_text()) for each in trials
    ]
    drawing = draw(full_world)["label_noise"]
    (axes,) = drawing.figure.axes
    drawn = np.asarray(axes.images[0].get_array())
    expected = sum(confusion(record["matrix"]) for record in records) / len(records)
    assert drawn == pytest.approx(expected)
    assert drawn.sum(axis=1) == pytest.approx(np.ones(10))
    realised = np.mean([record["realised_rate"] for record in records])
    assert f"realised {100 * realised:.1f} %" in axes.get_title(loc="left").replace("\n", " ")
    assert "nominal 40.0 %" in axes.get_title(loc="left").replace("\n", " ")


def confusion(matrix: list[list[int]]) -> np.ndarray:
    """scikit-learn's row-normalised confusion matrix of the labels that these counts stand for."""
    true = [i for i, row in enumerate(matrix) for count in row for _ in range(count)]
    given = [j for row in matrix for j, count in enumerate(row) for _ in range(count)]
    return confusion_matrix(true, given, normalize="true")


def test_many_classes_have_no_numbers(full_world: World) -> None:
    matrix = (np.eye(30, dtype=int) * 20 + 1).tolist()
    names = [f"a rather long name of class {index}" for index in range(30)]
    for planned in full_world.plan.trials:
        path = full_world.store.trial(planned.trial_id).path / "label_noise.json"
        if path.exists():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"matrix": matrix, "class_names": names}))
    (axes,) = draw(full_world)["label_noise"].figure.axes
    assert not axes.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "29"]


def test_memorisation_shows_the_three_errors_at_the_epochs_that_have_them(full_world: World) -> None:
    cell = full_world.plan.cells[1]
    axes = draw(full_world)["memorisation"].figure.axes
    assert [each.get_title(loc="left") for each in axes] == [
        "right labels",
        "wrong labels, as given",
        "wrong labels, against the true class",
    ]
    trials = [each for each in full_world.plan.trials if (each.cell, each.arm) == (cell, "erm")]
    epochs = [full_world.store.trial(each.trial_id).epochs() for each in trials]
    for panel, name in zip(axes, ("clean_labels", "wrong_labels", "wrong_vs_true"), strict=True):
        ((epoch, error),) = lines_by_color(panel, theme.BASELINE)
        assert epoch.tolist() == [1, 3, 4]
        expected = [np.mean([own[int(e) - 1][f"train_error_{name}"] for own in epochs]) for e in epoch]
        assert error == pytest.approx(100 * np.array(expected))


def test_forest_shows_each_difference_with_its_interval(world: World) -> None:
    results = load(world.plan, world.store)
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": "erm"}
    comparisons = compare(pairs_of(results.trials, "test_error_last", **names))
    axes = draw(world)["differences"].figure.axes[0]
    spans = [
        np.asarray(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2 and any(line.get_xdata())
    ]
    assert np.array(spans) == pytest.approx(np.array([[100 * each.low, 100 * each.high] for each in comparisons]))


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_styles_differ_and_none_is_the_baselines(count: int) -> None:
    for ordered in (False, True):
        styles = theme.styles([str(index) for index in range(count)], ordered=ordered)
        assert len({style.color for style in styles.values()}) == count
        assert theme.BASELINE not in {style.color for style in styles.values()}


def test_the_choice_of_alpha_on_test_and_on_validation(make_world: Callable[..., World]) -> None:
    """On validation alpha 0.2 is best with two of three seeds, on test alpha 1 is."""
    world = make_world(seeds=3, label_noise="[{rate: 0}]")
    test = {"erm": [0.20, 0.21, 0.22], "mixup alpha=0.2": [0.18, 0.19, 0.17], "mixup alpha=1": [0.15, 0.16, 0.14]}
    val = {"erm": [0.3, 0.3, 0.3], "mixup alpha=0.2": [0.10, 0.11, 0.30], "mixup alpha=1": [0.2, 0.21, 0.2]}
    for planned in world.plan.trials:
        seed = planned.trial.seed
        world.finish(planned, test[planned.arm][seed], val_error=val[planned.arm][seed])
    drawing = draw(world)["chosen"]
    on_test, on_validation, shares = drawing.figure.axes
    for axes, errors in ((on_test, test), (on_validation, val)):
        ((_, drawn),) = lines_by_color(axes, theme.HUES[0])
        assert drawn == pytest.approx([100 * np.mean(errors[f"mixup alpha={alpha}"]) for alpha in ("0.2", "1")])
        ((_, baseline),) = lines_by_color(axes, theme.BASELINE)
        assert baseline[0] == pytest.approx(100 * np.mean(errors["erm"]))
    ((x, y),) = lines_by_color(on_test, theme.INK)  # the oracle's ring
    assert (*x, *y) == pytest.approx((1, 15))
    assert [bar.get_height() for bar in shares.patches] == pytest.approx([200 / 3, 100 / 3])
    assert [tick.get_text() for tick in shares.get_xticklabels()] == ["0.2", "1"]
    data = drawing.data.set_index("alpha")
    assert data["chosen_share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert 100 * data.loc[1, ["mean_test", "low_test", "high_test"]].to_numpy(float) == pytest.approx(
        mean_with_interval(test["mixup alpha=1"])
    )


def test_shares_of_competing_recipes_add_up_to_one(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=4, label_noise="[{rate: 0}]\n  training.lr: [0.1, 0.2]")
    finish(world)
    drawing = draw(world)["chosen"]
    assert len(drawing.figure.axes) == 2 * 3
    assert drawing.data["chosen_share"].sum() == pytest.approx(1)
    assert sum(len(lines_by_color(axes, theme.INK)) for axes in drawing.figure.axes) == 1  # one oracle for both


def test_histograms_of_lam_pool_cells_and_seeds(world: World) -> None:
    counts: dict[str, np.ndarray] = {}
    for planned in world.plan.trials:
        final = world.store.trial(planned.trial_id).final()
        assert final is not None
        if final["mixing"]:
            counts[planned.arm] = counts.get(planned.arm, np.zeros(20)) + final["mixing"]["lam_histogram"]
    figure = draw(world)["lam"].figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["mixup alpha=0.2", "mixup alpha=1"]
    for axes, own in zip(figure.axes, counts.values(), strict=True):
        stairs = next(patch for patch in axes.patches if isinstance(patch, StepPatch))
        assert stairs.get_data().values == pytest.approx(100 * own / own.sum())
        assert stairs.get_data().edges == pytest.approx(np.linspace(0, 1, 21))


def test_the_error_on_mixed_batches_stands_beside_validation_and_test(world: World) -> None:
    axes = draw(world)["training_errors"].figure.axes[:3]
    assert [each.get_title(loc="left") for each in axes] == ["training, as trained", "validation", "test"]
    curves = load(world.plan, world.store).curves
    own = curves[(curves["cell"] == world.plan.cells[0]) & (curves["arm"] == "erm")].groupby("epoch")
    for panel, name in zip(axes, ("train_error_mixed", "val_error", "test_error"), strict=True):
        ((epochs, errors),) = lines_by_color(panel, theme.BASELINE)
        assert epochs.tolist() == [1, 2, 3, 4]
        assert errors == pytest.approx(100 * own[name].mean().to_numpy())


def test_results_of_before_mixing_was_recorded_have_no_figures_of_it(world: World) -> None:
    for planned in world.plan.trials:
        world.forget_mixing(planned)
    assert not draw(world).keys() & {"training_errors", "lam"}


MANY = """[erm, {name: erm, label_smoothing: [0.05, 0.1, 0.2]}, {name: mixup, lam: [0.5, 0.7, 0.9]}, \
{name: mixup, alpha: 1, only: inputs, partner: [class_neighbours, neighbours, same_class, permutation]}]"""
"""Eleven arms, of which none sweeps alpha."""

LINE_FIGURES = {"learning_curves", "training_errors", "memorisation", "reliability", "corruption_kinds"}
LINE_FIGURES |= {"corruption_severity", "ood", "attacks", "in_between", "best_and_last", "error_against_time"}


@pytest.fixture
def many_arms(make_world: Callable[..., World]) -> World:
    """Each arm better than the one before; the first cell alone would order them the other way round."""
    world = make_world(seeds=2, methods=MANY, evaluate=EVERYTHING)
    arms = world.plan.arms
    for planned in world.plan.trials:
        place = len(arms) - arms.index(planned.arm)
        level = 0.1 + 0.02 * place if planned.trial.label_noise.rate else 0.1 - 0.005 * place
        world.finish(planned, level + 0.001 * planned.trial.seed)
    return world


def legend(drawing: Drawing) -> list[str]:
    return [text.get_text() for each in drawing.figure.legends for text in each.get_texts()]


def test_of_many_arms_the_baseline_and_the_seven_best_are_drawn(many_arms: World) -> None:
    drawings = draw(many_arms)
    best = [arm.replace("erm", "ERM") for arm in ("erm", *many_arms.plan.arms[4:])]
    for name in LINE_FIGURES:
        assert legend(drawings[name])[: len(best)] == best, name
        note = "Of 11 methods, ERM and the seven with the lowest mean test error are drawn; the CSV has all."
        assert drawings[name].caption.endswith(note), name
        assert set(drawings[name].data["arm"]) == set(many_arms.plan.arms), name
    styles = arm_styles(load(many_arms.plan, many_arms.store))
    assert {styles[arm].color for arm in many_arms.plan.arms[4:]} == set(theme.HUES)
    assert len({style.color for style in styles.values()}) == 11


def test_without_a_result_of_the_baseline_the_same_seven_are_drawn(many_arms: World) -> None:
    """An eighth would have a shade that is hard to tell from one of the hues."""
    results = load(many_arms.plan, many_arms.store)
    column = results.trials.loc[results.trials["arm"] != "erm", "arm"]
    drawn = drawn_arms(results, column)
    assert drawn.arms == many_arms.plan.arms[4:]
    assert len({drawn.styles[arm].marker for arm in drawn.arms}) == 7
    assert len({str(drawn.styles[arm].dashes) for arm in drawn.arms}) == 7
    assert "Of 10 methods, the seven with the lowest" in drawn.note


def test_arms_without_the_metric_come_last(many_arms: World) -> None:
    results = load(many_arms.plan, many_arms.store)
    results.trials.loc[results.trials["arm"] == many_arms.plan.arms[-1], "test_error_last"] = np.nan
    assert drawn_arms(results, results.trials["arm"]).arms == ("erm", *many_arms.plan.arms[3:10])


def test_intervals_are_drawn_where_there_is_room_and_the_caption_says_so(many_arms: World, world: World) -> None:
    def bands(drawing: Drawing) -> int:
        return sum(len(axes.collections) for axes in drawing.figure.axes)

    for name in ("learning_curves", "training_errors", "memorisation"):
        few, many = draw(world)[name], draw(many_arms)[name]
        assert bands(few) >= 3
        assert "95 % t interval of each mean" in few.caption
        assert bands(many) == 0
        assert "the 95 % t intervals are in the CSV alone" in many.caption
        assert many.data[["low", "high"]].notna().all(axis=None)


def test_few_arms_are_all_drawn_without_a_note(world: World) -> None:
    drawing = draw(world)["learning_curves"]
    assert legend(drawing)[:3] == ["ERM", "mixup alpha=0.2", "mixup alpha=1"]
    assert legend(drawing)[3:] == ["last epoch", "selected on validation", "oracle: best on test"]
    assert "methods" not in drawing.caption


@pytest.mark.parametrize(("noise", "memorises"), [("[{rate: 0}]", False), ("[{kind: uniform, rate: 0.4}]", True)])
def test_only_wrong_labels_are_memorised(make_world: Callable[..., World], noise: str, memorises: bool) -> None:
    world = make_world(seeds=2, label_noise=noise, evaluate="[clean]")
    finish(world)
    assert ("memorises wrong labels" in draw(world)["learning_curves"].caption) == memorises


def test_alpha_needs_a_sweep_where_many_arms_have_one(many_arms: World) -> None:
    assert "alpha" not in draw(many_arms)


def test_alpha_shows_sweeps_alone_and_names_what_it_leaves_out(make_world: Callable[..., World]) -> None:
    methods = """[erm, {name: mixup, alpha: [0.2, 1]}, {name: erm, label_smoothing: [0.05, 0.1, 0.2]}, \
    {name: mixup, alpha: 1, lam_per: sample}, {name: cutmix, alpha: 1}, {name: mixup, lam: [0.5, 0.7]}]"""
    world = make_world(seeds=2, methods=methods, label_noise="[{rate: 0}]")
    finish(world)
    drawing = draw(world)["alpha"]
    (axes,) = drawing.figure.axes
    assert len(axes.containers) == 1  # mixup's curve
    assert [text for text in legend(drawing) if "mean, 95 % interval" in text] == ["mixup: mean, 95 % interval"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["ERM", "0.2", "1"]
    assert drawing.caption.endswith(
        "Not shown, having no alpha or only one: ERM label_smoothing=0.05, ERM label_smoothing=0.1, "
        "ERM label_smoothing=0.2, mixup alpha=1 lam_per=sample, cutmix alpha=1 and 2 more."
    )
    assert set(drawing.data["arm"]) == {"erm", "mixup alpha=0.2", "mixup alpha=1"}


def test_few_arms_share_an_axis_of_alpha_without_being_a_sweep(make_world: Callable[..., World]) -> None:
    methods = "[erm, {name: mixup, alpha: 1}, {name: mixup, alpha: 0.2, lam_per: sample}, {name: cutmix, alpha: 2}]"
    world = make_world(seeds=2, methods=methods, label_noise="[{rate: 0}]")
    finish(world)
    assert len(draw(world)["alpha"].figure.axes[0].containers) == 3
    world = make_world(seeds=2, methods=f"{methods[:-1]}, {{name: fmix, alpha: 4}}]", label_noise="[{rate: 0}]")
    finish(world)
    assert "alpha" not in draw(world)


def test_erm_is_alpha_0_of_a_sweep_when_it_is_not_the_baseline(make_world: Callable[..., World]) -> None:
    methods = "[erm, {name: mixup, alpha: [0.2, 1, 4]}]\nbaseline: mixup alpha=1"
    world = make_world(seeds=2, methods=methods, label_noise="[{rate: 0}]")
    finish(world)
    axes = draw(world)["alpha"].figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["mixup", "0", "0.2", "4"]


def test_methods_that_drew_the_same_weights_share_a_histogram(many_arms: World) -> None:
    """The made-up draws depend on alpha alone: those with a fixed lam and those with alpha 1 are all alike."""
    drawing = draw(many_arms)["lam"]
    (axes,) = drawing.figure.axes
    assert axes.get_title(loc="left").replace("\n", " ") == "mixup lam=0.5 and 6 more"
    assert "Methods that drew the very same weights share a panel." in drawing.caption
    assert drawing.data["arm"].nunique() == 7


def test_histograms_share_a_scale_but_for_a_fixed_lam_and_are_twelve_at_most(make_world: Callable[..., World]) -> None:
    alphas = [0.3 + 0.1 * index for index in range(14)]
    world = make_world(seeds=1, methods=f"[erm, {{name: mixup, alpha: {alphas}}}]", label_noise="[{rate: 0}]")
    finish(world)
    fixed = world.trial("mlp, digits", world.plan.arms[3], 0)
    folder = world.store.trial(fixed.trial_id)
    final = folder.final()
    assert final is not None
    final["mixing"]["lam_histogram"] = [0] * 14 + [1000] + [0] * 5
    folder.write_final(final)
    drawing = draw(world)["lam"]
    assert len(drawing.figure.axes) == 12
    tops = [axes.get_ylim()[1] for axes in drawing.figure.axes]
    shares = 100 * drawing.data[drawing.data["arm"].isin(world.plan.arms[1:13])].groupby("arm")["share"].max()
    assert tops[2] == pytest.approx(105)
    assert {round(top, 6) for top in tops if top != tops[2]} == {round(1.05 * shares[shares < 50].max(), 6)}
    assert "one bin has more than 50 %: they go up to 100 %. 12 of 14 different histograms are drawn" in drawing.caption
    assert drawing.data["arm"].nunique() == 14


def test_recipes_that_no_seed_chose_have_no_row(make_world: Callable[..., World]) -> None:
    """Of seven recipes one is chosen by every seed, and another one is best on test."""
    rates = [round(0.1 * index, 1) for index in range(1, 8)]
    world = make_world(seeds=2, label_noise=f"[{{rate: 0}}]\n  training.lr: {rates}")
    for planned in world.plan.trials:
        chosen, best = planned.trial.training.lr == 0.3, planned.trial.training.lr == 0.5
        world.finish(planned, 0.1 if best else 0.2, val_error=0.1 if chosen else 0.3)
    drawing = draw(world)["chosen"]
    headings = [text.get_text() for text in drawing.figure.texts]
    assert headings == ["lr=0.3", "lr=0.5"]
    assert drawing.caption.endswith(
        "Left out, because no seed's choice and no oracle lies there: lr=0.1, lr=0.2, lr=0.4, lr=0.6, lr=0.7; the CSV "
        "has all."
    )
    assert drawing.data["cell"].nunique() == 7


def test_no_axis_label_runs_into_another_panel(full_world: World) -> None:
    for name, drawing in draw(full_world).items():
        drawing.figure.draw_without_rendering()
        dpi = drawing.figure.dpi
        for axes in drawing.figure.axes:
            label = axes.yaxis.label.get_window_extent()
            for other in drawing.figure.axes:
                panel = other.get_window_extent().padded(0.05 * dpi)  # lines and markers end where a panel does
                assert other is axes or not label.width or not label.overlaps(panel), (name, axes.get_ylabel())


def test_a_long_name_in_the_forest_plot_stays_left_of_the_panel(many_arms: World) -> None:
    drawing = draw(many_arms)["differences"]
    drawing.figure.draw_without_rendering()
    (axes,) = drawing.figure.axes
    names = [text for text in axes.texts if "class_neighbours" in text.get_text()]
    assert len(names) == 2
    boxes = [text.get_window_extent() for text in axes.texts if "=" in text.get_text()]
    assert max(box.x1 for box in boxes) < axes.get_window_extent().x0
    assert axes.get_window_extent().width > 2 * drawing.figure.dpi
    rows = sorted(boxes, key=lambda box: -box.y0)
    assert all(above.y0 >= below.y1 - 1 for above, below in itertools.pairwise(rows))


def test_a_cell_in_the_forest_plot_stays_on_the_page_and_clear_of_the_line_at_zero(
    make_world: Callable[..., World],
) -> None:
    options = {"lr": [0.1, 0.01], "weight_decay": [0.001, 0.002], "momentum": [0.9, 0.95], "batch_size": [64, 128]}
    options |= {"warmup_epochs": [0.25, 0.75], "crop_padding": [1, 2], "precision": ["bf16", "fp32"], "threads": [1, 2]}
    zipped = "".join(f"    training.{name}: {json.dumps(values)}\n" for name, values in options.items())
    world = make_world(seeds=3, evaluate="[clean]", label_noise=f"[{{rate: 0.2}}]\nzip:\n  -{zipped[3:]}")
    finish(world)
    drawing = draw(world)["differences"]
    FigureCanvasAgg(drawing.figure).draw()
    (axes,) = drawing.figure.axes
    names = [text for text in axes.texts if "momentum" in text.get_text()]
    assert len(names) == 2
    for text in names:
        assert len(text.get_text()) > 110
        box = text.get_window_extent()
        assert box.x1 > axes.transData.transform((0, 0))[0], "it crosses the line, or this proves nothing"
        assert box.x1 < drawing.figure.bbox.x1
        assert text.get_bbox_patch().get_facecolor() == (1, 1, 1, 1)


def test_a_forest_plot_is_of_the_cells_that_fit_on_a_page(make_world: Callable[..., World]) -> None:
    rates = ", ".join(f"{{kind: uniform, rate: 0.{number:02}}}" for number in range(1, 15))
    methods = "[erm, {name: mixup, alpha: [0.1, 0.2, 0.5, 1, 2, 4]}]"
    world = make_world(seeds=1, epochs=2, label_noise=f"[{rates}]", evaluate="[clean]", methods=methods)
    finish(world)
    drawing = draw(world)["differences"]
    assert drawing.figure.get_figheight() < 12
    assert set(drawing.data["cell"]) == set(world.plan.cells[:8])
    assert " The first 8 of 14 cells are drawn; comparison.csv compares all." in drawing.caption


def test_a_forest_plot_says_what_has_no_pair(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, evaluate="[clean]")
    for planned in world.plan.trials:
        if planned.arm != "erm" or planned.cell == world.plan.cells[0]:
            world.finish(planned, 0.1)
    drawing = draw(world)["differences"]
    assert drawing.caption.endswith(" Left out, having no pair: 2 comparisons.")
    assert set(drawing.data["cell"]) == {world.plan.cells[0]}


def test_words_fit_one_seed_one_cell_and_one_method(make_world: Callable[..., World]) -> None:
    options = {"methods": "[erm, {name: mixup, alpha: 1}]", "label_noise": "[{rate: 0.4}]"}
    evaluate = EVERYTHING.replace(", transfer", "")
    world = make_world(seeds=1, evaluate=evaluate, **options)
    finish(world)
    drawings = draw(world)
    assert len(drawings) > 12
    for name, drawing in drawings.items():
        assert ("95 %" in drawing.caption) == drawing.caption.endswith(" One seed has no interval."), name
        assert not re.search(r"differ between|[Aa]ll panels|\b1 \w+s\b", f"{drawing.caption} {drawing.alt}"), name


def test_no_line_leaves_its_panel(full_world: World, many_arms: World) -> None:
    """Panels that share a scale have room for all of them, not for the first alone."""
    for world in (full_world, many_arms):
        drawings = draw(world)
        for name in ("attacks", "training_errors", "corruption_severity", "in_between"):
            for axes in drawings[name].figure.axes:
                low, high = axes.get_ylim()
                assert low == 0
                for line in axes.lines:
                    assert np.nanmax(np.asarray(line.get_ydata(), dtype=float)) <= high, (
                        name,
                        axes.get_title(loc="left"),
                    )


def test_of_many_cells_the_first_are_drawn_and_the_caption_says_so(make_world: Callable[..., World]) -> None:
    rates = ", ".join(f"{{kind: uniform, rate: 0.{number:02}}}" for number in range(1, MOST_CELLS + 3))
    world = make_world(seeds=2, epochs=2, label_noise=f"[{rates}]", evaluate="[clean, calibration]")
    finish(world)
    drawn = draw(world)
    cells = world.plan.cells
    panels = dict.fromkeys(("alpha", "learning_curves"), MOST_CELLS)
    rows = dict.fromkeys(("memorisation", "reliability"), MOST_ROWS)
    for name, most in (panels | rows).items():
        assert set(drawn[name].data["cell"]) == set(cells[:most]), name
        assert drawn[name].caption.endswith(
            f" The first {most} of {len(cells)} cells; comparison.csv and secondary.csv compare all."
        )
    assert max(drawing.figure.get_figheight() for drawing in drawn.values()) < 12
    assert set(drawn["chosen"].data["cell"]) == set(cells), "each choice takes its own cells alone"
    assert drawn["chosen"].caption.endswith(f" The first {MOST_ROWS} of {len(cells)} cells are drawn; the CSV has all.")


def test_the_words_of_a_figure_keep_its_size(world: World) -> None:
    for drawing in draw(world).values():
        assert list(drawing.words().figure.get_size_inches()) == list(drawing.figure.get_size_inches())
