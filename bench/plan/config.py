"""The sections of a suite: data set, label noise, network and training recipe, with every default in one place.

Each section is a frozen pydantic model that refuses unknown keys. Below bench/plan nobody supplies a default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails

from bench.data.corruptions import EXTRA, STANDARD
from bench.data.datasets import DATASETS
from bench.models import MODELS, model_args
from bench.text import one_line

NoiseKind = Literal["none", "uniform", "symmetric", "pair_flip", "asymmetric", "matrix", "instance", "human"]
RateNoise = ("uniform", "symmetric", "pair_flip", "asymmetric", "instance")
"""Kinds of label noise that a rate belongs to; the others bring theirs along."""


class Section(BaseModel):
    """Strict: `epochs: true` is no 1, and `lr: "0.1"` no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @property
    def display_name(self) -> str:
        """The name in tables and figures; empty where a section has none."""
        return ""


class TrainCorruption(Section):
    """Training images of which some are corrupted, as the images of a cheaper camera would be."""

    kind: str
    severity: int = Field(default=3, ge=1, le=5)
    share: float = Field(default=1.0, gt=0, le=1, description="share of the training images, chosen by the seed")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known(kind, STANDARD + EXTRA, what="corruption")

    @property
    def display_name(self) -> str:
        share = "" if self.share == 1 else f" on {100 * self.share:g} %"
        return f"{self.kind} {self.severity}{share}"


class DatasetConfig(Section):
    """A data set by name, and how much of it is trained on."""

    name: str
    root: Path | None = Field(default=None, strict=False, description="image_folder: the folder of images; ~ is home")
    image_size: int | None = Field(default=None, ge=4, le=1024, description="image_folder: side in pixels")
    resize: int | None = Field(
        default=None,
        ge=4,
        le=4096,
        description="image_folder: shorter side in pixels before the square is cut out; unsaid, image_size",
    )
    test_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="image_folder without train/ and test/: share of images that test"
    )
    stream: bool | None = Field(
        default=None,
        description="image_folder: decode images again whenever they are needed, instead of once into memory; unsaid, "
        "where they would take more than 8 GB, or for random_resized_crop",
    )
    train_size: int | None = Field(default=None, ge=2, description="train on a stratified subset of this many images")
    val_fraction: float = Field(
        default=0.1, ge=0, le=0.9, description="share of the training set that validates; 0: no selection"
    )
    train_corruption: TrainCorruption | None = Field(
        default=None, description="corrupt training images, as in {kind: gaussian_noise, severity: 3, share: 0.5}"
    )
    fingerprint: str = Field(default="", description="identity of an image folder's content; filled by the plan")

    image_folder_keys: ClassVar[tuple[str, ...]] = ("root", "image_size", "resize", "test_fraction", "stream")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return known(name, DATASETS, what="data set")

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path | None) -> Path | None:
        return root and root.expanduser().absolute()

    @field_validator("resize")
    @classmethod
    def _to_the_square_goes_without_saying(cls, resize: int | None, info: ValidationInfo) -> int | None:
        return None if resize == info.data.get("image_size") else resize

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name == "image_folder":
            for key in ("root", "image_size"):
                if getattr(self, key) is None:
                    raise ValueError(
                        f"image_folder needs {key}, as in {{name: image_folder, root: ~/birds, image_size: 32}}"
                    )
            if self.resize is not None and self.image_size is not None and self.resize < self.image_size:
                raise ValueError(f"resize {self.resize} leaves no square of {self.image_size} pixels to cut out")
        else:
            for key in self.image_folder_keys:
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} belongs to image_folder; {self.name} takes none")
        return self

    @property
    def display_name(self) -> str:
        """The name in tables and figures: an image folder goes by its folder's name."""
        name = one_line(self.root.name) if self.root else self.name
        return f"{name} + {self.train_corruption.display_name}" if self.train_corruption else name


class LabelNoiseConfig(Section):
    """Wrong training labels. At rate 0 the kind does not matter, and is "none"."""

    kind: NoiseKind = Field(
        default="uniform",
        description="uniform: redrawn over all classes, so some stay right (the mixup paper); symmetric: always wrong; "
        "pair_flip: the next class; asymmetric: by a map of classes; matrix: by given probabilities; instance: where a "
        "linear classifier is least sure; human: read from a file such as CIFAR-10N's",
    )
    rate: float = Field(default=0.0, ge=0, le=1, description="share of training labels that are redrawn")
    map: dict[str | int, str | int] | None = Field(
        default=None, description="asymmetric: class to class, by name or number; known for cifar10, mnist and others"
    )
    matrix: tuple[Annotated[tuple[float, ...], Field(strict=False)], ...] | None = Field(
        default=None, strict=False, description="matrix: row i has the probabilities of the labels of class i"
    )
    file: Path | None = Field(
        default=None, strict=False, description="human: the published file, such as CIFAR-10_human.pt"
    )
    labels: str | None = Field(default=None, description="human: which of the file's label sets")
    order: Path | None = Field(
        default=None, strict=False, description="human, image_folder: a CSV with the file of each official index"
    )
    fingerprint: str | None = Field(default=None, description="SHA-256 of the files; filled by the plan")

    owners: ClassVar[dict[str, str]] = {
        "map": "asymmetric",
        "matrix": "matrix",
        "file": "human",
        "labels": "human",
        "order": "human",
    }

    @field_validator("file", "order")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().absolute()

    @model_validator(mode="before")
    @classmethod
    def _clean_is_none(cls, options: Any) -> Any:
        if not isinstance(options, dict) or options.get("kind", "none") not in get_args(NoiseKind):
            return options  # an unknown kind is an error at rate 0 too
        if options.get("kind", "uniform") not in RateNoise:
            return options
        rate = options.get("rate", None if "kind" in options else 0)
        return {**options, "kind": "none"} if rate == 0 else options

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "none" and self.rate:
            raise ValueError(f"kind none is for rate 0; with rate {self.rate:g} it is one of {', '.join(RateNoise)}")
        if self.kind in RateNoise and not self.rate:
            raise ValueError(f"kind {self.kind} needs a rate, such as 0.4")
        if self.kind not in RateNoise and self.rate:
            raise ValueError(f"kind {self.kind} takes no rate: it brings its own along")
        for key, kind in self.owners.items():
            if getattr(self, key) is not None and self.kind not in (kind, "none"):
                raise ValueError(f"{key} belongs to kind {kind}, not to {self.kind}")
        if self.kind == "matrix" and self.matrix is None:
            raise ValueError("kind matrix needs matrix, a list of rows that each sum to 1")
        if self.kind == "human" and (self.file is None or self.labels is None):
            raise ValueError(
                "kind human needs file and labels, as in {kind: human, file: CIFAR-10_human.pt, labels: worst}"
            )
        return self

    @property
    def is_noisy(self) -> bool:
        return self.kind != "none"

    @property
    def display_name(self) -> str:
        if self.kind == "human":
            return f"human {self.labels}"
        if self.kind == "matrix":
            return "matrix"
        return f"{self.kind} {100 * self.rate:g} %" if self.rate else "clean"


class ModelConfig(Section):
    """A network by name: a reference network, or timm/<any timm name> with timm's own arguments.

    A reference network's defaults are filled in; timm's names, arguments and defaults only timm knows: they are
    checked when the plan asks for the network's size.
    """

    model_config = ConfigDict(extra="allow")

    name: str

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name.startswith("timm/") else known(name, MODELS, what="network", note="timm's are timm/<name>")

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, options: Any) -> Any:
        if not isinstance(options, dict) or options.get("name") not in list(MODELS):
            return options
        name = options["name"]
        defaults = {key: list(value) if isinstance(value, tuple) else value for key, value in model_args(name).items()}
        for key, value in options.items():
            if key != "name" and key not in defaults:
                error = ValueError(f"unknown argument of {name}{nearest(key, defaults)}")
                details = InitErrorDetails(type="value_error", loc=(key,), input=value, ctx={"error": error})
                raise ValidationError.from_exception_data(cls.__name__, [details])  # for its place: the argument's
        return {**defaults, **options}

    @property
    def args(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def channels_last_pays(self) -> bool:
        """On a CPU 1.1 to 2.5 times as fast for all convolutional networks tried: docs/performance.md."""
        return self.name != "mlp"

    @property
    def display_name(self) -> str:
        return self.name.removeprefix("timm/")


class RandomResizedCrop(Section):
    """A random part of the image, stretched to a square: ImageNet's augmentation (Szegedy et al. 2015)."""

    scale: tuple[float, float] = Field(default=(0.08, 1.0), strict=False, description="the part's share of the area")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), strict=False, description="its width by its height")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} should rise, above 0 and up to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {list(self.ratio)} should rise, above 0")
        return self


def _or_bool(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "boolean"})


class TrainingConfig(Section):
    """The recipe. Everything here can change the numbers, so all of it is part of a trial's identity."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    nesterov: bool = Field(default=False, description="sgd only")
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "step", "multistep", "cosine", "one_cycle"] = "cosine"
    step_epochs: int | None = Field(default=None, ge=1, description="step: lr times gamma after each so many epochs")
    milestones: tuple[int, ...] | None = Field(
        default=None, strict=False, description="multistep: lr times gamma after these epochs"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="step and multistep: the factor")
    warmup_epochs: float = Field(default=0.0, ge=0, description="lr rises linearly from 0 over so many epochs")
    crop_padding: int = Field(default=0, ge=0, description="pad by so many black pixels and crop at random; 0: no crop")
    random_resized_crop: RandomResizedCrop | None = Field(
        default=None,
        description="image_folder: train on random parts of the images; true, or as in {scale: [0.08, 1]}",
        json_schema_extra=_or_bool,
    )
    flip: bool = Field(default=False, description="mirror half of the images, at random")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast; weights stay fp32")
    channels_last: bool | None = Field(
        default=None, description="memory format; changes the last bits. Unsaid: for every network but mlp"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of one trial; changes the last bits")
    deterministic: bool = Field(default=False, description="bit-reproducible on a GPU too, at a price in speed")
    compile: bool | None = Field(
        default=None, description="train through torch.compile's code for the network; changes the last bits"
    )
    cuda_graph: bool | None = Field(
        default=None,
        description="each step as one CUDA graph; erm and mixup; no GPU has proven it yet; changes the last bits",
    )

    @field_validator("compile", "cuda_graph")
    @classmethod
    def _off_goes_without_saying(cls, value: bool | None) -> bool | None:
        return value or None

    @field_validator("random_resized_crop", mode="before")
    @classmethod
    def _defaults_or_none(cls, crop: Any) -> Any:
        return {True: {}, False: None}[crop] if isinstance(crop, bool) else crop

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.random_resized_crop is not None and self.crop_padding:
            raise ValueError("random_resized_crop is a crop already: leave out crop_padding")
        if (self.step_epochs is not None) != (self.schedule == "step"):
            raise ValueError("schedule step needs step_epochs, and no other schedule takes it")
        if (self.milestones is not None) != (self.schedule == "multistep"):
            raise ValueError("schedule multistep needs milestones, and no other schedule takes them")
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must rise")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError("one_cycle has a warm-up of its own: leave out warmup_epochs")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be less than epochs {self.epochs}")
        if self.compile and self.cuda_graph:
            raise ValueError("compile and cuda_graph have not been tried together: give one of them")
        if self.optimizer != "sgd" and self.nesterov:
            raise ValueError(f"nesterov belongs to sgd, not to {self.optimizer}")
        return self


SECTIONS: dict[str, type[Section]] = {
    "dataset": DatasetConfig,
    "label_noise": LabelNoiseConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
}


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint such as "; did you mean 'mnist'?", or the names to choose from when none is near."""
    names = list(names)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    return "; there is " + (", ".join(names) or "none")


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """As `nearest`, but the key of a section without its section, such as epochs, is taken for training.epochs."""
    homes = [f"{name}.{key}" for name, section in SECTIONS.items() if key in section.model_fields]
    return f"; did you mean {' or '.join(map(repr, homes))}?" if homes else nearest(key, keys)


def known(name: str, names: Collection[str], *, what: str, note: str = "") -> str:
    """`name`, if it is one of `names`; else a ValueError that names the nearest."""
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}{nearest(name, names)}{f' ({note})' if note else ''}")
    return name
