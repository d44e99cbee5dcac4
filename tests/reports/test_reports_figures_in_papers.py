"""Figures in the manner of papers: what they show against the numbers that went in."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from made_up_figures import draw
from made_up_trials import EVERYTHING, World
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from scipy import stats

from reports import theme
from reports.figures.cells import by_setting, in_grid

RATES = "[{rate: 0}, {kind: uniform, rate: 0.2}, {kind: uniform, rate: 0.8}]"
TWO_NETWORKS = "\n  model: [{name: mlp}, {name: timm/test_resnet}]"


def finish(world: World) -> None:
    rng = np.random.default_rng(1)
    for planned in world.plan.trials:
        level = (0.2 if planned.arm == "erm" else 0.15) + 0.4 * planned.trial.label_noise.rate
        world.finish(planned, round((level + rng.normal(0, 0.01)) * 797) / 797)


def of_marker(axes: Axes, marker: str, color: str) -> list[tuple[float, float]]:
    lines = [each for each in axes.lines if each.get_marker() == marker and each.get_color() == color]
    return [(float(x), float(y)) for each in lines for x, y in zip(each.get_xdata(), each.get_ydata(), strict=True)]


def rewrite_epochs(world: World, **columns: Callable[[int, int], float]) -> None:
    """columns: by name, the value at (seed, epoch)."""
    for planned in world.plan.trials:
        journal = world.store.trial(planned.trial_id).path / "journal.jsonl"
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        for event in events:
            if "test_error" in event:
                event |= {name: value(planned.trial.seed, event["epoch"]) for name, value in columns.items()}
        journal.write_text("".join(f"{json.dumps(event)}\n" for event in events))


def test_learning_curves_are_marked_where_they_are_read(make_world: Callable[..., World]) -> None:
    """Validation is best at epochs 2, 3 and 3, test at 4, 5 and 8. Among equal errors the lower NLL counts."""
    world = make_world(seeds=3, epochs=8, methods="[erm]", label_noise="[{rate: 0}]")
    finish(world)
    validation, test = {0: 2, 1: 3, 2: 3}, {0: 4, 1: 5, 2: 8}
    rewrite_epochs(
        world,
        val_error=lambda seed, epoch: 0.1 if epoch in (validation[seed], 6) else 0.3,
        val_nll=lambda _seed, epoch: 1.0 + epoch / 10,
        test_error=lambda seed, epoch: 0.1 if epoch == test[seed] else 0.2,
    )
    drawing = draw(world)["learning_curves"]
    (axes,) = drawing.figure.axes
    third = 100 * 0.1 / 3
    assert of_marker(axes, "^", theme.BASELINE) == [pytest.approx((3, 20))]
    assert of_marker(axes, "*", theme.BASELINE) == [pytest.approx((5, 20 - third))]
    assert of_marker(axes, "s", theme.BASELINE) == [pytest.approx((8, 20 - third))]
    marks = drawing.data.set_index("epoch")["mark"].dropna().to_dict()
    assert marks == {3: "val_selected", 5: "oracle", 8: "last"}
    assert "the epoch that validation selects" in drawing.caption


def test_without_validation_no_epoch_is_selected(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, epochs=3, methods="[erm]", label_noise="[{rate: 0}]")
    finish(world)
    for planned in world.plan.trials:
        journal = world.store.trial(planned.trial_id).path / "journal.jsonl"
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        kept = [{key: value for key, value in event.items() if "val_" not in key} for event in events]
        journal.write_text("".join(f"{json.dumps(event)}\n" for event in kept))
    drawing = draw(world)["learning_curves"]
    (axes,) = drawing.figure.axes
    assert not of_marker(axes, "^", theme.BASELINE)
    assert len(of_marker(axes, "*", theme.BASELINE)) == 1
    assert "validation" not in drawing.caption


def test_error_under_label_noise_is_read_at_three_epochs_against_the_rate(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=3, label_noise=RATES)
    finish(world)
    drawing = draw(world)["best_and_last"]
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
    assert titles == ["last epoch", "selected on validation", "oracle: best on test"]
    assert [tick.get_text() for tick in drawing.figure.axes[0].get_xticklabels()] == ["0", "20", "80"]
    for axes, name in zip(drawing.figure.axes, ("last", "val_selected", "oracle"), strict=True):
        means = [y for _, y in of_marker(axes, "o", theme.BASELINE)]
        for cell, mean in zip(world.plan.cells, means, strict=True):
            own = [each for each in world.plan.trials if (each.cell, each.arm) == (cell, "erm")]
            finals = [world.store.trial(each.trial_id).final() for each in own]
            errors = np.array([100 * final["metrics"][f"test_error_{name}"] for final in finals if final])
            assert mean == pytest.approx(errors.mean())
            data = drawing.data.set_index(["cell", "arm", "read_at"]).loc[(cell, "erm", name)]
            assert [100 * data["low"], 100 * data["high"]] == pytest.approx(
                stats.t.interval(0.95, 2, errors.mean(), stats.sem(errors))
            )
    assert sorted(set(drawing.data["rate"])) == [0, 0.2, 0.8]


def test_kinds_of_label_noise_stand_side_by_side_and_networks_below_each_other(
    make_world: Callable[..., World],
) -> None:
    noise = "[{rate: 0}, {kind: uniform, rate: 0.4}, {kind: pair_flip, rate: 0.4}]"
    world = make_world(seeds=2, label_noise=noise + TWO_NETWORKS)
    finish(world)
    drawing = draw(world)["best_and_last"]
    assert [text.get_text() for text in drawing.figure.texts] == ["mlp", "test_resnet"]
    assert len(drawing.figure.axes) == 2 * 3
    labels = [tick.get_text() for tick in drawing.figure.axes[0].get_xticklabels()]
    assert labels == ["clean", "uniform 40 %", "pair flip 40 %"]
    assert {each.get_linestyle() for each in drawing.figure.axes[0].lines} == {"None"}


def test_without_label_noise_there_is_no_figure_of_it(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    finish(world)
    assert "best_and_last" not in draw(world)


def test_the_corruption_map_has_errors_and_paired_differences(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=3, evaluate=EVERYTHING, label_noise="[{rate: 0}]")
    finish(world)
    (cell,) = world.plan.cells
    lacking = world.trial(cell, "mixup alpha=1", 2)
    world.rewrite(lacking, "corruptions", detail={"errors": {}, "source": {}, "clean_error": 0.1})
    errors = {
        (planned.arm, planned.trial.seed): world.record(planned, "corruptions")["detail"]["errors"]
        for planned in world.plan.trials
    }
    drawing = draw(world)["corruption_map"]
    kinds = [tick.get_text().replace(" ", "_") for tick in drawing.figure.axes[0].get_yticklabels()]
    assert len(kinds) == 19
    of_erm, of_02, of_1 = (np.asarray(axes.images[0].get_array()) for axes in drawing.figure.axes)
    fog = kinds.index("fog")
    assert of_erm[fog, 4] == pytest.approx(np.mean([errors["erm", seed]["fog"]["5"] for seed in range(3)]))
    for arm, shown, seeds in (("mixup alpha=0.2", of_02, range(3)), ("mixup alpha=1", of_1, range(2))):
        paired = [errors[arm, seed]["fog"]["5"] - errors["erm", seed]["fog"]["5"] for seed in seeds]
        assert shown[fog, 4] == pytest.approx(np.mean(paired))
        axes = drawing.figure.axes[1 + (arm == "mixup alpha=1")]
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        assert float(texts[4, fog].replace("\N{MINUS SIGN}", "-")) == pytest.approx(100 * np.mean(paired), abs=0.051)
        assert texts[4, fog][0] in "+\N{MINUS SIGN}0"
        low, high = axes.images[0].get_clim()
        assert low == -high
        assert high == pytest.approx(max(np.abs(of_02).max(), np.abs(of_1).max()))


def test_the_corruption_map_shows_few_methods_and_says_so(make_world: Callable[..., World]) -> None:
    world = make_world(
        seeds=2, evaluate=EVERYTHING, methods="[erm, {name: mixup, alpha: [0.1, 0.2, 0.5, 1, 2]}]", label_noise=RATES
    )
    for planned in world.plan.trials:
        world.finish(planned, 0.3 - 0.02 * world.plan.arms.index(planned.arm) + 0.001 * planned.trial.seed)
    drawing = draw(world)["corruption_map"]
    titles = [
        axes.get_title().split("\n")[0] or axes.get_title(loc="left").split("\n")[0] for axes in drawing.figure.axes[:4]
    ]
    assert titles == ["ERM", "mixup alpha=0.5", "mixup alpha=1", "mixup alpha=2"]
    assert "Of 5 methods the 3 with the lowest mean are drawn; the CSV has all." in drawing.caption
    assert drawing.data["arm"].nunique() == 6


def test_error_against_time_has_a_point_per_arm_and_the_ratio_to_the_baseline(
    make_world: Callable[..., World],
) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    finish(world)
    seconds = {"erm": (100, 140), "mixup alpha=0.2": (150, 210), "mixup alpha=1": (300, 180)}
    for planned in world.plan.trials:
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        folder.write_final(final | {"train_seconds": seconds[planned.arm][planned.trial.seed]})
    drawing = draw(world)["error_against_time"]
    axes, multiples = drawing.figure.axes
    assert axes.get_xlabel() == "training time of a trial (min)"
    points = [each for each in axes.lines if isinstance(each, Line2D) and each.get_linestyle() == "None"]
    assert sorted(float(point.get_xdata()[0]) for point in points) == pytest.approx([2, 3, 4])
    assert np.array(multiples.get_xlim()) * 2 == pytest.approx(np.array(axes.get_xlim()))
    assert drawing.data.set_index("arm")["times_baseline"].to_dict() == pytest.approx(
        {"erm": 1, "mixup alpha=0.2": 1.5, "mixup alpha=1": 2}
    )
    assert "All trials ran on 2 x AMD EPYC 7R13." in drawing.caption
    world.finish(world.plan.trials[0], 0.2, hardware="NVIDIA H100")
    assert "different hardware (2 x AMD EPYC 7R13; NVIDIA H100)" in draw(world)["error_against_time"].caption


def test_histograms_of_lam_stand_beside_what_its_distribution_gives(make_world: Callable[..., World]) -> None:
    """A box moves the weights of cutmix, so it has no such line."""
    methods = "[erm, {name: mixup, alpha: 0.4}, {name: cutmix, alpha: 2}]"
    world = make_world(seeds=1, methods=methods, label_noise="[{rate: 0}]")
    finish(world)
    drawing = draw(world)["lam"]
    of_mixup, of_cutmix = drawing.figure.axes
    expected = [patch for patch in of_mixup.patches if isinstance(patch, StepPatch) and patch.get_linestyle() == ":"]
    (values,) = (patch.get_data().values for patch in expected)
    assert values == pytest.approx(100 * np.diff(stats.beta.cdf(np.linspace(0, 1, 21), 0.4, 0.4)))
    assert not [patch for patch in of_cutmix.patches if patch.get_linestyle() == ":"]
    assert "Dotted: what Beta(alpha, alpha) gives" in drawing.caption


def test_cells_stand_in_columns_by_network_and_rows_by_noise(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise=RATES + TWO_NETWORKS)
    ordered, columns = in_grid(world.plan, world.plan.cells)
    assert columns == 2
    assert ordered == [
        f"{net}, {noise}" for noise in ("clean", "uniform 20 %", "uniform 80 %") for net in ("mlp", "test_resnet")
    ]
    assert in_grid(world.plan, ordered[:-1]) == (ordered[:-1], None), "one is missing"
    assert in_grid(world.plan, ordered[::2]) == (ordered[::2], None), "one network"
    finish(world)
    drawing = draw(world)["alpha"]
    assert [axes.get_title(loc="left") for axes in drawing.figure.axes] == ordered
    assert "A column for each network, a row for each label noise." in drawing.caption


def test_settings_go_by_what_their_cells_have_in_common(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, label_noise=RATES + TWO_NETWORKS + "\n  training.lr: [0.1, 0.01]")
    settings = by_setting(world.plan, world.plan.cells)
    assert list(settings) == ["mlp, lr=0.1", "mlp, lr=0.01", "test_resnet, lr=0.1", "test_resnet, lr=0.01"]
    assert all(len(cells) == 3 for cells in settings.values())
    world = make_world(seeds=2, label_noise=RATES)
    assert by_setting(world.plan, world.plan.cells) == {"": list(world.plan.cells)}
