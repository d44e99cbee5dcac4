"""What every training method is: its options, its name in a figure, and the loss of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Method(BaseModel, ABC):
    """A training method. Its fields are its options, checked when a suite is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shown: ClassVar[tuple[str, ...]] = ()
    """Options that the label names even at their default."""

    @property
    def label(self) -> str:
        """The arm's name in tables and figures, such as "mixup alpha=1": options that differ from their default."""
        options = [
            f"{key}={value:g}" if isinstance(value, int | float) else f"{key}={value}"
            for key, value in self
            if key != "name"
            and value is not None
            and (key in self.shown or value != type(self).model_fields[key].default)
        ]
        return " ".join([self.name, *options])

    def network_args(self, name: str) -> dict[str, Any]:
        """Arguments for the network `name` beside the suite's own, such as dropout: none that draw initial weights."""
        return {}

    @abstractmethod
    def training_loss(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: np.random.Generator) -> Tensor:
        """The loss of one training batch, a scalar in nats.

        x: (B, C, H, W) normalised images.  y: (B,) int64 labels.  rng: the trial's mixing stream, on the host;
        the same state gives the same loss. Changes neither x nor y.
        """
