"""What the five severities mean, for small and for large images.

Source: the authors' make_cifar_c.py (CIFAR) and make_imagenet_c.py (IMAGENET), github.com/hendrycks/robustness.
Lengths are in pixels, but for the elastic transform's, which are shares of the image's longer side (the authors wrote
244 for 224, and the published images have it so).
"""

from typing import Any

# The longer side, in pixels, up to which images get the parameters of CIFAR-10-C.
SMALL_SIDE = 64

Severities = tuple[Any, Any, Any, Any, Any]

CIFAR: dict[str, Severities] = {
    # standard deviation
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    # photons of a white pixel
    "shot_noise": (500, 250, 100, 75, 50),
    # share of the values that become 0 or 255
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    # standard deviation on a white pixel
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    # radius of the disk, sigma that softens its edge
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    # sigma, largest displacement, passes
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    # radius, sigma
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    # the zoom factors, as numpy.arange's end and step from 1 (in two cases rounding lets the end itself in)
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    # sigma
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    # mean and deviation of the flakes, zoom, threshold, radius and sigma of their motion, share of the image kept
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    # weight of the image, weight of the texture
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    # weight of the fog, root of the factor by which each finer scale is weaker
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    # mean and deviation of the liquid, its sigma, threshold, strength (water) or sigma (mud), 0 for water and 1 for mud
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    # added to the value
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    # share of the contrast kept
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    # factor and summand of the saturation
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    # height and sigma of the displacement field, reach of the affine map's three points
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    # share of the side length kept
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    # quality
    "jpeg_compression": (80, 65, 58, 50, 40),
}

_244 = 244 / 224

IMAGENET: dict[str, Severities] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "elastic_transform": (
        (2 * _244, 0.7 * _244, 0.1 * _244),
        (2 * _244, 0.08 * _244, 0.2 * _244),
        (0.05 * _244, 0.01 * _244, 0.02 * _244),
        (0.07 * _244, 0.01 * _244, 0.02 * _244),
        (0.12 * _244, 0.01 * _244, 0.02 * _244),
    ),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}


def parameters(kind: str, severity: int, *, height: int, width: int) -> Any:
    """The parameters of a kind at a severity of 1..5, for images of this size."""
    return (CIFAR if max(height, width) <= SMALL_SIDE else IMAGENET)[kind][severity - 1]
