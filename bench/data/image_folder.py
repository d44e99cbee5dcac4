"""A user's own images: one folder per class, listed without being opened, then decoded to squares of one size.

Streamed images (streaming.py) are listed only: ImageFiles stands for them until they are decoded for a batch.

Two layouts: train/<class>/... and test/<class>/...; or <class>/... with a test_fraction, which splits by file name.
A file counts as an image by its extension (EXTENSIONS, in any case); whatever starts with a dot is ignored.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bench.data.errors import DataError
from bench.data.split import hold_out
from bench.processes import end_with_parent

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# From here on several processes decode: about half a second's work for one, and what it costs to start them.
PARALLEL_BYTES = 8_000_000
MAX_PROCESSES = 16

SAMPLE = 2000
"""So many training images give streamed ones their mean and deviation: within 0.5 % of a pixel's range."""


class ImageFile(NamedTuple):
    path: str  # below the root, with forward slashes
    num_bytes: int
    label: int


@dataclass(frozen=True)
class Listing:
    """What an image folder holds.  Labels number the sorted class names; files are in the order of their paths.

    fingerprint: SHA-256 over the files' relative paths and sizes: the same wherever the folder lies, another one when
    an image is added, removed, renamed or changes its size.  An edit that keeps the size goes unnoticed.
    """

    class_names: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    fingerprint: str


def list_images(root: Path, *, test_fraction: float | None = None) -> Listing:
    """List the images below root.  Raises DataError, naming the file or folder, for whatever is missing or unclear."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; `root` is where the image folders lie")
    try:
        class_names, train, test = _given_split(root) if test_fraction is None else _drawn_split(root, test_fraction)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    return Listing(class_names, tuple(train), tuple(test), _fingerprint([*train, *test]))


@dataclass(frozen=True)
class ImageFiles:
    """n images that stay in their files, to be cut to 3 x image_size x image_size.

    names: their paths below root, encoded, one after the other; ends: (n,) where each ends.  Two arrays, since
    processes that are forked share them: every look at a list of a million strings writes its reference counts, and so
    copies it bit by bit into each process.
    """

    root: Path
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    image_size: int
    resize: int

    @classmethod
    def of(cls, root: Path, files: Sequence[ImageFile], *, image_size: int, resize: int) -> Self:
        encoded = [os.fsencode(file.path) for file in files]
        names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(root, names, np.cumsum([len(name) for name in encoded], dtype=np.int64), image_size, resize)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.image_size, self.image_size

    def path(self, i: int) -> Path:
        start = self.ends[i - 1] if i else 0
        return self.root / os.fsdecode(self.names[start : self.ends[i]].tobytes())


def decode_images(
    root: Path, files: Sequence[ImageFile], *, image_size: int, resize: int | None = None
) -> NDArray[np.uint8]:
    """Decode files to (n, 3, image_size, image_size) uint8, in several processes when there is much to do.

    Raises DataError, naming the file, for one that cannot be read.
    """
    images = np.empty((len(files), 3, image_size, image_size), dtype=np.uint8)
    for i, image in enumerate(_decode_each(root, files, image_size, resize)):
        images[i] = image
    return images


def sample_histogram(
    root: Path, files: Sequence[ImageFile], *, image_size: int, resize: int | None = None
) -> NDArray[np.int64]:
    """(3, 256): how often each level occurs in each channel of a SAMPLE of the files, evenly spaced, as decoded."""
    spaced = [files[i] for i in np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).round().astype(int)]
    histogram = np.zeros((3, 256), dtype=np.int64)
    for image in _decode_each(root, spaced, image_size, resize):
        for channel in range(3):
            histogram[channel] += np.bincount(image[channel].ravel(), minlength=256)
    return histogram


def decode_image(path: Path, *, image_size: int, resize: int | None = None) -> NDArray[np.uint8]:
    """One image as (3, image_size, image_size) uint8: upright by its EXIF tag, RGB, shorter side resized, centre cut.

    resize: the shorter side before the cut, image_size where it is None.  Bilinear and antialiased; the pixels are
    those of torchvision's Resize and CenterCrop on a PIL image.  An alpha channel is dropped.
    """
    from PIL import Image

    image = open_image(path)
    (height, width), (top, left) = square(image.height, image.width, image_size=image_size, resize=resize or image_size)
    cut = image.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + image_size, top + image_size)
    )
    return np.asarray(cut).transpose(2, 0, 1)


def square(height: int, width: int, *, image_size: int, resize: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) that an image is resized to, and (top, left) of the square in its centre."""
    shorter = min(height, width)
    height, width = resize * height // shorter, resize * width // shorter
    return (height, width), (round((height - image_size) / 2), round((width - image_size) / 2))


def open_image(path: Path) -> Image:
    """An image as Pillow reads it, upright by its EXIF tag, RGB.  Raises DataError, naming the file."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            # Pillow's convert clips 16-bit grey to 255: an image that is white all over, and no error.
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel, Pillow's mode {opened.mode}; convert it to 8 bits")
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def _decode_each(
    root: Path, files: Sequence[ImageFile], image_size: int, resize: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    paths = [root / file.path for file in files]
    decode = partial(decode_image, image_size=image_size, resize=resize)
    # A daemonic process, which a trial may be, is not allowed children.
    if sum(file.num_bytes for file in files) < PARALLEL_BYTES or multiprocessing.current_process().daemon:
        yield from map(decode, paths)
        return
    # spawn, since the caller may have torch's threads running, which a fork would lose in the middle of their work
    with ProcessPoolExecutor(
        decoders(os.cpu_count() or 1),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
    ) as pool:
        yield from pool.map(decode, paths, chunksize=64)


def decoders(cores: int, *, trials: int = 1) -> int:
    """How many processes decode for each of so many trials at a time, or for whoever has the cores to himself."""
    return min(MAX_PROCESSES, max(1, cores // trials))


def _given_split(root: Path) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    for folder in (root / "train", root / "test"):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; either {root} holds train/ and test/, with a folder per class in each, "
                "or it holds the class folders and test_fraction says how much of them to test on"
            )
    class_names, test_names = _class_names(root / "train"), _folders(root / "test")
    for name in class_names:
        if name not in test_names:
            raise DataError(f"{root / 'test' / name}: no such folder; every class of train/ needs test images")
    for name in test_names:
        if name not in class_names:
            raise DataError(f"{root / 'train' / name}: no such folder; every class of test/ needs training images")
    return class_names, _list_classes(root, "train", class_names), _list_classes(root, "test", class_names)


def _drawn_split(root: Path, test_fraction: float) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    if not 0 < test_fraction < 1:
        raise DataError(f"a test_fraction of {test_fraction}: it must lie between 0 and 1")
    class_names = _class_names(root)
    if {"train", "test"} <= set(class_names):
        raise DataError(f"{root}: has train/ and test/ already; leave test_fraction out")
    files = _list_classes(root, "", class_names)
    labels = np.array([file.label for file in files], dtype=np.int64)
    for label, count in enumerate(np.bincount(labels)):
        if count < 2:
            raise DataError(f"{root / class_names[label]}: a single image; one to train and one to test on are needed")
    train, test = hold_out([os.fsencode(file.path) for file in files], labels, test_fraction)
    return class_names, [files[i] for i in train], [files[i] for i in test]


def _class_names(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if len(names) < 2:
        found = f"only {names[0]}/" if names else "no folder in it"
        raise DataError(f"{folder}: {found}; it must hold one folder of images per class, and at least two classes")
    return names


def _folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))


def _list_classes(root: Path, split: str, class_names: Sequence[str]) -> list[ImageFile]:
    """The images of every class, sorted by path within each."""
    files = []
    for label, name in enumerate(class_names):
        folder = root / split / name
        found = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in _walk(folder)]
        if not found:
            raise DataError(f"{folder}: no image in it (a file counts when it ends in {', '.join(EXTENSIONS)})")
        files += [ImageFile(path, num_bytes, label) for path, num_bytes in sorted(found)]
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name[0] == ".":
            continue
        if path.suffix.lower() in EXTENSIONS:
            yield path
        elif path.is_dir():
            yield from _walk(path)


def _fingerprint(files: Sequence[ImageFile]) -> str:
    digest = hashlib.sha256()
    for path, num_bytes, _ in sorted(files):
        digest.update(b"%s\0%d\n" % (os.fsencode(path), num_bytes))
    return digest.hexdigest()
