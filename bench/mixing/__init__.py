"""How inputs and labels are mixed: one module per family of methods, each owning its loss.

To add a method: a module here, and its class in METHODS. Its options are the class's fields; the contract test
in tests/mixing finds it. Nothing here imports torch at module level, because plans are made without it.
"""

from bench.mixing.dropout import Dropout
from bench.mixing.erm import Erm
from bench.mixing.method import Method
from bench.mixing.mixup import Mixup

METHODS: dict[str, type[Method]] = {
    "erm": Erm,
    "mixup": Mixup,
    "dropout": Dropout,
}

__all__ = ["METHODS", "Dropout", "Erm", "Method", "Mixup"]
