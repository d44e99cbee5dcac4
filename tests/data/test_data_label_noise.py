"""Label noise against its definition, by counting."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.data.label_noise import KINDS, corrupt_labels

K = 7
LABELS = np.random.default_rng(0).integers(K, size=70_000)


def corrupt(kind: str, rate: float, seed: int = 1) -> np.ndarray:
    return corrupt_labels(LABELS, kind=kind, rate=rate, num_classes=K, rng=np.random.default_rng(seed))


def transition_probabilities(kind: str, rate: float) -> np.ndarray:
    """Row: true class, column: given class.  Uniform noise may redraw the true class, symmetric noise cannot."""
    if kind == "uniform":
        return (1 - rate) * np.eye(K) + rate / K * np.ones((K, K))
    return (1 - rate) * np.eye(K) + rate / (K - 1) * (1 - np.eye(K))


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_transitions_follow_the_definition(kind: str, rate: float) -> None:
    observed = np.zeros((K, K))
    np.add.at(observed, (LABELS, corrupt(kind, rate)), 1)
    expected = np.bincount(LABELS)[:, None] * transition_probabilities(kind, rate)
    # rows have given sums: K - 1 degrees of freedom each
    p = stats.chisquare(observed.ravel(), expected.ravel(), ddof=K - 1).pvalue
    assert p > 1e-3


def test_at_rate_1_symmetric_keeps_no_label_and_uniform_one_in_k() -> None:
    assert not np.any(corrupt("symmetric", 1) == LABELS)
    kept = int(np.sum(corrupt("uniform", 1) == LABELS))
    assert stats.binomtest(kept, len(LABELS), 1 / K).pvalue > 1e-3


def test_realised_rate_of_uniform_noise_is_below_its_rate() -> None:
    wrong = int(np.sum(corrupt("uniform", 0.4) != LABELS))
    assert stats.binomtest(wrong, len(LABELS), 0.4 * (K - 1) / K).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_labels_are_nested_in_the_rate(kind: str) -> None:
    low, high = corrupt(kind, 0.2), corrupt(kind, 0.6)
    wrong = low != LABELS
    assert wrong.any()
    assert np.array_equal(high[wrong], low[wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_ends_where_it_would_at_any_rate(kind: str) -> None:
    states = set()
    for rate in (0, 0.3, 1):
        rng = np.random.default_rng(2)
        corrupt_labels(LABELS, kind=kind, rate=rate, num_classes=K, rng=rng)
        states.add(str(rng.bit_generator.state))
    assert len(states) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_rate_0_is_an_unchanged_copy(kind: str) -> None:
    labels = LABELS.copy()
    noisy = corrupt_labels(labels, kind=kind, rate=0, num_classes=K, rng=np.random.default_rng(3))
    assert np.array_equal(noisy, labels)
    noisy[0] = -1
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    assert np.array_equal(corrupt(kind, 0.3, seed=4), corrupt(kind, 0.3, seed=4))
    assert not np.array_equal(corrupt(kind, 0.3, seed=4), corrupt(kind, 0.3, seed=5))


def test_labels_are_int64_and_the_input_is_left_alone() -> None:
    labels = LABELS.copy()
    labels.setflags(write=False)
    noisy = corrupt_labels(labels, kind="symmetric", rate=0.5, num_classes=K, rng=np.random.default_rng(6))
    assert noisy.dtype == np.int64
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "symetric"}, "did you mean 'symmetric'"),
        ({"rate": 1.1}, "rate of 1.1"),
        ({"rate": -0.1}, "rate of -0.1"),
        ({"rate": float("nan")}, "rate of nan"),
        ({"num_classes": 1}, "at least two"),
        ({"num_classes": K - 1}, "must lie in"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"kind": "uniform", "rate": 0.5, "num_classes": K, **change}
    with pytest.raises(ValueError, match=message):
        corrupt_labels(LABELS, **arguments, rng=np.random.default_rng(7))
