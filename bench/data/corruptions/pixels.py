"""Between pixels, 0..255 uint8, and intensities, 0..1, as the published corruptions convert them."""

import torch
from torch import Tensor

# Added before truncation, in pixel levels: rounding may put a whole number just below itself.
_SLACK = {torch.float32: 1e-4, torch.float64: 1e-10}


def intensities(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 as float in [0, 1]."""
    return images.to(dtype).div_(255)


def truncated(x: Tensor) -> Tensor:
    """Intensities as uint8, clipped and rounded down, as the authors' scripts do nearly everywhere."""
    return x.clamp(0, 1).mul_(255).add_(_SLACK[x.dtype]).to(torch.uint8)


def rounded(x: Tensor) -> Tensor:
    """Intensities as uint8, clipped and rounded to the nearest, as ImageMagick does."""
    return x.clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8)


def as_colour(images: Tensor) -> Tensor:
    """(B, 1, H, W) or (B, 3, H, W) as (B, 3, H, W)."""
    return images.expand(-1, 3, -1, -1)


def luma(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 as (B, 1, H, W) uint8, by ITU-R 601 in Pillow's fixed-point arithmetic."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    total = (images * weights).sum(dim=1, keepdim=True, dtype=torch.int32)
    return ((total + 0x8000) >> 16).to(torch.uint8)
