"""Evaluations of a trained network: from a planned evaluation and a trial's data to a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.augment import normalise
from bench.data.corrupted import open_corrupted
from bench.data.corruptions import EXTRA, STANDARD
from bench.data.datasets import Arrays, StreamedSet
from bench.evaluation.attacks import Attack, adversarial_record
from bench.evaluation.calibration import calibration_record
from bench.evaluation.in_between import draw_pairs, in_between_record
from bench.evaluation.metrics import nll, top1_error, topk_error
from bench.evaluation.ood import fit_to, noise_images, ood_record
from bench.execution.preparation import load_arrays
from bench.execution.task import DataPaths
from bench.plan.config import DatasetConfig
from bench.plan.evaluation import (
    Attacks,
    Calibration,
    Clean,
    Corruptions,
    InBetween,
    Ood,
    PlannedEvaluation,
)
from bench.plan.trial import Trial
from bench.results.store import Json
from bench.training.data import TrialData, memory_format
from bench.training.loop import predict
from bench.training.seeding import stream, stream_seed
from bench.training.step import autocast

Figures = tuple[Mapping[str, float | None], dict[str, Any]]
"""(metrics, detail) of a record."""


@dataclass(frozen=True)
class Predictions:
    """What every trial keeps of its final network: logits (n, K) and labels (n,) on test and on validation images."""

    test_logits: Tensor
    test_labels: Tensor
    val_logits: Tensor
    val_labels: Tensor


class PixelNetwork(nn.Module):
    """A trained network that takes pixels, float32 (B, C, H, W) in [0, 1]: its normalisation is inside.

    looked: called before every pass, so that a long evaluation can be stopped.
    """

    def __init__(self, model: nn.Module, data: TrialData, trial: Trial, looked: Callable[[], None]) -> None:
        super().__init__()
        self.model, self._trial, self._looked = model, trial, looked
        self._scale, self._shift = 255 * data.scale, data.shift
        self._memory_format = memory_format(trial.training)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        self._looked()
        x = normalise(pixels, self._scale, self._shift)
        with autocast(self._trial, pixels.device):
            logits: Tensor = self.model(x.contiguous(memory_format=self._memory_format))
        return logits.float()


@dataclass(frozen=True)
class Subject:
    """A trained network and what it is evaluated on.

    source: the network that an evaluation of kind `transfer` attacks, with its own normalisation.
    looked: see PixelNetwork.
    """

    trial: Trial
    data: TrialData
    arrays: Arrays | StreamedSet
    paths: DataPaths
    model: nn.Module
    predictions: Predictions
    source: PixelNetwork | None
    looked: Callable[[], None]

    def logits(self, images: np.ndarray[Any, Any]) -> Tensor:
        self.looked()
        pixels = torch.from_numpy(np.array(images)).to(self.device)
        return predict(self.model, self.data, pixels, trial=self.trial, looked=self.looked)

    def pixel_network(self) -> PixelNetwork:
        return PixelNetwork(self.model, self.data, self.trial, self.looked)

    @property
    def device(self) -> torch.device:
        return self.data.images.device


def from_predictions(planned: PlannedEvaluation, predictions: Predictions) -> Json:
    """The record of an evaluation that needs no network."""
    started = time.perf_counter()
    if isinstance(planned.config, Clean):
        return _record(planned, _clean(predictions), started)
    assert isinstance(planned.config, Calibration), planned.kind
    figures = calibration_record(
        predictions.test_logits,
        predictions.test_labels,
        val_logits=predictions.val_logits,
        val_labels=predictions.val_labels,
    )
    return _record(planned, figures, started)


def from_network(planned: PlannedEvaluation, subject: Subject) -> Json:
    """The record of an evaluation that needs the final weights."""
    started, config = time.perf_counter(), planned.config
    if isinstance(config, Corruptions):
        figures = _corruptions(config, subject)
    elif isinstance(config, Ood):
        figures = _ood(config, subject)
    elif isinstance(config, Attacks):
        figures = _attacks(config, subject)
        if planned.source is not None:
            figures[1]["source_trial"] = planned.source
    else:
        assert isinstance(config, InBetween), planned.kind
        figures = _in_between(config, subject)
    return _record(planned, figures, started)


def _record(planned: PlannedEvaluation, figures: Figures, started: float) -> Json:
    metrics, detail = figures
    return {
        "kind": planned.kind,
        "version": planned.config.version,
        "options": planned.config.identity(),
        "metrics": metrics,
        "detail": detail,
        "seconds": time.perf_counter() - started,
    }


def _clean(predictions: Predictions) -> Figures:
    logits, labels = predictions.test_logits, predictions.test_labels
    metrics = {"test_error": top1_error(logits, labels), "test_nll": nll(logits, labels)}
    if logits.shape[1] > 10:
        metrics["test_top5_error"] = topk_error(logits, labels, 5)
    return metrics, {}


def _corruptions(config: Corruptions, subject: Subject) -> Figures:
    """Errors on every corrupted version of the test images; the mean over the standard kinds is not normalised."""
    assert isinstance(subject.arrays, Arrays), "the plan refuses this evaluation for streamed images"
    errors: dict[str, dict[str, float]] = {}
    sources: dict[str, str] = {}
    for kind, severity in config.wanted:
        corrupted = open_corrupted(
            subject.arrays,
            dataset=subject.trial.dataset.name,
            split="test",
            kind=kind,
            severity=severity,
            source=config.source,
            data_root=subject.paths.data_root,
            cache_root=subject.paths.cache_root,
        )
        labels = torch.from_numpy(np.array(corrupted.labels)).to(subject.device)
        errors.setdefault(kind, {})[str(severity)] = top1_error(subject.logits(corrupted.images), labels)
        sources[kind] = corrupted.source
    clean_error = top1_error(subject.predictions.test_logits, subject.predictions.test_labels)
    metrics = {}
    standard, extra = ([errors[kind] for kind in group if kind in errors] for group in (STANDARD, EXTRA))
    if standard:
        mean_error = fmean(error for by_severity in standard for error in by_severity.values())
        metrics = {"mean_corruption_error": mean_error, "relative_corruption_error": mean_error - clean_error}
    if extra:
        metrics["extra_corruption_error"] = fmean(error for by_severity in extra for error in by_severity.values())
    return metrics, {"errors": errors, "source": sources, "clean_error": clean_error}


def _ood(config: Ood, subject: Subject) -> Figures:
    channels, height, width = subject.data.test_images.shape[1:]
    shape = (channels, height, width)
    if isinstance(config.against, DatasetConfig):
        images = fit_to(np.asarray(load_arrays(subject.paths, config.against).test_images), shape=shape)
    else:
        rng = stream(subject.trial.seed, "noise_images")
        images = noise_images(config.against, len(subject.data.test_images), shape, rng)
    return ood_record(subject.predictions.test_logits, subject.logits(images).cpu(), set_name=config.set_name)


def _attacks(config: Attacks, subject: Subject) -> Figures:
    data = subject.data
    count = min(config.examples, len(data.test_images))
    rows = torch.linspace(0, len(data.test_images) - 1, count).round().long().to(subject.device)  # a folder is sorted
    attacks = [
        Attack(
            name,
            config.norm,
            epsilon,
            steps=1 if name == "fgsm" else config.steps,
            step_size=None if name == "fgsm" else config.step_size,
            restarts=config.restarts if name == "pgd" else 1,
        )
        for name in config.attacks
        for epsilon in config.epsilon
    ]
    tested = subject.pixel_network()
    attacked = subject.source or tested
    return adversarial_record(
        attacked,
        data.test_images[rows],
        data.test_labels[rows],
        attacks,
        prefix=config.prefix,
        seed=stream_seed(subject.trial.seed, "attack"),
        victim=None if attacked is tested else tested,
    )


def _in_between(config: InBetween, subject: Subject) -> Figures:
    """Between training images with the labels that they were trained on."""
    data = subject.data
    n = len(data.train)
    first, second = draw_pairs(n, min(config.pairs, n), stream(subject.trial.seed, "in_between"))
    i, j = (data.train[torch.from_numpy(index).to(subject.device)] for index in (first, second))
    network = subject.pixel_network()
    return in_between_record(network, data.images[i], data.labels[i], data.images[j], data.labels[j])
