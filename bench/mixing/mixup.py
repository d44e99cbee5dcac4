"""Input mixup: train on convex combinations of examples. Source: Zhang et al. 2018, arXiv 1710.09412."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, WithJsonSchema, model_validator

from bench.mixing.method import Alpha, Mixing, Neighbours, draw_lam
from bench.mixing.partners import Pairing, Partner, Partners, draw_positions, permuted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss, Lam

Weight = Annotated[
    float | None,
    Field(ge=0, le=1),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"enum": ["uniform", None]}]}),
]

NEIGHBOURS = 200
"""The paper's choice, Table 5."""


class Mixup(Mixing):
    """lam * x + (1 - lam) * x[perm], labels alike, lam ~ Beta(alpha, alpha) and perm a random permutation of the batch.

    alpha: 0 means lam = 1, which is ERM bit for bit.
    lam: a fixed weight of the unpermuted sample instead of a draw, or "uniform", which is alpha 1; excludes alpha.
    lam_per: one lam for the whole batch, as in the authors' code, or one per sample.
    labels: "unmixed" keeps the unpermuted sample's label, a mistake found in tutorials, to measure what it costs.
    only: mix the inputs alone, with the label of the larger weight, or the labels alone (the paper's Table 5).
    partner: see partners.py.  k: how many neighbours there are to draw from.
    examples: so many are mixed, with weights from a symmetric Dirichlet distribution with parameter alpha; for two that
        is lam ~ Beta(alpha, alpha).  The paper, section 3.7, found no further gain from three.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha",)
    usual: ClassVar[dict[str, Any]] = {"k": NEIGHBOURS}
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0, "lam": 1}

    name: Literal["mixup"] = "mixup"
    alpha: Alpha | None = None
    lam: Weight = Field(default=None, description='fixed instead of drawn; or "uniform", which is alpha 1')
    lam_per: Literal["batch", "sample"] = "batch"
    labels: Literal["mixed", "unmixed"] = "mixed"
    only: Literal["inputs", "labels"] | None = Field(
        default=None, description="mix inputs alone, with the label of the larger weight, or labels alone"
    )
    partner: Partner | None = Field(default=None, description="unsaid: permutation, a random one of the batch")
    k: int | None = Field(default=None, ge=1, description=f"partners that are neighbours: of how many; {NEIGHBOURS}")
    examples: int | None = Field(default=None, ge=2, le=16, description="how many are mixed; unsaid: two")

    @model_validator(mode="before")
    @classmethod
    def _by_other_names(cls, options: Any) -> Any:
        """One identity for each way of training: alpha is 1, the paper's choice for CIFAR, unless lam is fixed."""
        if not isinstance(options, dict):
            return options
        options = dict(options)
        if isinstance(options.get("lam"), str) and options["lam"] != "uniform":
            raise ValueError(f"lam {options['lam']!r} should be a number from 0 to 1, or uniform")
        if options.get("lam") == "uniform":
            if options.get("alpha") is not None:
                raise ValueError("lam uniform is alpha 1: give one of them")
            options["lam"] = None
        if options.get("alpha") is None and options.get("lam") is None:
            options["alpha"] = 1.0
        if options.get("partner") == "permutation":
            options["partner"] = None
        if options.get("examples") == 2:
            options["examples"] = None
        if options.get("partner") in ("neighbours", "class_neighbours") and options.get("k") is None:
            options["k"] = NEIGHBOURS
        return options

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.alpha is not None and self.lam is not None:
            raise ValueError("alpha draws lam and lam fixes it: give one of them")
        if self.lam is not None and self.lam_per == "sample":
            raise ValueError("a fixed lam is the same for every sample: leave out lam_per")
        if self.only is not None and self.labels == "unmixed":
            raise ValueError("labels unmixed mixes the inputs only, and keeps every label: leave out only")
        if self.k is not None and self.partner not in ("neighbours", "class_neighbours"):
            raise ValueError("k belongs to partner neighbours or class_neighbours")
        if self.examples is not None and self.partner == "next_batch":
            raise ValueError("the next batch has one partner for each example: with next_batch, leave out examples")
        if self.examples is not None and (self.lam is not None or self.only or self.labels == "unmixed"):
            raise ValueError("examples draws its weights by alpha, and mixes inputs and labels")
        return self

    @property
    def neighbours(self) -> Neighbours | None:
        return Neighbours(self.k, self.partner == "class_neighbours") if self.k is not None else None

    @property
    def can_draw_ahead(self) -> bool:
        """Pairs within the batch, inputs and labels mixed, at any alpha, lam and schedule."""
        plain = self.partner is None and self.examples is None and self.only is None and self.labels == "mixed"
        return plain and self.gaussian_noise is None and self.cutout is None

    @property
    def pairs(self) -> bool:
        return True

    def draw_ahead(self, rng: np.random.Generator, batch_size: int, *, epoch: int, epochs: int) -> Pairing | None:
        if not self._mixes(rng, epoch=epoch, epochs=epochs):
            return None
        return Pairing(self.draw_lam(rng, batch_size), rng.permutation(batch_size))

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        if self.examples is not None:
            return self._loss_of_several(model, batch, rng=rng)
        lam = self.draw_lam(rng, len(batch.labels))
        partners = self._partners(batch, rng=rng)
        weight = on_device(lam, batch.x)
        logits = model(batch.x if self.only == "labels" else mix_inputs(batch.x, partners.x, weight))
        if self.labels == "mixed" and self.only != "inputs":
            return self.pair_loss(logits, batch, partners, lam, weight)

        from bench.mixing.batch import BatchLoss

        y, labels = batch.y, batch.labels
        if self.only == "inputs":
            own = np.asarray(lam) >= 0.5
            labels = np.where(own, labels, partners.labels)
            y = (y if own else partners.y) if isinstance(weight, float) else y.where(weight >= 0.5, partners.y)
        loss = self.cross_entropy(logits, y)
        return BatchLoss(loss, logits, batch.labels, ((labels, 1.0),), lam, partners.labels[None])

    def draw_lam(self, rng: np.random.Generator, batch_size: int) -> Lam:
        """lam, the weight of the unpermuted sample: one number per batch, or (B,) float64, one per sample."""
        if self.lam is not None:
            return self.lam
        assert self.alpha is not None
        if self.lam_per == "batch" or not self.alpha:
            return draw_lam(rng, self.alpha)
        return rng.beta(self.alpha, self.alpha, batch_size)

    def _partners(self, batch: Batch, *, rng: np.random.Generator) -> Partners:
        if self.partner is None:
            return permuted(batch, rng=rng)
        positions = draw_positions(self.partner, batch, rng=rng)
        x, y = batch.training_set.take(positions)
        return Partners(self.perturbed(x, batch, rng=rng), y, batch.training_set.classes.labels[positions])

    def _loss_of_several(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        from bench.mixing.batch import BatchLoss

        weights = self.draw_weights(rng, len(batch.labels))
        partners = [self._partners(batch, rng=rng) for _ in weights[1:]]
        on_x = [on_device(weight, batch.x) for weight in weights]
        logits = model(weighed_sum([batch.x, *(each.x for each in partners)], on_x))
        ys = [batch.y, *(each.y for each in partners)]
        labels = [batch.labels, *(each.labels for each in partners)]
        loss = self.mixed_cross_entropy(logits, list(zip(ys, on_x, strict=True)))
        targets = tuple(zip(labels, weights, strict=True))
        return BatchLoss(loss, logits, batch.labels, targets, weights[0], np.stack(labels[1:]))

    def draw_weights(self, rng: np.random.Generator, batch_size: int) -> Sequence[Lam]:
        """The weights of `examples` examples, the unpermuted one's first: numbers, or (B,) each; they sum to 1."""
        assert self.examples is not None
        if not self.alpha:
            return [1.0, *[0.0] * (self.examples - 1)]
        if self.lam_per == "batch":
            return [float(weight) for weight in rng.dirichlet([self.alpha] * self.examples)]
        return list(rng.dirichlet([self.alpha] * self.examples, batch_size).T)


def on_device(lam: Lam, x: Tensor) -> float | Tensor:
    """lam where the arithmetic on x takes it from: a number as it is, (B,) as a tensor on x's device in x's dtype."""
    import torch

    return lam if isinstance(lam, float) else torch.from_numpy(lam).to(x.device, x.dtype, non_blocking=True)


def mix_inputs(x: Tensor, partner_x: Tensor, lam: float | Tensor) -> Tensor:
    """lam * x + (1 - lam) * partner_x; exactly x where lam is 1.

    x, partner_x: (B, ...).  lam: a number, or (B,) of x's dtype.
    """
    import torch

    return torch.lerp(partner_x, x, lam if isinstance(lam, float) else per_example(lam, x))


def weighed_sum(xs: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
    """The sum of (B, ...) tensors times their weights, a number or (B,) each."""
    terms = [
        x * (weight if isinstance(weight, float) else per_example(weight, x))
        for x, weight in zip(xs, weights, strict=True)
    ]
    return sum(terms[1:], terms[0])


def per_example(weight: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to multiply x with."""
    return weight.view(-1, *[1] * (x.ndim - 1))
