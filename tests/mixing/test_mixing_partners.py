"""Whom an example is mixed with."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from toy_batches import CLASSES, batch

from bench.mixing.batch import ClassIndex
from bench.mixing.partners import draw_positions, drawn_neighbours, permuted

SEEDS = 400


def drawn(partner: str, given, seeds: int = SEEDS) -> np.ndarray:
    """(seeds, B)."""
    return np.stack([draw_positions(partner, given, rng=np.random.default_rng(seed)) for seed in range(seeds)])


def test_a_permutation_takes_each_of_the_batch_once():
    given = batch()
    found = permuted(given, rng=np.random.default_rng(0))
    assert sorted(map(repr, found.x)) == sorted(map(repr, given.x))
    assert (found.y.numpy() == found.labels).all()
    perm = np.random.default_rng(0).permutation(7)
    assert torch.equal(found.x, given.x[perm])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_partners_never_leave_the_class(size):
    given = batch(size)
    labels = given.training_set.classes.labels
    found = drawn("same_class", given)
    assert (labels[found] == given.labels).all()
    assert (found != given.positions).all(), "an example was its own partner, though its class has others"


@pytest.mark.parametrize("size", [1, 2, 7])
def test_partners_always_leave_the_class(size):
    given = batch(size)
    found = drawn("different_class", given)
    assert (given.training_set.classes.labels[found] != given.labels).all()


@pytest.mark.parametrize("partner", ["same_class", "different_class"])
def test_all_that_may_be_partners_are_as_likely(partner):
    """A chi-square test over the whole training set, for the first example of the batch."""
    given = batch(1)
    labels = given.training_set.classes.labels
    same = labels == given.labels[0]
    eligible = np.flatnonzero(same if partner == "same_class" else ~same)
    eligible = eligible[eligible != given.positions[0]]
    counts = Counter(drawn(partner, given, 2000)[:, 0])
    assert set(counts) == set(eligible)
    assert stats.chisquare([counts[position] for position in eligible]).pvalue > 0.001


def test_an_example_alone_in_its_class_is_its_own_partner():
    labels = np.zeros(40, dtype=np.int64)
    labels[11] = 1
    given = batch(40, labels=labels)
    found = draw_positions("same_class", given, rng=np.random.default_rng(0))
    where = np.flatnonzero(given.positions == 11)[0]
    assert found[where] == 11
    assert (np.delete(found, where) != np.delete(given.positions, where)).all()


def test_a_different_class_needs_two():
    with pytest.raises(ValueError, match="needs two classes"):
        draw_positions("different_class", batch(labels=np.zeros(40, dtype=np.int64)), rng=np.random.default_rng(0))


def test_the_next_batch_is_what_follows_in_the_epoch():
    order = batch().training_set.order
    for place, expected in [(0, order[7:14]), (28, [*order[35:40], *order[:2]]), (35, order[0:5])]:
        given = batch(7 if place < 35 else 5, place=place)
        found = draw_positions("next_batch", given, rng=np.random.default_rng(0))
        assert (found == expected).all(), place


def test_neighbours_are_those_of_the_table():
    table = np.array([[(i + 1) % 40, (i + 2) % 40, -1] for i in range(40)], dtype=np.int32)
    given = batch(neighbours=table)
    steps = (drawn("neighbours", given) - given.positions) % 40
    assert set(np.unique(steps)) == {1, 2}
    assert stats.binomtest(int((steps[:, 0] == 1).sum()), SEEDS).pvalue > 0.001


def test_each_neighbour_is_drawn_as_often_as_the_others():
    table = np.array([[5, 1, 2, 7], [3, 4, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
    rows = np.repeat([3, 1, 0, 2], 4_000)
    drawn = drawn_neighbours(table, rows, rng=np.random.default_rng(0))
    assert drawn.dtype == np.int64
    assert drawn.shape == rows.shape
    for row, valid in enumerate([[1, 2, 5, 7], [3, 4], [0], [3]]):
        values, counts = np.unique(drawn[rows == row], return_counts=True)
        assert values.tolist() == valid
        assert len(valid) == 1 or stats.chisquare(counts).pvalue > 1e-3
    assert drawn_neighbours(table, rows[:0], rng=np.random.default_rng(0)).shape == (0,)


def test_draws_are_independent_and_the_generators():
    table = np.array([[1, 2], [0, 2], [0, 1]], dtype=np.int32)
    rows = np.zeros(4_000, dtype=np.int64)
    drawn = drawn_neighbours(table, rows, rng=np.random.default_rng(1))
    assert np.array_equal(drawn_neighbours(table, rows, rng=np.random.default_rng(1)), drawn)
    assert not np.array_equal(drawn_neighbours(table, rows, rng=np.random.default_rng(2)), drawn)
    pairs = np.bincount(2 * (drawn[:-1] - 1) + drawn[1:] - 1, minlength=4)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_the_index_of_classes():
    labels = np.random.default_rng(0).integers(CLASSES, size=100)
    index = ClassIndex(labels)
    first, end = index.span(np.arange(CLASSES))
    for label in range(CLASSES):
        assert (index.members[first[label] : end[label]] == np.flatnonzero(labels == label)).all()
    assert (index.members[index.places] == np.arange(100)).all()
