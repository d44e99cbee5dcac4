"""Label noise against its definitions, by counting."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from bench.data.label_noise import (
    CLASS_MAPS,
    KINDS,
    class_map,
    corrupt_labels,
    instance_noise,
    nominal_rate,
    realised_matrix,
    transition_matrix,
)

K = 7
LABELS = np.random.default_rng(0).integers(K, size=70_000)
TARGETS = np.array([1, 0, 2, 6, 4, 6, 6])  # 0 <-> 1, 3 -> 6, 5 -> 6; 2, 4 and 6 stay
MATRIX = np.array(
    [
        [0.9, 0.1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0.25, 0.75],
        [0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.1],
        [0.5, 0, 0, 0, 0.5, 0, 0],
        [0, 0, 0.001, 0, 0, 0.999, 0],
        [0.4, 0.4, 0, 0, 0, 0, 0.2],
    ]
)
POSTERIOR = np.random.default_rng(1).dirichlet(np.full(K, 0.3), size=len(LABELS)).astype(np.float32)
GIVEN = np.random.default_rng(2).integers(K, size=len(LABELS))
NEEDS: dict[str, dict[str, Any]] = {
    "asymmetric": {"class_map": TARGETS},
    "matrix": {"transition": MATRIX},
    "instance": {"posterior": POSTERIOR},
    "human": {"given": GIVEN},
}
NESTED = ("uniform", "symmetric", "pair_flip", "asymmetric", "instance")
DRAWN = (*NESTED, "matrix")
CLASS_CONDITIONAL = ("uniform", "symmetric", "pair_flip", "asymmetric", "matrix")


def corrupt(kind: str, rate: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return corrupt_labels(LABELS, kind=kind, rate=rate, num_classes=K, rng=rng, **NEEDS.get(kind, {}))


def transition_probabilities(kind: str, rate: float) -> np.ndarray:
    """By the definitions, entry by entry.  Row: true class, column: given class."""
    expected = np.zeros((K, K))
    for y in range(K):
        for label in range(K):
            expected[y, label] = {
                "uniform": rate / K + (1 - rate) * (label == y),
                "symmetric": 1 - rate if label == y else rate / (K - 1),
                "pair_flip": {y: 1 - rate, (y + 1) % K: rate}.get(label, 0),
                "asymmetric": (1 - rate) * (label == y) + rate * (label == TARGETS[y]),
                "matrix": MATRIX[y, label],
            }[kind]
    return expected


def count(labels: np.ndarray) -> np.ndarray:
    counts = np.zeros((K, K))
    np.add.at(counts, (LABELS, labels), 1)
    return counts


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", CLASS_CONDITIONAL)
def test_transitions_follow_the_definition(kind: str, rate: float) -> None:
    observed = count(corrupt(kind, rate))
    expected = np.bincount(LABELS)[:, None] * transition_probabilities(kind, rate)
    possible = expected > 0
    assert not observed[~possible].any()
    if kind in ("pair_flip", "asymmetric", "matrix"):  # a row with a single entry says nothing
        possible &= possible.sum(axis=1, keepdims=True) > 1
    # rows have given sums, so each loses a degree of freedom
    rows = int(possible.any(axis=1).sum())
    p = stats.chisquare(observed[possible], expected[possible], ddof=rows - 1).pvalue
    assert p > 1e-3


@pytest.mark.parametrize("kind", CLASS_CONDITIONAL)
def test_the_nominal_matrix_is_the_definition(kind: str) -> None:
    matrix = transition_matrix(kind, 0.3, K, class_map=TARGETS, matrix=MATRIX)
    np.testing.assert_allclose(matrix, transition_probabilities(kind, 0.3), atol=1e-12)


@pytest.mark.parametrize("kind", ["instance", "human"])
def test_what_no_matrix_describes_has_none(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} is not class-conditional"):
        transition_matrix(kind, 0.3, K)


def test_at_rate_1_symmetric_keeps_no_label_and_uniform_one_in_k() -> None:
    assert not np.any(corrupt("symmetric", 1) == LABELS)
    kept = int(np.sum(corrupt("uniform", 1) == LABELS))
    assert stats.binomtest(kept, len(LABELS), 1 / K).pvalue > 1e-3


def test_at_rate_1_pair_flip_and_asymmetric_map_every_label() -> None:
    assert np.array_equal(corrupt("pair_flip", 1), (LABELS + 1) % K)
    assert np.array_equal(corrupt("asymmetric", 1), TARGETS[LABELS])


def test_a_matrix_of_ones_and_zeros_is_a_permutation() -> None:
    permutation = np.random.default_rng(3).permutation(K)
    rng = np.random.default_rng(4)
    labels = corrupt_labels(LABELS, kind="matrix", rate=0, num_classes=K, rng=rng, transition=np.eye(K)[permutation])
    assert np.array_equal(labels, permutation[LABELS])


def test_uniform_and_symmetric_give_the_labels_that_they_always_gave() -> None:
    """As version 0.1 drew them: another order of draws would change every trial with label noise."""
    stored = {"uniform": [2, 3, 2, 1, 4, 0, 1, 3, 3, 4, 2, 1], "symmetric": [2, 4, 2, 0, 3, 0, 3, 1, 3, 4, 2, 1]}
    for kind, labels in stored.items():
        rng = np.random.default_rng(11)
        assert corrupt_labels(np.arange(12) % 5, kind=kind, rate=0.5, num_classes=5, rng=rng).tolist() == labels


@pytest.mark.parametrize("kind", NESTED)
def test_wrong_labels_are_nested_in_the_rate(kind: str) -> None:
    below = LABELS
    for rate in (0.1, 0.2, 0.4, 0.6, 0.9):
        labels = corrupt(kind, rate)
        wrong = below != LABELS
        assert np.array_equal(labels[wrong], below[wrong])
        assert np.sum(labels != LABELS) > wrong.sum()
        below = labels


@pytest.mark.parametrize("kind", DRAWN)
def test_the_generator_ends_where_it_would_at_any_rate(kind: str) -> None:
    states = set()
    for rate in (0, 0.3, 1):
        rng = np.random.default_rng(2)
        corrupt_labels(LABELS, kind=kind, rate=rate, num_classes=K, rng=rng, **NEEDS.get(kind, {}))
        states.add(str(rng.bit_generator.state))
    assert len(states) == 1


@pytest.mark.parametrize("kind", NESTED)
def test_rate_0_is_an_unchanged_copy(kind: str) -> None:
    labels = LABELS.copy()
    rng = np.random.default_rng(3)
    noisy = corrupt_labels(labels, kind=kind, rate=0, num_classes=K, rng=rng, **NEEDS.get(kind, {}))
    assert np.array_equal(noisy, labels)
    noisy[0] = -1
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("kind", DRAWN)
def test_the_seed_decides(kind: str) -> None:
    assert np.array_equal(corrupt(kind, 0.3, seed=4), corrupt(kind, 0.3, seed=4))
    assert not np.array_equal(corrupt(kind, 0.3, seed=4), corrupt(kind, 0.3, seed=5))


def test_human_labels_are_a_copy_of_those_given_and_draw_nothing() -> None:
    rng = np.random.default_rng(5)
    before = str(rng.bit_generator.state)
    labels = corrupt_labels(LABELS, kind="human", rate=0, num_classes=K, rng=rng, given=GIVEN)
    assert np.array_equal(labels, GIVEN)
    assert not np.shares_memory(labels, GIVEN)
    assert str(rng.bit_generator.state) == before


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_int64_and_the_input_is_left_alone(kind: str) -> None:
    labels = LABELS.astype(np.int32)
    labels.setflags(write=False)
    rng = np.random.default_rng(6)
    noisy = corrupt_labels(labels, kind=kind, rate=0.5, num_classes=K, rng=rng, **NEEDS.get(kind, {}))
    assert noisy.dtype == np.int64
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nominal_rate_is_what_comes_out(kind: str) -> None:
    needs = {name: value for name, value in NEEDS.get(kind, {}).items() if name != "posterior"}
    nominal = nominal_rate(LABELS, kind=kind, rate=0.4, num_classes=K, **needs)
    wrong = int(np.sum(corrupt(kind, 0.4) != LABELS))
    if kind == "human":
        assert nominal == wrong / len(LABELS)
    else:
        assert stats.binomtest(wrong, len(LABELS), nominal).pvalue > 1e-3


def test_nominal_rates_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 2])
    rates = {
        "uniform": 0.4 * 2 / 3,
        "symmetric": 0.4,
        "pair_flip": 0.4,
        "asymmetric": 0.4 * 4 / 5,  # class 2 stays
        "instance": 0.4,
        "matrix": (3 * 0.1 + 0.5 + 1) / 5,
        "human": 2 / 5,
    }
    needs = {
        "asymmetric": {"class_map": np.array([1, 0, 2])},
        "matrix": {"transition": np.array([[0.9, 0.1, 0], [0.5, 0.5, 0], [0, 1, 0]])},
        "human": {"given": np.array([0, 2, 0, 1, 1])},
    }
    for kind, expected in rates.items():
        rate = 0.0 if kind in ("matrix", "human") else 0.4
        nominal = nominal_rate(labels, kind=kind, rate=rate, num_classes=3, **needs.get(kind, {}))
        assert nominal == pytest.approx(expected), kind


def test_realised_counts() -> None:
    labels = corrupt("matrix", 0)
    matrix = realised_matrix(LABELS, labels, K)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, count(labels))
    assert realised_matrix(np.array([2, 2, 0]), np.array([1, 2, 0]), 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_instance_noise_of_three_examples() -> None:
    """Margins 0.5 and 0.2, and one at which the estimate prefers another class: tau 0.375, 0.48 and 0.5."""
    posterior = np.array([[0.7, 0.2, 0.1], [0.15, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=np.float32)
    second, probability = instance_noise(np.array([0, 1, 0]), posterior, rate=0.2)
    assert second.tolist() == [1, 2, 2]
    tau = np.array([0.375, 0.48, 0.5])
    np.testing.assert_allclose(probability, tau * 0.6 / tau.sum(), rtol=1e-6)


@pytest.mark.parametrize("concentration", [0.02, 0.3, 3])
@pytest.mark.parametrize("rate", [0.05, 0.4, 0.7])
def test_the_factor_is_the_root_that_a_solver_finds(rate: float, concentration: float) -> None:
    posterior = np.random.default_rng(7).dirichlet(np.full(K, concentration), size=2_000).astype(np.float32)
    labels = np.where(np.arange(2_000) % 3 > 0, posterior.argmax(axis=1), LABELS[:2_000])
    tau = np.empty(2_000)
    for i, (eta, y) in enumerate(zip(posterior.astype(float).tolist(), labels, strict=True)):
        margin = eta[y] - max(value for k, value in enumerate(eta) if k != y)
        tau[i] = 0.5 - 0.5 * max(margin, 0) ** 2

    def excess(log_factor: float) -> float:
        return float(np.minimum(1, np.exp(log_factor) * tau).mean() - rate)

    factor = np.exp(optimize.brentq(excess, -20, 40, xtol=1e-14))
    _, probability = instance_noise(labels, posterior, rate=rate)
    assert probability.mean() == pytest.approx(rate, abs=1e-12)
    np.testing.assert_allclose(probability, np.minimum(1, factor * tau), rtol=1e-6)


def test_instance_noise_falls_with_the_margin_and_goes_to_the_second_class() -> None:
    labels = POSTERIOR.argmax(axis=1)
    top = np.sort(POSTERIOR.astype(float), axis=1)[:, ::-1]
    margin = top[:, 0] - top[:, 1]
    flipped = np.zeros(len(labels))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noisy = corrupt_labels(labels, kind="instance", rate=0.3, num_classes=K, rng=rng, posterior=POSTERIOR)
        wrong = noisy != labels
        assert stats.binomtest(int(wrong.sum()), len(labels), 0.3).pvalue > 1e-4
        assert np.array_equal(noisy[wrong], POSTERIOR.argsort(axis=1)[wrong, -2])
        flipped += wrong
    assert stats.spearmanr(flipped, margin).statistic < -0.4
    _, probability = instance_noise(labels, POSTERIOR, rate=0.3)
    assert np.all(np.diff(probability[np.argsort(margin)]) <= 0)
    by_tenth = [
        (flipped[part].mean() / 20, probability[part].mean()) for part in np.array_split(np.argsort(margin), 10)
    ]
    np.testing.assert_allclose(*zip(*by_tenth, strict=True), atol=0.01)


def test_a_rate_that_instance_noise_cannot_reach_is_refused() -> None:
    posterior = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]
    posterior[:3] = 0.25
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
    _, probability = instance_noise(labels, posterior, rate=0.3)
    np.testing.assert_allclose(probability, [1] * 3 + [0] * 7, atol=1e-12)
    with pytest.raises(ValueError, match=r"rate of 0\.4: no more than 0\.3 .* lower rate"):
        instance_noise(labels, posterior, rate=0.4)
    with pytest.raises(ValueError, match=r"shape \(10, 4\) for 9 labels"):
        instance_noise(labels[:9], posterior, rate=0.1)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The superclass of each of CIFAR-100's classes, as the `coarse_labels` of its own files have it.
SUPERCLASSES = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14
    17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1
    2 15 6 0 17 8 14 13
"""


def test_the_maps_of_patrini() -> None:
    assert class_map("cifar10", CIFAR10, None).tolist() == [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]
    for name in ("mnist", "digits"):
        assert class_map(name, tuple("0123456789"), None).tolist() == [0, 1, 7, 8, 4, 6, 5, 1, 8, 9]


def test_cifar100_goes_around_each_superclass() -> None:
    targets = class_map("cifar100", tuple(sorted(CLASS_MAPS["cifar100"])), None)
    for superclass in range(20):
        members = [k for k, own in enumerate(SUPERCLASSES.split()) if int(own) == superclass]
        assert len(members) == 5
        assert targets[members].tolist() == [*members[1:], members[0]]


def test_fashion_mnist_maps_shoes_to_shoes_and_tops_to_tops() -> None:
    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    assert class_map("fashion_mnist", names, None).tolist() == [0, 1, 6, 4, 3, 5, 6, 5, 8, 7]


def test_a_map_of_ones_own() -> None:
    names = ("cat", "dog", "owl")
    assert class_map("image_folder", names, {"cat": "dog", "dog": "cat"}).tolist() == [1, 0, 2]
    assert class_map("image_folder", names, {0: 2, "2": "dog"}).tolist() == [2, 1, 1]
    assert class_map("cifar10", CIFAR10, {"ship": "airplane"}).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 9]
    # a number that is a class's name is that name
    assert class_map("image_folder", ("3", "5", "8"), {3: 5, 2: 0}).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cta": "dog"}, "unknown class 'cta'.*did you mean 'cat'"),
        ({"cat": "dgo"}, "unknown class 'dgo'.*did you mean 'dog'"),
        ({"zebra": "dog"}, "unknown class 'zebra'.*there is cat, dog, owl, or a number from 0 to 2"),
        ({3: 0}, "unknown class 3"),
        ({"cat": 0}, "'cat' to itself"),
        ({"cat": "dog", 0: 2}, "'cat' twice"),
        ({}, "empty"),
        (None, r"no map .* is known for image_folder, only for cifar10.*map: \{cat: dog\}"),
    ],
)
def test_a_map_that_cannot_be_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_map("image_folder", ("cat", "dog", "owl"), given)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 0], [0, 1]], "row 0 of the matrix has 2 entries, not 3"),
        ([[1, 0, 0], [0, 1, 0]], "the matrix has 2 rows, not 3"),
        ([[1, 0, 0], [0, 1], [0, 0, 1]], "row 1 of the matrix has 2 entries"),
        ([[1, 0, 0], [0.5, 0.4, 0], [0, 0, 1]], r"row 1 of the matrix sums to 0\.9"),
        ([[1, 0, 0], [0, 1, 0], [-0.5, 0.5, 1]], r"row 2 of the matrix has -0\.5"),
        ([[1, 0, 0], [0, float("nan"), 1], [0, 0, 1]], "row 1 of the matrix has nan"),
    ],
)
def test_a_matrix_that_is_none_is_refused(matrix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transition_matrix("matrix", 0, 3, matrix=matrix)


def test_rounded_rows_are_made_to_sum_to_1() -> None:
    rows = transition_matrix("matrix", 0, 3, matrix=[[0.333333] * 3, [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(rows[0], 1 / 3, rtol=1e-15)


class LastDraw:
    """A generator whose uniform draws are as near to 1 as they come."""

    def random(self, size: int) -> np.ndarray:
        return np.full(size, np.nextafter(1, 0))


def test_a_row_whose_sum_falls_short_of_1_still_ends_at_its_last_possible_class() -> None:
    row = np.array([0.1] * 10 + [0] * 2)
    assert np.cumsum(row)[-1] < 1
    matrix: Any = np.tile(row, (12, 1))
    rng: Any = LastDraw()
    labels = corrupt_labels(np.arange(12), kind="matrix", rate=0, num_classes=12, rng=rng, transition=matrix)
    assert labels.tolist() == [9] * 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "symetric"}, "did you mean 'symmetric'"),
        ({"rate": 1.1}, "rate of 1.1"),
        ({"rate": -0.1}, "rate of -0.1"),
        ({"rate": float("nan")}, "rate of nan"),
        ({"num_classes": 1}, "at least two"),
        ({"num_classes": K - 1}, "must lie in"),
        ({"kind": "asymmetric"}, "asymmetric needs class_map"),
        ({"kind": "asymmetric", "class_map": TARGETS[:-1]}, r"a class map of shape \(6,\)"),
        ({"kind": "asymmetric", "class_map": TARGETS + 1}, "targets of the class map from 1 to 7"),
        ({"kind": "matrix"}, "matrix needs transition"),
        ({"kind": "matrix", "transition": MATRIX[:-1]}, "the matrix has 6 rows, not 7"),
        ({"kind": "instance"}, "instance needs posterior"),
        ({"kind": "human"}, "human needs given"),
        ({"kind": "human", "given": GIVEN[:-1]}, r"given labels of shape \(69999,\)"),
        ({"kind": "human", "given": GIVEN + 1}, "given labels from 1 to 7"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"kind": "uniform", "rate": 0.5, "num_classes": K, **change}
    with pytest.raises(ValueError, match=message):
        corrupt_labels(LABELS, **arguments, rng=np.random.default_rng(7))


@pytest.mark.parametrize(
    "call",
    [
        lambda: nominal_rate(LABELS[:0], kind="uniform", rate=0.1, num_classes=K),
        lambda: nominal_rate(LABELS, kind="human", rate=0, num_classes=K),
        lambda: transition_matrix("asymmetric", 0.1, K),
        lambda: transition_matrix("matrix", 0, K),
        lambda: transition_matrix("uniform", 2, K),
        lambda: realised_matrix(LABELS, LABELS + 1, K),
    ],
)
def test_the_others_refuse_it_too(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"no examples|needs|rate of 2|must lie in"):
        call()
