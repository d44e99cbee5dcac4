"""One training run, fully resolved, and its identity."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializeAsAny, field_validator, model_validator

from bench.data.corruptions import CORRUPTIONS_VERSION
from bench.mixing import METHODS, Method
from bench.plan.config import DatasetConfig, LabelNoiseConfig, ModelConfig, TrainingConfig

NUMERICS_VERSION = 2
"""Raised whenever the same trial would give other numbers; CHANGELOG.md says why."""


class Trial(BaseModel):
    """One method in one cell (data set x label noise x network x recipe) with one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetConfig
    label_noise: LabelNoiseConfig
    model: ModelConfig
    training: TrainingConfig
    method: SerializeAsAny[Method]
    seed: int

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, method: Any) -> Any:
        return METHODS[method["name"]].model_validate(method) if isinstance(method, dict) else method

    @model_validator(mode="after")
    def _with_memory_format(self) -> Self:
        """The only default that hangs on another section."""
        if self.training.channels_last is None:
            settled = self.training.model_copy(update={"channels_last": self.model.channels_last_pays})
            object.__setattr__(self, "training", settled)  # frozen, but not yet anybody's
        return self

    @property
    def weight_decay(self) -> float:
        """The recipe's, unless the method has its own."""
        own = self.method.weight_decay
        return self.training.weight_decay if own is None else own

    def identity(self) -> dict[str, Any]:
        """Everything that trains: all options with their defaults, without paths.

        An option without a value is left out: one that a later version brings then leaves today's trials as they are.
        """
        paths = {"dataset": {"root"}, "label_noise": {"file", "order"}}
        content = self.model_dump(mode="json", exclude=paths, exclude_none=True)
        if self.dataset.train_corruption is not None:
            content["dataset"]["train_corruption"]["version"] = CORRUPTIONS_VERSION
        if "weight_decay" in content["method"]:  # the same training as under a recipe with that weight decay
            content["training"]["weight_decay"] = content["method"].pop("weight_decay")
        return {"numerics_version": NUMERICS_VERSION, **content}

    @property
    def trial_id(self) -> str:
        """16 hex digits of the identity's SHA-256."""
        content = json.dumps(_whole_as_integers(self.identity()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """What trial.json holds."""
        return {
            "trial_id": self.trial_id,
            "numerics_version": NUMERICS_VERSION,
            "trial": self.model_dump(mode="json"),
        }


def _whole_as_integers(value: Any) -> Any:
    """1.0 as 1, at any depth: a network's argument is the same number whichever way the suite writes it."""
    if isinstance(value, dict):
        return {key: _whole_as_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_as_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
