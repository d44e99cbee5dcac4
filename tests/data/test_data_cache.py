"""The cache: what goes in comes out, read-only, built once, rebuilt when damaged, and never seen half-written."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data.cache import Arrays, Decoded, open_or_build


def decoded(seed: int = 0) -> Decoded:
    rng = np.random.default_rng(seed)
    return Decoded(
        rng.integers(256, size=(9, 3, 4, 4), dtype=np.uint8),
        np.arange(9) % 2,
        rng.integers(256, size=(4, 3, 4, 4), dtype=np.uint8),
        np.arange(4) % 2,
        ("cat", "döner"),
    )


def must_not_build() -> Decoded:
    pytest.fail("built although it is in the cache")


def content(arrays: Arrays | Decoded) -> list[object]:
    images = [arrays.train_images.tolist(), arrays.test_images.tolist()]
    return [*images, arrays.train_labels.tolist(), arrays.test_labels.tolist(), arrays.class_names]


def test_comes_back_as_it_went_in(tmp_path: Path) -> None:
    built = open_or_build(tmp_path / "cache" / "set", decoded)
    cached = open_or_build(tmp_path / "cache" / "set", must_not_build)
    assert content(built) == content(cached) == content(decoded())
    assert built.sha256 == cached.sha256


def test_is_memory_mapped_and_read_only(tmp_path: Path) -> None:
    arrays = open_or_build(tmp_path / "set", decoded)
    for array in (arrays.train_images, arrays.train_labels, arrays.test_images, arrays.test_labels):
        assert isinstance(array, np.memmap)
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_array_in_another_memory_order_is_stored_in_the_usual_one(tmp_path: Path) -> None:
    fortran = decoded()._replace(train_images=np.asfortranarray(decoded().train_images))
    arrays = open_or_build(tmp_path / "set", lambda: fortran)
    assert arrays.train_images.flags.c_contiguous
    assert arrays.sha256 == open_or_build(tmp_path / "other", decoded).sha256


def test_digest_follows_the_content(tmp_path: Path) -> None:
    base = decoded()
    images = base.train_images.copy()
    images[3, 1, 2, 0] ^= 1
    variants = [
        base,
        base._replace(train_images=images),
        base._replace(test_labels=base.test_labels[::-1]),
        base._replace(train_images=base.train_images.reshape(9, 3, 2, 8)),
    ]
    digests = {open_or_build(tmp_path / str(i), lambda v=v: v).sha256 for i, v in enumerate(variants)}
    assert len(digests) == len(variants)
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests)


def test_meta_says_what_made_it(tmp_path: Path) -> None:
    arrays = open_or_build(tmp_path / "set", decoded)
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["versions"]["numpy"] == np.__version__
    assert meta["sha256"] == arrays.sha256


def truncate(folder: Path) -> None:
    path = folder / "train_images.npy"
    os.truncate(path, path.stat().st_size - 10)


def remove(folder: Path) -> None:
    (folder / "test_labels.npy").unlink()


def empty(folder: Path) -> None:
    (folder / "test_images.npy").write_bytes(b"")


def another_header(folder: Path) -> None:
    """The same number of bytes, but int32 pairs where there were int64 labels."""
    size = (folder / "train_labels.npy").stat().st_size
    np.save(folder / "train_labels.npy", np.zeros((9, 2), dtype=np.int32))
    assert (folder / "train_labels.npy").stat().st_size == size


def garble_header(folder: Path) -> None:
    with (folder / "train_images.npy").open("r+b") as file:
        file.write(b"garbage")


def cut_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"sha256": "')


@pytest.mark.parametrize("damage", [truncate, remove, empty, another_header, garble_header, cut_meta])
def test_damage_is_repaired(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    before = open_or_build(tmp_path / "set", decoded)
    damage(tmp_path / "set")
    after = open_or_build(tmp_path / "set", decoded)
    assert content(after) == content(decoded())
    assert after.sha256 == before.sha256
    open_or_build(tmp_path / "set", must_not_build)


def test_a_failed_build_leaves_nothing_to_find(tmp_path: Path) -> None:
    def fail() -> Decoded:
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        open_or_build(tmp_path / "set", fail)
    assert not (tmp_path / "set").exists()
    assert content(open_or_build(tmp_path / "set", decoded)) == content(decoded())


def test_what_a_killed_build_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "train_images.npy").write_bytes(b"half")
    assert content(open_or_build(tmp_path / "set", decoded)) == content(decoded())
    assert not (tmp_path / "set.partial").exists()


def build_slowly(log: Path) -> Decoded:
    with log.open("a") as file:
        file.write("built\n")
    time.sleep(0.5)
    return decoded()


def load_at_the_barrier(folder: Path, log: Path, barrier: Any, digests: Any) -> None:
    barrier.wait()
    digests.put(open_or_build(folder, lambda: build_slowly(log)).sha256)


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, digests = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "set", tmp_path / "log", barrier, digests)
    processes = [context.Process(target=load_at_the_barrier, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert digests.get(timeout=60) == digests.get(timeout=60)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"
