"""What a suite may have measured on a trained network: kinds of evaluation, their options, the figures each gives."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bench.data.corruptions import CORRUPTIONS_VERSION, EXTRA, STANDARD
from bench.plan.config import DatasetConfig, Section, known

NOISE_IMAGES = ("gaussian_noise", "uniform_noise")
"""Sets for `ood` that no data set is needed for."""

_SAYS_NOTHING = {"train_corruption", "train_size", "val_fraction", "stream"}
"""Keys of a data set that its test images do not depend on."""

NO_VERDICT = ("_auroc_", "_aupr_", "_resolution", "_uncertainty", "temperature")
"""Parts of the names of figures of which less is not better, so that no report can go by them."""


class Evaluation(Section, ABC):
    """One evaluation. Its fields are its options; name, version and options identify its record."""

    name: str
    version: ClassVar[int] = 1
    """Raised when the same evaluation would give other numbers."""
    needs_network: ClassVar[bool] = True
    """Whether the final weights are needed, and not only the predictions that every trial keeps."""
    needs_source: ClassVar[bool] = False
    """Whether another trial's network is needed."""

    @abstractmethod
    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        """The names of the figures.  validated: whether the trial has validation images."""

    def identity(self) -> dict[str, Any]:
        """Everything that can change the numbers, without paths."""
        return {"version": self.version, **self.model_dump(mode="json", exclude_none=True)}


class Clean(Evaluation):
    """Error and likelihood on the test images as they are."""

    name: Literal["clean"] = "clean"
    needs_network: ClassVar[bool] = False

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        return ("test_error", "test_nll")


class Calibration(Evaluation):
    """Calibration on the test images, as it is and after temperature scaling fitted on validation."""

    name: Literal["calibration"] = "calibration"
    version: ClassVar[int] = 2
    needs_network: ClassVar[bool] = False

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        binned = ("ece", "adaptive_ece", "max_ce", "classwise_ece", "overconfidence", "brier")
        names = [f"test_{name}" for name in (*binned, "brier_reliability", "brier_resolution", "brier_uncertainty")]
        if validated:
            names += ["temperature", *(f"test_{name}_scaled" for name in (*binned, "nll"))]
        return tuple(names)


class Corruptions(Evaluation):
    """Error on corrupted test images (Hendrycks & Dietterich 2019)."""

    name: Literal["corruptions"] = "corruptions"
    kinds: tuple[str, ...] = Field(
        default=STANDARD, strict=False, description="standard: the 15; all: the 4 extra ones too; or a list of names"
    )
    severities: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5), strict=False, min_length=1)
    source: Literal["auto", "official", "generated"] = Field(
        default="auto", description="auto: the published files where the data folder has them, else our own"
    )

    @field_validator("kinds", mode="before")
    @classmethod
    def _by_name(cls, kinds: Any) -> Any:
        groups = {"standard": STANDARD, "extra": EXTRA, "all": STANDARD + EXTRA}
        if isinstance(kinds, str):
            return groups[known(kinds, groups, what="group of corruptions", note="or a list of kinds")]
        if isinstance(kinds, list | tuple):
            for kind in kinds:
                known(str(kind), STANDARD + EXTRA, what="corruption")
            if not kinds or len(set(kinds)) < len(kinds):
                raise ValueError("kinds: a list of distinct corruptions, at least one")
            return tuple(kind for kind in STANDARD + EXTRA if kind in kinds)  # one order: one identity
        return kinds

    @field_validator("severities")
    @classmethod
    def _in_range(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if not set(severities) <= set(range(1, 6)) or len(set(severities)) < len(severities):
            raise ValueError(f"severities {list(severities)} should be distinct, and from 1 to 5")
        return tuple(sorted(severities))

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """The corrupted sets, (kind, severity)."""
        return [(kind, severity) for kind in self.kinds for severity in self.severities]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "corruptions_version": CORRUPTIONS_VERSION}

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        names = []
        if set(self.kinds) & set(STANDARD):
            names += ["mean_corruption_error", "relative_corruption_error"]
        if set(self.kinds) & set(EXTRA):
            names.append("extra_corruption_error")
        return tuple(names)


class Ood(Evaluation):
    """How well confidence tells the test images from those of another data set."""

    name: Literal["ood"] = "ood"
    against: str | DatasetConfig = Field(
        description="the other data set: its name, gaussian_noise, uniform_noise, or a mapping as in `dataset`"
    )

    @field_validator("against", mode="before")
    @classmethod
    def _as_data_set(cls, against: Any) -> Any:
        if isinstance(against, str) and against not in NOISE_IMAGES:
            return DatasetConfig(name=against)
        if not isinstance(against, dict | str | DatasetConfig):
            raise ValueError(f"{against!r} should be the name of a data set, {' or '.join(NOISE_IMAGES)}, or a mapping")
        if isinstance(against, dict) and (other := against.keys() & _SAYS_NOTHING):
            raise ValueError(f"{min(other)} says nothing of the test images, and only those are used")
        return DatasetConfig.model_validate(against) if isinstance(against, dict) else against

    @property
    def set_name(self) -> str:
        name = self.against if isinstance(self.against, str) else self.against.display_name
        return "".join(letter if letter.isalnum() else "_" for letter in name)

    def identity(self) -> dict[str, Any]:
        content = {**super().identity(), "set_name": self.set_name}  # part of the figures' names
        if isinstance(self.against, DatasetConfig):
            keys = ("name", "image_size", "resize", "test_fraction", "fingerprint")  # what decides on the test images
            content["against"] = {key: content["against"][key] for key in keys if key in content["against"]}
        return content

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        return tuple(
            f"ood_{self.set_name}_{figure}_{score}"
            for score in ("msp", "energy")
            for figure in ("auroc", "aupr", "fpr95")
        )


class Attacks(Evaluation, ABC):
    """Attacks on the pixels, each at every radius."""

    attacks: tuple[Literal["fgsm", "i_fgsm", "pgd"], ...] = Field(
        default=("fgsm", "i_fgsm", "pgd"), strict=False, min_length=1
    )
    norm: Literal["linf", "l2"] = "linf"
    epsilon: tuple[float, ...] = Field(
        default=(1, 2, 4, 8), strict=False, min_length=1, description="radius, in 1/255 of the pixels' range"
    )
    steps: int = Field(default=10, ge=1, description="i_fgsm and pgd")
    step_size: float | None = Field(
        default=None, gt=0, description="in 1/255; i_fgsm: epsilon/steps, pgd: 2.5 epsilon/steps"
    )
    restarts: int = Field(default=1, ge=1, description="pgd: random starts, of which the worst counts")
    examples: int = Field(
        default=1000, ge=1, description="how many test images, evenly spaced; all, if there are fewer"
    )

    prefix: ClassVar[Literal["adv", "transfer"]]

    @field_validator("epsilon")
    @classmethod
    def _rising(cls, epsilon: tuple[float, ...]) -> tuple[float, ...]:
        if min(epsilon) < 0 or list(epsilon) != sorted(set(epsilon)):
            raise ValueError(f"epsilon {list(epsilon)} should rise, from 0 on")
        return epsilon

    @model_validator(mode="after")
    def _within_the_pixels(self) -> Self:
        if self.norm == "linf" and max(self.epsilon) > 255:
            raise ValueError(f"epsilon {max(self.epsilon):g} is in 1/255: 255 already spans the pixels' whole range")
        return self

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, attacks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(attacks)) < len(attacks):
            raise ValueError(f"attacks {list(attacks)} should be distinct")
        return attacks

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        return tuple(
            f"{self.prefix}_{attack}_{self.norm}_{epsilon:g}_error"
            for attack in self.attacks
            for epsilon in self.epsilon
        )


class Adversarial(Attacks):
    """Error under white-box attacks."""

    name: Literal["adversarial"] = "adversarial"
    prefix: ClassVar[Literal["adv", "transfer"]] = "adv"


class Transfer(Attacks):
    """Error under attacks made on another trial's network: the baseline's in the same cell, with the next seed."""

    name: Literal["transfer"] = "transfer"
    needs_source: ClassVar[bool] = True
    prefix: ClassVar[Literal["adv", "transfer"]] = "transfer"


class InBetween(Evaluation):
    """Predictions and input gradients on the lines between training images (Zhang et al. 2018, Figure 2)."""

    name: Literal["in_between"] = "in_between"
    pairs: int = Field(default=1000, ge=1, description="pairs of training images")

    def metrics(self, *, validated: bool) -> tuple[str, ...]:
        return ("in_between_miss_half", "in_between_gradient_half")


EVALUATIONS: dict[str, type[Evaluation]] = {
    "clean": Clean,
    "calibration": Calibration,
    "corruptions": Corruptions,
    "ood": Ood,
    "adversarial": Adversarial,
    "transfer": Transfer,
    "in_between": InBetween,
}


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation of one trial. source: the id of the trial whose network it needs besides."""

    config: Evaluation
    source: str | None = None

    @property
    def kind(self) -> str:
        return self.config.name

    @cached_property
    def key(self) -> str:
        """The record's name in the trial's folder: the kind and 8 hex digits of everything that decides its numbers."""
        identity = {**self.config.identity(), "source_trial": self.source}
        content = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return f"{self.kind}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def verdict_metrics(evaluations: Sequence[Evaluation], *, validated: bool) -> list[str]:
    """The figures that a report can go by: those of which less is better."""
    names = dict.fromkeys(name for each in evaluations for name in each.metrics(validated=validated))
    return [name for name in names if not any(part in name for part in NO_VERDICT)]
