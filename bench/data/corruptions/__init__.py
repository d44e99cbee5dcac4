"""The image corruptions of Hendrycks and Dietterich 2019 by name, and `corrupt`, which applies one to a batch.

Naming a corruption loads neither torch nor SciPy; applying one does.  docs/corruptions.md says what each is, how far
from the published one, and what it costs.
"""

import difflib

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORRUPTIONS_VERSION", "EXTRA", "SEVERITIES", "STANDARD", "corrupt"]

# Raised when `corrupt` gives other pixels than before; older caches are then not used.
CORRUPTIONS_VERSION = 1

# In the order of the paper's tables.
STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)

# The paper's four further kinds, meant for validation: a model chosen by them may still be tested on STANDARD.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

SEVERITIES = (1, 2, 3, 4, 5)

MIN_SIDE = 8


def corrupt(images: NDArray[np.uint8], *, kind: str, severity: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Corrupted copies of images (n, C, H, W) uint8, C 1 or 3, H and W at least 8: same shape, same order.

    The severity's parameters are those of CIFAR-10-C where neither side exceeds 64 pixels, of ImageNet-C beyond.  Grey
    images are corrupted as colour images of three equal channels and turned to luma, except that noise is drawn once
    per pixel.  The same images, kind, severity and state of rng give the same pixels, whatever the number of threads;
    the n images share rng, so that a part of them alone gives others.  Raises ValueError for an unknown kind, a
    severity outside 1..5, and images of another type or shape.
    Source: Hendrycks and Dietterich 2019, and the authors' make_cifar_c.py and make_imagenet_c.py.
    """
    check_kind(kind, severity)
    if images.dtype != np.uint8:
        raise ValueError(f"images of type {images.dtype}: they must be uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < MIN_SIDE:
        raise ValueError(
            f"images of shape {images.shape}: it must be (n, C, H, W), C 1 or 3, H and W at least {MIN_SIDE}"
        )
    from bench.data.corruptions.kinds import apply

    return apply(images, kind, severity, rng)


def check_kind(kind: str, severity: int) -> None:
    """Raise ValueError unless there is such a corruption, with the nearest name, and such a severity."""
    known = STANDARD + EXTRA
    if kind not in known:
        nearest = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown corruption {kind!r}: choose from {', '.join(known)}{hint}")
    if severity not in SEVERITIES:
        raise ValueError(f"a severity of {severity!r}: it must be a whole number from 1 to 5")
