"""Whom each example of a batch is mixed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from bench.mixing.batch import Batch, Lam

Partner = Literal["permutation", "same_class", "different_class", "neighbours", "class_neighbours", "next_batch"]
"""permutation: a random one of the batch, which goes without saying.
same_class, different_class: drawn uniformly from the whole training set, among the examples of the same (given) label
but for the example itself, or of all other labels; of a label that one example alone has, that one is its own partner.
The paper's Table 5 permutes within each class (of the batch, as we understand it), so that some stay where they are.
neighbours, class_neighbours: one of the k nearest training examples, over all classes or of the same given label.
next_batch: the examples that come a batch later in the epoch's order; after its last, those at its beginning.
"""


class Partners(NamedTuple):
    """x: (B, C, H, W).  y: (B,) on the device; `labels` are the same on the host."""

    x: Tensor
    y: Tensor
    labels: NDArray[np.int64]


class Pairing(NamedTuple):
    """Of one batch, drawn before its images are there: lam, one number or (B,), and perm, (B,)."""

    lam: Lam
    perm: NDArray[np.int64]


def permuted(batch: Batch, *, rng: np.random.Generator) -> Partners:
    """A random permutation of the batch, as in the authors' code."""
    from bench.mixing.batch import chosen

    perm, index = draw_permutation(batch, rng=rng)
    return Partners(chosen(batch.x, index), batch.y.index_select(0, index), batch.labels[perm])


def draw_permutation(batch: Batch, *, rng: np.random.Generator) -> tuple[NDArray[np.int64], Tensor]:
    """perm, (B,): on the host, and on the batch's device."""
    import torch

    perm = rng.permutation(len(batch.labels))
    return perm, torch.from_numpy(perm).to(batch.y.device, non_blocking=True)


def draw_positions(partner: Partner, batch: Batch, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """(B,), the partners' positions in the training set."""
    examples = batch.training_set
    if partner == "next_batch":
        following = batch.place + len(batch.labels) + np.arange(len(batch.labels))
        later: NDArray[np.int64] = examples.order[following % len(examples.order)]
        return later
    if partner in ("neighbours", "class_neighbours"):
        assert examples.neighbours is not None
        return drawn_neighbours(examples.neighbours, batch.positions, rng=rng)
    classes = examples.classes
    first, end = classes.span(batch.labels)
    if partner == "different_class":
        others = len(classes.members) - (end - first)
        if not others.all():
            raise ValueError("partner different_class needs two classes among the training examples")
        drawn = rng.integers(others)
        return classes.members[np.where(drawn < first, drawn, drawn + end - first)]
    # Of the same class but not the example itself: 1 to size - 1 places on from its own, around the class.
    size = end - first
    step = 1 + rng.integers(np.maximum(size - 1, 1))
    others_of_class: NDArray[np.int64] = first + (classes.places[batch.positions] - first + step) % size
    return classes.members[others_of_class]


def drawn_neighbours(
    table: NDArray[np.int32], rows: NDArray[np.int64], *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """One of the neighbours of each of `rows`, uniformly among its valid ones; the row itself where it has none.

    table: (n, k) positions, -1 after the last valid one.  rows: (B,).
    """
    near = table[rows]
    count = (near >= 0).sum(axis=1)
    drawn = near[np.arange(len(rows)), rng.integers(np.maximum(count, 1))]
    return np.where(count > 0, drawn, rows).astype(np.int64)
