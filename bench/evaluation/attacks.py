"""Adversarial examples on pixels in [0, 1], and the error they cause.

A network under attack maps pixels, float32 (B, C, H, W) in [0, 1], to logits (B, K): its normalisation is inside.
The attacks are untargeted, and climb the cross-entropy of the label.  What their numbers do not show is in
docs/adversarial.md.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttackName = Literal["fgsm", "i_fgsm", "pgd"]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Attack:
    """One attack at one strength.

    epsilon: radius of the ball around an image, in units of 1/255 of the pixel range.
    steps: gradients taken in one run.  step_size: length of a step in the attack's norm, in 1/255; None: `step`.
    restarts: runs from random starts, of which each example keeps its worst.
    Raises ValueError for values that make no such attack.

    Sources: fgsm: Goodfellow et al. 2015, sec. 4.  i_fgsm: Kurakin et al. 2017, sec. 2.2 (their basic iterative
    method).  pgd: Madry et al. 2018, sec. 2.1.  In L2 the step is the gradient scaled to length, in place of its sign.
    """

    name: AttackName
    norm: Norm
    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.name not in get_args(AttackName):
            raise ValueError(f"attack {self.name!r}: must be one of {', '.join(get_args(AttackName))}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"{self.name}: norm {self.norm!r} must be one of {', '.join(get_args(Norm))}")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"{self.key}: epsilon = {self.epsilon} must be finite and at least 0 (in 1/255)")
        if self.norm == "linf" and self.epsilon > 255:
            raise ValueError(f"{self.key}: epsilon = {self.epsilon} is in 1/255: 255 already spans every pixel's range")
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"{self.key}: steps = {self.steps} and restarts = {self.restarts} must be at least 1")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"{self.key}: step_size = {self.step_size} must be finite and above 0 (in 1/255)")
        if self.name == "fgsm" and (self.steps > 1 or self.step_size is not None):
            raise ValueError(f"{self.key}: fgsm is one step of length epsilon; for other steps take i_fgsm")
        if self.name != "pgd" and self.restarts > 1:
            raise ValueError(f"{self.key}: {self.name} starts at the image: restarts would repeat it; take pgd")

    @property
    def key(self) -> str:
        """The attack's part of a metric's name, such as pgd_linf_4; steps and restarts are no part of it."""
        return f"{self.name}_{self.norm}_{self.epsilon:g}"

    @property
    def step(self) -> float:
        """Length of a step in 1/255, with the default resolved: epsilon for fgsm, epsilon / steps for i_fgsm.

        For pgd 2.5 * epsilon / steps, which reaches every side of the ball from every start.  Sources: Zhang et al.
        2018, table 3 (10 iterations of equal step size, read as epsilon / 10); the `robustness` library of
        Madry's group (Engstrom et al. 2019).
        """
        if self.step_size is not None:
            return self.step_size
        return (2.5 if self.name == "pgd" else 1.0) * self.epsilon / self.steps


def perturb(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, rng: np.random.Generator) -> Tensor:
    """Adversarial examples x_adv of x: float32 (B, C, H, W), in [0, 1] and in the attack's ball around x.

    x: float32 (B, C, H, W) in [0, 1].  y: (B,) int64, the labels to lead away from.  rng: on the host, so that every
    device gets the same starts; only pgd draws, from uniform points in the ball (an L-inf box, an L2 ball), clipped
    to [0, 1].  Of several restarts an example keeps the first that is misclassified, else that of highest loss.
    With epsilon = 0 it is x itself.

    After each step the point goes back to the ball and then to [0, 1], which leads no coordinate away from x and
    therefore not out of the ball.  The bounds hold up to float32 rounding: 2^-24 per coordinate in L-inf; in L2 a
    relative 1e-6, and 2^-24 * sqrt(C * H * W).  Where the gradient is 0 the point stays.  The model's parameters, their
    `.grad` and `requires_grad`, its buffers and the caller's grad mode are as before.

    Raises ValueError for a model in training mode, for x or y of another shape, type or range, and inside
    torch.inference_mode(), where there are no gradients (torch.no_grad() is fine).
    """
    _check_model(model)
    _check_pixels(x, y)
    return _search(model, x, y, attack, _starts(x.shape, attack, rng))


def adversarial_record(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack],
    *,
    prefix: Literal["adv", "transfer"],
    seed: int,
    victim: nn.Module | None = None,
    batch_size: int = 250,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics `<prefix>_<attack.key>_error`, and the detail: an entry per attack, num_examples and clean_error.

    images: (n, C, H, W) uint8.  labels: (n,) int64, the true ones.  Errors are fractions of all n examples.
    victim: the network whose errors count on examples made with `model` (transfer, black box); None: model itself
    (white box).  White box, an example that is misclassified as it is counts as an error and is not attacked: the ball
    holds the image itself, so the worst of the ball is an error.  In a transfer every example is attacked, since
    `model` knows nothing of the victim's errors.  clean_error is that of the network under test, and what epsilon = 0
    gives exactly.

    seed: of the random starts.  They depend on it, the attack's name and norm, and the example's place in its batch
    of `batch_size`: on neither model nor epsilon nor steps, so that all of these are compared from the same directions.

    Raises ValueError for no examples or attacks, two attacks with one key, and what `perturb` refuses.
    """
    tested = model if victim is None else victim
    _check_model(model)
    _check_model(tested)
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
        found = f"{images.dtype} {tuple(images.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"expected at least one image, uint8 (n, C, H, W), and labels (n,), got {found}")
    if not attacks:
        raise ValueError("no attacks: name at least one")
    if repeated := [key for key, count in Counter(attack.key for attack in attacks).items() if count > 1]:
        raise ValueError(f"two attacks would share the name {repeated[0]}: their epsilon, norm or name must differ")

    clean_errors, errors = 0, dict.fromkeys(attacks, 0)
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size].to(torch.float32) / 255
        y = labels[start : start + batch_size]
        misclassified = _misclassified(tested, x, y)
        clean_errors += int(misclassified.sum())
        attacked = (~misclassified if victim is None else torch.ones_like(misclassified)).nonzero().flatten()
        for attack in attacks:
            broken = misclassified.clone()
            if attack.epsilon and len(attacked):
                rows = attacked.cpu()
                starts = (each[rows] for each in _starts(x.shape, attack, _start_rng(seed, attack, start)))
                x_adv = _search(model, x[attacked], y[attacked], attack, starts)
                broken[attacked] = _misclassified(tested, x_adv, y[attacked])
            errors[attack] += int(broken.sum())

    n = len(images)
    entries = [
        {
            "attack": attack.name,
            "norm": attack.norm,
            "epsilon": attack.epsilon,
            "steps": attack.steps,
            "restarts": attack.restarts,
            "error": count / n,
        }
        for attack, count in errors.items()
    ]
    metrics = {f"{prefix}_{attack.key}_error": count / n for attack, count in errors.items()}
    return metrics, {"errors": entries, "num_examples": n, "clean_error": clean_errors / n}


def _search(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, starts: Iterable[Tensor]) -> Tensor:
    """The worst end point of the runs from each of `starts`, offsets in units of epsilon on the host."""
    if not (attack.epsilon and len(x)):
        return x
    ends = (_ascend(model, x, y, attack, start.to(x.device)) for start in starts)
    worst = next(ends)
    if attack.restarts == 1:
        return worst
    worst_broken, worst_loss = _outcome(model, worst, y)
    for x_adv in ends:
        broken, loss = _outcome(model, x_adv, y)
        better = ~worst_broken & (broken | (loss > worst_loss))
        worst = torch.where(better[:, None, None, None], x_adv, worst)
        worst_broken, worst_loss = worst_broken | broken, torch.where(better, loss, worst_loss)
    return worst


def _ascend(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, start: Tensor) -> Tensor:
    epsilon, step = attack.epsilon / 255, attack.step / 255
    x_adv = _project(x + epsilon * start, x, epsilon, attack.norm)
    for _ in range(attack.steps):
        gradient = _input_gradient(model, x_adv, y)
        direction = gradient.sign() if attack.norm == "linf" else _unit(gradient)
        x_adv = _project(x_adv + step * direction, x, epsilon, attack.norm)
    return x_adv


def _project(x_adv: Tensor, x: Tensor, epsilon: float, norm: Norm) -> Tensor:
    if norm == "linf":
        x_adv = torch.minimum(torch.maximum(x_adv, x - epsilon), x + epsilon)
    else:
        offset = x_adv - x
        lengths = torch.linalg.vector_norm(offset, dim=(1, 2, 3), keepdim=True)
        x_adv = torch.where(lengths > epsilon, x + offset * (epsilon / lengths), x_adv)
    return x_adv.clamp(0, 1)


def _unit(gradient: Tensor) -> Tensor:
    """Each example's gradient at L2 length 1; 0 stays 0.

    Scaled by the largest entry first, so that the squares of a small gradient do not underflow.
    """
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    lengths = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    return scaled / torch.where(lengths > 0, lengths, 1)


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Each example's gradient of the cross-entropy with respect to x, up to a positive factor, which no step sees.

    autograd.grad goes only where it was asked to: no gradient of a weight is computed, let alone kept, so freezing the
    weights would save nothing (the same kernels and times, torch 2.15).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_log_odds_against(model(x), y).sum(), x)
    return gradient


def _log_odds_against(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p) / p) of the label's softmax probability p, (B,).

    It grows with the cross-entropy, which is log(1 + exp(this)), and so has a gradient of the same direction.  But it
    does not saturate: in float32 p rounds to 1 from 17 nats on, and the cross-entropy's gradient loses the label's
    logit there.  That would flatter a confident network, hence ERM before mixup.
    """
    label = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(label, -torch.inf).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


@torch.no_grad()
def _outcome(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each example is misclassified, and a measure of its loss, (B,) each."""
    logits = model(x)
    return logits.argmax(1) != y, _log_odds_against(logits, y)


def _misclassified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _outcome(model, x, y)[0]


def _starts(shape: Sequence[int], attack: Attack, rng: np.random.Generator) -> Iterator[Tensor]:
    """Offsets from the image in units of epsilon, float32 (B, C, H, W) on the host, one tensor per restart."""
    for _ in range(attack.restarts):
        if attack.name != "pgd":
            yield torch.zeros(tuple(shape))
        elif attack.norm == "linf":
            yield torch.from_numpy(2 * rng.random(shape, dtype=np.float32) - 1)
        else:
            direction = _unit(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))
            # The share of a d-ball's volume within radius r is r^d.
            radius = rng.random(shape[0]) ** (1 / math.prod(shape[1:]))
            yield direction * torch.from_numpy(radius.astype(np.float32))[:, None, None, None]


def _start_rng(seed: int, attack: Attack, first_example: int) -> np.random.Generator:
    kind = zlib.crc32(f"{attack.name}_{attack.norm}".encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, kind, first_example])))


def _check_model(model: nn.Module) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks need gradients, which torch.inference_mode() rules out: call them outside it")
    for name, module in model.named_modules():
        if module.training:
            where = f"its module {name}" if name else "the model"
            raise ValueError(f"{where} is in training mode, where BatchNorm would learn from the attack: call eval()")


def _check_pixels(x: Tensor, y: Tensor) -> None:
    if x.dtype != torch.float32 or x.ndim != 4 or y.shape != x.shape[:1]:
        found = f"{x.dtype} {tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"expected pixels, float32 (B, C, H, W), and labels (B,), got {found}")
    if len(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"pixels reach from {x.min()} to {x.max()}: attack them in [0, 1], normalised by the model")
