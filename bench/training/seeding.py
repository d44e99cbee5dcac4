"""Every use of chance has a stream of its own, derived from the trial's seed and the stream's name alone.

The method is no part of it: the two halves of a pair share split, wrong labels, initial weights, batch order and
augmentation. Streams that are used in every epoch are derived anew for each, so that a resumed trial needs no
history. NumPy promises that SeedSequence and PCG64 keep their output across versions; a change of a
distribution's algorithm would be a new NUMERICS_VERSION.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

Stream = Literal[
    "subset",
    "train_corruption",
    "label_noise",
    "split",
    "init",
    "order",
    "augment",
    "mixing",
    "dropout",
    "attack",
    "in_between",
    "noise_images",
]


def stream(seed: int, name: Stream, epoch: int = 0) -> np.random.Generator:
    """The generator of one stream in one epoch. Distinct names, seeds or epochs give independent generators."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, name, epoch)))


def stream_seed(seed: int, name: Stream, epoch: int = 0) -> int:
    """A 63-bit seed for torch's generator, which initialises weights and draws dropout masks."""
    return int(_sequence(seed, name, epoch).generate_state(1, np.uint64)[0] >> 1)


def _sequence(seed: int, name: str, epoch: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), epoch])
