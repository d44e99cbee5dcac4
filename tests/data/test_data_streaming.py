"""Streamed images: decoding against Pillow, random crops against torchvision, and processes that keep order and die."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import v2

from bench.data import datasets
from bench.data.augment import channel_statistics, histogram_statistics
from bench.data.datasets import DataError, load, load_streamed
from bench.data.image_folder import decode_image, list_images
from bench.data.streaming import Decoders, RandomCrop, Streamed, decode, decode_crop, decode_square

IMAGENET = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3))
CPU = torch.device("cpu")


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth, as photographs are, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse) + rng.normal(0, 6, size=(height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of JPEGs of many sizes: 2 x 12 to train and 2 x 4 to test on."""
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(["emu", "owl"]):
            folder = tmp_path / "birds" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(20 + 3 * i, 50 - 2 * i, seed=100 * label + i).save(folder / f"{i:03}.jpg", quality=90)
    return tmp_path / "birds"


@pytest.fixture
def make_streamed(root: Path, tmp_path: Path) -> Callable[..., tuple[Streamed, Streamed]]:
    def make(processes: int = 1, size: int = 16) -> tuple[Streamed, Streamed]:
        files = load_streamed("image_folder", cache_root=tmp_path / "cache", root=root, image_size=size)
        decoders = Decoders((files.train_images, files.test_images), processes=processes, device=CPU, crop=IMAGENET)
        return Streamed(decoders, 0), Streamed(decoders, 1)

    return make


@pytest.mark.parametrize("name", ["jpg", "png", "webp", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decodes_what_pillow_reads(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / f"image.{name}"
    picture(41, 30, mode=mode).save(path)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int).transpose(2, 0, 1)
    assert np.abs(decode(path).numpy().astype(int) - expected).max() <= 1  # decoders may differ by a level


def test_an_alpha_channel_is_dropped_and_cmyk_read(tmp_path: Path) -> None:
    clear = np.dstack([np.asarray(picture(9, 7)), np.zeros((7, 9), np.uint8)])
    Image.fromarray(clear, mode="RGBA").save(tmp_path / "clear.png")
    assert np.array_equal(decode(tmp_path / "clear.png"), clear[:, :, :3].transpose(2, 0, 1))
    picture(30, 20, mode="CMYK").save(tmp_path / "print.jpg")
    with Image.open(tmp_path / "print.jpg") as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int).transpose(2, 0, 1)
    assert np.abs(decode(tmp_path / "print.jpg").numpy().astype(int) - expected).max() <= 1


def test_a_camera_on_its_side_gives_an_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn a quarter clockwise to display"
    picture(20, 30).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "image.jpg", exif=exif, quality=90)
    with Image.open(tmp_path / "image.jpg") as opened:
        upright = np.asarray(opened.convert("RGB").transpose(Image.Transpose.ROTATE_270)).astype(int)
    found = decode(tmp_path / "image.jpg").numpy().astype(int)
    assert found.shape == (3, 30, 20)
    assert np.abs(found - upright.transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (31, 17), (16, 16), (9, 13)])
@pytest.mark.parametrize("resize", [16, 19])
def test_the_square_is_that_of_images_in_memory(tmp_path: Path, size: tuple[int, int], resize: int) -> None:
    picture(*size).save(tmp_path / "image.png")
    ours = decode_square(tmp_path / "image.png", image_size=16, resize=resize).numpy().astype(int)
    pillow = v2.Compose([v2.Resize(resize), v2.CenterCrop(16)])(picture(*size))
    in_memory = decode_image(tmp_path / "image.png", image_size=16, resize=resize)
    assert np.array_equal(in_memory, np.asarray(pillow).transpose(2, 0, 1))
    assert np.abs(ours - in_memory.astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (64, 64), (100, 260)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    """Kolmogorov-Smirnov on area, aspect and place of 3,000 draws each; our seeds are fixed, and so is the verdict."""
    n = 3000
    ours = np.array([IMAGENET.box(*size, np.random.default_rng(key)) for key in range(n)])
    blank = torch.empty(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_params = v2.RandomResizedCrop(16).make_params
        drawn = [get_params([blank]) for _ in range(n)]
    theirs = np.array([[each[key] for key in ("top", "left", "height", "width")] for each in drawn])
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()


@pytest.mark.parametrize("size", [(400, 4), (3, 500), (1, 9)])
def test_a_strip_is_cut_in_its_centre_as_torchvision_does(size: tuple[int, int]) -> None:
    crop = RandomCrop((0.9, 1.0), (3 / 4, 4 / 3))  # no such part lies within a strip
    expected = v2.RandomResizedCrop(16, scale=crop.scale, ratio=crop.ratio).make_params([torch.empty(3, *size)])
    assert crop.box(*size, np.random.default_rng(0)) == tuple(expected[k] for k in ("top", "left", "height", "width"))


def test_a_crop_is_the_part_that_its_key_draws(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    image = picture(80, 60)
    image.save(path)
    top, left, height, width = IMAGENET.box(60, 80, np.random.default_rng(5))
    part = image.resize((24, 24), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    cut = image.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BILINEAR)
    found = decode_crop(path, image_size=24, crop=IMAGENET, key=5).numpy().astype(int)
    assert np.abs(found - np.asarray(cut).transpose(2, 0, 1)).max() <= 1
    assert np.abs(found - np.asarray(part).transpose(2, 0, 1)).mean() < 4
    other = decode_crop(path, image_size=24, crop=IMAGENET, key=6).numpy().astype(int)
    assert np.abs(found - other).mean() > 4


def test_labels_and_images_are_those_of_the_folder_in_memory(root: Path, tmp_path: Path) -> None:
    places = {"root": root, "image_size": 16, "resize": 20}
    files = load_streamed("image_folder", cache_root=tmp_path / "cache", **places)
    arrays = load("image_folder", data_root=tmp_path, cache_root=tmp_path / "cache", **places)
    assert files.class_names == arrays.class_names
    assert np.array_equal(files.train_labels, arrays.train_labels)
    assert np.array_equal(files.test_labels, arrays.test_labels)
    decoders = Decoders((files.train_images, files.test_images), processes=1, device=CPU)
    for which, images in enumerate((arrays.train_images, arrays.test_images)):
        streamed = Streamed(decoders, which)
        assert streamed.shape == images.shape
        found = torch.cat(list(streamed.batches(size=5))).numpy()
        assert np.abs(found.astype(int) - images.astype(int)).max() <= 1
    # all 24 are in the sample here
    expected = channel_statistics(arrays.train_images)
    for ours, theirs in zip(histogram_statistics(files.histogram), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_sample_is_decoded_once_and_again_where_its_file_is_torn(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"cache_root": tmp_path / "cache", "root": root, "image_size": 16}
    first = load_streamed("image_folder", **places).histogram
    assert first.sum() == 3 * 24 * 16 * 16
    [path] = (tmp_path / "cache").glob("*.json")
    decoded = []
    real = datasets.sample_histogram
    monkeypatch.setattr(datasets, "sample_histogram", lambda *a, **k: decoded.append(1) or real(*a, **k))
    assert np.array_equal(load_streamed("image_folder", **places).histogram, first)
    assert not decoded
    for torn in (path.read_text()[:40], path.read_text().replace("[[", "[[1, ", 1), "[[1]]"):
        path.write_text(torn)
        assert np.array_equal(load_streamed("image_folder", **places).histogram, first)
    assert len(decoded) == 3


def test_a_folder_that_changed_since_the_plan_is_refused(root: Path, tmp_path: Path) -> None:
    places = {"cache_root": tmp_path / "cache", "root": root, "image_size": 16}
    planned = list_images(root).fingerprint
    assert load_streamed("image_folder", **places, fingerprint=planned).sha256 == planned
    picture(10, 10).save(root / "train" / "owl" / "late.jpg")
    with pytest.raises(DataError, match="files were added, removed or changed"):
        load_streamed("image_folder", **places, fingerprint=planned)


def test_one_process_or_two_give_the_same_batches_in_the_same_order(make_streamed) -> None:
    index = torch.from_numpy(np.random.default_rng(1).permutation(24))
    keys = np.arange(24) ** 3
    one, two = (list(make_streamed(p)[0].batches(index, size=5, keys=keys)) for p in (1, 2))
    assert [len(batch) for batch in one] == [5, 5, 5, 5, 4]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
    later = list(make_streamed(2)[0].batches(index[10:], size=5, keys=keys[10:]))  # as one that goes on in the middle
    assert torch.equal(torch.cat(later), torch.cat(one[2:]))


def test_passes_take_turns_with_one_set_of_processes(make_streamed) -> None:
    """Also one that is left in its middle, as a trial that is stopped does."""
    import psutil

    train, test = make_streamed(2)
    whole = torch.cat(list(train.batches(size=4)))
    before = {child.pid for child in psutil.Process().children()}
    for _ in range(3):
        half = train.batches(size=4)
        assert torch.equal(next(half), whole[:4])
        assert torch.equal(torch.cat(list(test.batches(size=3))), test[torch.arange(8)])
        assert torch.equal(train[torch.tensor([7, 1, 7])], whole[[7, 1, 7]])
    assert {child.pid for child in psutil.Process().children()} == before


def test_processes_end_with_what_uses_them_even_in_a_cycle(make_streamed) -> None:
    train, test = make_streamed(2)
    next(train.batches(size=4))
    train.itself = train
    began = time.monotonic()
    del train, test
    gc.collect()
    assert time.monotonic() - began < 3


def test_no_generator_of_torch_is_drawn_from(make_streamed) -> None:
    """Dropout draws from it, and a trial that goes on in the middle starts its processes at another moment."""
    state = torch.get_rng_state()
    train, test = make_streamed()
    for images in (train, test, train):
        list(images.batches())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_indexed_as_a_tensor_is(make_streamed) -> None:
    _, test = make_streamed()
    whole = test[torch.arange(8)]
    assert whole.shape == test.shape == (8, 3, 16, 16)
    part = test[:5]
    assert len(part) == part.shape[0] == 5
    assert torch.equal(torch.cat(list(part.batches(size=2))), whole[:5])
    assert test[torch.arange(0)].shape == (0, 3, 16, 16)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def text(path: Path) -> None:
    path.write_text("<html>404</html>")


def gone(path: Path) -> None:
    path.unlink()


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 4000, dtype=np.uint16)).save(path, format="png")


@pytest.mark.parametrize("spoil", [truncated, text, gone, sixteen_bits])
def test_an_unreadable_image_is_named(root: Path, make_streamed, spoil: Callable[[Path], None]) -> None:
    train, _ = make_streamed(2)
    path = root / "train" / "owl" / "007.jpg"
    spoil(path)
    with pytest.raises(DataError) as caught:
        list(train.batches(size=5))
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read as an image: ")
    assert "\n" not in message, "no traceback of another process"
    assert len(torch.cat(list(train.batches(torch.arange(12), size=5)))) == 12, "the processes still live"


STREAM = """
import sys
from pathlib import Path
import torch
from bench.data.datasets import load_streamed
from bench.data.streaming import Decoders, Streamed
from bench.results.store import exclusive

files = load_streamed("image_folder", cache_root=Path(sys.argv[2]), root=Path(sys.argv[1]), image_size=16)
with exclusive(Path(sys.argv[2]) / "claim"):
    decoders = Decoders((files.train_images,), processes=2, device=torch.device("cpu"))
    for batch in Streamed(decoders, 0).batches(size=2):
        print("decoded", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("signal", ["terminate", "kill"])
def test_processes_end_with_the_trials_at_once(root: Path, tmp_path: Path, signal: str) -> None:
    """And what it had claimed is free the moment it is gone: they do not hold its locks."""
    import psutil

    from bench.results.store import exclusive

    (tmp_path / "stream.py").write_text(STREAM)
    command = [sys.executable, str(tmp_path / "stream.py"), str(root), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoded\n"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
        for child in family:
            child.suspend()  # so that none of them is quick enough to let go of the lock by its end
        getattr(process, signal)()
        process.wait(20)
        with exclusive(tmp_path / "claim"):
            pass
        began = time.monotonic()
        for child in family:
            child.resume()
        _, left = psutil.wait_procs(family, timeout=20)
        assert left == []
        assert time.monotonic() - began < 3


def test_memory_stays_flat_over_passes(root: Path, tmp_path: Path) -> None:
    """Of the process and of those that decode, over 60 passes: less than 3 MB."""
    import psutil

    files = load_streamed("image_folder", cache_root=tmp_path / "cache", root=root, image_size=64)
    decoders = Decoders((files.train_images,), processes=2, device=CPU, crop=IMAGENET)
    streamed = Streamed(decoders, 0)

    def private() -> int:
        this = psutil.Process()
        return sum(each.memory_full_info().uss for each in [this, *this.children()])

    def passes(n: int) -> None:
        for number in range(n):
            for batch in streamed.batches(size=8, keys=np.arange(24) + number):
                assert batch.shape == (8, 3, 64, 64)

    passes(20)
    before = private()
    passes(60)
    assert private() - before < 3e6


@pytest.mark.gpu
def test_batches_arrive_whole_on_a_gpu(root: Path, tmp_path: Path) -> None:
    files = load_streamed("image_folder", cache_root=tmp_path / "cache", root=root, image_size=16)
    device = torch.device("cuda")
    on_gpu, on_cpu = (
        Streamed(Decoders((files.train_images,), processes=2, device=each, crop=IMAGENET), 0) for each in (device, CPU)
    )
    keys = np.arange(24)
    for ours, expected in zip(on_gpu.batches(size=4, keys=keys), on_cpu.batches(size=4, keys=keys), strict=True):
        torch.cuda._sleep(10_000_000)  # the step: what comes next is copied beside it
        assert torch.equal((ours.float() * 2).cpu(), expected.float() * 2)
