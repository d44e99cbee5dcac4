"""`make perf`: what a training step and a trial of ours cost beside those of others, into docs/performance.md.

Ratios measured side by side in one process tree, interleaved, as medians with their quartiles: a shared or throttled
machine then slows all sides alike.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click

from bench.execution.devices import num_cores, visible_gpus
from bench.execution.processor import processor_name
from bench.execution.task import DataPaths
from bench.models.probe import probe
from bench.perf import peers, streaming, trials
from bench.perf.peers import Contestant, Machine, Result, Workload, ratios
from bench.perf.spread import quartiles
from bench.results.store import write_atomically

DOCUMENT = Path("docs/performance.md")
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""By part of a GPU's name: dense bf16 with fp32 accumulation, as NVIDIA's data sheets have it."""

BF16 = {"precision": "bf16"}
LOADER, BARE, OURS = Contestant("everyday loop", "loader"), Contestant("bare loop", "bare"), Contestant("ours", "ours")
CONTESTANTS = (
    LOADER,
    Contestant("timm's loader and Mixup", "timm"),
    BARE,
    OURS,
    Contestant("ours, ERM", "ours", method="erm"),
    Contestant("bare loop, bf16", "bare", BF16),
    Contestant("ours, bf16", "ours", BF16),
    Contestant("ours, compiled", "ours", {"compile": True}),
)

WORKLOADS = {
    "mlp": Workload(
        "The tutorial's MLP on MNIST", {"name": "mnist"}, "mlp", (1, 28, 28), crop_padding=2, lr=0.01, epochs=3, turns=9
    ),
    "test_resnet": Workload(
        "timm/test_resnet on Fashion-MNIST",
        {"name": "fashion_mnist"},
        "timm/test_resnet",
        (1, 28, 28),
        crop_padding=2,
        lr=0.05,
        epochs=1,
        turns=6,
        images=40_000,
    ),
    "preact_resnet18": Workload(
        "preact_resnet18 on CIFAR-10",
        {"name": "cifar10"},
        "preact_resnet18",
        (3, 32, 32),
        crop_padding=4,
        lr=0.05,
        epochs=1,
        turns=5,
        images=30 * 128,
        test_images=1000,
    ),
}


def contestants(machine: Machine) -> tuple[Contestant, ...]:
    """Who runs on this machine's device."""
    if machine.device != "cpu":
        packed = [Contestant(f"ours, bf16, {n} trials at once", "ours", BF16, copies=n) for n in (2, 4, 8)]
        options = {"compiled": {"compile": True}, "CUDA graph": {"cuda_graph": True}}
        fast = [Contestant(f"ours, bf16, {name}", "ours", BF16 | option) for name, option in options.items()]
        return (*CONTESTANTS, *fast, *packed)
    if machine.threads == 1:
        return CONTESTANTS
    name = f"ours, {machine.threads} trials at once with a thread each"
    return (*CONTESTANTS, Contestant(name, "ours", copies=machine.threads, threads=1))


def table(results: dict[str, Result], entries: Sequence[Contestant]) -> list[str]:
    """Markdown: a row for each contestant."""
    lines = [
        "| | ms per step | times as fast as the everyday loop | of the bare loop's speed | test error |",
        "|---|---|---|---|---|",
    ]
    for entry in entries:
        found = results[entry.name]
        floor = results.get(f"{BARE.name}, bf16" if entry.training.get("precision") == "bf16" else BARE.name)
        of_floor = quartiles(ratios(floor, found)) if floor and entry.loop == "ours" and entry.copies == 1 else ""
        times = quartiles(ratios(results[LOADER.name], found)) if entry != LOADER else "1"
        milliseconds = quartiles([1000 * each for each in found.seconds])
        lines.append(f"| {entry.name} | {milliseconds} | {times} | {of_floor} | {errors(found.errors)} |")
    mixing = quartiles(ratios(results[OURS.name], results["ours, ERM"]))
    return [*lines, "", f"Mixup's step takes {mixing} times ERM's."]


def utilisation(workload: Workload, results: dict[str, Result], gpu: str) -> list[str]:
    """What share of the GPU's arithmetic the networks' own operations are, of each entry in bf16; Markdown."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
    found = probe(workload.network, {}, input_shape=workload.input_shape, num_classes=10)
    if peak is None or "error" in found:
        return []
    step_flops = 3 * found["forward_flops"] * workload.batch_size
    shares = [
        f"{name}: {step_flops / statistics.median(result.seconds) / peak:.1%}"
        for name, result in results.items()
        if "bf16" in name
    ]
    return ["", f"Model FLOPs utilisation, of {peak / 1e12:g} TFLOP/s in dense bf16: {'; '.join(shares)}."]


def errors(values: Sequence[float]) -> str:
    """In percent: the mean and the standard deviation over seeds."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread} %"


def here(machine: Machine) -> str:
    """Hardware and versions, as a sentence."""
    hardware = f"{processor_name()}, {num_cores()} cores"
    if machine.device != "cpu":
        hardware = f"{visible_gpus()[0].name}; {hardware}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return (
        f"{hardware}; Python {sys.version.split()[0]}, {versions}; {machine.threads} threads, loaders with "
        f"{machine.workers} workers; {datetime.now(UTC):%Y-%m-%d}."
    )


def write_section(document: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the two comments that name the section. Raises UsageError where they are missing."""
    begin, end = f"<!-- make perf, {name}: begin -->", f"<!-- make perf, {name}: end -->"
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise click.UsageError(f"{document}: the lines {begin} and {end} are missing; the section goes between them")
    write_atomically(document, "\n".join([f"{before}{begin}", *lines, f"{end}{after}"]).encode())


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice([*WORKLOADS, "trial", "streaming"]), help="Of what there is to measure."
)
@click.option("--seeds", default=3, show_default=True, help="Trainings of each contestant; of preact_resnet18, one.")
@click.option("--threads", default=num_cores(), show_default=True, help="Of torch, for each contestant.")
@click.option("--workers", default=num_cores(), show_default=True, help="Processes of each loader.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="BENCH_DATA", help="Data sets, or where they go.")
@click.option("--folder", type=click.Path(path_type=Path), help="A folder of images in place of CIFAR-10.")
@click.option("--document", default=DOCUMENT, show_default=True, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the tables only.")
def main(
    only: tuple[str, ...],
    seeds: int,
    threads: int,
    workers: int,
    data_root: Path | None,
    folder: Path | None,
    document: Path,
    *,
    dry_run: bool,
) -> None:
    """Measure, print the tables and write them into docs/performance.md; about twenty minutes on two cores."""
    results = Path(os.environ.get("BENCH_RESULTS", "results")).absolute()
    data = DataPaths((data_root or results / "data").absolute(), results / "cache" / "data")
    device = "cuda" if visible_gpus() else "cpu"
    machine = Machine(data, device, threads, workers)
    workloads = dict(WORKLOADS)
    if folder is not None:
        images = {"name": "image_folder", "root": folder.absolute(), "image_size": 32}
        title = f"preact_resnet18 on {folder.name}, 32 x 32"
        workloads["preact_resnet18"] = replace(workloads["preact_resnet18"], dataset=images, title=title)
    if device != "cpu":  # turns that outlast what so many workers have in stock
        workloads["preact_resnet18"] = replace(workloads["preact_resnet18"], images=None, epochs=3, turns=9)
    sections: dict[str, Callable[[], list[str]]] = {}
    for name, workload in workloads.items():
        rounds = 1 if name == "preact_resnet18" and device == "cpu" else seeds
        sections[f"{name} on {device}"] = partial(step_section, workload, machine=machine, seeds=rounds)
    sections["trial"] = partial(trials.section, here(machine))
    sections["streaming"] = partial(streaming.section, here(machine), processes=workers)
    for name, measure in sections.items():
        if only and name.partition(" ")[0] not in only:
            continue
        lines = measure()
        click.echo("\n".join(["", *lines]))
        if not dry_run:
            write_section(document, name, lines)


def step_section(workload: Workload, *, machine: Machine, seeds: int) -> list[str]:
    """A workload's table with its title, and how it was measured."""
    entries = contestants(machine)
    found = peers.compare(workload, entries, machine=machine, seeds=seeds, say=_progress)
    turns = seeds * (workload.turns - 1)
    images = "all images" if workload.images is None else f"{workload.images:,} images"
    how = (
        f"Batch {workload.batch_size}, {images}, epochs: {workload.epochs}, seeds: {seeds}; median and quartiles of "
        f"{turns} turns. {here(machine)}"
    )
    lines = [f"**{workload.title}.** {how}", "", *table(found, entries)]
    return lines if machine.device == "cpu" else lines + utilisation(workload, found, visible_gpus()[0].name)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", err=True, nl=False)


if __name__ == "__main__":
    main()
