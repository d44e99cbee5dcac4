"""Every suite that ships: it loads, plans, agrees with the schema, and the sizes of its networks are known."""

from __future__ import annotations

import json
import re
import shlex
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


COMMAND = re.compile(r"^#   bench run (\S+) (--set .*)$", re.M)


def test_the_miniatures_at_their_heads_can_be_copied() -> None:
    """One line each, whole; what it sets gives a plan on digits, without a network that is not known."""
    found = {path.stem: COMMAND.findall(path.read_text()) for path in PATHS if "bench run" in path.read_text()}
    assert len(found) == 10
    for name, commands in found.items():
        ((suite, options),) = commands
        assert suite == name
        words = shlex.split(options)
        assert set(words[::2]) == {"--set"}
        assert "#     --set" not in (SUITES / f"{name}.yaml").read_text()
        plan = make_plan(load_suite(SUITES / f"{name}.yaml", overrides=words[1::2]))
        assert {planned.trial.dataset.name for planned in plan.trials} == {"digits"}
        assert {planned.trial.training.precision for planned in plan.trials} == {"fp32"}


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
