"""Imported once by the forkserver, so that every trial's process starts with the heavy imports done.

Measured on 2 cores: 42 ms per further process instead of 5 s. Building one optimizer is part of it: the first one
imports torch._dynamo, 0.8 s.
"""

import atexit
import gc
import os

import timm  # noqa: F401  (the point is that it is imported)
import torch

from bench.execution.worker import versions

versions()  # read once: every process finds them in the cache
torch.set_num_threads(1)  # no thread may exist when the forkserver forks
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
gc.freeze()  # a collection in a trial's process would otherwise touch, and so copy, every page that it shares
atexit.register(os._exit, 0)  # nanobind, below torch, would report leaks on the user's terminal as the forkserver ends
