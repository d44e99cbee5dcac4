"""Dropout, which the mixup paper sets beside mixup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.mixing.method import Method

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Dropout(Method):
    """Plain training with dropout inside the network, from the same initial weights.

    Where it sits is the network's affair: between the two convolutions of each block of preact_resnet18 and wrn_28_10,
    after each hidden layer of mlp, between lenet's fully connected layers, and before the classifier, mostly, of timm's
    networks (their `drop_rate`).  Source: Srivastava et al. 2014; the paper's Table 2 searches rates from 0.5 to 0.9.
    """

    name: Literal["dropout"] = "dropout"
    rate: float = Field(default=0.5, gt=0, lt=1, description="share of activations that are dropped")
    shown: ClassVar[tuple[str, ...]] = ("rate",)

    def network_args(self, name: str) -> dict[str, Any]:
        return {"drop_rate" if name.startswith("timm/") else "dropout": self.rate}

    def training_loss(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: np.random.Generator) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(x), y)
