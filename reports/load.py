"""From a plan and a result store to data frames. Each file of a finished trial is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.results.store import Json, Store, TrialFolder

if TYPE_CHECKING:
    from bench.plan.plan import Plan, PlannedTrial

FINISHED = ("completed", "unevaluated")
"""Statuses with results. A diverged trial has ended too, and has none."""

TRIAL_COLUMNS = ["trial_id", "cell", "arm", "method", "alpha", "seed", "status", "reason"]
COST_COLUMNS = ["epochs", "attempts", "train_seconds", "total_seconds", "peak_rss_bytes"]
DATA_COLUMNS = ["num_train", "num_val", "num_test", "num_classes", "label_noise_realised", "data_sha256"]
CURVE_COLUMNS = ["cell", "arm", "seed", "epoch", "train_loss", "val_error", "test_error", "test_nll"]
BIN_COLUMNS = ["cell", "arm", "seed", "lower", "upper", "count", "confidence", "accuracy"]


@dataclass(frozen=True)
class Results:
    """What a plan's trials have left so far.

    trials: one row per planned trial: TRIAL_COLUMNS, COST_COLUMNS, DATA_COLUMNS, then every metric and evaluation
        metric that any trial has, NaN where a trial has none. alpha is 0 for erm and NaN where a method has none.
    curves: one row per epoch of every finished trial (CURVE_COLUMNS); of an epoch done twice, the last.
    bins: one row per reliability bin of every finished trial (BIN_COLUMNS).
    provenance: per fact, such as "torch" or "hardware", how many ended trials have which value.
    """

    plan: Plan
    trials: pd.DataFrame
    curves: pd.DataFrame
    bins: pd.DataFrame
    provenance: Mapping[str, Mapping[str, int]]

    def column(self, metric: str) -> pd.Series[float]:
        """One metric of every trial; NaN throughout where no trial has it."""
        if metric in self.trials:
            return self.trials[metric]
        return pd.Series(float("nan"), index=self.trials.index, name=metric)


def load(plan: Plan, store: Store) -> Results:
    """Read every planned trial. Files that are missing or torn count as not there."""
    rows: list[Json] = []
    curves: list[list[Any]] = []
    bins: list[list[Any]] = []
    facts: dict[str, Counter[str]] = {}
    for planned in plan.trials:
        folder = store.trial(planned.trial_id)
        final = folder.final()
        names = [planned.cell, planned.arm, planned.trial.seed]
        if final is None:
            rows.append(_unfinished_row(planned, folder))
            continue
        evaluations = {kind: folder.evaluation(kind) for kind in plan.suite.evaluate}
        rows.append(_finished_row(planned, final, evaluations))
        for fact, value in _provenance(final):
            facts.setdefault(fact, Counter())[value] += 1
        if final["status"] == "completed":
            curves += ([*names, *map(epoch.get, CURVE_COLUMNS[3:])] for epoch in folder.epochs())
            calibration = evaluations.get("calibration") or {}
            reliability = calibration.get("detail", {}).get("bins", [])
            bins += ([*names, *map(each.get, BIN_COLUMNS[3:])] for each in reliability)
    return Results(
        plan=plan,
        trials=_numeric(pd.DataFrame(rows)),
        curves=_numeric(pd.DataFrame(curves, columns=CURVE_COLUMNS)),
        bins=_numeric(pd.DataFrame(bins, columns=BIN_COLUMNS)),
        provenance=facts,
    )


def alpha_of(planned: PlannedTrial) -> float:
    """The method's alpha; 0 for erm, which is mixup at alpha 0, and NaN for a method that draws no lam by alpha."""
    method = planned.trial.method
    alpha = 0.0 if method.name == "erm" else getattr(method, "alpha", None)
    return float("nan") if alpha is None else float(alpha)


def _names(planned: PlannedTrial) -> Json:
    return {
        "trial_id": planned.trial_id,
        "cell": planned.cell,
        "arm": planned.arm,
        "method": planned.trial.method.name,
        "alpha": alpha_of(planned),
        "seed": planned.trial.seed,
    }


def _unfinished_row(planned: PlannedTrial, folder: TrialFolder) -> Json:
    status = folder.status()
    failure = folder.last_failure() if status == "failed" else None
    empty = dict.fromkeys(COST_COLUMNS + DATA_COLUMNS)
    return {**_names(planned), "status": status, "reason": failure["reason"] if failure else "", **empty}


def _finished_row(planned: PlannedTrial, final: Json, evaluations: Mapping[str, Json | None]) -> Json:
    diverged = final["diverged"]
    lacking = [kind for kind, record in evaluations.items() if record is None]
    if final["status"] == "diverged":
        status = "diverged"
        reason = f"loss not finite at epoch {diverged['epoch']}, step {diverged['step']}" if diverged else ""
    elif lacking:
        status, reason = "unevaluated", f"evaluation missing: {', '.join(lacking)}"
    else:
        status, reason = "completed", ""
    data = final["data"]
    return {
        **_names(planned),
        "status": status,
        "reason": reason,
        **{column: final[column] for column in COST_COLUMNS},
        "num_train": data["n_train"],
        "num_val": data["n_val"],
        "num_test": data["n_test"],
        "num_classes": data["num_classes"],
        "label_noise_realised": data["label_noise_realised"],
        "data_sha256": data["sha256"],
        **final["metrics"],
        **{name: value for record in evaluations.values() if record for name, value in record["metrics"].items()},
    }


def _provenance(final: Json) -> Iterator[tuple[str, str]]:
    """Facts about where and with what a trial ran."""
    provenance = final["provenance"]
    for fact in ("hardware", "device", "threads", "host"):
        yield fact, str(provenance[fact])
    for package, version in provenance["versions"].items():
        yield package, str(version)


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns that are not names as numbers, so that one without any value is NaN throughout and not None."""
    texts = {"trial_id", "cell", "arm", "method", "status", "reason", "data_sha256"}
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in frame.columns if name not in texts})
