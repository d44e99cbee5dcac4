"""Images per second of a streamed folder, beside timm's loader.

The same folder, the same number of processes, ImageNet's augmentation (random resized crop to 224, flip), with and
without a small network that trains on what comes. Passes of the two take turns in one process tree, so that a shared or
throttled machine slows both alike; the ratio of each pair of neighbours counts.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.datasets import load_streamed
from bench.perf.spread import extremes
from bench.plan.trial import Trial
from bench.training.data import draw_epoch, prepare

IMAGE_SIZE = 224
NETWORK = "test_resnet"
SAMPLE_SECONDS = 0.1

Pass = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""One pass over the training images, in batches as the network takes them: (B, 3, 224, 224) float32 and labels."""


@dataclass(frozen=True)
class Found:
    """Images per second of each pass, ours and timm's in turns, and of our process tree the peak memory of each epoch.

    alone: without a network.  training: with one.  memory_bytes: proportional set size, pages that are shared counted
    once.
    """

    num_images: int
    processes: int
    batch_size: int
    alone: list[tuple[float, float]]
    training: list[tuple[float, float]]
    memory_bytes: list[int]


def measure(
    root: Path, cache: Path, *, processes: int, batch_size: int = 64, rounds: int = 5, epochs: int = 3
) -> Found:
    """Measure on an image folder with train/ and test/.  cache: where the sample for the statistics is kept."""
    torch.set_num_threads(1)
    ours, num_images = our_passes(root, cache, processes=processes, batch_size=batch_size)
    theirs = timm_passes(root / "train", processes=processes, batch_size=batch_size)
    found: dict[bool, list[tuple[float, float]]] = {}
    for trains in (False, True):
        step = _stepper() if trains else _leave
        for one_pass in (ours, theirs):
            _rate(one_pass, step)  # the processes start
        found[trains] = [(_rate(ours, step), _rate(theirs, step)) for _ in range(rounds)]
    del theirs, one_pass  # their processes end: the memory that follows is ours
    return Found(num_images, processes, batch_size, found[False], found[True], _peaks(ours, epochs=epochs))


def our_passes(root: Path, cache: Path, *, processes: int, batch_size: int) -> tuple[Pass, int]:
    """A trial's epochs, from the draws to the normalised batch, and how many images each has."""
    dataset = {"name": "image_folder", "root": str(root), "image_size": IMAGE_SIZE, "stream": True, "val_fraction": 0.0}
    training = {"epochs": 1, "batch_size": batch_size, "random_resized_crop": True, "flip": True}
    trial = Trial.model_validate(
        {
            "dataset": dataset,
            "label_noise": {},
            "model": {"name": f"timm/{NETWORK}"},
            "training": training,
            "method": {"name": "erm"},
            "seed": 0,
        }
    )
    files = load_streamed("image_folder", cache_root=cache, root=root, image_size=IMAGE_SIZE)
    data = prepare(trial, files, device=torch.device("cpu"), decoders=processes)
    steps = len(data.train) // batch_size
    epochs = iter(range(10**9))

    def one_pass() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in draw_epoch(trial, data, next(epochs)).batches(batch_size, first_step=0, steps=steps):
            yield batch.x, batch.y

    return one_pass, steps * batch_size


def timm_passes(folder: Path, *, processes: int, batch_size: int) -> Pass:
    """timm's loader with its prefetcher, as its training script sets it; bilinear as ours, and no colour jitter."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder), split="train", is_training=True),
        input_size=(3, IMAGE_SIZE, IMAGE_SIZE),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=True,
        interpolation="bilinear",
        color_jitter=None,
        num_workers=processes,
        persistent_workers=True,
        device=torch.device("cpu"),
    )
    return lambda: iter(loader)


def _stepper() -> Callable[[Tensor, Tensor], None]:
    """A training step of a small network."""
    import timm

    model: Any = timm.create_model(NETWORK, num_classes=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _leave(x: Tensor, y: Tensor) -> None:
    """No network."""


def _rate(one_pass: Pass, step: Callable[[Tensor, Tensor], None]) -> float:
    """Images per second of one pass, its beginning included."""
    began, count = time.perf_counter(), 0
    for x, y in one_pass():
        step(x, y)
        count += len(x)
    return count / (time.perf_counter() - began)


def _peaks(one_pass: Pass, *, epochs: int) -> list[int]:
    """The most memory that this process and its children have during each of the epochs."""
    peaks = []
    for _ in range(epochs):
        with _sampled() as samples:
            _rate(one_pass, _leave)
        peaks.append(max(samples))
    return peaks


@contextmanager
def _sampled() -> Iterator[list[int]]:
    samples, done = [_tree_bytes()], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(_tree_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _tree_bytes() -> int:
    """Linux: the proportional set size of this process and its children."""
    children = Path("/proc/self/task").glob("*/children")
    total = 0
    for pid in ["self", *(pid for path in children for pid in path.read_text().split())]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def make_folder(root: Path, *, num_images: int) -> None:
    """JPEGs of about 500 x 375 pixels and 70 kB, smooth with some grain as photographs are, in four classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", num_images), ("test", 8)):
        for i in range(count):
            folder = root / split / f"class{i % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            width, height = (int(side * rng.uniform(0.9, 1.1)) for side in (500, 375))
            coarse = rng.integers(256, size=(24, 32, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
            grain = smooth + rng.normal(0, 6, size=smooth.shape)
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=92)


def section(here: str, *, processes: int, folder: Path | None = None, num_images: int = 1024) -> list[str]:
    """Ours beside timm's, as Markdown; about two minutes on two cores.

    here: hardware and versions.  folder: with train/ and test/; unsaid, one of num_images JPEGs is made.
    """
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as temporary:
        if folder is None:
            folder = Path(temporary) / "images"
            make_folder(folder, num_images=num_images)
        found = measure(folder, Path(temporary), processes=processes)
    lines = [
        f"**Streamed JPEGs of about 500 x 375 to {IMAGE_SIZE} x {IMAGE_SIZE}, random resized crop and flip.** "
        f"{found.num_images} images a pass, batch {found.batch_size}, {found.processes} decoding processes, one thread "
        f"for the network; median [min-max] of {len(found.alone)} passes each. {here}",
        "",
        "| | ours, images/s | timm's loader, images/s | ours / timm's |",
        "|---|---|---|---|",
    ]
    for what, pairs in (("no network", found.alone), (f"training {NETWORK}", found.training)):
        own, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        ratio = extremes([a / b for a, b in pairs], digits=2)
        lines.append(f"| {what} | {extremes(own, digits=0)} | {extremes(theirs, digits=0)} | {ratio} |")
    peaks = ", ".join(f"{peak / 1e6:.0f}" for peak in found.memory_bytes)
    return [*lines, "", f"The most memory that the process tree had, epoch by epoch: {peaks} MB."]
