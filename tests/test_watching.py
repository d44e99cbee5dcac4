"""When a watched report has seen enough."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from bench.watching import watch_report

COUNTS = {"completed": 0, "diverged": 0, "trials": 0, "pairs": 0, "pairs_left_out": 0}


def test_seeds_that_nobody_wants_are_not_waited_for(tiny_suite: Path, tmp_path: Path) -> None:
    """mixup is clearly better after three seeds, of eight that there might have been."""
    one_cell = ("seeds={min: 3, max: 8}", "matrix.label_noise=[{rate: 0}]", "evaluate=[clean]")
    plan, store = make_plan(load_suite(tiny_suite, overrides=one_cell)), Store(tmp_path / "results")
    for planned in plan.trials:
        if planned.trial.seed < 3:
            folder = store.trial(planned.trial_id)
            folder.create(planned.trial.record())
            error = 0.3 - 0.2 * (planned.arm != "erm") + 1e-4 * planned.trial.seed * (planned.arm != "erm")
            for key in planned.evaluation_keys:
                folder.write_evaluation(key, {"kind": "clean", "metrics": {"test_error": error}, "seconds": 0.0})
            folder.write_final({"status": "completed", "metrics": {"test_error_last": error}})
    rendered: list[int | None] = []

    def render(refresh: int | None) -> SimpleNamespace:
        rendered.append(refresh)
        return SimpleNamespace(counts=COUNTS, summary="mixup is better")

    watch_report(plan, store, render, every=1.0, say=lambda _: None)
    assert rendered == [None], "it is rendered once, to stand"
