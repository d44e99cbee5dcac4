"""A plan and a store to fill with made-up trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_trials import SUITE, World

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """A function that plans a suite on digits with an empty store beside it."""

    def make(
        *,
        seeds: int | str = 6,
        epochs: int = 4,
        methods: str = "[erm, {name: mixup, alpha: [0.2, 1]}]",
        label_noise: str = "[{rate: 0}, {kind: uniform, rate: 0.4}]",
        evaluate: str = "[clean, calibration]",
        metric: str = "test_error_last",
        overrides: tuple[str, ...] = (),
    ) -> World:
        path = tmp_path / "synthetic.yaml"
        parts = {"methods": methods, "label_noise": label_noise, "evaluate": evaluate, "metric": metric}
        path.write_text(SUITE.format(seeds=seeds, epochs=epochs, **parts))
        return World(make_plan(load_suite(path, overrides=overrides)), Store(tmp_path / "results"))

    return make
