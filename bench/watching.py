"""A report that grows while its suite runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plan.sequential import wanted_now
from bench.results.store import FINISHED, Store

if TYPE_CHECKING:
    from bench.plan.plan import Plan
    from reports import Report

LOOK_SECONDS = 2.0
BUSY_SHARE = 4
"""Between two renderings lies at least so many times what the last one took: the cores are the trials'."""


def watch_report(
    plan: Plan,
    store: Store,
    render: Callable[[int | None], Report],
    *,
    every: float,
    say: Callable[[str], None],
) -> Report:
    """Render whenever trials have finished, at most every so many seconds, until all have; the last report.

    render: takes the seconds after which the page is to load itself again, None for never.
    """
    took = 0.0
    while True:
        seen = _signature(plan, store)
        finished = _all_finished(plan, store)
        began = time.monotonic()
        rendered = render(None if finished else max(1, round(max(every, BUSY_SHARE * took))))
        took = time.monotonic() - began
        say(f"{time.strftime('%H:%M:%S')}  {_progress(rendered.counts)}: {rendered.summary}")
        if finished:
            return rendered
        wait_until = time.monotonic() + max(every, BUSY_SHARE * took)
        while time.monotonic() < wait_until or _signature(plan, store) == seen:
            time.sleep(min(LOOK_SECONDS, every))


def _progress(counts: Mapping[str, int]) -> str:
    trials, pairs = counts["completed"] + counts["diverged"], counts["pairs"] - counts["pairs_left_out"]
    return f"{trials} of {counts['trials']} trials, {pairs} of {counts['pairs']} pairs"


def _all_finished(plan: Plan, store: Store) -> bool:
    """Whether all trials have that the suite takes; not those that nobody wants because a comparison became clear."""
    _, trials = wanted_now(plan, store)
    return all(store.trial(planned.trial_id).status(planned.evaluation_keys) in FINISHED for planned in trials)


def _signature(plan: Plan, store: Store) -> tuple[int, ...]:
    """Changes whenever a trial or an evaluation of one has ended."""
    return tuple(
        _modified(store.trial(planned.trial_id).path / name)
        for planned in plan.trials
        for name in ("final.json", "evaluations")
    )


def _modified(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  (three times as fast, for some 10,000 trials)
    except OSError:
        return 0
