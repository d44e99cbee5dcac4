"""AugMix: chains of simple operations mixed with the image, and one prediction for all of them.

Source: Hendrycks et al. 2020, arXiv 1912.02781. The operations are in image_operations.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.mixing.method import Mixing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss


class AugMix(Mixing):
    """The plain loss, plus `consistency` times the Jensen-Shannon divergence of the predictions on three views.

    The views are the image itself and two that AugMix made of it; all go through the network as one batch, so a step
    costs about three times as much. With consistency 0 there is one made view, which takes the image's place. It mixes
    an image with itself: there are no partners and no lam.

    severity: 1 to 10, of the operations.  width: chains.  depth: operations in a chain; unsaid, 1 to 3 at random.
    alpha: of the Beta and Dirichlet weights.
    """

    shown: ClassVar[tuple[str, ...]] = ("severity",)
    neutral: ClassVar[dict[str, Any]] = {"width": 0}

    name: Literal["augmix"] = "augmix"
    severity: float = Field(default=3.0, ge=0.1, le=10)
    width: int = Field(default=3, ge=0, le=10)
    depth: int | None = Field(default=None, ge=1, le=10)
    alpha: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    consistency: float = Field(default=12.0, ge=0, le=1000)

    @property
    def passes(self) -> int:
        return 3 if self.width and self.consistency else 1

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        import torch

        from bench.mixing.batch import BatchLoss
        from bench.mixing.method import plain_loss

        if not self.width:
            return plain_loss(self, model, batch)
        if not self.consistency:
            return plain_loss(self, model, batch.with_x(self._view(batch, rng=rng)))
        views = [batch.x, self._view(batch, rng=rng), self._view(batch, rng=rng)]
        logits = model(torch.cat(views)).chunk(3)
        loss = self.cross_entropy(logits[0], batch.y) + self.consistency * jensen_shannon(logits)
        return BatchLoss(loss, logits[0], batch.labels, ((batch.labels, 1.0),))

    def _view(self, batch: Batch, *, rng: np.random.Generator) -> Tensor:
        from bench.mixing.image_operations import augmix

        pixels = augmix(
            batch.pixels, rng=rng, severity=self.severity, width=self.width, depth=self.depth, alpha=self.alpha
        )
        return self.perturbed(batch.normalised(pixels).to(batch.x.dtype), batch, rng=rng)


def jensen_shannon(logits: tuple[Tensor, ...]) -> Tensor:
    """Divergence of several predictions from their mean, batch mean, nats: mean_i KL(p_i || mean p).

    logits: (B, K) each.  0 where all are equal, at most ln(number of predictions).
    """
    import torch
    from torch.nn.functional import kl_div

    log_probs = [each.float().log_softmax(1) for each in logits]
    mean = torch.stack([each.exp() for each in log_probs]).mean(0).clamp(min=1e-7).log()  # the clamp is the authors'
    divergences = [kl_div(mean, each, reduction="batchmean", log_target=True) for each in log_probs]
    return sum(divergences[1:], divergences[0]) / len(divergences)
