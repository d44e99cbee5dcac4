"""Suites with one mistake each: the error is one line that names file, line, key and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.document import SuiteError
from bench.plan.plan import make_plan
from bench.plan.suite import Suite, load_suite

GOOD = """\
name: good
question: Does it?
seeds: 2
base:
  dataset: {name: digits}
  model: {name: mlp}
  training:
    epochs: 3
    lr: 0.1
methods:
  - erm
  - name: mixup
    alpha: [0.2, 1]
matrix:
  training.batch_size: [32, 64]
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
"""


@pytest.fixture
def error_of(tmp_path: Path) -> Callable[[str], str]:
    """The error that a suite of this text gives, without the name of its file."""

    def load_and_fail(text: str) -> str:
        path = tmp_path / "suite.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SuiteError) as error:
            make_plan(load_suite(path))
        message = str(error.value)
        assert message.startswith(f"{path}:")
        return message.removeprefix(f"{path}:")

    return load_and_fail


def with_mistake(right: str, wrong: str) -> str:
    assert GOOD.count(right) == 1
    return GOOD.replace(right, wrong)


def test_without_a_mistake_it_runs(load: Callable[..., Suite]) -> None:
    assert len(make_plan(load(GOOD)).trials) == 2 * (2 * 2) * 3


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("seeds:", "seed:", "3: seed: unknown key; did you mean 'seeds'?"),
        ("methods:", "method:", "10: method: unknown key; did you mean 'methods'?"),
        ("seeds: 2", "training: {epochs: 3}", "3: training: unknown key here: it belongs below base"),
        ("  model:", "  modle:", "6: base.modle: unknown key; did you mean 'model'?"),
        ("name: digits", "nmae: digits", "5: base.dataset.nmae: unknown key; did you mean 'name'?"),
        (
            "name: digits",
            "name: digits, fingerprint: x",
            "5: base.dataset.fingerprint: unknown key: the plan fills it in",
        ),
        ("epochs: 3", "epoch: 3", "8: base.training.epoch: unknown key; did you mean 'epochs' or 'step_epochs'?"),
        ("name: mlp", "name: mlp, hiden: [8]", "6: base.model.hiden: unknown argument of mlp; did you mean 'hidden'?"),
        ("name: mlp", "name: lenet, width: 8", "6: base.model.width: unknown argument of lenet; there is dropout"),
        ("    alpha:", "    alhpa:", "13: methods[1].alhpa: unknown key; did you mean 'alpha'?"),
        (
            "- erm",
            "- {name: erm, alpha: 1}",
            "11: methods[0].alpha: unknown key; there is name, dropout, stochastic_depth, label_smoothing, "
            "gaussian_noise, cutout, weight_decay",
        ),
        (
            "training.batch_size:",
            "training.batchsize:",
            "15: matrix.training.batchsize[0]: unknown key; did you mean 'batch_size'?",
        ),
        (
            "training.batch_size:",
            "batch_size:",
            "15: matrix.batch_size[0]: unknown key; did you mean 'training.batch_size'?",
        ),
        ("rate: 0.4", "rat: 0.4", "16: matrix.label_noise[1].rat: unknown key; did you mean 'rate'?"),
    ],
)
def test_unknown_key(error_of: Callable[[str], str], right: str, wrong: str, error: str) -> None:
    assert error_of(with_mistake(right, wrong)) == error


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("name: digits", "name: digts", "5: base.dataset.name: unknown data set 'digts'; did you mean 'digits'?"),
        ("{name: digits}", "cifar", "5: base.dataset: unknown data set 'cifar'; did you mean 'cifar10' or 'cifar100'?"),
        (
            "name: mlp",
            "name: wrn",
            "6: base.model.name: unknown network 'wrn'; there is mlp, lenet, preact_resnet18, wrn_28_10 "
            "(timm's are timm/<name>)",
        ),
        ("- erm", "- emr", "11: methods[0]: unknown method 'emr'; did you mean 'erm'?"),
        (
            "name: mixup",
            "name: mixpu",
            "12: methods[1]: unknown method 'mixpu'; did you mean 'mixup' or 'fmix' or 'regmixup'?",
        ),
        (
            "kind: uniform",
            "kind: unifrom",
            "16: matrix.label_noise[1].kind: 'unifrom' should be 'none', 'uniform', 'symmetric', 'pair_flip', "
            "'asymmetric', 'matrix', 'instance' or 'human'",
        ),
        (
            "lr: 0.1",
            "schedule: cosin",
            "9: base.training.schedule: 'cosin' should be 'constant', 'step', 'multistep', 'cosine' or 'one_cycle'",
        ),
        ("seeds: 2", "evaluate: [cleam]", "3: evaluate[0]: unknown evaluation 'cleam'; did you mean 'clean'?"),
        (
            "seeds: 2",
            "report: {metric: final_loss}",
            "3: report.metric: unknown metric 'final_loss'; there is test_error_last, test_error_val_selected, "
            "test_error_median10, test_error_oracle, and what the evaluations give, such as test_nll_scaled",
        ),
        ("seeds: 2", "baseline: emr", "3: baseline: 'emr' is none of the arms; did you mean 'erm'?"),
    ],
)
def test_unknown_name(error_of: Callable[[str], str], right: str, wrong: str, error: str) -> None:
    assert error_of(with_mistake(right, wrong)) == error


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("[0.2, 1]", "[0.2, -0.5]", "13: methods[1].alpha: -0.5 should be greater than or equal to 0"),
        ("[0.2, 1]", ".inf", "13: methods[1].alpha: inf should be a finite number"),
        ("[0.2, 1]", "true", "13: methods[1].alpha: true should be a number"),
        ("rate: 0.4", "rate: 1.4", "16: matrix.label_noise[1].rate: 1.4 should be less than or equal to 1"),
        ("rate: 0.4", "rate: -0.4", "16: matrix.label_noise[1].rate: -0.4 should be greater than or equal to 0"),
        ("epochs: 3", "epochs: 0", "8: base.training.epochs: 0 should be greater than or equal to 1"),
        ("epochs: 3", "epochs: many", "8: base.training.epochs: 'many' should be a whole number"),
        ("epochs: 3", "epochs: 2.5", "8: base.training.epochs: 2.5 should be a whole number"),
        ("epochs: 3", "epochs: true", "8: base.training.epochs: true should be a whole number"),
        ("epochs: 3", "epochs:", "8: base.training.epochs: null (nothing) should be a whole number"),
        ("lr: 0.1", "lr: fast", "9: base.training.lr: 'fast' should be a number"),
        ("lr: 0.1", 'lr: "0.1"', "9: base.training.lr: '0.1' should be a number"),
        ("lr: 0.1", "lr: .nan", "9: base.training.lr: nan should be a finite number"),
        ("lr: 0.1", "flip: yes", "9: base.training.flip: 'yes' should be true or false"),
        ("[32, 64]", "[32, tiny]", "15: matrix.training.batch_size[1]: 'tiny' should be a whole number"),
        ("[32, 64]", "32", "15: matrix.training.batch_size: 32 should be a list"),
        ("{name: mlp}", "5", "6: base.model: 5 should be a mapping of model's keys"),
        ("name: good", "name: Good One", "1: name: 'Good One' should be lower case letters, digits, - and _"),
        ("question: Does it?", "question: 5", "2: question: 5 should be text"),
        ("question: Does it?", 'question: ""', "2: question: is empty"),
        ("seeds: 2", "report: 5", "3: report: 5 should be a mapping"),
        (
            "seeds: 2",
            "report: {smallest_effect: 0}",
            "3: report.smallest_effect: 0 should be greater than 0",
        ),
        (
            "seeds: 2",
            "report: {smallest_effect: half a point}",
            "3: report.smallest_effect: 'half a point' should be a number",
        ),
        (
            "seeds: 2",
            "report: {smallest_effect: .inf}",
            "3: report.smallest_effect: inf should be a finite number",
        ),
        (
            "seeds: 2",
            "report: {smallest_effect: 0.5}",
            "3: report.smallest_effect: 0.5 would be 50 points: an error is a fraction, and half a point is 0.005",
        ),
        (
            "seeds: 2",
            "report: {smalest_effect: 0.005}",
            "3: report.smalest_effect: unknown key; did you mean 'smallest_effect'?",
        ),
        ("seeds: 2", "evaluate: []", "3: evaluate: is empty"),
        ("seeds: 2", "zip: {training.flip: [true]}", "3: zip: {'training.flip': [True]} should be a list"),
        ("- erm", "- 5", "11: methods[0]: 5 should be a name, or a mapping such as {name: mixup, alpha: 1}"),
        (
            "- erm",
            "- name: [erm]",
            "11: methods[0]: {'name': ['erm']} should be a name, or a mapping such as {name: mixup, alpha: 1}",
        ),
    ],
)
def test_wrong_type_or_range(error_of: Callable[[str], str], right: str, wrong: str, error: str) -> None:
    assert error_of(with_mistake(right, wrong)) == error


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("name: good\n", "1: name: is missing"),
        ("question: Does it?\n", "1: question: is missing"),
        ("    epochs: 3\n", "7: base.training.epochs: is missing"),
        ("  model: {name: mlp}\n", "4: base.model.name: is missing"),
        ("  dataset: {name: digits}\n", "4: base.dataset.name: is missing"),
    ],
)
def test_missing(error_of: Callable[[str], str], line: str, error: str) -> None:
    assert error_of(with_mistake(line, "")) == error


@pytest.mark.parametrize("seeds", ["0", "-3", "[0, -1]", "[]", "true", "2.0", "[0, 'one']", "'many'", "{}"])
def test_seeds_are_how_many_or_which(error_of: Callable[[str], str], seeds: str) -> None:
    error = error_of(with_mistake("seeds: 2", f"seeds: {seeds}"))
    kinds = "how many, at least 1, or which, a list such as [0, 1, 2], or {min: 3, max: 20}"
    assert error == f"3: seeds: {seeds} should be {kinds}"


def test_a_seed_given_twice(error_of: Callable[[str], str]) -> None:
    assert error_of(with_mistake("seeds: 2", "seeds: [5, 0, 5]")) == "3: seeds: seed 5 is given twice"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{min: 3}", "seeds.max: is missing"),
        ("{max: 3}", "seeds.min: is missing"),
        ("{min: 3, max: 9, untill: clear}", "seeds.untill: unknown key; did you mean 'until'?"),
        ("{min: 3, mx: 9}", "seeds.mx: unknown key; did you mean 'max'?"),
        ("{min: 3, max: 9, until: bored}", "seeds.until: 'bored' should be 'clear'"),
        ("{min: 1, max: 9}", "seeds.min: 1 should be greater than or equal to 2"),
        ("{min: 3, max: 101}", "seeds.max: 101 should be less than or equal to 100"),
        ("{min: 3, max: 3}", "seeds.max: 3 must be more than min, which is 3"),
        ("{min: 3, max: 4.5}", "seeds.max: 4.5 should be a whole number"),
        ("{min: true, max: 4}", "seeds.min: true should be a whole number"),
    ],
)
def test_a_stopping_rule_has_its_bounds(error_of: Callable[[str], str], rule: str, problem: str) -> None:
    assert error_of(with_mistake("seeds: 2", f"seeds: {rule}")) == f"3: {problem}"


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        (
            "- erm",
            "- erm\n  - {name: mixup, alpha: 1.0}",
            "14: methods[2].alpha: duplicate arm 'mixup alpha=1': methods[1] gives it already",
        ),
        ("- erm", "- erm\n  - {name: erm}", "12: methods[1]: duplicate arm 'erm': methods[0] gives it already"),
        (
            "[0.2, 1]",
            "[1, 1.0]",
            "13: methods[1].alpha: duplicate arm 'mixup alpha=1': methods[1] gives it already",
        ),
        (
            "[0.2, 1]",
            "[0, 1]",
            "13: methods[1].alpha: duplicate arm 'erm': methods[0] gives it already (mixup alpha=0 trains as erm does)",
        ),
        (
            "alpha: [0.2, 1]",
            "lam: [0.7, 1]",
            "13: methods[1].lam: duplicate arm 'erm': methods[0] gives it already (mixup lam=1 trains as erm does)",
        ),
        (
            "[0.2, 1]",
            "[0.12345678, 0.12345679]",  # two arms of one name would be taken for one
            "13: methods[1].alpha: duplicate arm 'mixup alpha=0.123457': methods[1] gives it already",
        ),
        ("[0.2, 1]", "[]", "13: methods[1].alpha: is an empty list: no arm is left"),
        (
            "- erm",
            "- {name: mixup, alpha: 1, lam: 0.7}",
            "11: methods[0]: alpha draws lam and lam fixes it: give one of them",
        ),
        (
            "seeds: 2",
            "baseline: mixup",
            "3: baseline: 'mixup' is several arms: name one of mixup alpha=0.2, mixup alpha=1",
        ),
    ],
)
def test_arms_differ_and_one_is_the_baseline(
    error_of: Callable[[str], str], right: str, wrong: str, error: str
) -> None:
    assert error_of(with_mistake(right, wrong)) == error


def test_no_methods(error_of: Callable[[str], str]) -> None:
    text = GOOD.replace(GOOD[GOOD.index("methods:") : GOOD.index("matrix:")], "methods: []\n")
    assert error_of(text) == "10: methods: is empty"


@pytest.mark.parametrize(
    ("matrix", "error"),
    [
        ("", "14: matrix: null (nothing) should be a mapping"),
        ("{}", "14: matrix: is empty"),
        ("{model: []}", "14: matrix.model: is an empty list: the matrix is empty"),
        ("{model: lenet}", "14: matrix.model: 'lenet' should be a list"),
        (
            "{model: [{name: mlp}], model.name: [lenet]}",
            "14: matrix.model.name[0]: model.name is set by matrix.model[0].name already",
        ),
        (
            "{model: [mlp, lenet, mlp]}",
            "14: matrix.model[2]: duplicate cell: the same data, label noise, network and recipe as with "
            "matrix.model[0]",
        ),
        (
            "{model: [mlp, {name: mlp, hidden: [128, 64]}]}",  # the default, spelled out
            "14: matrix.model[1].hidden: duplicate cell: the same data, label noise, network and recipe as with "
            "matrix.model[0]",
        ),
        (
            "{label_noise: [{kind: uniform, rate: 0}, {kind: symmetric, rate: 0}]}",
            "14: matrix.label_noise[1].rate: duplicate cell: the same data, label noise, network and recipe as with "
            "matrix.label_noise[0].rate",
        ),
        (
            "{label_noise: [{kind: symmetric}]}",
            "14: matrix.label_noise[0].kind: kind symmetric needs a rate, such as 0.4",
        ),
        (
            "{label_noise: [{kind: none, rate: 0.4}]}",
            "14: matrix.label_noise[0].kind: kind none is for rate 0; with rate 0.4 it is one of uniform, symmetric, "
            "pair_flip, asymmetric, instance",
        ),
        (
            "{training.schedule: [cosine, step]}",
            "14: matrix.training.schedule[1]: schedule step needs step_epochs, and no other schedule takes it",
        ),
    ],
)
def test_matrix(error_of: Callable[[str], str], matrix: str, error: str) -> None:
    assert error_of(GOOD[: GOOD.index("matrix:")] + f"matrix: {matrix}\n") == error


@pytest.mark.parametrize(
    ("zipped", "error"),
    [
        (
            "[{training.flip: [true, false], training.gamma: [0.5]}]",
            "17: zip[0]: zipped lists should be of one length, not empty: training.flip has 2, training.gamma has 1",
        ),
        ("[{training.flip: []}]", "17: zip[0]: zipped lists should be of one length, not empty: training.flip has 0"),
        ("[{}]", "17: zip[0]: zipped lists should be of one length, not empty: none"),
        (
            "[{training.batch_size: [8, 16]}]",
            "17: zip[0].training.batch_size[0]: training.batch_size is set by matrix.training.batch_size[0] already",
        ),
    ],
)
def test_zip(error_of: Callable[[str], str], zipped: str, error: str) -> None:
    assert error_of(f"{GOOD}zip: {zipped}\n") == error


@pytest.mark.parametrize(
    ("exclude", "error"),
    [
        ("", "17: exclude: null (nothing) should be a list"),
        ("[{}]", "17: exclude[0]: is empty"),
        (
            "[{training.batch_size: 46}]",
            "17: exclude[0].training.batch_size: matches nothing: no cell has training.batch_size 46; there is 32, 64",
        ),
        (
            "[{training.batch_size: 32}, {label_noise: {rate: 0, kind: uniform}}]",
            "17: exclude[1]: matches nothing: no cell has all of these values",
        ),
        (
            "[{training.momentum: 0.9}]",  # the default, but no value of the matrix
            "17: exclude[0].training.momentum: matches nothing: no cell has training.momentum 0.9; there is none",
        ),
        (
            "[{training.batch_size: 32}, {training.batch_size: 64}]",
            "17: exclude: no cell is left: the matrix is empty",
        ),
        (
            "[{method: mixpu}]",
            "17: exclude[0].method: matches nothing: no arm is 'mixpu'; there is erm, mixup alpha=0.2, mixup alpha=1",
        ),
        (
            "[{training.batch_size: 32, method: {name: mixup, alpha: 2}}]",
            "17: exclude[0].method: matches nothing: no arm is {'name': 'mixup', 'alpha': 2}; there is erm, "
            "mixup alpha=0.2, mixup alpha=1",
        ),
        ("[{seed: 2}]", "17: exclude[0].seed: matches nothing: 2 is none of the seeds 0, 1"),
        ("[{seed: [0, 1]}]", "17: exclude[0].seed: matches nothing: [0, 1] is none of the seeds 0, 1"),
        (
            "[{seeds: 2}]",
            "17: exclude[0].seeds: unknown key; did you mean 'seed'?",
        ),
        (
            "[{method: erm}, {method: mixup}]",
            "17: exclude: no trial is left: every arm is taken out of every cell",
        ),
    ],
)
def test_exclude(error_of: Callable[[str], str], exclude: str, error: str) -> None:
    assert error_of(f"{GOOD}exclude: {exclude}\n") == error


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("lr: 0.1", "warmup_epochs: 3", "8: base.training.epochs: warmup_epochs 3 must be less than epochs 3"),
        (
            "lr: 0.1",
            "milestones: [1, 2]",
            "9: base.training.milestones: schedule multistep needs milestones, and no other schedule takes them",
        ),
        (
            "name: digits",
            "name: digits, root: birds",
            "5: base.dataset.root: root belongs to image_folder; digits takes none",
        ),
        (
            "name: digits",
            "name: digits, train_size: 1001",
            "5: base.dataset.train_size: 1001 is more than the 1000 training images of digits",
        ),
        (
            "name: digits",
            "name: image_folder, image_size: 8",
            "5: base.dataset.name: image_folder needs root, as in {name: image_folder, root: ~/birds, image_size: 32}",
        ),
        (
            "name: digits",
            "name: image_folder, root: /nowhere, image_size: 8",
            "5: base.dataset.root: /nowhere: no such folder; `root` is where the image folders lie",
        ),
    ],
)
def test_what_does_not_fit_together(error_of: Callable[[str], str], right: str, wrong: str, error: str) -> None:
    assert error_of(with_mistake(right, wrong)) == error


def test_a_report_by_validation_needs_validation(error_of: Callable[[str], str]) -> None:
    text = with_mistake("name: digits", "name: digits, val_fraction: 0")
    assert error_of(f"{text}report: {{metric: test_error_val_selected}}\n") == (
        "17: report.metric: test_error_val_selected needs validation, and digits has val_fraction 0"
    )
