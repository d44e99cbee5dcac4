"""Empirical risk minimisation: plain training, the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bench.mixing.method import Method

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Erm(Method):
    """Cross-entropy on the examples as they are: mixup with lam = 1."""

    name: Literal["erm"] = "erm"

    def training_loss(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: np.random.Generator) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(x), y)
