"""Textures of frost, made here: the published corruption uses photographs, which we may not pass on.

Five squares that wrap around, each a sum of fractal noise and of needles in six directions, brought to the brightness
distribution, the mean colour and about the autocorrelation of one of the five photographs that the authors' scripts
draw from (of which two are the same).  These figures, measured on the photographs, are all that comes from them.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 640

_SEED = 2019
_NEEDLE_DIRECTIONS = 6
# Standard deviations of a needle along and across, in pixels.
_NEEDLE_LENGTH, _NEEDLE_WIDTH = 12.0, 0.8
_NEEDLE_SHARE = 0.35


class Photograph(NamedTuple):
    """Mean red, green, blue, and the quantiles of brightness at QUANTILES."""

    colour: tuple[float, float, float]
    brightness: tuple[float, ...]


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

_PALE = Photograph((201, 205, 214), (110, 143, 166, 195, 210, 223, 236, 245, 255))

PHOTOGRAPHS = (
    Photograph((78, 149, 166), (85, 97, 104, 118, 129, 142, 163, 177, 210)),
    _PALE,
    _PALE,
    Photograph((138, 153, 165), (40, 80, 105, 135, 152, 169, 199, 239, 255)),
    Photograph((112, 123, 135), (25, 46, 60, 91, 120, 151, 203, 238, 255)),
)


@lru_cache(maxsize=1)
def frost_textures() -> NDArray[np.uint8]:
    """(5, 3, 640, 640) uint8, the same in every process."""
    rng = np.random.default_rng(_SEED)
    return np.stack([_texture(photograph, rng) for photograph in PHOTOGRAPHS])


def _texture(photograph: Photograph, rng: np.random.Generator) -> NDArray[np.uint8]:
    field = (1 - _NEEDLE_SHARE) * _fractal(rng) + _NEEDLE_SHARE * _needles(rng)
    ranks = np.empty(field.size)
    ranks[np.argsort(field, axis=None)] = (np.arange(field.size) + 0.5) / field.size
    grey = np.interp(ranks, QUANTILES, photograph.brightness).reshape(SIDE, SIDE)
    tint = np.array(photograph.colour) - np.mean(photograph.colour)
    texture: NDArray[np.uint8] = np.clip(grey + tint[:, None, None], 0, 255).astype(np.uint8)
    return texture


def _fractal(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of power 1/f^2.3, whose correlation falls from octave to octave about as it does in the photographs."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    return _filtered(rng, frequency**-1.15)


def _needles(rng: np.random.Generator) -> NDArray[np.float64]:
    """Crystals: at each pixel the strongest of several fields of streaks, each field with a direction of its own."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)
    fields = []
    for direction in np.pi / _NEEDLE_DIRECTIONS * (np.arange(_NEEDLE_DIRECTIONS) + rng.random()):
        along = fx * np.cos(direction) + fy * np.sin(direction)
        across = fy * np.cos(direction) - fx * np.sin(direction)
        exponent = (along * _NEEDLE_LENGTH) ** 2 + (across * _NEEDLE_WIDTH) ** 2
        fields.append(_filtered(rng, np.exp(-2 * np.pi**2 * exponent)))
    return _standardized(np.max(fields, axis=0))


def _filtered(rng: np.random.Generator, response: NDArray[np.float64]) -> NDArray[np.float64]:
    """White noise through a filter, brought to mean 0 and deviation 1."""
    noise = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
    return _standardized(np.fft.irfft2(noise * response, s=(SIDE, SIDE)))


def _standardized(field: NDArray[np.float64]) -> NDArray[np.float64]:
    standardized: NDArray[np.float64] = (field - field.mean()) / field.std()
    return standardized
