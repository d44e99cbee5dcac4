"""The loops that train the same network side by side: ours, a bare one, the one of everyday use, and timm's pieces."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.data.augment import channel_statistics, crop, flip, normalise
from bench.data.cache import Arrays
from bench.data.datasets import load
from bench.models import build
from bench.perf.peers import Job
from bench.plan.trial import Trial
from bench.results.store import TrialFolder
from bench.training.compiled import keep_compiled_code
from bench.training.data import memory_format, prepare
from bench.training.loop import configure_torch, train
from bench.training.policy import CheckpointPolicy
from bench.training.seeding import stream_seed

LEAD = 4
"""Steps at the beginning of each turn that do not count, beside those of which loaders have the batches in stock from
the turns of others: two for each worker, as torch and timm have it."""

EVALUATION_BATCH = 500

Pace = Callable[[], bool]
"""Called after every step."""


def contest(job: Job, link: Connection) -> None:
    """Say that all is ready, then answer each order: seconds per step of a turn, and at the end the test error."""
    multiprocessing.set_start_method("fork", force=True)  # of the loaders' workers, as it is for everybody on Linux
    try:
        trial = recipe(job)
        arrays = _cut(load(**asdict(job.machine.data), **job.workload.dataset), job)
        configure_torch(trial.training)
        keep_compiled_code(job.machine.data.cache_root)
        link.send(0.0)
        steps = job.workload.epochs * _steps_per_epoch(job, arrays)
        model = LOOPS[job.contestant.loop](job, arrays, _Turns(link, steps=steps, job=job))
        link.send(_test_error(model, arrays, job))
    except (EOFError, ConnectionError):
        pass  # whoever measures has ended
    except Exception as error:
        link.send(f"{job.contestant.name}: {type(error).__name__}: {error}")


class _Turns:
    """Called after every step: waits for an order before each turn, and answers with its seconds per step."""

    def __init__(self, link: Connection, *, steps: int, job: Job) -> None:
        self._link, self._device = link, job.machine.device
        self._lead = LEAD + 2 * job.machine.workers
        turns = job.workload.turns
        self._ends = iter([steps * turn // turns for turn in range(1, turns + 1)])
        self._step = self._last = 0
        self._begin()

    def __call__(self) -> bool:
        self._step += 1
        if self._step == self._first:
            self._started = self._now()
        elif self._step == self._last:
            self._link.send((self._now() - self._started) / (self._last - self._first))
            self._begin()
        return False

    def _begin(self) -> None:
        self._link.recv()
        last = next(self._ends, None)
        if last is None:
            return  # the order is for the error, which comes when the loop has ended
        self._first, self._last = self._last + min(self._lead, (last - self._last) // 2), last
        self._started = self._now()

    def _now(self) -> float:
        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def recipe(job: Job) -> Trial:
    """The contestant's training as a trial of ours."""
    workload = job.workload
    return Trial.model_validate(
        {
            "dataset": {**workload.dataset, "val_fraction": 0.0},
            "label_noise": {},
            "model": {"name": workload.network},
            "training": {
                "epochs": workload.epochs,
                "batch_size": workload.batch_size,
                "lr": workload.lr,
                "weight_decay": workload.weight_decay,
                "schedule": "constant",
                "crop_padding": workload.crop_padding,
                "flip": True,
                "threads": job.threads,
                **job.contestant.training,
            },
            "method": {"name": job.contestant.method},
            "seed": job.seed,
        }
    )


def ours(job: Job, arrays: Arrays, pace: Pace) -> nn.Module:
    """The product's own loop as it stands. One test image, because the others evaluate nothing either."""
    trial = recipe(job)
    data = prepare(trial, arrays, device=torch.device(job.machine.device))
    data = replace(data, test_images=data.test_images[:1], test_labels=data.test_labels[:1])
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as scratch:
        folder, policy = TrialFolder(Path(scratch)), CheckpointPolicy(seconds=float("inf"))
        return train(trial, data, folder=folder, policy=policy, stop_requested=pace).model


def bare(job: Job, arrays: Arrays, pace: Pace) -> nn.Module:
    """Resident tensors and nothing but the step: the floor that Python and PyTorch set."""
    training, workload, device = recipe(job).training, job.workload, job.machine.device
    images = torch.from_numpy(arrays.train_images).to(device)
    labels = torch.from_numpy(arrays.train_labels).to(device)
    mean, std = (each.view(1, -1, 1, 1).to(device) for each in channel_statistics(arrays.train_images))
    scale, shift = 1 / (255 * std), -mean / std
    model = _network(job, arrays).to(memory_format=memory_format(training))
    optimizer = _optimizer(model, job, fused=True)
    rng = np.random.default_rng(job.seed)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training.precision == "bf16")
    for _ in range(workload.epochs):
        order = torch.randperm(len(labels), device=device)
        offsets = torch.randint(2 * workload.crop_padding + 1, (len(labels), 2), device=device)
        flips = torch.rand(len(labels), device=device) < 0.5
        train_loss = torch.zeros((), device=device)
        model.train()
        for start in range(0, len(labels), workload.batch_size):
            rows = slice(start, start + workload.batch_size)
            x, y = images[order[rows]], labels[order[rows]]
            x = flip(crop(x, offsets[rows], padding=workload.crop_padding), flips[rows])
            x = normalise(x, scale, shift).contiguous(memory_format=memory_format(training))
            lam, perm = rng.beta(1, 1), torch.randperm(len(y), device=device)
            with autocast:
                logits = model(torch.lerp(x[perm], x, lam))
                loss = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[perm])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            train_loss += loss.detach()
            pace()
        train_loss.item()
    return model


def loader(job: Job, arrays: Arrays, pace: Pace) -> nn.Module:
    """As the paper's authors have it: an image at a time through PIL in workers, fp32, a look at the loss every step.

    With what has become usual since: workers that stay, pinned memory on a GPU.
    """
    workload, device = job.workload, job.machine.device
    _as_torch_has_it()
    batches = DataLoader(
        _PilImages(arrays, _tensors(arrays, padding=workload.crop_padding)),
        batch_size=workload.batch_size,
        shuffle=True,
        num_workers=job.machine.workers,
        persistent_workers=job.machine.workers > 0,
        pin_memory=device != "cpu",
        generator=torch.Generator().manual_seed(job.seed),
    )
    model = _network(job, arrays)
    optimizer = _optimizer(model, job)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(job.seed)
    for _ in range(workload.epochs):
        model.train()
        train_loss, correct = 0.0, 0.0
        for images, labels in batches:
            x, y = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            lam, perm = rng.beta(1, 1), torch.randperm(len(y), device=device)
            mixed, y_a, y_b = lam * x + (1 - lam) * x[perm], y, y[perm]
            logits = model(mixed)
            loss = lam * criterion(logits, y_a) + (1 - lam) * criterion(logits, y_b)
            train_loss += loss.item()
            predicted = logits.argmax(1)
            correct += lam * predicted.eq(y_a).sum().item() + (1 - lam) * predicted.eq(y_b).sum().item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pace()
    return model


def timms(job: Job, arrays: Arrays, pace: Pace) -> nn.Module:
    """timm's create_loader with its prefetcher, and its Mixup, in such a loop."""
    from timm.data import Mixup, create_loader
    from timm.loss import SoftTargetCrossEntropy

    workload, device = job.workload, job.machine.device
    _as_torch_has_it()
    torch.manual_seed(job.seed)  # the loader's order
    mean, std = (tuple(each.tolist()) for each in channel_statistics(arrays.train_images))
    dataset = _PilImages(arrays, _pixels(arrays, padding=workload.crop_padding))
    batches = create_loader(
        dataset,
        input_size=arrays.train_images.shape[1:],
        batch_size=workload.batch_size,
        is_training=True,
        no_aug=True,
        mean=mean,
        std=std,
        num_workers=job.machine.workers,
        persistent_workers=job.machine.workers > 0,
        pin_memory=device != "cpu",
        device=torch.device(device),
    )
    dataset.transform = _pixels(arrays, padding=workload.crop_padding)  # in place of timm's, which are for ImageNet
    mix = Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=len(arrays.class_names))
    model = _network(job, arrays)
    model.train()
    optimizer = _optimizer(model, job)
    criterion = SoftTargetCrossEntropy()
    for images, labels in islice(_endlessly(batches), workload.epochs * _steps_per_epoch(job, arrays)):
        x, y = mix(images, labels)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace()
    return model


def _as_torch_has_it() -> None:
    """TF32 in a GPU's convolutions: ours takes none, as fp32 means fp32 there, and pays for it; others have it."""
    torch.backends.cudnn.allow_tf32 = True


LOOPS: dict[str, Callable[[Job, Arrays, Pace], nn.Module]] = {
    "ours": ours,
    "bare": bare,
    "loader": loader,
    "timm": timms,
}


class _PilImages(Dataset[tuple[Any, int]]):
    """Images as torchvision's data sets give them: from an array through PIL, one at a time."""

    def __init__(self, arrays: Arrays, transform: Callable[[Any], Any]) -> None:
        self.images, self.labels, self.transform = arrays.train_images, arrays.train_labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        pixels = self.images[i]
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return self.transform(image), int(self.labels[i])


def _augmentation(arrays: Arrays, *, padding: int) -> list[Any]:
    side = arrays.train_images.shape[-1]
    return [transforms.RandomCrop(side, padding=padding), transforms.RandomHorizontalFlip()]


def _tensors(arrays: Arrays, *, padding: int) -> Callable[[Any], Any]:
    mean, std = (each.tolist() for each in channel_statistics(arrays.train_images))
    normalisation = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    composed: Callable[[Any], Any] = transforms.Compose([*_augmentation(arrays, padding=padding), *normalisation])
    return composed


def _pixels(arrays: Arrays, *, padding: int) -> Callable[[Any], Any]:
    """(C, H, W) uint8 arrays, which timm's loader normalises when they are a batch."""
    augment = transforms.Compose(_augmentation(arrays, padding=padding))

    def pixels(image: Any) -> Any:
        array = np.array(augment(image))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    return pixels


def _cut(arrays: Arrays, job: Job) -> Arrays:
    """As many images as the workload takes, the same for everybody."""
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(len(arrays.train_labels))[: job.workload.images])
    test = np.sort(rng.permutation(len(arrays.test_labels))[: job.workload.test_images])
    return replace(
        arrays,
        train_images=np.ascontiguousarray(arrays.train_images[train]),
        train_labels=arrays.train_labels[train],
        test_images=np.ascontiguousarray(arrays.test_images[test]),
        test_labels=arrays.test_labels[test],
    )


def _network(job: Job, arrays: Arrays) -> nn.Module:
    """With the initial weights of ours."""
    torch.manual_seed(stream_seed(job.seed, "init"))
    channels, height, width = arrays.train_images.shape[1:]
    model = build(job.workload.network, input_shape=(channels, height, width), num_classes=len(arrays.class_names))
    return model.to(job.machine.device)


def _optimizer(model: nn.Module, job: Job, *, fused: bool | None = None) -> torch.optim.Optimizer:
    workload = job.workload
    return torch.optim.SGD(
        model.parameters(), lr=workload.lr, momentum=0.9, weight_decay=workload.weight_decay, fused=fused
    )


def _steps_per_epoch(job: Job, arrays: Arrays) -> int:
    return ceil(len(arrays.train_labels) / job.workload.batch_size)


def _endlessly(batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches


@torch.inference_mode()
def _test_error(model: nn.Module, arrays: Arrays, job: Job) -> float:
    model.eval()
    mean, std = (each.view(1, -1, 1, 1) for each in channel_statistics(arrays.train_images))
    wrong = 0
    for start in range(0, len(arrays.test_labels), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        x = (torch.from_numpy(arrays.test_images[rows]).float() / 255 - mean) / std
        predicted = model(x.to(job.machine.device)).argmax(1).cpu().numpy()
        wrong += int(np.count_nonzero(predicted != arrays.test_labels[rows]))
    return wrong / len(arrays.test_labels)
