"""Corrupted versions on disk: built once, by many or by one, whole or not at all; the published ones where they are."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.data import corrupted
from bench.data.cache import Arrays
from bench.data.corrupted import CorruptedSet, build_corrupted, cache_bytes, generation_seconds, open_corrupted
from bench.data.corruptions import CORRUPTIONS_VERSION, EXTRA, STANDARD, corrupt
from bench.data.errors import DataError

WANTED = [("gaussian_noise", 2), ("fog", 5)]


def make_arrays(num: int = 1100, *, side: int = 8, class_names: tuple[str, ...] = ("a", "b", "c")) -> Arrays:
    rng = np.random.default_rng(3)
    images = rng.integers(256, size=(num, 3, side, side), dtype=np.uint8)
    labels = rng.integers(len(class_names), size=num)
    return Arrays(images[:40], labels[:40], images, labels, class_names, "0123456789abcdef" * 4)


def open_(root: Path, arrays: Arrays | None = None, **options: Any) -> CorruptedSet:
    usual: dict[str, Any] = {"dataset": "svhn", "split": "test", "kind": "fog", "severity": 5}
    paths = {"data_root": root / "data", "cache_root": root / "cache"}
    return open_corrupted(arrays or make_arrays(), **(usual | paths | options))


def build(root: Path, arrays: Arrays | None = None, **options: Any) -> None:
    usual: dict[str, Any] = {"dataset": "svhn", "split": "test", "wanted": WANTED, "processes": 1, "say": print}
    paths = {"data_root": root / "data", "cache_root": root / "cache"}
    build_corrupted(arrays or make_arrays(), **(usual | paths | options))


def files(root: Path) -> dict[str, bytes]:
    paths = [path for path in (root / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def never_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to do, other processes do it."""
    monkeypatch.setattr(corrupted, "_PARALLEL_SECONDS", 0)


def must_not_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrupted, "corrupt", lambda *_, **__: pytest.fail("made although it is there"))


def test_open_makes_a_version_and_finds_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_arrays()
    made = open_(tmp_path, arrays)
    assert made.source == "generated"
    assert made.images.shape == arrays.test_images.shape
    assert np.array_equal(made.labels, arrays.test_labels)
    assert isinstance(made.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0
    assert [*files(tmp_path)] == ["fog-5.npy"]
    assert (tmp_path / "cache" / f"corrupted-v{CORRUPTIONS_VERSION}" / "svhn-0123456789abcdef-test").is_dir()
    must_not_corrupt(monkeypatch)
    assert np.array_equal(open_(tmp_path, arrays).images, made.images)
    build(tmp_path, arrays, wanted=[("fog", 5)])


def test_a_chunk_depends_on_kind_severity_split_and_place_alone(tmp_path: Path) -> None:
    arrays = make_arrays()
    longer = open_(tmp_path / "long", arrays).images
    shorter = Arrays(
        *(array[:600] for array in (arrays.train_images, arrays.train_labels)),
        arrays.test_images[:600],
        arrays.test_labels[:600],
        arrays.class_names,
        arrays.sha256,
    )
    assert np.array_equal(open_(tmp_path / "short", shorter).images[:500], longer[:500])
    same = make_arrays(80)
    twin = Arrays(same.test_images, same.test_labels, same.test_images, same.test_labels, same.class_names, same.sha256)
    kinds = [
        open_(tmp_path, twin, split=split, severity=severity).images.tobytes()
        for split in ("train", "test")
        for severity in (4, 5)
    ]
    assert len(set(kinds)) == 4
    flat = make_arrays(1100)
    flat.test_images[:] = 99
    noise = open_(tmp_path / "flat", flat, kind="gaussian_noise").images
    assert not np.array_equal(noise[:500], noise[500:1000])


def test_the_pixels_do_not_depend_on_the_number_of_processes(tmp_path: Path, never_alone: None) -> None:
    for processes in (1, 2, 3):
        build(tmp_path / str(processes), processes=processes)
    one, two, three = (files(tmp_path / str(processes)) for processes in (1, 2, 3))
    assert set(one) == {"gaussian_noise-2.npy", "fog-5.npy"}
    assert one == two == three


def test_progress_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    build(tmp_path, say=said.append)
    assert said == [
        "corrupted test images of svhn: gaussian_noise, severity 2 (1 of 2)",
        "corrupted test images of svhn: fog, severity 5 (2 of 2)",
    ]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"garbage" + path.read_bytes()[7:])


def another_shape(path: Path) -> None:
    np.save(path, np.load(path).reshape(550, 6, 8, 8))


def another_type(path: Path) -> None:
    np.save(path, np.load(path).view(np.int8))


@pytest.mark.parametrize("damage", [truncate, lengthen, empty, garble, another_shape, another_type, Path.unlink])
def test_damage_is_repaired(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    build(tmp_path)
    before = files(tmp_path)
    damage(next((tmp_path / "cache").rglob("fog-5.npy")))
    assert files(tmp_path) != before
    build(tmp_path)
    assert files(tmp_path) == before


def test_an_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*arguments: Any, **options: Any) -> NDArray[np.uint8]:
        calls.append(options)
        if len(calls) == 2:
            raise OSError("no space left on device")
        return corrupt(*arguments, **options)

    monkeypatch.setattr(corrupted, "corrupt", fail)
    with pytest.raises(OSError, match="no space"):
        build(tmp_path)
    assert files(tmp_path) == {}


def test_an_error_in_another_process_comes_back_and_ends_the_others(tmp_path: Path, never_alone: None) -> None:
    arrays = make_arrays()
    wrong = Arrays(
        arrays.train_images,
        arrays.train_labels,
        arrays.test_images.astype(np.int16),  # type: ignore[arg-type]
        arrays.test_labels,
        arrays.class_names,
        arrays.sha256,
    )
    with pytest.raises(ValueError, match="int16"):
        build(tmp_path, wrong, processes=2)
    assert files(tmp_path) == {}
    assert multiprocessing.active_children() == []


BUILD = """
import sys, time
from pathlib import Path
import numpy as np
from bench.data import corrupted
from bench.data.cache import Arrays
if __name__ == "__main__":
    root, processes, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    corrupted._PARALLEL_SECONDS = 0
    corrupted._CHUNK_IMAGES = 50 if pause else 500
    rng = np.random.default_rng(3)
    images = rng.integers(256, size=(1100, 3, 8, 8), dtype=np.uint8)
    labels = rng.integers(3, size=1100)
    arrays = Arrays(images[:40], labels[:40], images, labels, ("a", "b", "c"), "0123456789abcdef" * 4)
    share_out = corrupted._share_out
    def slowly(jobs, helpers):
        def paused():
            for job in jobs:
                time.sleep(pause)
                yield job
        share_out(paused(), helpers)
    corrupted._share_out = slowly
    wanted = [("gaussian_noise", 2), ("fog", 5)]
    say = lambda text: print(text, flush=True)
    corrupted.build_corrupted(arrays, dataset="svhn", split="test", wanted=wanted, data_root=root / "data",
                              cache_root=root / "cache", processes=processes, say=say)
"""


def start(tmp_path: Path, root: Path, *, processes: int, pause: float) -> "subprocess.Popen[str]":
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    return subprocess.Popen(
        [sys.executable, script, root, str(processes), str(pause)], stdout=subprocess.PIPE, text=True
    )


def eventually(condition: Callable[[], bool], *, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_leaves_no_process_and_no_hindrance(tmp_path: Path, end: signal.Signals) -> None:
    import psutil

    root = tmp_path / "root"
    process = start(tmp_path, root, processes=2, pause=0.3)
    assert eventually(lambda: any((root / "cache").rglob("*.partial")))
    time.sleep(0.5)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # a resource tracker, a forkserver, two helpers
    process.send_signal(end)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert eventually(lambda: not any(child.is_running() for child in family)), family
    assert not any(name.endswith(".npy") for name in files(root))
    build(root)
    build(tmp_path / "undisturbed")
    assert files(root) == files(tmp_path / "undisturbed")


def test_two_processes_at_once_make_each_version_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = start(tmp_path, root, processes=1, pause=0.4)
    assert eventually(lambda: any((root / "cache").rglob("*.partial")))
    second = start(tmp_path, root, processes=1, pause=0.4)
    partials: set[str] = set()

    def both_ended() -> bool:
        partials.update(path.name for path in (root / "cache").rglob("*.partial"))
        return first.poll() is not None and second.poll() is not None

    assert eventually(both_ended)
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert sorted(name.split(".")[0] for name in partials) == ["fog-5", "gaussian_noise-2"]
    assert len({name.split(".")[2] for name in partials}) == 2, "the second waited instead of making the other version"


def write_official(
    root: Path, arrays: Arrays, *, name: str = "CIFAR-10-C", kind: str = "fog", labels: NDArray[Any] | None = None
) -> NDArray[np.uint8]:
    folder = root / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    num, channels, height, width = arrays.test_images.shape
    images = np.random.default_rng(8).integers(256, size=(5 * num, height, width, channels), dtype=np.uint8)
    np.save(folder / f"{kind}.npy", images)
    if labels is None:
        labels = np.tile(arrays.test_labels, 5).astype(np.uint8)
    np.save(folder / "labels.npy", labels)
    return images


@pytest.mark.parametrize(("dataset", "name"), [("cifar10", "CIFAR-10-C"), ("cifar100", "CIFAR-100-C")])
@pytest.mark.parametrize("source", ["auto", "official"])
def test_published_images_are_used_in_place(tmp_path: Path, dataset: str, name: str, source: str) -> None:
    arrays = make_arrays(20)
    images = write_official(tmp_path, arrays, name=name)
    for severity in (1, 4, 5):
        found = open_(tmp_path, arrays, dataset=dataset, severity=severity, source=source)
        assert found.source == "official"
        expected = images[(severity - 1) * 20 : severity * 20].transpose(0, 3, 1, 2)
        assert np.array_equal(found.images, expected)
        assert found.labels.dtype == np.int64
        assert np.array_equal(found.labels, arrays.test_labels)
        assert isinstance(found.images, np.memmap)
        assert not found.images.flags.writeable
    build(tmp_path, arrays, dataset=dataset, wanted=[("fog", 3)], source=source)
    assert not (tmp_path / "cache").exists()


def test_what_is_not_published_is_made_unless_one_insists(tmp_path: Path) -> None:
    arrays = make_arrays(20)
    write_official(tmp_path, arrays)
    assert open_(tmp_path, arrays, dataset="cifar10", kind="snow").source == "generated"
    assert open_(tmp_path, arrays, dataset="cifar10", source="generated").source == "generated"
    assert open_(tmp_path, arrays, dataset="cifar10", split="train").source == "generated"
    assert open_(tmp_path, arrays, dataset="svhn").source == "generated"
    with pytest.raises(DataError, match=r"CIFAR-10-C/snow\.npy: no such file"):
        open_(tmp_path, arrays, dataset="cifar10", kind="snow", source="official")
    with pytest.raises(DataError, match="no corrupted train images of cifar10"):
        build(tmp_path, arrays, dataset="cifar10", split="train", source="official")
    with pytest.raises(DataError, match="svhn"):
        open_(tmp_path, arrays, dataset="svhn", source="official")


def no_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def other_labels(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    labels[57] = (labels[57] + 1) % 3
    np.save(folder / "labels.npy", labels)


def fewer_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:20])


def four_severities(folder: Path) -> None:
    np.save(folder / "fog.npy", np.load(folder / "fog.npy")[:80])


def channels_first(folder: Path) -> None:
    np.save(folder / "fog.npy", np.load(folder / "fog.npy").transpose(0, 3, 1, 2))


def floats(folder: Path) -> None:
    np.save(folder / "fog.npy", np.load(folder / "fog.npy").astype(np.float32))


def cut(folder: Path) -> None:
    truncate(folder / "fog.npy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_labels, r"labels\.npy: no such file"),
        (other_labels, r"labels\.npy: not the labels of cifar10's test images"),
        (fewer_labels, r"labels\.npy: .*\(20,\)"),
        (four_severities, r"fog\.npy: uint8 \(80, 8, 8, 3\); not uint8 \(100, 8, 8, 3\)"),
        (channels_first, r"fog\.npy: uint8 \(100, 3, 8, 8\)"),
        (floats, r"fog\.npy: float32"),
        (cut, r"fog\.npy: cannot be read"),
    ],
)
def test_published_files_that_do_not_fit_are_said(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    arrays = make_arrays(20)
    write_official(tmp_path, arrays)
    damage(tmp_path / "data" / "CIFAR-10-C")
    with pytest.raises(DataError, match=message):
        open_(tmp_path, arrays, dataset="cifar10")
    with pytest.raises(DataError, match=message):
        build(tmp_path, arrays, dataset="cifar10", wanted=[("fog", 1)])


WORDNET_IDS = tuple(f"n{i:08d}" for i in range(200))


def test_tiny_imagenet_c_as_arrays(tmp_path: Path) -> None:
    arrays = make_arrays(20, class_names=WORDNET_IDS)
    labels = np.random.default_rng(1).integers(200, size=150)
    images = np.random.default_rng(2).integers(256, size=(150, 8, 8, 3), dtype=np.uint8)
    write_official(tmp_path, arrays, name="Tiny-ImageNet-C", labels=labels)
    np.save(tmp_path / "data" / "Tiny-ImageNet-C" / "fog.npy", images)
    found = open_(tmp_path, arrays, dataset="image_folder", severity=2)
    assert found.source == "official"
    assert np.array_equal(found.images, images[30:60].transpose(0, 3, 1, 2))
    assert np.array_equal(found.labels, labels[30:60])
    other_classes = make_arrays(20)
    assert open_(tmp_path, other_classes, dataset="image_folder").source == "generated"


def test_tiny_imagenet_c_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_arrays(20, class_names=WORDNET_IDS)
    folder = tmp_path / "data" / "Tiny-ImageNet-C" / "fog" / "3"
    for i, name in enumerate(WORDNET_IDS):
        (folder / name).mkdir(parents=True)
        for j in range(1 + i % 2):
            Image.new("RGB", (16, 16), (i, 0, 100 * j)).save(folder / name / f"val_{j}.JPEG", quality=95)
    build(tmp_path, arrays, dataset="image_folder", wanted=[("fog", 3)], source="official")
    monkeypatch.setattr(corrupted, "decode_images", lambda *_, **__: pytest.fail("decoded again"))
    found = open_(tmp_path, arrays, dataset="image_folder", severity=3)
    assert found.source == "official"
    assert found.images.shape == (300, 3, 8, 8)
    assert np.array_equal(found.labels, np.repeat(np.arange(200), 1 + np.arange(200) % 2))
    assert np.abs(found.images[:, 0].mean(axis=(1, 2)) - found.labels).max() < 3
    assert open_(tmp_path, arrays, dataset="image_folder", severity=3, source="generated").images.shape[0] == 20
    (folder / WORDNET_IDS[7] / "val_0.JPEG").unlink()
    (folder / WORDNET_IDS[7] / "val_1.JPEG").unlink()
    (folder / WORDNET_IDS[7]).rmdir()
    with pytest.raises(DataError, match="199 class folders"):
        open_(tmp_path, arrays, dataset="image_folder", severity=3)


def test_an_unknown_kind_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'frost'"):
        build(tmp_path, wanted=[("fog", 5), ("frosst", 1)])
    assert not (tmp_path / "cache").exists()


def test_the_size_on_disk_is_the_size_foretold(tmp_path: Path) -> None:
    build(tmp_path)
    assert sum(map(len, files(tmp_path).values())) == cache_bytes(1100, (3, 8, 8), len(WANTED))


def test_the_time_foretold_is_in_proportion() -> None:
    both = [(kind, severity) for kind in STANDARD + EXTRA for severity in (1, 5)]
    assert generation_seconds(1000, (3, 32, 32), both) == pytest.approx(
        sum(generation_seconds(500, (3, 32, 32), [each]) for each in both) * 2
    )
    # Large images have the larger blurs.
    assert generation_seconds(1, (3, 224, 224), both) > generation_seconds(49, (3, 32, 32), both)


def test_foretelling_and_naming_load_nothing_heavy() -> None:
    code = "import sys, bench.data.corrupted as c; c.cache_bytes(5, (1, 8, 8), 1); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "scipy", "PIL", "cv2", "sklearn"} & set(loaded)
