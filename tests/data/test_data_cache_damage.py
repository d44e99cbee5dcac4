"""What an Inspection of the cache finds: bits that turned over in files that keep their size and header."""

import errno
import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_cache import build_slowly, content, decoded, must_not_build

from bench.data.cache import SEAL_BYTES, Arrays, Decoded, Inspection, open_or_build
from bench.data.corrupted import build_corrupted, open_corrupted
from bench.data.posterior import open_posterior


def flip(path: Path, *, at: int = -40) -> None:
    """Turn one bit over, by default near the end: in the array, or in the checksum behind it."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


def opened(folder: Path, build: Callable[[], Decoded] = decoded) -> tuple[Arrays, list[str]]:
    """The cached data set after an inspection, and what was said."""
    said: list[str] = []
    return open_or_build(folder, build, inspection=Inspection(said.append)), said


ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_bit_that_turned_over_is_found_and_mended(tmp_path: Path, name: str) -> None:
    before = open_or_build(tmp_path / "set", decoded).sha256
    flip(tmp_path / "set" / f"{name}.npy", at=-20)
    assert content(open_or_build(tmp_path / "set", must_not_build)) != content(decoded()), "sizes alone do not tell"
    mended, said = opened(tmp_path / "set")
    assert content(mended) == content(decoded())
    assert mended.sha256 == before
    assert said == [
        f"the cache {tmp_path / 'set'} is damaged (its arrays differ from their checksum): it is built anew"
    ]
    assert opened(tmp_path / "set", must_not_build)[1] == []


def test_every_bit_of_the_small_files_is_watched(tmp_path: Path) -> None:
    """Of meta.json and of a header: either what comes back is as it was, or it is built anew; and nothing is raised."""
    folder = tmp_path / "set"
    open_or_build(folder, decoded)
    noticed = 0
    for path, end in ((folder / "meta.json", (folder / "meta.json").stat().st_size), (folder / "test_labels.npy", 128)):
        whole = path.read_bytes()
        for place in range(0, end, 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
            arrays, said = opened(folder)
            assert content(arrays) == content(decoded())
            noticed += len(said)
            assert len(said) <= 1
        path.write_bytes(whole)
    assert noticed > 300


def test_each_path_is_read_once(tmp_path: Path) -> None:
    inspection = Inspection(print)
    open_or_build(tmp_path / "set", decoded, inspection=inspection)
    flip(tmp_path / "set" / "train_images.npy", at=-20)
    open_or_build(tmp_path / "set", must_not_build, inspection=inspection)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '"x"', "null", '{"arrays": 3, "sha256": "", "class_names": []}', "[" * 9999]
)
def test_a_meta_that_is_something_else_is_damage(tmp_path: Path, text: str) -> None:
    open_or_build(tmp_path / "set", decoded)
    (tmp_path / "set" / "meta.json").write_text(text)
    arrays, said = opened(tmp_path / "set")
    assert content(arrays) == content(decoded())
    assert "is damaged" in said[0]


def test_a_cache_from_before_there_were_checksums_still_opens(tmp_path: Path) -> None:
    """Its arrays have had a digest all along."""
    folder = tmp_path / "set"
    open_or_build(folder, decoded)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["checksum"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert opened(folder, must_not_build)[1] == []
    flip(folder / "train_labels.npy", at=-20)
    assert content(opened(folder)[0]) == content(decoded())


def test_who_has_the_damaged_files_mapped_keeps_them(tmp_path: Path) -> None:
    """They are replaced, never written to: a run that is under way does not see its images change, or vanish."""
    old = open_or_build(tmp_path / "set", decoded)
    os.truncate(tmp_path / "set" / "test_images.npy", 200)
    before = old.train_images.tobytes()
    mended, said = opened(tmp_path / "set", lambda: decoded(seed=1))
    assert old.train_images.tobytes() == before
    assert mended.train_images.tobytes() == decoded(seed=1).train_images.tobytes() != before
    assert "test_images.npy has 200 bytes" in said[0]
    assert said[1:] == [
        f"{tmp_path / 'set'} has another content than before: its source, or what decodes it, has changed since"
    ]


def inspect_at_the_barrier(folder: Path, log: Path, barrier: Any, answers: Any) -> None:
    said: list[str] = []
    barrier.wait()
    arrays = open_or_build(folder, lambda: build_slowly(log), inspection=Inspection(said.append))
    answers.put((arrays.sha256, len(said)))


def test_of_two_runs_that_find_the_damage_one_mends_it(tmp_path: Path) -> None:
    before = open_or_build(tmp_path / "set", decoded).sha256
    flip(tmp_path / "set" / "train_images.npy", at=-20)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "set", tmp_path / "log", barrier, answers)
    processes = [context.Process(target=inspect_at_the_barrier, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert found == [(before, 0), (before, 1)]
    assert (tmp_path / "log").read_text() == "built\n"


def made_up() -> Arrays:
    rng = np.random.default_rng(3)
    images = rng.integers(256, size=(300, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(300) % 3
    return Arrays(images, labels, images, labels, ("a", "b", "c"), "0123456789abcdef" * 4)


def corrupted(root: Path, inspection: Inspection | None) -> bytes:
    paths: dict[str, Any] = {"data_root": root, "cache_root": root / "cache", "dataset": "svhn", "split": "test"}
    build_corrupted(made_up(), wanted=[("fog", 5)], processes=1, say=lambda _: None, inspection=inspection, **paths)
    return open_corrupted(made_up(), kind="fog", severity=5, **paths).images.tobytes()


def posterior(root: Path, inspection: Inspection | None) -> bytes:
    return open_posterior(made_up(), dataset="svhn", cache_root=root, inspection=inspection).tobytes()


@pytest.mark.parametrize("make", [corrupted, posterior])
@pytest.mark.parametrize("at", [200, -40, -1])
def test_derived_files_are_watched_to_the_last_bit(tmp_path: Path, make: Callable[..., bytes], at: int) -> None:
    before = make(tmp_path, None)
    (path,) = tmp_path.rglob("*.npy")
    kept = path.read_bytes()
    flip(path, at=at)
    said: list[str] = []
    assert make(tmp_path, Inspection(said.append)) == before
    assert said == [f"the cached {path} is damaged: it is made anew"]
    assert path.read_bytes() == kept


@pytest.mark.parametrize("make", [corrupted, posterior])
def test_derived_files_without_a_checksum_still_open(tmp_path: Path, make: Callable[..., bytes]) -> None:
    before = make(tmp_path, None)
    (path,) = tmp_path.rglob("*.npy")
    os.truncate(path, path.stat().st_size - SEAL_BYTES)
    kept = path.stat().st_ino
    said: list[str] = []
    assert make(tmp_path, Inspection(said.append)) == before
    assert (said, path.stat().st_ino) == ([], kept)


def test_a_corrupted_version_under_anothers_name_is_found(tmp_path: Path) -> None:
    before = corrupted(tmp_path, None)
    (path,) = tmp_path.rglob("*.npy")
    paths: dict[str, Any] = {"data_root": tmp_path, "cache_root": tmp_path / "cache", "dataset": "svhn"}
    open_corrupted(made_up(), split="test", kind="fog", severity=4, **paths)
    path.with_name("fog-4.npy").replace(path)
    said: list[str] = []
    assert corrupted(tmp_path, Inspection(said.append)) == before
    assert len(said) == 1


def test_a_file_system_that_cannot_synchronise_a_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some that are mounted over a network refuse it; of a file nobody may refuse it."""
    real = os.fsync

    def refusing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    assert content(open_or_build(tmp_path / "set", decoded)) == content(decoded())
