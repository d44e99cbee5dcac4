"""The error of a network that cannot be built as asked."""

from __future__ import annotations

from collections.abc import Sequence


class ModelError(ValueError):
    """An unknown network, or an argument that it does not take.

    problem: what is wrong, in one sentence.  nearest: valid names close to the wrong one, the closest first.
    """

    def __init__(self, problem: str, nearest: Sequence[str] = ()) -> None:
        super().__init__(f"{problem}; nearest: {', '.join(nearest)}" if nearest else problem)
        self.problem = problem
        self.nearest = tuple(nearest)
