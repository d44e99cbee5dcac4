"""Wrong training labels, drawn so that they depend on the labels, the kind's own arguments and the generator alone.

Kinds: uniform, symmetric, pair_flip, asymmetric and matrix are class-conditional: a matrix says how often each class
is given each label.  instance goes by each image, human by what people said.  See docs/label-noise.md.
"""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]
Given = Mapping[str | int, str | int]

KINDS = ("uniform", "symmetric", "pair_flip", "asymmetric", "matrix", "instance", "human")

# What a row of a matrix may be off 1 by: what writing probabilities with six digits leaves.
ROW_SUM_TOLERANCE = 1e-5

_DIGITS = {"2": "7", "3": "8", "5": "6", "6": "5", "7": "1"}

# The five classes of each superclass in the order of their numbers, which is alphabetical (Krizhevsky 2009).
_CIFAR100_SUPERCLASSES = """
    beaver dolphin otter seal whale
    aquarium_fish flatfish ray shark trout
    orchid poppy rose sunflower tulip
    bottle bowl can cup plate
    apple mushroom orange pear sweet_pepper
    clock keyboard lamp telephone television
    bed chair couch table wardrobe
    bee beetle butterfly caterpillar cockroach
    bear leopard lion tiger wolf
    bridge castle house road skyscraper
    cloud forest mountain plain sea
    camel cattle chimpanzee elephant kangaroo
    fox porcupine possum raccoon skunk
    crab lobster snail spider worm
    baby boy girl man woman
    crocodile dinosaur lizard snake turtle
    hamster mouse rabbit shrew squirrel
    maple_tree oak_tree palm_tree pine_tree willow_tree
    bicycle bus motorcycle pickup_truck train
    lawn_mower rocket streetcar tank tractor
"""

CLASS_MAPS: dict[str, dict[str, str]] = {
    "cifar10": {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"},
    "cifar100": {
        source: target
        for names in map(str.split, _CIFAR100_SUPERCLASSES.strip().splitlines())
        for source, target in zip(names, names[1:] + names[:1], strict=True)
    },
    "digits": _DIGITS,
    "fashion_mnist": {
        "Ankle boot": "Sneaker",
        "Sneaker": "Sandal",
        "Pullover": "Shirt",
        "Coat": "Dress",
        "Dress": "Coat",
    },
    "mnist": _DIGITS,
}
"""Which class is mistaken for which, by data set.

cifar10, mnist (digits are digits too) and cifar100 (the next class of the superclass, around its end to its start):
Patrini et al. 2017, sec. 5.  fashion_mnist: Zhang and Sabuncu 2018, "Generalized Cross Entropy Loss".
"""


def corrupt_labels(
    labels: Labels,
    *,
    kind: str,
    rate: float,
    num_classes: int,
    rng: np.random.Generator,
    class_map: Labels | None = None,
    transition: Matrix | None = None,
    posterior: NDArray[np.float32] | None = None,
    given: Labels | None = None,
) -> Labels:
    """A copy of labels in which some are wrong.

    labels: (n,) int in [0, num_classes), the true ones.  kind: a name in KINDS.  rate: in [0, 1]; 0 changes nothing.
    uniform: redrawn over all classes with probability `rate`, so 1/K of them stay right (Zhang et al. 2018, sec. 3.4).
    symmetric: one of the other classes with probability `rate`.
    pair_flip: y becomes (y + 1) mod K with probability `rate` (Han et al. 2018, "Co-teaching").
    asymmetric: y becomes class_map[y] with probability `rate`; class_map (K,) is `class_map`'s, and a class that it
        maps to itself stays (Patrini et al. 2017).
    matrix: y becomes j with probability transition[y, j]; (K, K), rows sum to 1.  The rate is not used.
    instance: y becomes the likeliest other class by posterior (n, K) with `instance_noise`'s probability, which is
        `rate` on average.
    human: the labels `given` (n,).  Neither rate nor generator is used.

    But for matrix and human, the draws do not depend on the rate: for one generator state, a label that is wrong at a
    low rate is wrong in the same way at every higher one.  Raises ValueError for an unknown kind, for an argument that
    the kind needs and lacks, and for values out of range.
    """
    _check(kind, rate, num_classes)
    _check_labels("labels", labels, num_classes)
    if kind == "human":
        if given is None:
            raise _lacks(kind, "given")
        if given.shape != labels.shape:
            raise ValueError(f"given labels of shape {given.shape} for labels of shape {labels.shape}")
        _check_labels("given labels", given, num_classes)
        return given.astype(np.int64)
    uniforms = rng.random(len(labels))
    if kind == "matrix":
        if transition is None:
            raise _lacks(kind, "transition")
        return _by_row(labels, _checked_matrix(transition, num_classes), uniforms)
    flip = uniforms < rate
    match kind:
        case "uniform":
            replacement = rng.integers(num_classes, size=len(labels))
        case "symmetric":
            replacement = (labels + rng.integers(1, num_classes, size=len(labels))) % num_classes
        case "pair_flip":
            replacement = (labels + 1) % num_classes
        case "asymmetric":
            if class_map is None:
                raise _lacks(kind, "class_map")
            _check_map(class_map, num_classes)
            replacement = class_map[labels]
        case _:
            if posterior is None:
                raise _lacks(kind, "posterior")
            replacement, probability = instance_noise(labels, posterior, rate=rate)
            flip = uniforms < probability
    return np.where(flip, replacement, labels).astype(np.int64)


def instance_noise(
    labels: Labels, posterior: NDArray[np.float32], *, rate: float
) -> tuple[Labels, NDArray[np.float64]]:
    """Each example's likeliest wrong class and the probability of being given it: (n,) int64, (n,) in [0, 1].

    labels: (n,) true classes.  posterior: (n, K) estimates of the probabilities of the classes, eta.  With u the true
    class, s the likeliest other one and m = max(eta_u - eta_s, 0), the probability is min(1, c tau), where
    tau = 1/2 - m^2 / 2; c is such that the mean is `rate`, so every probability rises with it.  Raises ValueError if
    the posterior has another shape, or if too many of its examples are certain (tau = 0) for the rate to be reached.

    Source: type-I polynomial-margin-diminishing noise, Zhang et al. 2021, "Learning with Feature-Dependent Label
    Noise", sec. 4, in the form of the authors' code.  There u is the likeliest class, and the clean labels are drawn
    from eta; here the data set's labels are the clean ones, so m is cut at 0 where the estimate prefers another class.
    """
    n = len(labels)
    if posterior.ndim != 2 or len(posterior) != n:
        raise ValueError(f"a posterior of shape {posterior.shape} for {n} labels: it has a row for each")
    rows = np.arange(n)
    others = posterior.astype(np.float64)
    true_probability = others[rows, labels]
    others[rows, labels] = -1
    second = others.argmax(axis=1)
    margin = np.maximum(true_probability - others[rows, second], 0)
    tau = (1 - margin**2) / 2
    return second.astype(np.int64), np.minimum(1, _scale_to_mean(tau, rate) * tau)


def class_map(dataset_name: str, class_names: Sequence[str], given: Given | None) -> Labels:
    """The class that each class is mistaken for: (K,) int64, a class's own number where it is not mistaken.

    given: class to class, by name or number, as a suite has it; None takes the map known for the data set
    (CLASS_MAPS).  What is both a class's name and a number is the name: among the classes "3" and "5", 3 is the first.
    Raises ValueError, naming the nearest classes, for one that there is not; for a class mapped twice or to itself;
    and where no map is given and none is known.
    """
    if given is None and dataset_name not in CLASS_MAPS:
        raise ValueError(
            f"no map of mistaken classes is known for {dataset_name}, only for {', '.join(CLASS_MAPS)}: give one, "
            f"as in map: {{{class_names[0]}: {class_names[1]}}}"
        )
    pairs: Given = dict(CLASS_MAPS[dataset_name].items()) if given is None else given
    if not pairs:
        raise ValueError("the map of mistaken classes is empty: it names no class that would be mistaken")
    targets = np.arange(len(class_names), dtype=np.int64)
    for source, target in pairs.items():
        number, mistaken_for = _class_number(source, class_names), _class_number(target, class_names)
        if number == mistaken_for:
            raise ValueError(f"the map of mistaken classes maps {class_names[number]!r} to itself: leave it out")
        if targets[number] != number:
            raise ValueError(f"the map of mistaken classes maps {class_names[number]!r} twice")
        targets[number] = mistaken_for
    return targets


def transition_matrix(
    kind: str,
    rate: float,
    num_classes: int,
    *,
    class_map: Labels | None = None,
    matrix: Matrix | Sequence[Sequence[float]] | None = None,
) -> Matrix:
    """How often a class-conditional kind gives each class each label: (K, K), rows (the true classes) sum to 1.

    class_map: for asymmetric.  matrix: for matrix, whose rows may be off 1 by ROW_SUM_TOLERANCE and come out exact.
    Raises ValueError for instance and human, which no matrix describes, and for a matrix that is none.
    """
    _check(kind, rate, num_classes)
    classes = np.arange(num_classes)
    match kind:
        case "uniform":
            wrong = np.full((num_classes, num_classes), 1 / num_classes)
        case "symmetric":
            wrong = (1 - np.eye(num_classes)) / (num_classes - 1)
        case "pair_flip":
            wrong = np.eye(num_classes)[(classes + 1) % num_classes]
        case "asymmetric":
            if class_map is None:
                raise _lacks(kind, "class_map")
            _check_map(class_map, num_classes)
            wrong = np.eye(num_classes)[class_map]
        case "matrix":
            if matrix is None:
                raise _lacks(kind, "matrix")
            return _checked_matrix(matrix, num_classes)
        case _:
            raise ValueError(f"label noise of kind {kind} is not class-conditional: it has no transition matrix")
    return (1 - rate) * np.eye(num_classes) + rate * wrong


def nominal_rate(
    labels: Labels,
    *,
    kind: str,
    rate: float,
    num_classes: int,
    class_map: Labels | None = None,
    transition: Matrix | None = None,
    given: Labels | None = None,
) -> float:
    """The share of wrong labels to be expected of examples with the true labels (n,); for human, what it is.

    The other arguments are those of `corrupt_labels`.  Raises ValueError if n == 0.
    """
    if len(labels) == 0:
        raise ValueError("the rate of label noise among no examples: there must be one at least")
    if kind == "instance":
        return float(rate)
    if kind == "human":
        if given is None:
            raise _lacks(kind, "given")
        return float(np.mean(given != labels))
    rows = transition_matrix(kind, rate, num_classes, class_map=class_map, matrix=transition)
    return float(np.mean(1 - rows.diagonal()[labels]))


def realised_matrix(true_labels: Labels, labels: Labels, num_classes: int) -> Labels:
    """How many examples of each class were given each label: (K, K) int64 counts, true classes in rows."""
    _check_labels("true labels", true_labels, num_classes)
    _check_labels("labels", labels, num_classes)
    pairs = np.bincount(true_labels * num_classes + labels, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def _by_row(labels: Labels, rows: Matrix, uniforms: NDArray[np.float64]) -> Labels:
    """For each label the class at which the sum over its row passes its uniform draw."""
    new = np.empty(len(labels), dtype=np.int64)
    for label, row in enumerate(rows):
        here = labels == label
        # the last sum can fall short of 1 by a rounding error, and a class of probability 0 is none
        new[here] = np.searchsorted(np.cumsum(row), uniforms[here], side="right").clip(max=np.flatnonzero(row)[-1])
    return new


def _scale_to_mean(tau: NDArray[np.float64], rate: float) -> float:
    """The c at which min(1, c tau) has the mean `rate`."""
    reachable = float(np.mean(tau > 0))
    if rate > reachable:
        raise ValueError(
            f"instance-dependent label noise at a rate of {rate:g}: no more than {reachable:.4g} of the labels can be "
            "wrong, the class posterior is certain of the others; choose a lower rate"
        )
    if rate == 0:
        return 0.0
    falling = -np.sort(-tau[tau > 0])
    # With the first k at 1, the others share what remains of the total; k is right if they stay below 1.
    rest = np.cumsum(falling[::-1])[::-1]
    scales = (rate * len(tau) - np.arange(len(falling))) / rest
    below = scales * falling <= 1
    below[-1] = True  # what the highest rate that can be reached comes to, but for rounding
    return float(scales[below.argmax()])


def _check(kind: str, rate: float, num_classes: int) -> None:
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown kind of label noise {kind!r}: choose from {', '.join(KINDS)}{hint}")
    if not 0 <= rate <= 1:
        raise ValueError(f"a label noise rate of {rate}: it must lie in [0, 1]")
    if num_classes < 2:
        raise ValueError(f"label noise among {num_classes} class(es): it takes at least two")


def _check_labels(what: str, labels: Labels, num_classes: int) -> None:
    if np.any((labels < 0) | (labels >= num_classes)):
        raise ValueError(f"{what} from {labels.min()} to {labels.max()}: they must lie in [0, {num_classes})")


def _lacks(kind: str, argument: str) -> ValueError:
    return ValueError(f"label noise of kind {kind} needs {argument}")


def _check_map(class_map: Labels, num_classes: int) -> None:
    if class_map.shape != (num_classes,):
        raise ValueError(f"a class map of shape {class_map.shape}: it has a target for each of {num_classes} classes")
    _check_labels("targets of the class map", class_map, num_classes)


def _checked_matrix(matrix: Matrix | Sequence[Sequence[float]], num_classes: int) -> Matrix:
    for number, row in enumerate(matrix):
        if len(row) != num_classes:
            raise ValueError(
                f"row {number} of the matrix has {len(row)} entries, not {num_classes}, one for each class"
            )
        for probability in row:
            if not 0 <= probability <= 1:
                raise ValueError(f"row {number} of the matrix has {probability:g}; probabilities lie in [0, 1]")
        if not abs(sum(row) - 1) <= ROW_SUM_TOLERANCE:
            raise ValueError(f"row {number} of the matrix sums to {sum(row):g}; the labels of a class sum to 1")
    if len(matrix) != num_classes:
        raise ValueError(f"the matrix has {len(matrix)} rows, not {num_classes}, one for each class")
    rows: Matrix = np.asarray(matrix, dtype=np.float64)
    normalised: Matrix = rows / rows.sum(axis=1, keepdims=True)
    return normalised


def _class_number(name: str | int, class_names: Sequence[str]) -> int:
    text = str(name)  # a number may come back from JSON, where keys are strings
    if text in class_names:
        return class_names.index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    nearest = difflib.get_close_matches(text, class_names, n=3)
    if nearest:
        hint = f"did you mean {' or '.join(map(repr, nearest))}?"
    else:
        hint = f"there is {', '.join(class_names)}, or a number from 0 to {len(class_names) - 1}"
    raise ValueError(f"unknown class {name!r} in the map of mistaken classes; {hint}")
