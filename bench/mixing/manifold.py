"""Manifold mixup: mix what a layer inside the network computes. Source: Verma et al. 2019, arXiv 1806.05236."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from bench.mixing.method import Alpha, Mixing, draw_lam
from bench.mixing.mixup import mix_inputs
from bench.mixing.partners import Partners, draw_permutation

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bench.mixing.batch import Batch, BatchLoss

INPUT = "input"
"""The name of layer 0."""


class ManifoldMixup(Mixing):
    """lam * h + (1 - lam) * h[perm] at one layer, drawn anew for each batch, labels alike; lam ~ Beta(alpha, alpha).

    layers: one layer or, as a list in a list, a set to draw from: numbers, or names as the network has them. Layer 0 is
        the input, layer k the output of the network's k-th feature stage (its `feature_layers`): of a ResNet, 1 is the
        stem's and the last is what is pooled and classified. So layers 1 to 5 of preact_resnet18 are those of Zhang et
        al. 2018, Table 5. Verma et al. count the residual stages' outputs: their {0, 1, 2} is {0, 2, 3} here, and not
        the default, which every network with two hidden layers has.

    Gradients flow through the layers below the one that is mixed, as in Verma et al.
    """

    shown: ClassVar[tuple[str, ...]] = ("alpha", "layers")
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0}

    name: Literal["manifold_mixup"] = "manifold_mixup"
    alpha: Alpha = 2.0
    layers: tuple[int | str, ...] = Field(
        default=(0, 1, 2),
        min_length=1,
        json_schema_extra={"type": ["integer", "string", "array"]},
        description="the layer that is mixed, 0 for the input; a list in a list: one of them, drawn for each batch",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_set(cls, options: Any) -> Any:
        if isinstance(options, dict) and isinstance(options.get("layers"), int | float | str | list):
            layers = options["layers"]
            for layer in layers if isinstance(layers, list) else [layers]:
                if (
                    isinstance(layer, bool)
                    or not isinstance(layer, int | str)
                    or (isinstance(layer, int) and layer < 0)
                ):
                    raise ValueError(f"{layer!r} should be a layer's number, from 0 for the input, or its name")
            return {**options, "layers": tuple(layers) if isinstance(layers, list) else (layers,)}
        return options

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers: tuple[int | str, ...]) -> tuple[int | str, ...]:
        layers = tuple(0 if layer == INPUT else layer for layer in layers)
        if len(set(layers)) < len(layers):
            raise ValueError(f"layers {list(layers)} names one twice")
        return layers

    @property
    def layers_mixed(self) -> tuple[int | str, ...]:
        return self.layers

    def _mixed_loss(self, model: nn.Module, batch: Batch, *, rng: np.random.Generator) -> BatchLoss:
        from bench.mixing.batch import chosen

        lam = draw_lam(rng, self.alpha)
        perm, index = draw_permutation(batch, rng=rng)
        layer = self.layers[int(rng.integers(len(self.layers)))] if len(self.layers) > 1 else self.layers[0]

        def mixed(hidden: Tensor) -> Tensor:
            return mix_inputs(hidden, chosen(hidden, index), lam)

        if layer == 0:
            logits = model(mixed(batch.x))
        else:
            logits = forward_through(model, batch.x, layer=layer, change=mixed)
        partners = Partners(batch.x, batch.y.index_select(0, index), batch.labels[perm])
        return self.pair_loss(logits, batch, partners, lam)


def forward_through(model: nn.Module, x: Tensor, *, layer: int | str, change: Any) -> Tensor:
    """model(x) with `change` applied to what one of its layers gives.

    layer: one of the network's `feature_layers`, by its place there, from 1, or by its name.
    Raises ValueError for a layer that is not there, or that is not run exactly once in a forward pass.
    """
    layers = getattr(model, "feature_layers", ())
    by_number = dict(enumerate(layers, start=1))
    if layer not in (*by_number, *layers):
        raise ValueError(f"the network has no layer {layer!r}: it has 0 to {len(layers)}, {', '.join(layers)}")
    name = by_number.get(layer, layer) if isinstance(layer, int) else layer
    calls = 0

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        changed: Tensor = change(output)
        return changed

    handle = model.get_submodule(str(name)).register_forward_hook(hook)
    try:
        logits: Tensor = model(x)
    finally:
        handle.remove()
    if calls != 1:
        raise ValueError(f"layer {name!r} runs {calls} times in a forward pass: nothing to mix once")
    return logits
