"""The figures of a store of made-up trials."""

from __future__ import annotations

from made_up_trials import World

from reports.figures import FIGURES, Drawing, Painter
from reports.load import load
from reports.statistics import compare, pairs_of


def draw(world: World) -> dict[str, Drawing]:
    """Every figure that has something to show, by name."""
    results = load(world.plan, world.store)
    metric = world.plan.suite.report.metric
    trials = results.trials.assign(**{metric: results.column(metric)})
    names = {"cells": world.plan.cells, "arms": world.plan.arms, "baseline": world.plan.baseline}
    painter = Painter(results, compare(pairs_of(trials, metric, **names)))
    drawings = ((name, painter.draw(name)) for name in FIGURES)
    return {name: drawing for name, drawing in drawings if drawing is not None}
