"""The saved chart views of a plan's runs in MLflow's web page, and the link that opens one.

MLflow 3 keeps a shared view in an experiment tag and documents neither its name nor its content; both were read from
the page's own code (3.17) and seen to work in the pages of 3.7, 3.10, 3.13 and 3.17. Nothing but looks depends on it.
Imports no MLflow.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bench.results.mlflow_names import condition_names
from bench.results.mlflow_trial import SECTIONS, primary_metric, swept_options, trial_params

if TYPE_CHECKING:
    from bench.plan.plan import Plan

ERROR, NLL, ECE = "final/test_error", "final/test_nll", "final/test_ece"

COLUMNS = (
    "attributes.`Dataset`",
    "tags.`cell`",
    "tags.`arm`",
    "params.`alpha`",
    "params.`seed`",
    f"metrics.`{ERROR}`",
    "metrics.`final/test_error_val_selected`",
    f"metrics.`{NLL}`",
    "metrics.`final/train_error`",
    "tags.`status`",
)

MOST_AXES = 8
"""Of parallel coordinates, the figures at their end not counted; more cannot be read."""

LONGEST_VIEW = 5000
"""Characters of an experiment's tag."""

LOADED = 100
"""Runs that the page loads at once; its charts show no others."""

PACKED = "deflate;"
"""What a packed state begins with."""

FRONT = "bench"
"""The section of our own charts; the generated ones are below it, folded."""


REST_OF_STATE: dict[str, Any] = {
    "columnOrder": [],
    "columnWidths": {},
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "viewMaximized": False,
    "runListHidden": False,
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
}
"""The page's own defaults; before 3.15 it breaks where a saved state lacks one."""


@dataclass(frozen=True)
class SavedView:
    """What the page shows under one address.

    tag: the experiment tag that holds it.  name: its entry in the menu of views, which MLflow has since 3.15; "" for
    none, and then every MLflow 3 can open it, while the older ones wait for ever before one with a name.
    """

    tag: str
    name: str
    state: dict[str, Any]

    def content(self, *, now_ms: int) -> str:
        """The tag's value."""
        packed = PACKED + base64.b64encode(zlib.compress(json.dumps(self.state).encode(), 9)).decode()
        if not self.name:
            return packed
        return json.dumps({"name": self.name, "createdAt": now_ms, "updatedAt": now_ms, "state": packed})

    def replaces(self, there: str | None) -> bool:
        """Whether it is to be saved where the tag says `there`: an older one of ours, and none that a user changed."""
        if there is None:
            return True
        try:
            envelope = {"name": "", "state": there} if there.startswith(PACKED) else json.loads(there)
            if envelope.get("createdAt") != envelope.get("updatedAt"):
                return False
            state = json.loads(zlib.decompress(base64.b64decode(envelope["state"].removeprefix(PACKED))))
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error):
            return False
        return (envelope["name"], state) != (self.name, self.state)


def saved_views(plan: Plan) -> tuple[SavedView, ...]:
    """Means over seeds, for the link and for the menu, and single runs, for the menu."""
    tag, means = view_tag(plan.plan_id), _means(plan)
    trials, seeds = len(plan.suite_trials), len(plan.seeds)
    return (
        SavedView(tag, "", means),
        SavedView(f"{tag}-means", f"means of {seeds} seeds, {trials} runs ({plan.plan_id})", means),
        SavedView(f"{tag}-seeds", f"single seeds, {trials} runs ({plan.plan_id})", _seeds(plan)),
    )


def view_key(plan_id: str) -> str:
    return f"bench-{plan_id}"


def view_tag(plan_id: str) -> str:
    """The experiment tag that holds the view that the link opens."""
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


def _means(plan: Plan) -> dict[str, Any]:
    """Conditions: the mean of their seeds, one point, bar or curve each."""
    names = condition_names(plan).values()
    state = _state(plan, "mean over seeds", _varied(plan, numbers_only=True))
    grouping = {
        "useGroupedValuesInCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "condition"}],
        },
        "groupsExpanded": {f"tag.condition.{name}": False for name in names},
    }
    view = SavedView("", "its name", state | grouping)
    if len(view.content(now_ms=10**12)) > LONGEST_VIEW - 200:  # of some hundred conditions: they are listed unfolded
        grouping["groupsExpanded"] = {}
    return state | grouping


def _seeds(plan: Plan) -> dict[str, Any]:
    """Single runs."""
    state = {**_state(plan, "single seeds", _varied(plan, numbers_only=False)), "groupBy": None}
    if len(plan.suite_trials) > LOADED:  # the first seeds of every condition say more than all those of a few
        return state
    return {**state, "orderByKey": "tags.`condition`"}  # bars of one condition side by side


def _state(plan: Plan, shown: str, axes: Sequence[str]) -> dict[str, Any]:
    """What the page shows: the plan's trials in the order in which they began, which is the plan's."""
    primary = primary_metric(plan)
    measured = {each.name for each in plan.suite.evaluations}
    figures = [primary, *([NLL] if "clean" in measured else ()), *([ECE] if "calibration" in measured else ())]
    charts = [
        *_scatter(axes, primary),
        *(_bars(figure) for figure in dict.fromkeys([primary, ERROR])),
        _chart(
            "PARALLEL",
            "parallel",
            selectedParams=list(axes),
            selectedMetrics=list(reversed(figures[:2])),  # the last one colours the lines
            showAllRuns=True,
        ),
        _curves("test/error"),
        _curves("train/loss"),
        *(_bars(figure) for figure in figures[1:]),
    ]
    sections = ["final", "test", "val", "train", "time"]
    if any(SECTIONS[name] == "robust" for name in measured):
        sections.insert(1, "robust")
    title = f"Comparison: {shown}"
    if len(plan.suite_trials) > LOADED:
        title += f" of the first {LOADED} runs; Load more, below their list, for all {len(plan.suite_trials)}"
    return {
        "searchFilter": run_filter(plan.plan_id),
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "selectedColumns": list(dict.fromkeys([*COLUMNS, f"metrics.`{primary}`"])),
        "runsHiddenMode": "SHOW_ALL",  # otherwise the charts show the first ten runs
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # our section stays in front of the generated ones
        **REST_OF_STATE,
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": FRONT, "name": title, "display": True, "isReordered": True, "columns": 2},
            *(
                {"uuid": f"bench-{name}", "name": name, "display": False, "isReordered": False, "isGenerated": True}
                for name in sections
            ),
        ],
    }


def _varied(plan: Plan, *, numbers_only: bool) -> list[str]:
    """The parameters in which the plan's trials differ and that all of them have, alpha first, the seed last.

    Parallel coordinates leave out a run that lacks one; means have numbers only. Of several that change together, such
    as a network and its learning rate, one is enough.
    """
    swept = swept_options(plan)
    every = [trial_params(planned, swept) for planned in plan.suite_trials]
    names = sorted((name for name in every[0] if name != "seed"), key=lambda name: name != "alpha")
    varied: dict[tuple[int, ...], str] = {}
    for name in names:
        values = [params.get(name) for params in every]
        if None in values or (numbers_only and not all(map(_is_number, values))):
            continue
        places: dict[str | None, int] = {}
        division = tuple(places.setdefault(value, len(places)) for value in values)
        if any(division):
            varied.setdefault(division, name)
    seed = ["seed"] if not numbers_only and len(plan.seeds) > 1 else []
    return [*list(varied.values())[: MOST_AXES - len(seed)], *seed]


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _scatter(axes: Sequence[str], primary: str) -> list[dict[str, Any]]:
    """Alpha against error; where no alpha is swept, the first option that is."""
    numbers = [name for name in axes if name != "seed"][:1]
    return [
        _chart("SCATTER", "alpha", xaxis={"key": name, "type": "PARAM"}, yaxis={"key": primary, "type": "METRIC"})
        for name in numbers
    ]


def _bars(metric: str) -> dict[str, Any]:
    return _chart("BAR", metric, metricKey=metric)


def _chart(kind: str, name: str, **options: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"bench-{name}",
        "metricSectionId": FRONT,
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
