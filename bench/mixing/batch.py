"""What a method is given at each step, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]
Lam = float | NDArray[np.float64]
"""One number for a batch, or (B,), one for each example."""


def inverse(permutation: Labels) -> Labels:
    """(n,): where each of 0..n-1 stands in the permutation (n,)."""
    places = np.empty_like(permutation)
    places[permutation] = np.arange(len(permutation))
    return places


def chosen(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first dimension, in x's memory format.  x: (B, ...).  index: (m,) int64.

    index_select takes a third of the time, but knows one memory format only.
    """
    return x.index_select(0, index) if x.is_contiguous() else x[index]


class ClassIndex:
    """The examples of each class.  labels: (n,) as given."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    @cached_property
    def members(self) -> Labels:
        """(n,) positions, class after class."""
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def places(self) -> Labels:
        """(n,), where each position stands in `members`."""
        return inverse(self.members)

    def span(self, labels: Labels) -> tuple[Labels, Labels]:
        """The first place of each label's members and the one after their last, (B,) each."""
        ordered = self._ordered
        return np.searchsorted(ordered, labels), np.searchsorted(ordered, labels, side="right")

    @cached_property
    def _ordered(self) -> Labels:
        return self.labels[self.members]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The n examples that a trial trains on, as partners are drawn from them in one epoch.

    order: (n,) positions in the order of the epoch.  neighbours: (n, k) int32, the positions of each example's nearest
    ones, -1 where it has fewer; None where no method asks for them.
    take: positions (m,) -> images (m, C, H, W) normalised, and labels (m,) int64 on the device; augmented as this epoch
    augments those examples.
    """

    classes: ClassIndex
    order: NDArray[np.int64]
    neighbours: NDArray[np.int32] | None
    take: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    x: (B, C, H, W) normalised images.  y: (B,) int64 labels; `labels` are the same on the host.
    pixels: (B, C, H, W) uint8, the augmented images before normalisation.  normalised: from pixels in [0, 255] to x.
    pixel_scale: (1, C, 1, 1), what a whole range of pixels, 0 to 1, is in x: one over the standard deviation.
    epoch: from 0.  epochs: of the whole training.  place: of the batch's first example in the order of the epoch.
    """

    x: Tensor
    y: Tensor
    labels: Labels
    pixels: Tensor
    normalised: Callable[[Tensor], Tensor]
    pixel_scale: Tensor
    epoch: int
    epochs: int
    place: int
    training_set: TrainingSet

    def with_x(self, x: Tensor) -> Batch:
        return self if x is self.x else replace(self, x=x)

    @property
    def positions(self) -> NDArray[np.int64]:
        """(B,), of its examples in the training set."""
        return self.training_set.order[self.place : self.place + len(self.labels)]


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """What one step minimises, and what the diagnostics look at.

    loss: a scalar in nats.  logits: (B, K), of the images as they were trained on.  labels: (B,), the examples' own.
    targets: labels (B,) on the host with their weight, a number or (B,); the weights sum to 1 for every example.
    lam: the weight of the example itself, realised, a number or (B,); None where nothing was mixed.
    partner_labels: (m, B), of the m examples that each was mixed with; None where nothing was mixed.
    """

    loss: Tensor
    logits: Tensor
    labels: Labels
    targets: tuple[tuple[Labels, Lam], ...]
    lam: Lam | None = None
    partner_labels: NDArray[np.int64] | None = None
