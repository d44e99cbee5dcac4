"""What bf16 is worth on this processor, which only measuring tells: some have instructions for it and lose by them."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

ROUNDS = 7


def bf16_gain() -> float:
    """How many times as fast a convolution's forward and backward pass is under bf16 autocast as in fp32, on a core.

    In turns, the median of their ratios; about half a second.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(32, 64, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()

        def seconds(*, bf16: bool) -> float:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                y = convolution(x)
            y.float().sum().backward()
            return time.perf_counter() - started

        seconds(bf16=False), seconds(bf16=True)  # both warm
        return statistics.median(seconds(bf16=False) / seconds(bf16=True) for _ in range(ROUNDS))
    finally:
        torch.set_num_threads(threads)
