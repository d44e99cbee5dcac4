"""Input mixup: train on convex combinations of two examples. Source: Zhang et al. 2018, arXiv 1710.09412."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bench.mixing.method import Method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


class Mixup(Method):
    """lam * x + (1 - lam) * x[perm], labels alike, lam ~ Beta(alpha, alpha) and perm a random permutation of the batch.

    alpha: 0 means lam = 1, which is ERM bit for bit.
    lam: a fixed weight of the unpermuted sample instead of a draw; excludes alpha.
    lam_per: one lam for the whole batch, as in the authors' code, or one per sample.
    labels: "unmixed" keeps the unpermuted sample's label, a mistake found in tutorials, to measure what it costs.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha",)

    name: Literal["mixup"] = "mixup"
    alpha: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    lam: float | None = Field(default=None, ge=0, le=1)
    lam_per: Literal["batch", "sample"] = "batch"
    labels: Literal["mixed", "unmixed"] = "mixed"

    @model_validator(mode="before")
    @classmethod
    def _alpha_or_lam(cls, options: object) -> object:
        """alpha is 1, the paper's choice for CIFAR, unless lam is fixed."""
        if isinstance(options, dict) and options.get("alpha") is None and options.get("lam") is None:
            return {**options, "alpha": 1.0}
        return options

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.alpha is not None and self.lam is not None:
            raise ValueError("alpha draws lam and lam fixes it: give one of them")
        if self.lam is not None and self.lam_per == "sample":
            raise ValueError("a fixed lam is the same for every sample: leave out lam_per")
        return self

    def training_loss(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: np.random.Generator) -> Tensor:
        import torch

        drawn = self.draw_lam(rng, len(x))
        lam = drawn if isinstance(drawn, float) else torch.from_numpy(drawn).to(x.device, x.dtype, non_blocking=True)
        perm = torch.from_numpy(rng.permutation(len(x))).to(x.device, non_blocking=True)
        logits = model(mix_inputs(x, lam, perm))
        if self.labels == "unmixed":
            return torch.nn.functional.cross_entropy(logits, y)
        return mixed_cross_entropy(logits, y, y.index_select(0, perm), lam)

    def draw_lam(self, rng: np.random.Generator, batch_size: int) -> float | NDArray[np.float64]:
        """lam, the weight of the unpermuted sample: one number per batch, or (B,) float64, one per sample."""
        if self.lam is not None:
            return self.lam
        if not self.alpha:
            return 1.0
        return rng.beta(self.alpha, self.alpha, batch_size if self.lam_per == "sample" else None)


def mix_inputs(x: Tensor, lam: float | Tensor, perm: Tensor) -> Tensor:
    """lam * x + (1 - lam) * x[perm]; exactly x where lam is 1.

    x: (B, ...).  lam: a number, or (B,) of x's dtype.  perm: (B,) int64.
    """
    import torch

    weight = lam if isinstance(lam, float) else lam.view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x.index_select(0, perm), x, weight)


def mixed_cross_entropy(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: float | Tensor) -> Tensor:
    """Cross-entropy against the label distribution lam * onehot(y_a) + (1 - lam) * onehot(y_b), batch mean, nats.

    logits: (B, K).  y_a, y_b: (B,) int64.  lam: a number, or (B,).  Equal to rounding to the soft-label cross-entropy
    and without its one-hot tensor.
    """
    from torch.nn.functional import cross_entropy

    if isinstance(lam, float):  # means first: at lam = 1 this is ERM's loss bit for bit
        return lam * cross_entropy(logits, y_a) + (1 - lam) * cross_entropy(logits, y_b)
    losses_a = cross_entropy(logits, y_a, reduction="none")
    losses_b = cross_entropy(logits, y_b, reduction="none")
    return (lam * losses_a + (1 - lam) * losses_b).mean()
