"""A small training set, batches of it, and a network, for the tests of methods."""

import numpy as np
import torch
from torch import Tensor, nn

from bench.mixing.batch import Batch, ClassIndex, TrainingSet

CLASSES = 5


def net(seed: int = 0, *, pixels: int = 108) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))
    model.feature_layers = ("2", "4")
    return model


class Looking(nn.Module):
    """A network that keeps what it was shown, and answers with a linear function of it."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1)[:, : self.classes] * 3


def batch(
    size: int = 7,
    *,
    n: int = 40,
    side: int = 6,
    dtype: torch.dtype = torch.float32,
    neighbours: np.ndarray | None = None,
    epoch: int = 0,
    epochs: int = 10,
    place: int = 0,
    labels: np.ndarray | None = None,
) -> Batch:
    """The batch at `place` of an epoch over n examples of 3 x side x side; image i has i all over channel 0."""
    rng = np.random.default_rng(3)
    pixels = torch.from_numpy(rng.integers(256, size=(n, 3, side, side), dtype=np.uint8))
    pixels[:, 0] = torch.arange(n, dtype=torch.uint8)[:, None, None]
    labels = rng.integers(CLASSES, size=n) if labels is None else labels
    order = rng.permutation(n)

    def normalised(images: Tensor) -> Tensor:
        return ((images.float() - 100) / 50).to(dtype)

    def take(positions: np.ndarray) -> tuple[Tensor, Tensor]:
        return normalised(pixels[positions]), torch.from_numpy(labels[positions])

    rows = order[place : place + size]
    return Batch(
        x=normalised(pixels[rows]),
        y=torch.from_numpy(labels[rows]),
        labels=labels[rows],
        pixels=pixels[rows],
        normalised=normalised,
        pixel_scale=torch.full((1, 3, 1, 1), 255 / 50),
        epoch=epoch,
        epochs=epochs,
        place=place,
        training_set=TrainingSet(ClassIndex(labels), order, neighbours, take),
    )


def positions_shown(x: Tensor) -> np.ndarray:
    """Which examples a batch of unmixed images is of."""
    return np.rint(x[:, 0, 0, 0].double().numpy() * 50 + 100).astype(int)
