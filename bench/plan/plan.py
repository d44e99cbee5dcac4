"""A plan: the trials that a suite means here and now, in the order in which they run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from bench.data import datasets
from bench.data.corruptions import MIN_SIDE
from bench.data.datasets import Facts
from bench.data.human_labels import file_fingerprint
from bench.data.label_noise import CLASS_MAPS, transition_matrix
from bench.mixing import Erm, Method, Mixing
from bench.mixing.method import count_epochs
from bench.plan.cells import Cell
from bench.plan.config import DatasetConfig, LabelNoiseConfig
from bench.plan.document import KeyPath, dotted
from bench.plan.evaluation import Corruptions, Evaluation, Ood, PlannedEvaluation
from bench.plan.labels import cell_labels
from bench.plan.suite import Suite, needs_validation
from bench.plan.trial import Trial

RESIDENT_BYTES = 8e9
"""An image folder that would take more, decoded, is streamed. A constant and no share of this machine's memory: whether
a trial streams is part of its identity."""

COMPANION_ARGUMENTS = (("dropout", "dropout"), ("dropout", "drop_rate"), ("stochastic_depth", "drop_path_rate"))
"""Options of every method, and the argument of a network that says the same."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with the names that tables and figures give its cell and its arm, and what is measured on its network."""

    trial_id: str
    trial: Trial
    cell: str
    arm: str
    evaluations: tuple[PlannedEvaluation, ...]
    is_source: bool = False
    """Whether another trial's evaluation needs this one's network."""

    @property
    def evaluation_keys(self) -> tuple[str, ...]:
        return tuple(evaluation.key for evaluation in self.evaluations)


@dataclass(frozen=True)
class Plan:
    """Every trial of a suite, seed by seed over all cells and arms, so that whole pairs finish early."""

    suite: Suite
    trials: tuple[PlannedTrial, ...]
    cells: tuple[str, ...]
    whole: Plan | None = None
    """Of a shard, the plan that it is part of, whose identity and comparisons are its own too."""
    shard: str = ""
    """Which one of how many, such as 2/8."""

    @property
    def suite_trials(self) -> tuple[PlannedTrial, ...]:
        """The trials of all shards."""
        return (self.whole or self).trials

    @property
    def baseline(self) -> str:
        """The arm that every other one is compared with."""
        return self.suite.baseline

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The arms' labels, the baseline first."""
        labels = [method.label for method in self.suite.methods]
        return (self.baseline, *(label for label in labels if label != self.baseline))

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.suite.seeds

    @property
    def overrides(self) -> tuple[str, ...]:
        return self.suite.overrides

    @cached_property
    def num_comparisons(self) -> int:
        """The family: every arm against the baseline, in every cell that has both."""
        conditions = {(planned.cell, planned.arm) for planned in self.suite_trials}
        return sum(arm != self.baseline and (cell, self.baseline) in conditions for cell, arm in conditions)

    @cached_property
    def plan_id(self) -> str:
        """8 hex digits: two runs with the same id ran the same trials under the same suite version.

        With a stopping rule: the same trials that may be wanted, and under the same rule.
        """
        parts = [self.suite.name, str(self.suite.version), *sorted(planned.trial_id for planned in self.suite_trials)]
        if rule := self.suite.stopping:
            parts.append(f"seeds {rule.min} to {rule.max}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def make_plan(suite: Suite) -> Plan:
    """Resolve a suite into trials; looks at image folders (names and sizes of files) to know what they hold.

    Raises SuiteError, at the line in question, where an image folder cannot be used or two cells are one.
    """
    _facts.cache_clear()  # a folder may have changed since an earlier plan
    cells = [_resolved(suite, cell) for cell in suite.cells]
    _check_distinct(suite, cells)
    labels = cell_labels([cell.sections for cell in cells])
    _check_sizes(suite, cells)
    _check_methods(suite, cells)
    _check_streams(suite, cells)
    evaluations = [_resolved_evaluation(suite, index) for index in range(len(suite.evaluations))]
    trials = tuple(_trials(suite, cells, labels, evaluations))
    _check_arms(suite, trials)
    return Plan(suite=suite, trials=trials, cells=tuple(labels))


def data_facts(dataset: DatasetConfig) -> Facts:
    """Sizes of a data set before `train_size` and validation take their share; an image folder is listed once a plan.

    Raises DataError where an image folder cannot be used.
    """
    return _facts(dataset.name, dataset.root, dataset.image_size, dataset.test_fraction)


@cache
def _facts(name: str, root: Path | None, image_size: int | None, test_fraction: float | None) -> Facts:
    return datasets.describe(name, root=root, image_size=image_size, test_fraction=test_fraction)


def _trials(
    suite: Suite, cells: Sequence[Cell], labels: Sequence[str], evaluations: Sequence[Evaluation]
) -> Iterator[PlannedTrial]:
    arms = [(method, method.label) for method in suite.methods]
    sources = _sources(suite, cells) if any(each.needs_source for each in evaluations) else {}
    source_ids = frozenset(sources.values())
    alone = {index: PlannedEvaluation(each) for index, each in enumerate(evaluations) if not each.needs_source}
    for seed in suite.seeds:
        for index, (cell, label) in enumerate(zip(cells, labels, strict=True)):
            for method, arm in arms:
                if cell.runs(arm, seed):
                    trial = Trial(**cell.sections, method=method, seed=seed)
                    trial_id = trial.trial_id
                    planned = tuple(
                        alone.get(place) or PlannedEvaluation(each, sources[index, seed])
                        for place, each in enumerate(evaluations)
                    )
                    yield PlannedTrial(trial_id, trial, label, arm, planned, is_source=trial_id in source_ids)


def _sources(suite: Suite, cells: Sequence[Cell]) -> dict[tuple[int, int], str]:
    """By (place of the cell, seed), the baseline's trial in that cell with the next seed; after the last, the first.

    Never the trial itself: an attack made on another network is what shows what transfers. Where seeds are added until
    the answer is clear, one of those that are trained in any case.
    """
    baseline = next(method for method in suite.methods if method.label == suite.baseline)
    place: KeyPath = ("evaluate", [each.needs_source for each in suite.evaluations].index(True))
    if suite.file.keep_weights == "never":
        raise suite.document.error(place, "attacks the baseline's network: keep_weights never rules it out")
    sure = suite.seeds[: suite.stopping.min] if suite.stopping else suite.seeds
    found = {}
    for index, cell in enumerate(cells):
        for position, seed in enumerate(suite.seeds):
            start = position + 1 if position < len(sure) else position
            later = [sure[(start + step) % len(sure)] for step in range(len(sure))]
            others = [other for other in later if other != seed and cell.runs(suite.baseline, other)]
            if not others:
                remedy = (
                    "it takes two seeds" if len(suite.seeds) == 1 else f"`exclude` takes {suite.baseline} out of it"
                )
                message = f"attacks the network of {suite.baseline} with another seed, and a cell has none: {remedy}"
                raise suite.document.error(place, message)
            found[index, seed] = Trial(**cell.sections, method=baseline, seed=others[0]).trial_id
    return found


def _resolved(suite: Suite, cell: Cell) -> Cell:
    """The cell with the fingerprints of the user's files, and its sizes and classes checked against the data."""
    dataset = cell.dataset
    try:
        facts = data_facts(dataset)
    except datasets.DataError as error:
        raise suite.document.error(cell.place("dataset", "root"), str(error)) from None
    if dataset.train_size is not None and dataset.train_size > facts.num_train:
        message = f"{dataset.train_size} is more than the {facts.num_train} training images of {dataset.display_name}"
        raise suite.document.error(cell.place("dataset", "train_size"), message)
    num_train = dataset.train_size or facts.num_train
    if needs_validation(suite.report.metric, suite.evaluations) and not round(dataset.val_fraction * num_train):
        message = f"{suite.report.metric} needs validation, and {dataset.val_fraction:g} of {num_train} images is none"
        raise suite.document.error(cell.place("dataset", "val_fraction"), message)
    update = {"fingerprint": facts.fingerprint, "stream": _streams(suite, cell, facts)}
    return replace(
        cell,
        dataset=dataset.model_copy(update=update),
        label_noise=_resolved_noise(suite, cell, facts),
    )


def _streams(suite: Suite, cell: Cell, facts: Facts) -> bool | None:
    """True where the cell's images are streamed, else None: the identity of a trial does not tell how that was said."""
    dataset = cell.dataset
    if cell.training.random_resized_crop is not None:
        if dataset.name != "image_folder":
            message = (
                f"cuts from images before they are decoded to one size: image_folder's, not those of {dataset.name}"
            )
            message += "; crop_padding is for those"
            raise suite.document.error(cell.place("training", "random_resized_crop"), message)
        if dataset.stream is False:
            message = "random_resized_crop needs the images in their own size: leave out stream, or the crop"
            raise suite.document.error(cell.place("dataset", "stream"), message)
        return True
    if dataset.name != "image_folder" or dataset.stream is not None:
        return dataset.stream or None
    pixels = facts.channels * facts.height * facts.width
    return (facts.num_train + facts.num_test) * pixels > RESIDENT_BYTES or None


def _check_streams(suite: Suite, cells: Sequence[Cell]) -> None:
    """Raise SuiteError where streamed images are asked for what takes all of them at once, or out of their order."""
    for cell in cells:
        if not cell.dataset.stream:
            continue
        why = "the images are streamed"
        if cell.training.random_resized_crop is not None:
            why += ", for random_resized_crop,"
        elif cell.sources.get(("dataset", "stream")) is None:
            why += f", since they take more than {RESIDENT_BYTES / 1e9:g} GB (stream: false keeps them in memory),"
        if cell.training.cuda_graph:
            message = f"{why} and cuda_graph needs them on the GPU: leave one of them out"
            raise suite.document.error(cell.place("training", "cuda_graph"), message)
        if cell.dataset.train_corruption is not None:
            message = f"{why} and train_corruption makes all of its images beforehand: leave one of them out"
            raise suite.document.error(cell.place("dataset", "train_corruption"), message)
        if cell.label_noise.kind == "instance":
            message = f"{why} and instance noise is made from all of them at once: another kind, such as asymmetric"
            raise suite.document.error(cell.place("label_noise", "kind"), message)
        for method in suite.methods_in(cell):
            partner = getattr(method, "partner", None)
            if method.neighbours is not None or partner not in (None, "permutation"):
                message = f"{why} and partner {partner} is sought in the whole training set: leave partner out"
                raise suite.document.error(suite.place_of(method, "partner"), message)
        for index, evaluation in enumerate(suite.evaluations):
            if isinstance(evaluation, Corruptions | Ood):
                message = (
                    f"{why} and {evaluation.name} holds other images of their size in memory; clean, calibration, "
                )
                message += "adversarial, transfer and in_between do not"
                raise suite.document.error(("evaluate", index), message)


def _check_sizes(suite: Suite, cells: Sequence[Cell]) -> None:
    """Raise SuiteError where images are to be corrupted that are too small for it."""
    for cell in cells:
        facts = data_facts(cell.dataset)
        if min(facts.height, facts.width) >= MIN_SIDE:
            continue
        message = f"corruptions take images of {MIN_SIDE} pixels a side, those of {cell.dataset.display_name} have"
        message += f" {facts.height} x {facts.width}"
        if cell.dataset.train_corruption is not None:
            raise suite.document.error(cell.place("dataset", "train_corruption"), message)
        for index, evaluation in enumerate(suite.evaluations):
            if isinstance(evaluation, Corruptions):
                raise suite.document.error(("evaluate", index), message)


def _check_methods(suite: Suite, cells: Sequence[Cell]) -> None:
    """Raise SuiteError where a method does not fit the recipe or the images of a cell in which it runs."""
    for cell in cells:
        facts, epochs = data_facts(cell.dataset), cell.training.epochs
        for method in suite.methods_in(cell):
            if method.cutout is not None and method.cutout > min(facts.height, facts.width):
                message = f"a square of {method.cutout} pixels is more than the images of {cell.dataset.display_name}"
                message += f" have: {facts.height} x {facts.width}"
                raise suite.document.error(suite.place_of(method, "cutout"), message)
            for companion, argument in COMPANION_ARGUMENTS:
                if getattr(method, companion) is not None and cell.model.args.get(argument):
                    message = (
                        f"the network sets {argument} already, to {cell.model.args[argument]}: give it in one place"
                    )
                    raise suite.document.error(suite.place_of(method, companion), message)
            _check_speed_options(suite, cell, method)
            num_train = round((cell.dataset.train_size or facts.num_train) * (1 - cell.dataset.val_fraction))
            if getattr(method, "partner", None) == "next_batch" and cell.training.batch_size >= num_train:
                message = f"an epoch of {num_train} training images has no next batch of {cell.training.batch_size}"
                raise suite.document.error(suite.place_of(method, "partner"), message)
            if not isinstance(method, Mixing):
                continue
            if method.off_epoch is not None and count_epochs(method.off_epoch, epochs) >= epochs:
                message = f"mixing stops after {method.off_epoch:g} epochs of a training that has {epochs}"
                if method.off_epoch < 1:
                    message = f"a share of {method.off_epoch:g} of {epochs} epochs is all of them"
                message += ": less, such as 0.75, or leave it out"
                raise suite.document.error(suite.place_of(method, "off_epoch"), message)
            if method.warmup_epochs is not None and not count_epochs(method.warmup_epochs, epochs):
                message = f"a share of {method.warmup_epochs:g} of {epochs} epochs is none: more, or leave it out"
                raise suite.document.error(suite.place_of(method, "warmup_epochs"), message)
            if not method.mixing_epochs(epochs):
                key = "warmup_epochs" if method.warmup_epochs is not None else "off_epoch"
                given = [
                    f"{key} {value:g}" for key in ("warmup_epochs", "off_epoch") if (value := getattr(method, key))
                ]
                message = f"no epoch is left to mix in: {', '.join(given)}, of {epochs} epochs"
                raise suite.document.error(suite.place_of(method, key), message)


def _check_speed_options(suite: Suite, cell: Cell, method: Method) -> None:
    """Raise SuiteError where a method cannot train with `compile` or `cuda_graph`."""
    inside = [layer for layer in method.layers_mixed if layer != 0]
    if cell.training.compile and inside:
        message = f"{method.label} mixes inside the network, at layer {inside[0]}, which a compiled one does not let it"
        message += ": leave out training.compile, or mix layer 0 alone"
        raise suite.document.error(suite.place_of(method, "layers"), message)
    if cell.training.cuda_graph and not method.can_draw_ahead:
        message = f"training.cuda_graph does not take {method.label}: it takes erm, and mixup of pairs within the batch"
        message += (
            " with inputs and labels mixed, both without gaussian_noise and cutout. Leave out training.cuda_graph"
        )
        raise suite.document.error(suite.place_of(method), message)


def _resolved_noise(suite: Suite, cell: Cell, facts: Facts) -> LabelNoiseConfig:
    noise = cell.label_noise
    if noise.kind == "asymmetric" and noise.map is None and cell.dataset.name not in CLASS_MAPS:
        known = ", ".join(CLASS_MAPS)
        message = f"asymmetric needs a map for {cell.dataset.display_name}, class to class (known for {known})"
        raise suite.document.error(cell.place("label_noise", "kind"), message)
    if noise.matrix is not None:
        try:
            transition_matrix("matrix", 0.0, facts.num_classes, matrix=noise.matrix)
        except ValueError as error:
            raise suite.document.error(cell.place("label_noise", "matrix"), str(error)) from None
    if noise.file is None:
        return noise
    files = [path for path in (noise.file, noise.order) if path is not None]
    for key, path in (("file", noise.file), ("order", noise.order)):
        if path is not None and not path.is_file():
            raise suite.document.error(cell.place("label_noise", key), f"{path} is not there")
    return noise.model_copy(update={"fingerprint": file_fingerprint(files)})


def _resolved_evaluation(suite: Suite, index: int) -> Evaluation:
    """The evaluation with the fingerprint of the data set that it names, if that is a folder."""
    evaluation = suite.evaluations[index]
    if not isinstance(evaluation, Ood) or not isinstance(evaluation.against, DatasetConfig):
        return evaluation
    try:
        facts = data_facts(evaluation.against)
    except datasets.DataError as error:
        raise suite.document.error(("evaluate", index, "against"), str(error)) from None
    against = evaluation.against.model_copy(update={"fingerprint": facts.fingerprint})
    return evaluation.model_copy(update={"against": against})


def _check_distinct(suite: Suite, cells: Sequence[Cell]) -> None:
    """Raise SuiteError where two cells would train the same trials."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        identity = Trial(**cell.sections, method=Erm(), seed=0).trial_id
        if identity in seen:
            other = dotted(seen[identity].origin)
            message = f"duplicate cell: the same data, label noise, network and recipe as with {other}"
            raise suite.document.error(cell.origin, message)
        seen[identity] = cell


def _check_arms(suite: Suite, trials: Sequence[PlannedTrial]) -> None:
    """Raise SuiteError where two arms of a cell are one training: a method's weight decay may be the recipe's."""
    seen: dict[tuple[str, str], str] = {}
    for planned in trials:
        other = seen.setdefault((planned.cell, planned.trial_id), planned.arm)
        if other != planned.arm:
            message = f"duplicate arm {planned.arm!r} in the cell {planned.cell}: it trains as {other!r} does"
            raise suite.document.error(suite.place_of(planned.trial.method, "weight_decay"), message)
