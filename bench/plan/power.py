"""How many seeds a family of paired comparisons needs before the exact sign-flip test can say anything.

Standard library only: `bench plan` and the report both ask.
"""

from __future__ import annotations

SIGNIFICANCE_LEVEL = 0.05
"""The family-wise level of every verdict."""


def sign_flip_floor(seeds: int) -> float:
    """The smallest two-sided p of the exact sign-flip test with `seeds` pairs: 2 of the 2^n assignments of signs."""
    return min(1.0, 2.0 ** (1 - seeds))


def smallest_holm_sign_flip_p(seeds: int, comparisons: int) -> float:
    """The smallest Holm-adjusted sign-flip p that any of `comparisons` can reach with `seeds` pairs each."""
    return min(1.0, max(1, comparisons) * sign_flip_floor(seeds))


def seeds_needed(comparisons: int, *, level: float = SIGNIFICANCE_LEVEL) -> int:
    """The fewest seeds with which `smallest_holm_sign_flip_p` reaches `level`: 6 for one comparison, 9 for twelve.

    Raises ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} should lie between 0 and 1")
    seeds = 1
    while smallest_holm_sign_flip_p(seeds, comparisons) > level:
        seeds += 1
    return seeds
