"""The measuring itself, on embedded data: every loop trains, takes its turns and learns as much as the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch

from bench.data.datasets import load
from bench.execution.task import DataPaths
from bench.perf.__main__ import BARE, LOADER, OURS, contestants, table, utilisation, write_section
from bench.perf.loops import LOOPS, _cut
from bench.perf.peers import Contestant, Job, Machine, Result, Workload, compare, ratios

TINY = Workload(
    "digits", {"name": "digits"}, "mlp", (1, 8, 8), crop_padding=1, lr=0.1, epochs=10, turns=3, batch_size=64
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(DataPaths(tmp_path / "data", tmp_path / "cache"), "cpu", threads=1, workers=1)


def test_all_loops_take_their_turns_and_learn_alike(machine: Machine) -> None:
    entries = contestants(machine)
    assert {entry.loop for entry in entries} == {"ours", "bare", "loader", "timm"}
    found = compare(TINY, entries, machine=machine, seeds=1)
    for entry in entries:
        assert len(found[entry.name].seconds) == TINY.turns - 1
        assert all(1e-5 < seconds < 5 for seconds in found[entry.name].seconds)
        (error,) = found[entry.name].errors
        assert error < 0.4, f"{entry.name} has learnt nothing: {error}"  # chance is 0.9
    lines = table(found, entries)
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:-2]] == [entry.name for entry in entries]


@pytest.mark.parametrize("loop", ["loader", "timm", "bare"])
def test_others_have_torchs_own_precision_and_the_bare_loop_has_ours(machine: Machine, loop: str) -> None:
    """TF32 in a GPU's convolutions, which torch takes by default and ours forbids."""
    workload = replace(TINY, epochs=1, images=128)
    job = Job(workload, Contestant(loop, loop), replace(machine, workers=0), seed=0)
    arrays = load("digits", data_root=machine.data.data_root, cache_root=machine.data.cache_root)
    seen = []
    was, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # as contest leaves it
    try:
        LOOPS[loop](job, _cut(arrays, job), lambda: bool(seen.append(torch.backends.cudnn.allow_tf32)))
    finally:
        torch.backends.cudnn.allow_tf32 = was
    assert set(seen) == {loop != "bare"}


def test_copies_train_at_once_and_count_together(machine: Machine) -> None:
    found = compare(TINY, [Contestant("pair", "ours", copies=2)], machine=machine, seeds=2)
    assert len(found["pair"].seconds) == 2 * (TINY.turns - 1)
    assert len(found["pair"].errors) == 2  # one for each seed, of the first copy


def test_what_a_contestant_says_is_wrong_is_raised(machine: Machine) -> None:
    broken = Contestant("ours, broken", "ours", {"optimizer": "no such thing"})
    with pytest.raises(RuntimeError, match=r"(?s)ours, broken: .*optimizer"):
        compare(TINY, [OURS, broken], machine=machine, seeds=1)


def test_ratios_are_of_neighbouring_turns() -> None:
    slow, fast = Result(seconds=[2.0, 30.0, 4.0]), Result(seconds=[1.0, 10.0, 1.0])
    assert ratios(slow, fast) == [2.0, 3.0, 4.0]
    results = {LOADER.name: slow, BARE.name: fast, OURS.name: fast, "ours, ERM": fast}
    for each in results.values():
        each.errors = [0.1, 0.2]
    row = table(results, [OURS])[2]
    assert row == "| ours | 1000 [1000-5500] | 3.00 [2.50-3.50] | 1.00 [1.00-1.00] | 15.0 ± 7.1 % |"


def test_utilisation_is_the_networks_operations_over_the_gpus() -> None:
    """The MLP of 64-128-64-10 has 17,024 products per image; a step is three passes of 64 images."""
    results = {"ours": Result([1.0]), "ours, bf16": Result([2e-9, 1e-9, 3e-9])}
    (_, line) = utilisation(TINY, results, "NVIDIA H100 80GB HBM3")
    assert line == "Model FLOPs utilisation, of 989 TFLOP/s in dense bf16: ours, bf16: 330.5%."
    assert utilisation(TINY, results, "NVIDIA Unheard Of") == []


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    text = "# What\n\n<!-- make perf, mlp on cpu: begin -->\nold\n<!-- make perf, mlp on cpu: end -->\n\nthe rest\n"
    document.write_text(text)
    write_section(document, "mlp on cpu", ["new", "lines"])
    assert document.read_text() == text.replace("old", "new\nlines")
    write_section(document, "mlp on cpu", ["old"])
    assert document.read_text() == text
    with pytest.raises(click.UsageError, match="mlp on cuda: begin"):
        write_section(document, "mlp on cuda", ["new"])
    assert document.read_text() == text
