"""How a suite expands, against counts, a product written out, and GitHub's documented example."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.document import SuiteError
from bench.plan.plan import make_plan
from bench.plan.suite import Suite, load_suite

HEAD = """\
name: cells
question: Which cells are there?
seeds: 2
base:
  dataset: digits
  model: mlp
  training: {epochs: 3, lr: 0.1}
methods: [erm, {name: mixup, alpha: [0.2, 1]}]
"""


def recipes(suite: Suite, *keys: str) -> list[tuple[Any, ...]]:
    """The values of these training keys, cell by cell."""
    return [tuple(getattr(cell.training, key) for key in keys) for cell in suite.cells]


def test_without_a_matrix_the_base_is_the_cell(load: Callable[..., Suite]) -> None:
    (cell,) = load(HEAD).cells
    assert (cell.dataset.name, cell.model.name, cell.training.epochs) == ("digits", "mlp", 3)
    assert (cell.label_noise.kind, cell.label_noise.rate) == ("none", 0)


def test_a_bare_name_is_a_section(load: Callable[..., Suite]) -> None:
    spelled_out = HEAD.replace("dataset: digits", "dataset: {name: digits}").replace("mlp", "{name: mlp}")
    assert load(spelled_out).cells[0].sections == load(HEAD).cells[0].sections


def test_the_matrix_is_a_product_in_the_order_of_the_file(load: Callable[..., Suite]) -> None:
    suite = load(f"{HEAD}matrix: {{training.batch_size: [32, 64], training.momentum: [0, 0.5, 0.9]}}\n")
    assert recipes(suite, "batch_size", "momentum") == list(itertools.product([32, 64], [0, 0.5, 0.9]))


def test_a_factor_is_laid_over_the_base_key_by_key(load: Callable[..., Suite]) -> None:
    suite = load(f"{HEAD}matrix: {{training: [{{lr: 0.3}}, {{epochs: 7, flip: true}}]}}\n")
    assert recipes(suite, "epochs", "lr", "flip") == [(3, 0.3, False), (7, 0.1, True)]


def test_zipped_factors_go_together(load: Callable[..., Suite]) -> None:
    text = (
        f"{HEAD}zip: [{{training.lr: [0.3, 0.2], training.epochs: [5, 6]}}]\nmatrix: {{training.flip: [true, false]}}\n"
    )
    assert recipes(load(text), "flip", "lr", "epochs") == [
        (True, 0.3, 5),
        (True, 0.2, 6),
        (False, 0.3, 5),
        (False, 0.2, 6),
    ]


def test_include_as_in_github_s_documented_example(load: Callable[..., Suite]) -> None:
    """docs.github.com, "Running variations of jobs in a workflow", section "Expanding or adding matrix configurations".

    fruit is the batch size (apple 16, pear 32, banana 64), animal the momentum (cat 0.1, dog 0.2; 0 where GitHub has
    none), color the weight decay (pink 0.1, green 0.2), shape the gamma (circle 0.5).
    """
    suite = load(
        f"""{HEAD.replace("lr: 0.1", "lr: 0.1, momentum: 0, weight_decay: 0, gamma: 1")}
matrix:
  training.batch_size: [16, 32]
  training.momentum: [0.1, 0.2]
include:
  - training.weight_decay: 0.2
  - training.weight_decay: 0.1
    training.momentum: 0.1
  - training.batch_size: 16
    training.gamma: 0.5
  - training.batch_size: 64
  - training.batch_size: 64
    training.momentum: 0.1
"""
    )
    assert recipes(suite, "batch_size", "momentum", "weight_decay", "gamma") == [
        (16, 0.1, 0.1, 0.5),  # {fruit: apple, animal: cat, color: pink, shape: circle}
        (16, 0.2, 0.2, 0.5),  # {fruit: apple, animal: dog, color: green, shape: circle}
        (32, 0.1, 0.1, 1),  # {fruit: pear, animal: cat, color: pink}
        (32, 0.2, 0.2, 1),  # {fruit: pear, animal: dog, color: green}
        (64, 0, 0, 1),  # {fruit: banana}
        (64, 0.1, 0, 1),  # {fruit: banana, animal: cat}
    ]


def test_include_without_a_matrix_lists_the_cells(load: Callable[..., Suite]) -> None:
    """GitHub again: a matrix that only includes has one job for each entry."""
    suite = load(f"{HEAD}include: [{{training.lr: 0.3}}, {{training: {{lr: 0.2, epochs: 5}}}}]\n")
    assert recipes(suite, "lr", "epochs") == [(0.3, 3), (0.2, 5)]


def test_exclude_takes_out_before_include_adds(load: Callable[..., Suite]) -> None:
    text = f"{HEAD}matrix: {{training.batch_size: [16, 32], training.flip: [true, false]}}\n"
    exclude = "exclude: [{training: {batch_size: 16, flip: true}}, {training.batch_size: 32}]\n"
    assert recipes(load(text + exclude), "batch_size", "flip") == [(16, False)]
    include = "include: [{training.batch_size: 32, training.flip: true}]\n"
    assert recipes(load(text + exclude + include), "batch_size", "flip") == [(16, False), (32, True)]


def test_exclude_can_name_what_the_base_says(load: Callable[..., Suite]) -> None:
    text = f"{HEAD}matrix: {{training.batch_size: [16, 32]}}\nexclude: [{{model: mlp, training.batch_size: 32}}]\n"
    assert recipes(load(text), "batch_size") == [(16,)]


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        (
            "{method: mixup}",
            {("mixup alpha=0.2", 0), ("mixup alpha=0.2", 1), ("mixup alpha=1", 0), ("mixup alpha=1", 1)},
        ),
        ("{method: {name: mixup, alpha: 1}}", {("mixup alpha=1", 0), ("mixup alpha=1", 1)}),
        ("{method: {alpha: 1}}", {("mixup alpha=1", 0), ("mixup alpha=1", 1)}),
        ("{method: mixup alpha=1, seed: 1}", {("mixup alpha=1", 1)}),
        ("{seed: 0}", {("erm", 0), ("mixup alpha=0.2", 0), ("mixup alpha=1", 0)}),
    ],
)
def test_exclude_with_method_and_seed(load: Callable[..., Suite], entry: str, taken: set[tuple[str, int]]) -> None:
    """They go from the cells that the entry names, and from every cell where it names none: included ones too."""
    cells = f"{HEAD}matrix: {{training.batch_size: [16, 32]}}\ninclude: [{{training.batch_size: 64}}]\n"
    every = set(itertools.product(["erm", "mixup alpha=0.2", "mixup alpha=1"], [0, 1]))

    def runs(exclude: str) -> list[set[tuple[str, int]]]:
        plan = make_plan(load(f"{cells}exclude: [{exclude}]\n"))
        return [{(p.arm, p.trial.seed) for p in plan.trials if p.cell == cell} for cell in plan.cells]

    assert runs(entry) == [every - taken] * 3
    assert runs(entry.replace("{", "{training.batch_size: 32, ", 1)) == [every, every - taken, every]
    assert runs(entry.replace("{", "{training.batch_size: 64, ", 1)) == [every, every, every - taken]


def test_an_include_entry_has_no_method(load: Callable[..., Suite]) -> None:
    with pytest.raises(SuiteError, match=r":9: include\[0\]\.method: unknown key"):
        load(f"{HEAD}include: [{{training.lr: 0.2, method: erm}}]\n")


def test_lists_inside_a_method_are_swept(load: Callable[..., Suite]) -> None:
    text = HEAD.replace("alpha: [0.2, 1]", "alpha: [0.2, 1], lam_per: [batch, sample]")
    assert [method.label for method in load(text).methods] == [
        "erm",
        "mixup alpha=0.2",
        "mixup alpha=0.2 lam_per=sample",
        "mixup alpha=1",
        "mixup alpha=1 lam_per=sample",
    ]


def test_seeds_are_a_count_or_a_list(load: Callable[..., Suite]) -> None:
    assert load(HEAD).seeds == (0, 1)
    assert load(HEAD.replace("seeds: 2", "seeds: [7, 3]")).seeds == (7, 3)
    assert load(HEAD.replace("seeds: 2\n", "")).seeds == (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells") / "suite.yaml"


FACTORS = {
    "training.batch_size": st.integers(1, 512),
    "training.momentum": st.floats(0, 0.99),
    "label_noise.rate": st.floats(0.01, 1),
    "dataset.train_size": st.integers(2, 1000),
    "model": st.sampled_from(["mlp", "lenet", "preact_resnet18", "timm/test_vit"]),
}


@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_any_matrix_expands_to_its_product(path: Path, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(FACTORS)), min_size=1, unique=True), label="factors")
    matrix = {
        name: data.draw(st.lists(FACTORS[name], min_size=1, max_size=4, unique=True), label=name) for name in chosen
    }
    seeds = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True), label="seeds")
    alphas = data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 1, 2, 4, 8]), min_size=1, unique=True), label="alphas")
    path.write_text(
        HEAD.replace("[0.2, 1]", str(alphas)).replace("seeds: 2", f"seeds: {seeds}") + f"matrix: {matrix}\n"
    )
    plan = make_plan(load_suite(path))
    cells = set(itertools.product(*matrix.values()))
    assert len(plan.cells) == len(set(plan.cells)) == len(cells)
    assert len(plan.trials) == len(cells) * (1 + len(alphas)) * len(seeds)
    assert len({planned.trial_id for planned in plan.trials}) == len(plan.trials)
    assert len({(planned.cell, planned.arm, planned.trial.seed) for planned in plan.trials}) == len(plan.trials)
