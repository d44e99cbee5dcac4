"""The top level of a suite file: which keys there are, and what each may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from bench.plan.config import known
from bench.plan.document import shown

METRICS = ("test_error_last", "test_error_val_selected", "test_error_median10", "test_error_oracle")

PUBLICATIONS = (
    "mixup",
    "mixup-authors-code",
    "manifold-mixup",
    "cutmix",
    "openmixup",
    "augmix",
    "robustbench",
    "uncertainty-baselines",
    "eua-cal",
    "dividemix",
    "cifar-n",
    "hysts",
    "leehomyc",
    "tensorpack",
)
"""Whose numbers there are (reports/published)."""

MOST_SEEDS = 100
"""Up to here seeds may be added one by one: for so many looks the law of the least p takes seconds to work out."""


class StoppingRule(BaseModel):
    """Seeds that are added to a comparison until it is clear (bench/plan/sequential.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min: int = Field(ge=2, description="seeds that every comparison gets, and after which it is first looked at")
    max: int = Field(le=MOST_SEEDS, description="seeds of a comparison that does not become clear")
    until: Literal["clear"] = Field(default="clear", description="what a comparison stops at: an adjusted p <= 0.05")

    @field_validator("max")
    @classmethod
    def _above_min(cls, most: int, others: ValidationInfo) -> int:
        if most <= others.data.get("min", 0):
            raise ValueError(f"{most} must be more than min, which is {others.data['min']}")
        return most


class ReportConfig(BaseModel):
    """What the report is about."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    metric: str = Field(
        default="test_error_last",
        description=f"what the verdicts go by: {', '.join(METRICS)}, or a figure of an evaluation",
    )
    smallest_effect: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="the smallest difference that matters, in the metric's own unit (of an error a fraction: 0.005 is "
        "half a point); a difference that is clearly smaller gets the verdict practically equal",
    )
    published: tuple[Annotated[str, Field(json_schema_extra={"enum": list(PUBLICATIONS)})], ...] | None = Field(
        default=None,
        strict=False,
        description="whose published numbers stand beside ours; unsaid, all that match; [] for none",
    )

    @field_validator("published", mode="before")
    @classmethod
    def _known(cls, names: Any) -> Any:
        if names is None:
            return None
        if not isinstance(names, list | tuple):
            raise ValueError(f"{shown(names)} should be a list of publications, such as [mixup], or [] for none")
        for name in names:
            known(str(name), PUBLICATIONS, what="publication")
        if len(set(names)) < len(names):
            raise ValueError(f"{shown(list(names))} names one twice")
        return tuple(names)


class SuiteFile(BaseModel):
    """The top level of a suite file. What stands in base, matrix, methods and so on is checked when it is expanded."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(  # it names a folder of the report and an experiment of MLflow
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100, description="lower case, digits, - and _"
    )
    version: int = Field(default=1, ge=1, description="raised when the suite's numbers would change meaning")
    question: str = Field(min_length=1, description="the one question that the report answers")
    source: str = Field(default="", description="the paper, table or figure that it follows")
    baseline: str = Field(default="erm", description="the method that every other one is compared with")
    seeds: (
        Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | StoppingRule
    ) = Field(default=6, description="how many (0, 1, ...), or which, or from how many to how many, until it is clear")
    base: dict[str, Any]
    methods: list[Any] = Field(min_length=1)
    matrix: dict[str, list[Any]] = Field(default={}, min_length=1)
    zip: list[dict[str, list[Any]]] = Field(default=[])
    include: list[dict[str, Any]] = Field(default=[])
    exclude: list[dict[str, Any]] = Field(default=[])
    evaluate: list[Any] = Field(
        default=["clean", "calibration"],
        min_length=1,
        description="what is measured on the trained networks: names, or mappings with options",
    )
    keep_weights: Literal["auto", "always", "never"] = Field(
        default="auto", description="final weights; auto: while the suite's take less than 5 GB"
    )
    report: ReportConfig = ReportConfig()

    @field_validator("seeds", mode="before")
    @classmethod
    def _distinct(cls, seeds: Any) -> Any:
        """Before pydantic looks, because of a union it would say twice what is wrong."""
        if isinstance(seeds, dict) and seeds:
            return StoppingRule.model_validate(seeds)
        listed = seeds if isinstance(seeds, list) else [seeds]
        if not listed or any(type(seed) is not int or seed < 0 for seed in listed) or seeds == 0:
            kinds = "how many, at least 1, or which, a list such as [0, 1, 2], or {min: 3, max: 20}"
            raise ValueError(f"{shown(seeds)} should be {kinds}")
        seen: set[int] = set()
        for seed in listed:
            if seed in seen:
                raise ValueError(f"seed {seed} is given twice")
            seen.add(seed)
        return seeds
