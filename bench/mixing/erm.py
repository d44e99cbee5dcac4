"""Empirical risk minimisation: plain training, the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench.mixing.method import Method, plain_loss

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from bench.mixing.batch import Batch, BatchLoss


class Erm(Method):
    """Cross-entropy on the examples as they are: mixup with lam = 1.  Source: Vapnik 1991."""

    name: Literal["erm"] = "erm"
    neutral: ClassVar[dict[str, Any]] = {"name": "erm"}

    @property
    def can_draw_ahead(self) -> bool:
        return self.gaussian_noise is None and self.cutout is None

    def _loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        return plain_loss(self, model, batch)
