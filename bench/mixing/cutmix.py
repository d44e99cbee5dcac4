"""CutMix: a box of each image is replaced by its partner's. Source: Yun et al. 2019, arXiv 1905.04899."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from bench.mixing.method import Alpha, Mixing, draw_lam
from bench.mixing.partners import permuted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss


class Box(NamedTuple):
    """Rows [top, bottom) and columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


class CutMix(Mixing):
    """The partner's pixels in a box of the share 1 - lam of the area, at a uniform place; labels by the pixels' share.

    One box and one lam ~ Beta(alpha, alpha) per batch, as in the authors' code. The box is cut by the border, and the
    label's weight is what is left of it. The authors mix half of the batches on CIFAR (`probability: 0.5`).
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha",)
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0}

    name: Literal["cutmix"] = "cutmix"
    alpha: Alpha = 1.0

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        return cutmix_loss(self, model, batch, alpha=self.alpha, rng=rng)


def cutmix_loss(method: Mixing, model: nn.Module, batch: Batch, *, alpha: float, rng: np.random.Generator) -> BatchLoss:
    """Draw lam, the box and the partners, and take the loss."""
    height, width = batch.x.shape[-2:]
    box = draw_box(rng, draw_lam(rng, alpha), height=height, width=width)
    partners = permuted(batch, rng=rng)
    logits = model(paste(batch.x, partners.x, box))
    return method.pair_loss(logits, batch, partners, 1 - box.area / (height * width))


def draw_box(rng: np.random.Generator, lam: float, *, height: int, width: int) -> Box:
    """A box of sides sqrt(1 - lam) of the image's around a uniform centre, cut by the border."""
    share = math.sqrt(1 - lam)
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    row, column = int(rng.integers(height)), int(rng.integers(width))
    return Box(
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def paste(x: Tensor, partner_x: Tensor, box: Box) -> Tensor:
    """x with partner_x in the box; both (B, C, H, W)."""
    return filled(x, partner_x[:, :, box.top : box.bottom, box.left : box.right], box)


def filled(x: Tensor, patch: Tensor, box: Box) -> Tensor:
    """x (B, C, H, W) with the patch, which is of the box's size, in the box; x itself where the box is empty."""
    if not box.area:
        return x
    mixed = x.clone()
    mixed[:, :, box.top : box.bottom, box.left : box.right] = patch
    return mixed
