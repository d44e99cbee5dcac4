"""Plans: the order of trials, the names of cells and arms, the plan's own identity."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.data import datasets
from bench.plan.document import SuiteError
from bench.plan.plan import make_plan
from bench.plan.suite import Suite, load_suite

HEAD = """\
name: planned
version: 2
question: In which order?
seeds: [5, 3]
base:
  dataset: digits
  model: mlp
  training: {epochs: 3, lr: 0.1}
methods: [{name: mixup, alpha: 1}, erm, {name: mixup, alpha: 0.2}]
"""


def cells(suite: Suite) -> tuple[str, ...]:
    return make_plan(suite).cells


def test_trials_come_seed_by_seed_over_all_cells_and_arms(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(f"{HEAD}matrix: {{label_noise.rate: [0, 0.4]}}\n"))
    assert [(p.trial.seed, p.cell, p.arm) for p in plan.trials] == list(
        itertools.product([5, 3], ["clean", "uniform 40 %"], ["mixup alpha=1", "erm", "mixup alpha=0.2"])
    )
    assert plan.arms == ("erm", "mixup alpha=1", "mixup alpha=0.2")
    assert plan.baseline == "erm"
    assert plan.seeds == (5, 3)
    assert plan.cells == ("clean", "uniform 40 %")
    for planned in plan.trials:
        assert planned.trial_id == planned.trial.trial_id
        assert planned.arm == planned.trial.method.label


def test_families_are_the_arms_of_each_entry(load: Callable[..., Suite]) -> None:
    methods = "methods: [erm, {name: mixup, alpha: [1, 4], lam_per: [batch, sample]}, {name: mixup, alpha: 0.2}]\n"
    suite = load(HEAD[: HEAD.index("methods:")] + methods)
    assert suite.families == (
        ("erm",),
        (
            "mixup alpha=1",
            "mixup alpha=1 lam_per=sample",
            "mixup alpha=4",
            "mixup alpha=4 lam_per=sample",
        ),
        ("mixup alpha=0.2",),
    )
    assert [method.label for method in suite.methods] == [arm for family in suite.families for arm in family]


def test_comparisons_are_arms_against_the_baseline_where_both_run(load: Callable[..., Suite]) -> None:
    text = f"{HEAD}matrix: {{training.batch_size: [8, 16, 32, 64]}}\n"
    assert make_plan(load(text)).num_comparisons == 4 * 2
    without = (
        "exclude: [{method: erm, training.batch_size: 8}, {method: mixup, training.batch_size: 16},"
        " {method: mixup alpha=1, seed: 3}]\n"
    )
    assert make_plan(load(text + without)).num_comparisons == 0 + 0 + 2 + 2


@pytest.mark.parametrize(
    ("cells_of", "labels"),
    [
        ("", ("mlp, digits",)),
        ("matrix: {model: [mlp, timm/test_vit]}", ("mlp", "test_vit")),
        (
            "matrix: {dataset: [digits, mnist], label_noise.rate: [0, 0.25], model: [mlp, lenet]}",
            tuple(
                f"{model}, {dataset}, {noise}"
                for dataset, noise, model in itertools.product(
                    ["digits", "mnist"], ["clean", "uniform 25 %"], ["mlp", "lenet"]
                )
            ),
        ),
        (
            "matrix: {label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}, {kind: symmetric, rate: 0.4}]}",
            ("clean", "uniform 40 %", "symmetric 40 %"),
        ),
        ("matrix: {training.lr: [0.1, 5e-4, 1]}", ("lr=0.1", "lr=0.0005", "lr=1")),
        ("matrix: {training.lr: [0.12345678, 0.12345679]}", ("lr=0.12345678", "lr=0.12345679")),
        (
            "matrix: {label_noise.rate: [0.4, 0.4000000001]}",
            ("uniform 40 % rate=0.4", "uniform 40 % rate=0.4000000001"),
        ),
        (
            "matrix: {dataset.train_size: [100, 200], training.flip: [true, false]}",
            tuple(f"digits train_size={n}, flip={flip}" for n in (100, 200) for flip in (True, False)),
        ),
        (
            "matrix: {training.schedule: [cosine, constant], training.lr: [0.1]}",
            ("schedule=cosine", "schedule=constant"),
        ),
        # options are named where networks of one name differ in them, and a recipe where nothing else differs
        (
            "matrix: {model: [{name: mlp, hidden: [8]}, {name: mlp, hidden: [16, 8]}, lenet, preact_resnet18]}",
            ("mlp hidden=[8]", "mlp hidden=[16, 8]", "lenet", "preact_resnet18"),
        ),
        (
            "matrix: {model: [timm/test_vit, {name: timm/test_vit, drop_rate: 0.1}]}",
            ("test_vit", "test_vit drop_rate=0.1"),
        ),
        ("zip: [{model: [mlp, lenet], training.lr: [0.1, 0.01]}]", ("mlp", "lenet")),
        (
            "matrix: {model: [mlp, lenet]}\ninclude: [{model: mlp, training.lr: 1}, {model: preact_resnet18}]",
            ("mlp", "lenet", "preact_resnet18"),
        ),
    ],
)
def test_cells_are_named_by_what_differs(load: Callable[..., Suite], cells_of: str, labels: tuple[str, ...]) -> None:
    assert cells(load(f"{HEAD}{cells_of}\n")) == labels


def make_images(root: Path, *, size: int = 8) -> None:
    for split, name in itertools.product(["train", "test"], ["owl", "tit"]):
        for index in range(2):
            path = root / split / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, size)).save(path)


def image_suite(path: Path, *roots: Path) -> Path:
    values = ", ".join(f"{{name: image_folder, root: {root}, image_size: 8}}" for root in roots)
    path.write_text(f"{HEAD}matrix: {{dataset: [{values}], model: [mlp, timm/test_vit], training.lr: [0.1, 0.2]}}\n")
    return path


def test_image_folders_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    make_images(tmp_path / "a" / "images", size=8)
    make_images(tmp_path / "b" / "images", size=64)
    suite = load_suite(image_suite(tmp_path / "suite.yaml", tmp_path / "a" / "images", tmp_path / "b" / "images"))
    assert cells(suite)[0] == f"mlp, images root={tmp_path}/a/images, lr=0.1"


def test_one_image_folder_at_two_places_is_one_data_set(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    make_images(tmp_path / "b")
    suite = load_suite(image_suite(tmp_path / "suite.yaml", tmp_path / "a", tmp_path / "b"))
    with pytest.raises(SuiteError, match=r"suite\.yaml:10: .* duplicate cell: "):
        make_plan(suite)


def test_an_image_folder_is_listed_once_a_plan_and_anew_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    describe = datasets.describe
    monkeypatch.setattr(
        datasets, "describe", lambda *args, **options: listed.append(args) or describe(*args, **options)
    )
    make_images(tmp_path / "birds")
    suite = load_suite(image_suite(tmp_path / "suite.yaml", tmp_path / "birds"))
    first = make_plan(suite)
    assert len(first.cells) == 4
    assert len(listed) == 1
    (tmp_path / "birds" / "train" / "owl" / "0.png").unlink()
    assert make_plan(suite).plan_id != first.plan_id


def test_an_image_folder_that_will_not_do_is_an_error_at_its_line(tmp_path: Path) -> None:
    make_images(tmp_path / "birds")
    for file in (tmp_path / "birds" / "test" / "tit").iterdir():
        file.unlink()
    suite = load_suite(image_suite(tmp_path / "suite.yaml", tmp_path / "birds"))
    with pytest.raises(SuiteError, match=r"suite\.yaml:10: matrix\.dataset\[0\]\.root: .*tit"):
        make_plan(suite)


def test_the_plan_s_id_is_that_of_name_version_and_trials(load: Callable[..., Suite]) -> None:
    plan = make_plan(load(HEAD))
    assert len(plan.plan_id) == 8
    same = HEAD.replace("[5, 3]", "[3, 5]").replace("In which order?", "Which?").replace("mlp", "{name: mlp}")
    assert make_plan(load(same)).plan_id == plan.plan_id
    others = [
        HEAD.replace("planned", "other"),
        HEAD.replace("version: 2", "version: 3"),
        HEAD.replace("[5, 3]", "[5, 4]"),
        HEAD.replace("[5, 3]", "[5]"),
        HEAD.replace("epochs: 3", "epochs: 4"),
    ]
    assert len({plan.plan_id, *(make_plan(load(text)).plan_id for text in others)}) == 1 + len(others)
    assert make_plan(load(HEAD, "training.epochs=4")).plan_id == make_plan(load(others[-1])).plan_id


def test_a_thousand_trials_are_planned_at_once(load: Callable[..., Suite]) -> None:
    """0.1 s on a 2-core AMD EPYC; the limit is generous, because machines are slow and busy."""
    matrix = "matrix: {training.batch_size: [8, 16, 32, 64, 128], label_noise.rate: [0, 0.2, 0.4, 0.6, 0.8]}\n"
    text = HEAD.replace("[5, 3]", "10").replace("alpha: 0.2", "alpha: [0.1, 0.2]") + matrix
    start = time.perf_counter()
    plan = make_plan(load(text))
    seconds = time.perf_counter() - start
    assert len(plan.trials) == 1000
    assert seconds < 5
