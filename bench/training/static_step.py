"""The training step on tensors that keep their place, so that a GPU can replay it as one CUDA graph.

Launching the kernels of a small network takes the host longer than running them takes a GPU. Replaying a graph launches
them all at once, but what it reads must lie where it lay when the graph was made. So whatever the steps of an epoch
need is drawn before the first of them, by the same generators in the same order as otherwise, and lies on the device;
the step finds its own by a counter there, and leaves its loss and its predictions there too. Nothing waits for the
host within an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.mixing.mixup import mix_inputs
from bench.mixing.partners import Pairing
from bench.plan.trial import Trial
from bench.training.data import Epoch, TrialData
from bench.training.diagnostics import Diagnostics, Noted
from bench.training.optim import lr_at
from bench.training.step import autocast

WARM_UP_STEPS = 3
"""Whole steps that a GPU takes before it captures one, as torch advises: they make the optimizer's state, and libraries
choose their algorithms. They are steps of the training like all others."""


class StaticSteps:
    """The steps of one trial, epoch by epoch: `begin`, then `take` step by step, and `note` whenever they are counted.

    On a CPU each step runs as it is. On a GPU the first whole batches do, then one is captured and from then on
    replayed; the smaller batch that may end an epoch always runs as it is.

    losses: (steps,) of the epoch; at later epochs the same tensor.
    """

    def __init__(
        self,
        trial: Trial,
        data: TrialData,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        steps_per_epoch: int,
    ) -> None:
        self._trial, self._data, self._model, self._optimizer = trial, data, model, optimizer
        self._batch_size, self._steps = batch_size, steps_per_epoch
        self._device = device = data.images.device
        self._pairs = trial.method.pairs
        n = len(data.train)
        self._n = n
        self.losses = torch.zeros(steps_per_epoch, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._within = torch.arange(batch_size, device=device)
        self._lr = torch.tensor(trial.training.lr, device=device)
        self._lrs = torch.zeros(steps_per_epoch, device=device)
        self._predicted = torch.zeros(n, dtype=torch.int64, device=device)
        self._perm = torch.zeros(n, dtype=torch.int64, device=device)
        self._per_example = getattr(trial.method, "lam_per", "batch") == "sample"
        self._weights = torch.zeros(2, n if self._per_example else steps_per_epoch, device=device)
        self._whole = torch.ones(1, device=device)
        self._epoch: Epoch | None = None
        self._pairings: list[Pairing | None] = []
        self._states: list[dict[str, Any]] = []
        self._order = np.zeros(0, dtype=np.int64)
        self._first = self._noted = 0
        self._warm_steps = 0
        self._replay: Callable[[], None] | None = None

    def begin(self, draws: Epoch, rng: np.random.Generator, *, first_step: int, losses: Tensor) -> None:
        """Draw what the steps of this epoch need, from `first_step` on, and put it in its place on the device.

        rng: the epoch's mixing stream, where `first_step` finds it.  losses: (steps,), of the steps before it.
        """
        self._place(draws)
        self._order, self._first, self._noted = draws.order, first_step, first_step
        self._pairings, self._states = [], []
        perm = np.zeros(self._n, dtype=np.int64)
        weights = np.ones(self._weights.shape)
        for step in range(first_step, self._steps):
            rows = self._rows(step)
            size = rows.stop - rows.start
            pairing = self._trial.method.draw_ahead(rng, size, epoch=draws.number, epochs=self._trial.training.epochs)
            perm[rows] = np.arange(size) if pairing is None else pairing.perm
            lam = 1.0 if pairing is None else pairing.lam
            place = rows if self._per_example else step
            weights[0, place], weights[1, place] = lam, 1 - lam
            self._pairings.append(pairing)
            self._states.append(dict(rng.bit_generator.state))
        self._perm.copy_(torch.from_numpy(perm))
        self._weights.copy_(torch.from_numpy(weights))
        training, start = self._trial.training, draws.number * self._steps
        lrs = [lr_at(start + step, training, steps_per_epoch=self._steps) for step in range(self._steps)]
        self._lrs.copy_(torch.tensor(lrs))
        self._step.fill_(first_step)
        self.losses.copy_(losses)
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr
            if "capturable" in group:  # a checkpoint has that of the device where it was written
                group["capturable"] = self._device.type == "cuda"

    def _place(self, draws: Epoch) -> None:
        """The epoch's order and augmentation, into the tensors of the first one, which nobody else keeps."""
        if self._epoch is None:
            self._epoch = draws
            return
        for name in ("index", "offsets", "flips"):
            if (own := getattr(draws, name)) is not None:
                getattr(self._epoch, name).copy_(own)

    def take(self, step: int) -> None:
        """Take the epoch's next step, which is number `step`."""
        rows = self._rows(step)
        size = rows.stop - rows.start
        if self._device.type != "cuda" or size < self._batch_size:
            self.run(size)
            return
        if self._replay is None and self._warm_steps < WARM_UP_STEPS:
            _aside(lambda: self.run(size))
            self._warm_steps += 1
            return
        if self._replay is None:
            self._replay = _captured(lambda: self.run(size))
        self._replay()

    def run(self, size: int) -> None:
        """The step that the counter on the device says, of `size` examples; moves the counter on.

        Asks the device for nothing and hands it nothing, so that it can be captured.
        """
        assert self._epoch is not None
        method = self._trial.method
        places = self._step * self._batch_size + self._within[:size]
        self._lr.copy_(self._lrs.index_select(0, self._step)[0])
        x, y = self._epoch.at(places)
        with autocast(self._trial, self._device):
            if self._pairs:
                index = self._perm.index_select(0, places)
                weight, rest = self._weights.index_select(1, places if self._per_example else self._step)
                logits = self._model(mix_inputs(x, x[index], weight))
                loss = method.mixed_cross_entropy(logits, [(y, weight), (y.index_select(0, index), rest)])
            else:  # cross_entropy would sum in another order: mixup at lam = 1 is to be erm bit for bit
                logits = self._model(x)
                loss = method.mixed_cross_entropy(logits, [(y, self._whole)])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.losses.index_copy_(0, self._step, loss.detach().view(1).to(self.losses.dtype))
        self._predicted.index_copy_(0, places, logits.detach().argmax(1))
        self._step.add_(1)

    def state_after(self, step: int) -> dict[str, Any]:
        """Of the mixing stream, as it stands when step number `step` has drawn."""
        return self._states[step - self._first]

    def note(self, diagnostics: Diagnostics, end: int) -> None:
        """Tell the diagnostics of those steps before number `end` that they were not told of."""
        if end <= self._noted:
            return
        rows = slice(self._rows(self._noted).start, self._rows(end - 1).stop)
        steps = [self._noted_step(step) for step in range(self._noted, end)]
        diagnostics.note_predicted(steps, self._predicted[rows].clone())
        self._noted = end

    def _noted_step(self, step: int) -> Noted:
        labels = self._data.classes.labels[self._order[self._rows(step)]]
        pairing = self._pairings[step - self._first]
        if pairing is None:
            return labels, ((labels, 1.0),), None, None
        partner_labels = labels[pairing.perm]
        return labels, ((labels, pairing.lam), (partner_labels, 1 - pairing.lam)), pairing.lam, partner_labels[None]

    def _rows(self, step: int) -> slice:
        return slice(step * self._batch_size, min((step + 1) * self._batch_size, self._n))


def _aside(step: Callable[[], None]) -> None:
    """Run a step on a stream of its own, as torch wants it before a capture."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph; capturing it takes no step."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: the thread that watches the memory may go on asking for it
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay
