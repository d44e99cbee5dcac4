"""The JSON Schema agrees with the suites: it takes what runs and refuses a typo, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from bench.plan.document import SuiteError, read
from bench.plan.schema import suite_schema
from bench.plan.suite import Suite, load_suite

GOOD = """\
name: good
question: Is it valid?
source: nowhere
version: 3
baseline: erm
seeds: [0, 1]
base:
  dataset: {name: digits, val_fraction: 0.2, train_size: 500}
  model: mlp
  label_noise: {kind: uniform, rate: 0.2}
  training: {epochs: 3, lr: 1, schedule: multistep, milestones: [1, 2]}
methods:
  - erm
  - mixup
  - {name: mixup, alpha: [0.2, 4], lam_per: sample}
  - {name: mixup, lam: 0.7, labels: unmixed}
matrix:
  model: [lenet, {name: mlp, hidden: [8]}, {name: timm/test_vit, img_size: 8, patch_size: 2}]
  training.batch_size: [32, 64]
zip:
  - {training.weight_decay: [0.1, 0.2], training: [{flip: true}, {gamma: 0.5}]}
include:
  - {model: lenet, training.momentum: 0.5}
exclude:
  - {model.name: lenet, training.batch_size: 64, method: {name: mixup, alpha: 4}, seed: 1}
  - {method: erm, model.hidden: [8]}
evaluate: [clean]
keep_weights: never
report: {metric: test_error_oracle}
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = suite_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def content(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return read(path).content


def test_it_takes_everything_that_a_suite_may_hold(
    validator: Draft202012Validator, tmp_path: Path, load: Callable[..., Suite]
) -> None:
    assert load(GOOD).name == "good"
    assert [error.message for error in validator.iter_errors(content(tmp_path, GOOD))] == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("question:", "qestion:"),
        ("source:", "sauce:"),
        ("  dataset:", "  datset:"),
        ("val_fraction:", "val_fration:"),
        ("name: digits", "name: digts"),
        ("name: digits", "name: digits, fingerprint: x"),
        ("model: [lenet, {", "model: [lenett, {"),
        ("model: mlp", "model: {name: mlp, hiden: [8]}"),
        ("kind: uniform", "kind: unifrom"),
        ("rate: 0.2", "rat: 0.2"),
        ("rate: 0.2", "rate: 1.2"),
        ("epochs: 3", "epoch: 3"),
        ("epochs: 3", "epochs: many"),
        ("lr: 1,", "lr: -1,"),
        ("multistep", "multi_step"),
        ("[1, 2]", "[1, 2.5]"),
        ("  - erm", "  - emr"),
        ("name: mixup, lam", "name: mixpu, lam"),
        ("lam_per:", "lamper:"),
        ("alpha: [0.2, 4]", "alpha: [0.2, -4]"),
        ("alpha: [0.2, 4]", "alpha: []"),
        ("model: [lenet, {", "modle: [lenet, {"),
        ("name: mlp, hidden", "name: mlp, hiden"),
        ("training.batch_size: [32, 64]", "training.batchsize: [32, 64]"),
        ("training.batch_size: [32, 64]", "training.batch_size: 32"),
        ("training.batch_size: [32, 64]", "training.batch_size: []"),
        ("{flip: true}", "{flop: true}"),
        ("training.weight_decay: [", "training.weight_decai: ["),
        ("training.momentum:", "training.momentm:"),
        ("method: erm,", "methods: erm,"),
        ("seed: 1", "seed: one"),
        ("evaluate: [clean]", "evaluate: [cleam]"),
        ("never", "nevver"),
        ("metric:", "metrc:"),
        ("name: good", "name: Good One"),
        ("seeds: [0, 1]", "seeds: some"),
        ("seeds: [0, 1]", "seeds: 0"),
        ("seeds: [0, 1]", "seeds: [0, -1]"),
        ("seeds: [0, 1]", "seeds: []"),
    ],
)
def test_it_refuses_a_mistake_in_each_section(
    validator: Draft202012Validator, tmp_path: Path, right: str, wrong: str
) -> None:
    assert GOOD.count(right) == 1
    mistaken = content(tmp_path, GOOD.replace(right, wrong))
    assert not validator.is_valid(mistaken)
    with pytest.raises(SuiteError):
        load_suite(tmp_path / "suite.yaml")


@pytest.mark.parametrize(
    ("seeds", "fits"),
    [
        ("{min: 3, max: 20}", True),
        ("{min: 2, max: 100, until: clear}", True),
        ("{min: 3}", False),
        ("{min: 1, max: 20}", False),
        ("{min: 3, max: 101}", False),
        ("{min: 3, max: 20, until: bored}", False),
        ("{min: 3, max: 20, step: 2}", False),
        ("{}", False),
    ],
)
def test_it_knows_the_stopping_rule(
    validator: Draft202012Validator, tmp_path: Path, load: Callable[..., Suite], seeds: str, fits: bool
) -> None:
    text = GOOD.replace("seeds: [0, 1]", f"seeds: {seeds}")
    assert validator.is_valid(content(tmp_path, text)) == fits
    if fits:
        assert load(text).stopping is not None
    else:
        with pytest.raises(SuiteError):
            load(text)


@pytest.mark.parametrize(
    ("method", "fits"),
    [
        ("{name: mixup, lam: uniform}", True),
        ("{name: mixup, lam: [uniform, 0.5]}", True),
        ("{name: mixup, lam: beta}", False),
        ("{name: mixup, partner: [permutation, same_class]}", True),
        ("{name: mixup, partner: [neighbours, class_neighbours], k: 5}", True),
        ("{name: mixup, partner: knn}", False),
        ("{name: mixup, label_smoothing: [0, 0.1], dropout: 0}", True),
        ("{name: mixup, dropout: 1}", False),
        ("{name: mixup, dropout: false}", False),
        ("{name: mixup, cutout: 2.5}", False),
        ("{name: mixup, off_epoch: 0.5, warmup_epochs: 1, probability: 0.5}", True),
        ("{name: mixup, probability: 2}", False),
        ("{name: manifold_mixup, layers: 1}", True),
        ("{name: manifold_mixup, layers: [1, [0, stem]]}", True),
        ("{name: manifold_mixup, layers: 1.5}", False),
        ("{name: cutmix, alpha: [0.5, 1]}", True),
        ("{name: cutmix, lam: 0.5}", False),
        ("dropout", False),
        ("{name: dropout, rate: 0.5}", False),
    ],
)
def test_it_and_the_loader_agree_on_methods(
    validator: Draft202012Validator, tmp_path: Path, load: Callable[..., Suite], method: str, fits: bool
) -> None:
    text = "name: a\nquestion: b?\nbase: {dataset: digits, model: mlp, training: {epochs: 9}}\n"
    text += f"methods: [erm, {method}]\n"
    assert validator.is_valid(content(tmp_path, text)) == fits
    if fits:
        load(text)
    else:
        with pytest.raises(SuiteError):
            load(text)


def test_names_that_the_plan_repeats_are_those_of_what_does_the_work() -> None:
    """They stand twice, because the plan must not import torch."""
    from bench.data.label_noise import KINDS
    from bench.plan.config import NoiseKind

    assert {"none", *KINDS} == set(get_args(NoiseKind))
