"""A cache of decoded data sets that all processes of a machine share as memory-mapped files.

One folder per data set: four .npy files and meta.json, which says what they hold.  A folder appears whole or not at
all: it is written under another name and renamed, by one process at a time.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Decoded(NamedTuple):
    """A data set as read from its own files: images (n, C, H, W) uint8, labels (n,) int64."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: array for name, array in self._asdict().items() if name != "class_names"}


@dataclass(frozen=True)
class Arrays:
    """A data set in the cache: images (n, C, H, W) uint8, labels (n,) int64, memory-mapped and read-only.

    sha256: hex digest of the four arrays (names, types, shapes, contents).
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    sha256: str


def open_or_build(folder: Path, build: Callable[[], Decoded]) -> Arrays:
    """The data set cached in folder; built first if it is not there, or not as its meta.json says."""
    cached = _open(folder)
    if cached is not None:
        return cached
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock")):
        cached = _open(folder)  # another process may have built it while this one waited
        if cached is not None:
            return cached
        _write(folder, build())
    written = _open(folder)
    assert written is not None, f"{folder} is damaged as soon as written"
    return written


def _open(folder: Path) -> Arrays | None:
    """The cached data set, or None if it is absent or a file differs in size or header from what meta.json says."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {name: _open_array(folder / f"{name}.npy", entry) for name, entry in meta["arrays"].items()}
    except (OSError, ValueError):
        return None
    return Arrays(**arrays, class_names=tuple(meta["class_names"]), sha256=meta["sha256"])


def _open_array(path: Path, entry: dict[str, Any]) -> NDArray[Any]:
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, not {entry['bytes']}")
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    if [str(array.dtype), list(array.shape)] != [entry["dtype"], entry["shape"]]:
        raise ValueError(f"{path}: {array.dtype} {array.shape}, not {entry['dtype']} {entry['shape']}")
    return array


def _write(folder: Path, decoded: Decoded) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    digest = hashlib.sha256()
    entries = {}
    for name, array in decoded.arrays().items():
        array = np.ascontiguousarray(array)
        path = partial / f"{name}.npy"
        np.save(path, array)
        entries[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": path.stat().st_size}
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    meta = {
        "sha256": digest.hexdigest(),
        "class_names": decoded.class_names,
        "arrays": entries,
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "torchvision")},
    }
    (partial / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on path; the kernel lets go of it when its process dies.

    wait: for another process that has it; without, the answer is whether the lock is held.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
