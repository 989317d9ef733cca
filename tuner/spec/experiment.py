"""The sections of a spec that define the experiment: data, model, metric and arms.

Each section is a frozen model. It refuses unknown keys.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from trainables.catalog import DATASETS, MODELS, is_dotted
from trainables.variants import VARIANTS
from tuner.errors import did_you_mean
from tuner.spec.messages import InvalidValue, shown
from tuner.spec.ranges import Frozen, Range, ScalarValue, check_value

METRICS = {"val/acc": "maximize", "val/loss": "minimize"}
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DOTTED_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"
NEEDS_PATH = ("parquet", "image_folder")
HAS_COLUMNS = ("parquet", "cifar10")
DIGITS_VALIDATION, VALIDATION = 0.25, 0.1
NET_STRIDE = 32
"""An image size for elu_net must be a multiple of this, because the net halves an image five times."""


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value) or ".." in value or value.endswith("\n"):
        raise InvalidValue(
            f"is {shown(value)}; a name has 1 to 64 letters, digits, '.', '_' or '-', "
            "begins with a letter or digit and does not contain '..'"
        )
    return value


def _one_of(kind: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise InvalidValue(f"no {kind} named {shown(value)}; there are: {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _one_of_or_own(kind: str, value: str, known: list[str]) -> str:
    if not is_dotted(value):
        return _one_of(kind, value, [*known, "module:callable"])
    if not re.fullmatch(DOTTED_PATTERN, value):
        raise InvalidValue(f"is {shown(value)}; write your own code as package.module:callable")
    return value


def _file_name(value: str) -> str:
    if value.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", value):
        raise InvalidValue(f"is {shown(value)}; must be a path relative to data.path, without '..'")
    return value


Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,1000}$")]
FileName = Annotated[Line, AfterValidator(_file_name)]
Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]
DataName = Annotated[str, AfterValidator(lambda value: _one_of_or_own("data set", value, list(DATASETS)))]
ModelName = Annotated[str, AfterValidator(lambda value: _one_of_or_own("model", value, list(MODELS)))]
VariantName = Annotated[str, AfterValidator(lambda value: _one_of("variant", value, list(VARIANTS)))]
MetricName = Annotated[str, AfterValidator(lambda value: _one_of("metric", value, list(METRICS)))]
Images = Annotated[int, Field(ge=1, le=10**9)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class DataSpec(Frozen):
    """The images, and their split into training, validation and test."""

    name: DataName = Field(description="a built-in data set, or your own as module:callable")
    path: Line | None = Field(
        default=None,
        description="file or folder of the data, relative to this file; --data and TUNER_DATA replace it; cifar10 is "
        "downloaded to it",
    )
    size: int | None = Field(
        default=None, ge=8, le=1024, description="images are resized to this side length, in pixels"
    )
    image_column: Line | None = Field(
        default=None, description="column of the Parquet files with the images; default: img or image"
    )
    label_column: Line | None = Field(
        default=None, description="column of the Parquet files with the labels; default: label or labels"
    )
    sha256: dict[FileName, Sha256] | None = Field(
        default=None, description="file name relative to path -> expected SHA-256 checksum in hexadecimal digits"
    )
    train_images: Images | None = Field(
        default=None, description="number of images in a stratified subset for training; default: all"
    )
    val_images: Images | None = Field(default=None, description="the same for the validation images")
    test_images: Images | None = Field(default=None, description="the same for the test images")
    validation: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the training images held out for validation, if the data has no validation images of its "
        "own; default: 0.1 (digits: 0.25)",
    )
    augment: Literal["none", "flip_crop"] = Field(
        default="none", description="flip_crop randomly mirrors and shifts the training images"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name in NEEDS_PATH and self.path is None:
            raise InvalidValue(
                f"is missing; {self.name} needs a folder: set it here, with --data or in TUNER_DATA", "path"
            )
        if self.name == "digits" and self.path is not None:
            raise InvalidValue("is not used, because the digits come with scikit-learn; remove the path", "path")
        if self.name == "digits" and self.augment != "none":
            raise InvalidValue("is 'flip_crop', but a mirrored digit no longer fits its label; must be none", "augment")
        if is_dotted(self.name) and self.size is not None:
            raise InvalidValue("is not used, because your own data set is not resized; remove the size", "size")
        for key in ("image_column", "label_column"):
            if self.name not in HAS_COLUMNS and getattr(self, key) is not None:
                raise InvalidValue(f"is for Parquet files only; {shown(self.name)} has no columns", key)
        if self.sha256 and self.path is None:
            raise InvalidValue("checksums are given, but no path; add data.path, or remove the checksums", "sha256")
        return self

    @property
    def validation_share(self) -> float:
        """Share of the training images held out for validation."""
        if self.validation is not None:
            return self.validation
        return DIGITS_VALIDATION if self.name == "digits" else VALIDATION


class ModelSpec(Frozen):
    """The neural network."""

    name: ModelName = Field(description="elu_net, or your own model as module:callable")
    width: float = Field(default=1.0, gt=0, le=16, description="factor for the number of channels of elu_net")
    setup: Literal["article", "sound"] = Field(
        default="sound",
        description="article: elu_net as published in the article; sound: with linear logits and He initialisation",
    )
    options: dict[Line, ScalarValue] = Field(default_factory=dict, description="keyword arguments of your own model")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.options and not is_dotted(self.name):
            raise InvalidValue(f"{self.name} has no options; only your own model can have them", "options")
        for key in ("width", "setup"):
            if is_dotted(self.name) and key in self.model_fields_set and getattr(self, key) != _default(self, key):
                raise InvalidValue(
                    f"is for elu_net only; put the arguments of {shown(self.name)} under model.options", key
                )
        return self


class MetricSpec(Frozen):
    """The metric that chooses the best settings."""

    name: MetricName = Field(default="val/acc", description="validation accuracy or loss")
    goal: Literal["maximize", "minimize"] = Field(
        default="maximize",
        description="maximize for val/acc, minimize for val/loss; default: the one that fits the metric",
    )

    @property
    def key(self) -> str:
        """The name of the metric in the report of an epoch: ``val_acc`` or ``val_loss``."""
        return self.name.replace("/", "_")

    @model_validator(mode="before")
    @classmethod
    def _goal_of_name(cls, value: Any) -> Any:
        name = value.get("name", "val/acc") if isinstance(value, dict) else None
        if isinstance(name, str) and "goal" not in value and name in METRICS:
            return {**value, "goal": METRICS[name]}
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.goal != METRICS[self.name]:
            raise InvalidValue(
                f"is {self.goal!r}, but {self.name} is {METRICS[self.name]}d; must be {METRICS[self.name]}",
                "goal",
            )
        return self


class ArmSpec(Frozen):
    """One optimizer variant with its search space in this job."""

    variant: VariantName = Field(description="the optimizer variant")
    name: Name = Field(default="", description="the name of the arm; default: the name of the variant")
    parameters: dict[str, Range] = Field(
        default_factory=dict, description="knob -> range that this arm searches instead of the range of the variant"
    )
    fixed: dict[str, ScalarValue] = Field(
        default_factory=dict, description="knob -> fixed value; the arm does not search the knob"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_of_variant(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" not in value and value.get("variant") in list(VARIANTS):
            return {**value, "name": value["variant"]}
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        variant = VARIANTS[self.variant]
        for section, knobs in (("parameters", self.parameters), ("fixed", self.fixed)):
            for knob in knobs:
                if knob in variant.fixed:
                    value = shown(variant.fixed[knob])
                    raise InvalidValue(
                        f"defines {self.variant} ({knob}: {value}) and cannot change; choose another variant",
                        section,
                        knob,
                    )
        for knob, fixed in self.fixed.items():
            if knob in self.parameters:
                raise InvalidValue("is also under 'parameters' of this arm; keep one of the two", "fixed", knob)
            try:
                check_value(knob, fixed)
            except InvalidValue as wrong:
                raise wrong.under("fixed", knob) from None
        for knob, range_ in self.parameters.items():
            try:
                range_.domain(knob, variant.space.get(knob))
            except InvalidValue as wrong:
                raise wrong.under("parameters", knob) from None
        if not self.parameters and set(variant.space) <= set(self.fixed):
            raise InvalidValue("every knob of the arm is fixed; leave at least one knob to search", "fixed")
        return self


class FamilySpec(Frozen):
    """Arms that are compared with one baseline, as one question of the job."""

    baseline: Name = Field(description="the arm that the arms of the family are compared with")
    arms: tuple[Name, ...] = Field(min_length=1, max_length=100, description="the arms of the family")
    alpha: float = Field(
        gt=0, le=0.05, description="the family's share of the 5 % chance of any false 'beats' or 'loses'"
    )


def _default(model: Frozen, key: str) -> Any:
    return type(model).model_fields[key].default
