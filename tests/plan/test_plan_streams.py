"""Which image folders are streamed, and what those are not asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.plan import plan
from bench.plan.document import SuiteError
from bench.plan.plan import make_plan
from bench.plan.suite import Suite, load_suite

TEXT = """\
name: birds
question: Does mixup help?
seeds: 1
base:
  dataset: {name: image_folder, root: ROOT, image_size: 8, MORE}
  model: mlp
  training: {epochs: 8, RECIPE}
  label_noise: {NOISE}
methods: [erm, METHOD]
evaluate: [clean, EVALUATION]
"""
UNSAID = {"MORE": "val_fraction: 0", "RECIPE": "lr: 0.1", "NOISE": "", "METHOD": "mixup", "EVALUATION": "calibration"}
STREAMED = {"MORE": "stream: true"}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Suite]:
    """A suite with these parts of TEXT replaced, on a folder of four images."""
    for split in ("train", "test"):
        for name in ("emu", "owl"):
            (tmp_path / "birds" / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (9, 9)).save(tmp_path / "birds" / split / name / f"{i}.png")

    def loaded(**parts: str) -> Suite:
        text = TEXT.replace("ROOT", str(tmp_path / "birds"))
        for key, value in (UNSAID | parts).items():
            text = text.replace(key, value)
        (tmp_path / "birds.yaml").write_text(text)
        return load_suite(tmp_path / "birds.yaml")

    return loaded


def streams(suite: Suite) -> bool | None:
    (answer,) = {each.trial.dataset.stream for each in make_plan(suite).trials}
    return answer


def ids(suite: Suite) -> list[str]:
    return [each.trial_id for each in make_plan(suite).trials]


def test_what_fits_stays_in_memory_unless_it_is_said_otherwise(load: Callable[..., Suite]) -> None:
    assert streams(load()) is None
    assert streams(load(MORE="stream: false")) is None
    assert ids(load(MORE="stream: false, val_fraction: 0")) == ids(load())
    assert streams(load(**STREAMED)) is True
    assert ids(load(MORE="stream: true, val_fraction: 0")) != ids(load())


def test_what_does_not_fit_is_streamed(load: Callable[..., Suite], monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images of 3 x 8 x 8: 1,536 bytes."""
    monkeypatch.setattr(plan, "RESIDENT_BYTES", 1536)
    assert streams(load()) is None
    monkeypatch.setattr(plan, "RESIDENT_BYTES", 1535)
    assert streams(load()) is True
    assert streams(load(MORE="stream: false")) is None
    with pytest.raises(SuiteError, match=r"since they take more than .* \(stream: false keeps them in memory\)"):
        make_plan(load(EVALUATION="corruptions"))


def test_random_resized_crops_are_streamed(load: Callable[..., Suite]) -> None:
    assert streams(load(RECIPE="random_resized_crop: true")) is True
    spelled = "random_resized_crop: {scale: [0.08, 1.0]}"
    assert ids(load(RECIPE=spelled)) == ids(load(RECIPE="random_resized_crop: true"))
    assert ids(load(RECIPE="random_resized_crop: {scale: [0.5, 1]}")) != ids(load(RECIPE=spelled))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"METHOD": "{name: mixup, partner: same_class}"}, r":9: methods\[1\].partner: .*partner same_class is sought"),
        ({"METHOD": "{name: mixup, partner: neighbours}"}, r":9: methods\[1\].partner: .*leave partner out"),
        ({"MORE": "stream: true, train_corruption: {kind: fog}"}, r":5: base.dataset.train_corruption: .*beforehand"),
        ({"NOISE": "kind: instance, rate: 0.2"}, r":8: base.label_noise.kind: .*another kind"),
        ({"EVALUATION": "corruptions"}, r":10: evaluate\[1\]: .*corruptions holds other images"),
        ({"EVALUATION": "{name: ood, against: gaussian_noise}"}, r":10: evaluate\[1\]: .*ood holds other images"),
        ({"RECIPE": "cuda_graph: true"}, r":7: base.training.cuda_graph: .*leave one of them out"),
        (
            {"RECIPE": "random_resized_crop: true", "MORE": "stream: false"},
            r":5: base.dataset.stream: random_resized_crop needs the images in their own size",
        ),
    ],
)
def test_what_a_stream_cannot_give_is_refused(load: Callable[..., Suite], parts: dict[str, str], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        make_plan(load(**STREAMED | parts))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"RECIPE": "random_resized_crop: true, crop_padding: 2"}, r":7: .*leave out crop_padding"),
        ({"RECIPE": "random_resized_crop: {scale: [1, 0.5]}"}, r":7: .*scale \[1.0, 0.5\] should rise"),
        ({"MORE": "resize: 7"}, r":5: base.dataset.*: resize 7 must be at least image_size, 8"),
    ],
)
def test_what_makes_no_sense_is_refused(load: Callable[..., Suite], parts: dict[str, str], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load(**parts)


def test_built_in_data_are_not_streamed(load: Callable[..., Suite], tmp_path: Path) -> None:
    text = TEXT.replace("name: image_folder, root: ROOT, image_size: 8, MORE", "name: digits")
    for key, value in (UNSAID | {"RECIPE": "random_resized_crop: true"}).items():
        text = text.replace(key, value)
    (tmp_path / "digits.yaml").write_text(text)
    with pytest.raises(SuiteError, match=r":7: base.training.random_resized_crop: .*not those of digits; crop_padding"):
        make_plan(load_suite(tmp_path / "digits.yaml"))
    (tmp_path / "digits.yaml").write_text(text.replace("name: digits}", "name: digits, stream: true}"))
    with pytest.raises(SuiteError, match=r":5: base.dataset.* stream belongs to image_folder"):
        load_suite(tmp_path / "digits.yaml")
