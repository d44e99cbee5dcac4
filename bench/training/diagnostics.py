"""What training saw: how far it mixed, and how much of what it was shown the network predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.mixing.batch import BatchLoss, Labels, Lam
from bench.results.store import Json

LAM_BINS = 20
"""Of equal width on [0, 1]; a lam of 1 is in the last."""


MOST_LOGITS = 2**20
"""Kept at a time, 4 MB: a step of a thousand classes is not kept for an epoch."""

Noted = tuple[Labels, tuple[tuple[Labels, Lam], ...], Lam | None, Labels | None]
"""Of a BatchLoss: labels, targets, lam, partner_labels."""


@dataclass
class Diagnostics:
    """Counts over a whole training, and over the epoch that runs.

    The steps are only noted as they come, and counted when somebody asks: looking at a prediction makes a GPU wait, and
    finding those of many steps at once costs a small network less than one by one.

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
    _noted: list[Noted] = field(default_factory=list, repr=False)
    _logits: list[Tensor] = field(default_factory=list, repr=False)
    _predicted: list[Tensor] = field(default_factory=list, repr=False)
    _num_logits: int = field(default=0, repr=False)

    def begin_epoch(self) -> None:
        self.missed, self.examples = 0.0, 0

    def note(self, step: BatchLoss) -> None:
        """Remember one step, without its graph; of many logits only what they predict."""
        self._noted.append((step.labels, step.targets, step.lam, step.partner_labels))
        self._logits.append(step.logits.detach())
        self._num_logits += step.logits.numel()
        if self._num_logits > MOST_LOGITS:
            self._predict()

    def note_predicted(self, steps: Sequence[Noted], predicted: Tensor) -> None:
        """Remember steps by what they predicted, one after the other in (n,) int64."""
        self._predict()
        self._noted.extend(steps)
        self._predicted.append(predicted)

    def _predict(self) -> None:
        if self._logits:
            self._predicted.append(torch.cat(self._logits).argmax(1))
        self._logits.clear()
        self._num_logits = 0

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
        self._predict()
        predictions = torch.cat(self._predicted).cpu().numpy()
        start = 0
        for labels, targets, lam, partner_labels in self._noted:
            predicted = predictions[start : start + len(labels)]
            start += len(labels)
            self.missed += len(labels) - sum(_hits(predicted, *target) for target in targets)
            self.examples += len(labels)
            self.batches += 1
            if lam is not None and partner_labels is not None:
                self.mixed += 1
                self._count_lam(lam)
                self.equal += int(np.count_nonzero(partner_labels == labels))
                self.pairs += partner_labels.size
        self._noted.clear()
        self._predicted.clear()

    def _count_lam(self, lam: Lam) -> None:
        if isinstance(lam, float):
            self.lam[min(int(lam * LAM_BINS), LAM_BINS - 1)] += 1
            self.lam_sum += lam
        else:
            self.lam += np.bincount(np.minimum((lam * LAM_BINS).astype(np.int64), LAM_BINS - 1), minlength=LAM_BINS)
            self.lam_sum += float(lam.sum())


def _hits(predicted: Labels, labels: Labels, weight: Lam) -> float:
    """The weight of the labels that were predicted, all (B,)."""
    hit = predicted == labels
    return weight * int(np.count_nonzero(hit)) if isinstance(weight, float) else float(weight[hit].sum())


@torch.inference_mode()
def weight_norm(model: nn.Module) -> Tensor:
    """The L2 norm of all parameters together, a scalar on their device.

    Not finite where any weight is not, which need not show in a loss: torch 2.15 in bf16 on a CPU leaves NaN in the
    gradient of those taps of a 3x3 kernel that a 1x1 image never meets, and nothing multiplies them afterwards either.
    """
    norms: tuple[Tensor, ...] = torch._foreach_norm(list(model.parameters()))
    norm: Tensor = torch.stack(norms).norm()
    return norm
