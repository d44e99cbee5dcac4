"""Mixup or CutMix by chance, batch by batch, as timm's `Mixup` with mode="batch" does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bench.mixing.cutmix import cutmix_loss
from bench.mixing.method import Alpha, Mixing, draw_lam
from bench.mixing.mixup import mix_inputs
from bench.mixing.partners import permuted

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from bench.mixing.batch import Batch, BatchLoss


class MixupOrCutMix(Mixing):
    """CutMix with probability `switch`, else input mixup; lam of each from its own Beta distribution.

    Source: timm (Wightman 2019), `timm.data.Mixup`; alpha 0.8 and 1 are the recipe of DeiT (Touvron et al. 2021). timm
    pairs a batch with itself in reverse order; here the partners are a random permutation, as in the other methods.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha", "cutmix_alpha")

    name: Literal["mixup_or_cutmix"] = "mixup_or_cutmix"
    alpha: Alpha = 0.8
    cutmix_alpha: Alpha = 1.0
    switch: float = Field(default=0.5, gt=0, lt=1, description="share of the mixed batches that CutMix mixes")

    @property
    def is_neutral(self) -> bool:
        return super().is_neutral or (self.alpha == 0 and self.cutmix_alpha == 0)

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        if rng.random() < self.switch:
            return cutmix_loss(self, model, batch, alpha=self.cutmix_alpha, rng=rng)
        lam = draw_lam(rng, self.alpha)
        partners = permuted(batch, rng=rng)
        return self.pair_loss(model(mix_inputs(batch.x, partners.x, lam)), batch, partners, lam)
