"""What methods ask of networks, recipes and images, checked before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.document import SuiteError
from bench.plan.networks import check_networks, known_networks, questions
from bench.plan.plan import make_plan
from bench.plan.suite import Suite

TEXT = """\
name: methods
question: Which method?
base:
  dataset: digits
  model: {name: mlp}
  training: {epochs: 8}
methods:
  - erm
  - METHOD
"""


@pytest.fixture
def suite_with(load: Callable[..., Suite]) -> Callable[..., Suite]:
    def make(method: str, model: str = "name: mlp") -> Suite:
        return load(TEXT.replace("METHOD", method).replace("name: mlp", model))

    return make


def arms(suite: Suite) -> list[str]:
    return [method.label for method in suite.methods]


def test_options_of_every_kind_are_swept(suite_with: Callable[..., Suite]) -> None:
    assert arms(suite_with("{name: mixup, alpha: [1, 2], dropout: [0, 0.3]}"))[1:] == [
        "mixup alpha=1",
        "mixup alpha=1 dropout=0.3",
        "mixup alpha=2",
        "mixup alpha=2 dropout=0.3",
    ]
    assert arms(suite_with("{name: manifold_mixup, layers: [0, [1, 2]]}"))[1:] == [
        "manifold_mixup alpha=2 layers=0",
        "manifold_mixup alpha=2 layers=1,2",
    ]
    assert arms(suite_with("{name: mixup, lam: [uniform, 0.5]}"))[1:] == ["mixup alpha=1", "mixup lam=0.5"]
    assert arms(suite_with("{name: mixup, partner: [permutation, same_class], examples: 3}"))[1:] == [
        "mixup alpha=1 examples=3",
        "mixup alpha=1 partner=same_class examples=3",
    ]


def test_an_arm_that_trains_as_another_is_a_duplicate(suite_with: Callable[..., Suite]) -> None:
    with pytest.raises(SuiteError, match=r"duplicate arm 'erm': methods\[0\].*cutmix alpha=0 trains as erm does"):
        suite_with("{name: cutmix, alpha: [0, 1]}")
    with pytest.raises(SuiteError, match=r"duplicate arm 'erm dropout=0.5': methods\[1\].*trains as erm dropout=0.5"):
        suite_with("{name: erm, dropout: 0.5}\n  - {name: mixup, alpha: 0, dropout: 0.5}")
    with pytest.raises(SuiteError, match=r"duplicate arm 'erm': "):
        suite_with("{name: regmixup, probability: 0}")


@pytest.mark.parametrize("name", ["dropout", "label_smoothing", "cutout", "weight_decay"])
def test_a_companion_is_no_method(suite_with: Callable[..., Suite], name: str) -> None:
    with pytest.raises(SuiteError, match=rf"unknown method '{name}'; {name} is an option of every method, as in"):
        suite_with(name)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("{name: mixup, off_epoch: 0.99}", r"off_epoch: a share of 0.99 of 8 epochs is all of them"),
        ("{name: mixup, warmup_epochs: 0.01}", r"warmup_epochs: a share of 0.01 of 8 epochs is none"),
        ("{name: erm, weight_decay: 1e-4}", r"weight_decay: duplicate arm 'erm weight_decay=0.0001' .* as 'erm' does"),
        ("{name: mixup, off_epoch: 8}", r":9: methods\[1\].off_epoch: mixing stops after 8 epochs of a training that"),
        ("{name: mixup, warmup_epochs: 8}", r":9: methods\[1\].warmup_epochs: no epoch is left to mix in"),
        ("{name: mixup, off_epoch: 0.01}", r":9: methods\[1\].off_epoch: no epoch is left to mix in"),
        (
            "{name: cutmix, warmup_epochs: 4, off_epoch: 0.5}",
            r"methods\[1\].warmup_epochs: no epoch is left to mix in: warmup_epochs 4, off_epoch 0.5, of 8 epochs",
        ),
        ("{name: erm, cutout: 9}", r":9: methods\[1\].cutout: a square of 9 pixels is more than the images of digits"),
    ],
)
def test_what_does_not_fit_the_recipe_or_the_images(suite_with: Callable[..., Suite], method: str, error: str) -> None:
    with pytest.raises(SuiteError, match=error):
        make_plan(suite_with(method))


def test_a_network_that_has_dropout_already(suite_with: Callable[..., Suite]) -> None:
    with pytest.raises(SuiteError, match=r"methods\[1\].dropout: the network sets dropout already, to 0.3: give it in"):
        make_plan(suite_with("{name: mixup, dropout: [0, 0.3]}", "name: mlp, dropout: 0.3"))


def test_no_next_batch(load: Callable[..., Suite]) -> None:
    text = TEXT.replace("METHOD", "{name: mixup, partner: next_batch}").replace(
        "epochs: 8", "epochs: 8, batch_size: 900"
    )
    with pytest.raises(SuiteError, match=r"methods\[1\].partner: an epoch of 900 training images has no next batch"):
        make_plan(load(text))


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("{name: mixup, partner: knn}", "methods[1].partner: 'knn' should be 'permutation', 'same_class'"),
        ("{name: manifold_mixup, layers: true}", "methods[1]: True should be a layer's number, from 0"),
        ("{name: manifold_mixup, layers: 1.0}", "methods[1]: 1.0 should be a layer's number, from 0"),
        ("{name: mixup, off_epoch: [0.5, 1.0]}", "methods[1]: off_epoch 1.0: a whole number counts epochs"),
    ],
)
def test_errors_say_what_would_be_right(suite_with: Callable[..., Suite], method: str, error: str) -> None:
    with pytest.raises(SuiteError) as found:
        suite_with(method)
    assert error in str(found.value)


def test_what_fits(suite_with: Callable[..., Suite]) -> None:
    for method in ("{name: mixup, off_epoch: 0.75, warmup_epochs: 2}", "{name: erm, cutout: 8}"):
        assert make_plan(suite_with(method)).num_comparisons == 1


def test_only_arms_that_run_in_a_cell_are_checked(load: Callable[..., Suite]) -> None:
    text = TEXT.replace("METHOD", "{name: mixup, off_epoch: 8}")
    text += "matrix: {training.epochs: [8, 16]}\nexclude: [{training.epochs: 8, method: mixup}]\n"
    assert make_plan(load(text)).num_comparisons == 1


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ("3", r"methods\[1\].layers: mlp has no layer 3; there is 0 \(the input\), 1 \(2\), 2 \(4\)"),
        ("[[0, stem]]", r"mlp has no layer 'stem'"),
    ],
)
def test_a_layer_that_the_network_does_not_have(
    suite_with: Callable[..., Suite], tmp_path: Path, layers: str, error: str
) -> None:
    """Known without torch: the suites that ship have an MLP."""
    with pytest.raises(SuiteError, match=error):
        known_networks(suite_with(f"{{name: manifold_mixup, layers: {layers}}}"), cache_root=tmp_path)


def test_one_layer_by_two_names(suite_with: Callable[..., Suite], tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"layers \[1, '2'\] names one layer of mlp twice"):
        known_networks(suite_with('{name: manifold_mixup, layers: [[1, "2"]]}'), cache_root=tmp_path)


def test_layers_by_number_and_name(suite_with: Callable[..., Suite], tmp_path: Path) -> None:
    known_networks(suite_with('{name: manifold_mixup, layers: [2, [0, "2"]]}'), cache_root=tmp_path)


def test_a_reference_network_has_no_stochastic_depth(suite_with: Callable[..., Suite], tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"methods\[1\].stochastic_depth: stochastic_depth is timm's .*mlp has none"):
        known_networks(suite_with("{name: erm, stochastic_depth: 0.1}"), cache_root=tmp_path)


def test_timm_is_asked_whether_its_network_takes_what_a_method_asks_for(
    suite_with: Callable[..., Suite], tmp_path: Path
) -> None:
    """Starts torch, once each. Every ResNet takes both, GhostNet no stochastic depth."""
    suite = suite_with("{name: mixup, dropout: 0.2, stochastic_depth: 0.1}", "name: timm/resnet10t")
    args = [asked.asked["args"] for asked in questions(suite).values()]
    assert args == [{}, {"drop_rate": 0.2, "drop_path_rate": 0.1}]
    check_networks(suite, cache_root=tmp_path)
    assert len(known_networks(suite, cache_root=tmp_path).by_name) == 2

    wrong = suite_with("{name: mixup, stochastic_depth: 0.1}", "name: timm/ghostnet_100")
    with pytest.raises(SuiteError, match=r":9: methods\[1\].stochastic_depth: timm/ghostnet_100 .*'drop_path_rate'"):
        check_networks(wrong, cache_root=tmp_path)
