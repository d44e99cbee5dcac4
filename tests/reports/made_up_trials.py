"""A store of made-up trials, written through the real plan and the real trial folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.plan.evaluation import Corruptions, Evaluation, Ood, PlannedEvaluation
from bench.plan.plan import Plan, PlannedTrial
from bench.results.store import Store, write_json

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
evaluate: {evaluate}
report: {{metric: {metric}}}
"""

EVERYTHING = """[clean, calibration, {name: corruptions, kinds: all}, {name: ood, against: gaussian_noise}, \
{name: ood, against: mnist}, adversarial, transfer, in_between]"""
"""Every kind of evaluation."""

NUM_CLASSES = 10

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
        val_error: float | None = None,
        versions: dict[str, str] = VERSIONS,
        hardware: str = HARDWARE,
        evaluations: bool = True,
    ) -> None:
        """A trial whose test error falls to `error` along a smooth curve, wrongly sure of itself by half of it.

        val_error: after the last epoch, and where it is best; just above the test error unless given.
        """
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
        best = int(np.argmin(curve))
        own_val = {} if val_error is None else {best: val_error, epochs - 1: val_error}
        val_curve = [own_val.get(index, value + 0.002) for index, value in enumerate(curve)]
        mixing = None if planned.trial.method.name == "erm" else mixing_of(planned)
        for epoch, value in enumerate(curve, start=1):
            line = {
                "epoch": epoch,
                "lr": 0.1,
                "train_loss": 2 * value,
                "train_error_mixed": value + (0.25 if mixing else 0.0),
                "weight_norm": 10 + epoch,
                "val_error": val_curve[epoch - 1],
                "val_nll": 3 * value,
            }
            if noise and (epoch % 2 or epoch == epochs):
                line |= memory_errors(memorised, epoch / epochs)
            folder.append("epoch", **line, test_error=value, test_nll=3 * value, train_seconds=0.4, eval_seconds=0.05)
        metrics = {
            "test_error_last": error,
            "test_error_val_selected": curve[best],
            "test_error_oracle": curve[best],
            "test_error_median10": float(np.median(curve[-10:])),
            "val_error_last": val_curve[-1],
            "val_error_best": val_curve[best],
            "train_error": 0.5 * error,
            "train_error_mixed": error + (0.25 if mixing else 0.0),
            "weight_norm": 10 + epochs,
        }
        if noise:
            metrics |= {"train_error_clean_labels": 0.01, "train_error_wrong_labels": 0.9 - memorised}
            write_json(folder.path / "label_noise.json", _label_noise(planned))
        folder.append("finished", status="completed")
        if evaluations:
            self.evaluate(planned, error)
        folder.write_final(_final(planned, metrics, versions=versions, hardware=hardware) | {"mixing": mixing})

    def forget_mixing(self, planned: PlannedTrial) -> None:
        """Make a finished trial one of before it was recorded what training saw."""
        folder = self.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        del final["mixing"]
        for name in ("train_error_mixed", "weight_norm"):
            del final["metrics"][name]
        folder.write_final(final)
        journal = folder.path / "journal.jsonl"
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        kept = [{k: v for k, v in event.items() if k not in ("train_error_mixed", "weight_norm")} for event in events]
        journal.write_text("".join(f"{json.dumps(event)}\n" for event in kept))

    def evaluate(self, planned: PlannedTrial, error: float) -> None:
        """A record for every evaluation of the trial, all of them the worse the larger `error` is."""
        for each in planned.evaluations:
            metrics, detail = MEASURED[each.kind](each.config, error)
            detail |= {"source_trial": each.source} if each.source else {}
            self._write(planned, each, metrics=metrics, detail=detail)

    def record(self, planned: PlannedTrial, kind: str) -> dict[str, Any]:
        """The trial's record of this kind, the first where there are several."""
        each = next(each for each in planned.evaluations if each.kind == kind)
        record = self.store.trial(planned.trial_id).evaluation(each.key)
        assert record is not None
        return record

    def rewrite(self, planned: PlannedTrial, kind: str, **parts: Any) -> None:
        """Replace parts of the record of this kind, of the first where there are several."""
        self._write(planned, next(each for each in planned.evaluations if each.kind == kind), **parts)

    def _write(self, planned: PlannedTrial, each: PlannedEvaluation, **parts: Any) -> None:
        folder = self.store.trial(planned.trial_id)
        record = folder.evaluation(each.key) or {"kind": each.kind, "version": 1, "options": {}, "seconds": 0.1}
        folder.write_evaluation(each.key, record | parts)


def mixing_of(planned: PlannedTrial) -> dict[str, Any]:
    """Of a method that mixes in every batch: more weights near 0 and 1 the smaller its alpha, a lam each seed's own."""
    middles = (np.arange(20) + 0.5) / 20
    alpha = getattr(planned.trial.method, "alpha", None) or 1.0
    counts = np.round(1000 * (middles * (1 - middles)) ** (alpha - 1) / 4 ** (1 - alpha)).astype(int)
    return {
        "lam_histogram": counts.tolist(),
        "lam_mean": 0.5 + 0.001 * planned.trial.seed,
        "mixed_share": 1.0,
        "equal_class_share": 0.1,
    }


def memory_errors(memorised: float, progress: float) -> dict[str, float]:
    """Errors on training images when a share `progress` of training is over."""
    return {
        "train_error_clean_labels": 0.5 * (1 - progress) + 0.01,
        "train_error_wrong_labels": 0.95 - memorised * progress,
        "train_error_wrong_vs_true": 0.2 + memorised * progress,
    }


def _clean(_config: Evaluation, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"test_error": error, "test_nll": 3 * error}, {}


def _calibration(_config: Evaluation, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics = {
        "test_ece": error / 2,
        "test_adaptive_ece": 0.6 * error,
        "test_max_ce": 0.9 * error,
        "test_classwise_ece": 0.1 * error,
        "test_overconfidence": 0.4 * error,
        "test_brier": 1.5 * error,
        "test_brier_reliability": 0.2 * error,
        "test_brier_resolution": 0.9 - 1.3 * error,
        "test_brier_uncertainty": 0.9,
    }
    scaled = {f"{name}_scaled": value / 2 for name, value in metrics.items() if "brier_" not in name}
    metrics |= scaled | {"temperature": 1 + error, "test_nll_scaled": 2 * error}
    detail = {"bins": _bins(error), "bins_scaled": _bins(error / 4), "temperature_fit": "validation"}
    return metrics, detail


def _corruptions(config: Evaluation, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    assert isinstance(config, Corruptions)
    errors = {
        kind: {str(severity): min(0.95, error + 0.02 * severity * (1 + index % 5)) for severity in config.severities}
        for index, kind in enumerate(config.kinds)
    }
    means = {kind: float(np.mean(list(each.values()))) for kind, each in errors.items()}
    extra = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    mean = float(np.mean([each for kind, each in means.items() if kind not in extra]))
    metrics = {"mean_corruption_error": mean, "relative_corruption_error": mean - error}
    if set(extra) & means.keys():
        metrics["extra_corruption_error"] = float(np.mean([means[kind] for kind in extra]))
    return metrics, {"errors": errors, "source": dict.fromkeys(errors, "generated"), "clean_error": error}


def _ood(config: Evaluation, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    assert isinstance(config, Ood)
    values = {"auroc": 1 - error, "aupr": 0.98 - error, "fpr95": 2 * error}
    metrics = {
        f"ood_{config.set_name}_{name}_{score}": value - shift
        for score, shift in (("msp", 0.0), ("energy", 0.02))
        for name, value in values.items()
    }
    return metrics, {"set": config.set_name, "num_in": 797, "num_out": 1000}


def _attacks(config: Any, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    strength = {"fgsm": 0.06, "i_fgsm": 0.09, "pgd": 0.1}
    reach = 1.0 if config.name == "adversarial" else 0.5
    errors = [
        {
            "attack": attack,
            "norm": config.norm,
            "epsilon": epsilon,
            "steps": config.steps,
            "restarts": config.restarts,
            "error": min(1.0, error + reach * strength[attack] * epsilon),
        }
        for attack in config.attacks
        for epsilon in config.epsilon
    ]
    prefix = config.prefix
    metrics = {f"{prefix}_{e['attack']}_{e['norm']}_{e['epsilon']:g}_error": e["error"] for e in errors}
    return metrics, {"errors": errors, "num_examples": 797, "clean_error": error}


def _in_between(_config: Evaluation, error: float) -> tuple[dict[str, Any], dict[str, Any]]:
    lam = [index / 20 for index in range(21)]
    miss = [2 * error * each * (1 - each) for each in lam]
    gradient = [0.2 + 8 * error * each * (1 - each) for each in lam]
    metrics = {"in_between_miss_half": miss[10], "in_between_gradient_half": gradient[10]}
    return metrics, {"lam": lam, "miss": miss, "gradient_norm": gradient, "num_pairs": 1000}


MEASURED = {
    "clean": _clean,
    "calibration": _calibration,
    "corruptions": _corruptions,
    "ood": _ood,
    "adversarial": _attacks,
    "transfer": _attacks,
    "in_between": _in_between,
}


def _label_noise(planned: PlannedTrial) -> dict[str, Any]:
    """Counts of 90 images per class, those of a class the more wrong the larger its number and the seed."""
    rate, seed = planned.trial.label_noise.rate, planned.trial.seed
    matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=int)
    for true in range(NUM_CLASSES):
        wrong = round(90 * rate) - 9 + true + seed
        matrix[true, true] = 90 - wrong
        matrix[true, (true + 1) % NUM_CLASSES] = wrong
    return {
        "kind": planned.trial.label_noise.kind,
        "nominal_rate": rate,
        "realised_rate": float(1 - np.trace(matrix) / matrix.sum()),
        "matrix": matrix.tolist(),
        "class_names": [str(digit) for digit in range(NUM_CLASSES)],
    }


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
