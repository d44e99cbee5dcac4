"""All contestants begin with the same weights, as the arms of a suite do."""

from pathlib import Path

import torch

from bench.data.datasets import load
from bench.execution.task import DataPaths
from bench.perf import loops
from bench.perf.peers import Contestant, Job, Machine, Workload
from bench.training.data import prepare
from bench.training.loop import initial_model


def test_the_others_begin_with_the_weights_of_ours(tmp_path: Path) -> None:
    workload = Workload("digits", {"name": "digits"}, "mlp", (1, 8, 8), crop_padding=1, lr=0.1, epochs=1, turns=1)
    machine = Machine(DataPaths(tmp_path, tmp_path / "cache"), "cpu", threads=1, workers=0)
    arrays = load("digits", data_root=tmp_path, cache_root=tmp_path / "cache")
    for seed in (0, 1):
        job = Job(workload, Contestant("any", "bare"), machine, seed)
        trial = loops.recipe(job)
        expected = initial_model(trial, prepare(trial, arrays, device=torch.device("cpu"))).state_dict()
        found = loops._network(job, arrays).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
