"""Which published numbers are about the same thing as a suite's, and how the two compare.

They match by data set, network, method with its options, wrong labels, figure, and epoch. What is left is protocol:
how long and by which recipe. Protocols hardly ever agree, so that they differ is said and excludes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bench.plan.evaluation import Attacks, Corruptions
from bench.plan.suite_file import METRICS
from reports.load import Results
from reports.measures import measure
from reports.published.facts import UNKNOWN, Protocol, Published, protocol_of, published_results
from reports.statistics import paired_t, pairs_of
from reports.tables import Spread, condition_summary, conditions
from reports.wording import arm_name

if TYPE_CHECKING:
    from bench.plan.config import LabelNoiseConfig
    from bench.plan.trial import Trial

FOLDERS = {
    "tiny_imagenet": ("tinyimagenet", "tinyimagenet200"),
    "imagenet": ("imagenet", "imagenet1k", "imagenet2012", "ilsvrc2012"),
}
"""Data sets that are folders of images here, by the folder's name in small letters and digits."""

TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "tiny_imagenet": 100_000, "imagenet": 1_281_167}
"""What there is to train on, of which a source takes all unless its protocol says otherwise."""

CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "tiny_imagenet": 200, "imagenet": 1000}

COLUMNS = {"last": "test_error_last", "best": "test_error_oracle", "median10": "test_error_median10"}
"""Our figure for the test error at a source's epoch."""

RECIPE = {
    "epochs": "epochs",
    "batch_size": "batch size",
    "optimizer": "optimiser",
    "lr": "lr",
    "nesterov": "Nesterov's momentum",
    "weight_decay": "weight decay",
    "schedule": "schedule",
    "crop_padding": "crop padding",
    "flip": "flip",
}
"""Parts of a recipe that are compared, and their names in a sentence."""

HAVE_TO_BE_STATED = ("epochs", "batch_size", "lr", "weight_decay", "schedule")

STANDARD = Corruptions().kinds
"""The kinds of corruption that a published mean is over."""

HUMAN_LABELS = {
    "aggre_label": "aggre",
    "random_label1": "random1",
    "random_label2": "random2",
    "random_label3": "random3",
    "worse_label": "worst",
    "noisy_label": "noisy",
}
"""The papers' names of the label sets, by the files'; a suite may have either."""

UNIFORM = ("uniform", "symmetric")
"""Kinds of noise that differ in how many of the redrawn labels are wrong, and in nothing else."""

DROPOUTS = ("dropout", "drop_rate", "drop_path_rate")
"""Arguments of networks that no published number here is about."""


@dataclass(frozen=True)
class Effect:
    """A method minus the baseline, ours and theirs.

    ours, low, high, n: the mean of the paired differences and its 95 % interval.  z: the difference between the two
    effects over its standard error; theirs is that of two independent means. NaN unless all spreads are known.
    """

    ours: float
    low: float
    high: float
    n: int
    published: float
    digits: int
    z: float


@dataclass(frozen=True)
class Match:
    """A published number and ours.

    metric: our figure.  z: the difference over its standard error, sqrt(sd^2/n of ours + sd^2/n of theirs); NaN unless
    both spreads are known.  effect: None for the baseline, and where they print no baseline.
    differs, not_stated: protocol, theirs against ours.  remarks: what else there is to know.
    """

    cell: str
    arm: str
    metric: str
    ours: Spread
    published: Published
    protocol: Protocol
    z: float
    effect: Effect | None
    differs: tuple[str, ...]
    not_stated: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def difference(self) -> float:
        return self.ours.mean - self.published.value


def matches(results: Results) -> list[Match]:
    """Every published number that a finished trial of the suite has a counterpart of, by cell, arm and source."""
    chosen = results.plan.suite.report.published
    rows = [row for row in published_results() if chosen is None or row.source in chosen]
    trials = {(each.cell, each.arm): each.trial for each in results.plan.trials}
    if not rows or not any(data_set(trial) for trial in trials.values()):
        return []
    candidates = {key: [row for row in rows if fits(row, trials[key])] for key in conditions(results)}
    summary = cache(partial(condition_summary, results))
    return [
        match
        for key, own in candidates.items()
        for match in _of_condition(results, key, trials, own, candidates, summary)
    ]


def fits(row: Published, trial: Trial) -> bool:
    """Whether a published number is about this trial's data set, network, wrong labels and method."""
    return (
        row.dataset == data_set(trial)
        and _fits_network(row, trial)
        and _fits_noise(row, trial.label_noise, CLASSES[row.dataset])
        and _fits_method(row, trial)
    )


def data_set(trial: Trial) -> str | None:
    """Its name among the published ones; None where it has none."""
    config = trial.dataset
    if config.train_corruption is not None:
        return None
    if config.name != "image_folder":
        return config.name if config.name in TRAIN_IMAGES else None
    folder = re.sub(r"[^a-z0-9]", "", config.root.name.lower()) if config.root else ""
    return next((name for name, folders in FOLDERS.items() if folder in folders), None)


def wrong_share(kind: str, rate: float, num_classes: int) -> float:
    """The share of labels that are wrong: a label that is redrawn over all classes stays right once in num_classes."""
    return rate * (1 - 1 / num_classes) if kind == "uniform" else rate


def z_score(difference: float, *spreads: tuple[float | None, int | None]) -> float:
    """A difference over its standard error: the root of the sum of sd^2/n over independent means.

    spreads: (sd, n) of each mean. NaN where one of them is not known or without two runs, or where all are 0.
    """
    variance = 0.0
    for sd, n in spreads:
        if sd is None or n is None or n < 2 or math.isnan(sd):
            return math.nan
        variance += sd**2 / n
    return difference / math.sqrt(variance) if variance > 0 else math.nan


def _fits_network(row: Published, trial: Trial) -> bool:
    """Any width will do: it is a difference in protocol."""
    if row.model == UNKNOWN:
        return True
    own = trial.model.args
    if any(own.get(key) for key in DROPOUTS):
        return False
    return row.model == trial.model.name and all(
        _text(own.get(key)) == value for key, value in row.model_args.items() if key != "width"
    )


def _fits_noise(row: Published, noise: LabelNoiseConfig, num_classes: int) -> bool:
    if noise.kind == "human":
        labels = str(noise.labels)
        return row.noise == f"human {HUMAN_LABELS.get(labels, labels)}"
    if row.noise in UNIFORM and noise.kind in UNIFORM:
        shares = (wrong_share(row.noise, row.noise_rate, num_classes), wrong_share(noise.kind, noise.rate, num_classes))
        return math.isclose(row.noise_rate, noise.rate) or math.isclose(*shares)
    return row.noise == "" and noise.kind == "none"


def _fits_method(row: Published, trial: Trial) -> bool:
    """Every option has to be the same, but for those that the source leaves open, and the method's own weight decay."""
    method, own = trial.method, _own_options(trial)
    if row.method != method.name or own.keys() != row.options.keys() or (method.is_neutral and method.name != "erm"):
        return False
    alpha = getattr(method, "alpha", None)
    if row.alpha is not None and (alpha is None or not math.isclose(row.alpha, alpha)):
        return False
    return all(value in (UNKNOWN, own[key]) for key, value in row.options.items())


def _own_options(trial: Trial) -> dict[str, str]:
    """Options of its method that are not the defaults, and the layers that are mixed in any case; without alpha."""
    method = trial.method
    fields = type(method).model_fields
    return {
        key: _text(value)
        for key, value in method
        if key not in ("name", "alpha", "weight_decay")
        and value is not None
        and value != method.usual.get(key)
        and (value != fields[key].default or key == "layers")
    }


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _of_condition(
    results: Results,
    key: tuple[str, str],
    trials: Mapping[tuple[str, str], Trial],
    own: Sequence[Published],
    candidates: Mapping[tuple[str, str], Sequence[Published]],
    summary: Callable[[str], Mapping[tuple[str, str], Spread]],
) -> Iterator[Match]:
    cell, arm = key
    trial, baseline = trials[key], results.plan.baseline
    for row in _nearest(own, trial):
        metric = _metric(row, results.plan.suite.report.metric)
        ours = summary(metric)[key]
        if not ours.n:
            continue
        references = [] if arm == baseline else candidates.get((cell, baseline), [])
        reference = next((each for each in references if each.group == row.group), None)
        protocol = protocol_of(row)
        differs, not_stated, remarks = _protocol_against_ours(results, cell, trial, row, protocol, metric)
        yield Match(
            cell=cell,
            arm=arm,
            metric=metric,
            ours=ours,
            published=row,
            protocol=protocol,
            z=z_score(ours.mean - row.value, (ours.sd, ours.n), (row.sd, row.n)),
            effect=_effect(results, key, metric, row, reference) if reference else None,
            differs=tuple(differs),
            not_stated=tuple(not_stated),
            remarks=tuple(remarks),
        )


def _nearest(rows: Sequence[Published], trial: Trial) -> list[Published]:
    """Of the weight decays and budgets that a table has of the same thing, the one that is nearest to ours."""
    by_thing: dict[tuple[object, ...], list[Published]] = {}
    for row in rows:
        thing = (row.source, row.table, row.epoch, row.metric, tuple(row.model_args.items()), row.noise, row.noise_rate)
        by_thing.setdefault((*thing, row.alpha, tuple(row.options.items())), []).append(row)

    def distance(row: Published) -> tuple[float, float]:
        return (
            _ratio(row.weight_decay, trial.weight_decay),
            _ratio(row.epochs, trial.training.epochs),
        )

    return [min(same, key=distance) for same in by_thing.values()]


def _ratio(theirs: float | None, ours: float) -> float:
    if theirs is None or theirs == ours:
        return 0.0
    return abs(math.log(theirs / ours)) if theirs > 0 and ours > 0 else math.inf


def _metric(row: Published, suites: str) -> str:
    """Our figure: where a source does not say at which epoch, the one that the suite goes by."""
    if row.metric != "test_error":
        return row.metric
    return COLUMNS.get(row.epoch, suites if suites in METRICS else "test_error_last")


def _effect(results: Results, key: tuple[str, str], metric: str, row: Published, reference: Published) -> Effect | None:
    cell, arm = key
    baseline = results.plan.baseline
    trials = results.trials[results.trials["cell"] == cell]
    trials = trials.assign(**{metric: results.column(metric)[trials.index]})
    pairs = pairs_of(trials, metric, cells=[cell], arms=[arm], baseline=baseline)
    if not pairs or not len(pairs[0].errors):
        return None
    test, n = paired_t(pairs[0].differences, rule=results.plan.suite.stopping), len(pairs[0].errors)
    published = row.value - reference.value
    z = z_score(test.mean - published, (test.sd, n), (row.sd, row.n), (reference.sd, reference.n))
    return Effect(test.mean, test.low, test.high, n, published, max(row.digits, reference.digits), z)


def _protocol_against_ours(
    results: Results, cell: str, trial: Trial, row: Published, protocol: Protocol, metric: str
) -> tuple[list[str], list[str], list[str]]:
    """What differs, what they do not state, and what else there is to say."""
    ours: dict[str, Any] = trial.training.model_dump() | {"weight_decay": trial.weight_decay}
    differs, not_stated = [], []
    for key, name in RECIPE.items():
        theirs = protocol.recipe.get(key)
        if theirs is None:
            not_stated += [name] if key in HAVE_TO_BE_STATED else []
        elif theirs != ours[key]:
            differs.append(f"{name} {_shown(theirs)}, here {_shown(ours[key])}")
    width = row.model_args.get("width")
    if width is not None and width != _text(trial.model.args.get("width")):
        differs.append(f"network {width} wide, here {_text(trial.model.args['width'])}")
    differs += _differing_data(results, cell, row, protocol)
    differs += _differing_noise(trial.label_noise, row)
    differs += _differing_evaluation(results, metric)
    if row.metric == "test_error" and row.epoch == UNKNOWN:
        not_stated.append("which epoch")
    if row.n is None:
        not_stated.append("number of runs")
    alpha = getattr(trial.method, "alpha", None)
    own_alpha = [f"alpha of {row.method}"] if row.alpha is None and alpha is not None else []
    open_options = [f"{key} of {row.method}" for key, value in row.options.items() if value == UNKNOWN]
    about = measure(metric).title if metric.startswith("train_error") else arm_name(trial.method.label)
    remarks = [f"{about}: {row.note}"] if row.note else []
    return differs, not_stated + own_alpha + open_options, remarks


def _differing_data(results: Results, cell: str, row: Published, protocol: Protocol) -> Iterator[str]:
    theirs = protocol.recipe.get("train_images", TRAIN_IMAGES[row.dataset])
    own = results.trials.loc[results.trials["cell"] == cell, "num_train"].dropna()
    if len(own) and int(own.max()) != theirs:
        yield f"{theirs:,} training images, here {int(own.max()):,}"


def _differing_noise(noise: LabelNoiseConfig, row: Published) -> Iterator[str]:
    if row.noise not in UNIFORM:
        return
    num_classes = CLASSES[row.dataset]
    theirs, ours = (wrong_share(kind, rate, num_classes) for kind, rate in _kinds_and_rates(row, noise))
    if not math.isclose(theirs, ours):
        yield f"{100 * theirs:.3g} % of the labels wrong, here {100 * ours:.3g} %"


def _kinds_and_rates(row: Published, noise: LabelNoiseConfig) -> tuple[tuple[str, float], tuple[str, float]]:
    return (row.noise, row.noise_rate), (noise.kind, noise.rate)


def _differing_evaluation(results: Results, metric: str) -> Iterator[str]:
    for config in results.plan.suite.evaluations:
        if isinstance(config, Corruptions) and metric == "mean_corruption_error":
            kinds = len(set(STANDARD) & set(config.kinds))
            if kinds < len(STANDARD):
                yield f"{len(STANDARD)} kinds of corruption, here {kinds}"
            if len(config.severities) < 5:
                yield f"5 severities, here {len(config.severities)}"
        if isinstance(config, Attacks) and metric.startswith(f"{config.prefix}_i_fgsm") and config.steps != 10:
            yield f"10 steps, here {config.steps}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
