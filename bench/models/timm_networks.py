"""Any classification network of timm, without pretrained weights, and a small-image stem for its ResNets."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from bench.models.errors import ModelError

FETCHING = ("checkpoint_path", "cache_dir")
"""Arguments of timm.create_model that say where weights come from, beside those that begin with `pretrained`."""


def architectures() -> list[str]:
    """Every timm architecture, without the tags (`.a1_in1k`) that only choose pretrained weights."""
    names: list[str] = timm.list_models()
    return names


def build(architecture: str, *, channels: int, num_classes: int, small_stem: bool = False, **args: Any) -> nn.Module:
    """timm's network with timm's initialisation; `args` go to timm (`drop_rate`, `img_size`, ...).

    small_stem: for ResNets on small images, keep the resolution up to the first stage, as He et al. 2016 do
    on CIFAR; see `shrink_stem`.  Transformers made for one image size need `img_size`.
    Raises ModelError for an argument that the network does not take, that is given (`pretrained`, `in_chans`), or that
    would have timm read weights from a file or from the network.
    """
    name = f"timm/{architecture}"
    ours = {"pretrained": False, "num_classes": num_classes, "in_chans": channels}
    if taken := [arg for arg in args if arg in ours]:
        raise ModelError(
            f"{name}: {taken[0]!r} is given: no weights are pretrained, classes and channels are the data's"
        )
    if fetching := [arg for arg in args if arg in FETCHING or arg.startswith("pretrained")]:
        raise ModelError(f"{name}: {fetching[0]!r} is not for a suite: every network is trained from its beginning")
    try:
        model: nn.Module = timm.create_model(architecture, **ours, **args)
    except TypeError as error:
        # timm's classes say "unexpected keyword argument", each in its own words.
        unknown = [arg for arg in args if f"'{arg}'" in str(error)]
        if "unexpected keyword" not in str(error) or not unknown:
            raise
        with torch.device("meta"):
            network = type(timm.create_model(architecture))
        allowed = ["small_stem", *(arg for arg in inspect.signature(network).parameters if arg not in ours)]
        nearest = difflib.get_close_matches(unknown[0], allowed)
        raise ModelError(f"{name} takes no argument {unknown[0]!r}", nearest) from None
    if small_stem:
        if not isinstance(model, ResNet):
            raise ModelError(
                f"{name} has no small_stem: that is for timm's ResNets (resnet*, resnext*, seresnet*, ...), "
                f"and this is a {type(model).__name__}"
            )
        shrink_stem(model)
    model.feature_layers = _feature_layers(model)  # type: ignore[assignment]  # nn.Module knows tensors only
    return model


def _feature_layers(model: nn.Module) -> tuple[str, ...]:
    """timm's own list of a network's feature stages, as far as they are submodules of it; none where timm has none."""
    modules = dict(model.named_modules())
    names = [stage.get("module", "") for stage in getattr(model, "feature_info", None) or ()]
    return tuple(name for name in names if name in modules)


def shrink_stem(model: ResNet) -> None:
    """Make a timm ResNet's stem 3x3 with stride 1, without max-pool, in place: stage 1 sees every pixel.

    A 7x7 stem becomes a new 3x3 convolution, drawn as timm draws its own; a deep stem, three 3x3
    convolutions already, keeps its weights.
    """
    stem = model.conv1
    if isinstance(stem, nn.Sequential):
        first = stem[0]
        assert isinstance(first, nn.Conv2d)
        first.stride = (1, 1)
    else:
        model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
