"""Weather: snow, frost, fog, and spatter of water or mud."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.corruptions import filters
from bench.data.corruptions.parameters import SMALL_SIDE
from bench.data.corruptions.pixels import as_colour, intensities, luma, rounded, truncated
from bench.data.corruptions.spatter_layers import mud_layer, water_layer
from bench.data.corruptions.texture import frost_textures

_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
_WATER = torch.tensor([175.0, 238.0, 238.0]).view(1, 3, 1, 1) / 255
_MUD = torch.tensor([63.0, 42.0, 20.0]).view(1, 3, 1, 1) / 255

# make_cifar_c.py shrinks its photographs of frost to a fifth by taking every fifth pixel.
_SMALL_STEP = 5


class Snow(NamedTuple):
    mean: float
    deviation: float
    zoom: float
    threshold: float
    radius: int
    sigma: float
    kept: float


class Spatter(NamedTuple):
    mean: float
    deviation: float
    sigma: float
    threshold: float
    strength: float
    mud: int


def snow(images: Tensor, c: tuple[float, ...], rng: np.random.Generator) -> Tensor:
    """A whitened image under flakes that fall at up to 45 degrees from the vertical, and the flakes turned about."""
    sky = Snow._make(c)
    flakes = filters.clipped_zoom(_normal_layer(images, sky.mean, sky.deviation, rng), sky.zoom)
    flakes = intensities(truncated(flakes.masked_fill_(flakes < sky.threshold, 0)))
    degrees = rng.uniform(-135, -45, size=len(images))
    flakes = filters.motion_blur(flakes, radius=int(sky.radius), sigma=sky.sigma, degrees=degrees)
    flakes = intensities(rounded(flakes))
    x = intensities(images)
    grey = x if images.shape[1] == 1 else (x * _LUMA).sum(dim=1, keepdim=True)
    white = torch.maximum(x, grey * 1.5 + 0.5)
    return truncated(sky.kept * x + (1 - sky.kept) * white + flakes + flakes.flip(-2, -1))


def frost(images: Tensor, c: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A piece of one of our five frost textures laid over the image.

    The authors cut theirs from photographs that are not ours to pass on; texture.py says how ours compare.
    """
    kept, weight = c
    batch, channels, height, width = images.shape
    step = _SMALL_STEP if max(height, width) <= SMALL_SIDE else 1
    textures = frost_textures()[:, :, ::step, ::step]
    side = textures.shape[-1]
    which, tops, lefts = rng.integers(len(textures), size=batch), *rng.integers(side, size=(2, batch))
    rows = (tops[:, None] + np.arange(height)) % side
    columns = (lefts[:, None] + np.arange(width)) % side
    pieces = textures[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    layer = intensities(torch.from_numpy(pieces).permute(0, 3, 1, 2))
    out = truncated(kept * intensities(as_colour(images)) + weight * layer)
    return luma(out) if channels == 1 else out


def fog(images: Tensor, c: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """Fog that thickens and thins over the image: a diamond-square landscape, added and scaled back."""
    weight, decay = c
    _, _, height, width = images.shape
    x = intensities(images)
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    layer = _plasma(len(images), max(height, width), decay, rng)[:, None, :height, :width]
    return truncated((x + weight * layer).mul_(brightest / (brightest + weight)))


def spatter(images: Tensor, c: tuple[float, ...], rng: np.random.Generator) -> Tensor:
    """Drops of water or splashes of mud on the lens."""
    liquid = Spatter._make(c)
    layer = filters.gaussian_blur(_normal_layer(images, liquid.mean, liquid.deviation, rng), liquid.sigma)
    x = intensities(as_colour(images))
    if liquid.mud:
        cover = mud_layer(layer, threshold=liquid.threshold, sigma=liquid.strength)
        out = truncated(x * (1 - cover) + _MUD * cover)
    else:
        out = truncated(x + liquid.strength * water_layer(layer, threshold=liquid.threshold) * _WATER)
    return luma(out) if images.shape[1] == 1 else out


def _normal_layer(images: Tensor, mean: float, deviation: float, rng: np.random.Generator) -> Tensor:
    """(B, 1, H, W) normal numbers."""
    batch, _, height, width = images.shape
    normal = rng.standard_normal((batch, 1, height, width), dtype=np.float32)
    return torch.from_numpy(normal).mul_(deviation).add_(mean)


def _plasma(batch: int, side: int, decay: float, rng: np.random.Generator) -> Tensor:
    """(batch, S, S) landscapes in [0, 1], each from 0 to 1, S the power of two from `side` on.

    The diamond-square algorithm on a torus, its amplitude divided by decay^2 from one scale to the next (the
    authors' `wibble` enters twice).
    Source: Fournier, Fussell and Carpenter 1982; the authors' plasma_fractal.
    """
    size = 1 << (side - 1).bit_length()
    heights = torch.zeros(batch, size, size)
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2

        def displaced(total: Tensor, amplitude: float = amplitude) -> Tensor:
            noise = torch.from_numpy(rng.random(total.shape, dtype=np.float32))
            return total / 4 + (2 * noise - 1) * amplitude

        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, dims=1)
        heights[:, half::step, half::step] = displaced(pairs + pairs.roll(-1, dims=2))
        centres = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = displaced(
            centres + centres.roll(1, dims=1) + corners + corners.roll(-1, dims=2)
        )
        heights[:, half::step, ::step] = displaced(
            centres + centres.roll(1, dims=2) + corners + corners.roll(-1, dims=1)
        )
        step, amplitude = half, amplitude / decay**2
    heights -= heights.amin(dim=(1, 2), keepdim=True)
    return heights / heights.amax(dim=(1, 2), keepdim=True)
