"""`make perf-methods`: what each training method costs per step, against ERM.

Steps of ERM and of the method take turns in one process, on the same network and batches, so that a shared or throttled
machine slows both alike; the ratio of each pair of neighbours counts, as median with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import numpy as np
import torch

from bench.data.cache import Arrays
from bench.mixing import METHODS, Erm, Method
from bench.plan.trial import Trial
from bench.training.data import Extras, draw_epoch, prepare
from bench.training.diagnostics import Diagnostics
from bench.training.loop import configure_torch, placed_model
from bench.training.optim import make_optimizer
from bench.training.seeding import stream
from bench.training.step import training_step

NUM_IMAGES = 4096
BATCH_SIZE = 128

ARMS: tuple[dict[str, Any], ...] = (
    {"name": "erm"},
    {"name": "mixup"},
    {"name": "mixup", "lam_per": "sample"},
    {"name": "mixup", "examples": 3},
    {"name": "mixup", "partner": "same_class"},
    {"name": "mixup", "partner": "neighbours"},
    {"name": "manifold_mixup"},
    {"name": "cutmix"},
    {"name": "mixup_or_cutmix"},
    {"name": "resizemix"},
    {"name": "fmix"},
    {"name": "regmixup"},
    {"name": "augmix"},
    {"name": "augmix", "consistency": 0},
    {"name": "erm", "label_smoothing": 0.1},
    {"name": "erm", "gaussian_noise": 0.1},
    {"name": "erm", "cutout": 8},
    {"name": "erm", "dropout": 0.3},
)
"""ERM against itself shows how exact the others are."""

SHAPES = {"mlp": (1, 28, 28), "timm/test_resnet": (1, 28, 28), "preact_resnet18": (3, 32, 32)}


def made_up_images(shape: tuple[int, int, int]) -> Arrays:
    """Noise in ten classes: what a step costs does not depend on what the images show."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(NUM_IMAGES, *shape), dtype=np.uint8)
    labels = rng.integers(10, size=NUM_IMAGES)
    return Arrays(images, labels, images[:10], labels[:10], tuple("0123456789"), "made up")


def stepper(method: Method, network: str, *, device: str, training: dict[str, Any]) -> Callable[[], None]:
    """One training step, as the loop in bench/training/loop.py takes it, each time it is called."""
    trial = Trial.model_validate(
        {
            "dataset": {"name": "fashion_mnist", "val_fraction": 0.0},
            "label_noise": {},
            "model": {"name": network},
            "training": {"epochs": 1000, "batch_size": BATCH_SIZE, "lr": 0.01, **training},
            "method": method,
            "seed": 0,
        }
    )
    near = np.random.default_rng(0).integers(NUM_IMAGES, size=(NUM_IMAGES, 200), dtype=np.int32)
    data = prepare(trial, made_up_images(SHAPES[network]), device=torch.device(device), extras=Extras(neighbours=near))
    configure_torch(trial.training)
    model = placed_model(trial, data)
    model.train()
    optimizer = make_optimizer(model.parameters(), trial.training, weight_decay=trial.weight_decay)
    diagnostics = Diagnostics()
    mixing = stream(0, "mixing")
    take_step = training_step(trial, model, optimizer, device=data.images.device, batch_size=BATCH_SIZE)

    def batches() -> Iterator[Any]:
        for epoch in range(1000):
            draws = draw_epoch(trial, data, epoch)
            diagnostics.begin_epoch()
            for start in range(0, NUM_IMAGES, BATCH_SIZE):
                yield lambda start=start, draws=draws: draws.batch(slice(start, start + BATCH_SIZE))
            diagnostics.train_error_mixed()

    coming = batches()

    def step() -> None:
        diagnostics.note(take_step(next(coming)(), trial.training.lr, mixing))

    return step


def ratios(step: Callable[[], None], erm: Callable[[], None], *, rounds: int, steps: int, device: str) -> list[float]:
    """Of each round, the method's time for so many steps over ERM's; who begins alternates."""
    for warm in (erm, step, erm, step):
        warm()
    found = []
    for round_ in range(rounds):
        order = (erm, step) if round_ % 2 else (step, erm)
        seconds = {each: _seconds(each, steps, device) for each in order}
        found.append(seconds[step] / seconds[erm])
    return found


def _seconds(step: Callable[[], None], steps: int, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 2 else sorted(values)[:1] * 3
    return f"{middle:.3f} [{low:.3f}-{high:.3f}]"


@click.command()
@click.option("--network", type=click.Choice(list(SHAPES)), default="timm/test_resnet", show_default=True)
@click.option("--rounds", default=40, show_default=True)
@click.option("--steps", default=2, show_default=True, help="Of each side in a round.")
@click.option("--only", default="", help="Arms whose label contains this.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--bf16", is_flag=True)
@click.option("--channels-last", is_flag=True)
def main(
    network: str, rounds: int, steps: int, only: str, device: str, *, bf16: bool = False, channels_last: bool = False
) -> None:
    """Print each method's cost per step relative to ERM; ten minutes on a core for the small ResNet."""
    training = {
        "precision": "bf16" if bf16 else "fp32",
        "channels_last": channels_last,
        "crop_padding": 2,
        "flip": True,
    }
    click.echo(f"{network}, batch {BATCH_SIZE}, {device}, {training}; {rounds} rounds of {steps}: median [quartiles]")
    for options in ARMS:
        method = METHODS[options["name"]].model_validate(options)
        if only not in method.label:
            continue
        erm = stepper(Erm(), network, device=device, training=training)
        found = ratios(
            stepper(method, network, device=device, training=training), erm, rounds=rounds, steps=steps, device=device
        )
        click.echo(f"  {method.label:45} {quartiles(found)}   erm's step {1000 * _seconds(erm, 3, device) / 3:.1f} ms")


if __name__ == "__main__":
    main()
