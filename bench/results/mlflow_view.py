"""The saved chart view of a plan's runs in MLflow's web page, and the link that opens it.

MLflow 3 keeps a shared view in an experiment tag and documents neither its name nor its content; both were read from
the page's own code (3.17). Nothing but looks depends on it. Imports no MLflow.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bench.results.mlflow_trial import primary_metric

if TYPE_CHECKING:
    from bench.plan.plan import Plan

ERROR = "final/test_error"

COLUMNS = (
    "tags.`cell`",
    "tags.`arm`",
    "params.`alpha`",
    "params.`seed`",
    f"metrics.`{ERROR}`",
    "metrics.`final/test_error_val_selected`",
    "metrics.`final/test_nll`",
    "metrics.`final/train_error`",
    "tags.`status`",
)


def view_key(plan_id: str) -> str:
    return f"bench-{plan_id}"


def view_tag(plan_id: str) -> str:
    """The experiment tag that holds the plan's view."""
    return f"mlflow.sharedViewState.{view_key(plan_id)}"


def deep_link(base_url: str, experiment_id: str, plan_id: str) -> str:
    """The address that opens the plan's runs as charts; an experiment's plain address opens MLflow's GenAI page."""
    query = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "viewStateShareKey": view_key(plan_id),
    }
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def run_filter(plan_id: str) -> str:
    """MLflow's search text for the plan's trials. A trial of several plans carries all their ids in one tag."""
    return f"tags.role = 'trial' AND tags.plan_id LIKE '%{plan_id}%'"


def saved_view(plan: Plan, *, created_ms: int) -> str:
    """The content of the view's tag."""
    packed = base64.b64encode(zlib.compress(json.dumps(_state(plan)).encode(), 9)).decode()
    name = f"{plan.suite.name}: error against alpha, learning curves ({plan.plan_id})"
    return json.dumps({"name": name, "createdAt": created_ms, "updatedAt": created_ms, "state": f"deflate;{packed}"})


def _state(plan: Plan) -> dict[str, Any]:
    """What the page shows: the plan's trials, the seeds of a condition averaged, charts by arm in front."""
    grouped = ("arm", "cell") if len(plan.cells) > 1 else ("arm",)
    primary = primary_metric(plan)
    return {
        "searchFilter": run_filter(plan.plan_id),
        "orderByKey": "tags.`cell`",
        "orderByAsc": True,
        "selectedColumns": list(dict.fromkeys([*COLUMNS, f"metrics.`{primary}`"])),
        "runsHiddenMode": "SHOW_ALL",  # otherwise the charts show the first ten runs
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # our section stays in front of the generated ones
        "useGroupedValuesInCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": key} for key in grouped],
        },
        "groupsExpanded": {
            ",".join(f"tag.{key}.{value}" for key, value in zip(grouped, values, strict=False)): False
            for values in itertools.product(plan.arms, plan.cells)
        },
        "compareRunCharts": [
            _chart(
                "SCATTER", "alpha", xaxis={"key": "alpha", "type": "PARAM"}, yaxis={"key": primary, "type": "METRIC"}
            ),
            _chart("BAR", "error", metricKey=primary),
            _curves("test/error"),
            _curves("train/loss"),
            _chart("BAR", "nll", metricKey="final/test_nll"),
            _chart("BAR", "ece", metricKey="final/test_ece"),
        ],
        "compareRunSections": [
            {"uuid": "bench", "name": "Comparison", "display": True, "isReordered": True, "columns": 2},
            *(
                {"uuid": f"bench-{name}", "name": name, "display": False, "isReordered": False}
                for name in ("final", "robust", "test", "val", "train", "time")
            ),
        ],
    }


def _chart(kind: str, name: str, **options: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"bench-{name}",
        "metricSectionId": "bench",
        "isGenerated": False,
        "deleted": False,
        "runsCountToCompare": 100,
        **options,
    }


def _curves(metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        metric,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        scaleType="linear",
        xAxisScaleType="linear",
        lineSmoothness=0,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )
