"""What a suite may have measured, and how the records are told apart."""

from __future__ import annotations

import pytest

from bench.data.corruptions import EXTRA, STANDARD
from bench.plan.document import SuiteError
from bench.plan.plan import make_plan

SUITE = """\
name: some
question: What then?
seeds: 3
base:
  dataset: {{name: digits, val_fraction: {val}}}
  model: mlp
  training: {{epochs: 2}}
methods: [erm, mixup]
evaluate: {evaluate}
report: {{metric: {metric}}}
{more}
"""


@pytest.fixture
def suite(load):
    def load_with(evaluate="[clean]", metric="test_error_last", val=0.1, more=""):
        return load(SUITE.format(evaluate=evaluate, metric=metric, val=val, more=more))

    return load_with


def keys(suite):
    return make_plan(suite).trials[0].evaluation_keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[corruptions]", "[{name: corruptions, kinds: standard, severities: [1, 2, 3, 4, 5]}]"),
        (
            "[{name: corruptions, kinds: [fog, contrast], severities: [5, 1]}]",
            "[{name: corruptions, kinds: [contrast, fog], severities: [1, 5]}]",
        ),
        ("[{name: ood, against: mnist}]", "[{name: ood, against: {name: mnist}}]"),
        ("[{name: adversarial, epsilon: [1, 2]}]", "[{name: adversarial, epsilon: [1.0, 2.0]}]"),
    ],
)
def test_the_same_evaluation_written_otherwise_is_one(suite, one, other):
    assert keys(suite(one)) == keys(suite(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[corruptions]", "[{name: corruptions, source: generated}]"),
        ("[corruptions]", "[{name: corruptions, kinds: all}]"),
        ("[{name: ood, against: mnist}]", "[{name: ood, against: kmnist}]"),
        ("[adversarial]", "[{name: adversarial, steps: 20}]"),
        ("[in_between]", "[{name: in_between, pairs: 20}]"),
    ],
)
def test_other_options_are_another_record(suite, one, other):
    assert keys(suite(one)) != keys(suite(other))


def test_evaluations_are_no_part_of_a_trial(suite):
    plans = [make_plan(suite(text)) for text in ("[clean]", "[clean, corruptions]")]
    assert [t.trial_id for t in plans[0].trials] == [t.trial_id for t in plans[1].trials]


def test_groups_of_corruptions(suite):
    for text, kinds in (("standard", STANDARD), ("extra", EXTRA), ("all", STANDARD + EXTRA)):
        (evaluation,) = suite(f"[{{name: corruptions, kinds: {text}, severities: [2]}}]").evaluations
        assert evaluation.wanted == [(kind, 2) for kind in kinds]
    assert len(STANDARD) == 15
    assert len(EXTRA) == 4


def test_an_attack_by_transfer_needs_the_baselines_next_seed(suite):
    plan = make_plan(suite("[transfer]"))
    by_id = {planned.trial_id: planned for planned in plan.trials}
    for planned in plan.trials:
        (evaluation,) = planned.evaluations
        source = by_id[evaluation.source]
        assert source.arm == "erm"
        assert source.trial.seed == (planned.trial.seed + 1) % 3
        assert source.is_source
        assert planned.is_source == (planned.arm == "erm")
    assert len({planned.evaluation_keys for planned in plan.trials}) == 3, "the source is part of the record's name"


@pytest.mark.parametrize(
    ("options", "line", "words"),
    [
        ({"evaluate": "[corruption]"}, 9, ["unknown evaluation 'corruption'", "corruptions"]),
        ({"evaluate": "[{name: corruptions, kinds: [frogs]}]"}, 9, ["unknown corruption 'frogs'", "frost"]),
        ({"evaluate": "[{name: corruptions, kinds: most}]"}, 9, ["most", "standard"]),
        ({"evaluate": "[{name: corruptions, severities: [6]}]"}, 9, ["from 1 to 5"]),
        ({"evaluate": "[{name: corruptions, sevrity: 1}]"}, 9, ["sevrity", "severities"]),
        ({"evaluate": "[{name: ood}]"}, 9, ["against", "missing"]),
        ({"evaluate": "[{name: ood, against: imagnet}]"}, 9, ["unknown data set 'imagnet'"]),
        ({"evaluate": "[{name: adversarial, epsilon: [8, 4]}]"}, 9, ["should rise"]),
        ({"evaluate": "[adversarial, {name: adversarial, steps: 3}]"}, 9, ["adv_fgsm_linf_1_error", "already"]),
        ({"evaluate": "[{name: adversarial, epsilon: [300]}]"}, 9, ["300", "255"]),
        ({"evaluate": "[{name: ood, against: 3}]"}, 9, ["3", "name of a data set"]),
        ({"evaluate": "[{name: ood, against: {name: mnist, train_size: 9}}]"}, 9, ["train_size", "test images"]),
        ({"evaluate": "[3]"}, 9, ["should be a name"]),
        ({"metric": "test_eror_last"}, 10, ["unknown metric", "test_error_last"]),
        ({"metric": "mean_corruption_error"}, 10, ["unknown metric"]),
        ({"evaluate": "[{name: ood, against: mnist}]", "metric": "ood_mnist_auroc_msp"}, 10, ["unknown metric"]),
        ({"evaluate": "[calibration]", "metric": "test_ece_scaled", "val": 0}, 10, ["needs validation"]),
        (
            {"evaluate": "[calibration]", "metric": "test_ece_scaled", "val": 0.0001},
            5,
            ["0.0001 of 1000 images is none"],
        ),
        ({"evaluate": "[transfer]", "more": "keep_weights: never"}, 9, ["keep_weights never"]),
        (
            {"evaluate": "[transfer]", "more": "exclude: [{method: erm, seed: 1}, {method: erm, seed: 2}]"},
            9,
            ["`exclude`"],
        ),
    ],
)
def test_mistakes_are_named_where_they_stand(suite, options, line, words):
    with pytest.raises(SuiteError) as error:
        make_plan(suite(**options))
    message = str(error.value)
    assert f"suite.yaml:{line}:" in message, message
    for word in words:
        assert word in message


def test_a_report_can_go_by_a_figure_of_an_evaluation(suite):
    loaded = suite("[corruptions, calibration]", metric="mean_corruption_error")
    assert loaded.report.metric == "mean_corruption_error"
    assert suite("[calibration]", metric="test_ece", val=0).report.metric == "test_ece"


NOISE = """\
name: noisy
question: What then?
base:
  dataset: {dataset}
  model: mlp
  label_noise: {noise}
  training: {{epochs: 2}}
methods: [erm, mixup]
"""


@pytest.mark.parametrize(
    ("noise", "name"),
    [
        ("{kind: pair_flip, rate: 0.3}", "pair_flip 30 %"),
        ("{kind: asymmetric, rate: 0.4}", "asymmetric 40 %"),
        ("{kind: instance, rate: 0.2}", "instance 20 %"),
        ("{kind: asymmetric, rate: 0.4, map: {1: 7, 7: 1}}", "asymmetric 40 %"),
    ],
)
def test_kinds_of_label_noise(load, noise, name):
    plan = make_plan(load(NOISE.format(dataset="digits", noise=noise)))
    assert plan.trials[0].trial.label_noise.display_name == name


@pytest.mark.parametrize(
    ("dataset", "noise", "words"),
    [
        ("digits", "{kind: pair_flip}", ["needs a rate"]),
        ("digits", "{kind: matrix, rate: 0.2}", ["takes no rate"]),
        ("digits", "{kind: matrix}", ["needs matrix"]),
        ("digits", "{kind: matrix, matrix: [[0.5, 0.5], [0, 1]]}", ["10"]),
        ("digits", "{kind: uniform, rate: 0.2, map: {1: 7}}", ["map belongs to kind asymmetric"]),
        ("svhn", "{kind: asymmetric, rate: 0.2}", ["needs a map", "cifar10"]),
        ("digits", "{kind: human}", ["needs file and labels"]),
        ("digits", "{kind: human, file: nowhere.pt, labels: worst}", ["nowhere.pt", "not there"]),
        ("digits", "{kind: pairflip, rate: 0.2}", ["pair_flip"]),
    ],
)
def test_label_noise_that_will_not_do(load, dataset, noise, words):
    with pytest.raises(SuiteError) as error:
        make_plan(load(NOISE.format(dataset=dataset, noise=noise)))
    for word in words:
        assert word in str(error.value)


def test_a_label_file_is_known_by_its_content(load, tmp_path):
    def trial_id(file):
        noise = f"{{kind: human, file: {file}, labels: worst}}"
        return make_plan(load(NOISE.format(dataset="digits", noise=noise))).trials[0].trial_id

    here, there, other = (tmp_path / name for name in ("here.pt", "there.pt", "other.pt"))
    here.write_bytes(b"labels")
    there.write_bytes(b"labels")
    other.write_bytes(b"other labels")
    assert trial_id(here) == trial_id(there)
    assert trial_id(here) != trial_id(other)


def test_corrupted_training_images_are_another_data_set(load):
    cells = "{name: digits, train_corruption: {kind: fog, severity: 2, share: 0.5}}"
    noisy = make_plan(load(NOISE.format(dataset=cells, noise="{rate: 0}")))
    clean = make_plan(load(NOISE.format(dataset="digits", noise="{rate: 0}")))
    assert noisy.trials[0].trial_id != clean.trials[0].trial_id
    assert noisy.cells == ("mlp, digits + fog 2 on 50 %",)
    with pytest.raises(SuiteError, match="unknown corruption 'fogg'"):
        load(NOISE.format(dataset="{name: digits, train_corruption: {kind: fogg}}", noise="{rate: 0}"))
