"""What every training method is: its options, its name in a figure, and the loss of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss, Lam
    from bench.mixing.partners import Pairing, Partners

COMPANIONS = ("dropout", "stochastic_depth", "label_smoothing", "gaussian_noise", "cutout", "weight_decay")
"""Options of every method: what mixup is compared with, alone (`{name: erm, dropout: 0.5}`) or together with it."""

SCHEDULE = ("warmup_epochs", "off_epoch", "probability")
"""Options of every method that mixes: when it does."""


Alpha = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""The parameter of lam ~ Beta(alpha, alpha); 0 stands for lam = 1."""


class Neighbours(NamedTuple):
    """The neighbours that a method draws partners from: the k nearest, over all classes or within each."""

    k: int
    within_class: bool


class Method(BaseModel, ABC):
    """A training method. Its fields are its options, checked when a suite is read.

    dropout: where the network has it: between the two convolutions of each block of preact_resnet18 and wrn_28_10, as
        in the paper's Table 2, after each hidden layer of mlp, between lenet's fully connected layers, and before the
        classifier, mostly, of timm's networks (their `drop_rate`).  Source: Srivastava et al. 2014.
    stochastic_depth: timm's `drop_path_rate`.  Source: Huang et al. 2016.
    label_smoothing: the target is 1 - eps + eps/K for the label and eps/K for every other class; with mixed labels, of
        each label before they are mixed.  Source: Szegedy et al. 2016; the paper's Table 5.
    gaussian_noise: standard deviation, in units of the pixels' range; added to every image before images are mixed.
        Source: the paper's Table 5, which does not say on which scale its 0.05, 0.1 and 0.2 are.
    cutout: see cutout.py.
    weight_decay: this method's own, in place of the recipe's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shown: ClassVar[tuple[str, ...]] = ()
    """Options that the label names even at their default."""
    usual: ClassVar[dict[str, Any]] = {}
    """Option values that the label leaves out although they are no defaults."""
    neutral: ClassVar[dict[str, Any]] = {}
    """Option values at which the method trains as erm does, bit for bit."""

    dropout: float | None = Field(default=None, ge=0, lt=1, description="share of activations that are dropped")
    stochastic_depth: float | None = Field(
        default=None, ge=0, lt=1, description="timm's networks: share of residual branches that are skipped"
    )
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="share of the target that goes to all classes alike"
    )
    gaussian_noise: float | None = Field(
        default=None, ge=0, le=10, description="standard deviation of noise on the pixels, whose range is 1"
    )
    cutout: int | None = Field(default=None, ge=0, description="side in pixels of the square that is cut out")
    weight_decay: float | None = Field(default=None, ge=0, description="in place of the recipe's")

    @model_validator(mode="before")
    @classmethod
    def _none_at_zero(cls, options: Any) -> Any:
        """So that `label_smoothing: [0, 0.1]` is a sweep that begins with none. Weight decay 0 is one of its own."""
        if not isinstance(options, dict):
            return options
        none_at_zero = [key for key in COMPANIONS if key != "weight_decay"]
        absent = [key for key in none_at_zero if options.get(key) == 0 and options[key] is not False]
        return {key: value for key, value in options.items() if key not in absent}

    @property
    def label(self) -> str:
        """The arm's name in tables and figures, such as "mixup alpha=1": options that differ from their default."""
        options = [
            f"{key}={_shown(value)}"
            for key, value in self._in_order()
            if key != "name"
            and value is not None
            and value != self.usual.get(key)
            and (key in self.shown or value != type(self).model_fields[key].default)
        ]
        return " ".join([self.name, *options])

    def _in_order(self) -> list[tuple[str, Any]]:
        """The method's own options first, then when it mixes, then its companions."""
        return sorted(self, key=lambda option: (option[0] in COMPANIONS, option[0] in SCHEDULE))

    @property
    def companions(self) -> dict[str, Any]:
        """Those of COMPANIONS that have a value."""
        return {key: value for key in COMPANIONS if (value := getattr(self, key)) is not None}

    @property
    def is_neutral(self) -> bool:
        """Whether it trains as erm with the same companions does, bit for bit."""
        return any(getattr(self, key) == value for key, value in self.neutral.items())

    @property
    def passes(self) -> int:
        """How many images go through the network for each of a batch."""
        return 1

    @property
    def neighbours(self) -> Neighbours | None:
        """The table of neighbours that it needs; None for none."""
        return None

    @property
    def layers_mixed(self) -> tuple[int | str, ...]:
        """The layers of the network that it reaches into, by number or name; 0 is the input."""
        return ()

    @property
    def can_draw_ahead(self) -> bool:
        """Whether all that its steps draw can be drawn before their images are there, see `draw_ahead`."""
        return False

    @property
    def pairs(self) -> bool:
        """Of a method that can draw ahead: whether it mixes pairs of inputs and labels; else it trains plainly."""
        return False

    def draw_ahead(self, rng: np.random.Generator, batch_size: int, *, epoch: int, epochs: int) -> Pairing | None:
        """What `training_loss` would draw for one batch, from `rng` in the same order; None where it mixes nothing."""
        return None

    def network_args(self, name: str) -> dict[str, Any]:
        """Arguments for the network `name` beside the suite's own, such as dropout: none that draw initial weights.

        Raises ValueError where that network cannot have what the method asks for.
        """
        is_timm = name.startswith("timm/")
        if self.stochastic_depth is not None and not is_timm:
            raise ValueError(f"stochastic_depth is timm's (drop_path_rate): {name} has none")
        args = {"drop_rate" if is_timm else "dropout": self.dropout, "drop_path_rate": self.stochastic_depth}
        return {key: value for key, value in args.items() if value is not None}

    def training_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        """The loss of one training batch.

        rng: the trial's mixing stream, on the host; the same state gives the same loss. Changes nothing in the batch.
        """
        return self._loss(model, batch.with_x(self.perturbed(batch.x, batch, rng=rng)), rng=rng)

    @abstractmethod
    def _loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        """As `training_loss`, of images that are perturbed already."""

    def perturbed(self, x: Tensor, batch: Batch, *, rng: np.random.Generator) -> Tensor:
        """Normalised images (B, C, H, W) with the noise and the holes that the companions ask for, else x itself."""
        if self.gaussian_noise is not None:
            import torch

            generator = torch.Generator(x.device).manual_seed(int(rng.integers(2**63)))
            noise = torch.empty(x.shape, device=x.device).normal_(generator=generator)
            x = x + (self.gaussian_noise * batch.pixel_scale * noise).to(x.dtype)
        if self.cutout is not None:
            from bench.mixing.cutout import cut_out, draw_centres

            x = cut_out(x, draw_centres(rng, x.shape), side=self.cutout)
        return x

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over the batch in nats, of smoothed labels where the method asks for that.

        logits: (B, K).  y: (B,) int64.
        """
        return self.mixed_cross_entropy(logits, [(y, 1.0)])

    def mixed_cross_entropy(self, logits: Tensor, targets: Sequence[tuple[Tensor, float | Tensor]]) -> Tensor:
        """Cross-entropy against the label distribution sum(weight * onehot(y)), batch mean, nats.

        logits: (B, K).  targets: (y, weight), (B,) int64 and a number or (B,); the weights sum to 1. Equal to rounding
        to the soft-label cross-entropy, without its one-hot tensor, and with one softmax for all targets: one for each
        cost a small network 4 % of a step.
        """
        from torch import float32, promote_types
        from torch.nn.functional import log_softmax, nll_loss

        log_probs = log_softmax(logits, 1, dtype=promote_types(logits.dtype, float32))  # bf16 would not do
        smoothing = self.label_smoothing or 0.0
        if all(isinstance(weight, float) for _, weight in targets):
            # Means first: at weights 1 and 0 this is ERM's loss bit for bit.
            factors = [(1 - smoothing) * weight for _, weight in targets]
            means = [nll_loss(log_probs, y) for y, _ in targets]
            terms = [mean if factor == 1 else factor * mean for mean, factor in zip(means, factors, strict=True)]
            loss = sum(terms[1:], terms[0])
        else:
            each = [(1 - smoothing) * weight * nll_loss(log_probs, y, reduction="none") for y, weight in targets]
            loss = sum(each[1:], each[0]).mean()
        return loss - smoothing * log_probs.mean() if smoothing else loss


class Mixing(Method):
    """A method that mixes training examples: when it does so, in which epochs and how often.

    warmup_epochs, off_epoch: a whole number of epochs, or a share of the recipe's, which lies below 1.
    """

    warmup_epochs: int | float | None = Field(
        default=None, ge=0, description="plain training first, for so many epochs; below 1: a share"
    )
    off_epoch: int | float | None = Field(
        default=None, gt=0, description="from this epoch on (after so many), plain training; below 1: a share"
    )
    probability: float | None = Field(
        default=None, ge=0, le=1, description="of mixing a batch; the others train plainly. Unsaid: 1"
    )

    @model_validator(mode="before")
    @classmethod
    def _unsaid(cls, options: Any) -> Any:
        """Always, and from the beginning, are what goes without saying: a sweep may name them."""
        if not isinstance(options, dict):
            return options
        for key in ("warmup_epochs", "off_epoch"):
            value = options.get(key)
            if isinstance(value, float) and value >= 1:
                end = "; to mix to the end, leave it out" if key == "off_epoch" else ""
                raise ValueError(f"{key} {value}: a whole number counts epochs, and a share is less than 1{end}")
        unsaid = {"probability": 1, "warmup_epochs": 0}
        return {
            key: value
            for key, value in options.items()
            if isinstance(value, bool) or value is None or value != unsaid.get(key)
        }

    @property
    def is_neutral(self) -> bool:
        return self.probability == 0 or super().is_neutral

    def mixing_epochs(self, epochs: int) -> range:
        """The epochs, from 0, in which it mixes, of a training of `epochs`."""
        first = 0 if self.warmup_epochs is None else count_epochs(self.warmup_epochs, epochs)
        end = epochs if self.off_epoch is None else count_epochs(self.off_epoch, epochs)
        return range(first, min(end, epochs))

    def _loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        if not self._mixes(rng, epoch=batch.epoch, epochs=batch.epochs):
            return plain_loss(self, model, batch)
        return self._mixed_loss(model, batch, rng=rng)

    def _mixes(self, rng: np.random.Generator, *, epoch: int, epochs: int) -> bool:
        if epoch not in self.mixing_epochs(epochs):
            return False
        return self.probability is None or bool(rng.random() < self.probability)

    @abstractmethod
    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        """The loss of a batch that is mixed."""

    def pair_loss(
        self,
        logits: Tensor,
        batch: Batch,
        partners: Partners,
        lam: Lam,
        weight: float | Tensor | None = None,
    ) -> BatchLoss:
        """The loss of pairs with mixed labels.

        lam: the weight of the example itself.  weight: the same on the device, needed where lam is (B,).
        """
        from bench.mixing.batch import BatchLoss

        if weight is None:
            assert isinstance(lam, float)
            weight = lam
        loss = self.mixed_cross_entropy(logits, [(batch.y, weight), (partners.y, 1 - weight)])
        targets = ((batch.labels, lam), (partners.labels, 1 - lam))
        return BatchLoss(loss, logits, batch.labels, targets, lam, partners.labels[None])


def plain_loss(method: Method, model: nn.Module, batch: Batch) -> BatchLoss:
    """Cross-entropy on the examples as they are."""
    from bench.mixing.batch import BatchLoss

    logits = model(batch.x)
    return BatchLoss(method.cross_entropy(logits, batch.y), logits, batch.labels, ((batch.labels, 1.0),))


def draw_lam(rng: np.random.Generator, alpha: float) -> float:
    """lam ~ Beta(alpha, alpha), the weight of the example itself."""
    return rng.beta(alpha, alpha) if alpha else 1.0


def count_epochs(epochs: float, total: int) -> int:
    """A number of epochs, or below 1 a share of `total`, rounded."""
    return round(epochs * total) if epochs < 1 else int(epochs)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
