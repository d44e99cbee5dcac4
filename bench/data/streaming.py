"""Images that do not fit in memory: decoded by processes of their own, batch by batch, while the network trains.

torch's DataLoader keeps the processes and the order. What a batch holds is said by its request alone - positions and
keys - so that the images are the same whichever process decodes them, however many there are, and wherever a pass
begins.
"""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.data.errors import DataError
from bench.data.image_folder import ImageFiles, open_image, square
from bench.processes import end_with_parent

BATCH_SIZE = 100
"""Images of a batch that is not trained on. A constant: another number could give other last bits."""
AHEAD = 2
"""Batches that each process has decoded, or is at, before they are asked for."""
CROP_TRIES = 10

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


@dataclass(frozen=True)
class RandomCrop:
    """A random part of an image, stretched to a square.

    scale: its share of the area.  ratio: its width by its height, log-uniform.  Ranges, (from, to).
    Source: Szegedy et al. 2015; the draws are those of torchvision's RandomResizedCrop.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Of an image of that size; a part in its centre where none of CROP_TRIES draws lies within it."""
        low, high = (math.log(ratio) for ratio in self.ratio)
        for _ in range(CROP_TRIES):
            area, ratio = height * width * rng.uniform(*self.scale), math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w


def draw_crop_keys(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """(n,) seeds of what each image draws for its crop: how many draws that are, only its size says."""
    return rng.integers(2**63, size=n)


def decode(path: Path) -> Tensor:
    """An image as it is, (3, H, W) uint8, upright by its EXIF tag, RGB.  Raises DataError, naming the file.

    By torchvision; by Pillow what torchvision cannot read. An alpha channel is dropped.
    """
    from torchvision.io import ImageReadMode, decode_image

    try:
        with warnings.catch_warnings():
            # torchvision 0.29 announces that its decoders will move to TorchCodec, once for every image
            warnings.filterwarnings("ignore", message="The image decoding", category=DeprecationWarning)
            image: Tensor = decode_image(str(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:
        return torch.from_numpy(np.array(open_image(path)).transpose(2, 0, 1))
    if image.dtype != torch.uint8 or image.dim() != 3:  # 16 bits a channel, which Pillow refuses; an animation
        return torch.from_numpy(np.array(open_image(path)).transpose(2, 0, 1))
    return image


def decode_square(path: Path, *, image_size: int, resize: int) -> Tensor:
    """(3, image_size, image_size): the shorter side resized, then cut from the centre, as image_folder.decode_image."""
    image = decode(path)
    (height, width), (top, left) = square(image.shape[1], image.shape[2], image_size=image_size, resize=resize)
    return _resized(image, height, width)[:, top : top + image_size, left : left + image_size]


def decode_crop(path: Path, *, image_size: int, crop: RandomCrop, key: int) -> Tensor:
    """(3, image_size, image_size): the part of the image that `key` draws."""
    image = decode(path)
    top, left, height, width = crop.box(image.shape[1], image.shape[2], np.random.default_rng(key))
    return _resized(image[:, top : top + height, left : left + width], image_size, image_size)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear and antialiased."""
    from torchvision.transforms.v2.functional import resize

    found: Tensor = resize(image, [height, width], antialias=True)
    return found


class _Request(NamedTuple):
    """One batch: which of the sets, positions (B,) in it, and keys (B,) where they are to be cropped at random."""

    which: int
    positions: NDArray[np.int64]
    keys: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Decoding(Dataset[Any]):
    """What the processes do: a request in, (B, 3, S, S) uint8 out, or the error, which would else be wrapped."""

    sets: tuple[ImageFiles, ...]
    crop: RandomCrop | None

    def __getitem__(self, request: _Request) -> Tensor | DataError:
        files = self.sets[request.which]
        images = torch.empty(len(request.positions), *files.shape[1:], dtype=torch.uint8)
        try:
            for i, position in enumerate(request.positions):
                path = files.path(int(position))
                if request.keys is None:
                    images[i] = decode_square(path, image_size=files.image_size, resize=files.resize)
                else:
                    assert self.crop is not None
                    images[i] = decode_crop(path, image_size=files.image_size, crop=self.crop, key=int(request.keys[i]))
        except DataError as error:
            return error
        return images


class _Requests(Sampler[_Request]):
    """The requests of the pass that is about to begin."""

    def __init__(self) -> None:
        self.coming: Sequence[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.coming)


class Decoders:
    """Processes that decode the images of one trial; they start with the first pass, and end with the trial's process.

    crop: for requests with keys.  One pass at a time: a new one ends what is left of the one before.
    """

    def __init__(
        self, sets: tuple[ImageFiles, ...], *, processes: int, device: torch.device, crop: RandomCrop | None = None
    ) -> None:
        self.sets, self.device = sets, device
        self._requests = _Requests()
        loader = DataLoader(
            _Decoding(sets, crop),
            sampler=self._requests,
            batch_size=None,
            num_workers=processes,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            prefetch_factor=AHEAD,
            persistent_workers=True,
            worker_init_fn=_begin,
            # Said, since it is no default in the child of a forkserver, and forked processes have torch loaded.
            multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
            # It draws a seed for its processes: not from the generator that dropout draws from.
            generator=torch.Generator(),
        )
        # Found in a cycle of garbage, a loader waits 5 s for each process (torch 2.15): its queues are closed before it
        # can tell them to end. This list is in none, and lets go of it when these decoders are.
        self._loader = [loader]
        weakref.finalize(self, self._loader.clear).atexit = False

    def passing(self, requests: Sequence[_Request]) -> Iterator[Tensor]:
        """The batches on the device, in the order of their requests.

        On a GPU the next batch is copied beside the kernels of a step, which the host has only queued.
        """
        self._requests.coming = requests
        with _fork_unwarned():
            batches = iter(self._loader[0])
        copying = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            if copying is None:
                yield batch
                continue
            with torch.cuda.stream(copying):
                pixels = batch.to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(copying)
            pixels.record_stream(computing)
            yield pixels


class Streamed:
    """One of the sets of some Decoders, where there could be a uint8 tensor (n, 3, S, S) on the device.

    Indexed with positions it decodes them, as a tensor gives a copy; with a slice from its start it is a part of
    itself.
    """

    def __init__(self, decoders: Decoders, which: int, n: int | None = None) -> None:
        self._decoders, self._which = decoders, which
        self._n = len(decoders.sets[which]) if n is None else n

    def __len__(self) -> int:
        return self._n

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self._n, *self._decoders.sets[self._which].shape[1:]

    @property
    def device(self) -> torch.device:
        return self._decoders.device

    def __getitem__(self, index: Tensor | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._n)
            assert (start, step) == (0, 1), index
            return Streamed(self._decoders, self._which, stop)
        return torch.cat([torch.empty(0, *self.shape[1:], dtype=torch.uint8, device=self.device), *self.batches(index)])

    def batches(
        self, index: Tensor | None = None, *, size: int = BATCH_SIZE, keys: NDArray[np.int64] | None = None
    ) -> Iterator[Tensor]:
        """The images at `index` (n,), or all, in batches (size, 3, S, S) uint8 on the device.

        keys: (n,), of random crops; without, the square in the centre.  Raises DataError, naming the file, for one that
        cannot be read.
        """
        positions = np.arange(self._n) if index is None else index.cpu().numpy()
        requests = []
        for start in range(0, len(positions), size):
            rows = slice(start, start + size)
            requests.append(_Request(self._which, positions[rows], None if keys is None else keys[rows]))
        if requests:
            yield from self._decoders.passing(requests)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(_: int) -> None:
    """A decoding process ends with the trial's, however that ends: within milliseconds, where torch takes seconds."""
    end_with_parent()


@contextmanager
def _fork_unwarned() -> Iterator[None]:
    """From 3.12 on Python warns of a fork beside other threads; what is forked here decodes, and takes no lock."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
        yield
