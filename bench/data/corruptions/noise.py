"""Noise: drawn anew for every value of every pixel."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bench.data.corruptions.pixels import intensities, truncated


def gaussian_noise(images: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Sensor noise in low light: a normal number added to every value."""
    return truncated(intensities(images).add_(_normal(images, rng), alpha=deviation))


def speckle_noise(images: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Noise in proportion to the value."""
    x = intensities(images)
    return truncated(x.addcmul_(x, _normal(images, rng), value=deviation))


def impulse_noise(images: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Salt and pepper: a share `amount` of the values becomes 255 or 0, each as likely."""
    u = torch.from_numpy(rng.random(images.shape, dtype=np.float32))
    return images.masked_fill(u < amount, 0).masked_fill_(u < amount / 2, 255)


def shot_noise(images: Tensor, photons: float, rng: np.random.Generator) -> Tensor:
    """Photon noise: a Poisson number whose mean is `photons` times the value.

    Drawn by alias tables, one for each of the 256 values; probabilities are exact to 2^-24.
    """
    threshold, alias = _shot_noise_sampler(photons)
    draws = rng.integers(1 << 32, size=images.shape, dtype=np.uint32)
    cell = images.numpy().astype(np.uint32) << 8 | draws & 0xFF
    return torch.from_numpy(np.where(draws >> 8 < threshold[cell], cell.astype(np.uint8), alias[cell]))


def _normal(images: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))


@lru_cache(maxsize=10)
def _shot_noise_sampler(photons: float) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    return _alias_tables(_shot_noise_table(photons))


def _shot_noise_table(photons: float) -> NDArray[np.float64]:
    """How likely each of the 256 values is (columns) after shot noise on each of them (rows)."""
    means = np.arange(256) / 255 * photons
    counts = np.arange(int(photons + 20 * np.sqrt(photons) + 40))
    values = (np.minimum(counts / photons, 1) * 255).astype(np.int64)
    table = np.zeros((256, 256))
    np.add.at(table.T, values, stats.poisson.pmf(counts[:, None], means))
    table /= table.sum(axis=1, keepdims=True)
    return table


def _alias_tables(table: NDArray[np.float64]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Walker's alias method: (256 x 256,) thresholds in 2^-24 and aliases, of 256 distributions over 256 outcomes."""
    threshold = np.full(table.shape, 1 << 24, dtype=np.uint32)
    alias = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for row in range(256):
        left = table[row] * 256
        small = [i for i in range(256) if left[i] < 1]
        large = [i for i in range(256) if left[i] >= 1]
        while small and large:
            i, j = small.pop(), large[-1]
            threshold[row, i], alias[row, i] = round(left[i] * (1 << 24)), j
            left[j] -= 1 - left[i]
            if left[j] < 1:
                small.append(large.pop())
    return threshold.ravel(), alias.ravel()
