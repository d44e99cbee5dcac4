"""A store of made-up trials, written through the real plan and the real trial folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.plan.plan import Plan, PlannedTrial
from bench.results.store import Store

SUITE = """\
name: synthetic
version: 3
question: Does mixup <b>help</b> & "when"?
source: "Made up, Table 0"
seeds: {seeds}
base:
  dataset: {{name: digits}}
  model: {{name: mlp}}
  training: {{epochs: {epochs}}}
methods: {methods}
matrix:
  label_noise: {label_noise}
"""

HARDWARE = "2 x AMD EPYC 7R13"
VERSIONS = {"python": "3.11.9", "torch": "2.15.0", "numpy": "2.4.6"}


@dataclass(frozen=True)
class World:
    """A plan with its store, and the means to finish trials in it."""

    plan: Plan
    store: Store

    def trial(self, cell: str, arm: str, seed: int) -> PlannedTrial:
        names = (cell, arm, seed)
        return next(each for each in self.plan.trials if (each.cell, each.arm, each.trial.seed) == names)

    def start(self, planned: PlannedTrial) -> None:
        folder = self.store.trial(planned.trial_id)
        folder.create(planned.trial.record())
        folder.append(
            "started", attempt=1, host="a", pid=1, device="cpu", threads=1, versions=VERSIONS, hardware=HARDWARE
        )

    def fail(self, planned: PlannedTrial, reason: str) -> None:
        self.start(planned)
        self.store.trial(planned.trial_id).append("failed", attempt=1, reason=reason, traceback="Traceback ...")

    def diverge(self, planned: PlannedTrial) -> None:
        self.start(planned)
        final = _final(planned, {}, versions=VERSIONS, hardware=HARDWARE)
        final |= {"status": "diverged", "diverged": {"epoch": 2, "step": 17}}
        self.store.trial(planned.trial_id).write_final(final)

    def finish(
        self,
        planned: PlannedTrial,
        error: float,
        *,
        versions: dict[str, str] = VERSIONS,
        hardware: str = HARDWARE,
        evaluations: bool = True,
    ) -> None:
        """A trial whose test error falls to `error` along a smooth curve, wrongly sure of itself by half of it."""
        self.start(planned)
        folder = self.store.trial(planned.trial_id)
        epochs = planned.trial.training.epochs
        noise = planned.trial.label_noise.rate
        memorised = 0.6 * noise if planned.arm == "erm" else 0.1 * noise
        curve = [
            error + (0.9 - error) * np.exp(-8 * epoch / epochs) - memorised * 0.25 * np.sin(np.pi * epoch / epochs)
            for epoch in range(1, epochs + 1)
        ]
        curve = [float(max(value, 0.001)) for value in curve[:-1]] + [error]
        for epoch, value in enumerate(curve, start=1):
            line = {
                "epoch": epoch,
                "lr": 0.1,
                "train_loss": 2 * value,
                "val_error": value + 0.002,
                "val_nll": 3 * value,
            }
            folder.append("epoch", **line, test_error=value, test_nll=3 * value, train_seconds=0.4, eval_seconds=0.05)
        best = int(np.argmin(curve))
        metrics = {
            "test_error_last": error,
            "test_error_val_selected": curve[best],
            "test_error_oracle": curve[best],
            "test_error_median10": float(np.median(curve[-10:])),
            "train_error": 0.5 * error,
        }
        if noise:
            metrics |= {"train_error_clean_labels": 0.01, "train_error_wrong_labels": 0.9 - memorised}
        folder.append("finished", status="completed")
        if evaluations:
            self.evaluate(planned, error)
        folder.write_final(_final(planned, metrics, versions=versions, hardware=hardware))

    def evaluate(self, planned: PlannedTrial, error: float) -> None:
        folder = self.store.trial(planned.trial_id)
        clean = {"test_error": error, "test_nll": 3 * error}
        folder.write_evaluation("clean", {"kind": "clean", "version": 1, "options": {}, "metrics": clean, "detail": {}})
        metrics = {"test_ece": error / 2, "test_brier": 1.5 * error}
        record = {
            "kind": "calibration",
            "version": 1,
            "options": {},
            "metrics": metrics,
            "detail": {"bins": _bins(error)},
        }
        folder.write_evaluation("calibration", record)


def _bins(error: float) -> list[dict[str, Any]]:
    bins = []
    for index in range(15):
        lower, upper = index / 15, (index + 1) / 15
        count = int(797 * 0.5 ** (14 - index))
        middle = (lower + upper) / 2
        measured = {"confidence": middle, "accuracy": max(0.0, middle - error / 2)} if count else {}
        bins.append({"lower": lower, "upper": upper, "count": count, "confidence": None, "accuracy": None} | measured)
    return bins


def _final(
    planned: PlannedTrial, metrics: dict[str, float], *, versions: dict[str, str], hardware: str
) -> dict[str, Any]:
    noise = planned.trial.label_noise.rate
    return {
        "status": "completed",
        "epochs": planned.trial.training.epochs,
        "metrics": metrics,
        "data": {
            "sha256": "0123456789abcdef" * 4,
            "n_train": 900,
            "n_val": 100,
            "n_test": 797,
            "num_classes": 10,
            "class_names": [str(digit) for digit in range(10)],
            "label_noise_realised": 0.9 * noise,
            "val_label_noise_realised": 0.9 * noise,
        },
        "provenance": {"versions": versions, "hardware": hardware, "host": "a", "device": "cpu", "threads": 1},
        "train_seconds": 16.0,
        "total_seconds": 20.0,
        "peak_rss_bytes": 400 * 2**20,
        "attempts": 1,
        "diverged": None,
    }
