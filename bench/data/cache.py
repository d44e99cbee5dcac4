"""A cache of decoded data sets that all processes of a machine share as memory-mapped files.

One folder per data set: four .npy files and meta.json, which says what they hold.  A folder appears whole or not at
all: it is written under another name and renamed when it is on disk, by one process at a time.  Nothing is ever changed
in place, so that whoever has the old files mapped keeps them.

Sizes and headers are looked at whenever a file is opened; an Inspection, one for each run, looks at every byte.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SEAL_BYTES = 32


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


class Inspection:
    """Has each file of the cache checked against its checksum once, and says which are damaged and made anew."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._begun: set[Path] = set()

    def begins(self, path: Path) -> bool:
        """Whether the path has its turn now: True the first time that it is asked about."""
        new = path not in self._begun
        self._begun.add(path)
        return new


@dataclass(frozen=True)
class _Damage:
    """What is wrong with a cached data set.  sha256: of its arrays as they were written, "" where meta.json is torn."""

    reason: str
    sha256: str = ""


def open_or_build(folder: Path, build: Callable[[], Decoded], *, inspection: Inspection | None = None) -> Arrays:
    """The data set cached in folder; built first if it is not there, or not as its meta.json says.

    inspection: has the contents checked too, 0.1 s for CIFAR-10, unless it has seen them before.
    """
    whole = inspection is not None and inspection.begins(folder)
    cached = _open(folder, whole=whole)
    if isinstance(cached, Arrays):
        return cached
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock")):
        damaged = _open(folder, whole=whole)  # another process may have built it while this one waited
        if isinstance(damaged, Arrays):
            return damaged
        say = inspection.say if inspection is not None else _say_nothing
        if damaged is not None:
            say(f"the cache {folder} is damaged ({damaged.reason}): it is built anew")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        try:
            _write(partial, build())
            if folder.exists() and not folder.is_dir():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # a disk that is full needs its space
        sync(folder.parent)
        written = _open(folder, whole=False)
        assert isinstance(written, Arrays), f"{folder} is damaged as soon as written"
        if damaged is not None and damaged.sha256 not in ("", written.sha256):
            say(f"{folder} has another content than before: its source, or what decodes it, has changed since")
    return written


def _open(folder: Path, *, whole: bool) -> Arrays | _Damage | None:
    """The cached data set; None if it is absent, or what is wrong if it differs from what meta.json says.

    whole: look at every byte, not only at the sizes and headers.
    """
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        # Those of earlier versions have no checksum of their own.
        if meta.get("checksum") not in (None, _meta_checksum(meta)):
            return _Damage("meta.json differs from its checksum")
        sha256, class_names, entries = str(meta["sha256"]), tuple(map(str, meta["class_names"])), meta["arrays"]
    except FileNotFoundError:
        return _Damage("meta.json is missing") if folder.exists() else None
    except Exception as error:  # whatever stands there: no JSON, or another thing than ours
        return _Damage(f"meta.json cannot be read: {type(error).__name__}")
    arrays = {}
    for name in Decoded._fields:
        if name != "class_names":
            try:
                arrays[name] = _open_array(folder / f"{name}.npy", entries[name])
            except Exception as error:  # numpy's reader raises OSError, EOFError, BadZipFile, ...
                why = str(error) if isinstance(error, _Unlike) else "is missing or cannot be read"
                return _Damage(f"{name}.npy {why}", sha256)
    if whole and _digest(arrays) != sha256:
        return _Damage("its arrays differ from their checksum", sha256)
    return Arrays(**arrays, class_names=class_names, sha256=sha256)


class _Unlike(ValueError):
    """A file that differs from its entry in meta.json."""


def _open_array(path: Path, entry: dict[str, Any]) -> NDArray[Any]:
    if path.stat().st_size != entry["bytes"]:
        raise _Unlike(f"has {path.stat().st_size:,} bytes, not {entry['bytes']:,}")
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    if [str(array.dtype), list(array.shape)] != [entry["dtype"], entry["shape"]]:
        raise _Unlike(f"holds {array.dtype} {array.shape}, not {entry['dtype']} {entry['shape']}")
    return array


def _write(folder: Path, decoded: Decoded) -> None:
    folder.mkdir()
    arrays = {name: np.ascontiguousarray(array) for name, array in decoded.arrays().items()}
    entries = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, array)
        sync(path)
        entries[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": path.stat().st_size}
    meta = {
        "sha256": _digest(arrays),
        "class_names": decoded.class_names,
        "arrays": entries,
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "torchvision")},
    }
    (folder / "meta.json").write_text(json.dumps({**meta, "checksum": _meta_checksum(meta)}, indent=2) + "\n")
    sync(folder / "meta.json")
    sync(folder)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk: after a power loss a file might be there, full of zeros."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some network file systems cannot have a folder synchronised, and need not
    finally:
        os.close(descriptor)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _meta_checksum(meta: Mapping[str, Any]) -> str:
    content = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _say_nothing(_: str) -> None:
    return None


def seal(path: Path, *, key: bytes) -> None:
    """Append a checksum to an .npy file, behind the array, where numpy does not look: both are renamed as one.

    key: what else the file stands for, so that it is not taken for another one whose name it gets.
    """
    checksum = _seal(np.memmap(path, dtype=np.uint8, mode="r"), key)
    with path.open("ab") as file:
        file.write(checksum)


def seal_is_broken(path: Path, *, key: bytes) -> bool:
    """Whether an .npy file is not as `seal` left it.  Raises OSError or ValueError where it cannot be read."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    return bool(content[-SEAL_BYTES:].tobytes() != _seal(content[:-SEAL_BYTES], key))


def _seal(content: NDArray[np.uint8], key: bytes) -> bytes:
    digest = hashlib.sha256(key)
    digest.update(content.data)
    return digest.digest()


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
