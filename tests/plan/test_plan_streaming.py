"""Which trials stream, what that does to their identity, and what the plan refuses for them, at which line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from bench.plan import plan as plan_module
from bench.plan.cost import trial_cost
from bench.plan.document import SuiteError, read
from bench.plan.networks import Network
from bench.plan.plan import Plan, make_plan
from bench.plan.schema import suite_schema
from bench.plan.suite import load_suite

SUITE = """\
name: birds
question: Does it stream?
seeds: 1
base:
  dataset: {{name: image_folder, root: {root}, image_size: 32{dataset}}}
  model: {{name: mlp, hidden: [8]}}
  label_noise: {{{noise}}}
  training: {{epochs: 2{training}}}
methods: [erm, {{name: mixup{mixup}}}]
evaluate: [{evaluate}]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 images to train and 5 to test on: 61,440 bytes at 32 pixels."""
    root = tmp_path_factory.mktemp("data") / "birds"
    for split, count in (("train", 15), ("test", 5)):
        for i in range(count):
            folder = root / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 36), (i, i, i)).save(folder / f"{i}.png")
    return root


def write(root: Path, folder: Path, **parts: str) -> Path:
    given = dict.fromkeys(("dataset", "noise", "training", "mixup"), "") | {"evaluate": "clean"}
    path = folder / "birds.yaml"
    path.write_text(SUITE.format(root=root, **given | parts))
    return path


def plan_of(root: Path, folder: Path, **parts: str) -> Plan:
    return make_plan(load_suite(write(root, folder, **parts)))


def ids(plan: Plan) -> list[str]:
    return [planned.trial_id for planned in plan.trials]


def streams(plan: Plan) -> set[bool | None]:
    return {planned.trial.dataset.stream for planned in plan.trials}


def test_what_fits_stays_in_memory_under_the_identity_that_it_had(root: Path, tmp_path: Path) -> None:
    """As long as there were no streams: a digest over options without a value would know of them."""
    plan = plan_of(root, tmp_path)
    assert streams(plan) == {None}
    identity = plan.trials[0].trial.identity()
    assert identity["dataset"].keys() == {"name", "image_size", "val_fraction", "fingerprint"}
    assert "random_resized_crop" not in identity["training"]
    assert ids(plan_of(root, tmp_path, dataset=", stream: false")) == ids(plan)
    assert ids(plan_of(root, tmp_path, dataset=", stream: true")) != ids(plan)


def test_what_takes_more_than_the_limit_streams(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced = plan_of(root, tmp_path, dataset=", stream: true")
    assert streams(forced) == {True}
    monkeypatch.setattr(plan_module, "RESIDENT_BYTES", 20 * 3 * 32 * 32)
    assert streams(plan_of(root, tmp_path)) == {None}
    monkeypatch.setattr(plan_module, "RESIDENT_BYTES", 20 * 3 * 32 * 32 - 1)
    assert ids(plan_of(root, tmp_path)) == ids(forced)
    assert streams(plan_of(root, tmp_path, dataset=", stream: false")) == {None}


def test_random_resized_crop_streams_and_true_means_imagenets(root: Path, tmp_path: Path) -> None:
    plan = plan_of(root, tmp_path, training=", random_resized_crop: true")
    assert streams(plan) == {True}
    spelt = ", random_resized_crop: {scale: [0.08, 1.0], ratio: [0.75, 1.3333333333333333]}"
    assert ids(plan_of(root, tmp_path, training=spelt)) == ids(plan)
    assert ids(plan_of(root, tmp_path, training=", random_resized_crop: {scale: [0.2, 1]}")) != ids(plan)
    assert ids(plan_of(root, tmp_path, dataset=", resize: 36", training=", random_resized_crop: {}")) != ids(plan)


def test_what_goes_without_saying_may_be_said(root: Path, tmp_path: Path) -> None:
    plain = ids(plan_of(root, tmp_path))
    assert ids(plan_of(root, tmp_path, dataset=", resize: 32")) == plain
    assert ids(plan_of(root, tmp_path, dataset=", resize: 33")) != plain
    assert ids(plan_of(root, tmp_path, training=", random_resized_crop: false")) == plain


@pytest.mark.parametrize("crop", ["true", "false", "{}", "{scale: [0.5, 1]}"])
def test_the_schema_takes_a_crop(root: Path, tmp_path: Path, crop: str) -> None:
    path = write(root, tmp_path, training=f", random_resized_crop: {crop}", dataset=", stream: true, resize: 40")
    assert [error.message for error in Draft202012Validator(suite_schema()).iter_errors(read(path).content)] == []


REFUSED = {
    "a crop of what is in memory": (
        {"dataset": ", stream: false", "training": ", random_resized_crop: true"},
        "5: base.dataset.stream: random_resized_crop needs the images in their own size",
    ),
    "two crops": (
        {"training": ", random_resized_crop: true, crop_padding: 4"},
        "8: base.training.random_resized_crop: random_resized_crop is a crop already: leave out crop_padding",
    ),
    "a scale that falls": (
        {"training": ", random_resized_crop: {scale: [1, 0.08]}"},
        "8: base.training.random_resized_crop: scale [1.0, 0.08] should rise",
    ),
    "too small a resize": (
        {"dataset": ", resize: 16"},
        "5: base.dataset.resize: resize 16 leaves no square of 32 pixels to cut out",
    ),
    "corrupted training images": (
        {"dataset": ", stream: true, train_corruption: {kind: fog}"},
        "5: base.dataset.train_corruption: the images are streamed and train_corruption makes all",
    ),
    "instance noise": (
        {"training": ", random_resized_crop: true", "noise": "kind: instance, rate: 0.3"},
        "7: base.label_noise.kind: the images are streamed, for random_resized_crop, and instance noise",
    ),
    "partners from everywhere": (
        {"dataset": ", stream: true", "mixup": ", partner: same_class"},
        "9: methods[1].partner: the images are streamed and partner same_class is sought",
    ),
    "neighbours": (
        {"dataset": ", stream: true", "mixup": ", partner: neighbours, k: 3"},
        "9: methods[1].partner: the images are streamed and partner neighbours is sought",
    ),
    "the next batch": (
        {"dataset": ", stream: true", "training": ", batch_size: 4", "mixup": ", partner: next_batch"},
        "9: methods[1].partner: the images are streamed and partner next_batch is sought",
    ),
    "a graph of steps": (
        {"dataset": ", stream: true", "training": ", cuda_graph: true"},
        "8: base.training.cuda_graph: the images are streamed and cuda_graph needs them on the GPU",
    ),
    "corruptions": (
        {"dataset": ", stream: true", "evaluate": "clean, corruptions"},
        "10: evaluate[1]: the images are streamed and corruptions holds other images",
    ),
    "another set": (
        {"dataset": ", stream: true", "evaluate": "{name: ood, against: gaussian_noise}"},
        "10: evaluate[0]: the images are streamed and ood holds other images",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_streamed_is_an_error_at_its_line(root: Path, tmp_path: Path, case: str) -> None:
    parts, message = REFUSED[case]
    with pytest.raises(SuiteError, match=re.escape(f"birds.yaml:{message}")):
        plan_of(root, tmp_path, **parts)


def test_who_did_not_ask_for_streams_is_told_why(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "RESIDENT_BYTES", 10_000)
    with pytest.raises(SuiteError, match=re.escape("(stream: false keeps them in memory), and corruptions holds")):
        plan_of(root, tmp_path, evaluate="corruptions")
    assert plan_of(root, tmp_path, dataset=", stream: false", evaluate="corruptions").trials


def test_a_built_in_set_has_no_files_to_stream_or_to_cut_from(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    text = "name: digits\nquestion: Is it one?\nbase:\n  dataset: {name: digits%s}\n  model: mlp\n"
    text += "  training: {epochs: 1%s}\nmethods: [erm, mixup]\n"
    path.write_text(text % (", stream: true", ""))
    with pytest.raises(SuiteError, match=r":4: base.dataset.stream: stream belongs to image_folder; digits takes none"):
        load_suite(path)
    path.write_text(text % ("", ", random_resized_crop: true"))
    with pytest.raises(SuiteError, match=r":6: base.training.random_resized_crop: .*not those of digits"):
        make_plan(load_suite(path))


def test_decoding_is_part_of_the_cost(root: Path, tmp_path: Path) -> None:
    """Two epochs of 20 images, and the 14 of the training split once more: 54 images of at least a millisecond."""
    network = Network(params=10, forward_flops=10, tensors=2, layers=())
    resident, streamed = (
        trial_cost(plan_of(root, tmp_path, dataset=dataset).trials[0].trial, network)
        for dataset in ("", ", stream: true")
    )
    assert 54e-3 < streamed.seconds - resident.seconds < 54 * 10e-3
    assert streamed.bytes == resident.bytes
