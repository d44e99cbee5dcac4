"""Figures as they are printed: texts that stay on the page and clear of each other, arms that differ on grey paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from made_up_figures import draw
from made_up_trials import EVERYTHING, World
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from reports import theme
from reports.figures.layout import text_width, wrapped

EIGHT = """[erm, {name: mixup, alpha: [0.2, 1, 4]}, {name: mixup, alpha: 1, lam_per: sample}, \
{name: cutmix, alpha: 1}, {name: fmix, alpha: 1}, {name: erm, label_smoothing: 0.1}, {name: erm, dropout: 0.5}]"""

LONG = """[erm, {name: mixup, alpha: [0.2, 1], lam_per: sample, partner: class_neighbours, only: inputs, \
label_smoothing: 0.1, dropout: 0.5}, {name: cutmix, alpha: 1, label_smoothing: 0.1, dropout: 0.5, \
weight_decay: 0.001}]"""

LONG_CELLS = """[{kind: uniform, rate: 0.2}, {kind: pair_flip, rate: 0.4}]
zip:
  - training.lr: [0.1, 0.01]
    training.weight_decay: [0.0001, 0.0005]
    training.batch_size: [64, 128]
    training.momentum: [0.9, 0.95]"""

STORES = {
    "one method, one seed": {"seeds": 1, "methods": "[erm, {name: mixup, alpha: 1}]", "label_noise": "[{rate: 0.4}]"},
    "one method, 20 seeds": {"seeds": 20, "methods": "[erm, {name: mixup, alpha: 1}]"},
    "eight methods, one seed": {"seeds": 1, "methods": EIGHT},
    "eight methods, trials missing": {"seeds": 3, "methods": EIGHT},
    "long names": {"seeds": 2, "methods": LONG, "label_noise": LONG_CELLS},
}


def fill(world: World, *, with_gaps: bool) -> None:
    rng = np.random.default_rng(1)
    arms, cells = world.plan.arms, world.plan.cells
    for planned in world.plan.trials:
        place = arms.index(planned.arm)
        error = 0.2 - 0.01 * place + rng.normal(0, 0.01) + 0.3 * planned.trial.label_noise.rate
        if with_gaps and place == 3:
            world.diverge(planned)
        elif with_gaps and place == 0 and planned.cell == cells[0]:
            world.fail(planned, "out of memory")
        elif not with_gaps or place != 2 or not planned.trial.seed:
            world.finish(planned, round(error * 797) / 797)


def texts(figure: Figure) -> list[Text]:
    """What is written: ticks only where they are within the panel's limits."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    found += [label for label in (tick.label1, tick.label2) if label.get_visible()]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def off_the_page(figure: Figure) -> list[str]:
    edge = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    return [
        text
        for text, box in boxes
        if box.x0 < edge.x0 - 1 or box.x1 > edge.x1 + 1 or box.y0 < edge.y0 - 1 or box.y1 > edge.y1 + 1
    ]


def running_into_each_other(figure: Figure) -> list[tuple[str, str]]:
    """Pairs whose boxes overlap by more than a pixel each way."""
    written = texts(figure)
    boxes = np.array([text.get_window_extent().extents for text in written])
    left, bottom, right, top = (boxes[:, None, side] for side in range(4))
    overlap_x = np.minimum(right, right.T) - np.maximum(left, left.T)
    overlap_y = np.minimum(top, top.T) - np.maximum(bottom, bottom.T)
    pairs = np.argwhere(np.triu((overlap_x > 1) & (overlap_y > 1), 1))
    return [(written[a].get_text(), written[b].get_text()) for a, b in pairs]


def luminance(color: str) -> float:
    """As grey printers see it: ITU-R BT.601."""
    return float(np.dot(colors.to_rgb(color), (0.299, 0.587, 0.114)))


def alike_in_grey(one: Line2D, other: Line2D) -> bool:
    look = [
        (line.get_marker(), line.get_markerfacecolor() == "white", str(line._dash_pattern)) for line in (one, other)
    ]
    return look[0] == look[1] and abs(luminance(one.get_color()) - luminance(other.get_color())) < 0.12


def alike(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of the legend's lines that grey paper does not tell apart."""
    handles = [handle for legend in figure.legends for handle in legend.legend_handles if isinstance(handle, Line2D)]
    pairs = itertools.combinations(handles, 2)
    return [(str(one.get_label()), str(other.get_label())) for one, other in pairs if alike_in_grey(one, other)]


@pytest.mark.parametrize("name", STORES)
def test_texts_are_on_the_page_and_clear_of_each_other(name: str, make_world: Callable[..., World]) -> None:
    options = dict(STORES[name])
    evaluate = EVERYTHING if options["seeds"] != 1 else EVERYTHING.replace(", transfer", "")
    world = make_world(evaluate=evaluate, **options)
    fill(world, with_gaps="missing" in name)
    if name == "long names":
        assert min(map(len, world.plan.cells)) > 60
        assert min(map(len, world.plan.arms[1:])) > 60
    drawings = draw(world)
    assert len(drawings) > 12
    problems: dict[str, object] = {}
    for figure_name, drawing in drawings.items():
        FigureCanvasAgg(drawing.figure).draw()
        found = (off_the_page(drawing.figure), running_into_each_other(drawing.figure), alike(drawing.figure))
        if any(found):
            problems[figure_name] = found
        assert drawing.figure.get_figwidth() in (theme.COLUMN_WIDTH, theme.FULL_WIDTH), figure_name
    assert not problems


def test_a_word_wider_than_the_line_is_broken_and_a_percentage_is_not() -> None:
    lines = wrapped(f"short {'unbroken' * 12} and uniform 20 % more", 8, width=1.0)
    assert all(text_width(line, 8) <= 1.0 for line in lines)
    assert "".join(lines).replace(" ", "") == f"short{'unbroken' * 12}anduniform20%more"
    assert not any(line.startswith("%") for line in lines)


def test_a_word_wider_than_the_line_is_broken_after_a_sign_where_it_has_one() -> None:
    assert wrapped("lr=0.1 weight_decay=0.0001", 8, width=1.0) == ["lr=0.1", "weight_decay=", "0.0001"]


def test_a_name_over_several_panels_is_written_once_and_long_titles_once_per_figure(
    make_world: Callable[..., World],
) -> None:
    world = make_world(seeds=2, methods=LONG, label_noise=LONG_CELLS, evaluate="[calibration, corruptions]")
    fill(world, with_gaps=False)
    drawings = draw(world)
    for name, most in (("reliability", 4), ("corruption_map", 3)):
        headings = [text.get_text().replace("\n", " ") for text in drawings[name].figure.texts]
        assert headings == list(world.plan.cells[:most])
    titles = [axes.get_title(loc="left") for axes in drawings["reliability"].figure.axes[:8]]
    assert titles == 4 * ["as trained", "scaled"]
    titles = [axes.get_title(loc="left") for axes in drawings["corruption_map"].figure.axes]
    assert all(titles[:4])
    assert not any(titles[4:])
