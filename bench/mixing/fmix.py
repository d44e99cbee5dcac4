"""FMix: masks of random shapes from low-frequency noise. Source: Harris et al. 2020, arXiv 2002.12047."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.mixing.method import Alpha, Mixing, draw_lam
from bench.mixing.partners import permuted

if TYPE_CHECKING:
    from torch import nn

    from bench.mixing.batch import Batch, BatchLoss


class FMix(Mixing):
    """Each image where a mask is 1, its partner where it is 0; labels by the mask's share.

    One mask per batch, as in the authors' code: where Gaussian noise, its spectrum divided by frequency to the power of
    `decay`, is highest, in the share lam ~ Beta(alpha, alpha) of the pixels.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha",)
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0}

    name: Literal["fmix"] = "fmix"
    alpha: Alpha = 1.0
    decay: float = Field(default=3.0, ge=0, le=10, description="larger: smoother shapes")

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        import torch

        height, width = batch.x.shape[-2:]
        lam = draw_lam(rng, self.alpha)
        mask = draw_mask(rng, lam, height=height, width=width, decay=self.decay)
        partners = permuted(batch, rng=rng)
        x = batch.x
        if not mask.all():
            x = x.where(torch.from_numpy(mask).to(x.device, non_blocking=True), partners.x)
        return self.pair_loss(model(x), batch, partners, float(mask.mean()))


def draw_mask(rng: np.random.Generator, lam: float, *, height: int, width: int, decay: float) -> NDArray[np.bool_]:
    """(H, W): True for the share lam of the pixels, rounded up or down by a coin, as in the authors' code."""
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.sqrt(rows**2 + columns**2), 1 / max(height, width))
    real, imaginary = rng.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2((real + 1j * imaginary) / frequency**decay, s=(height, width))
    count = int(np.floor(lam * noise.size + rng.integers(2) * (1 - 2**-40)))
    mask = np.zeros(noise.size, dtype=bool)
    mask[np.argsort(-noise, axis=None, kind="stable")[:count]] = True
    return mask.reshape(height, width)
