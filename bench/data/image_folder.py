"""A user's own images: one folder per class, listed without being opened, then decoded to squares of one size.

Two layouts: train/<class>/... and test/<class>/...; or <class>/... with a test_fraction, which splits by file name.
A file counts as an image by its extension (EXTENSIONS, in any case); whatever starts with a dot is ignored.
"""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.errors import DataError
from bench.data.split import hold_out

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# From here on several processes decode: about half a second's work for one, and what it costs to start them.
PARALLEL_BYTES = 8_000_000
MAX_PROCESSES = 16


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


def decode_images(root: Path, files: Sequence[ImageFile], *, image_size: int) -> NDArray[np.uint8]:
    """Decode files to (n, 3, image_size, image_size) uint8, in several processes when there is much to do.

    Raises DataError, naming the file, for one that cannot be read.
    """
    images = np.empty((len(files), 3, image_size, image_size), dtype=np.uint8)
    for i, image in enumerate(_decode_each(root, files, image_size)):
        images[i] = image
    return images


def decode_image(path: Path, *, image_size: int) -> NDArray[np.uint8]:
    """One image as (3, image_size, image_size) uint8: upright by its EXIF tag, RGB, shorter side resized, centre cut.

    Bilinear and antialiased; the pixels are those of torchvision's Resize and CenterCrop on a PIL image.  An alpha
    channel is dropped.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            # Pillow's convert clips 16-bit grey to 255: an image that is white all over, and no error.
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel, Pillow's mode {opened.mode}; convert it to 8 bits")
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    shorter = min(image.size)
    width, height = (image_size * side // shorter for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    square = image.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + image_size, top + image_size)
    )
    return np.asarray(square).transpose(2, 0, 1)


def _decode_each(root: Path, files: Sequence[ImageFile], image_size: int) -> Iterator[NDArray[np.uint8]]:
    paths = [root / file.path for file in files]
    decode = partial(decode_image, image_size=image_size)
    # A daemonic process, which a trial may be, is not allowed children.
    if sum(file.num_bytes for file in files) < PARALLEL_BYTES or multiprocessing.current_process().daemon:
        yield from map(decode, paths)
        return
    # spawn, since the caller may have torch's threads running, which a fork would lose in the middle of their work
    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, MAX_PROCESSES),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as pool:
        yield from pool.map(decode, paths, chunksize=64)


def _end_with_parent() -> None:
    """A pool's process otherwise waits for work for ever when its parent is killed, as Ctrl-C does."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="orphan", daemon=True).start()


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
