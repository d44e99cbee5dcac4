"""What each method cost, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_up_trials import World

from bench.plan.plan import PlannedTrial
from reports.costs import cost_sentence, costs, time_table
from reports.load import load

SECONDS = {"erm": (10, 20, 30), "mixup alpha=0.2": (11, 30, 33), "mixup alpha=1": (20, 40, 90)}
GPU = {"neighbours": 1.0, "device_energy_joules": 7.2e6}


def timed(world: World, planned: PlannedTrial, seconds: float, **more: Any) -> None:
    world.finish(planned, 0.1)
    folder = world.store.trial(planned.trial_id)
    final = folder.final()
    assert final is not None
    folder.write_final(final | {"train_seconds": seconds, "total_seconds": seconds + 2} | more)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(seeds=3, label_noise="[{rate: 0}]")


def test_times_are_compared_pair_by_pair(world: World) -> None:
    """Ratios 1.1, 1.5, 1.1 and 2, 2, 3: the medians are 1.1 and 2, where the means' ratio would be 1.23 and 2.5."""
    (cell,) = world.plan.cells
    for arm, own in SECONDS.items():
        for seed, seconds in enumerate(own):
            timed(world, world.trial(cell, arm, seed), seconds)
    results = load(world.plan, world.store)
    found = {each.arm: each for each in costs(results)}
    assert [found[arm].ratio for arm in SECONDS][1:] == pytest.approx([1.1, 2.0])
    assert np.isnan(found["erm"].ratio)
    assert found["erm"].total_seconds == 66
    assert cost_sentence(results) == (
        "What it cost: 9 trials took 5 min 2 s of computing. A trial of ERM trained for 20 s; one of mixup alpha=0.2 "
        "1.10 times as long, mixup alpha=1 2.00 (medians over pairs)."
    )
    table = time_table(results)
    assert "GPU hours" not in table.header
    assert table.groups[0][1][2][:5] == ("mixup alpha=1", "3", "50 s", "2.00", "2 min 36 s")


def test_one_that_diverged_says_nothing_of_how_long_a_trial_takes(world: World) -> None:
    (cell,) = world.plan.cells
    timed(world, world.trial(cell, "mixup alpha=1", 0), 40)
    world.diverge(world.trial(cell, "mixup alpha=1", 1))
    world.diverge(world.trial(cell, "mixup alpha=0.2", 1))
    found = {each.arm: each for each in costs(load(world.plan, world.store))}
    assert (found["mixup alpha=1"].trials, found["mixup alpha=1"].train_seconds) == (2, 40)
    assert found["mixup alpha=1"].total_seconds > 42
    assert np.isnan(found["mixup alpha=0.2"].train_seconds)


def test_a_shared_gpu_s_hours_and_energy_are_divided(world: World) -> None:
    """Two processes on one GPU in the mean: each has had half of its 1 h and of its 2 kWh."""
    (cell,) = world.plan.cells
    timed(world, world.trial(cell, "erm", 0), 3598, gpu=GPU)
    timed(world, world.trial(cell, "mixup alpha=1", 0), 7198, gpu=GPU | {"neighbours": None})
    results = load(world.plan, world.store)
    found = {each.arm: each for each in costs(results)}
    assert found["erm"].gpu_seconds == 1800
    assert found["erm"].energy_joules == 3.6e6
    assert found["mixup alpha=1"].gpu_seconds == 7200
    assert "2.50 GPU hours, 3.000 kWh on the GPU" in cost_sentence(results)
    table = time_table(results)
    assert table.header[5:7] == ("GPU hours", "energy (kWh)")
    assert table.groups[0][1][0][5:7] == ("0.50", "1.000")
    assert table.groups[0][1][1][5:7] == ("-", "-")


def test_nothing_has_ended(world: World) -> None:
    assert cost_sentence(load(world.plan, world.store)) == ""
