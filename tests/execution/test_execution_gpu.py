"""What the stand-ins elsewhere take for granted, on a real GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.execution.devices import visible_gpus
from bench.results.store import Store

pytestmark = pytest.mark.gpu

FENCED = """
import json, sys, torch
from pathlib import Path
from bench.execution import telemetry
from bench.results.store import TrialFolder

uuid, folder, share = sys.argv[1], TrialFolder(Path(sys.argv[2])), float(sys.argv[3])
telemetry.start(uuid, folder, memory_share=share)
small = torch.ones(2**26, device="cuda") @ torch.ones(2**26, device="cuda")
total = torch.cuda.get_device_properties(0).total_memory
try:
    torch.empty(int(sys.argv[4]) * total // 100, dtype=torch.uint8, device="cuda")
    numbers = None
except RuntimeError as error:
    numbers = telemetry.out_of_memory(error)
print(json.dumps({"numbers": numbers, "record": telemetry.record(), "total": total}))
"""


def in_a_process(tmp_path: Path, *, share: float, percent: int) -> dict[str, object]:
    arguments = [visible_gpus()[0].uuid, str(tmp_path), str(share), str(percent)]
    result = subprocess.run([sys.executable, "-c", FENCED, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_torch_names_a_gpu_as_nvidia_smi_does():
    """By the name, measurements of an earlier run are known to be of this kind of GPU."""
    gpu = visible_gpus()[0]
    assert torch.cuda.get_device_name(0) == gpu.name
    assert gpu.memory_bytes == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.05)
    assert 0 < gpu.free_bytes <= gpu.memory_bytes


def test_more_than_there_is_gives_the_numbers_of_the_moment(tmp_path):
    found = in_a_process(tmp_path, share=1.0, percent=150)
    numbers = found["numbers"]
    assert numbers["requested_bytes"] == pytest.approx(1.5 * found["total"], rel=0.02)
    assert numbers["total_bytes"] == found["total"]
    assert 0 < numbers["free_bytes"] < numbers["total_bytes"]
    assert 2**28 <= numbers["allocated_bytes"] <= numbers["reserved_bytes"]


def test_a_process_with_a_share_cannot_have_more(tmp_path):
    assert in_a_process(tmp_path, share=0.3, percent=20)["numbers"] is None
    assert in_a_process(tmp_path, share=0.3, percent=40)["numbers"] is not None


def test_the_driver_is_asked_and_answers(tmp_path):
    record = in_a_process(tmp_path, share=1.0, percent=1)["record"]
    assert record["memory_reserved_peak_bytes"] >= 2 * 2**28
    assert record["memory_peak_bytes"] > record["memory_reserved_peak_bytes"]
    outside = record["memory_outside_torch_bytes"]
    assert outside is None or 10**8 < outside < 10**9, "what is assumed where it is not known should be more"


def test_a_suite_runs_on_the_gpu_and_says_what_it_took(bench, tmp_path, tiny_suite):
    options = ("--no-mlflow", "--no-report", "--seeds", 4, "--set", "training.epochs=60", "--devices", "0")
    result = bench("run", tiny_suite, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    store = Store(tmp_path / "results")
    finals = [store.trial(trial_id).final() for trial_id in store.trial_ids()]
    assert len(finals) == 16
    for final in finals:
        assert final["provenance"]["device"] == "cuda"
        assert 10**7 < final["gpu"]["memory_peak_bytes"] < 10**10
    started = [e for i in store.trial_ids() for e in store.trial(i).events()[0] if e["event"] == "out_of_memory"]
    assert started == []
