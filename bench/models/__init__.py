"""Networks by name: the papers' reference networks, and every timm network as `timm/<name>`.

Importing this package loads neither torch nor timm: a network's own module is imported when one is built.
Weights come from torch's global CPU generator, which the caller seeds.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.models.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelError", "Shape", "build", "model_args"]

Shape = tuple[int, int, int]  # channels, height, width


def _mlp(input_shape: Shape, num_classes: int, *, hidden: Sequence[int] = (128, 64), dropout: float = 0.0) -> nn.Module:
    from bench.models.mlp import mlp

    return mlp(input_shape, num_classes, hidden=hidden, dropout=dropout)


def _lenet(input_shape: Shape, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    from bench.models.lenet import lenet

    return lenet(input_shape, num_classes, dropout=dropout)


def _preact_resnet18(input_shape: Shape, num_classes: int, *, width: int = 64, dropout: float = 0.0) -> nn.Module:
    from bench.models.preact_resnet import PreActResNet18

    return PreActResNet18(input_shape[0], num_classes, width=width, dropout=dropout)


def _wrn_28_10(
    input_shape: Shape, num_classes: int, *, depth: int = 28, widen_factor: int = 10, dropout: float = 0.0
) -> nn.Module:
    from bench.models.wide_resnet import WideResNet

    return WideResNet(input_shape[0], num_classes, depth=depth, widen_factor=widen_factor, dropout=dropout)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "preact_resnet18": _preact_resnet18,
    "wrn_28_10": _wrn_28_10,
}


def _residual_layers(model: nn.Module) -> tuple[str, ...]:
    """The stem, and each stage."""
    return ("stem", *(f"stages.{index}" for index, _ in enumerate(model.get_submodule("stages").children())))


def _sequential_layers(model: nn.Module) -> tuple[str, ...]:
    """What each hidden layer gives, after its ReLU and, of a convolution, its pooling."""
    names = [(index, type(layer).__name__) for index, layer in model.named_children()]
    return tuple(
        index
        for (index, kind), (_, following) in zip(names, [*names[1:], ("", "")], strict=True)
        if kind == "MaxPool2d" or (kind == "ReLU" and following != "MaxPool2d")
    )


FEATURE_LAYERS: dict[str, Callable[[nn.Module], tuple[str, ...]]] = {
    "mlp": _sequential_layers,
    "lenet": _sequential_layers,
    "preact_resnet18": _residual_layers,
    "wrn_28_10": _residual_layers,
}


def build(name: str, *, input_shape: Shape, num_classes: int, **args: Any) -> nn.Module:
    """The network `name`, untrained, from images (B, *input_shape) to logits (B, num_classes).

    name: a key of MODELS, or `timm/` and a timm architecture, whose `args` go to timm; see `timm_networks`.
    Its attribute `feature_layers` names the submodules, from the input on, whose outputs are its feature stages: where
    manifold mixup mixes.
    Raises ModelError, a ValueError, for an unknown name or argument; ValueError for images that do not fit.
    """
    if name in MODELS:
        allowed = model_args(name)
        if unknown := [arg for arg in args if arg not in allowed]:
            raise ModelError(f"{name} takes no argument {unknown[0]!r}", difflib.get_close_matches(unknown[0], allowed))
        model = MODELS[name](input_shape, num_classes, **args)
        model.feature_layers = FEATURE_LAYERS[name](model)  # type: ignore[assignment]  # nn.Module knows tensors only
        return model

    from bench.models import timm_networks

    family, _, architecture = name.partition("/")
    if family != "timm" or architecture not in timm_networks.architectures():
        known = [*MODELS, *(f"timm/{architecture}" for architecture in timm_networks.architectures())]
        raise ModelError(f"no network is called {name!r}", difflib.get_close_matches(name, known))
    return timm_networks.build(architecture, channels=input_shape[0], num_classes=num_classes, **args)


def model_args(name: str) -> dict[str, Any]:
    """The arguments that reference network `name` takes, each with its default.  name: a key of MODELS."""
    parameters = inspect.signature(MODELS[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
