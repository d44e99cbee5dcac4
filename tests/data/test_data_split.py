"""Stratified splits against scikit-learn's and against what their definition promises."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from bench.data.split import carve_validation, hold_out, subset

LABELS = np.random.default_rng(0).choice(5, size=2003, p=[0.4, 0.3, 0.2, 0.09, 0.01])


def test_validation_and_training_are_a_partition() -> None:
    train, val = carve_validation(LABELS, 0.1, np.random.default_rng(1))
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(LABELS)))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(val) > 0)
    assert train.dtype == val.dtype == np.int64


@pytest.mark.parametrize("fraction", [0.05, 0.1, 1 / 3, 0.5])
def test_validation_has_the_class_counts_of_scikit_learn(fraction: float) -> None:
    size = round(fraction * len(LABELS))
    _, val = carve_validation(LABELS, fraction, np.random.default_rng(2))
    _, theirs = next(StratifiedShuffleSplit(1, test_size=size, random_state=0).split(LABELS, LABELS))
    # scikit-learn breaks ties of the remainders at random: hence one more or less
    assert np.abs(np.bincount(LABELS[val]) - np.bincount(LABELS[theirs])).max() <= 1
    assert len(val) == size


def test_no_validation() -> None:
    train, val = carve_validation(LABELS, 0, np.random.default_rng(3))
    assert np.array_equal(train, np.arange(len(LABELS)))
    assert val.shape == (0,)
    assert val.dtype == np.int64


def test_a_class_never_leaves_training() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    train, _ = carve_validation(labels, 0.99, np.random.default_rng(4))
    assert np.array_equal(np.unique(labels[train]), [0, 1, 2])


def test_a_larger_validation_set_contains_a_smaller_one() -> None:
    small, large = (carve_validation(LABELS, fraction, np.random.default_rng(5))[1] for fraction in (0.1, 0.2))
    assert np.isin(small, large).all()


def test_validation_is_random_and_reproducible() -> None:
    first, again, other = (carve_validation(LABELS, 0.1, np.random.default_rng(seed))[1] for seed in (6, 6, 7))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_example_is_as_likely_to_validate() -> None:
    """Each of 40 examples is drawn with probability 1/4: over 2,000 draws within 5 standard errors of that."""
    labels = np.repeat([0, 1], 20)
    rng = np.random.default_rng(8)
    times = np.zeros(40)
    for _ in range(2000):
        times[carve_validation(labels, 0.25, rng)[1]] += 1
    assert np.abs(times / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_an_impossible_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation fraction"):
        carve_validation(LABELS, fraction, np.random.default_rng(9))


def test_subset_is_stratified_sorted_and_exact() -> None:
    index = subset(LABELS, 500, np.random.default_rng(10))
    assert len(index) == 500
    assert np.all(np.diff(index) > 0)
    assert np.abs(np.bincount(LABELS[index]) - np.bincount(LABELS) * 500 / len(LABELS)).max() < 1


def test_the_whole_is_a_subset() -> None:
    assert np.array_equal(subset(LABELS, len(LABELS), np.random.default_rng(11)), np.arange(len(LABELS)))


@pytest.mark.parametrize("size", [0, len(LABELS) + 1])
def test_an_impossible_subset(size: int) -> None:
    with pytest.raises(ValueError, match="subset of"):
        subset(LABELS, size, np.random.default_rng(12))


def test_hold_out_goes_by_key_and_not_by_order() -> None:
    keys = [b"class %d/image %d" % (label, i) for i, label in enumerate(LABELS)]
    _, test = hold_out(keys, LABELS, 0.2)
    order = np.random.default_rng(13).permutation(len(keys))
    _, shuffled = hold_out([keys[i] for i in order], LABELS[order], 0.2)
    assert {keys[i] for i in test} == {keys[order[i]] for i in shuffled}
    assert np.abs(np.bincount(LABELS[test]) - np.bincount(LABELS) * 0.2).max() < 1


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_hold_out_leaves_each_side_something_of_each_class(fraction: float) -> None:
    labels = np.array([0] * 50 + [1] * 2)
    for side in hold_out([b"%d" % i for i in range(52)], labels, fraction):
        assert set(labels[side]) == {0, 1}
