"""How inputs and labels are mixed: one module per method, each owning its loss.

To add a method: a module here, and its class in METHODS. Its options are the class's fields; the contract test in
tests/mixing finds it; docs/methods.md shows one whole. Nothing that is imported here imports torch at module level,
because plans are made without it.
"""

from bench.mixing.augmix import AugMix
from bench.mixing.cutmix import CutMix
from bench.mixing.erm import Erm
from bench.mixing.fmix import FMix
from bench.mixing.manifold import ManifoldMixup
from bench.mixing.method import COMPANIONS, Method, Mixing
from bench.mixing.mixup import Mixup
from bench.mixing.mixup_or_cutmix import MixupOrCutMix
from bench.mixing.regmixup import RegMixup
from bench.mixing.resizemix import ResizeMix

METHODS: dict[str, type[Method]] = {
    "erm": Erm,
    "mixup": Mixup,
    "manifold_mixup": ManifoldMixup,
    "cutmix": CutMix,
    "mixup_or_cutmix": MixupOrCutMix,
    "resizemix": ResizeMix,
    "fmix": FMix,
    "regmixup": RegMixup,
    "augmix": AugMix,
}

__all__ = ["COMPANIONS", "METHODS", "Erm", "ManifoldMixup", "Method", "Mixing", "Mixup"]
