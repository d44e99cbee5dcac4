"""What one trial sees of a data set: its training and validation split, its wrong labels, its normalisation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.augment import (
    channel_statistics,
    crop,
    draw_crop_offsets,
    draw_flips,
    flip,
    histogram_statistics,
    normalise,
)
from bench.data.datasets import Arrays, StreamedSet
from bench.data.label_noise import class_map, corrupt_labels, nominal_rate, realised_matrix
from bench.data.neighbours import training_neighbours
from bench.data.posterior import posterior_sha256
from bench.data.split import carve_validation, subset
from bench.data.streaming import Decoders, RandomCrop, Streamed, draw_crop_keys
from bench.mixing.batch import Batch, ClassIndex, TrainingSet, inverse
from bench.plan.config import TrainingConfig
from bench.plan.trial import Trial
from bench.training.seeding import stream

Images = Tensor | Streamed
"""uint8 (N, C, H, W): on the device, or decoded for it as they are needed."""


@dataclass(frozen=True)
class TrialData:
    """A data set on the device, as one trial uses it.

    images: (N, C, H, W), the whole training set.  labels: (N,) as given, some of them wrong.  true_labels: (N,).
    train, val: (n,) int64 positions in these.  scale, shift: (1, C, 1, 1), the training split's normalisation.
    classes: the training split's labels as given, on the host.  neighbours: (n, k), see bench.mixing.batch.TrainingSet.
    summary: what final.json says of the data.  noise: what label_noise.json says; None where the labels are right.
    """

    images: Images
    labels: Tensor
    true_labels: Tensor
    train: Tensor
    val: Tensor
    test_images: Images
    test_labels: Tensor
    scale: Tensor
    shift: Tensor
    num_classes: int
    classes: ClassIndex
    neighbours: NDArray[np.int32] | None
    summary: dict[str, Any]
    noise: dict[str, Any] | None

    def normalised(self, images: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [0, 255], uint8 or not, as the network's input, float32."""
        return normalise(images, self.scale, self.shift)

    @cached_property
    def pixel_scale(self) -> Tensor:
        """(1, C, 1, 1): the whole range of a pixel in the network's input."""
        return 255 * self.scale


@dataclass(frozen=True)
class Extras:
    """What some trials need besides the data set itself.

    corrupted_images: (N, C, H, W) uint8, the training images as `train_corruption` makes them.
    given_labels: (N,), people's labels.  posterior: (N, K), class probabilities for instance-dependent noise.
    neighbours: (n, M), of each image of the trial's subset its nearest others, see bench.data.neighbours.
    """

    corrupted_images: NDArray[np.uint8] | None = None
    given_labels: NDArray[np.int64] | None = None
    posterior: NDArray[np.float32] | None = None
    neighbours: NDArray[np.int32] | None = None


NO_EXTRAS = Extras()


def prepare(
    trial: Trial,
    arrays: Arrays | StreamedSet,
    *,
    device: torch.device,
    extras: Extras = NO_EXTRAS,
    decoders: int = 1,
) -> TrialData:
    """Draw the trial's subset, wrong labels and split, in this order: validation is carved after label noise.

    decoders: processes that decode images where they are streamed; they change nothing but the speed.
    """
    dataset, seed = trial.dataset, trial.seed
    num_classes = len(arrays.class_names)
    true_labels = np.asarray(arrays.train_labels)
    chosen = subset_positions(trial, arrays)
    labels, nominal = given_labels(trial, arrays, extras)
    train_index, val_index = carve_validation(labels[chosen], dataset.val_fraction, stream(seed, "split"))
    train, val = chosen[train_index], chosen[val_index]
    images: Images
    test_images: Images
    if isinstance(arrays, StreamedSet):
        mean, std = histogram_statistics(arrays.histogram)
        images, test_images = _streamed_images(trial, arrays, device=device, decoders=decoders)
    else:
        pixels = _training_images(trial, arrays, extras)
        mean, std = channel_statistics(pixels[train])
        images, test_images = (_shared(each).to(device) for each in (pixels, arrays.test_images))
    wrong = labels != true_labels
    noise = {
        "kind": trial.label_noise.kind,
        "nominal_rate": nominal,
        "realised_rate": float(wrong[train].mean()),
        "matrix": realised_matrix(true_labels[train], labels[train], num_classes).tolist(),
        "class_names": list(arrays.class_names),
    }
    return TrialData(
        images=images,
        labels=torch.from_numpy(labels).to(device),
        true_labels=torch.from_numpy(true_labels.copy()).to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
        test_images=test_images,
        test_labels=torch.from_numpy(np.array(arrays.test_labels)).to(device),
        scale=(1 / (255 * std)).view(1, -1, 1, 1).to(device),
        shift=(-mean / std).view(1, -1, 1, 1).to(device),
        num_classes=num_classes,
        classes=ClassIndex(labels[train]),
        neighbours=_neighbours(trial, extras, train_index),
        summary={
            "sha256": arrays.sha256,
            "n_train": len(train),
            "n_val": len(val),
            "n_test": len(arrays.test_labels),
            "num_classes": num_classes,
            "class_names": list(arrays.class_names),
            "label_noise_nominal": nominal,
            "label_noise_realised": float(wrong[train].mean()),
            "val_label_noise_realised": float(wrong[val].mean()) if len(val) else None,
            "posterior_sha256": None if extras.posterior is None else posterior_sha256(extras.posterior),
        },
        noise=noise if trial.label_noise.is_noisy else None,
    )


def subset_positions(trial: Trial, arrays: Arrays | StreamedSet) -> NDArray[np.int64]:
    """The training images that the trial takes, those that will validate included, in the order of the data set."""
    true_labels = np.asarray(arrays.train_labels)
    if trial.dataset.train_size is None:
        return np.arange(len(true_labels))
    return subset(true_labels, trial.dataset.train_size, stream(trial.seed, "subset"))


def _neighbours(trial: Trial, extras: Extras, train_index: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """The table as it is among the images that the trial trains on: validation images are nobody's partners."""
    wanted = trial.method.neighbours
    if wanted is None:
        return None
    assert extras.neighbours is not None
    return training_neighbours(extras.neighbours, train_index, k=wanted.k)


def _training_images(trial: Trial, arrays: Arrays, extras: Extras) -> NDArray[np.uint8]:
    """The training images, of which `train_corruption` replaces its share; which ones, the trial's seed says.

    The ones that a small share replaces, a larger one replaces too.
    """
    corruption = trial.dataset.train_corruption
    if corruption is None:
        return arrays.train_images
    assert extras.corrupted_images is not None
    if corruption.share == 1:
        return extras.corrupted_images
    replaced = stream(trial.seed, "train_corruption").random(len(arrays.train_images)) < corruption.share
    images = np.array(arrays.train_images)
    images[replaced] = extras.corrupted_images[replaced]
    return images


def _streamed_images(
    trial: Trial, files: StreamedSet, *, device: torch.device, decoders: int
) -> tuple[Streamed, Streamed]:
    """The images to train and to test on."""
    wanted = trial.training.random_resized_crop
    random_crop = None if wanted is None else RandomCrop(wanted.scale, wanted.ratio)
    sets = (files.train_images, files.test_images)
    processes = Decoders(sets, processes=decoders, device=device, crop=random_crop)
    return Streamed(processes, 0), Streamed(processes, 1)


def image_batches(images: Images, index: Tensor | None = None, *, size: int) -> Iterator[Tensor]:
    """The images at `index`, or all, in batches (size, C, H, W) uint8 on the device; streamed ones in smaller ones."""
    if isinstance(images, Streamed):
        yield from images.batches(index)
        return
    for start in range(0, len(images) if index is None else len(index), size):
        rows = slice(start, start + size)
        yield images[rows] if index is None else images[index[rows]]


def given_labels(trial: Trial, arrays: Arrays | StreamedSet, extras: Extras) -> tuple[NDArray[np.int64], float]:
    """The labels to train on, (N,), and the expected share of wrong ones.

    Raises ValueError where the trial's label noise does not fit the data set.
    """
    noise, true_labels = trial.label_noise, np.asarray(arrays.train_labels)
    if not noise.is_noisy:
        return np.array(true_labels), 0.0
    options: dict[str, Any] = {
        "kind": noise.kind,
        "rate": noise.rate,
        "num_classes": len(arrays.class_names),
        "given": extras.given_labels,
    }
    if noise.kind == "asymmetric":
        options["class_map"] = class_map(trial.dataset.name, arrays.class_names, noise.map)
    if noise.matrix is not None:
        options["transition"] = np.array(noise.matrix)
    rng = stream(trial.seed, "label_noise")
    labels = corrupt_labels(true_labels, rng=rng, posterior=extras.posterior, **options)
    return labels, nominal_rate(true_labels, **options)


def _shared(images: NDArray[np.uint8]) -> Tensor:
    """A read-only memory map as a tensor, without a copy of its own: on the CPU all trials share its pages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # we only read
        return torch.from_numpy(images)


@dataclass(frozen=True)
class Epoch:
    """One epoch's order and augmentation, drawn on the host and then kept on the device.

    number: from 0.  order: (n,) positions in the training split.  index: (n,), the same on the device, as positions in
    the data set.  offsets: (n, 2) crop offsets.  flips: (n,) bool.  crop_keys: (n,), on the host, of random resized
    crops.  All belong to a place in the order.
    """

    trial: Trial
    data: TrialData
    number: int
    order: NDArray[np.int64]
    index: Tensor
    offsets: Tensor | None
    flips: Tensor | None
    crop_keys: NDArray[np.int64] | None = None

    def batches(self, batch_size: int, *, first_step: int, steps: int) -> Iterator[Batch]:
        """The batches of an epoch of `steps` steps, from the 0-based `first_step` on."""
        all_rows = (slice(step * batch_size, (step + 1) * batch_size) for step in range(first_step, steps))
        if not isinstance(self.data.images, Streamed):
            yield from map(self.batch, all_rows)
            return
        left = slice(first_step * batch_size, steps * batch_size)
        keys = None if self.crop_keys is None else self.crop_keys[left]
        stream = self.data.images.batches(self.index[left], size=batch_size, keys=keys)
        for rows, pixels in zip(all_rows, stream, strict=True):
            yield self._batch(rows, self.index[rows], pixels)

    def batch(self, rows: slice) -> Batch:
        """One step's batch, augmented and normalised, in the recipe's memory format."""
        index = self.index[rows]
        return self._batch(rows, index, self._resident.index_select(0, index))

    def _batch(self, rows: slice, index: Tensor, images: Tensor) -> Batch:
        pixels = self._augmented(images, rows)
        return Batch(
            x=self._network_input(pixels),
            y=self.data.labels.index_select(0, index),
            labels=self.data.classes.labels[self.order[rows]],
            pixels=pixels,
            normalised=self._network_input,
            pixel_scale=self.data.pixel_scale,
            epoch=self.number,
            epochs=self.trial.training.epochs,
            place=rows.start,
            training_set=self._training_set,
        )

    @cached_property
    def _training_set(self) -> TrainingSet:
        return TrainingSet(self.data.classes, self.order, self.data.neighbours, self._take)

    def _take(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Examples of the training split as this epoch sees them: images (m, C, H, W) normalised, and labels."""
        return self.at(torch.from_numpy(self._place_of[positions]).to(self.index.device, non_blocking=True))

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at (m,) places of the order: images (m, C, H, W) augmented and normalised, and labels (m,)."""
        index = self.index.index_select(0, places)
        pixels = self._augmented(self._resident.index_select(0, index), places)
        return self._network_input(pixels), self.data.labels.index_select(0, index)

    @property
    def _resident(self) -> Tensor:
        assert isinstance(self.data.images, Tensor), "the plan refuses what takes streamed images out of their order"
        return self.data.images

    @cached_property
    def _place_of(self) -> NDArray[np.int64]:
        """(n,), the place of each position in the order."""
        return inverse(self.order)

    def _augmented(self, x: Tensor, places: slice | Tensor) -> Tensor:
        if self.offsets is not None:
            x = crop(x, self.offsets[places], padding=self.trial.training.crop_padding)
        if self.flips is not None:
            x = flip(x, self.flips[places])
        return x

    def _network_input(self, pixels: Tensor) -> Tensor:
        return self.data.normalised(pixels).contiguous(memory_format=memory_format(self.trial.training))


def memory_format(training: TrainingConfig) -> torch.memory_format:
    """How the recipe lays out images and weights."""
    return torch.channels_last if training.channels_last else torch.contiguous_format


def draw_epoch(trial: Trial, data: TrialData, epoch: int) -> Epoch:
    """The order and augmentation of 0-based epoch `epoch`; the method has no part in them."""
    device = data.images.device
    n, training = len(data.train), trial.training
    order = stream(trial.seed, "order", epoch).permutation(n)
    rng = stream(trial.seed, "augment", epoch)
    offsets = flips = keys = None
    if training.crop_padding:
        offsets = torch.from_numpy(draw_crop_offsets(rng, n, training.crop_padding)).to(device)
    if training.random_resized_crop is not None:
        keys = draw_crop_keys(rng, n)
    if training.flip:
        flips = torch.from_numpy(draw_flips(rng, n)).to(device)
    return Epoch(trial, data, epoch, order, data.train[torch.from_numpy(order).to(device)], offsets, flips, keys)
