"""docs/methods.md says what is there: every method, every option, and an example that works."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_batches import Looking, batch, net

from bench.mixing import COMPANIONS, METHODS, Erm
from bench.mixing.method import SCHEDULE
from bench.plan.suite import load_suite

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def test_every_method_has_a_row_with_its_options():
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)`.*$", TEXT, re.M)}
    for name, method in METHODS.items():
        assert name in rows
        own = method.model_fields.keys() - {*COMPANIONS, *SCHEDULE, "name"}
        text = TEXT if name == "mixup" else rows[name]
        assert [option for option in own if f"`{option}" not in text] == [], name
    assert {*COMPANIONS, *SCHEDULE} <= rows.keys()


def test_its_tables_have_a_cell_for_each_column():
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table[:80]


def test_the_suite_in_it_loads(tmp_path):
    (entries,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    head = "name: docs\nquestion: Does it load?\nbase: {dataset: digits, model: mlp, training: {epochs: 10}}\n"
    (tmp_path / "docs.yaml").write_text(head + entries)
    assert len(load_suite(tmp_path / "docs.yaml").methods) == 11


@pytest.fixture(scope="module")
def example():
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "docs/methods.md", "exec"), names)
    made = names["VerticalConcat"]
    made.model_rebuild(_types_namespace=names)
    return made


def test_the_method_in_it_is_erm_at_its_neutral_setting(example):
    given, rng = batch(), np.random.default_rng(0)
    assert example(alpha=0).is_neutral
    assert torch.equal(
        example(alpha=0).training_loss(net(), given, rng=rng).loss, Erm().training_loss(net(), given, rng=rng).loss
    )


def test_the_method_in_it_mixes_as_it_says(example):
    given = batch(9, side=8)
    own = given.x[:, 0, 0, 0]
    assert example().label == "vertical_concat alpha=1"
    for seed in range(20):
        model = Looking()
        found = example().training_loss(model, given, rng=np.random.default_rng(seed))
        shares = (model.seen[0][:, 0] == own[:, None, None]).double().mean((1, 2)).numpy()
        np.testing.assert_allclose(shares[shares < 1], found.lam)
