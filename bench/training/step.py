"""One training step, made once for a trial: forward, backward, update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn

from bench.mixing.batch import Batch, BatchLoss
from bench.plan.trial import Trial
from bench.training.compiled import compiled

Step = Callable[[Batch, float, np.random.Generator], BatchLoss]
"""From a batch, the learning rate and the mixing stream to the loss that was minimised; the weights have moved."""


def training_step(
    trial: Trial, model: nn.Module, optimizer: torch.optim.Optimizer, *, device: torch.device, batch_size: int
) -> Step:
    """The trial's step on batches whose images are on `device`.

    batch_size: of a whole batch. With `compile` only those go through the compiled network: it is compiled for one
    size, and the smaller batch that may end an epoch would have it compiled anew.
    """
    method, parameters = trial.method, list(model.parameters())
    whole = compiled(model, name=trial.model.name, device=device) if trial.training.compile else model

    def step(batch: Batch, lr: float, rng: np.random.Generator) -> BatchLoss:
        for group in optimizer.param_groups:  # new ones, once a checkpoint is loaded
            group["lr"] = lr
        with autocast(trial, device):
            found = method.training_loss(whole if len(batch.labels) == batch_size else model, batch, rng=rng)
        for parameter in parameters:  # Optimizer.zero_grad takes 15 us for it, to stand in profiles
            parameter.grad = None
        found.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return found

    return step


def autocast(trial: Trial, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if trial.training.precision == "bf16" else nullcontext()
