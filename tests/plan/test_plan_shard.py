"""Shards: every trial in exactly one, pairs together, the slow cells shared out, the suite's identity kept."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.plan.plan import Plan, make_plan
from bench.plan.shard import parse_shard, shard, take_shard
from bench.plan.suite import Suite, load_suite

HEAD = """\
name: sharded
question: Where?
seeds: {seeds}
base:
  dataset: digits
  model: mlp
  training: {{epochs: 3, lr: 0.1}}
methods: [erm, {{name: mixup, alpha: [0.2, 1]}}]
"""

MATRICES = [
    "",
    "matrix: {label_noise.rate: [0, 0.4]}\n",
    "matrix: {label_noise.rate: [0, 0.2, 0.4], training.lr: [0.1, 0.03]}\n",
    "matrix: {label_noise.rate: [0, 0.4]}\nexclude: [{method: mixup, label_noise.rate: 0.4, seed: 0}]\n",
]
EVALUATE = ["", "evaluate: [clean, {name: transfer, attacks: [fgsm], epsilon: [4]}]\n"]


def planned(text: str) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.yaml"
        path.write_text(text)
        return make_plan(load_suite(path))


PLANS = {
    (seeds, matrix, evaluate): planned(HEAD.format(seeds=seeds) + matrix + evaluate)
    for seeds in (2, 3, 7)
    for matrix in MATRICES
    for evaluate in EVALUATE
}


@settings(deadline=None)
@given(name=st.sampled_from(list(PLANS)), count=st.integers(1, 50), shuffle=st.randoms())
def test_shards_are_disjoint_complete_and_keep_pairs_together(
    name: tuple[int, str, str], count: int, shuffle: random.Random
) -> None:
    plan = PLANS[name]
    shards = [shard(plan, index, count) for index in range(1, count + 1)]
    ids = [planned.trial_id for part in shards for planned in part]
    assert sorted(ids) == sorted(planned.trial_id for planned in plan.trials)
    for part in shards:
        own = {planned.trial_id for planned in part}
        assert [planned.trial_id for planned in plan.trials if planned.trial_id in own] == [p.trial_id for p in part]
        assert {each.source for planned in part for each in planned.evaluations if each.source} <= own
    where = {planned.trial_id: index for index, part in enumerate(shards) for planned in part}
    pairs = {(planned.cell, planned.trial.seed, where[planned.trial_id]) for planned in plan.trials}
    assert len(pairs) == len({(cell, seed) for cell, seed, _ in pairs})
    shuffled = list(plan.trials)
    shuffle.shuffle(shuffled)
    index = shuffle.randint(1, count)
    other = shard(replace(plan, trials=tuple(shuffled)), index, count)
    assert {planned.trial_id for planned in other} == {planned.trial_id for planned in shards[index - 1]}


@settings(deadline=None)
@given(name=st.sampled_from([name for name in PLANS if "exclude" not in name[1]]), n=st.integers(1, 9))
def test_shards_are_as_even_as_can_be(name: tuple[int, str, str], n: int) -> None:
    """In all, and of the cells of each learning rate, which stand for fast and slow ones."""
    plan, (seeds, _, evaluate) = PLANS[name], name
    for rate in {planned.trial.training.lr for planned in plan.trials}:
        pairs = [
            {(each.cell, each.trial.seed) for each in shard(plan, index, n) if each.trial.training.lr == rate}
            for index in range(1, n + 1)
        ]
        sizes = [len(each) for each in pairs]
        assert max(sizes) - min(sizes) <= (seeds if evaluate else 1)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_no_shard_has_all_the_slow_cells(count: int) -> None:
    """Fast and slow cells alternate and their number divides the number of shards: dealt in the plan's order, the slow
    ones would all go to every other shard.
    """
    plan = planned(
        HEAD.format(seeds=4) + "matrix: {label_noise.rate: [0, 0.4], model: [{name: mlp}, {name: timm/test_resnet}]}\n"
    )
    for model in ("mlp", "timm/test_resnet"):
        sizes = [sum(p.trial.model.name == model for p in shard(plan, i + 1, count)) for i in range(count)]
        assert sizes == [2 * 4 * 3 // count] * count


def test_these_shards_stay_what_they_are(load: Callable[..., Suite]) -> None:
    """Machines with different versions would otherwise leave some trials to nobody. By hand."""
    plan = make_plan(load(HEAD.format(seeds=3) + "matrix: {label_noise.rate: [0, 0.4]}\n"))
    units = [dict.fromkeys((p.cell, p.trial.seed) for p in shard(plan, index, 4)) for index in (1, 2, 3, 4)]
    assert [list(each) for each in units] == [
        [("clean", 0), ("uniform 40 %", 1)],
        [("clean", 1), ("uniform 40 %", 2)],
        [("clean", 2)],
        [("uniform 40 %", 0)],
    ]


def test_a_shard_keeps_what_the_suite_is(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(HEAD.format(seeds=3) + MATRICES[1]))
    part = take_shard(plan, "2/4")
    assert Counter(p.cell for p in part.trials) == {"clean": 3, "uniform 40 %": 3}
    assert (part.shard, part.plan_id, part.num_comparisons) == ("2/4", plan.plan_id, plan.num_comparisons)
    assert (part.cells, part.arms, part.seeds) == (plan.cells, plan.arms, plan.seeds)


def test_more_shards_than_units_leave_some_empty(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(HEAD.format(seeds=2)))
    assert [len(take_shard(plan, f"{i}/4").trials) for i in (1, 2, 3, 4)] == [3, 3, 0, 0]


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "2", "2/", "/2", "-1/4", "1/4/2", "1.0/4", "", "0/0", "٢/٤"])
def test_a_text_that_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        parse_shard(text)


def test_a_suite_that_adds_seeds_has_no_shards() -> None:
    plan = planned(HEAD.format(seeds="{min: 3, max: 9}"))
    with pytest.raises(UserError, match=r"no shard sees all: give a number of seeds, --seeds 9"):
        take_shard(plan, "1/2")
