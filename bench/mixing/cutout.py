"""Cutout: a square of every training image is blanked. Source: DeVries & Taylor 2017, arXiv 1708.04552."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def draw_centres(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.int64]:
    """(B, 2) of (row, column), uniform over the pixels of images of `shape` (B, C, H, W)."""
    batch_size, _, height, width = shape
    return rng.integers((height, width), size=(batch_size, 2))


def cut_out(x: Tensor, centres: NDArray[np.int64], *, side: int) -> Tensor:
    """x with 0, which is the mean of normalised images, in a square of `side` pixels around each image's centre.

    x: (B, C, H, W).  centres: (B, 2) of (row, column).  The square covers [centre - side // 2, centre - side // 2 +
    side) and is cut by the border, as in the authors' code, which rounds odd sides down to even ones.
    """
    corner = torch.from_numpy(centres - side // 2).to(x.device, non_blocking=True)
    inside = [
        (place >= corner[:, axis, None]) & (place < corner[:, axis, None] + side)
        for axis, place in enumerate(torch.arange(size, device=x.device) for size in x.shape[-2:])
    ]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hole, 0.0, x)
