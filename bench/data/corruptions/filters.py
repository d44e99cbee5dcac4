"""The linear filters that several corruptions share, on batches (B, C, H, W) of floats."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

# SciPy's names: beyond the border the outermost pixel repeats, or the image is mirrored with that pixel twice.
Border = Literal["nearest", "reflect"]

# A tap of a motion blur that weighs less changes no pixel by a hundredth of a level.
_NEGLIGIBLE = 1e-6


def separable(x: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a matrix (H', H) along the height and one (W', W) along the width."""
    return torch.matmul(torch.matmul(rows, x), columns.T)


def gaussian_blur(x: Tensor, sigma: float, *, mode: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Gaussian blur, cut off at `truncate` sigmas."""
    height, width = x.shape[-2:]
    rows, columns = (_gaussian_matrix(side, sigma, mode, truncate).to(x.dtype) for side in (height, width))
    return separable(x, rows=rows, columns=columns)


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of the image, enlarged by the factor to the size of the whole, linearly interpolated."""
    height, width = x.shape[-2:]
    return separable(x, rows=_zoom_matrix(height, factor), columns=_zoom_matrix(width, factor))


def correlate(x: Tensor, kernel: NDArray[np.float32]) -> Tensor:
    """Correlation with a kernel (k, k), k odd; beyond the border the image is mirrored about its outermost pixels."""
    reach = len(kernel) // 2
    taps = [(dy, dx, float(kernel[dy, dx])) for dy, dx in np.argwhere(kernel)]
    height, width = x.shape[-2:]
    padded = x[..., _mirrored(height, reach), :][..., _mirrored(width, reach)]
    out = torch.zeros_like(x)
    for dy, dx, weight in taps:
        out.add_(padded[..., dy : dy + height, dx : dx + width], alpha=weight)
    return out


def motion_blur(x: Tensor, *, radius: int, sigma: float, degrees: NDArray[np.float64]) -> Tensor:
    """Blur each image along a line of its own, with half a Gaussian; beyond the border the outermost pixel repeats.

    degrees: (B,), from the x axis, clockwise as seen.  Source: ImageMagick's MotionBlurImage, whose taps lie 2 radius
    + 1 whole steps along the line, each at the nearest pixel.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    steps, weights = steps[weights > _NEGLIGIBLE], weights[weights > _NEGLIGIBLE]
    angles = np.deg2rad(degrees)[:, None]
    dys = np.ceil(steps * np.sin(angles) - 0.5).astype(np.int64)
    dxs = np.ceil(steps * np.cos(angles) - 0.5).astype(np.int64)
    reach = int(steps[-1])
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate").numpy()
    height, width = x.shape[-2:]
    out = np.zeros(x.shape, dtype=np.float32)
    tap = np.empty(x.shape[1:], dtype=np.float32)
    for image, target, image_dys, image_dxs in zip(padded, out, reach + dys, reach + dxs, strict=True):
        for dy, dx, weight in zip(image_dys.tolist(), image_dxs.tolist(), weights.astype(np.float32), strict=True):
            np.multiply(image[:, dy : dy + height, dx : dx + width], weight, out=tap)
            target += tap
    return torch.from_numpy(out)


def disk(radius: float, softness: float) -> NDArray[np.float32]:
    """A disk of constant weight that sums to 1, softened by a Gaussian of 3 (radius up to 8) or 5 taps each way."""
    reach = 8 if radius <= 8 else math.ceil(radius)
    taps = np.arange(3) - 1 if radius <= 8 else np.arange(5) - 2
    x = np.arange(-reach, reach + 1)
    aliased = (x[:, None] ** 2 + x**2 <= radius**2).astype(np.float64)
    gaussian = np.exp(-(taps**2) / (2 * softness**2))
    gaussian /= gaussian.sum()
    soft = aliased / aliased.sum()
    for axis in (0, 1):
        soft = ndimage.correlate1d(soft, gaussian, axis=axis, mode="mirror")
    return np.asarray(soft, dtype=np.float32)


@lru_cache(maxsize=64)
def _gaussian_matrix(size: int, sigma: float, mode: Border, truncate: float) -> Tensor:
    eye = np.eye(size)
    if sigma > 0:
        eye = ndimage.gaussian_filter1d(eye, sigma, axis=0, mode=mode, truncate=truncate)
    return torch.from_numpy(eye)


@lru_cache(maxsize=64)
def _zoom_matrix(size: int, factor: float) -> Tensor:
    """What scipy.ndimage.zoom does to the middle of a line, with what it makes too many cut off at both ends."""
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    zoomed = ndimage.zoom(np.eye(size)[first : first + kept], (factor, 1), order=1)
    excess = (len(zoomed) - size) // 2
    return torch.from_numpy(zoomed[excess : excess + size].astype(np.float32))


def _mirrored(size: int, reach: int) -> Tensor:
    """Where the pixels -reach .. size + reach - 1 of a line lie in it: ... 2 1 0 1 2 ..., as often as it takes."""
    return torch.from_numpy(np.pad(np.arange(size), reach, mode="reflect"))
