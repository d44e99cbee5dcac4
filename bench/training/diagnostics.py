"""What training saw: how far it mixed, and how much of what it was shown the network predicted."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.mixing.batch import BatchLoss
from bench.results.store import Json

LAM_BINS = 20
"""Of equal width on [0, 1]; a lam of 1 is in the last."""


@dataclass
class Diagnostics:
    """Counts over a whole training, and over the epoch that runs.

    The steps are only noted as they come, one operation on the device each, and counted when somebody asks: looking at
    a prediction makes a GPU wait.

    lam: (LAM_BINS,) counts of realised lam, one for each batch, or for each example where it has its own.
    lam_sum: of these.  equal, pairs: of mixed pairs, how many had two equal labels.  mixed, batches: of all batches,
    how many were mixed.  missed, examples: of the epoch, each example counting for the weight of its labels that were
    not predicted.
    """

    lam: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LAM_BINS, dtype=np.int64))
    lam_sum: float = 0.0
    equal: int = 0
    pairs: int = 0
    mixed: int = 0
    batches: int = 0
    missed: float = 0.0
    examples: int = 0
    _noted: list[tuple[Tensor, BatchLoss]] = field(default_factory=list, repr=False)

    def begin_epoch(self) -> None:
        self.missed, self.examples = 0.0, 0

    def note(self, step: BatchLoss) -> None:
        """Remember one step. Keeps its predictions, not its logits, whose graph would stay with them."""
        predicted = step.logits.detach().argmax(1)
        self._noted.append((predicted, replace(step, loss=predicted, logits=predicted)))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain numbers."""
        self._count()
        kept = {each.name: getattr(self, each.name) for each in fields(self) if not each.name.startswith("_")}
        return {**kept, "lam": self.lam.tolist()}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Diagnostics:
        return cls(**{**state, "lam": np.array(state["lam"], dtype=np.int64)})

    def train_error_mixed(self) -> float:
        """Error on the epoch's batches as they were trained on: one minus the weight of the labels predicted."""
        self._count()
        return self.missed / self.examples

    def summary(self) -> Json | None:
        """What final.json says of the mixing; None where no pair was mixed."""
        self._count()
        if not self.mixed:
            return None
        return {
            "lam_histogram": self.lam.tolist(),
            "lam_mean": self.lam_sum / int(self.lam.sum()),
            "mixed_share": self.mixed / self.batches,
            "equal_class_share": self.equal / self.pairs,
        }

    def _count(self) -> None:
        """Step by step, in order, so that an interrupted training adds up the same numbers in the same order."""
        if not self._noted:
            return
        predictions = torch.cat([predicted for predicted, _ in self._noted]).cpu().numpy()
        start = 0
        for predicted, step in self._noted:
            own = predictions[start : start + len(predicted)]
            start += len(predicted)
            hit = sum(float((weight * (own == labels)).sum()) for labels, weight in step.targets)
            self.missed += len(own) - hit
            self.examples += len(own)
            self.batches += 1
            if step.lam is not None and step.partner_labels is not None:
                self.mixed += 1
                self._count_lam(step.lam)
                self.equal += int((step.partner_labels == step.labels).sum())
                self.pairs += step.partner_labels.size
        self._noted.clear()

    def _count_lam(self, lam: float | NDArray[np.float64]) -> None:
        if isinstance(lam, float):
            self.lam[min(int(lam * LAM_BINS), LAM_BINS - 1)] += 1
            self.lam_sum += lam
        else:
            self.lam += np.bincount(np.minimum((lam * LAM_BINS).astype(np.int64), LAM_BINS - 1), minlength=LAM_BINS)
            self.lam_sum += float(lam.sum())


@torch.inference_mode()
def weight_norm(model: nn.Module) -> Tensor:
    """The L2 norm of all parameters together, a scalar on their device.

    Not finite where any weight is not, which need not show in a loss: torch 2.15 in bf16 on a CPU leaves NaN in the
    gradient of those taps of a 3x3 kernel that a 1x1 image never meets, and nothing multiplies them afterwards either.
    """
    norms: tuple[Tensor, ...] = torch._foreach_norm(list(model.parameters()))
    norm: Tensor = torch.stack(norms).norm()
    return norm
