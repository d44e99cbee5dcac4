"""Seeds that a family needs, against enumeration by hand."""

from __future__ import annotations

import itertools

import pytest

from bench.plan.power import seeds_needed, sign_flip_floor, smallest_holm_sign_flip_p


@pytest.mark.parametrize(
    ("seeds", "comparisons", "smallest"),
    [(6, 12, 0.375), (6, 1, 0.03125), (9, 12, 24 / 512), (3, 12, 1.0), (1, 1, 1.0)],
)
def test_smallest_p_of_a_family(seeds: int, comparisons: int, smallest: float) -> None:
    assert smallest_holm_sign_flip_p(seeds, comparisons) == smallest


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (2, 7), (12, 9), (90, 12)])
def test_seeds_needed(comparisons: int, seeds: int) -> None:
    assert seeds_needed(comparisons) == seeds
    assert smallest_holm_sign_flip_p(seeds, comparisons) <= 0.05 < smallest_holm_sign_flip_p(seeds - 1, comparisons)


@pytest.mark.parametrize("n", range(1, 9))
def test_the_floor_is_the_share_of_the_two_extreme_assignments(n: int) -> None:
    sums = [abs(sum(signs)) for signs in itertools.product((-1, 1), repeat=n)]
    assert sign_flip_floor(n) == sums.count(n) / len(sums)


def test_a_level_outside_0_and_1_is_an_error() -> None:
    with pytest.raises(ValueError, match="level 0 should lie between 0 and 1"):
        seeds_needed(1, level=0)
