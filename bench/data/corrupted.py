"""Corrupted versions of a data set's images, made once and then memory-mapped; the published ones where they are there.

One .npy file for each version, in a folder for each data set and split.  A file appears whole or not at all: it is
written under another name, flushed to disk and renamed, by one process at a time.  Behind the array it has a checksum,
which `build_corrupted` looks at and `open_corrupted` does not: that would read the file twice in every trial.
"""

import math
import multiprocessing
import os
import re
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import SEAL_BYTES, Arrays, Inspection, locked, seal, seal_is_broken
from bench.data.corruptions import CORRUPTIONS_VERSION, SEVERITIES, check_kind, corrupt
from bench.data.errors import DataError
from bench.data.image_folder import EXTENSIONS, ImageFile, decode_images

__all__ = ["CorruptedSet", "build_corrupted", "cache_bytes", "generation_seconds", "open_corrupted"]

Split = Literal["train", "test"]

# Images that share a generator: this many, or fewer where they are large.  Part of what fixes the pixels.
_CHUNK_IMAGES = 500
_CHUNK_VALUES = 2**24

# Less work than this is done before other processes have loaded torch.
_PARALLEL_SECONDS = 5

_NPY_HEADER_BYTES = 128

# The published sets, by our name of the data set they belong to.
_PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C", "image_folder": "Tiny-ImageNet-C"}
_TINY_IMAGENET_CLASSES = 200
_WORDNET_ID = re.compile(r"n\d{8}")

# Nanoseconds for one of n x C x H x W values on one core of an AMD EPYC, mean over the severities: with the parameters
# for small images, measured at 3 x 32 x 32, and with those for large ones, at 3 x 224 x 224.
_NANOSECONDS = {
    "gaussian_noise": (11, 11),
    "shot_noise": (7, 7),
    "impulse_noise": (5, 6),
    "defocus_blur": (17, 38),
    "glass_blur": (26, 69),
    "motion_blur": (13, 12),
    "zoom_blur": (32, 121),
    "snow": (30, 15),
    "frost": (8, 11),
    "fog": (6, 9),
    "brightness": (3, 3),
    "contrast": (2, 3),
    "elastic_transform": (11, 18),
    "pixelate": (10, 6),
    "jpeg_compression": (42, 5),
    "speckle_noise": (10, 10),
    "gaussian_blur": (8, 23),
    "spatter": (48, 58),
    "saturate": (4, 4),
}


@dataclass(frozen=True)
class CorruptedSet:
    """One corrupted version of a data set: images (n, C, H, W) uint8, memory-mapped and read-only, labels (n,) int64.

    source: whether the images are the published ones or ours.  Published arrays are seen through a transpose, not
    copied: a batch is one stretch of their file either way, and copies would double the 2.9 GB that a set takes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: Literal["official", "generated"]


class _Version(NamedTuple):
    """A version that is wanted.  published: the .npy file or the folder to take it from; None: it is made here."""

    arrays: Arrays
    dataset: str
    split: Split
    kind: str
    severity: int
    folder: Path
    published: Path | None

    def path(self) -> Path:
        origin = "" if self.published is None else "-official"
        return self.folder / f"{self.kind}-{self.severity}{origin}.npy"

    def key(self) -> bytes:
        """What the seal of its file is of, beside the file's content."""
        return f"{CORRUPTIONS_VERSION} {self.arrays.sha256} {self.split} {self.path().name}".encode()

    def clean(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if self.split == "train":
            return self.arrays.train_images, self.arrays.train_labels
        return self.arrays.test_images, self.arrays.test_labels


class _Job(NamedTuple):
    """A chunk to corrupt and to write into a file at an offset in bytes."""

    images: NDArray[np.uint8]
    kind: str
    severity: int
    seed: tuple[int, ...]
    path: Path
    offset: int


def build_corrupted(
    arrays: Arrays,
    *,
    dataset: str,
    split: Split,
    wanted: Sequence[tuple[str, int]],
    data_root: Path,
    cache_root: Path,
    source: Literal["auto", "official", "generated"] = "auto",
    processes: int,
    say: Callable[[str], None],
    inspection: Inspection | None = None,
) -> None:
    """Make those of the wanted versions, (kind, severity), that `open_corrupted` would have to make.

    The pixels do not depend on `processes`.  A version that another process is making is left to it, and waited for
    once the others are done.  inspection: has those that are there checked against their checksums, unless it has seen
    them before; files of earlier versions have none.  source, and what is raised: as for `open_corrupted`.
    """
    versions = [_version(arrays, dataset, split, *each, data_root, cache_root, source) for each in wanted]
    inspected = {v.path() for v in versions if inspection is not None and inspection.begins(v.path())}
    missing = [version for version in versions if _find(version, whole=version.path() in inspected) is None]
    own = [(version.kind, version.severity) for version in missing if version.published is None]
    images = arrays.test_images if split == "test" else arrays.train_images
    seconds = generation_seconds(len(images), _shape(images), own)
    # A daemonic process is not allowed children.
    alone = processes == 1 or seconds < _PARALLEL_SECONDS or multiprocessing.current_process().daemon
    with _helpers(0 if alone else processes) as helpers:
        done, total = 0, len(missing)
        for wait_for_others in (False, True):
            busy_elsewhere: list[_Version] = []
            for version in missing:
                what = f"{version.kind}, severity {version.severity} ({done + 1} of {total})"
                say(f"corrupted {split} images of {dataset}: {what}")
                whole = version.path() in inspected
                if _make(version, helpers, wait_for_others=wait_for_others, whole=whole, inspection=inspection):
                    done += 1
                else:
                    busy_elsewhere.append(version)
            missing = busy_elsewhere


def open_corrupted(
    arrays: Arrays,
    *,
    dataset: str,
    split: Split,
    kind: str,
    severity: int,
    data_root: Path,
    cache_root: Path,
    source: Literal["auto", "official", "generated"] = "auto",
) -> CorruptedSet:
    """One corrupted version of a data set's training or test images, made first if it is neither cached nor published.

    source: "auto" takes the published images where their file is below data_root, "official" insists on them,
    "generated" never does.  There are such files for the test images of cifar10 (CIFAR-10-C/<kind>.npy and labels.npy),
    of cifar100 (CIFAR-100-C), and of an image folder with Tiny ImageNet's classes (Tiny-ImageNet-C, the same files or
    <severity>/<class>/*.JPEG below <kind>).  Raises DataError where "official" finds no file, and for a file that does
    not fit the data set; ValueError for an unknown kind or severity.
    """
    version = _version(arrays, dataset, split, kind, severity, data_root, cache_root, source)
    found = _find(version)
    if found is None:
        _make(version, [], wait_for_others=True)
        found = _find(version)
    assert found is not None, f"{version.path()} is damaged as soon as written"
    return found


def cache_bytes(num_images: int, shape: tuple[int, int, int], count: int) -> int:
    """What `count` versions of num_images images of shape (C, H, W) take on disk, in bytes."""
    return count * (_NPY_HEADER_BYTES + num_images * math.prod(shape) + SEAL_BYTES)


def generation_seconds(
    num_images: int, shape: tuple[int, int, int], kinds_severities: Iterable[tuple[str, int]]
) -> float:
    """About how long one core takes to make these versions, in seconds."""
    column = 0 if max(shape[1:]) <= 64 else 1
    nanoseconds = sum(_NANOSECONDS[kind][column] for kind, _ in kinds_severities)
    return num_images * math.prod(shape) * nanoseconds * 1e-9


def _version(
    arrays: Arrays,
    dataset: str,
    split: Split,
    kind: str,
    severity: int,
    data_root: Path,
    cache_root: Path,
    source: Literal["auto", "official", "generated"],
) -> _Version:
    check_kind(kind, severity)
    folder = cache_root / f"corrupted-v{CORRUPTIONS_VERSION}" / f"{dataset}-{arrays.sha256[:16]}-{split}"
    published = None
    if source != "generated":
        published = _published(arrays, dataset, split, kind, severity, data_root)
    if published is None and source == "official":
        name = _PUBLISHED.get(dataset, "")
        if split != "test" or not name:
            raise DataError(f"no corrupted {split} images of {dataset} were ever published; `generated` makes them")
        raise DataError(f"{data_root / name / kind}.npy: no such file; fetch {name}, or make the images: `generated`")
    return _Version(arrays, dataset, split, kind, severity, folder, published)


def _published(arrays: Arrays, dataset: str, split: Split, kind: str, severity: int, data_root: Path) -> Path | None:
    """The .npy file, or the folder of classes, that was published for a version, if it is there."""
    if split != "test" or dataset not in _PUBLISHED:
        return None
    root = data_root / _PUBLISHED[dataset]
    if dataset != "image_folder":
        return root / f"{kind}.npy" if (root / f"{kind}.npy").exists() else None
    if len(arrays.class_names) != _TINY_IMAGENET_CLASSES or not all(map(_WORDNET_ID.fullmatch, arrays.class_names)):
        return None
    candidates = (root / f"{kind}.npy", root / kind / str(severity))
    return next((path for path in candidates if path.exists()), None)


def _find(version: _Version, *, whole: bool = False) -> CorruptedSet | None:
    """The version, if it can be had without work.  whole: look at every byte of our own file of it."""
    images, labels = version.clean()
    if version.published is None:
        found = _open(version, (len(images), *_shape(images)), whole=whole)
        return None if found is None else CorruptedSet(found, labels, "generated")
    if version.published.suffix == ".npy":
        return _open_published(version, version.published)
    labels = np.array([file.label for file in _list_published(version, version.published)], dtype=np.int64)
    found = _open(version, (len(labels), *_shape(images)), whole=whole)
    return None if found is None else CorruptedSet(found, labels, "official")


def _open(version: _Version, shape: tuple[int, ...], *, whole: bool) -> NDArray[np.uint8] | None:
    """A version's file in the cache, or None if it is absent or not what it should be."""
    path = version.path()
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        behind = path.stat().st_size - _NPY_HEADER_BYTES - math.prod(shape)
        # Files of earlier versions have no seal.
        broken = whole and behind == SEAL_BYTES and seal_is_broken(path, key=version.key())
    except Exception:  # numpy's reader raises OSError, ValueError, EOFError, BadZipFile, ...
        return None
    fits = behind in (0, SEAL_BYTES) and array.dtype == np.uint8 and array.shape == shape
    return array if fits and not broken else None


def _open_published(version: _Version, path: Path) -> CorruptedSet:
    """One severity's share of a published array: the five lie one after the other, height and width before colour."""
    clean, clean_labels = version.clean()
    labels = _load_published(path.with_name("labels.npy"))
    images = _load_published(path)
    # Tiny-ImageNet-C need not hold the same test images in the same order; CIFAR's does.
    num = len(labels) // len(SEVERITIES) if version.dataset == "image_folder" else len(clean)
    channels, height, width = _shape(clean)
    shape = (len(SEVERITIES) * num, height, width, channels)
    if images.dtype != np.uint8 or images.shape != shape:
        raise DataError(f"{path}: {images.dtype} {images.shape}; not uint8 {shape}, five severities of {num} images")
    labels_path = path.with_name("labels.npy")
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"{labels_path}: {labels.dtype} {labels.shape}; not {shape[0]} whole numbers")
    if version.dataset == "image_folder":
        if labels.min() < 0 or labels.max() >= len(version.arrays.class_names):
            raise DataError(f"{labels_path}: labels that are not 0..{len(version.arrays.class_names) - 1}")
    elif not np.array_equal(labels, np.tile(clean_labels, len(SEVERITIES))):
        raise DataError(f"{labels_path}: not the labels of {version.dataset}'s test images, five times")
    share = slice((version.severity - 1) * num, version.severity * num)
    return CorruptedSet(images[share].transpose(0, 3, 1, 2), labels[share].astype(np.int64), "official")


def _load_published(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; it belongs to the published images beside it") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array: {error}") from error
    return array


def _list_published(version: _Version, folder: Path) -> list[ImageFile]:
    """The images of a published folder of classes, which must be the data set's."""
    class_names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if class_names != version.arrays.class_names:
        raise DataError(f"{folder}: {len(class_names)} class folders that are not those of the data set")
    return [
        ImageFile(path.relative_to(folder).as_posix(), path.stat().st_size, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in EXTENSIONS
    ]


def _make(
    version: _Version,
    helpers: Sequence[Connection],
    *,
    wait_for_others: bool,
    whole: bool = False,
    inspection: Inspection | None = None,
) -> bool:
    """Make a version unless it is there by now; False if another process is at it and need not be waited for."""
    path = version.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), wait=wait_for_others) as held:
        if held and _find(version, whole=whole) is None:
            if inspection is not None and path.exists():
                inspection.say(f"the cached {path} is damaged: it is made anew")
            for partial in path.parent.glob(f"{path.name}.*.partial"):  # left by a process that was killed
                partial.unlink()
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                if version.published is None:
                    _generate(version, partial, helpers)
                else:
                    files = _list_published(version, version.published)
                    _write_header(partial, (len(files), *_shape(version.clean()[0])))
                    with partial.open("ab") as file:
                        file.write(decode_images(version.published, files, image_size=version.clean()[0].shape[2]).data)
                seal(partial, key=version.key())
                _rename(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return held


def _generate(version: _Version, partial: Path, helpers: Sequence[Connection]) -> None:
    images, _ = version.clean()
    image_values = math.prod(_shape(images))
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_VALUES // image_values))
    stream = zlib.crc32(version.kind.encode()), version.severity, int(version.split == "train")
    _write_header(partial, images.shape)
    jobs = (
        _Job(
            np.array(images[start : start + step]),
            version.kind,
            version.severity,
            (*stream, start // step),
            partial,
            _NPY_HEADER_BYTES + start * image_values,
        )
        for start in range(0, len(images), step)
    )
    _share_out(jobs, helpers)


def _write_header(path: Path, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        assert file.tell() == _NPY_HEADER_BYTES, f"NumPy's header takes {file.tell()} bytes"


def _rename(partial: Path, path: Path) -> None:
    """Give a finished file its name, on disk as well, so that no power cut leaves a torn one under it."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _share_out(jobs: Iterator[_Job], helpers: Sequence[Connection]) -> None:
    """Do the jobs: here, or in the helpers if there are any."""
    idle, busy = list(helpers), list[Connection]()
    for job in jobs:
        if not helpers:
            _do(job)
            continue
        if not idle:
            idle = _finished(busy)
            busy = [helper for helper in busy if helper not in idle]
        helper = idle.pop()
        helper.send(job)
        busy.append(helper)
    while busy:
        finished = _finished(busy)
        busy = [helper for helper in busy if helper not in finished]


def _finished(busy: Sequence[Connection]) -> list[Connection]:
    """Wait until some are done with their jobs.  Raises what a job raised."""
    ready = wait(busy)
    finished = [helper for helper in busy if helper in ready]
    for helper in finished:
        try:
            error = helper.recv()
        except EOFError as died:
            raise RuntimeError("a process that corrupts images was killed; was there memory enough?") from died
        if error is not None:
            raise error
    return finished


@contextmanager
def _helpers(count: int) -> Iterator[list[Connection]]:
    """Processes that do the jobs sent to them, and end with this one however it ends."""
    # A forkserver: it may have torch loaded already, and a fork of ours would inherit torch's threads and our lock.
    context = multiprocessing.get_context("forkserver")
    connections, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            connections.append(ours)
            process = context.Process(target=_help, args=(theirs,), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
            process.join()


def _help(connection: Connection) -> None:
    """Do jobs until nobody is left to send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            job = connection.recv()
            try:
                _do(job)
            except Exception as error:
                connection.send(error)
            else:
                connection.send(None)
    except (EOFError, OSError):
        return


def _do(job: _Job) -> None:
    corrupted = corrupt(job.images, kind=job.kind, severity=job.severity, rng=np.random.default_rng(job.seed))
    with job.path.open("r+b") as file:
        file.seek(job.offset)
        file.write(corrupted.data)


def _shape(images: NDArray[np.uint8]) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width
