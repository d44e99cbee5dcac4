"""Cost estimates against arithmetic done by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.plan import cost
from bench.plan.cost import duration, plan_cost, size, trial_cost
from bench.plan.networks import Network, Networks
from bench.plan.plan import Plan, make_plan
from bench.plan.suite import Suite

TEXT = """\
name: priced
question: What does it cost?
seeds: 3
base:
  dataset: {name: digits, val_fraction: 0.1}
  model: mlp
  training: {epochs: 10, batch_size: 64, lr: 0.1}
methods: [erm, mixup]
matrix: {model: [mlp, lenet]}
"""

MLP = Network(params=20_000, tensors=2, forward_flops=1_000_000, layers=["2", "4"])
LENET = Network(params=60_000, tensors=2, forward_flops=4_000_000, layers=["2", "5"])


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round numbers instead of this machine's."""
    monkeypatch.setattr(cost, "START_SECONDS", 0.5)
    monkeypatch.setattr(cost, "TENSOR_SECONDS", 0.005)
    monkeypatch.setattr(cost, "CORE_FLOPS", 1e9)
    monkeypatch.setattr(cost, "GPU_FLOPS", 1e12)


@pytest.fixture
def networks() -> Networks:
    return Networks(
        {
            'mlp {"dropout": 0.0, "hidden": [128, 64]} on 1x8x8, 10 classes': MLP,
            'lenet {"dropout": 0.0} on 1x8x8, 10 classes': LENET,
        }
    )


@pytest.fixture
def plan(load: Callable[..., Suite]) -> Plan:
    return make_plan(load(TEXT))


# digits: 1,000 training images, of which 100 validate, and 797 test images. An epoch is 900 images forward and backward
# (three forward passes) and 897 forward: 3,597 passes; 10 epochs and the 900 once more for the training error: 36,870.
# 900 images in batches of 64 are 15 steps.
MLP_SECONDS = 0.5 + 150 * 0.01 + 36.87
LENET_SECONDS = 0.5 + 150 * 0.01 + 4 * 36.87


@pytest.mark.usefixtures("rates")
def test_a_trial(load: Callable[..., Suite]) -> None:
    def seconds(*overrides: str, gpu: bool = False) -> float:
        return trial_cost(make_plan(load(TEXT, *overrides)).trials[0].trial, MLP, gpu=gpu).seconds

    assert seconds() == pytest.approx(MLP_SECONDS)
    assert seconds(gpu=True) == pytest.approx(0.5 + 1.5 + 0.03687)
    assert seconds("training.threads=2") == pytest.approx(0.5 + 1.5 + 36.87 / 2)
    # 200 of the 1,000, of which none validates: 10 * (600 + 797) + 200 passes, 4 steps an epoch
    assert seconds("dataset={name: digits, train_size: 200, val_fraction: 0}") == pytest.approx(0.5 + 0.4 + 14.17)


@pytest.mark.usefixtures("rates")
def test_bytes_of_a_trial(plan: Plan) -> None:
    price = trial_cost(plan.trials[0].trial, MLP)
    assert price.weight_bytes == 80_000
    assert price.bytes == 4 * 797 * 10 + 10 * 400 + 8_000  # logits, a journal line for each epoch, the rest


@pytest.mark.usefixtures("rates")
def test_nothing_has_run(plan: Plan, networks: Networks) -> None:
    one = plan_cost(plan, networks, pending=plan.trials, finished_seconds={}, slots=1)
    assert one.trial_seconds == {
        ("mlp", "erm"): pytest.approx(MLP_SECONDS),
        ("mlp", "mixup alpha=1"): pytest.approx(MLP_SECONDS),
        ("lenet", "erm"): pytest.approx(LENET_SECONDS),
        ("lenet", "mixup alpha=1"): pytest.approx(LENET_SECONDS),
    }
    assert one.seconds == pytest.approx(6 * MLP_SECONDS + 6 * LENET_SECONDS)
    assert not one.measured
    assert one.weight_bytes == 6 * 80_000 + 6 * 240_000
    two = plan_cost(plan, networks, pending=plan.trials, finished_seconds={}, slots=2)
    assert two.seconds == pytest.approx(one.seconds / 2)
    many = plan_cost(plan, networks, pending=plan.trials, finished_seconds={}, slots=100)
    assert many.seconds == pytest.approx(LENET_SECONDS)  # no sooner than the longest trial


@pytest.mark.usefixtures("rates")
def test_measured_seconds_replace_estimates_and_scale_the_others(plan: Plan, networks: Networks) -> None:
    """This machine takes a third: the median of mlp's three trials, and what lenet is expected to take."""
    measured = {("mlp", "erm"): [MLP_SECONDS, MLP_SECONDS / 3, MLP_SECONDS / 4]}
    pending = [p for p in plan.trials if (p.cell, p.arm) != ("mlp", "erm")]
    found = plan_cost(plan, networks, pending=pending, finished_seconds=measured, slots=1)
    assert found.measured
    assert found.trial_seconds["mlp", "erm"] == pytest.approx(MLP_SECONDS / 3)
    assert found.trial_seconds["lenet", "erm"] == pytest.approx(LENET_SECONDS / 3)
    assert found.seconds == pytest.approx((3 * MLP_SECONDS + 6 * LENET_SECONDS) / 3)


@pytest.mark.usefixtures("rates")
def test_a_network_of_unknown_size(plan: Plan, networks: Networks) -> None:
    """Its time is not known, unless it was measured."""
    known = Networks({name: network for name, network in networks.by_name.items() if network is MLP})
    found = plan_cost(plan, known, pending=plan.trials, finished_seconds={}, slots=1)
    assert found.seconds is None
    assert ("lenet", "erm") not in found.trial_seconds
    measured = {("lenet", "erm"): [7.0], ("lenet", "mixup alpha=1"): [9.0]}
    found = plan_cost(plan, known, pending=plan.trials, finished_seconds=measured, slots=1)
    assert found.measured
    assert found.seconds == pytest.approx(6 * MLP_SECONDS + 3 * 7 + 3 * 9)


def test_nothing_is_left(plan: Plan, networks: Networks) -> None:
    found = plan_cost(plan, networks, pending=[], finished_seconds={}, slots=2)
    assert (found.seconds, found.bytes, found.weight_bytes) == (0, 0, 0)
    assert found.suite_weight_bytes == 6 * 80_000 + 6 * 240_000, "a run that goes on keeps weights as it began to"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (42.4, "42 s"), (99, "99 s"), (120, "2 min"), (5400, "90 min"), (9000, "2.5 h"), (432000, "5.0 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 kB"), (640e3, "640 kB"), (12e6, "12 MB"), (1.84e9, "1.84 GB"), (34e9, "34 GB")]
)
def test_sizes_in_words(num_bytes: float, words: str) -> None:
    assert size(num_bytes) == words


@pytest.mark.usefixtures("rates")
def test_a_trained_network_costs_its_evaluations_alone(load: Callable[..., Suite], networks: Networks) -> None:
    plan = make_plan(load(TEXT, "evaluate=[{name: corruptions, severities: [1]}]"))
    whole = plan_cost(plan, networks, pending=plan.trials, finished_seconds={}, slots=1)
    one = plan.trials[0]
    found = plan_cost(plan, networks, pending=plan.trials, finished_seconds={}, trained={one.trial_id}, slots=1)
    corrupted = 15 * 797 * 1e6 / 1e9  # images, FLOPs, FLOP/s
    assert whole.left_seconds[one.trial_id] == pytest.approx(MLP_SECONDS + corrupted)
    assert found.left_seconds[one.trial_id] == pytest.approx(0.5 + corrupted)
    assert found.seconds == pytest.approx(whole.seconds - MLP_SECONDS + 0.5)
    assert found.bytes < whole.bytes
