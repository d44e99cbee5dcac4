"""`python -m bench.models.probe`: what networks cost, asked by a process that must not import torch itself.

Reads a JSON list of {"name", "args", "input_shape": [C, H, W], "num_classes"} on stdin and writes a list as long:
{"params", "tensors", "forward_flops", "layers"} each, or {"error", "nearest"} for one that cannot be built or run.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.models import ModelError, build


def probe(name: str, args: dict[str, Any], *, input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """{"params": number of parameters, "tensors" that hold them, "forward_flops": per image, a multiply-add counts 2,
    "layers": the names of its feature stages}.

    Or {"error": one sentence, "nearest": valid names close to the wrong one}.  Runs on the meta device: only
    shapes are computed, so the largest network takes no memory.
    """
    size = "x".join(map(str, input_shape))
    try:
        with torch.device("meta"), torch.no_grad():
            model = build(name, input_shape=input_shape, num_classes=num_classes, **args).eval()
            with FlopCounterMode(display=False) as counter:
                logits = model(torch.empty(1, *input_shape))
    except ModelError as error:
        return {"error": error.problem, "nearest": list(error.nearest)}
    except Exception as error:  # timm's networks refuse values and image sizes with whatever comes to hand
        return {"error": f"{name} on {size} images: {error or type(error).__name__}", "nearest": []}
    if getattr(logits, "shape", None) != (1, num_classes):  # `features_only`, for one, gives a list
        return {"error": f"{name} with {args}: its output is not logits (B, {num_classes})", "nearest": []}
    return {
        "params": sum(weight.numel() for weight in model.parameters()),
        "tensors": len(list(model.parameters())),
        "forward_flops": counter.get_total_flops(),
        "layers": list(model.feature_layers),  # type: ignore[arg-type]  # nn.Module knows tensors only
    }


if __name__ == "__main__":
    json.dump([probe(**question) for question in json.load(sys.stdin)], sys.stdout)
