from types import SimpleNamespace

import torch

from bench.perf import precision


def test_the_gain_of_bf16_is_that_of_the_times(monkeypatch) -> None:
    """Against a clock that gives fp32 three times the time of bf16: the same pair of calls, in the same order."""
    ticks = iter([t for _ in range(1 + precision.ROUNDS) for t in (0.0, 3.0, 0.0, 1.0)])
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    threads = torch.get_num_threads()
    assert precision.bf16_gain() == 3
    assert torch.get_num_threads() == threads
