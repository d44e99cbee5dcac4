"""Telling out-of-distribution (OOD) examples from in-distribution ones by a classifier's logits.

Scores are higher for what looks more in-distribution, and in-distribution is the positive class.  The figures take two
(n,) tensors of scores, depend on their order alone, and raise ValueError for other shapes, for n == 0, and for scores
that are not a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Images = NDArray[np.uint8]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue: ITU-R BT.601, sec. 2.5.1."""


def ood_scores(logits: Tensor) -> dict[str, Tensor]:
    """Scores (n,) float64 of logits (n, K), from each of two detectors.

    msp: the largest softmax probability (Hendrycks and Gimpel 2017).
    energy: logsumexp of the logits, the negative free energy at T = 1 (Liu et al. 2020).
    """
    if logits.ndim != 2:
        raise ValueError(f"expected logits (n, K), got {tuple(logits.shape)}")
    logits = logits.double()
    return {"msp": logits.softmax(1).amax(1), "energy": logits.logsumexp(1)}


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    """Probability that an in-distribution example scores above an OOD one; a tie counts half.  0.5 is chance.

    Exact: Mann and Whitney's count, in integers.
    """
    inside, outside = _sorted(in_scores, out_scores)
    below = torch.searchsorted(outside, inside).sum()
    not_above = torch.searchsorted(outside, inside, right=True).sum()
    return int(below + not_above) / (2 * len(inside) * len(outside))


def aupr(in_scores: Tensor, out_scores: Tensor) -> float:
    """Average precision with in-distribution as the class to find: the area under its steps, not interpolated.

    The mean over in-distribution examples of the precision where the threshold is their own score, ties included.
    Chance is num_in / (num_in + num_out), so sets of different sizes do not compare.
    """
    inside, outside = _sorted(in_scores, out_scores)
    true = len(inside) - torch.searchsorted(inside, inside)
    false = len(outside) - torch.searchsorted(outside, inside)
    return (true.double() / (true + false)).mean().item()


def fpr_at_tpr(in_scores: Tensor, out_scores: Tensor, *, tpr: float) -> float:
    """Share of OOD examples taken for in-distribution where at least a share tpr of the in-distribution ones is.

    Taken is a score >= threshold, the largest that keeps enough; no interpolation.  Raises ValueError unless
    0 < tpr <= 1.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr = {tpr}: must lie in (0, 1]")
    inside, outside = _sorted(in_scores, out_scores)
    n = len(inside)
    kept = torch.arange(1, n + 1, dtype=torch.float64) / n
    threshold = inside.flip(0)[torch.searchsorted(kept, tpr)]
    return (outside >= threshold).double().mean().item()


def ood_record(
    in_logits: Tensor, out_logits: Tensor, *, set_name: str
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Metrics and detail of the evaluation `ood` against one set of OOD images.

    in_logits: (num_in, K), of the test images.  out_logits: (num_out, K).  set_name: goes into the metrics' names.
    """
    inside, outside = ood_scores(in_logits), ood_scores(out_logits)
    metrics: dict[str, float | None] = {}
    for detector in inside:
        scores = inside[detector], outside[detector]
        metrics[f"ood_{set_name}_auroc_{detector}"] = auroc(*scores)
        metrics[f"ood_{set_name}_aupr_{detector}"] = aupr(*scores)
        metrics[f"ood_{set_name}_fpr95_{detector}"] = fpr_at_tpr(*scores, tpr=0.95)
    return metrics, {"set": set_name, "num_in": len(in_logits), "num_out": len(out_logits)}


def noise_images(kind: str, n: int, shape: tuple[int, int, int], rng: np.random.Generator) -> Images:
    """Images (n, C, H, W) uint8 of noise, every channel of every pixel drawn by itself.

    kind: a name in NOISE.  shape: (C, H, W).  The first images are the same for every n.  Raises ValueError for an
    unknown kind.  Source: Liang et al. 2018 (ODIN); their values in [0, 1] become the levels 0..255.
    """
    if kind not in NOISE:
        raise ValueError(f"unknown kind of noise {kind!r}: choose from {', '.join(NOISE)}")
    images = np.empty((n, *shape), dtype=np.uint8)
    for image in images:  # one at a time: all at once would take eight times the memory
        image[:] = NOISE[kind](shape, rng)
    return images


def fit_to(images: Images, *, shape: tuple[int, int, int]) -> Images:
    """Another data set's images, (n, C', H', W') uint8, in the shape (C, H, W) of this one's.

    Colour becomes grey by its luma, grey becomes colour by repetition.  Sizes are matched by bilinear interpolation
    with antialiasing, which stretches images of another aspect ratio.  What has the shape already stays as it is.
    Raises ValueError for numbers of channels other than 1 and 3.
    """
    channels, height, width = shape
    if {channels, images.shape[1]} - {1, 3}:
        raise ValueError(f"cannot turn {images.shape[1]} channels into {channels}: both must be 1 (grey) or 3 (colour)")
    fitted = np.empty((len(images), *shape), dtype=np.uint8)
    for start in range(0, len(images), 500):  # float32 takes four times the memory: keep that copy small
        batch = torch.from_numpy(images[start : start + 500].astype(np.float32))
        if channels < batch.shape[1]:
            batch = (batch * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        if batch.shape[2:] != (height, width):
            batch = F.interpolate(batch, (height, width), mode="bilinear", antialias=True)
        fitted[start : start + 500] = batch.round().clamp(0, 255).numpy()  # numpy repeats grey for every channel
    return fitted


def _gaussian(shape: tuple[int, int, int], rng: np.random.Generator) -> Images:
    """Mean 0.5, unit variance, clipped to [0, 1]: nearly a third of the values at either end."""
    return np.rint(255 * np.clip(0.5 + rng.standard_normal(shape), 0, 1)).astype(np.uint8)


def _uniform(shape: tuple[int, int, int], rng: np.random.Generator) -> Images:
    return rng.integers(256, size=shape, dtype=np.uint8)


NOISE: dict[str, Callable[[tuple[int, int, int], np.random.Generator], Images]] = {
    "gaussian_noise": _gaussian,
    "uniform_noise": _uniform,
}


def _sorted(in_scores: Tensor, out_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the host, in float64, from low to high."""
    for name, scores in (("in-distribution", in_scores), ("OOD", out_scores)):
        if scores.ndim != 1:
            raise ValueError(f"expected {name} scores (n,), got {tuple(scores.shape)}")
        if len(scores) == 0:
            raise ValueError(f"no {name} examples (n = 0): there is nothing to tell apart")
        if scores.isnan().any():
            raise ValueError(f"{name} scores that are not a number have no order")
    inside, outside = (scores.double().cpu().sort().values for scores in (in_scores, out_scores))
    return inside, outside
