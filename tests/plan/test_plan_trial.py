"""The identity of a trial: what is in it, what is not, and that it stays."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.plan.config import TrainingConfig
from bench.plan.plan import PlannedTrial, make_plan
from bench.plan.suite import Suite, load_suite
from bench.plan.trial import Trial

TRIAL: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "label_noise": {"kind": "uniform", "rate": 0.4},
    "model": {"name": "mlp"},
    "training": {"epochs": 3},
    "method": {"name": "mixup", "alpha": 1},
    "seed": 0,
}

DEFAULTS: dict[str, Any] = {
    "dataset": {"val_fraction": 0.1, "fingerprint": ""},
    "model": {"hidden": [128, 64], "dropout": 0},
    "training": {
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "gamma": 0.1,
        "warmup_epochs": 0,
        "crop_padding": 0,
        "flip": False,
        "precision": "fp32",
        "channels_last": False,
        "threads": 1,
        "deterministic": False,
    },
    "method": {"lam_per": "batch", "labels": "mixed"},
}


def changed(**sections: Any) -> dict[str, Any]:
    """TRIAL with these keys of its sections changed."""
    return {
        name: {**value, **sections.get(name, {})} if isinstance(value, dict) else sections.get(name, value)
        for name, value in TRIAL.items()
    }


def trial_id(**sections: Any) -> str:
    return Trial.model_validate(changed(**sections)).trial_id


def test_the_id_is_that_of_this_numerics_version() -> None:
    # May change only with NUMERICS_VERSION, or when an option is added: after that, every result there is has to be
    # trained again, which CHANGELOG.md has to say.
    assert trial_id() == "b4e75e7ceeb3f465"


def test_the_id_hashes_every_option() -> None:
    """SHA-256 of the JSON that the docs describe, written out here: options without a value are left out."""
    content = {"numerics_version": 2, **changed(**DEFAULTS)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert trial_id() == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(("section", "key"), [(section, key) for section in DEFAULTS for key in DEFAULTS[section]])
def test_a_default_may_be_spelled_out(section: str, key: str) -> None:
    assert trial_id(**{section: {key: DEFAULTS[section][key]}}) == trial_id()


OTHERS: list[dict[str, Any]] = [
    {"dataset": {"name": "mnist"}},
    {"dataset": {"train_size": 500}},
    {"dataset": {"val_fraction": 0.2}},
    {"dataset": {"fingerprint": "1234"}},
    {"label_noise": {"rate": 0.2}},
    {"label_noise": {"kind": "symmetric"}},
    {"label_noise": {"kind": "pair_flip"}},
    {"label_noise": {"kind": "asymmetric"}},
    {"label_noise": {"kind": "asymmetric", "map": {1: 7}}},
    {"label_noise": {"kind": "instance"}},
    {"dataset": {"train_corruption": {"kind": "fog"}}},
    {"dataset": {"train_corruption": {"kind": "fog", "severity": 2}}},
    {"dataset": {"train_corruption": {"kind": "fog", "share": 0.5}}},
    {"model": {"dropout": 0.5}},
    {"model": {"name": "lenet"}},
    {"model": {"hidden": [128]}},
    {"training": {"epochs": 4}},
    {"training": {"batch_size": 64}},
    {"training": {"optimizer": "adam"}},
    {"training": {"lr": 0.2}},
    {"training": {"momentum": 0.8}},
    {"training": {"nesterov": True}},
    {"training": {"weight_decay": 0}},
    {"training": {"schedule": "constant"}},
    {"training": {"schedule": "step", "step_epochs": 1}},
    {"training": {"schedule": "step", "step_epochs": 2}},
    {"training": {"schedule": "multistep", "milestones": [1]}},
    {"training": {"schedule": "multistep", "milestones": [1, 2]}},
    {"training": {"gamma": 0.5}},
    {"training": {"warmup_epochs": 1}},
    {"training": {"crop_padding": 1}},
    {"training": {"random_resized_crop": {"scale": (0.08, 1.0)}}},
    {"training": {"random_resized_crop": {"scale": (0.5, 1.0)}}},
    {"training": {"flip": True}},
    {"training": {"precision": "bf16"}},
    {"training": {"channels_last": True}},
    {"training": {"threads": 2}},
    {"training": {"deterministic": True}},
    {"training": {"compile": True}},
    {"training": {"cuda_graph": True}},
    {"method": {"alpha": 0.2}},
    {"method": {"lam_per": "sample"}},
    {"method": {"labels": "unmixed"}},
    {"seed": 1},
]


def test_every_option_is_in_the_id() -> None:
    assert {key for other in OTHERS for key in other.get("training", {})} == {*TrainingConfig.model_fields}
    ids = [trial_id(), *(trial_id(**other) for other in OTHERS)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("network", "pays"), [("mlp", False), ("lenet", True), ("timm/test_resnet", True)])
def test_channels_last_is_the_default_where_it_pays(network: str, pays: bool) -> None:
    model = {"name": network, **({"hidden": [128, 64], "dropout": 0} if network == "mlp" else {})}
    trial = Trial.model_validate({**TRIAL, "model": model})
    assert trial.training.channels_last is pays
    spelled = {**TRIAL, "model": model, "training": {**TRIAL["training"], "channels_last": pays}}
    assert Trial.model_validate(spelled).trial_id == trial.trial_id
    other = {**spelled, "training": {**TRIAL["training"], "channels_last": not pays}}
    assert Trial.model_validate(other).trial_id != trial.trial_id


def test_what_gives_the_same_numbers_has_the_same_id() -> None:
    clean = trial_id(label_noise={"rate": 0, "kind": "none"})
    assert trial_id(label_noise={"rate": 0, "kind": "uniform"}) == clean
    assert trial_id(label_noise={"rate": 0.0, "kind": "symmetric"}) == clean
    assert trial_id(method={"alpha": 1.0}) == trial_id(method={"alpha": 1})
    vit = {"name": "timm/test_vit"}
    assert trial_id(model={**vit, "drop_rate": 0}) == trial_id(model={**vit, "drop_rate": 0.0})
    assert trial_id(model={**vit, "drop_rate": 0}) != trial_id(model=vit)  # timm's defaults are timm's to change


def test_a_record_gives_the_trial_back() -> None:
    trial = Trial.model_validate(changed(training={"schedule": "multistep", "milestones": [1, 2]}))
    record = json.loads(json.dumps(trial.record()))
    assert record["trial_id"] == trial.trial_id
    again = Trial.model_validate(record["trial"])
    assert again == trial
    assert again.trial_id == trial.trial_id


def one_trial(suite: Suite) -> PlannedTrial:
    (planned,) = make_plan(suite).trials
    return planned


def test_the_same_trial_in_two_suites_is_one(load: Callable[..., Suite]) -> None:
    first = """\
name: one
question: First?
seeds: 1
base:
  dataset: digits
  model: mlp
  label_noise: {kind: uniform, rate: 0.4}
  training: {epochs: 3}
methods: [{name: mixup, alpha: 1}]
baseline: mixup
"""
    second = """\
name: two
version: 7
question: Second?
source: elsewhere
seeds: [0]
base:
  training: {epochs: 9}
matrix:
  training.epochs: [3]
  model: [{name: mlp, hidden: [128, 64]}]
  dataset.name: [digits]
zip:
  - {label_noise.rate: [0.4], label_noise.kind: [uniform]}
methods: [{name: mixup, alpha: [1.0], labels: mixed}]
baseline: mixup alpha=1
evaluate: [clean]
keep_weights: never
report: {metric: test_error_oracle}
"""
    assert one_trial(load(first)).trial_id == one_trial(load(second)).trial_id == trial_id()


def bird_suite(path: Path, root: Path) -> Path:
    path.write_text(
        f"""\
name: birds
question: Does mixup help on my birds?
base:
  dataset: {{name: image_folder, root: {root}, image_size: 32}}
  model: timm/test_resnet
  training: {{epochs: 30, lr: 0.05, flip: true}}
methods:
  - erm
  - {{name: mixup, alpha: [0.2, 1]}}
"""
    )
    return path


def make_birds(root: Path) -> None:
    for number, name in enumerate(
        ["train/owl/a", "train/owl/b", "train/tit/a", "train/tit/b", "test/owl/c", "test/tit/c"]
    ):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(path)


def test_images_are_known_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    """The ten-line suite of the README, and the same folder on another disk."""
    for root in (tmp_path / "here" / "birds", tmp_path / "there" / "birds"):
        make_birds(root)
    here = make_plan(load_suite(bird_suite(tmp_path / "here.yaml", tmp_path / "here" / "birds")))
    there = make_plan(load_suite(bird_suite(tmp_path / "there.yaml", tmp_path / "there" / "birds")))
    assert len(bird_suite(tmp_path / "here.yaml", tmp_path).read_text().splitlines()) <= 10
    assert here.cells == ("test_resnet, birds",)
    assert len(here.trials) == 6 * 3
    assert here.trials[0].trial.dataset.root != there.trials[0].trial.dataset.root
    assert [p.trial_id for p in here.trials] == [p.trial_id for p in there.trials]
    Image.new("RGB", (50, 50)).save(tmp_path / "there" / "birds" / "train" / "owl" / "d.png")
    more = make_plan(load_suite(tmp_path / "there.yaml"))
    assert not {p.trial_id for p in more.trials} & {p.trial_id for p in here.trials}


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_birds(tmp_path / "birds")
    monkeypatch.setenv("HOME", str(tmp_path))
    plan = make_plan(load_suite(bird_suite(tmp_path / "suite.yaml", Path("~/birds"))))
    assert plan.trials[0].trial.dataset.root == tmp_path / "birds"


def test_ids_are_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        """\
name: same
question: Are ids the same in every process?
base: {dataset: digits, training: {epochs: 3}}
methods: [erm, {name: mixup, alpha: [0.2, 1]}]
matrix: {model: [mlp, lenet, {name: timm/test_vit, img_size: 8, patch_size: 2, drop_rate: 0.1}]}
"""
    )
    script = (
        "import sys, pathlib; from bench.plan.plan import make_plan; from bench.plan.suite import load_suite;"
        "plan = make_plan(load_suite(pathlib.Path(sys.argv[1])));"
        "print(plan.plan_id, *plan.cells, *(p.trial_id for p in plan.trials))"
    )

    def output(hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", script, str(path)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert output("1") == output("2")
