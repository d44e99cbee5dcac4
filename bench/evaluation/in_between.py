"""What a network does on the line between two training images.

Source: Zhang et al. 2018, figure 2.  It names neither the norm of its gradients nor what they are gradients of; the
reading taken here, and why, is in docs/adversarial.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


def draw_pairs(n: int, num_pairs: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices i and j, (num_pairs,) each in [0, n): no two i are equal, and j is uniform over the others than i.

    num_pairs = n leads a line away from every example, the paper's 50,000 of 50,000 (inferred from its figure's
    resolution).  Raises ValueError unless 1 <= num_pairs <= n and n >= 2.
    """
    if n < 2 or not 1 <= num_pairs <= n:
        raise ValueError(f"num_pairs = {num_pairs} of n = {n} examples: needs two examples, and from 1 to n pairs")
    i = rng.permutation(n)[:num_pairs]
    return i, (i + rng.integers(1, n, size=num_pairs)) % n


def in_between_record(
    model: nn.Module,
    x_i: Tensor,
    y_i: Tensor,
    x_j: Tensor,
    y_j: Tensor,
    *,
    num_lam: int = 21,
    batch_size: int = 500,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Misses and gradients at lam * x_i + (1 - lam) * x_j, for num_lam equally spaced lam from 0 to 1.

    model: pixels, float32 (B, C, H, W) in [0, 1], to logits (B, K), in evaluation mode, its normalisation inside.
    x_i, x_j: (m, C, H, W) uint8.  y_i, y_j: (m,) int64, the labels as the caller means them, given or true.

    Metrics: in_between_miss_half and in_between_gradient_half, the values at lam = 1/2.
    Detail: lam, miss and gradient_norm, num_lam values each, and num_pairs.  miss: share of pairs whose prediction is
    neither y_i nor y_j.  gradient_norm: mean over pairs of the L2 norm of the gradient, with respect to the pixels, of
    lam * CE(y_i) + (1 - lam) * CE(y_j), CE in nats.

    Raises ValueError for a model in training mode, for other shapes or types, no pairs, or a num_lam that is not odd
    and at least 3, and inside torch.inference_mode().
    """
    _check(model, x_i, y_i, x_j, y_j, num_lam)
    num_pairs = len(x_i)
    lams = np.linspace(0, 1, num_lam).tolist()
    misses, norms = [0] * num_lam, [0.0] * num_lam
    for start in range(0, num_pairs, batch_size):
        rows = slice(start, start + batch_size)
        first, second = (images[rows].to(torch.float32) / 255 for images in (x_i, x_j))
        y_first, y_second = y_i[rows], y_j[rows]
        for k, lam in enumerate(lams):
            logits, gradient = _at(model, lam * first + (1 - lam) * second, y_first, y_second, lam)
            predicted = logits.argmax(1)
            misses[k] += int(((predicted != y_first) & (predicted != y_second)).sum())
            # In float64: the squares of a confident network's gradient underflow in float32.
            norms[k] += torch.linalg.vector_norm(gradient.double(), dim=(1, 2, 3)).sum().item()

    miss, gradient_norm = ([total / num_pairs for total in totals] for totals in (misses, norms))
    half = num_lam // 2
    metrics = {"in_between_miss_half": miss[half], "in_between_gradient_half": gradient_norm[half]}
    return metrics, {"lam": lams, "miss": miss, "gradient_norm": gradient_norm, "num_pairs": num_pairs}


def _at(model: nn.Module, x: Tensor, y_i: Tensor, y_j: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the gradient (B, C, H, W) of each example's own loss: no example sees another's."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        # In float64: in float32 a probability rounds to 1 from 17 nats on, and its logit has no gradient there.
        ce_i, ce_j = (F.cross_entropy(logits.double(), y, reduction="sum") for y in (y_i, y_j))
        (gradient,) = torch.autograd.grad(lam * ce_i + (1 - lam) * ce_j, x)
    return logits.detach(), gradient


def _check(model: nn.Module, x_i: Tensor, y_i: Tensor, x_j: Tensor, y_j: Tensor, num_lam: int) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError("gradients are wanted, which torch.inference_mode() rules out: call this outside it")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode, where examples see each other: call eval()")
    for images, labels in ((x_i, y_i), (x_j, y_j)):
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            found = f"{images.dtype} {tuple(images.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"expected images, uint8 (m, C, H, W), and labels (m,), got {found}")
    if x_i.shape != x_j.shape or not len(x_i):
        raise ValueError(f"expected as many x_i as x_j, at least one, got {tuple(x_i.shape)} and {tuple(x_j.shape)}")
    if num_lam < 3 or num_lam % 2 == 0:
        raise ValueError(f"num_lam = {num_lam}: must be odd and at least 3, so that lam = 1/2 is among them")
