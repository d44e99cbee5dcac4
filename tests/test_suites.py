"""Every suite that ships: it loads, plans, agrees with the schema, and the sizes of its networks are known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bench.plan.document import read
from bench.plan.networks import Network, known_networks, question
from bench.plan.plan import Plan, make_plan
from bench.plan.schema import suite_schema
from bench.plan.suite import load_suite

SUITES = Path(__file__).parents[1] / "suites"
PATHS = sorted(SUITES.rglob("*.y*ml"))


def plan_of(path: Path) -> Plan:
    return make_plan(load_suite(path))


def test_there_are_suites() -> None:
    names = [str(path.relative_to(SUITES)) for path in PATHS]
    assert "digits.yaml" in names
    assert "smoke.yaml" in names
    assert all(name.endswith(".yaml") for name in names)  # `bench list` looks for no others


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_asks_its_question_of_several_arms(path: Path) -> None:
    plan = plan_of(path)
    assert plan.trials
    assert plan.num_comparisons
    assert plan.suite.question.endswith("?")
    assert plan.suite.name == path.stem
    assert path.read_text().startswith("# ")  # question, source and cost, for whoever opens the file


def test_no_two_have_one_name() -> None:
    """Reports and MLflow experiments go by it."""
    assert max(Counter(path.stem for path in PATHS).values()) == 1


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_schema_takes_it(path: Path) -> None:
    assert [error.message for error in Draft202012Validator(suite_schema()).iter_errors(read(path).content)] == []


def test_networks_json_says_what_torch_says(tmp_path: Path) -> None:
    """`python -m bench.plan.networks` writes it anew."""
    from bench.models.probe import probe  # needs torch, which the other tests here do without

    shipped = json.loads((SUITES.parent / "bench" / "plan" / "networks.json").read_text())
    used = {}
    for path in PATHS:
        suite = load_suite(path)
        networks = known_networks(suite, cache_root=tmp_path)
        used |= networks.by_name
        for cell in suite.cells:
            answer = probe(**question(cell))
            assert networks.of(cell) == Network(**answer), f"{path.name}: {cell.model.name}: {answer}"
    assert used.keys() == shipped.keys()
