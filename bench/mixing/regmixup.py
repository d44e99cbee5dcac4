"""RegMixup: mixup's loss beside the plain one, on the same batch. Source: Pinto et al. 2022, arXiv 2206.14502."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.mixing.method import Mixing
from bench.mixing.mixup import mix_inputs
from bench.mixing.partners import permuted

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from bench.mixing.batch import Batch, BatchLoss


class RegMixup(Mixing):
    """Cross-entropy of the batch plus `weight` times mixup's of the mixed batch, lam ~ Beta(alpha, alpha) near 1/2.

    Both go through the network together, so BatchNorm sees them as one batch, as in the authors' code; a step costs
    about twice as much. The sum is the paper's; the authors' code takes the mean over both halves, which is half of it
    at weight 1, and so half the step under SGD. Its default is alpha 20.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha",)
    neutral: ClassVar[dict[str, Any]] = {"weight": 0}

    name: Literal["regmixup"] = "regmixup"
    alpha: float = Field(default=10.0, gt=0, le=1000, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, le=100, description="of the mixed loss beside the plain one")

    @property
    def passes(self) -> int:
        return 2 if self.weight else 1

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        import torch

        from bench.mixing.method import plain_loss

        if not self.weight:
            return plain_loss(self, model, batch)
        lam = rng.beta(self.alpha, self.alpha)
        partners = permuted(batch, rng=rng)
        plain, mixed = model(torch.cat([batch.x, mix_inputs(batch.x, partners.x, lam)])).chunk(2)
        found = self.pair_loss(mixed, batch, partners, lam)
        return replace(found, loss=self.cross_entropy(plain, batch.y) + self.weight * found.loss)
