"""Stratified choices of examples: validation from training, a smaller training set, a test set where none is given.

Each keeps the class proportions by largest remainder, and each is nested: the same draw with a larger size contains
the smaller choice.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Labels = NDArray[np.int64]


def carve_validation(labels: Labels, fraction: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split a training set in two: (train_index, val_index), each sorted, together 0..n-1.

    labels: (n,) int.  fraction: share of validation in [0, 1); 0 leaves it empty.  Every class keeps at least one
    training example, so a class with a single one has none in validation.  Raises ValueError for another fraction.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a validation fraction of {fraction}: it must be at least 0 and below 1")
    order = rng.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    sizes = np.minimum(_apportion(counts, round(fraction * len(labels))), counts - 1)
    val = _first_of_each(classes, sizes, labels, order)
    return np.flatnonzero(~val), np.flatnonzero(val)


def subset(labels: Labels, size: int, rng: np.random.Generator) -> Indices:
    """A sorted choice of `size` of the n examples, with the class proportions of labels: (n,) int.

    A class rarer than 1 in `size` may be left out.  Raises ValueError unless 1 <= size <= n.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"a subset of {size} out of {len(labels)} examples: choose between 1 and {len(labels)}")
    order = rng.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    return np.flatnonzero(_first_of_each(classes, _apportion(counts, size), labels, order))


def hold_out(keys: Sequence[bytes], labels: Labels, fraction: float) -> tuple[Indices, Indices]:
    """Make a test set where none is given: (train_index, test_index), each sorted, at least one of every class in both.

    keys: n distinct names of the examples.  labels: (n,) int, each class at least twice.  fraction: share of the test
    set in (0, 1).  The SHA-256 of an example's key decides, not a generator: the split is the same for every trial,
    machine, library version and order of the examples.
    """
    order = np.array(sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i]).digest()), dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    sizes = np.clip(_apportion(counts, round(fraction * len(labels))), 1, counts - 1)
    test = _first_of_each(classes, sizes, labels, order)
    return np.flatnonzero(~test), np.flatnonzero(test)


def _apportion(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide total in proportion to counts; the largest remainders, then the first classes, get what rounding left."""
    share, remainder = np.divmod(counts * total, counts.sum())
    leftover = total - share.sum()
    share[np.argsort(-remainder, kind="stable")[:leftover]] += 1
    return share


def _first_of_each(classes: Labels, sizes: NDArray[np.int64], labels: Labels, order: Indices) -> NDArray[np.bool_]:
    """Mask (n,) of the first sizes[k] examples of classes[k] in the given order."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label, size in zip(classes, sizes, strict=True):
        chosen[order[labels[order] == label][:size]] = True
    return chosen
