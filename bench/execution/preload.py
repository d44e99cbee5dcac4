"""Imported once by the forkserver, so that every trial's process starts with the heavy imports done.

Measured on 2 cores: 42 ms per further process instead of 5 s. Building one optimizer is part of it: the first one
imports torch._dynamo, 1.2 s of the 3 s that all this takes. What is imported only where it is used, every trial would
import again: networks, what a method needs besides its options, what saves weights.

Nothing is collected meanwhile: looking for garbage again and again among objects that stay takes a fifth of it all, and
finds too little to show in the process's size.
"""

# ruff: noqa: E402
import gc

gc.disable()

import atexit
import importlib
import os
import pkgutil

import torch
import torch.utils.serialization.config

from bench.execution.worker import versions

for package in ("bench.mixing", "bench.models"):  # with timm among them
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)

versions()  # read once: every process finds them in the cache
torch.set_num_threads(1)  # no thread may exist when the forkserver forks
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
gc.enable()
gc.freeze()  # a collection in a trial's process would otherwise touch, and so copy, every page that it shares
atexit.register(os._exit, 0)  # nanobind, below torch, would report leaks on the user's terminal as the forkserver ends
