"""ResizeMix: the whole partner, made small, is pasted into each image. Source: Qin et al. 2020, arXiv 2012.11101."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bench.mixing.cutmix import Box, filled
from bench.mixing.method import Mixing
from bench.mixing.partners import permuted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss


class ResizeMix(Mixing):
    """The partner at `tau` times its size, tau ~ U(smallest, largest), at a uniform place; labels by the pixels' share.

    The patch lies wholly inside the image; one tau and one place per batch. Resized with anti-aliasing: the paper does
    not say how.
    """

    name: Literal["resizemix"] = "resizemix"
    smallest: float = Field(default=0.1, ge=0, le=1, description="share of the image's side, at least")
    largest: float = Field(default=0.8, ge=0, le=1, description="share of the image's side, at most")
    neutral: ClassVar[dict[str, Any]] = {"largest": 0}

    @model_validator(mode="after")
    def _least_first(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest:g} should not be more than largest {self.largest:g}")
        return self

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        height, width = batch.x.shape[-2:]
        box = draw_patch(rng, rng.uniform(self.smallest, self.largest), height=height, width=width)
        partners = permuted(batch, rng=rng)
        logits = model(paste_small(batch.x, partners.x, box))
        return self.pair_loss(logits, batch, partners, 1 - box.area / (height * width))


def draw_patch(rng: np.random.Generator, tau: float, *, height: int, width: int) -> Box:
    """A box of tau times the image's sides, rounded, at a uniform place inside the image."""
    patch_height, patch_width = round(tau * height), round(tau * width)
    top = int(rng.integers(height - patch_height + 1))
    left = int(rng.integers(width - patch_width + 1))
    return Box(top, top + patch_height, left, left + patch_width)


def paste_small(x: Tensor, partner_x: Tensor, box: Box) -> Tensor:
    """x with the whole of partner_x, resized, in the box; both (B, C, H, W)."""
    from torch.nn.functional import interpolate

    if not box.area:
        return x
    size = (box.bottom - box.top, box.right - box.left)
    small = interpolate(partner_x.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return filled(x, small.to(x.dtype), box)
