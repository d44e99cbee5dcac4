"""What MLflow shows of one trial, read from its folder: parameters, tags, series, final scalars, status.

Imports no MLflow. The same folder always gives the same content, timestamps included (they are the journal's), so
that publishing it twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.results.mlflow_names import condition_names, run_names
from bench.results.store import Json, TrialFolder, last_per_epoch

if TYPE_CHECKING:
    from bench.plan.plan import Plan, PlannedTrial

SERIES = {
    "train_loss": "train/loss",
    "lr": "train/lr",
    "val_error": "val/error",
    "val_nll": "val/nll",
    "test_error": "test/error",
    "test_nll": "test/nll",
    "train_error_clean_labels": "train/error_clean_labels",
    "train_error_wrong_labels": "train/error_wrong_labels",
    "train_error_mixed": "train/error_mixed",
    "weight_norm": "train/weight_norm",
    "train_seconds": "time/train_seconds",
    "eval_seconds": "time/eval_seconds",
}
"""The journal's epoch fields and the metrics they become."""

SECTIONS = {
    "clean": "final",
    "calibration": "final",
    "corruptions": "robust",
    "ood": "robust",
    "adversarial": "robust",
    "transfer": "robust",
    "in_between": "robust",
}
"""The section of MLflow's charts in which an evaluation's figures stand."""

ALWAYS_SHOWN = {
    "model.name": "model",
    "label_noise.kind": "label_noise",
    "label_noise.rate": "label_noise_rate",
    "training.epochs": "epochs",
    "training.batch_size": "batch_size",
    "training.optimizer": "optimizer",
    "training.lr": "lr",
    "training.weight_decay": "weight_decay",
}
"""Options that are parameters of every run; any other is one where the plan's trials differ in it."""

NOT_SHOWN = {
    "dataset.name",  # stands as the parameter `dataset`
    "dataset.train_corruption",  # part of that name
    *("dataset.root", "label_noise.file", "label_noise.order"),  # a machine's paths
    *("dataset.fingerprint", "label_noise.fingerprint"),
}

GIVEN_NAME = "given_name"
"""The tag with the name that we gave a run; one that a user has renamed has another by now."""

DIGEST_DIGITS = 12
"""Of the data's SHA-256, so that the page's column has room; MLflow takes 36 and gives its own data sets 8."""

LONGEST_TAG = 5000
"""Characters; MLflow takes 8000 and its older versions 5000."""


@dataclass(frozen=True)
class Point:
    """One value of one metric. `step` is the epoch, 0 for a final scalar; `ms` is unix milliseconds."""

    key: str
    value: float
    ms: int
    step: int


@dataclass(frozen=True)
class DataSet:
    """What a run was trained or tested on, as MLflow shows it in its column of data sets.

    MLflow keeps one record per name and digest, and the first one stands; so the name has the number of images.
    context: "training" or "testing".  digest: of the data set's arrays, before label noise.
    source: JSON, of MLflow's source type "code".  profile: facts as JSON.
    """

    name: str
    digest: str
    context: str
    source: str
    profile: str


@dataclass(frozen=True)
class TrialRun:
    """One trial as an MLflow run.

    epochs: the points of every durable epoch, in order of epoch: one that a resume cannot do again, because a
    checkpoint covers it or the trial is finished.  inputs: of a finished trial, what it was trained and tested on.
    """

    name: str
    status: str
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    tags: dict[str, str]
    epochs: tuple[tuple[int, tuple[Point, ...]], ...]
    finals: tuple[Point, ...]
    inputs: tuple[DataSet, ...]


@dataclass(frozen=True)
class Standing:
    """How a trial stands: MLflow's status of its run, ours, and when its last event was."""

    status: str
    word: str
    end_ms: int
    events: list[Json]
    final: Json | None
    failed: Json
    """The "failed" event that it stands at, else empty."""


def trial_standing(folder: TrialFolder) -> Standing | None:
    """How the trial stands; None while it has not started."""
    claimed = folder.is_claimed()  # before final.json is read: a worker writes it before it lets go of the trial
    final = folder.final()
    events, _ = folder.events()
    if not events:
        return None
    progress = (event for event in reversed(events) if event["event"] in ("started", "epoch", "failed", "finished"))
    latest = next(progress, events[-1])
    failed = latest if latest["event"] == "failed" else {}
    finished = [event for event in events if event["event"] == "finished"]
    end_ms = max(
        milliseconds(events[0]["time"]), milliseconds((finished or events)[-1]["time"])
    )  # a clock may be set back
    if final is not None:
        status, word = "FINISHED", str(final["status"])
    elif claimed:
        status, word = "RUNNING", "running"
    elif failed:
        status, word = "FAILED", "failed"
    else:
        status, word = "KILLED", "interrupted"
    return Standing(status, word, end_ms, events, final, failed)


@dataclass(frozen=True)
class Naming:
    """What the plan as a whole decides of its runs.

    swept: see swept_options.  conditions: by (cell, arm).  runs: by trial id.
    """

    swept: frozenset[str]
    conditions: dict[tuple[str, str], str]
    runs: dict[str, str]


def plan_naming(plan: Plan) -> Naming:
    return Naming(swept_options(plan), condition_names(plan), run_names(plan))


def read_trial(planned: PlannedTrial, plan: Plan, folder: TrialFolder, *, naming: Naming) -> TrialRun | None:
    """The run that mirrors a trial's folder; None while the trial has not started."""
    standing = trial_standing(folder)
    if standing is None:
        return None
    events, final, failed = standing.events, standing.final, standing.failed
    last: dict[str, Json] = {event["event"]: event for event in events}
    started = last.get("started", {})
    tags = {
        **identity_tags(planned, plan),
        "condition": naming.conditions[planned.cell, planned.arm],
        GIVEN_NAME: naming.runs[planned.trial_id],
        "status": standing.word,
        "device": started.get("device"),
        "hostname": started.get("host"),
        "diverged": "true" if standing.word == "diverged" else None,
        "failure": failed.get("reason"),
        "traceback": str(failed.get("traceback") or "")[-LONGEST_TAG:],  # the error stands at its end
    }
    return TrialRun(
        name=naming.runs[planned.trial_id],
        status=standing.status,
        start_ms=milliseconds(events[0]["time"]),
        end_ms=None if standing.status == "RUNNING" else standing.end_ms,
        params=trial_params(planned, naming.swept),
        tags={key: str(value)[:LONGEST_TAG] for key, value in tags.items() if value},
        epochs=tuple((event["epoch"], _epoch_points(event)) for event in durable_epochs(events, finished=bool(final))),
        finals=tuple(_final_points(planned, folder, final, standing.end_ms)) if final is not None else (),
        inputs=_data_sets(planned, final) if final is not None else (),
    )


def identity_tags(planned: PlannedTrial, plan: Plan) -> dict[str, str]:
    """The tags that say which trial a run is and where it belongs."""
    return {
        "role": "trial",
        "trial_id": planned.trial_id,
        "plan_id": plan.plan_id,
        "suite": plan.suite.name,
        "suite_version": str(plan.suite.version),
        "cell": planned.cell,
        "arm": planned.arm,
        "method": planned.trial.method.name,
    }


def swept_options(plan: Plan) -> frozenset[str]:
    """The options, such as "training.momentum", in which the plan's trials differ."""
    options = [_options(planned) for planned in plan.suite_trials]
    keys = {key for option in options for key in option} - NOT_SHOWN
    return frozenset(key for key in keys if len({repr(option.get(key)) for option in options}) > 1)


def primary_metric(plan: Plan) -> str:
    """MLflow's name of the figure that the suite's verdicts go by."""
    metric = plan.suite.report.metric
    for evaluation in plan.suite.evaluations:
        if metric in evaluation.metrics(validated=True):
            return f"{SECTIONS[evaluation.name]}/{metric}"
    return f"final/{metric.replace('_last', '')}"


def durable_epochs(events: list[Json], *, finished: bool) -> list[Json]:
    """The epoch events that no resume will do again, one per epoch, the last line of each."""
    epochs = last_per_epoch(events)
    if finished:
        return epochs
    durable = 0
    for event in events:
        if event["event"] in ("checkpoint", "resumed"):
            durable = event["epoch"]
        elif event["event"] == "epoch":  # an epoch at or below the checkpoint: the trial began again without it
            durable = min(durable, event["epoch"] - 1)
    return [event for event in epochs if event["epoch"] <= durable]


def milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def trial_params(planned: PlannedTrial, swept: frozenset[str]) -> dict[str, str]:
    """Parameters as text. They follow from the trial alone, because MLflow lets nobody change one."""
    trial = planned.trial
    options = _options(planned)
    method = trial.method.model_dump()
    if method["name"] == "erm":
        method["alpha"] = 0  # mixup at alpha = 0 is ERM, and a number keeps MLflow's alpha axis numeric
    shown = {
        "method": method.pop("name"),
        **method,
        "dataset": trial.dataset.display_name,
        **{name: options[key] for key, name in ALWAYS_SHOWN.items()},
        "weight_decay": trial.weight_decay,
        **{key.removeprefix("training."): options.get(key) for key in sorted(swept - ALWAYS_SHOWN.keys())},
        "seed": trial.seed,
    }
    return {key: _text(value) for key, value in shown.items() if value is not None}


def _options(planned: PlannedTrial) -> dict[str, Any]:
    """Every option of the trial but its method's and its seed, under "section.key"."""
    trial: Mapping[str, Any] = planned.trial.model_dump(mode="json", exclude={"method", "seed"})
    return {f"{section}.{key}": value for section, options in trial.items() for key, value in options.items()}


def _text(value: Any) -> str:
    """A parameter's value, at most the 500 characters that every MLflow takes."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value)[:500]


def _epoch_points(event: Json) -> tuple[Point, ...]:
    return tuple(
        Point(name, float(event[field]), milliseconds(event["time"]), event["epoch"])
        for field, name in SERIES.items()
        if event.get(field) is not None  # null: not finite, and MLflow would store 1.8e308, which ruins a chart's axis
    )


def _final_points(planned: PlannedTrial, folder: TrialFolder, final: Json, end_ms: int) -> list[Point]:
    """Final scalars of the training and of the plan's evaluations; test_error_last is simply final/test_error."""
    points: dict[str, Any] = {}
    for evaluation in planned.evaluations:
        record = folder.evaluation(evaluation.key) or {"metrics": {}}
        points |= {f"{SECTIONS[evaluation.kind]}/{name}": value for name, value in record["metrics"].items()}
    points |= {f"final/{name.replace('_last', '')}": value for name, value in final["metrics"].items()}
    points["time/total_seconds"] = final.get("total_seconds")
    return [Point(key, float(value), end_ms, 0) for key, value in sorted(points.items()) if value is not None]


def _data_sets(planned: PlannedTrial, final: Json) -> tuple[DataSet, ...]:
    data = final.get("data") or {}
    if not data.get("sha256"):
        return ()
    dataset = planned.trial.dataset
    source = json.dumps({"tags": {"mlflow.source.name": "mixup-bench", "dataset": dataset.display_name}})
    return tuple(
        DataSet(
            f"{dataset.display_name} {split} n={data[count]}"[-500:],
            str(data["sha256"])[:DIGEST_DIGITS],
            context,
            source,
            json.dumps({count: data[count], "num_classes": data["num_classes"]}),
        )
        for split, count, context in (("train", "n_train", "training"), ("test", "n_test", "testing"))
    )
