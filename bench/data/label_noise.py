"""Wrong training labels, drawn so that they depend on the labels, kind, rate and generator alone."""

import difflib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


def corrupt_labels(labels: Labels, *, kind: str, rate: float, num_classes: int, rng: np.random.Generator) -> Labels:
    """A copy of labels in which each is replaced with probability `rate`.

    labels: (n,) int in [0, num_classes).  kind: a name in KINDS.  rate: in [0, 1]; 0 changes nothing.
    The draws do not depend on the rate: for one generator state, a label that is wrong at a low rate is wrong in the
    same way at every higher one.  Raises ValueError for an unknown kind, a rate outside [0, 1], fewer than two
    classes or a label out of range.
    """
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown kind of label noise {kind!r}: choose from {', '.join(KINDS)}{hint}")
    if not 0 <= rate <= 1:
        raise ValueError(f"a label noise rate of {rate}: it must lie in [0, 1]")
    if num_classes < 2:
        raise ValueError(f"label noise among {num_classes} class(es): it takes at least two")
    if np.any((labels < 0) | (labels >= num_classes)):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}: they must lie in [0, {num_classes})")
    flip = rng.random(len(labels)) < rate
    replacement = KINDS[kind](labels, num_classes, rng)
    return np.where(flip, replacement, labels).astype(np.int64)


def _any_class(labels: Labels, num_classes: int, rng: np.random.Generator) -> Labels:
    """Redrawn over all classes, so 1/K stay right: "replaced by random noise", Zhang et al. 2018, sec. 3.4."""
    return rng.integers(num_classes, size=len(labels))


def _another_class(labels: Labels, num_classes: int, rng: np.random.Generator) -> Labels:
    """One of the K-1 other classes: always wrong."""
    return (labels + rng.integers(1, num_classes, size=len(labels))) % num_classes


KINDS: dict[str, Callable[[Labels, int, np.random.Generator], Labels]] = {
    "uniform": _any_class,
    "symmetric": _another_class,
}
