"""The saved chart view: what its tag unpacks to. That MLflow's page understands it was seen with one's own eyes."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.plan.plan import Plan, make_plan
from bench.plan.suite import load_suite
from bench.results.mlflow_view import SavedView, deep_link, saved_views, view_tag

BASE = """\
name: s
question: q
seeds: 2
base: {dataset: {name: digits}, model: {name: mlp}, training: {epochs: 2}}
"""


def planned(folder: Path, rest: str) -> Plan:
    path = folder / "suite.yaml"
    path.write_text(BASE + rest)
    return make_plan(load_suite(path))


def listed(plan: Plan) -> tuple[SavedView, SavedView]:
    """The two views of the page's menu: means, single seeds."""
    _, means, seeds = saved_views(plan)
    return means, seeds


def unpack(tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    envelope = json.loads(tag)
    scheme, _, packed = envelope["state"].partition(";")
    assert scheme == "deflate"
    return envelope, json.loads(zlib.decompress(base64.b64decode(packed)))


def charts(view: SavedView, kind: str) -> list[dict[str, Any]]:
    return [chart for chart in view.state["compareRunCharts"] if chart["type"] == kind]


def test_both_views_show_alpha_against_error_for_this_plan(plan: Plan) -> None:
    views = listed(plan)
    assert len({view.tag for view in views}) == len({view.name for view in views}) == 2
    for view in views:
        envelope, state = unpack(view.content(now_ms=1234))
        assert (envelope["createdAt"], envelope["updatedAt"]) == (1234, 1234)
        assert plan.plan_id in state["searchFilter"]
        [scatter] = charts(view, "SCATTER")
        assert (scatter["xaxis"], scatter["yaxis"]) == (
            {"key": "alpha", "type": "PARAM"},
            {"key": "final/test_error", "type": "METRIC"},
        )
        assert "test/error" in [chart["metricKey"] for chart in charts(view, "LINE")]
        sections = {section["uuid"] for section in state["compareRunSections"]}
        assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
        uuids = [chart["uuid"] for chart in state["compareRunCharts"]]
        assert len(uuids) == len(set(uuids))


def test_means_are_of_conditions_and_their_axes_numbers(plan: Plan) -> None:
    means, seeds = listed(plan)
    assert means.state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "condition"}]
    assert means.state["groupsExpanded"] == {
        f"tag.condition.{arm} | {cell}": False
        for arm in ("erm", "mixup a=0.2", "mixup a=1")
        for cell in ("clean", "uniform 40 %")
    }
    assert seeds.state["groupBy"] is None
    [of_means], [of_seeds] = charts(means, "PARALLEL"), charts(seeds, "PARALLEL")
    assert of_means["selectedParams"] == ["alpha", "label_noise_rate"]
    assert of_seeds["selectedParams"] == ["alpha", "method", "label_noise", "seed"]
    assert of_means["selectedMetrics"] == of_seeds["selectedMetrics"] == ["final/test_nll", "final/test_error"]


def test_parallel_coordinates_leave_out_what_runs_lack_and_what_changes_with_another(tmp_path: Path) -> None:
    """A run without one of the axes is not drawn at all."""
    plan = planned(
        tmp_path,
        "methods: [erm, {name: mixup, lam: 0.7}]\n"
        "matrix: {training.weight_decay: [0, 1e-4]}\n"
        "zip: [{training.lr: [0.1, 0.2], training.epochs: [2, 3]}]\n",
    )
    [chart] = charts(saved_views(plan)[0], "PARALLEL")
    assert chart["selectedParams"] == ["weight_decay", "epochs"]  # not lr, which epochs stand for
    [scatter] = charts(saved_views(plan)[0], "SCATTER")
    assert scatter["xaxis"]["key"] == chart["selectedParams"][0]  # no alpha is swept


def test_nothing_that_varies_makes_no_scatter_of_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, "methods: [erm]\n")
    means, _ = listed(plan)
    assert charts(means, "SCATTER") == []
    assert means.state["groupsExpanded"] == {"tag.condition.erm": False}


def test_a_plan_of_more_runs_than_the_page_loads_says_so(tmp_path: Path) -> None:
    small, large = (
        planned(tmp_path, f"methods: [erm, {{name: mixup, alpha: {alphas}}}]\n")
        for alphas in ([1, 2], [round(0.01 * n, 2) for n in range(1, 60)])
    )
    for view in saved_views(small):
        assert "Load more" not in view.state["compareRunSections"][0]["name"]
    for view in saved_views(large):
        assert "Load more, below their list, for all 120" in view.state["compareRunSections"][0]["name"]
        assert view.state["orderByKey"] == "attributes.start_time"


def test_the_tag_fits_into_the_5000_characters_of_older_versions(plan: Plan, tmp_path: Path) -> None:
    many = ", ".join(f"{{name: mixup, alpha: {n / 1000}, label_smoothing: {n / 997:.5f}}}" for n in range(1, 400))
    for each in (plan, planned(tmp_path, f"methods: [erm, {many}]\n")):
        for view in saved_views(each):
            assert len(view.content(now_ms=1_700_000_000_000)) < 5000


def test_a_view_replaces_an_older_one_of_ours_only(plan: Plan) -> None:
    view, other = listed(plan)
    assert view.replaces(None)
    assert view.replaces(other.content(now_ms=5))
    assert not view.replaces(view.content(now_ms=5))
    assert not view.replaces(json.dumps(json.loads(other.content(now_ms=5)) | {"updatedAt": 6}))
    assert not view.replaces("what is this")
    link, means, _ = saved_views(plan)
    assert link.replaces(means.content(now_ms=5))  # as it was saved once
    assert link.replaces(replace(link, state={}).content(now_ms=5))
    assert not link.replaces(link.content(now_ms=5))


def test_the_link_opens_a_view_that_has_all_that_older_pages_ask_for(plan: Plan) -> None:
    """They cannot read one with a name, and break where the state lacks a part."""
    link, means, _ = saved_views(plan)
    content = link.content(now_ms=5)
    assert content.startswith("deflate;")
    assert link.tag == view_tag(plan.plan_id)
    assert json.loads(zlib.decompress(base64.b64decode(content.partition(";")[2]))) == means.state
    assert {"columnOrder", "columnWidths", "runsPinned", "runsHidden", "datasetsFilter"} <= means.state.keys()


def test_the_link_opens_the_view_of_the_plan(plan: Plan) -> None:
    link = deep_link("http://127.0.0.1:5000/", "7", plan.plan_id)
    page, _, query = link.partition("?")
    assert page == "http://127.0.0.1:5000/#/experiments/7/runs"
    assert {"workflowType=machine_learning", "compareRunsMode=CHART"} <= set(query.split("&"))
    [key] = [part.partition("=")[2] for part in query.split("&") if part.startswith("viewStateShareKey=")]
    assert view_tag(plan.plan_id) == f"mlflow.sharedViewState.{key}"
