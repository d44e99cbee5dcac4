"""The saved chart view: what its tag unpacks to. That MLflow's page understands it was seen with one's own eyes."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from bench.plan.plan import Plan, make_plan
from bench.plan.suite import load_suite
from bench.results.mlflow_view import deep_link, saved_view, view_tag


def unpack(tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    envelope = json.loads(tag)
    scheme, _, packed = envelope["state"].partition(";")
    assert scheme == "deflate"
    return envelope, json.loads(zlib.decompress(base64.b64decode(packed)))


def test_the_view_shows_alpha_against_error_for_this_plan(plan: Plan) -> None:
    envelope, state = unpack(saved_view(plan, created_ms=1234))
    assert (envelope["createdAt"], envelope["updatedAt"]) == (1234, 1234)
    assert plan.plan_id in state["searchFilter"]
    scatter = next(chart for chart in state["compareRunCharts"] if chart["type"] == "SCATTER")
    assert (scatter["xaxis"], scatter["yaxis"]) == (
        {"key": "alpha", "type": "PARAM"},
        {"key": "final/test_error", "type": "METRIC"},
    )
    curves = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["type"] == "LINE"]
    assert "test/error" in curves
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
    uuids = [chart["uuid"] for chart in state["compareRunCharts"]]
    assert len(uuids) == len(set(uuids))


def test_one_cell_needs_no_grouping_by_cell(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: s\nquestion: q\nseeds: 1\nmethods: [erm]\n"
        "base: {dataset: {name: digits}, model: {name: mlp}, training: {epochs: 2}}\n"
    )
    _, state = unpack(saved_view(make_plan(load_suite(path)), created_ms=0))
    assert [key["groupByData"] for key in state["groupBy"]["groupByKeys"]] == ["arm"]
    assert state["groupsExpanded"] == {"tag.arm.erm": False}


def test_the_tag_fits_into_the_5000_characters_of_older_versions(plan: Plan) -> None:
    assert len(saved_view(plan, created_ms=1_700_000_000_000)) < 5000


def test_the_link_opens_the_view_of_the_plan(plan: Plan) -> None:
    link = deep_link("http://127.0.0.1:5000/", "7", plan.plan_id)
    page, _, query = link.partition("?")
    assert page == "http://127.0.0.1:5000/#/experiments/7/runs"
    assert {"workflowType=machine_learning", "compareRunsMode=CHART"} <= set(query.split("&"))
    [key] = [part.partition("=")[2] for part in query.split("&") if part.startswith("viewStateShareKey=")]
    assert view_tag(plan.plan_id) == f"mlflow.sharedViewState.{key}"
