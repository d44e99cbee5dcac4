"""Blur: of the lens, of frosted glass, of motion, of zooming."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.corruptions import filters
from bench.data.corruptions.pixels import intensities, rounded, truncated


class Glass(NamedTuple):
    sigma: float
    reach: int
    passes: int


def gaussian_blur(images: Tensor, sigma: float, _rng: np.random.Generator) -> Tensor:
    """Each value a Gaussian mean of those around it."""
    # A narrow Gaussian leaves values a millionth of a level below whole numbers, which truncation takes for a level.
    return truncated(filters.gaussian_blur(intensities(images, torch.float64), sigma))


def defocus_blur(images: Tensor, c: tuple[float, float], _rng: np.random.Generator) -> Tensor:
    """Out of focus: each point becomes a disk."""
    radius, softness = c
    return truncated(filters.correlate(intensities(images), filters.disk(radius, softness)))


def glass_blur(images: Tensor, c: tuple[float, int, int], rng: np.random.Generator) -> Tensor:
    """Frosted glass: pixels change places with near ones between two Gaussian blurs.

    The authors' script goes through the pixels from the last to the first and means to swap each with one at most
    `reach` away; as NumPy's views have it, the other one keeps its value.
    """
    glass = Glass(*c)
    x = gaussian_blur(images, glass.sigma, rng)
    for _ in range(glass.passes):
        x = _displaced(x, glass.reach, rng)
    return gaussian_blur(x, glass.sigma, rng)


def motion_blur(images: Tensor, c: tuple[int, float], rng: np.random.Generator) -> Tensor:
    """A camera that moves, at up to 45 degrees from the horizontal."""
    radius, sigma = c
    degrees = rng.uniform(-45, 45, size=len(images))
    return rounded(filters.motion_blur(intensities(images), radius=radius, sigma=sigma, degrees=degrees))


def zoom_blur(images: Tensor, c: tuple[float, float], _rng: np.random.Generator) -> Tensor:
    """A camera that moves towards its object: the mean over zoom factors from 1 on, and the image once more."""
    end, step = c
    x = intensities(images)
    factors = np.arange(1, end, step).tolist()
    total = x.clone()
    for factor in factors:
        total += filters.clipped_zoom(x, factor)
    return truncated(total.div_(len(factors) + 1))


def _displaced(x: Tensor, reach: int, rng: np.random.Generator) -> Tensor:
    """One pass of displacement, for all pixels at once.

    A pixel takes the value of its source, the new one if the source's turn came before, else the old one.  So the new
    values form chains that end in old ones; each round of the loop halves what is left of every chain.
    """
    batch, channels, height, width = x.shape
    size = height * width
    own = torch.arange(size).view(height, width)
    turns = own[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    dy, dx = torch.from_numpy(rng.integers(-reach, reach, size=(2, batch, *turns.shape)))
    sources = turns + dy * width + dx
    # Node p < size is the new value of pixel p, node size + p its old one.
    following = (own + size).repeat(batch, 1, 1)
    following[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = torch.where(
        sources > turns, sources, sources + size
    )
    nodes = torch.cat([following.view(batch, size), (own + size).view(1, size).expand(batch, -1)], dim=1)
    while bool((nodes < size).any()):
        nodes = nodes.gather(1, nodes)
    old = (nodes[:, None, :size] - size).expand(-1, channels, -1)
    return x.view(batch, channels, size).gather(2, old).view_as(x)
