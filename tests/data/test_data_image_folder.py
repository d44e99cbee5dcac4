"""Image folders made with Pillow: decoding against torchvision, listing, fingerprint, and each way to get it wrong."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from bench.data import image_folder
from bench.data.datasets import Facts, describe, load
from bench.data.errors import DataError
from bench.data.image_folder import decode_image, list_images


def random_image(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8), mode=mode)


def make_class(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        random_image(10, 8, seed=100 * seed + i).save(folder / f"{i:03}.png")


@pytest.fixture
def split_root(tmp_path: Path) -> Path:
    """train/ and test/ of three classes."""
    for split, count in (("train", 6), ("test", 2)):
        for seed, name in enumerate(["owl", "wren", "emu"]):
            make_class(tmp_path / "birds" / split / name, count, seed=seed + len(split) * 10)
    return tmp_path / "birds"


@pytest.fixture
def flat_root(tmp_path: Path) -> Path:
    """One folder with 10, 20 and 30 images of three classes."""
    for seed, (name, count) in enumerate({"owl": 10, "wren": 20, "emu": 30}.items()):
        make_class(tmp_path / "flat" / name, count, seed=seed)
    return tmp_path / "flat"


def test_layout_with_train_and_test(split_root: Path, tmp_path: Path) -> None:
    facts = describe("image_folder", root=split_root, image_size=8)
    assert facts == Facts(18, 6, 3, 3, 8, 8, facts.fingerprint)
    arrays = load("image_folder", data_root=tmp_path, cache_root=tmp_path / "cache", root=split_root, image_size=8)
    assert arrays.class_names == ("emu", "owl", "wren")
    assert arrays.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert arrays.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = np.asarray(Image.open(split_root / "test" / "owl" / "001.png").crop((1, 0, 9, 8)))
    assert np.array_equal(arrays.test_images[3], expected.transpose(2, 0, 1))


def test_layout_with_a_drawn_split(flat_root: Path, tmp_path: Path) -> None:
    options = {"root": flat_root, "image_size": 4, "test_fraction": 0.2}
    facts = describe("image_folder", **options)
    assert (facts.num_train, facts.num_test) == (48, 12)
    arrays = load("image_folder", data_root=tmp_path, cache_root=tmp_path / "cache", **options)
    assert np.bincount(arrays.test_labels).tolist() == [6, 2, 4]
    assert np.bincount(arrays.train_labels).tolist() == [24, 8, 16]
    images = np.concatenate([arrays.train_images, arrays.test_images])
    assert len(np.unique(images.reshape(60, -1), axis=0)) == 60  # all random, so none is in both or lost


def test_a_folder_that_changed_since_the_plan_is_refused(split_root: Path, tmp_path: Path) -> None:
    """Its trials would stand under the identity of other images."""
    options = {"root": split_root, "image_size": 8}
    places = {"data_root": tmp_path, "cache_root": tmp_path / "cache"}
    planned = describe("image_folder", **options).fingerprint
    assert len(load("image_folder", **places, **options, fingerprint=planned).train_labels) == 18
    random_image(10, 8).save(split_root / "train" / "owl" / "late.png")
    with pytest.raises(DataError, match=r"birds: files were added, removed or changed"):
        load("image_folder", **places, **options, fingerprint=planned)


def test_the_drawn_split_depends_on_names_alone(flat_root: Path) -> None:
    moved = flat_root.parent / "elsewhere"
    for path in sorted(flat_root.rglob("*.png"), reverse=True):  # created in another order
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / path.relative_to(flat_root))
    assert list_images(flat_root, test_fraction=0.3) == list_images(moved, test_fraction=0.3)


def test_files_are_in_the_order_of_their_paths(flat_root: Path) -> None:
    listing = list_images(flat_root, test_fraction=0.5)
    for files in (listing.train, listing.test):
        assert [file.path for file in files] == sorted(file.path for file in files)


def test_fingerprint_is_that_of_the_files(split_root: Path) -> None:
    def fingerprint() -> str:
        return list_images(split_root).fingerprint

    original = fingerprint()
    (split_root / "train" / "owl" / ".DS_Store").write_bytes(b"hidden")
    (split_root / "train" / "owl" / "._000.png").write_bytes(b"hidden")
    (split_root / "train" / ".thumbnails").mkdir()
    (split_root / "README.txt").write_text("not an image")
    assert fingerprint() == original

    added = split_root / "train" / "owl" / "deep" / "er" / "new.JPG"
    added.parent.mkdir(parents=True)
    random_image(8, 8).save(added)
    with_more = fingerprint()
    assert with_more != original
    added.rename(added.with_name("renamed.JPG"))
    assert fingerprint() not in (original, with_more)
    shutil.rmtree(added.parent)
    assert fingerprint() == original
    random_image(11, 9).save(split_root / "train" / "owl" / "000.png")
    assert fingerprint() != original


def test_each_size_and_split_has_its_own_cache(flat_root: Path, tmp_path: Path) -> None:
    for image_size, test_fraction in ((4, 0.2), (4, 0.3), (6, 0.2)):
        options = {"root": flat_root, "image_size": image_size, "test_fraction": test_fraction}
        arrays = load("image_folder", data_root=tmp_path, cache_root=tmp_path / "cache", **options)
        assert arrays.train_images.shape == (60 - round(60 * test_fraction), 3, image_size, image_size)


@pytest.mark.parametrize("size", [(10, 8), (8, 10), (31, 17), (8, 8), (3, 5), (200, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_decodes_as_torchvision_does(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    image = random_image(*size, mode=mode)
    image.save(tmp_path / "image.png")
    transform = v2.Compose([v2.Resize(8), v2.CenterCrop(8)])
    expected = np.asarray(transform(image.convert("RGB"))).transpose(2, 0, 1)
    assert np.array_equal(decode_image(tmp_path / "image.png", image_size=8), expected)


def test_a_camera_on_its_side_gives_an_upright_image(tmp_path: Path) -> None:
    upright = random_image(6, 6)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn a quarter clockwise to display"
    stored.save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "image.png", image_size=6), np.asarray(upright).transpose(2, 0, 1))


def test_several_processes_decode_what_one_does(split_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = list_images(split_root).train
    alone = image_folder.decode_images(split_root, files, image_size=8)
    monkeypatch.setattr(image_folder, "PARALLEL_BYTES", 0)
    assert np.array_equal(image_folder.decode_images(split_root, files, image_size=8), alone)
    path = split_root / files[7].path
    path.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        image_folder.decode_images(split_root, files, image_size=8)
    assert str(path) in str(caught.value)


DECODE = """
import sys
from pathlib import Path
from bench.data import image_folder
image_folder.PARALLEL_BYTES = 0
root = Path(sys.argv[1])
if __name__ == "__main__":
    files = image_folder.list_images(root).train
    for image in image_folder._decode_each(root, files, 8):
        print("decoding", flush=True)
        sys.stdin.read()
"""


def test_processes_that_decode_end_with_a_killed_one(split_root: Path, tmp_path: Path) -> None:
    """They would wait for ever, and hold the terminal's pipe open."""
    import psutil

    (tmp_path / "decode.py").write_text(DECODE)
    command = [sys.executable, tmp_path / "decode.py", split_root]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "decoding\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.terminate()
    try:
        process.communicate(timeout=20)
        _, left = psutil.wait_procs(family, timeout=20)
        assert left == []
    finally:
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def truncated_jpeg(path: Path) -> None:
    random_image(64, 64).save(path, format="jpeg")
    os.truncate(path, path.stat().st_size // 2)


def truncated_png(path: Path) -> None:
    random_image(64, 64).save(path, format="png")
    os.truncate(path, path.stat().st_size // 2)


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def text_file(path: Path) -> None:
    path.write_text("<html>404</html>")


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 4000, dtype=np.uint16)).save(path, format="png")


@pytest.mark.parametrize("make", [truncated_jpeg, truncated_png, empty_file, text_file, sixteen_bits])
def test_an_unreadable_image_is_named(split_root: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = split_root / "test" / "owl" / "broken.png"
    make(path)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        load("image_folder", data_root=tmp_path, cache_root=tmp_path / "cache", root=split_root, image_size=8)
    assert str(path) in str(caught.value)


def no_root(root: Path) -> Path:
    return root / "nowhere"


def no_train(root: Path) -> Path:
    (root / "train").rename(root / "training")
    return root / "train"


def no_test(root: Path) -> Path:
    shutil.rmtree(root / "test")
    return root / "test"


def class_not_in_test(root: Path) -> Path:
    shutil.rmtree(root / "test" / "wren")
    return root / "test" / "wren"


def class_in_test_only(root: Path) -> Path:
    shutil.rmtree(root / "train" / "wren")
    return root / "train" / "wren"


def empty_class(root: Path) -> Path:
    for path in (root / "train" / "owl").iterdir():
        path.rename(path.with_suffix(".txt"))
    return root / "train" / "owl"


def no_classes(root: Path) -> Path:
    for path in (root / "train").iterdir():
        shutil.rmtree(path)
    return root / "train"


def one_class(root: Path) -> Path:
    shutil.rmtree(root / "train" / "owl")
    shutil.rmtree(root / "train" / "emu")
    return root / "train"


def broken_link(root: Path) -> Path:
    path = root / "train" / "owl" / "link.png"
    path.symlink_to(root / "gone.png")
    return path


GIVEN_SPLIT_MISTAKES = {
    no_root: "no such folder",
    no_train: "test_fraction",
    no_test: "no such folder",
    class_not_in_test: "needs test images",
    class_in_test_only: "needs training images",
    empty_class: r"no image in it.*\.png",
    no_classes: "one folder of images per class",
    one_class: "only wren/",
    broken_link: "No such file",
}


@pytest.mark.parametrize("mistake", GIVEN_SPLIT_MISTAKES)
def test_a_folder_that_will_not_do_is_named(split_root: Path, mistake: Callable[[Path], Path]) -> None:
    culprit = mistake(split_root)
    root = culprit if mistake is no_root else split_root
    with pytest.raises(DataError, match=GIVEN_SPLIT_MISTAKES[mistake]) as caught:
        describe("image_folder", root=root, image_size=8)
    assert str(caught.value).startswith(f"{culprit}:")


def test_a_class_of_one_image_cannot_be_split(flat_root: Path) -> None:
    make_class(flat_root / "kiwi", 1)
    with pytest.raises(DataError, match="single image") as caught:
        describe("image_folder", root=flat_root, image_size=8, test_fraction=0.2)
    assert str(caught.value).startswith(f"{flat_root / 'kiwi'}:")


def test_a_split_is_given_or_drawn_not_both(split_root: Path) -> None:
    with pytest.raises(DataError, match="leave test_fraction out"):
        describe("image_folder", root=split_root, image_size=8, test_fraction=0.2)


@pytest.mark.parametrize("test_fraction", [0, 1, -0.1, 1.5])
def test_a_test_fraction_lies_between_0_and_1(flat_root: Path, test_fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        describe("image_folder", root=flat_root, image_size=8, test_fraction=test_fraction)


def test_what_an_image_folder_needs(split_root: Path) -> None:
    with pytest.raises(DataError, match="needs image_size"):
        describe("image_folder", root=split_root)
    with pytest.raises(DataError, match="needs root"):
        describe("image_folder", image_size=8)
    with pytest.raises(DataError, match="image_size of 0"):
        describe("image_folder", root=split_root, image_size=0)


def test_home_is_found(split_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(split_root.parent))
    assert describe("image_folder", root=Path("~/birds"), image_size=8).num_train == 18
