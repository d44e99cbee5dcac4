"""Timers around what the training loop calls, there only while somebody asks where the time goes.

They are put around functions from outside, and taken away again, so that the loop itself knows nothing of them: even a
`torch.profiler.record_function` that records nothing costs a microsecond, twenty times in a step of half a millisecond.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from bench.evaluation.metrics import nll, top1_error
from bench.mixing import Method, manifold
from bench.results.store import TrialFolder
from bench.training import checkpoint, data, diagnostics, loop

DATA, MIXING, FORWARD, BACKWARD, OPTIMIZER = "data", "mixing", "forward", "backward", "optimizer"
DIAGNOSTICS, EVALUATION, CHECKPOINT, OTHER = "diagnostics", "evaluation", "checkpoint", "other"
PARTS = (DATA, MIXING, FORWARD, BACKWARD, OPTIMIZER, DIAGNOSTICS, EVALUATION, CHECKPOINT, OTHER)
"""data: drawing an epoch; gathering, cropping, flipping and normalising batches.  mixing: the method, without
forward.  forward: the network's pass and the cross-entropy.  diagnostics: counting lam and the error on mixed batches.
evaluation: errors after an epoch.  other: everything between."""
DIVISIBLE = (OTHER, MIXING, FORWARD)
"""Inside these, another part's time is that part's: mixing calls the network, and a network may mix inside. What
evaluation, say, spends in the network is evaluation's."""


class Spans:
    """The seconds that this thread spends in each part while `running`: together they are all the time there was.

    recorded: have each part stand in the profiler's trace, too, as a range of its name.
    """

    def __init__(self, *, recorded: bool = False) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self._recorded = recorded
        self._open: list[str] = []
        self._since = 0.0
        self._thread = threading.get_ident()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        self._open, self._since = [OTHER], time.perf_counter()

    def stop(self) -> None:
        self._charge()
        self._open = []

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def _enters(self, part: str) -> bool:
        """Whether a call of `part` here is a span of its own."""
        if not self._open or threading.get_ident() != self._thread:
            return False
        return self._open[-1] in DIVISIBLE and self._open[-1] != part

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted as `part`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._enters(part):
                return function(*args, **kwargs)
            self._charge()
            self._open.append(part)
            self.calls[part] += 1
            try:
                if self._recorded:
                    with record_function(part):
                        return function(*args, **kwargs)
                return function(*args, **kwargs)
            finally:
                self._charge()
                if self._open:  # else it was stopped inside
                    self._open.pop()

        return timed

    @contextmanager
    def installed(self, method: Method) -> Iterator[None]:
        """Put a timer around every part of the training loop, for as long as the block lasts."""
        with ExitStack() as undo:
            for part, function in _FUNCTIONS:
                for owner, name in bindings(function):
                    patch(undo, owner, name, self.around(part, function))
            for part, owner, name in (*_METHODS, *((part, type(method), name) for part, name in _OF_THE_METHOD)):
                patch(undo, owner, name, self.around(part, getattr(owner, name)))
            patch(undo, manifold, "forward_through", self._mixing_inside(manifold.forward_through))
            patch(undo, data.Epoch, "batches", self._each(data.Epoch.batches))
            yield

    def _each(self, batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """A generator of batches whose every step counts as data: it gathers a batch, or waits for a streamed one."""

        @functools.wraps(batches)
        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            coming = batches(*args, **kwargs)
            following = self.around(DATA, lambda: next(coming, None))
            while (batch := following()) is not None:
                yield batch

        return timed

    def _mixing_inside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """manifold.forward_through, what it does to a layer's output counted as mixing."""

        @functools.wraps(function)
        def through(model: nn.Module, x: torch.Tensor, *, layer: int | str, change: Any) -> Any:
            return function(model, x, layer=layer, change=self.around(MIXING, change))

        return through


_FUNCTIONS: tuple[tuple[str, Callable[..., Any]], ...] = (
    (DATA, data.draw_epoch),
    (EVALUATION, loop.predict),
    (EVALUATION, top1_error),
    (EVALUATION, nll),
    (EVALUATION, diagnostics.weight_norm),
    (CHECKPOINT, checkpoint.save),
)
_METHODS: tuple[tuple[str, type, str], ...] = (
    (DATA, data.Epoch, "_take"),  # partners from all of the training set
    (FORWARD, nn.Module, "__call__"),
    (BACKWARD, torch.Tensor, "backward"),
    (OPTIMIZER, torch.optim.Optimizer, "zero_grad"),
    *((OPTIMIZER, optimizer, "step") for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)),
    (DIAGNOSTICS, diagnostics.Diagnostics, "note"),
    (DIAGNOSTICS, diagnostics.Diagnostics, "train_error_mixed"),
    (CHECKPOINT, TrialFolder, "sync_journal"),
)
_OF_THE_METHOD = ((MIXING, "training_loss"), (FORWARD, "cross_entropy"), (FORWARD, "mixed_cross_entropy"))


def bindings(function: Callable[..., Any]) -> list[tuple[Any, str]]:
    """Where the suite's modules keep this function under a name: each that imported it has one of its own."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("bench.")]
    return [(module, name) for module in modules for name, value in list(vars(module).items()) if value is function]


def patch(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Give the module's or the class's `name` another value until `undo` is closed."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, vars(owner)[name])
    else:
        undo.callback(delattr, owner, name)  # inherited
    setattr(owner, name, value)
