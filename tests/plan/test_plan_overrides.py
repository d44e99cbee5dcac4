"""--set: what it changes, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.plan.document import SuiteError
from bench.plan.suite import Suite

TEXT = """\
name: overridden
question: What does --set change?
base:
  dataset: digits
  model: mlp
  training: {epochs: 3, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: [0.2, 1]}
matrix:
  training.batch_size: [32, 64]
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
zip:
  - training.gamma: [0.1, 0.5]
    training.flip: [true, false]
include:
  - {training.batch_size: 64, training.momentum: 0.5}
"""


def trainings(suite: Suite, key: str) -> list[object]:
    """The distinct values of a training option, in the order of the cells."""
    return list(dict.fromkeys(getattr(cell.training, key) for cell in suite.cells))


@pytest.mark.parametrize(
    ("assignment", "key", "values"),
    [
        ("training.epochs=5", "epochs", [5]),
        ("base.training.epochs=5", "epochs", [5]),
        (" training.epochs = 5 ", "epochs", [5]),
        ("training.weight_decay=5e-4", "weight_decay", [0.0005]),
        ("training={epochs: 9, lr: 1}", "epochs", [9]),
        ("matrix.training.batch_size=[8, 16, 64]", "batch_size", [8, 16, 64]),
        ("matrix.training.batch_size.0=8", "batch_size", [8, 64]),
        ("matrix.training.batch_size[0]=8", "batch_size", [8, 64]),
        ("matrix.training.nesterov=[true]", "nesterov", [True]),
        ("zip.0.training.gamma=[0.2, 0.3]", "gamma", [0.2, 0.3]),
        ("include.0.training.momentum=0.7", "momentum", [0.9, 0.7]),
        ("include=[{training.momentum: 0.7}]", "momentum", [0.7]),
    ],
)
def test_recipe(load: Callable[..., Suite], assignment: str, key: str, values: list[object]) -> None:
    suite = load(TEXT, assignment)
    assert trainings(suite, key) == values
    assert suite.overrides == (assignment,)


def test_other_keys(load: Callable[..., Suite]) -> None:
    assert load(TEXT, "seeds=2").seeds == (0, 1)
    assert load(TEXT, "seeds=[4, 2]").seeds == (4, 2)
    assert load(TEXT, "report.metric=test_error_oracle").report.metric == "test_error_oracle"
    assert load(TEXT, "question='a: b, \"c\"'").question == 'a: b, "c"'
    assert load(TEXT, "question=is a = b?").question == "is a = b?"
    assert load(TEXT, "dataset=mnist").cells[0].dataset.name == "mnist"
    assert load(TEXT, "dataset.train_size=100").cells[0].dataset.train_size == 100
    assert load(TEXT, "model=lenet").cells[0].model.args == {"dropout": 0.0}
    assert load(TEXT, "model.hidden=[5]").cells[0].model.args == {"hidden": [5], "dropout": 0.0}
    assert [cell.label_noise.rate for cell in load(TEXT, "matrix.label_noise.1.rate=0.9").cells][-1] == 0.9


def test_a_stopping_rule(load: Callable[..., Suite]) -> None:
    """A number takes its place, and it that of a number; either bound can be set alone."""
    rule = "seeds={min: 3, max: 9}"
    assert load(TEXT, "seeds=2").stopping is None
    assert load(TEXT, rule).seeds == tuple(range(9))
    for assignments, bounds in (([rule], (3, 9)), ([rule, "seeds.max=5"], (3, 5)), ([rule, "seeds.min=2"], (2, 9))):
        stopping = load(TEXT, *assignments).stopping
        assert stopping is not None
        assert (stopping.min, stopping.max, stopping.until) == (*bounds, "clear")
    assert load(TEXT, rule, "seeds=4").stopping is None


def test_methods(load: Callable[..., Suite]) -> None:
    def arms(*assignments: str) -> list[str]:
        return [method.label for method in load(TEXT, *assignments).methods]

    assert arms("methods=[erm, mixup]") == ["erm", "mixup alpha=1"]
    assert arms("methods.1.alpha=4") == ["erm", "mixup alpha=4"]
    assert arms("methods[1].alpha=[4, 8]") == ["erm", "mixup alpha=4", "mixup alpha=8"]
    assert arms("methods=[erm, mixup]", "methods.1.alpha=8") == ["erm", "mixup alpha=8"]


def test_the_last_one_wins(load: Callable[..., Suite]) -> None:
    assert load(TEXT, "seeds=2", "seeds=3").seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("training.epochs", "should be key=value, such as training.epochs=2 or seeds=3"),
        ("=5", "should be key=value, such as training.epochs=2 or seeds=3"),
        ("training..epochs=5", "should be key=value, such as training.epochs=2 or seeds=3"),
        (
            "training.lr=[0.1",
            "not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        ("training.epoch=5", "unknown key; did you mean 'epochs' or 'step_epochs'?"),
        ("trainin.epochs=5", "unknown key 'trainin'; did you mean 'training'?"),
        ("epochs=5", "unknown key 'epochs'; did you mean 'training.epochs'?"),
        ("base.trainin.epochs=5", "unknown key 'trainin'; did you mean 'training'?"),
        ("training.epochs.x=5", "there is no 'x': base.training.epochs is 3"),
        ("methods.2.alpha=5", "there is no '2': methods has 2 entries, from 0"),
        ("methods.mixup.alpha=5", "there is no 'mixup': methods has 2 entries, from 0"),
        ("exclude.0.seed=1", "there is no '0': exclude is {}"),
        # of the matrix
        (
            "training.batch_size=8",
            "training.batch_size is set by matrix.training.batch_size[0] in the suite: override that instead",
        ),
        (
            "base.training.batch_size=8",
            "training.batch_size is set by matrix.training.batch_size[0] in the suite: override that instead",
        ),
        # values that break the suite
        ("training.epochs=", "null (nothing) should be a whole number"),
        ("training.epochs=many", "'many' should be a whole number"),
        ("training.epochs=0", "0 should be greater than or equal to 1"),
        ("training.warmup_epochs=7", "warmup_epochs 7 must be less than epochs 3"),
        ("training.schedule=step", "schedule step needs step_epochs, and no other schedule takes it"),
        ("model=mlpp", "unknown network 'mlpp'; did you mean 'mlp'? (timm's are timm/<name>)"),
        ("model.hiden=[5]", "unknown argument of mlp; did you mean 'hidden'?"),
        ("seeds=[4, 4]", "seed 4 is given twice"),
        ("seeds={min: 4, max: 4}", "4 must be more than min, which is 4"),
        ("seeds={min: 4}", "max is missing"),
        ("methods.1.alpha=-1", "-1 should be greater than or equal to 0"),
        ("methods.1.alpha=0", "duplicate arm 'erm': methods[0] gives it already (mixup alpha=0 trains as erm does)"),
        ("methods=[mixup]", "'erm' is none of the arms; there is mixup alpha=1"),
        ("matrix.label_noise.1.rate=40", "40 should be less than or equal to 1"),
        ("matrix={}", "is empty"),
        (
            "exclude=[{method: mixpu}]",
            "matches nothing: no arm is 'mixpu'; there is erm, mixup alpha=0.2, mixup alpha=1",
        ),
    ],
)
def test_an_error_quotes_the_override(load: Callable[..., Suite], assignment: str, problem: str) -> None:
    with pytest.raises(SuiteError) as error:
        load(TEXT, assignment)
    if assignment == "methods=[mixup]":  # which breaks what another line says
        assert str(error.value).endswith(problem)
    else:
        assert str(error.value) == f"--set {assignment}: {problem}"


def test_errors_elsewhere_keep_their_line(load: Callable[..., Suite]) -> None:
    with pytest.raises(SuiteError, match=r"suite\.yaml:5: base\.model: unknown network 'mpl'"):
        load(TEXT.replace("model: mlp", "model: mpl"), "training.epochs=5")


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("label_noise.kind=symmetric", "label_noise", "kind", "symmetric"),
        ("training.flip=true", "training", "flip", True),
        ("training.momentum=0", "training", "momentum", 0.0),
    ],
)
def test_an_override_reaches_every_cell(
    load: Callable[..., Suite], assignment: str, section: str, key: str, value: object
) -> None:
    """Also those in which a matrix, a zip or an include sets the key again, as long as the cells stay distinct."""
    before, after = load(TEXT), load(TEXT, assignment)
    assert len(after.cells) == len(before.cells)
    noisy = [cell for cell in after.cells if section != "label_noise" or cell.label_noise.rate]
    assert {getattr(cell.sections[section], key) for cell in noisy} == {value}
