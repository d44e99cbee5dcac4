"""What one trial sees of a data set: its training and validation split, its wrong labels, its normalisation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.augment import channel_statistics, crop, draw_crop_offsets, draw_flips, flip, normalise
from bench.data.datasets import Arrays
from bench.data.label_noise import class_map, corrupt_labels, nominal_rate, realised_matrix
from bench.data.posterior import posterior_sha256
from bench.data.split import carve_validation, subset
from bench.plan.trial import Trial
from bench.training.seeding import stream


@dataclass(frozen=True)
class TrialData:
    """A data set on the device, as one trial uses it.

    images: uint8 (N, C, H, W), the whole training set.  labels: (N,) as given, some of them wrong.  true_labels: (N,).
    train, val: (n,) int64 positions in these.  scale, shift: (1, C, 1, 1), the training split's normalisation.
    summary: what final.json says of the data.  noise: what label_noise.json says; None where the labels are right.
    """

    images: Tensor
    labels: Tensor
    true_labels: Tensor
    train: Tensor
    val: Tensor
    test_images: Tensor
    test_labels: Tensor
    scale: Tensor
    shift: Tensor
    num_classes: int
    summary: dict[str, Any]
    noise: dict[str, Any] | None

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) as the network's input, float32."""
        return normalise(images, self.scale, self.shift)


@dataclass(frozen=True)
class Extras:
    """What some trials need besides the data set itself.

    corrupted_images: (N, C, H, W) uint8, the training images as `train_corruption` makes them.
    given_labels: (N,), people's labels.  posterior: (N, K), class probabilities for instance-dependent noise.
    """

    corrupted_images: NDArray[np.uint8] | None = None
    given_labels: NDArray[np.int64] | None = None
    posterior: NDArray[np.float32] | None = None


NO_EXTRAS = Extras()


def prepare(trial: Trial, arrays: Arrays, *, device: torch.device, extras: Extras = NO_EXTRAS) -> TrialData:
    """Draw the trial's subset, wrong labels and split, in this order: validation is carved after label noise."""
    dataset, seed = trial.dataset, trial.seed
    num_classes = len(arrays.class_names)
    true_labels = np.asarray(arrays.train_labels)
    chosen = np.arange(len(true_labels))
    if dataset.train_size is not None:
        chosen = subset(true_labels, dataset.train_size, stream(seed, "subset"))
    images = _training_images(trial, arrays, extras)
    labels, nominal = given_labels(trial, arrays, extras)
    train_index, val_index = carve_validation(labels[chosen], dataset.val_fraction, stream(seed, "split"))
    train, val = chosen[train_index], chosen[val_index]
    mean, std = channel_statistics(images[train])
    wrong = labels != true_labels
    noise = {
        "kind": trial.label_noise.kind,
        "nominal_rate": nominal,
        "realised_rate": float(wrong[train].mean()),
        "matrix": realised_matrix(true_labels[train], labels[train], num_classes).tolist(),
        "class_names": list(arrays.class_names),
    }
    return TrialData(
        images=_shared(images).to(device),
        labels=torch.from_numpy(labels).to(device),
        true_labels=torch.from_numpy(true_labels.copy()).to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
        test_images=_shared(arrays.test_images).to(device),
        test_labels=torch.from_numpy(np.array(arrays.test_labels)).to(device),
        scale=(1 / (255 * std)).view(1, -1, 1, 1).to(device),
        shift=(-mean / std).view(1, -1, 1, 1).to(device),
        num_classes=num_classes,
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


def given_labels(trial: Trial, arrays: Arrays, extras: Extras) -> tuple[NDArray[np.int64], float]:
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

    order: (n,) positions in the training set.  offsets: (n, 2) crop offsets.  flips: (n,) bool.
    """

    order: Tensor
    offsets: Tensor | None
    flips: Tensor | None
    padding: int

    def batch(self, data: TrialData, rows: slice) -> tuple[Tensor, Tensor]:
        """The augmented, normalised images (B, C, H, W) and labels (B,) of one step."""
        index = self.order[rows]
        x = data.images.index_select(0, index)
        if self.offsets is not None:
            x = crop(x, self.offsets[rows], padding=self.padding)
        if self.flips is not None:
            x = flip(x, self.flips[rows])
        return data.normalised(x), data.labels.index_select(0, index)


def draw_epoch(trial: Trial, data: TrialData, epoch: int) -> Epoch:
    """The order and augmentation of 0-based epoch `epoch`; the method has no part in them."""
    device = data.images.device
    n, training = len(data.train), trial.training
    order = torch.from_numpy(stream(trial.seed, "order", epoch).permutation(n)).to(device)
    rng = stream(trial.seed, "augment", epoch)
    offsets = flips = None
    if training.crop_padding:
        offsets = torch.from_numpy(draw_crop_offsets(rng, n, training.crop_padding)).to(device)
    if training.flip:
        flips = torch.from_numpy(draw_flips(rng, n)).to(device)
    return Epoch(data.train[order], offsets, flips, training.crop_padding)
