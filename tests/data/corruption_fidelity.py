"""How far our corruptions are from public implementations of the same paper, and how fast each is, as Markdown.

    pip install imagecorruptions-imaug corrupt-tta
    python tests/data/corruption_fidelity.py          the distances
    python tests/data/corruption_fidelity.py speed    the cost of an image, side by side

imagecorruptions-imaug stands for every kind but the elastic transform, which it defines in another way; there it is
corrupt-tta.  Both fix the parameters of ImageNet-C in their functions; here they get those of CIFAR-10-C for small
images, by replacing the list in their source.  Images: crops of scikit-learn's two photographs.
"""

import ast
import importlib.metadata
import importlib.resources
import importlib.util
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.corruptions import EXTRA, SEVERITIES, STANDARD, corrupt
from bench.data.corruptions.parameters import CIFAR, parameters

PACKAGES = {"imagecorruptions": "imagecorruptions-imaug", "corrupt_tta": "corrupt-tta"}

# Nothing is drawn; for the motion blur, an angle, which both are given.
DETERMINISTIC = (
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)

Images = NDArray[np.uint8]


class Distance(NamedTuple):
    """Between our images and theirs, in pixel levels."""

    largest: float
    mean: float


class Likeness(NamedTuple):
    """Of the distributions of the change, corrupted minus clean, ours against theirs.

    change: the ratio of the mean absolute changes.  ks: the Kolmogorov-Smirnov statistic of the change of a value.
    spectrum: ratios of the change's power in the lower, middle and upper third of the frequencies.
    """

    change: float
    ks: float
    spectrum: tuple[float, float, float]


def natural_images(count: int, side: int, *, seed: int = 0) -> Images:
    """(count, 3, side, side): random crops of two photographs, shrunk first where the crops are small."""
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    crops = []
    for _ in range(count):
        photograph = photographs[rng.integers(2)]
        shrink = rng.uniform(1, 4) if side <= 64 else 1
        small = photograph.resize((int(photograph.width / shrink), int(photograph.height / shrink)))
        left, top = rng.integers(small.width - side + 1), rng.integers(small.height - side + 1)
        crops.append(np.asarray(small.crop((left, top, left + side, top + side))).transpose(2, 0, 1))
    return np.stack(crops)


def reference(kind: str, severity: int, side: int) -> Callable[[Images], Images]:
    """What to hold a corruption of (n, 3, side, side) images against: the public one, with our parameters in it."""
    if kind == "frost" and side <= 64:
        return _photographed_frost(severity)
    return public(kind, severity, side)


def public(kind: str, severity: int, side: int) -> Callable[[Images], Images]:
    package = "corrupt_tta" if kind == "elastic_transform" else "imagecorruptions"
    function = getattr(_with_parameters(package, side), kind)

    def apply(images: Images) -> Images:
        out = []
        for image in images.transpose(0, 2, 3, 1):
            out.append(np.uint8(function(Image.fromarray(image), severity)))
        return np.stack(out).transpose(0, 3, 1, 2)

    return apply


def _photographed_frost(severity: int) -> Callable[[Images], Images]:
    """Frost on small images as make_cifar_c.py has it, a fifth the size, with the photographs that come with it."""
    import cv2

    folder = importlib.resources.files("imagecorruptions") / "frost"
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    photographs = [cv2.resize(cv2.imread(str(folder / name)), (0, 0), fx=0.2, fy=0.2) for name in names]
    kept, weight = CIFAR["frost"][severity - 1]

    def apply(images: Images) -> Images:
        out = []
        for image in images:
            photograph = photographs[np.random.randint(5)][..., ::-1].transpose(2, 0, 1)  # noqa: NPY002
            side = image.shape[-1]
            top, left = (np.random.randint(0, length - side) for length in photograph.shape[1:])  # noqa: NPY002
            crop = photograph[:, top : top + side, left : left + side]
            out.append(np.clip(kept * image.astype(np.float64) + weight * crop, 0, 255).astype(np.uint8))
        return np.stack(out)

    return apply


def distance(kind: str, severity: int, images: Images) -> Distance:
    theirs_of = reference(kind, severity, images.shape[-1])
    angles = np.random.default_rng(1).uniform(-45, 45, len(images))
    with mock.patch.object(np.random, "uniform", side_effect=angles.tolist()):
        theirs = theirs_of(images)
    ours = corrupt(images, kind=kind, severity=severity, rng=np.random.default_rng(1))
    difference = np.abs(ours.astype(int) - theirs)
    return Distance(float(difference.max()), float(difference.mean()))


def likeness(kind: str, severity: int, images: Images, *, seed: int = 0) -> tuple[Likeness, Likeness]:
    """Ours against theirs, and theirs against theirs drawn anew, which is what chance alone gives."""
    theirs_of = reference(kind, severity, images.shape[-1])
    np.random.seed(seed)  # noqa: NPY002, the packages draw from the global stream
    ours = corrupt(images, kind=kind, severity=severity, rng=np.random.default_rng(seed))
    theirs, again = theirs_of(images), theirs_of(images)
    return _likeness(ours, theirs, images), _likeness(again, theirs, images)


def _likeness(a: Images, b: Images, clean: Images) -> Likeness:
    changes = [x.astype(np.float64) - clean for x in (a, b)]
    sizes = [np.abs(change).mean() for change in changes]
    ks = _ks(*(change.astype(np.int64).ravel() for change in changes))
    powers = [(np.abs(np.fft.fft2(change)) ** 2).mean(axis=(0, 1)) for change in changes]
    side = clean.shape[-1]
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * 2
    bands = [(radius >= low) & (radius < low + 1 / 3) for low in (0, 1 / 3, 2 / 3)]
    low, middle, high = (float(powers[0][band].sum() / powers[1][band].sum()) for band in bands)
    return Likeness(float(sizes[0] / sizes[1]), ks, (low, middle, high))


def _ks(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    shares = [np.bincount(x + 255, minlength=511) / x.size for x in (a, b)]
    return float(np.abs(np.cumsum(shares[0] - shares[1])).max())


_modules: dict[tuple[str, bool], types.ModuleType] = {}


def _with_parameters(package: str, side: int) -> types.ModuleType:
    """The package's module of corruptions with our parameters in place of the list each function starts with."""
    small = side <= 64
    if (package, small) not in _modules:
        spec = importlib.util.find_spec(f"{package}.corruptions")
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in CIFAR:
                for statement in node.body:
                    if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "c":
                        statement.value = ast.parse(_source(node.name, side), mode="eval").body
        module = types.ModuleType(f"{package}.altered_corruptions")
        module.__dict__.update(__package__=package, __file__=spec.origin)
        exec(compile(ast.fix_missing_locations(tree), spec.origin, "exec"), module.__dict__)
        if package == "imagecorruptions":
            module.clipped_zoom = _trimmed(module.clipped_zoom)
        _modules[package, small] = module
    return _modules[package, small]


def _trimmed(clipped_zoom: Callable[[Any, float], Any]) -> Callable[[Any, float], Any]:
    """The package leaves what zooming makes too many at the end; the authors cut it off at both ends."""

    def zoom(image: Any, factor: float) -> Any:
        zoomed = clipped_zoom(image, factor)
        top, left = ((zoomed.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1))
        return zoomed[top : top + image.shape[0], left : left + image.shape[1]]

    return zoom


def _source(kind: str, side: int) -> str:
    values = [parameters(kind, severity, height=side, width=side) for severity in SEVERITIES]
    if kind == "zoom_blur":
        return "[" + ", ".join(f"np.arange(1, {end}, {step})" for end, step in values) + "][severity - 1]"
    if kind == "elastic_transform":
        values = [tuple(share * side for share in value) for value in values]
    return f"{values}[severity - 1]"


def print_distances() -> None:
    sets = {"32": natural_images(400, 32), "224": natural_images(16, 224)}
    print("| nothing drawn | 32 x 32: largest | mean | 224 x 224: largest | mean |\n|---|---|---|---|---|")
    for kind in DETERMINISTIC:
        cells = []
        for images in sets.values():
            found = [distance(kind, severity, images) for severity in SEVERITIES]
            cells += [f"{max(d.largest for d in found):.0f}", f"{max(d.mean for d in found):.3f}"]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    print("\n| drawn | size | mean change, ours / theirs (theirs / theirs) | KS (theirs) | power, low, middle, high |")
    print("|---|---|---|---|---|")
    for kind in STANDARD + EXTRA:
        if kind in DETERMINISTIC:
            continue
        for name, images in sets.items():
            pairs = [likeness(kind, severity, images) for severity in SEVERITIES]
            ours = [pair[0] for pair in pairs]
            change, chance = ([pair[i].change for pair in pairs] for i in (0, 1))
            changes = f"{min(change):.2f} to {max(change):.2f} ({min(chance):.2f} to {max(chance):.2f})"
            ks = f"{max(x.ks for x in ours):.3f} ({max(pair[1].ks for pair in pairs):.3f})"
            bands = ", ".join(f"{statistics.fmean(x.spectrum[i] for x in ours):.2f}" for i in range(3))
            print(f"| {kind} | {name} | {changes} | {ks} | {bands} |", flush=True)


def print_speed() -> None:
    import torch

    torch.set_num_threads(1)
    print("| kind | ours, us an image | theirs, us | theirs / ours, median [min-max] |\n|---|---|---|---|")
    many, few = natural_images(500, 32), natural_images(20, 32, seed=1)
    rounds = 5
    sums = np.zeros((rounds, 2))
    for kind in STANDARD + EXTRA:
        seconds = np.zeros((rounds, 2))
        for severity in SEVERITIES:
            theirs_of = public(kind, severity, 32)
            theirs_of(few[:2])
            corrupt(many[:64], kind=kind, severity=severity, rng=np.random.default_rng(0))
            for i in range(rounds):
                begin = time.perf_counter()
                corrupt(many, kind=kind, severity=severity, rng=np.random.default_rng(i))
                middle = time.perf_counter()
                theirs_of(few)
                end = time.perf_counter()
                seconds[i] += (middle - begin) / len(many) / 5, (end - middle) / len(few) / 5
        if kind in STANDARD:
            sums += seconds
        _print_row(kind, seconds)
    _print_row("all 15 standard kinds", sums)


def _print_row(name: str, seconds: NDArray[np.float64]) -> None:
    ours, theirs = np.median(seconds, axis=0) * 1e6
    ratio = seconds[:, 1] / seconds[:, 0]
    spread = f"{np.median(ratio):.0f} [{ratio.min():.0f}-{ratio.max():.0f}]"
    print(f"| {name} | {ours:.0f} | {theirs:.0f} | {spread} |", flush=True)


def versions() -> str:
    names = [*PACKAGES.values(), "opencv-python", "scikit-image", "scipy", "numpy", "pillow", "torch"]
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)


if __name__ == "__main__":
    print_speed() if sys.argv[1:] == ["speed"] else print_distances()
    print(f"\n{versions()}")
