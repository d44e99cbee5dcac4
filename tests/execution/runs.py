"""What tests of whole runs wait for and compare."""

from __future__ import annotations

import time

from bench.results.store import Store


def untimed(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def numbers(store, plan):
    """Everything that a trial found, without what depends on the clock and the host."""
    found = {}
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        final = folder.final()
        clocks = ("seconds", "time")
        curve = [{k: v for k, v in line.items() if not any(c in k for c in clocks)} for line in folder.epochs()]
        evaluations = [untimed(folder.evaluation(key)) for key in planned.evaluation_keys]
        found[planned.trial_id] = (final["status"], final["metrics"], curve, evaluations)
    return found


def wait_for(condition, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def finals(store: Store) -> list[str]:
    return [i for i in store.trial_ids() if store.trial(i).final()]


def epochs_of_running(store: Store) -> list[int]:
    return [len(store.trial(i).epochs()) for i in store.trial_ids() if not store.trial(i).final()]
