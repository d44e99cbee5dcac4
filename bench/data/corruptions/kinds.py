"""The corruptions beside their names, and how a batch goes through one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.corruptions import blur, digital, noise, weather
from bench.data.corruptions.parameters import parameters

# Each takes images (B, C, H, W) uint8, which it leaves alone, its parameters and a generator, and gives images alike.
KINDS: dict[str, Callable[[Tensor, Any, np.random.Generator], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}

# Values that go through at a time: few enough to stay in a core's cache.  Part of what fixes the pixels.
BLOCK_VALUES = 2**18


def apply(images: NDArray[np.uint8], kind: str, severity: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`corrupt`, once its arguments are known to be right."""
    corruption = KINDS[kind]
    constants = parameters(kind, severity, height=images.shape[2], width=images.shape[3])
    step = max(1, BLOCK_VALUES // images[0].size) if len(images) else 1
    out = np.empty_like(images, order="C")
    # Sums over several threads may round otherwise.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), step):
                block = torch.from_numpy(np.array(images[start : start + step], order="C"))
                out[start : start + step] = corruption(block, constants, rng).numpy()
    finally:
        torch.set_num_threads(threads)
    return out
