"""Trials on streamed JPEGs: real processes, killed in the middle of an epoch, with one decoding process or two."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from worker_processes import found, make_task, run, start, take_long

from bench.data.image_folder import list_images
from bench.execution.profile import profile_trial
from bench.execution.task import FAILED, INTERRUPTED
from bench.plan.plan import PlannedTrial, make_plan
from bench.plan.suite import load_suite
from bench.results.store import TrialFolder
from bench.training.policy import CheckpointPolicy

SUITE = """\
name: streamed
question: Is it the same?
seeds: 1
base:
  dataset: {{name: image_folder, root: {root}, image_size: 24, resize: 28, stream: true}}
  model: {{name: mlp, hidden: [16], dropout: 0.3}}
  label_noise: {{kind: uniform, rate: 0.3}}
  training: {{epochs: 2, batch_size: 8, lr: 0.05, flip: true, {crop}}}
methods: [erm, mixup]
evaluate: [clean, calibration, {{name: in_between, pairs: 10}}, {{name: adversarial, epsilon: [4], examples: 6}}]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three classes of small JPEGs of several sizes: 60 to train and 15 to test on."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data") / "birds"
    for split, count in (("train", 20), ("test", 5)):
        for label, name in enumerate(["emu", "owl", "wren"]):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = rng.integers(60 * label, 60 * label + 130, size=(5, 6, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((30 + i, 44 - i), Image.Resampling.BICUBIC)
                image.save(root / split / name / f"{i:03}.jpg", quality=90)
    return root


def planned_trial(root: Path, folder: Path, *, crop: str = "random_resized_crop: true") -> PlannedTrial:
    (folder / "streamed.yaml").write_text(SUITE.format(root=root, crop=crop))
    trials = make_plan(load_suite(folder / "streamed.yaml")).trials
    [planned] = [each for each in trials if each.trial.method.name == "mixup"]
    assert planned.trial.dataset.stream
    return planned


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("crop", ["random_resized_crop: true", "crop_padding: 3"])
def test_whatever_happens_to_it_a_trial_gives_the_same_numbers(root, cache, tmp_path, crop) -> None:
    """Another run, two decoding processes, a kill in the middle of an epoch, a stop in the middle of an epoch."""
    planned = planned_trial(root, tmp_path, crop=crop)
    undisturbed = make_task(planned, tmp_path / "undisturbed", cache=cache)
    assert run(undisturbed) == 0
    expected = found(undisturbed)
    assert expected["data"]["n_train"] == 54
    assert expected["data"]["sha256"] == list_images(root).fingerprint

    two = replace(make_task(planned, tmp_path / "two", cache=cache), decoders=2)
    assert run(two) == 0
    assert found(two) == expected

    for sign, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, INTERRUPTED)):
        each_step = CheckpointPolicy(0.0)
        task = make_task(planned, tmp_path / f"disturbed{sign}", cache=cache, policy=each_step)
        process = start(task, take_long)
        folder = TrialFolder(task.folder)
        steps = 3 if sign == signal.SIGKILL else 10  # of 7 an epoch
        deadline = time.monotonic() + 60
        while sum(each["event"] == "checkpoint" for each in folder.events()[0]) < steps:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.pid is not None
        getattr(process, "kill" if sign == signal.SIGKILL else "terminate")()
        process.join()
        assert process.exitcode == status
        assert not folder.is_claimed(), "its decoding processes must not hold what it had claimed"
        assert run(replace(task, decoders=2)) == 0
        resumed = next(each for each in folder.events()[0] if each["event"] == "resumed")
        assert resumed["step"] % 7, "in the middle of an epoch"
        assert found(task) == expected


def test_another_epoch_or_seed_crops_otherwise_and_methods_crop_alike(root, cache, tmp_path) -> None:
    from bench.execution.preparation import load_images
    from bench.training.data import draw_epoch, prepare

    planned = planned_trial(root, tmp_path)
    task = make_task(planned, tmp_path / "results", cache=cache)
    files = load_images(task.data, planned.trial.dataset)
    import torch

    def first_batch(epoch: int = 0, **changes: Any) -> torch.Tensor:
        trial = planned.trial.model_copy(update=changes)
        data = prepare(trial, files, device=torch.device("cpu"))
        batch = next(draw_epoch(trial, data, epoch).batches(54, first_step=0, steps=1))
        order = np.argsort(batch.positions)
        return batch.pixels[torch.from_numpy(order)]

    pixels = first_batch()
    [erm] = [
        each.trial.method for each in make_plan(load_suite(tmp_path / "streamed.yaml")).trials if each.arm == "erm"
    ]
    assert torch.equal(first_batch(method=erm), pixels)
    assert not torch.equal(first_batch(epoch=1), pixels)
    assert not torch.equal(first_batch(seed=1), pixels)


def test_an_image_that_cannot_be_read_fails_the_trial_by_its_name(root, cache, tmp_path) -> None:
    import shutil

    copy = tmp_path / "birds"
    shutil.copytree(root, copy)
    planned = planned_trial(copy, tmp_path)
    path = copy / "train" / "owl" / "003.jpg"
    path.write_bytes(bytes(path.stat().st_size))  # of the same size, so that the listing is the same
    task = make_task(planned, tmp_path / "results", cache=cache)
    assert run(task) == FAILED
    failure = TrialFolder(task.folder).last_failure()
    assert failure is not None
    assert failure["reason"].startswith(f"DataError: {path}: cannot be read as an image")


def test_waiting_for_images_is_datas_share_of_the_profile(root, cache, tmp_path) -> None:
    planned = planned_trial(root, tmp_path)
    task = make_task(planned, tmp_path / "results", cache=cache)
    folder = TrialFolder(task.folder)
    folder.create(task.record)
    lines: list[str] = []
    trace = profile_trial(folder, task.data, device="cpu", out=tmp_path, say=lines.append, seconds=0.5)
    assert trace.exists()
    [share] = [float(line.split()[-2]) for line in lines if line.split()[:1] == ["data"]]
    assert 5 < share < 100, lines  # decoding takes longer than a step of so small a network
